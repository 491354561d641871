"""Leases: each gives one process the right to do something; they are files on any storage.

A lease is a file `000001.json`, `000002.json`, ... in a folder; the highest number counts. Its holder renews it. When
the holder releases it, dies or falls silent, another process takes the next number. Two processes may hold a lease at
once (a frozen holder wakes up; an object store was slower than its settle delay), so what a lease protects must be safe
to do twice.
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
from pathlib import Path
from typing import Any

from selgen_ray.errors import StorageAwayError
from selgen_ray.storage.folder import Folder

logger = logging.getLogger(__name__)
_FILE = re.compile(r"\d{6}\.json")


class Lease:
    """The right to do something: a context manager, within which a thread renews the lease.

    Only the holder writes the file, and a successor creates the next number, so a holder that was frozen cannot disturb
    its successor.
    """

    def __init__(self, place: Folder, number: int, lease_s: float):
        self.place = place
        self.name = f"{number:06d}.json"
        self._every_s = lease_s / 3
        self._owner = _me()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def content(self, beat: int, released: bool = False) -> bytes:
        """Return the content of the lease's file; `beat` counts the renewals, so that each one changes the file."""
        return json.dumps(self._owner | {"beat": beat, "released": released}).encode()

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
            pause_s = self._write(beat)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()  # otherwise a late renewal could undo the release
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

    def acquire(self) -> Lease | None:
        """Return a new lease if there is none, or if its holder has released it, died or fallen silent; else None.

        Raises:
            StorageError: the storage refused.
        """
        current = self._current()
        if current is not None and not self._is_over(*current):
            return None
        number = int(current[0].removesuffix(".json")) if current else 0
        lease = Lease(self.place, number + 1, self.lease_s)
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
        try:
            return dict(json.loads(current[1]))
        except (ValueError, TypeError):
            return {}

    def _current(self) -> tuple[str, bytes] | None:
        newest = max((name for name in self.place.files() if _FILE.fullmatch(name)), default=None)
        if newest is None:
            return None
        try:
            return newest, self.place.read(newest)
        except OSError:  # NFS: renewed while it was read; if this lasts, the lease expires
            return newest, b""

    def _is_over(self, name: str, content: bytes) -> bool:
        now = time.monotonic()
        if (name, content) != self._seen:
            self._seen, self._silent_s, self._looked = (name, content), 0.0, now
        self._silent_s += min(now - self._looked, self.lease_s / 3)
        self._looked = now
        try:
            lease = dict(json.loads(content))
        except (ValueError, TypeError):  # a filesystem without hard links can show it half written
            lease = {}
        if lease.get("released"):
            return True
        is_over = self._silent_s >= self.lease_s or _has_died(lease)
        if is_over:
            logger.warning("%s/%s: process %s is dead or frozen, taking over", self.place, name, lease.get("pid"))
        return is_over


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


def _has_died(lease: dict[str, Any]) -> bool:
    """Return whether the holder is known to be dead; only a process on the same host can know that."""
    if lease.get("host") != this_host() or os.name != "posix":
        return False
    try:
        os.kill(lease["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    state = _state(lease["pid"])
    return state is not None and (state[0] in "ZX" or state[1] != lease["started"])
