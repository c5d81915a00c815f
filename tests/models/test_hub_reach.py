"""A hub that cannot be reached is one sentence within seconds; one that answers slowly, or a mirror, is used as ever."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tinylab.models import hub
from typed import type_in_shell


@contextmanager
def silent() -> Iterator[str]:
    """The address of a server that accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def answering(after: float) -> Iterator[str]:
    """The address of a server that has nothing, and says so after some seconds."""

    class Nothing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            time.sleep(after)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_an_answer_of_any_kind_counts_and_silence_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_ETAG_TIMEOUT", raising=False)
    assert hub.patience() == hub.SECONDS <= 3
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "30")
    assert hub.patience() == 30
    with answering(0.5) as address:
        assert hub._answers(address, 5.0)
    with silent() as address:
        began = time.monotonic()
        assert not hub._answers(address, 0.5)
        assert time.monotonic() - began < 2
    assert not hub._answers("http://127.0.0.1:9", 5.0)


@pytest.mark.parametrize("kind", ["silent", "refuses"])
def test_a_hub_model_without_a_hub_is_one_sentence_within_seconds(kind: str, tmp_path: Path) -> None:
    with silent() as address:
        endpoint = address if kind == "silent" else "http://127.0.0.1:9"
        began = time.monotonic()
        done = type_in_shell(tmp_path, "-m", "tinylab", "model=gpt2", HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "hf"),
                             HF_HUB_OFFLINE="0", NO_PROXY="127.0.0.1")
        took = time.monotonic() - began
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and f"the hub cannot be reached ({endpoint})" in done.stderr
    assert "HF_HUB_ETAG_TIMEOUT=30" in done.stderr
    assert took < 15  # under five seconds alone; this machine may be busy
    assert not (tmp_path / "outputs").exists()
