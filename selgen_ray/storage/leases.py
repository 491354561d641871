"""Leases: the right of one process to do something, as files on any storage.

A lease is a file `000001.json`, `000002.json`, ... of a folder, of which the highest one counts. Its holder renews it;
one that fell silent, died or released it is followed by the next number. Should two hold one at once (a holder that was
frozen wakes up; an object store was slower than its settle delay), what they do must be harmless to do twice.
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
    """The right to do something, renewed by a thread from `with` on until its end.

    Only its holder ever writes the file, and whoever takes over creates the next number, so a holder that was
    frozen cannot disturb its successor.
    """

    def __init__(self, place: Folder, number: int, lease_s: float):
        self.place = place
        self.name = f"{number:06d}.json"
        self._every_s = lease_s / 3
        self._owner = _me()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def content(self, beat: int, released: bool = False) -> bytes:
        """What its file says; `beat` counts the renewals, so that each changes the file."""
        return json.dumps(self._owner | {"beat": beat, "released": released}).encode()

    def _write(self, beat: int, released: bool = False) -> float:
        """Seconds after which to write again."""
        try:
            self.place.write(self.name, self.content(beat, released), for_s=self._every_s)
        except OSError as error:  # at worst the lease expires and another does the same
            logger.warning("lease not renewed: %s", error)
            if isinstance(error, StorageAwayError):
                return 0.0  # it has waited already
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
        self._thread.join()  # or a late renewal would undo the release
        self._write(-1, released=True)


class Watch:
    """What one process sees of the leases in a folder, on its own clock: clocks of two machines are never compared.

    Args:
        place: the folder of the leases.
        lease_s: after so long without a sign a holder is taken for dead. Only time in which this process looked counts:
            a storage that was away silenced the holder too.
        settle_s: how long a new lease may take to show up on an object store.
    """

    def __init__(self, place: Folder, lease_s: float, settle_s: float):
        self.place = place
        self.lease_s = lease_s
        self.settle_s = settle_s
        self._seen: tuple[str, bytes] | None = None
        self._silent_s = self._looked = 0.0

    def acquire(self) -> Lease | None:
        """The next lease, when there is none or its holder has released it, died or fallen silent."""
        current = self._current()
        if current is not None and not self._is_over(*current):
            return None
        number = int(current[0].removesuffix(".json")) if current else 0
        lease = Lease(self.place, number + 1, self.lease_s)
        return lease if self.place.create(lease.name, lease.content(0), self.settle_s) else None

    def holder(self) -> dict[str, Any] | None:
        """What the one that holds the lease says of itself ('host', 'pid', 'started', 'beat'); None: nobody holds it.

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
        except OSError:  # NFS: renewed while it was read; should it stay like this, it expires as any silent one
            return newest, b""

    def _is_over(self, name: str, content: bytes) -> bool:
        now = time.monotonic()
        if (name, content) != self._seen:
            self._seen, self._silent_s, self._looked = (name, content), 0.0, now
        self._silent_s += min(now - self._looked, self.lease_s / 3)
        self._looked = now
        try:
            lease = dict(json.loads(content))
        except (ValueError, TypeError):  # half written, on a filesystem without hard links
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
    """Two processes with the same answer number their processes alike: containers can share a host's name."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # Linux only
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _state(pid: int) -> tuple[str, str] | None:
    """(state letter, start time in ticks since boot) of a process; None where it cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]


def _has_died(lease: dict[str, Any]) -> bool:
    """Whether the holder is known to be dead, which only a process of the same host can know."""
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
