"""The event log of a sweep, `events.jsonl`: one JSON object a line, with the event, its time, trial and reason."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

from selgen_ray.records.results import now
from selgen_ray.storage import Folder

FILE_NAME = "events.jsonl"


class EventLog:
    """The event log of a sweep, written by its one driver.

    Lines wait in memory until `flush`, so that a slow or absent storage does not delay the code that logs.
    """

    def __init__(self, sweep: Folder):
        self.sweep = sweep
        self._waiting: list[bytes] = []
        self._adding, self._flushing = threading.Lock(), threading.Lock()
        self._written: bytes | None = None  # on an object store: the whole content of the object

    def add(self, event: str, trial: str | None = None, **info: Any) -> None:
        """Add an event, such as 'retry', of a trial ('<slug>/seed_<N>') or, without one, of the sweep."""
        content = {"at": now(), "event": event} | ({"trial": trial} if trial else {}) | info
        with self._adding:
            self._waiting.append(json.dumps(content, default=str).encode() + b"\n")

    def flush(self) -> None:
        """Write the waiting lines. Raises StorageError; the lines are then kept for the next flush."""
        with self._flushing:
            with self._adding:
                lines = list(self._waiting)
            if not lines:
                return
            if (local := self.sweep.local_path) is not None:
                _append(local, b"".join(lines))
            else:  # objects cannot be appended to
                before = self._read() if self._written is None else self._written
                self.sweep.write(FILE_NAME, before + b"".join(lines))
                self._written = before + b"".join(lines)
            with self._adding:
                del self._waiting[: len(lines)]

    def _read(self) -> bytes:
        try:
            before = self.sweep.read(FILE_NAME)
        except FileNotFoundError:
            return b""
        return before if before.endswith(b"\n") else before + b"\n"


def _append(folder: Any, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE_NAME).open("a+b") as log:
        if log.tell():
            log.seek(-1, os.SEEK_END)
            if log.read(1) != b"\n":  # a crash cut the last line off: do not append to it
                content = b"\n" + content
        log.write(content)
        log.flush()
        os.fsync(log.fileno())


def read_events(sweep: Folder) -> list[dict[str, Any]]:
    """Return the events of a sweep, oldest first; skip lines that were cut off.

    Raises:
        StorageError: the storage refused.
    """
    try:
        lines = sweep.read(FILE_NAME).splitlines()
    except FileNotFoundError:
        return []
    events: list[dict[str, Any]] = []
    for line in lines:
        try:
            events.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            continue
    return events
