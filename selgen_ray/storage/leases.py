"""Leases: each gives one process the right to do something; they are files on any storage.

A lease is a file `000001.json`, `000002.json`, ... in a folder; the highest number counts. Its holder renews it. When
the holder releases it, dies or falls silent, another process takes the next number. Two processes may hold a lease at
once (a frozen holder wakes up; an object store was slower than its settle delay), so what a lease protects must be safe
to do twice, or the holder looks whether it still has the lease before it acts (`Lease.look`). Numbers only grow, since
no file of a lease is ever removed: what carries the number of its lease can be told from what is older.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from selgen_ray.errors import StorageAwayError, StorageError
from selgen_ray.storage.folder import Folder, json_object
from selgen_ray.storage.parallel import waiting

logger = logging.getLogger(__name__)
_FILE = re.compile(r"(\d{6,12})\.json")
MOST = 10**9
"""Numbers of leases are below it: a higher one was written by no driver, and would leave none for the next."""


class Lease:
    """The right to do something: a context manager, within which a thread renews the lease.

    Only the holder writes the file, and a successor creates the next number, so a holder that was frozen cannot disturb
    its successor.

    Attributes:
        number: of this lease; that of every later lease in the folder is higher.
        lost: who holds it instead ('process 7 on lab2'), once `look` or the thread has seen that; else None.
        on_lost: called with that text by whichever thread sees it first. If set, the thread looks at each renewal.
    """

    def __init__(self, place: Folder, number: int, lease_s: float):
        self.place, self.number = place, number
        self.name = f"{number:06d}.json"
        self.lost: str | None = None
        self.on_lost: Callable[[str], None] | None = None
        self._every_s = lease_s / 3
        # `id`: on an object store two processes can create one number at the same time
        self._owner = _me() | {"id": uuid.uuid4().hex}
        self._looking = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def content(self, beat: int, released: bool = False) -> bytes:
        """Return the content of the lease's file; `beat` counts the renewals, so that each one changes the file."""
        return json.dumps(self._owner | {"beat": beat, "released": released}).encode()

    def look(self) -> str | None:
        """Return who took the lease over, 'process 7 on lab2'; None while it is this process's.

        Raises:
            StorageError: the folder cannot be read.
        """
        with self._looking:
            if self.lost is not None:
                return self.lost
            newest = newest_number(self.place.files())
            if newest < self.number:  # somebody removed the files: nobody else has the lease
                return None
            holder = read_lease(self.place, newest)
            if newest == self.number and holder.get("id", self._owner["id"]) == self._owner["id"]:
                return None
            self.lost = named(holder)
        if self.on_lost is not None:
            self.on_lost(self.lost)
        return self.lost

    def _write(self, beat: int, released: bool = False) -> float:
        """Write the lease's file, and return the seconds after which to write it again."""
        try:
            self.place.write(self.name, self.content(beat, released), for_s=self._every_s)
        except OSError as error:  # at worst the lease expires and another process does the same work
            logger.warning("lease not renewed: %s", error)
            if isinstance(error, StorageAwayError):
                return 0.0  # the retries have waited already
        return self._every_s

    def _renew(self) -> None:
        pause_s = self._every_s
        for beat in itertools.count(1):
            if self._ended.wait(pause_s):
                return
            if self.on_lost is not None:
                try:
                    self.look()
                except OSError as error:
                    logger.warning("cannot look for a successor: %s", error)
            if self.lost is not None:
                return
            pause_s = self._write(beat)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with waiting():
            self._thread.join()  # otherwise a late renewal could undo the release
        if self.lost is None:
            self._write(-1, released=True)


