"""Hub models load through the hub's own code: from a cache laid out as the hub library lays it out, offline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import only

TINY = Path(__file__).parent.parent.parent / "tinylab/assets/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_hub_model_in_the_cache_runs_offline_and_its_commit_is_recorded(tmp_path: Path) -> None:
    repository = tmp_path / "cache/hub/models--someone--small"
    shutil.copytree(TINY, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs/v1").write_text(COMMIT)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    overrides = ["model=hf", "model.name=someone/small", "model.revision=v1", "condition.n_examples=4"]
    command = [sys.executable, "-m", "tinylab", *overrides]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    manifest = json.loads(only(tmp_path, "outputs/runs/*/manifest.json").read_text())
    assert manifest["provenance"]["model"] == {"name": "someone/small", "revision": COMMIT, "digest": None}
