"""The event log of a sweep, `events.jsonl`: one JSON object a line, with the event, its time, trial and reason.

On an object store, which cannot append, each driver has a file of its own, `events/<number of its lease>.jsonl`. On a
disk a driver writes to such a file only once another has taken the sweep over. Readers get the lines of all files.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from typing import Any

from selgen_ray.records.results import now
from selgen_ray.storage import Folder
from selgen_ray.storage.folder import json_object
from selgen_ray.storage.retries import retrying

FILE_NAME, FOLDER = "events.jsonl", "events"


class EventLog:
    """The event log of a sweep, as one driver writes it.

    Lines wait in memory until `flush`, so that a slow or absent storage does not delay the code that logs.

    Args:
        sweep: the sweep's folder.
        generation: number of the driver's lease, which no other driver has.
    """

    def __init__(self, sweep: Folder, generation: int = 1):
        self.sweep = sweep
        self._own = f"{FOLDER}/{generation:06d}.jsonl"
        self._appends = sweep.local_path is not None
        self._waiting: list[bytes] = []
        self._adding, self._flushing = threading.Lock(), threading.Lock()
        self._written: bytes | None = None  # the whole content of this driver's own file

    def add(self, event: str, trial: str | None = None, **info: Any) -> None:
        """Add an event, such as 'retry', of a trial ('<slug>/seed_<N>') or, without one, of the sweep."""
        content = {"at": now(), "event": event} | ({"trial": trial} if trial else {}) | info
        with self._adding:
            self._waiting.append(json.dumps(content, default=str).encode() + b"\n")

    def give_way(self) -> None:
        """Write to this driver's own file from now on, since another driver appends to the shared one."""
        self._appends = False

    def flush(self) -> None:
        """Write the waiting lines. Raises StorageError; the lines are then kept for the next flush."""
        with self._flushing:
            with self._adding:
                lines = list(self._waiting)
            if not lines:
                return
            if self._appends and (local := self.sweep.local_path) is not None:
                content, doing = b"".join(lines), f"write {self.sweep / FILE_NAME}"
                retrying(lambda: doing, self.sweep, lambda: _append(local, content), for_s=0)
            else:
                before = self._read() if self._written is None else self._written
                self.sweep.write(self._own, before + b"".join(lines))
                self._written = before + b"".join(lines)
            with self._adding:
                del self._waiting[: len(lines)]

    def _read(self) -> bytes:
        try:
            before = self.sweep.read(self._own)
        except FileNotFoundError:
            return b""
        return before if before.endswith(b"\n") else before + b"\n"


def _append(folder: Any, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE_NAME).open("a+b", buffering=0) as log:  # one write: lines of two processes do not mix
        if size := log.tell():
            log.seek(-1, os.SEEK_END)
            if log.read(1) != b"\n":  # a crash cut the last line off: do not append to it
                content = b"\n" + content
        try:
            if log.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(log.fileno())
        except OSError:
            log.truncate(size)  # else the next flush, which begins with the same lines, would double them
            raise


def read_events(sweep: Folder) -> list[dict[str, Any]]:
    """Return the events of a sweep, each file's oldest first; skip lines that were cut off.

    Files come in the order of the drivers; times of several machines are not compared.

    Raises:
        StorageError: the storage refused.
    """
    names = [FILE_NAME, *(f"{FOLDER}/{name}" for name in (sweep / FOLDER).files() if name.endswith(".jsonl"))]
    lines = (line for content in sweep.read_many(names) for line in (content or b"").splitlines())
    return [event for line in lines if (event := json_object(line))]
