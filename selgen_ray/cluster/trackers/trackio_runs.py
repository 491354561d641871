"""Trackio by a logger callback of our own: Ray has none. A run for each trial, all in one process beside the driver."""

from __future__ import annotations

import contextvars
import os
from pathlib import Path
from typing import Any

import ray
from ray.air.constants import TRAINING_ITERATION
from ray.tune.logger import LoggerCallback

from selgen_ray.cluster.trackers.processes import beside_driver
from selgen_ray.space.tracker_options import Trackio

_PATIENCE_S = 60.0


class TrackioRuns(LoggerCallback):
    """The runs of a sweep, in one project.

    Args:
        options: of the search space.
        sweep: its name.
        place: folder of the database, unless TRACKIO_DIR names one.
    """

    def __init__(self, options: Trackio, sweep: str, place: Path):
        environment = {key: value for key, value in os.environ.items() if key.startswith(("TRACKIO_", "HF_"))}
        if options.dir or "TRACKIO_DIR" not in environment:
            environment["TRACKIO_DIR"] = str(place)
        given = options.model_dump(include={"space_id", "server_url"}, exclude_none=True)
        self._group = options.group
        self._process = beside_driver(_Process).remote(environment, {"project": options.project or sweep, **given})

    def setup(self, *args: Any, **info: Any) -> None:
        """Wait for the process. Raises what it met."""
        self._ask("ready")

    def log_trial_start(self, trial: Any) -> None:
        self._ask("start", trial.trial_id, str(trial), self._group or trial.experiment_dir_name, trial.config)

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        numbers = {key: value for key, value in result.items() if key not in (TRAINING_ITERATION, "step")}
        self._ask("log", trial.trial_id, numbers, result[TRAINING_ITERATION])

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        self._ask("finish", trial.trial_id)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        ray.kill(self._process)

    def _ask(self, method: str, *args: Any) -> None:
        ray.get(getattr(self._process, method).remote(*args), timeout=_PATIENCE_S)


class _Process:
    """Where Trackio runs: it prints, and reads its folder from the environment when it is imported."""

    def __init__(self, environment: dict[str, str], init: dict[str, Any]):
        os.environ.update(environment)
        self._init, self._runs = init, {}

    def ready(self) -> None:
        import trackio  # pyright: ignore[reportMissingImports, reportUnusedImport]  # noqa: F401

    def start(self, key: str, name: str, group: str, config: dict[str, Any]) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        options = {"name": name, "group": group, "config": config, "resume": "allow", "embed": False}
        options |= {"auto_log_gpu": False, "auto_log_cpu": False, **self._init}
        # Trackio ends the run of its context when it starts another: each has a context of its own
        self._runs[key] = contextvars.Context().run(trackio.init, **options)

    def log(self, key: str, numbers: dict[str, float], step: int) -> None:
        self._runs[key].log(numbers, step=step)

    def finish(self, key: str) -> None:
        self._runs.pop(key).finish()
