"""What is read of a model's folder: safetensors inside it, JSON objects, no code, and of a hub model the commit that is named."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from conftest import Command
from tinylab.config.groups import ModelConfig
from tinylab.errors import ConfigError, ModelError
from tinylab.models.loading import load_model, skeleton
from tinylab.models.weights import identify
from tinylab.paths import locate

INDEX = "model.safetensors.index.json"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded model in a folder of one's own."""
    shutil.copytree(locate("pkg://tinylab/assets/tiny"), tmp_path / "own")
    return tmp_path / "own"


def load(folder: Path) -> Any:
    return load_model(ModelConfig(path=str(folder)), "cpu")


def config(folder: Path, name: str = "config.json", **changes: Any) -> None:
    """Change one of a folder's JSON files."""
    content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps({**content, **changes}))


def sharded(folder: Path) -> dict[str, str]:
    """Cut the weights into two files with an index; returns its map."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{number % 2 + 1}-of-00002.safetensors" for number, name in enumerate(sorted(weights))}
    for file in sorted(set(files.values())):
        save_file({name: weights[name] for name in weights if files[name] == file}, folder / file, {"format": "pt"})
    config(folder, INDEX, metadata={}, weight_map=files)
    return files


def elsewhere(folder: Path, name: str) -> None:
    """Move a file out of the folder, and leave a link to it."""
    (folder / name).rename(folder.parent / "moved")
    (folder / name).symlink_to(folder.parent / "moved")


def nowhere(folder: Path, name: str) -> None:
    """Leave a link that leads nowhere in place of a file."""
    (folder / name).unlink()
    (folder / name).symlink_to(folder.parent / "gone")


def pickled(folder: Path) -> None:
    files = sharded(folder)
    torch.save({}, folder / "weights.bin")
    config(folder, INDEX, weight_map={**files, "lm_head.weight": "weights.bin"})


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an adapter": (lambda at: config(at, "adapter_config.json", peft_type="LORA"), "contains an adapter .*merge_and_unload"),
    "an adapter alone": (lambda at: ((at / "config.json").unlink(), config(at, "adapter_config.json")), "contains an adapter"),
    "an index that names a pickle": (pickled, "names 'weights.bin' as a file of weights"),
    "an index that leaves the folder": (
        lambda at: config(at, INDEX, weight_map={name: "../own/" + file for name, file in sharded(at).items()}),
        r"names '\.\./own/model-0000.-of-00002.safetensors' as a file of weights"),
    "an index that names what is not there": (
        lambda at: config(at, INDEX, weight_map={**sharded(at), "lm_head.weight": "more.safetensors"}),
        "lists more.safetensors, which is not in the folder"),
    "an index that is none": (lambda at: (sharded(at), config(at, INDEX, weight_map=[1])), "has no weight_map"),
    "other files of weights": (lambda at: config(at, transformers_weights="others.safetensors"), "names other weights"),
    "a link that leaves the folder": (lambda at: elsewhere(at, "model.safetensors"), "a link that leads out of the folder"),
    "a config that leaves the folder": (lambda at: elsewhere(at, "config.json"), "config.json is a link that leads out"),
    "a broken link": (lambda at: nowhere(at, "model.safetensors"), "model.safetensors is a link that leads nowhere"),
    "a broken tokenizer": (lambda at: nowhere(at, "tokenizer.json"), "tokenizer.json is a link that leads nowhere"),
    "code for its config": (
        lambda at: config(at, model_type="myown", auto_map={"AutoConfig": "code.Config"}),
        "its own code .* the model type 'myown', which is never run"),
    "code for its tokenizer": (
        lambda at: config(at, "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["code.Own", None]}),
        "its own code .* the tokenizer 'Own', which is never run"),
    "a config that is no object": (lambda at: (at / "config.json").write_text("[1]"), "is not a JSON object, got a list"),
    "a config that is not JSON": (lambda at: (at / "config.json").write_text("{"), r"config.json is not JSON \(JSONDecodeError"),
    "a config that is not text": (lambda at: (at / "config.json").write_bytes(b"\xff\xfe"), "config.json is not JSON"),
    "a bottomless config": (lambda at: (at / "config.json").write_text("[" * 100_000), "config.json is not JSON"),
    "a tokenizer config that is a list": (
        lambda at: (at / "tokenizer_config.json").write_text("[]"), "tokenizer_config.json is not a JSON object, got a list"),
    "a length that is no number": (
        lambda at: config(at, "tokenizer_config.json", model_max_length={}), "cannot be loaded .*not supported between"),
    "a tokenizer that is none": (lambda at: (at / "tokenizer.json").write_text("[]"), "cannot be loaded"),
    "layers that are no number": (lambda at: config(at, n_layer="four"), "cannot be loaded as a causal language model"),
    "a model type that is a list": (lambda at: config(at, model_type=["gpt2"]), "cannot be loaded"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_is_no_plain_model_is_refused_in_one_sentence(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, told = REFUSED[case]
    spoil(folder)
    (folder / "code.py").write_text(f"open({str(folder / 'RAN')!r}, 'w')\nclass Own: pass\nConfig = Own\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    with pytest.raises(ModelError, match=told) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "RAN").exists()


def test_a_refused_folder_is_exit_code_2_and_leaves_nothing(
    folder: Path, tinylab: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere(folder, "model.safetensors")
    assert tinylab("model=local", "model.path=own", "condition.n_examples=2", "device=cpu") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(errors) == 1 and "model.safetensors is a link that leads nowhere" in errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_weights_in_several_files_are_those_of_one_and_the_index_is_in_the_identity(folder: Path) -> None:
    whole = load(folder).model.state_dict()
    files = sharded(folder)
    parts = load(folder).model.state_dict()
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    before = identify(ModelConfig(path=str(folder)))
    config(folder, INDEX, weight_map=dict(list(files.items())[:3]))
    assert identify(ModelConfig(path=str(folder))) != before


def test_the_digest_of_a_folder_without_an_index_is_what_it_was() -> None:
    assert identify(ModelConfig(path="pkg://tinylab/assets/planted/ledger")).digest == (
        "3eb1411309ab20ee0012e66fec13cdaaeda1f625e9933cfefe8c7f236d534e37")


def test_a_snapshot_of_the_hubs_cache_is_a_folder_like_any_other(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = (tmp_path / "models--me--own" / name for name in (f"snapshots/{COMMIT}", "blobs"))
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(folder.iterdir()):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(blobs / str(number))
    assert load(snapshot).n_layers == 4


@pytest.mark.parametrize("marked", [True, False], ids=["the hub's store", "another folder"])
def test_the_hubs_cache_may_share_its_blobs(marked: bool, folder: Path, tmp_path: Path) -> None:
    """huggingface_hub 2 moves what it downloads into one store, and leaves links to it among the model's blobs."""
    cache = tmp_path / "hub"
    snapshot, blobs = (cache / "models--me--own" / name for name in (f"snapshots/{COMMIT}", "blobs"))
    store = cache / "blobs/ab"
    for made in (snapshot, blobs, store):
        made.mkdir(parents=True)
    if marked:
        (cache / "blobs/.huggingface-shared-blobs").write_text("1\n")
    for number, file in enumerate(folder.iterdir()):
        shutil.copy(file, store / f"ab{number}")
        (blobs / str(number)).symlink_to(f"../../blobs/ab/ab{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    if marked:
        assert load(snapshot).n_layers == 4
    else:
        with pytest.raises(ModelError, match="leads out of the folder"):
            load(snapshot)


@pytest.mark.parametrize(("where", "key"), [
    ("config.json", "attn_implementation"), ("config.json", "_attn_implementation"), ("config.json", "experts_implementation"),
])
def test_kernels_that_a_folder_asks_for_are_never_used(where: str, key: str, folder: Path) -> None:
    config(folder, where, **{key: "someone/kernel"})
    for model in (load(folder).model, skeleton(ModelConfig(path=str(folder))).model):
        assert model.config._attn_implementation == "sdpa"
        assert "/" not in str(model.config._experts_implementation)


def test_attention_of_torchs_own_may_be_chosen(folder: Path) -> None:
    config(folder, attn_implementation="eager")
    plain = AutoModelForCausalLM.from_pretrained(folder).config._attn_implementation  # old versions let no folder choose
    assert load(folder).model.config._attn_implementation == plain


def test_the_kind_of_output_is_not_the_folders_to_say(folder: Path) -> None:
    config(folder, return_dict=False)
    assert load(folder).model(torch.tensor([[1, 2]])).logits.shape == (1, 2, 2048)


def test_a_folder_called_like_a_hub_id_is_not_the_hubs_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache/models--me--tiny"
    shutil.copytree(folder, cache / "snapshots" / COMMIT)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(COMMIT)
    other = {name: 2 * tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    (tmp_path / "me").mkdir()
    folder.rename(tmp_path / "me/tiny")
    save_file(other, tmp_path / "me/tiny/model.safetensors", {"format": "pt"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub = load_model(ModelConfig(name="me/tiny"), "cpu")
    assert (hub.identity.name, hub.identity.revision) == ("me/tiny", COMMIT)
    expected = load_file(cache / "snapshots" / COMMIT / "model.safetensors")
    found = hub.model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    (cache / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="model.name=me/tiny: .*the model is not in the local cache"):
        load_model(ModelConfig(name="me/tiny"), "cpu")


def test_a_folder_has_no_revision() -> None:
    with pytest.raises(ConfigError, match="model.revision=v9 with model.path=own: a folder has no revisions"):
        ModelConfig(path="own", revision="v9")


@pytest.mark.parametrize("given", [
    ("model=gpt2", "model.path=own"), ("model=tiny", "model.name=me/tiny"),
    ("model=local", "model.path=own", "model.revision=v9"),
])
def test_a_model_named_twice_is_one_sentence(
    given: tuple[str, ...], tinylab: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tinylab(*given) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(errors) == 1 and "model." in errors[0] and "Traceback" not in errors[0]
