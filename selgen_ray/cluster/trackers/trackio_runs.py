"""Trackio: a run for each trial."""

from __future__ import annotations

import contextvars
import os
from pathlib import Path
from typing import Any

from selgen_ray.cluster.trackers.processes import RunsBeside
from selgen_ray.space.tracker_options import Trackio


def trackio_runs(options: Trackio, sweep: str, place: Path) -> RunsBeside:
    """Open one project for the sweep, with the credentials of this process handed over in memory.

    Args:
        options: of the search space.
        sweep: its name.
        place: folder of the database, unless TRACKIO_DIR names one.
    """
    environment = {key: value for key, value in os.environ.items() if key.startswith(("TRACKIO_", "HF_"))}
    if options.dir or "TRACKIO_DIR" not in environment:
        environment["TRACKIO_DIR"] = str(place)
    given = options.model_dump(include={"space_id", "server_url"}, exclude_none=True)
    init = {"project": options.project or sweep, **given}
    return RunsBeside(_Process, environment, init, group=options.group)


class _Process:
    """Where Trackio runs: it prints, and reads its folder from the environment when it is imported."""

    def __init__(self, environment: dict[str, str], init: dict[str, Any]):
        os.environ.update(environment)
        self._init, self._runs = init, {}

    def ready(self) -> None:
        import trackio  # pyright: ignore[reportMissingImports, reportUnusedImport]  # noqa: F401

    def start(self, key: str, name: str, group: str, config: dict[str, Any], folder: str) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        options = {"name": name, "group": group, "config": config, "resume": "allow", "embed": False}
        options |= {"auto_log_gpu": False, "auto_log_cpu": False, **self._init}
        # Trackio ends the run of its context when it starts another: each has a context of its own
        self._runs[key] = contextvars.Context().run(trackio.init, **options)

    def log(self, key: str, numbers: dict[str, float], step: int) -> None:
        self._runs[key].log({name: value for name, value in numbers.items() if name != "step"}, step=step)

    def finish(self, key: str, failed: bool) -> None:
        self._runs.pop(key).finish()
