"""Requests to a sweep, as small files in its folder: anybody who can write to the storage can steer the sweep.

control/stop/<trial id>.json     stop the trial, and do not run it again until a retry
control/stop/all.json            end the running sweep: trials finish their step and save a checkpoint
control/removed/<trial id>.json  do not run the trial until a retry
control/retry/<trial id>.json    run the trial again, in the running sweep
control/added/<trial id>.json    a trial that is in no search space of the sweep
control/plan.json                every trial of the sweep, written at its start
control/live.json                the state of the running sweep, written every few seconds
control/driver/                  the lease of the one process that runs the sweep
"""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from selgen_ray.records.names import trial_name
from selgen_ray.records.results import now
from selgen_ray.storage import Folder, leases
from selgen_ray.storage.leases import newest_number

ALL = "all"
PLAN, LIVE = "plan.json", "live.json"
_SUFFIX = ".json"


@dataclass(frozen=True)
class Marks:
    """Marks: small JSON files with names, in one folder. A mark is set or not, and says who set it, when and why.

    The mark `ab12` is the file `ab12.json`: {"by": "eve@host", "at": "2026-01-31T12:00:00+00:00", "why": ...}.
    """

    folder: Folder

    def names(self) -> set[str]:
        """Return the names of the marks that are set, by one listing of the folder. Raises StorageError."""
        return {name.removesuffix(_SUFFIX) for name in self.folder.files() if name.endswith(_SUFFIX)}

    def set(self, name: str, **content: Any) -> None:
        """Set or replace a mark; `content` is added to 'by' and 'at'. Raises StorageError."""
        self.folder.write_json(f"{name}{_SUFFIX}", {"by": _who(), "at": now(), **content})

    def read(self, name: str) -> dict[str, Any]:
        """Return the content of a mark; {} if it is not set or damaged. Raises StorageError."""
        try:
            return dict(self.folder.read_json(f"{name}{_SUFFIX}"))
        except (FileNotFoundError, ValueError, TypeError):
            return {}

    def read_many(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return name -> content of many marks, read in parallel; {} for one that is not set or damaged.

        Raises:
            StorageError: the storage refused.
        """
        wanted = sorted(names)
        contents = self.folder.read_many([f"{name}{_SUFFIX}" for name in wanted])
        return {name: _parsed(content) for name, content in zip(wanted, contents, strict=True)}

    def clear(self, name: str) -> None:
        """Remove a mark if it is set. Raises StorageError."""
        self.folder.remove(f"{name}{_SUFFIX}")


class Control:
    """The marks of one sweep.

    Attributes:
        folder: <sweep>/control.
        stop, removed, retry, added: the marks of each kind; see the module.
        driver: the folder of the driver's lease.
        look_every_s: seconds between two looks at the marks; on an object store each look costs a request.
    """

    def __init__(self, sweep: Folder):
        self.folder = sweep / "control"
        self.stop = Marks(self.folder / "stop")
        self.removed = Marks(self.folder / "removed")
        self.retry = Marks(self.folder / "retry")
        self.added = Marks(self.folder / "added")
        self.driver = self.folder / "driver"
        self.look_every_s = 1.0 if sweep.local_path is not None else 5.0

    def why_stopped(self, name: str) -> str:
        """Return the reason that a stop mark gives, in words. Raises StorageError."""
        mark = self.stop.read(name)
        return str(mark.get("why") or f"stopped by {mark.get('by', 'somebody')}")

    def newer_driver(self, generation: int) -> str | None:
        """Return who holds a newer lease on the sweep than that number, 'process 7 on lab2'; None if nobody does.

        Raises:
            StorageError: the storage refused.
        """
        newest = newest_number(self.driver.files())
        return leases.named(leases.read_lease(self.driver, newest)) if newest > generation else None

    def names_of_added(self, trial_ids: Iterable[str]) -> dict[str, str]:
        """Return trial id -> '<slug>/seed_<N>' of added trials. Raises StorageError."""
        marks = self.added.read_many(trial_ids)
        return {
            trial_id: trial_name(mark["slug"], mark["config"]["seed"])
            for trial_id, mark in marks.items()
            if "config" in mark
        }

    def read(self, name: str) -> dict[str, Any]:
        """Return the content of `plan.json` or `live.json`; {} if there is none. Raises StorageError."""
        try:
            return dict(self.folder.read_json(name))
        except (FileNotFoundError, ValueError, TypeError):
            return {}


def _parsed(content: bytes | None) -> dict[str, Any]:
    try:
        return dict(json.loads(content or b"{}"))
    except (ValueError, TypeError):
        return {}


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # the user of a container may have no name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
