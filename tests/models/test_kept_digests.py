"""Weights' digests are kept: of files that lie as they were; what changed is read, and the kept one can be checked."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from conftest import Command
from tinylab.config.groups import ModelConfig
from tinylab.errors import ConfigError, ModelError
from tinylab.models import weights
from tinylab.models.weights import identify
from tinylab.paths import locate

OTHER = "0" * 64


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; what is kept in this process is forgotten."""
    monkeypatch.setenv("TINYLAB_CACHE", str(tmp_path / "cache"))
    weights._of_content.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return shutil.copytree(locate("pkg://tinylab/assets/tiny"), tmp_path / "model")


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once: nobody can put a file's time of change back."""
    monkeypatch.setattr(weights, "SETTLED", -(10**18))


def digest(model: Path, *, verify: bool = False) -> str | None:
    return identify(ModelConfig(path=str(model), verify_digest=verify)).digest


def forge(cache: Path) -> None:
    """Put another digest in the place of the only one that is kept."""
    (file,) = cache.rglob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "value": OTHER}), encoding="utf-8")


def test_a_digest_that_is_kept_is_not_computed_again(model: Path, cache: Path, settled: None) -> None:
    before = digest(model)
    (file,) = cache.rglob("*.json")
    assert json.loads(file.read_text(encoding="utf-8"))["key"]["file"] == str(model / "model.safetensors")
    weights._of_content.cache_clear()
    assert digest(model) == digest(model, verify=True) == before
    forge(cache)
    assert digest(model) != before  # so the file was not read


def test_a_kept_digest_that_is_wrong_is_found_when_it_is_asked_for(
    model: Path, cache: Path, settled: None, tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    digest(model)
    forge(cache)
    with pytest.raises(ModelError, match=r"model.safetensors: sha256 is .*…, but 000000000000… was kept"):
        digest(model, verify=True)
    assert tinylab("model=local", f"model.path={model}", "condition.n_examples=1", "model.verify_digest=true") == 2
    assert "clear tinylab's cache" in capsys.readouterr().err
    assert not list(Path.cwd().rglob("manifest.json"))


def test_a_yaml_of_ones_own_asks_for_it_too(
    model: Path, cache: Path, settled: None, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest(model)
    forge(cache)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text(f"path: {model}\nverify_digest: true\n", encoding="utf-8")
    assert tinylab("--config-dir", str(tmp_path / "conf"), "model=mine", "condition.n_examples=1") == 2
    assert "clear tinylab's cache" in capsys.readouterr().err


def test_a_kept_digest_that_is_none_is_not_kept(
    model: Path, cache: Path, settled: None, caplog: pytest.LogCaptureFixture
) -> None:
    before = digest(model)
    (file,) = cache.rglob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "value": 7}), encoding="utf-8")
    weights._of_content.cache_clear()
    assert digest(model, verify=True) == before
    assert "there is nothing to compare with" in caplog.text


def test_a_hub_models_commit_has_no_digest_to_verify() -> None:
    with pytest.raises(ConfigError, match="model.name=someone/model is identified by its commit"):
        ModelConfig(name="someone/model", verify_digest=True)


@pytest.mark.parametrize("old_times", [False, True])
def test_a_file_that_changed_is_read(model: Path, settled: None, old_times: bool) -> None:
    """Whoever puts back the time of the last change leaves a trace in that of the inode's."""
    file, before = model / "model.safetensors", digest(model)
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    if old_times:
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest(model) != before


def test_the_digest_of_a_file_that_changed_just_now_is_not_kept(model: Path, cache: Path) -> None:
    """It could change once more within a tick of the file system's clock."""
    (model / "model.safetensors").touch()
    digest(model)
    assert not list(cache.rglob("*.json"))


def test_checking_a_digest_is_in_no_identity(tinylab: Command) -> None:
    assert tinylab("condition.n_examples=1", "battery.layers=[0]") == 0
    assert tinylab("condition.n_examples=1", "battery.layers=[0]", "model.verify_digest=true") == 0
    assert len(list(Path.cwd().rglob("manifest.json"))) == 1
