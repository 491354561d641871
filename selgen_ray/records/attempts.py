"""Attempts at a trial: each is numbered, and the newest alone writes results and checkpoints.

An attempt has the number of the lease under which its driver runs the sweep, and the driver's count of the times it has
handed the trial out: (2, 1) is the first try of whoever holds lease 2. While it runs, its mark lies in the trial's
folder:

    attempts/000002-0001/by.json      which process runs it

An attempt begins by setting its mark and removing those of older ones; each write of a result needs the mark of its
writer. So a worker that was frozen or cut off, and wakes up when another has gone on with its trial, writes nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from dataclasses import dataclass
from typing import Any

from selgen_ray.errors import StorageError, TrialSuperseded
from selgen_ray.records.results import FILE_NAME, ResultHead, TrialResult, now
from selgen_ray.records.status import TrialStatus
from selgen_ray.storage import Folder
from selgen_ray.storage.folder import json_object

FOLDER = "attempts"
REMOVED = "the trial was removed"
"""Why a run ends whose trial a person removed meanwhile."""
_NAME = re.compile(r"(\d{6,})-(\d{4,})")
_BY = "by.json"


@dataclass(frozen=True, order=True)
class Attempt:
    """The number of an attempt; a later one is greater.

    Attributes:
        generation: number of the lease on the sweep, from 1; it grows over the sweep's whole life.
        number: how often that driver has handed the trial out, from 1.
    """

    generation: int
    number: int

    def __str__(self) -> str:
        return f"{self.generation:06d}-{self.number:04d}"

    @classmethod
    def of(cls, text: str) -> Attempt | None:
        """Return the attempt that `str` wrote; None if the text is none."""
        match = _NAME.fullmatch(text)
        return cls(int(match[1]), int(match[2])) if match else None


class Fence:
    """Lets the newest attempt at a trial write to its folder, and refuses older ones.

    Args:
        place: the folder of the trial's result.
        attempt: None for a run outside of a sweep, to which nothing is refused.
    """

    def __init__(self, place: Folder, attempt: Attempt | None):
        self.place, self.attempt = place, attempt
        self._marks = place / FOLDER

    def begin(self) -> TrialResult | None:
        """Set the mark of this attempt, remove those of older ones, and return the result that is there, if any.

        A second call does no harm.

        Raises:
            TrialSuperseded: a newer attempt has begun, or has left a result.
            StorageError: the storage refused.
        """
        if self.attempt is None:
            return self._stored()
        by = {"host": socket.gethostname(), "pid": os.getpid(), "at": now()}
        try:
            self._marks.write_json(f"{self.attempt}/{_BY}", by)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError) and self.place.local_path is not None:
                raise self._superseded() from error  # a newer attempt removed the mark while it was being set
            raise
        # the mark first, then the look: of two attempts that begin at once, one sees the other
        marks = self._found()
        if self.attempt not in marks or max(marks) > self.attempt:
            error = self._superseded()
            (self._marks / str(self.attempt)).delete_at_once()
            raise error
        for mark in marks:
            if mark < self.attempt:
                (self._marks / str(mark)).delete_at_once()
        stored = self._stored()  # now no older attempt can change it
        if stored is not None and (by_attempt := attempt_of(stored)) is not None and by_attempt > self.attempt:
            (self._marks / str(self.attempt)).delete_at_once()
            raise TrialSuperseded(f"attempt {by_attempt} has left a result, {stored.status}")
        return stored

    def check(self) -> None:
        """Raise TrialSuperseded if a newer attempt has begun, or the trial was removed. Raises StorageError too."""
        if self.attempt is not None and not self._marks.exists(f"{self.attempt}/{_BY}"):
            raise self._superseded()

    def publish(self, result: TrialResult) -> None:
        """Write results.json, with the number of this attempt.

        Raises:
            TrialSuperseded: a newer attempt has begun, an older one has finished the trial, or it was removed; nothing
                was written.
            StorageError: the storage refused.
        """
        if self.attempt is None:
            result.publish(self.place)
            return
        stored = self._head()
        if stored is not None and stored.status.is_finished and (by := attempt_of(stored)) != self.attempt:
            raise TrialSuperseded(f"attempt {by or 'of an earlier release'} has left a result, {stored.status}")
        result.generation, result.attempt = self.attempt.generation, self.attempt.number
        self.write(FILE_NAME, result.content())

    def write(self, name: str, content: bytes) -> None:
        """Write a file below the trial's folder.

        Raises:
            TrialSuperseded: a newer attempt has begun, or the trial was removed; nothing was written.
            StorageError: the storage refused.
        """
        if self.attempt is None:
            self.place.write(name, content)
            return
        try:
            self.place.write_while(f"{FOLDER}/{self.attempt}/{_BY}", name, content)
        except FileNotFoundError:
            raise self._superseded() from None

    def end(self) -> None:
        """Remove the marks, once the result is final: its number refuses older attempts from now on.

        The mark of a newer attempt stays, which a retry may have begun meanwhile.
        """
        if self.attempt is None:
            return
        (self._marks / str(self.attempt)).delete_at_once()
        if max(self._found(), default=self.attempt) <= self.attempt:
            self._marks.delete()

    def is_run(self) -> bool:
        """Return whether any attempt runs the trial now. Raises StorageError."""
        return bool(self._found())

    def _stored(self) -> TrialResult | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return TrialResult.model_validate_json(self.place.read(FILE_NAME))
        return None

    def _head(self) -> ResultHead | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return ResultHead.model_validate_json(self.place.read(FILE_NAME))
        return None

    def _found(self) -> list[Attempt]:
        return [attempt for name in self._marks.folders() if (attempt := Attempt.of(name)) is not None]

    def _superseded(self) -> TrialSuperseded:
        newest = max(self._found(), default=None)
        if newest not in (None, self.attempt):
            return TrialSuperseded(self._who(newest))
        stored = self._head()
        if stored is None:
            return TrialSuperseded(REMOVED)
        return TrialSuperseded(f"attempt {attempt_of(stored)} has left a result, {stored.status}")

    def _who(self, attempt: Attempt) -> str:
        by: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError):
            by = json_object(self._marks.read(f"{attempt}/{_BY}"))
        return f"attempt {attempt} runs it, in process {by.get('pid', '?')} on {by.get('host', '?')}"


def newest_generation(sweep: Folder) -> int:
    """Return the highest generation whose mark lies in a sweep's folder; 0 if there is none.

    It searches the folders of all trials. Raises StorageError.
    """
    paths = sweep.find(_BY, leave_out=("cache", "checkpoints", "control", "model"))
    marks = (Attempt.of(path.split("/")[-2]) for path in paths if path.split("/")[-3:-2] == [FOLDER])
    return max((mark.generation for mark in marks if mark), default=0)


def status_after(end: TrialSuperseded) -> TrialStatus:
    """Return the status of a run that another process, or the removal of its trial, has ended."""
    return TrialStatus.REMOVED if str(end) == REMOVED else TrialStatus.SUPERSEDED


def attempt_of(result: TrialResult | ResultHead) -> Attempt | None:
    """Return the attempt that wrote a result; None for one of an earlier release, or of a run outside of a sweep."""
    if result.generation is None or result.attempt is None:
        return None
    return Attempt(result.generation, result.attempt)
