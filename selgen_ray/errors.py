"""The errors a user can meet, each able to cross a process boundary (picklable)."""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

_INTERRUPTED = 130  # as a shell has it of a process that SIGINT ended


def until_interrupted(command: Callable[[], int]) -> int:
    """Run a command and return its exit status; after Ctrl-C say so in a word, without a traceback, and return 130."""
    try:
        return command()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return _INTERRUPTED


def misspelt(word: str, commands: Iterable[str]) -> str | None:
    """Return what to say of a word near a command; None if it is a file or an option, or near none of them."""
    hint = nearest(word, commands)
    if not hint or word.startswith("-") or Path(word).exists():
        return None
    return f"{word!r} is no file, and none of the commands {', '.join(commands)}.{hint}\n"


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" with the word of `allowed` that is closest to `word`; '' if none is close."""
    words = sorted(set(allowed))
    matches = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if not matches:  # of a dotted key often only the last part is mistyped, or only the section is wrong
        leaf = word.rsplit(".", 1)[-1]
        leaves = {key.rsplit(".", 1)[-1]: key for key in words}
        near_leaves = difflib.get_close_matches(leaf, sorted(leaves), n=1, cutoff=0.75)
        matches = [leaves[near] for near in near_leaves]
    return f" Did you mean {matches[0]!r}?" if matches else ""


@dataclass(frozen=True)
class Cause:
    """The cause of a trial's end. Code that has room for one line shows `line`; all else shows `text`.

    Attributes:
        line: the cause in one line.
        detail: a traceback, or further lines; '' where there is no more to say.
    """

    line: str
    detail: str = ""

    @classmethod
    def of_text(cls, text: str) -> Cause:
        """Read the cause from a message or a traceback: its last line. Raises ValueError if the text is empty."""
        lines = text.strip().splitlines()
        if not lines:
            raise ValueError("an empty text names no cause")
        return cls(lines[-1].strip(), "\n".join(lines[:-1]))

    @property
    def text(self) -> str:
        """The detail followed by the line, as in a traceback. `of_text` turns it into the same cause again."""
        return f"{self.detail}\n{self.line}" if self.detail else self.line


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


@dataclass
class SpecError(ValueError):
    """The search space is wrong. The error holds every problem that was found, not only the first one."""

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
"""Errors of the input: a retry would only raise them again."""


class StorageError(OSError):
    """The sweep folder cannot be read or written."""


class StorageAwayError(StorageError):
    """The storage did not answer, or was too busy, until the time for retries was over."""


class StorageBlockedError(StorageError):
    """The storage would refuse every trial alike: it is full, read-only, or the credentials are refused."""


def blocked_by(error: BaseException | None) -> str | None:
    """Return what would fail every other trial as well, if that is why an error was raised; else None.

    That is a StorageBlockedError, or an OSError of a full or read-only disk, anywhere in the chain of causes.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, StorageBlockedError) or (isinstance(error, OSError) and error.errno in FULL):
            return " ".join(str(error).split())
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Numbers of OSErrors: no space (or no inodes), the quota is used up, the file system is read-only."""


class SweepError(RuntimeError):
    """A sweep cannot run, or could not run to its end; what was finished is on storage."""


class SweepBusyError(SweepError):
    """Another process runs this sweep; the message says which."""


class SweepLostError(SweepError):
    """Another process took this sweep over; the message says which."""

    def __init__(self, who: str):
        super().__init__(f"taken over by {who}: it runs the sweep now, and this process ends")


class ClusterError(SweepError):
    """The Ray cluster cannot be joined, or went away while the sweep ran."""


class InfeasibleError(SweepError):
    """No node of the cluster can ever hold a trial, or there is no cluster; waiting would be for ever."""


class TrackerError(SweepError):
    """A tracker cannot be used as configured."""


class SelectionError(ValueError):
    """Nothing fits what was asked for; the message says what there is."""


class TrialError(RuntimeError):
    """A trial failed; the message ends with the last lines of the traceback."""


class TrialDiverged(RuntimeError):
    """A loss became NaN or infinite. The trial is not retried: it would diverge again.

    Attributes:
        what: names the value that is not finite.
        step: number of optimizer steps finished by then.
    """

    def __init__(self, what: str, step: int):
        super().__init__(what, step)
        self.what = what
        self.step = step

    def __str__(self) -> str:
        return f"{self.what} is not finite at step {self.step}"


class TrialSuperseded(Exception):
    """A run of a trial ends because the trial is another's now, or was removed, as the message says; no failure."""


class TrialStopped(Exception):
    """A running trial stops because it was asked to; this is no failure.

    Attributes:
        reason: 'preempted' (it will be resumed later), 'stopped' (for good) or 'superseded' (another process has it).
        why: the reason in words, for people.
        step: number of optimizer steps finished by then.
    """

    def __init__(self, reason: str, why: str, step: int):
        super().__init__(reason, why, step)
        self.reason = reason
        self.why = why
        self.step = step

    def __str__(self) -> str:
        return f"{self.reason} after step {self.step}: {self.why}"