class Watch:
    """The view of one process on the leases in a folder. It uses its own clock: clocks of two machines may differ.

    Args:
        place: the folder of the leases.
        lease_s: seconds without a renewal after which a holder counts as dead. Only time in which this process could
            look counts: while the storage was away, the holder could not renew either.
        settle_s: seconds that a new lease may take to show up on an object store.
    """

    def __init__(self, place: Folder, lease_s: float, settle_s: float):
        self.place = place
        self.lease_s = lease_s
        self.settle_s = settle_s
        self._seen: tuple[str, bytes] | None = None
        self._silent_s = self._looked = 0.0

    def acquire(self, after: int = 0) -> Lease | None:
        """Return a new lease if there is none, or if its holder has released it, died or fallen silent; else None.

        Args:
            after: a number that the lease's must exceed, even if the folder holds no trace of it.

        Raises:
            StorageError: the storage refused.
        """
        current = self._current()
        if current is not None and not self._is_over(*current):
            return None
        number = max(_number(current[0]) if current else 0, after) + 1
        if number >= MOST:
            raise StorageError(
                f"{self.place} has a lease of number {number - 1}, which no driver has written: remove its file, "
                "and results of that generation"
            )
        lease = Lease(self.place, number, self.lease_s)
        return lease if self.place.create(lease.name, lease.content(0), self.settle_s) else None

    def holder(self) -> dict[str, Any] | None:
        """Return the content of the current lease ('host', 'pid', 'started', 'beat'); None if no process holds one.

        {} if the file cannot be read just now.

        Raises:
            StorageError: the storage refused.
        """
        current = self._current()
        if current is None or self._is_over(*current):
            return None
        return json_object(current[1])

    def _current(self) -> tuple[str, bytes] | None:
        newest = max(self.place.files(), key=_number, default="")
        if not _number(newest):
            return None
        return newest, _read(self.place, newest)

    def _is_over(self, name: str, content: bytes) -> bool:
        now = time.monotonic()
        if (name, content) != self._seen:
            self._seen, self._silent_s, self._looked = (name, content), 0.0, now
        self._silent_s += min(now - self._looked, self.lease_s / 3)
        self._looked = now
        lease = json_object(content)
        if lease.get("released"):
            return True
        is_over = self._silent_s >= self.lease_s or has_died_here(lease)
        if is_over:
            logger.warning("%s/%s: process %s is dead or frozen, taking over", self.place, name, lease.get("pid"))
        return is_over


def newest_number(names: Iterable[str]) -> int:
    """Return the number of the newest lease, from the names of the files in a folder of leases; 0 if there is none."""
    return max(map(_number, names), default=0)


def _number(name: str) -> int:
    """Return the number of the lease that a file holds; 0 if it is of no lease."""
    match = _FILE.fullmatch(name)
    return int(match[1]) if match and int(match[1]) < MOST else 0


def named(holder: Mapping[str, Any]) -> str:
    """Return 'process 7 on lab2' for the content of a lease; 'another process' if it cannot be read."""
    if "pid" not in holder:
        return "another process"
    return f"process {holder['pid']} on {str(holder.get('host', '')).split(' ')[0]}"


def read_lease(place: Folder, number: int) -> dict[str, Any]:
    """Return the content of the lease of that number: 'host', 'pid', 'id', ...; {} if it cannot be read just now."""
    return json_object(_read(place, f"{number:06d}.json"))


def _read(place: Folder, name: str) -> bytes:
    try:
        return place.read(name)
    except OSError:  # NFS: renewed while it was read; if this lasts, the lease expires, as does one that is damaged
        return b""


def _me() -> dict[str, Any]:
    state = _state(os.getpid())
    return {"host": this_host(), "pid": os.getpid(), "started": state and state[1]}


@functools.cache
def this_host() -> str:
    """Return an id of this machine's process ids: two processes with equal ids can look for each other by pid.

    The host's name is not enough, since containers can share it: on Linux the boot and the pid namespace are added.
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # Linux only
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _state(pid: int) -> tuple[str, str] | None:
    """Return (state letter, start time in ticks since boot) of a process; None if they cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]


def has_died_here(lease: dict[str, Any]) -> bool:
    """Return whether the holder is known to be dead; only a process on the same host can know that."""
    pid, started = lease.get("pid"), lease.get("started")
    if lease.get("host") != this_host() or os.name != "posix":
        return False
    if type(pid) is not int or pid < 1:  # a damaged file: its holder is known by its silence alone
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    state = _state(pid)
    return state is not None and (state[0] in "ZX" or started not in (None, state[1]))
