"""Commands as a user types them, in forks of a process that has imported what every command waits for.

Starting Python and importing torch, transformers, pandas and scipy takes some six seconds of a core, the command itself one. Each
command has a process, a folder, an environment, streams and an exit code of its own; only the imports are not its own. What is
read at import (`COLD`), and what is a claim about starting itself, needs a fresh process: `typed.type_in_shell(…, fresh=True)`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from types import ModuleType

PRELOADED = (
    "torch", "torch.utils.flop_counter", "transformers.modeling_utils", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.gpt2.modeling_gpt2", "safetensors.torch", "pandas",
    "pyarrow.parquet", "scipy.stats", "statsmodels.stats.multitest", "statsmodels.stats.proportion", "hydra._internal.utils",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "tinylab.app", "tinylab.experiment", "tinylab.engine.choose",
    "tinylab.report.observers", "tinylab.sweep.aggregate",
)
COLD = ("HF_", "HUGGINGFACE", "OMP_", "MKL_", "OPENBLAS", "PYTHON", "LANG", "LC_", "TORCH_", "MPL", "CUDA", "LD_", "TRANSFORMERS")
"""Variables that are read at import: where one of them differs, a command needs a fresh process."""
STREAMS = 3


class Warm:
    """The process that is forked; it ends with the one that has made it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start it; it imports while the first command waits."""
        ours, theirs = socket.socketpair()
        self.environment, self.owner = dict(environment), os.getpid()
        with theirs:
            program = [sys.executable, __file__, str(theirs.fileno())]
            self.process = subprocess.Popen(program, pass_fds=[theirs.fileno()], cwd="/", env=self.environment)
        self.connection = Connection(ours.detach())

    def serves(self, environment: Mapping[str, str]) -> bool:
        """Whether a command with such variables would find at import what this process has found."""
        changed = {key for key, _ in set(environment.items()) ^ set(self.environment.items())}
        return self.owner == os.getpid() and self.process.poll() is None and not any(key.startswith(COLD) for key in changed)

    def run(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m MODULE …` or `python -c CODE …`.

        Raises:
            subprocess.TimeoutExpired: it did not end in time, and was killed.
        """
        with open(os.devnull, "rb") as nothing, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            self.connection.send((list(words), str(folder.resolve()), dict(environment)))
            for stream in (nothing, out, err):
                send_handle(self.connection, stream.fileno(), self.process.pid)
            pid = self.connection.recv()
            if not self.connection.poll(timeout):
                os.kill(pid, signal.SIGKILL)
                self.connection.recv()
                raise subprocess.TimeoutExpired(list(words), timeout)
            code = self.connection.recv()
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(list(words), code, _text(out.read()), _text(err.read()))

    def end(self) -> None:
        """Let it end."""
        self.connection.close()
        self.process.wait()


def _text(written: bytes) -> str:
    return written.decode().replace("\r\n", "\n")


def _serve(connection: Connection) -> None:
    """Fork for each command that comes in; returns in the forks, which then are that command."""
    while True:
        try:
            words, folder, environment = connection.recv()
        except EOFError:
            sys.exit()
        streams = [recv_handle(connection) for _ in range(STREAMS)]
        pid = os.fork()
        if pid == 0:
            connection.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            sys.argv = words
            return
        for stream in streams:
            os.close(stream)
        connection.send(pid)
        connection.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _be_the_command() -> None:
    kind, sys.argv = sys.argv[0], sys.argv[1:]
    if kind == "-m":
        sys.path[0] = os.getcwd()
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        code, sys.path[0], sys.argv[0] = sys.argv[0], "", "-c"
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(main))


def main() -> None:
    """Import, serve, and be the command."""
    connection = Connection(int(sys.argv[1]))
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy every page of what was imported
    _serve(connection)
    code: object = 0
    try:
        _be_the_command()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int):
        if code is not None:
            print(code, file=sys.stderr)
        code = int(code is not None)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)  # as Python ends, but for taking apart what was imported


if __name__ == "__main__":
    main()
