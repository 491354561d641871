"""The errors a user can meet, each able to cross a process boundary (picklable)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field


def nearest(word: str, allowed: Iterable[str]) -> str:
    """' Did you mean 'x'?' for the closest of `allowed`, or '' when nothing is close."""
    words = sorted(set(allowed))
    match = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if not match:  # dotted keys: the last part alone often is the typo, or only the section is wrong
        leaf = word.rsplit(".", 1)[-1]
        leaves = {w.rsplit(".", 1)[-1]: w for w in words}
        found = difflib.get_close_matches(leaf, sorted(leaves), n=1, cutoff=0.75)
        match = [leaves[f] for f in found]
    return f" Did you mean {match[0]!r}?" if match else ""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in an input file.

    Attributes:
        file: the file as the user named it ('' when the value came from the command line).
        line: 1-based line, or None when unknown.
        key: dotted path of the key inside the file.
        message: what was found, what is allowed, the nearest match.
    """

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (where, self.key, self.message) if part)


def told_of(file: str, problem: str | Problem) -> str:
    """A problem as a person reads it, with its own place, or with the file alone where it has none."""
    return str(problem) if isinstance(problem, Problem) else f"{file}: {problem}"


@dataclass
class SpecError(ValueError):
    """The search space is wrong; carries every problem found, not only the first."""

    problems: list[Problem] = field(default_factory=list[Problem])

    def __str__(self) -> str:
        unique = list(dict.fromkeys(str(p) for p in self.problems))
        head = "1 problem" if len(unique) == 1 else f"{len(unique)} problems"
        return f"{head} in the search space:\n" + "\n".join(f"  - {p}" for p in unique)

    def __reduce__(self):
        return (type(self), (self.problems,))


class DataError(ValueError):
    """A data file cannot be used; the message names file, line, what was found and what is allowed."""


class ModelError(ValueError):
    """A model or tokenizer cannot be loaded or used as configured."""


class PluginError(ValueError):
    """A file with a strategy cannot be used; the message names its line."""


INPUT_ERRORS = (SpecError, DataError, ModelError, PluginError)
"""What another try would only meet again."""


class StorageError(OSError):
    """The sweep folder cannot be read or written."""


class StorageAwayError(StorageError):
    """The storage did not answer, or was too busy, for as long as one waits for it."""


class TrialError(RuntimeError):
    """A trial failed; the message ends with the last lines of the traceback."""


class TrialDiverged(RuntimeError):
    """A loss became NaN or infinite. Not a failure to retry: the same trial would diverge again."""

    def __init__(self, what: str, step: int):
        super().__init__(what, step)
        self.what = what
        self.step = step

    def __str__(self) -> str:
        return f"{self.what} is not finite at step {self.step}"


class TrialStopped(Exception):
    """A running trial was asked to stop, and does so; no failure.

    Attributes:
        reason: 'preempted': it goes on later; 'stopped': for good.
        why: for people.
        step: optimizer steps it had finished.
    """

    def __init__(self, reason: str, why: str, step: int):
        super().__init__(reason, why, step)
        self.reason = reason
        self.why = why
        self.step = step

    def __str__(self) -> str:
        return f"{self.reason} after step {self.step}: {self.why}"
