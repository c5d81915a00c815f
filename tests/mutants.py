"""Mutation testing: are the tests able to notice a wrong result? (make mutants)

`mutants.toml` declares programs that run and are wrong: a place in the source, what stands there, what is put in its
place, and the tests that have to notice. Each is made in a copy of the tree, alone. It counts as killed where one of its
tests fails by an assertion; a program that cannot be imported, that crashes or that hangs is no mutant but a broken one.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DECLARED = Path(__file__).with_suffix(".toml")
TIMEOUT = 1200.0
"""Seconds for the tests of one mutant; the slowest needs ten on a quiet core, and no mutant is meant to hang."""
LEAVING = 10.0
"""Seconds to leave after the answer: who is killed leaves semaphores behind."""
PRELOADED = ["torch", "transformers.modeling_utils", "pandas", "pyarrow.parquet", "hydra._internal.utils", "hypothesis", "pytest",
             "_pytest.assertion.rewrite", "scipy.stats", "statsmodels.stats.multitest",
             "statsmodels.stats.proportion", "matplotlib.figure", "matplotlib.backends.backend_agg", "pydantic", "rich.table",
             "psutil", "filelock", "jaxtyping", "safetensors.torch", "tqdm", "yaml",
             *(f"transformers.models.{name}.modeling_{name}" for name in ("gpt2", "llama", "mistral", "gemma3"))]
"""Imported once, by the process that all others are forks of; nothing of tinylab."""
KILLED, SURVIVED, BROKEN = "killed", "survived", "broken"


@dataclass(frozen=True)
class Mutant:
    """A wrong program: one place of one file, and who has to notice."""

    name: str
    file: str
    wrong: str  # one sentence
    tests: tuple[str, ...]  # ids within tests/
    old: str
    new: str

    def make(self, folder: Path) -> None:
        """Make it in a copy of the tree.

        Raises:
            ValueError: what it replaces is not there exactly once.
        """
        file = folder / self.file
        text = file.read_text(encoding="utf-8")
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(f"{self.name}: its old text is {text.count(self.old)} times in {self.file}, expected once; "
                             "bring tests/mutants.toml up to date.")
        file.write_text(text.replace(self.old, self.new), encoding="utf-8")
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink()

    @property
    def module(self) -> str:
        """What to import."""
        return self.file.removesuffix(".py").replace("/", ".")


@dataclass(frozen=True)
class Outcome:
    """What came of it, and the test that decided or the reason."""

    verdict: str
    why: str
    seconds: float = 0.0  # of CPU


def declared(file: Path = DECLARED) -> list[Mutant]:
    """The declared mutants, in the file's order."""
    entries = tomllib.loads(file.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


class Watch:
    """A pytest plugin that keeps what failed, and how."""

    def __init__(self) -> None:
        self.passed, self.failures = 0, list[Outcome]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.passed += report.when == "call" and report.passed

    def pytest_exception_interact(self, node: Any, call: Any, report: Any) -> None:
        error = call.excinfo.value
        told = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        if report.when == "call" and self.asserts(error):
            self.failures.append(Outcome(KILLED, node.nodeid.removeprefix("tests/")))
        else:
            self.failures.append(Outcome(BROKEN, f"{node.nodeid}, {report.when}: {told}"))

    def asserts(self, error: BaseException) -> bool:
        """Whether an error says that a number or a claim was wrong (hypothesis may give several at once)."""
        if isinstance(error, BaseExceptionGroup):
            return any(self.asserts(part) for part in error.exceptions)
        return isinstance(error, AssertionError) or type(error).__name__ == "Failed"  # by pytest.raises


def run_tests(folder: Path, modules: Sequence[str], tests: Sequence[str], answer: Connection) -> None:
    """In a process of its own: import the mutated modules, run tests up to the first that fails, and say what came of it."""
    gc.freeze()  # else pytest walks through all that was preloaded when it looks for leaks
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(folder / "tests")]
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        for module in modules:
            file = importlib.import_module(module).__file__
            assert file is not None and Path(file).is_relative_to(folder), file
    except Exception as error:
        answer.send(Outcome(BROKEN, f"cannot be imported: {error!r}"))
        return
    import pytest

    watch = Watch()
    options = ["-x", "-q", "-m", "", "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin", "--hypothesis-seed=0"]
    code = pytest.main([*options, *(f"tests/{test}" for test in tests)], plugins=[watch])
    if watch.failures:
        found = watch.failures[0]
    elif code == pytest.ExitCode.OK and watch.passed:
        found = Outcome(SURVIVED, f"{watch.passed} tests passed")
    else:
        found = Outcome(BROKEN, f"pytest ended with {code!r}, {watch.passed} tests passed")
    answer.send(replace(found, seconds=time.process_time()))


