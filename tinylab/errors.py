"""Every error that tinylab raises on purpose, as one tree.

```
TinylabError            exit 1   something failed inside a run
├── UserError           exit 2   the user can fix it; the message says how
│   ├── ConfigError              an option, a key or a value
│   ├── CorpusError              a corpus file or one of its rows
│   ├── ModelError               a model or tokenizer that cannot be loaded or used
│   ├── DeviceError              a device or dtype that is not there
│   └── OutputError              an output folder or a result on disk
├── EngineUnsupported   exit 2   an engine cannot run this model (`engine=auto` falls back)
├── RunMissing          exit 1   a sweep has no finished run of a job; in its manifest, never raised
│   ├── NotRun                   the job left nothing: it never started
│   ├── Interrupted              its process ended before the run did
│   └── StillRunning             another process computes it right now
├── WorkerDied          exit 1   the processes that ran a job of a sweep were killed
├── SchemaError         exit 1   a table or a JSON document breaks its contract
└── VerifyFailed        exit 4   `verify_slice.strict=true` and the slice disagreed
```

Each message is one sentence that says what was got, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TinylabError(Exception):
    """Root of the tree; `exit_code` is what the command line ends with."""

    exit_code = 1


class UserError(TinylabError):
    """A mistake that the user can fix."""

    exit_code = 2


class ConfigError(UserError):
    """An option, a key or a value of the configuration is wrong."""


class CorpusError(UserError):
    """A corpus cannot be read or used."""


class ModelError(UserError):
    """A model or its tokenizer cannot be loaded or used."""


class DeviceError(UserError):
    """The device is not there, or lacks the dtype."""


class OutputError(UserError):
    """A folder cannot be written, or does not hold the results it should."""


class EngineUnsupported(TinylabError):
    """An engine cannot evaluate this model exactly."""

    exit_code = 2


class RunMissing(TinylabError):
    """A sweep has no finished run of one of its jobs."""


class NotRun(RunMissing):
    """The job left nothing: it never started."""


class Interrupted(RunMissing):
    """The job's process ended before the run did."""


class StillRunning(RunMissing):
    """Another process computes the run right now."""


class WorkerDied(TinylabError):
    """The processes that ran a job were killed each time."""


class SchemaError(TinylabError):
    """A table or JSON document does not keep its contract."""


class VerifyFailed(TinylabError):
    """A strict verify slice disagreed with the main run."""

    exit_code = 4


def options(got: object, known: Iterable[object]) -> str:
    """The clause of an error message that lists what would have worked, the nearest first if one is near."""
    names = [str(name) for name in known]
    near = get_close_matches(str(got), names, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}known: {', '.join(names)}"


def install(extra: str) -> str:
    """The command that installs what an optional feature needs."""
    return f"pip install 'tiny-ablation-lab[{extra}]'"


def first_sentence(error: BaseException) -> str:
    """The first sentence of another library's message, without its full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".:")
