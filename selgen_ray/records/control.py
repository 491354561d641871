"""Requests to a sweep, as small files in its folder: anybody who can write to the storage can steer the sweep.

control/stop/<trial id>.json     stop the trial, and do not run it again until a retry
control/stop/all.json            end the running sweep: trials finish their step and save a checkpoint;
                                 one that a driver set has its number, and ends no later driver's sweep
control/removed/<trial id>.json  do not run the trial until a retry
control/retry/<trial id>.json    run the trial again, in the running sweep
control/added/<trial id>.json    a trial that is in no search space of the sweep
control/plan.json                every trial of the sweep, written at its start
control/live.json                the state of the running sweep, written every few seconds
control/driver/                  the lease of the one process that runs the sweep
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from selgen_ray.records.names import is_slug, is_trial_id, is_trial_name, trial_name
from selgen_ray.records.results import now
from selgen_ray.stats import is_finite_number
from selgen_ray.storage import Folder, leases
from selgen_ray.storage.folder import as_object, json_object
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
        """Return the names of the marks that are set, by one listing of the folder; other files do not count.

        Raises:
            StorageError: the storage refused.
        """
        return {mark for file in self.folder.files() if (mark := mark_name(file))}

    def is_set(self, name: str) -> bool:
        """Return whether one mark is set; it costs less than a listing. Raises StorageError."""
        try:
            self.folder.read(f"{name}{_SUFFIX}")
        except FileNotFoundError:
            return False
        return True

    def set(self, name: str, **content: Any) -> None:
        """Set or replace a mark; `content` is added to 'by' and 'at'. Raises StorageError."""
        self.folder.write_json(f"{name}{_SUFFIX}", {"by": _who(), "at": now(), **content})

    def read(self, name: str) -> dict[str, Any]:
        """Return the content of a mark; {} if it is not set or damaged. Raises StorageError."""
        try:
            return json_object(self.folder.read(f"{name}{_SUFFIX}"))
        except FileNotFoundError:
            return {}

    def read_many(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return name -> content of many marks, read in parallel; {} for one that is not set or damaged.

        Raises:
            StorageError: the storage refused.
        """
        wanted = sorted(names)
        contents = self.folder.read_many([f"{name}{_SUFFIX}" for name in wanted])
        return {name: json_object(content) for name, content in zip(wanted, contents, strict=True)}

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
        return _why(self.stop.read(name))

    def why_ending(self, generation: int) -> str | None:
        """Return the reason that the mark 'stop/all' gives, in words; None if an older driver set it.

        Such a driver writes it late, since it has lost the sweep while its storage was away; it gives its number. A
        mark that people set has no number, and counts for whoever runs the sweep.

        Args:
            generation: number of the lease of the driver that asks, or whose worker asks.

        Raises:
            StorageError: the storage refused.
        """
        mark = self.stop.read(ALL)
        by = mark.get("generation")
        return None if type(by) is int and by < generation else _why(mark)

    def newer_driver(self, generation: int) -> str | None:
        """Return who holds a newer lease on the sweep than that number, 'process 7 on lab2'; None if nobody does.

        Raises:
            StorageError: the storage refused.
        """
        newest = newest_number(self.driver.files())
        return leases.named(leases.read_lease(self.driver, newest)) if newest > generation else None

    def names_of_added(self, trial_ids: Iterable[str]) -> dict[str, str]:
        """Return trial id -> '<slug>/seed_<N>' of added trials; damaged ones are left out. Raises StorageError."""
        marks = self.added.read_many(trial_ids)
        return {trial_id: name for trial_id, mark in marks.items() if (name := _name_of(mark))}

    def read(self, name: str) -> dict[str, Any]:
        """Return the content of `plan.json` or `live.json`; {} if there is none, or if it is damaged.

        What is returned has the types and names that the driver writes: a file may be cut off, or written by anybody.

        Raises:
            StorageError: the storage refused.
        """
        try:
            content = json_object(self.folder.read(name))
        except FileNotFoundError:
            return {}
        return _plan(content) if name == PLAN else _live(content)


def mark_name(file: str) -> str | None:
    """Return the name of the mark that a file sets: the id of a trial, or 'all'; None: the file is no mark."""
    name = file.removesuffix(_SUFFIX)
    return name if name != file and (name == ALL or is_trial_id(name)) else None


def _name_of(mark: dict[str, Any]) -> str | None:
    slug, seed = mark.get("slug"), as_object(mark.get("config")).get("seed")
    return trial_name(slug, seed) if isinstance(slug, str) and is_slug(slug) and type(seed) is int else None


def _plan(content: dict[str, Any]) -> dict[str, Any]:
    tables = {key: as_object(content.get(key)) for key in ("trials", "left_out")}
    return content | {
        key: {trial_id: name for trial_id, name in table.items() if is_trial_id(trial_id) and is_trial_name(name)}
        for key, table in tables.items()
    }


def _live(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a driver wrote of its state; {} if its time cannot be read, since nothing is known then."""
    try:
        if datetime.fromisoformat(content["updated_at"]).tzinfo is None:
            return {}
    except (KeyError, TypeError, ValueError):
        return {}
    left: Any = content.get("seconds_left")
    lines, counts = (as_object(content.get(key)).items() for key in ("running", "finished"))
    return content | {
        "running": {name: _progress(line) for name, line in lines if is_trial_name(name)},
        "finished": {status: count for status, count in counts if type(count) is int},
        "seconds_left": left if is_finite_number(left) and left >= 0 else None,
    }


_TEXTS = ("phase", "status")


def _progress(line: Any) -> dict[str, Any]:
    """Return the numbers of a running trial's progress line, and the texts that are shown; a step needs its total."""
    items = as_object(line).items()
    kept = {key: value for key, value in items if is_finite_number(value) or (key in _TEXTS and isinstance(value, str))}
    return kept if {"step", "num_steps"} <= kept.keys() else {k: v for k, v in kept.items() if k != "step"}


def _why(stop: dict[str, Any]) -> str:
    return str(stop.get("why") or f"stopped by {stop.get('by', 'somebody')}")


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # the user of a container may have no name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
