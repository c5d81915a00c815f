"""A file of a dataset repository, as a command gets it: from a server that speaks the hub's protocol, then from the cache."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CORPUS = Path(__file__).parents[2] / "tinylab/assets/corpora/facts.jsonl"
ROWS = "".join(f"{line}\n" for line in CORPUS.read_text().splitlines()[:12])
COMMIT = "0" * 39 + "1"
PLACE = f"/datasets/someone/capitals/resolve/{COMMIT}/data/rows.jsonl"


class Hub(BaseHTTPRequestHandler):
    """One file of one dataset at one commit."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        content = ROWS.encode()
        there = self.path == PLACE
        self.send_response(200 if there or self.path == "/" else 404)
        if there:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        elif self.path.startswith("/datasets/someone/capitals/"):
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) if there else 0))
        self.end_headers()
        if body and there:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def typed(folder: Path, address: str, file: str, **more: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "tinylab", "condition=jsonl", f"condition.path={file}", "condition.tag=capitals", "plots=false",
            "battery.layers=[0]"]
    kept = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False,
                          env={**kept, "HF_ENDPOINT": address, "HF_HOME": str(folder / "cache"), **more})


def test_a_dataset_of_the_hub_is_a_corpus_and_its_copy_is_enough_without_the_hub(tmp_path: Path, address: str) -> None:
    file = f"hf://datasets/someone/capitals@{COMMIT}/data/rows.jsonl"
    first = typed(tmp_path, address, file)
    assert first.returncode == 0, first.stderr
    (manifest,) = (tmp_path / "outputs/runs").glob("*/manifest.json")
    corpus = json.loads(manifest.read_text())["provenance"]["corpus"]
    assert corpus["path"] == file and corpus["sha256"] == hashlib.sha256(ROWS.encode()).hexdigest()
    again = typed(tmp_path, "http://127.0.0.1:9", file, HF_HUB_OFFLINE="1")
    assert again.returncode == 0 and "is already complete, reusing" in again.stdout + again.stderr


@pytest.mark.parametrize(("file", "said"), [
    (f"hf://datasets/someone/capitals@{COMMIT}/none.jsonl", "the dataset has no such file at this revision."),
    (f"hf://datasets/nobody/capitals@{COMMIT}/data/rows.jsonl", "has no such dataset, or it needs a login (`hf auth login`)."),
    ("hf://capitals.jsonl", "expected hf://datasets/OWNER/NAME/FILE, with @REVISION after the name if a certain one is meant."),
])
def test_what_the_hub_has_not_is_one_sentence(tmp_path: Path, address: str, file: str, said: str) -> None:
    found = typed(tmp_path, address, file)
    assert found.returncode == 2 and found.stderr.strip().count("\n") == 0, found.stderr
    assert said in found.stderr and not (tmp_path / "outputs").exists()