def in_a_process(folder: Path, modules: Sequence[str], tests: Sequence[str]) -> Outcome:
    """Run tests of a copy of the tree in a fork of the warm process."""
    context = get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run_tests, args=(folder, modules, tests, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(TIMEOUT) else Outcome(BROKEN, f"no end after {TIMEOUT:g} s")
    except EOFError:
        return Outcome(BROKEN, "the process died")
    finally:
        process.join(LEAVING)
        process.kill()
        process.join()


def try_out(clean: Path, mutant: Mutant) -> Outcome:
    """Make a mutant in a copy of its own and run its tests."""
    folder = clean.with_name(mutant.name)
    shutil.copytree(clean, folder)
    mutant.make(folder)
    outcome = in_a_process(folder, [mutant.module], mutant.tests)
    print(f"{outcome.verdict:9}{outcome.seconds:4.1f} s  {mutant.name}  ({outcome.why})", flush=True)
    shutil.rmtree(folder)
    return outcome


def without_any(clean: Path, mutants: Sequence[Mutant], pool: ThreadPoolExecutor) -> None:
    """Check that all tests pass in the copy as it is, a process per core.

    Raises:
        SystemExit: one fails.
    """
    files = sorted({test.partition("::")[0] for mutant in mutants for test in mutant.tests})
    tests = {file: sorted({t for m in mutants for t in m.tests if t.startswith(file)}) for file in files}
    modules = sorted({mutant.module for mutant in mutants})
    for file, outcome in zip(files, pool.map(lambda file: in_a_process(clean, modules, tests[file]), files), strict=True):
        if outcome.verdict != SURVIVED:
            raise SystemExit(f"{file} without any mutant: {outcome.why}\n{(clean / 'log.txt').read_text(encoding='utf-8')}")


def table(mutants: Sequence[Mutant], outcomes: Sequence[Outcome]) -> str:
    """The table of docs/validation.md."""
    killed = sum(outcome.verdict == KILLED for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    lines = [f"{killed} of {len(mutants)} killed, in {seconds:.0f} seconds of one CPU core.", "",
             "| mutant | in | what is wrong | |", "|---|---|---|---|"]
    for mutant, outcome in zip(mutants, outcomes, strict=True):
        noticed = f"killed by `{outcome.why}`" if outcome.verdict == KILLED else f"**{outcome.verdict}**"
        lines.append(f"| {mutant.name} | `{mutant.file.removeprefix('tinylab/')}` | {mutant.wrong} | {noticed} |")
    return "\n".join(lines)


def main() -> int:
    """Try the mutants out; 1 if any is not killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write-docs", action="store_true", help="write the table in docs/validation.md")
    parser.add_argument("--only", default="", help="those whose name this regular expression finds")
    options = parser.parse_args()
    mutants = [mutant for mutant in declared() if re.search(options.only, mutant.name)]
    get_context("forkserver").set_forkserver_preload(PRELOADED)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        clean = Path(folder).resolve() / "clean"
        shutil.copytree(ROOT, clean, ignore=shutil.ignore_patterns(".*", "__pycache__", "outputs"))
        without_any(clean, mutants, pool)
        outcomes = list(pool.map(partial(try_out, clean), mutants))
    seconds = time.monotonic() - began
    killed = sum(outcome.verdict == KILLED for outcome in outcomes)
    for mutant, outcome in zip(mutants, outcomes, strict=True):
        if outcome.verdict != KILLED:
            print(f"{mutant.name} {outcome.verdict}: {mutant.wrong} ({outcome.why})")
    print(f"{killed} of {len(mutants)} mutants killed, {seconds:.0f} s")
    if options.write_docs and not options.only:
        from validation import put

        put("mutants", table(mutants, outcomes))
    return int(killed < len(mutants))


if __name__ == "__main__":
    sys.exit(main())
