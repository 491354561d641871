"""What people ask of a sweep, as small files in its folder: whoever sees the storage can steer it.

control/stop/<trial id>.json     the trial is to stop, and is not run again until a retry
control/stop/all.json            the running sweep is to finish its steps, save checkpoints and end
control/removed/<trial id>.json  the trial is not to be run until a retry
control/retry/<trial id>.json    a running sweep is to run the trial again
control/added/<trial id>.json    a trial that no search space of the sweep names
control/plan.json                every trial of the sweep, written when it starts
control/live.json                what the sweep is doing, written every few seconds
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
from selgen_ray.storage import Folder

ALL = "all"
PLAN, LIVE = "plan.json", "live.json"
_SUFFIX = ".json"


@dataclass(frozen=True)
class Marks:
    """Named small JSON files in one folder; a mark is set or not, and says who set it, when and why."""

    folder: Folder

    def names(self) -> set[str]:
        """The marks that are set: one listing. Raises StorageError."""
        return {name.removesuffix(_SUFFIX) for name in self.folder.files() if name.endswith(_SUFFIX)}

    def set(self, name: str, **content: Any) -> None:
        """Set a mark, or replace it. Raises StorageError."""
        self.folder.write_json(f"{name}{_SUFFIX}", {"by": _who(), "at": now(), **content})

    def read(self, name: str) -> dict[str, Any]:
        """What a mark says, {} where it is not set or damaged. Raises StorageError."""
        try:
            return dict(self.folder.read_json(f"{name}{_SUFFIX}"))
        except (FileNotFoundError, ValueError, TypeError):
            return {}

    def read_many(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What many marks say, as `read` does, in parallel where the storage is far. Raises StorageError."""
        wanted = sorted(names)
        found = self.folder.read_many([f"{name}{_SUFFIX}" for name in wanted])
        return {name: _parsed(content) for name, content in zip(wanted, found, strict=True)}

    def clear(self, name: str) -> None:
        """Take a mark back; nothing happens when it is not set. Raises StorageError."""
        self.folder.remove(f"{name}{_SUFFIX}")


class Control:
    """The marks of one sweep.

    Attributes:
        folder: <sweep>/control.
        stop, removed, retry, added: see the module.
        look_every_s: seconds between two looks at the marks; one at an object store costs a request.
    """

    def __init__(self, sweep: Folder):
        self.folder = sweep / "control"
        self.stop = Marks(self.folder / "stop")
        self.removed = Marks(self.folder / "removed")
        self.retry = Marks(self.folder / "retry")
        self.added = Marks(self.folder / "added")
        self.look_every_s = 1.0 if sweep.local_path is not None else 5.0

    def why_stopped(self, name: str) -> str:
        """The reason that a stop mark gives, in words."""
        mark = self.stop.read(name)
        return str(mark.get("why") or f"stopped by {mark.get('by', 'somebody')}")

    def names_of_added(self, trial_ids: Iterable[str]) -> dict[str, str]:
        """Trial id -> '<slug>/seed_<N>' of added trials. Raises StorageError."""
        found = self.added.read_many(trial_ids)
        return {i: trial_name(a["slug"], a["config"]["seed"]) for i, a in found.items() if "config" in a}

    def read(self, name: str) -> dict[str, Any]:
        """`plan.json` or `live.json`, {} where there is none. Raises StorageError."""
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
    except (OSError, KeyError):  # a container's user without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
