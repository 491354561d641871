"""One tracker: its client, what it is told of a trial, and where its files go."""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.air.constants import TRAINING_ITERATION
from ray.tune.logger import LoggerCallback, TBXLoggerCallback

from selgen_ray.errors import TrackerError
from selgen_ray.records.results import flatten
from selgen_ray.space.tracker_options import Tracker
from selgen_ray.storage import Folder
from selgen_ray.storage.scratch import make_scratch
from selgen_ray.trial.task import TrialTask

Later = Callable[[Callable[[], None]], None]
"""Does a write to the sweep's folder when it can."""


@dataclass(eq=False)
class Run:
    """A trial as Ray's logger callbacks see one: the attributes of a Tune trial that they read, with lasting values.

    Attributes:
        trial_id: names the trial's run in a tracker; it stays the same when the trial is resumed.
        name: '<slug>/seed_<N>'.
        config: dotted key -> value of the trial's config.
        local_path: folder of its files.
        experiment_dir_name: the group of the run; the seeds of a setting share it.
        step: the newest training step.
    """

    trial_id: str
    name: str
    config: dict[str, Any]
    local_path: str
    experiment_dir_name: str
    step: int = 0

    @property
    def evaluated_params(self) -> dict[str, Any]:
        """The config, for a table of hyperparameters."""
        return self.config

    def init_local_path(self) -> None:
        """Make its folder."""
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self.name


@dataclass
class Sink:
    """A tracker that is open.

    Attributes:
        callback: does the work.
        place: local folder of its files.
        scope: tells equal trials of two sweep folders apart.
        per_trial: each trial has a folder of its own in `place`.
        upload_to: where the files of a trial go when it ends; None: they stay.
        runs: Tune's id of a running trial -> its run.
        failures: how often it failed.
    """

    name: str
    callback: LoggerCallback
    place: Path
    scope: str
    per_trial: bool = False
    upload_to: Folder | None = None
    later: Later = field(default=lambda write: write())
    runs: dict[str, Run] = field(default_factory=dict)
    failures: int = 0

    def start(self, key: str, task: TrialTask) -> None:
        """Start the run of a trial, or continue it."""
        path = self.place / task.name if self.per_trial else self.place
        run = Run(f"{task.trial_id}-{self.scope}", task.name, flatten(task.config), str(path), task.slug)
        run.init_local_path()
        self.callback.log_trial_start(run)  # type: ignore[arg-type]  # a Run has what they read of a trial
        self.runs[key] = run

    def log(self, key: str, numbers: dict[str, float]) -> None:
        """Log numbers at the first of these steps: their own, that of their phase, the newest of the training."""
        run = self.runs[key]
        steps = [int(value) for name, value in numbers.items() if name.rpartition("/")[2] == "step"]
        run.step = int(numbers.get("step", run.step))
        self.callback.log_trial_result(0, run, {**numbers, TRAINING_ITERATION: [*steps, run.step][0]})  # type: ignore[arg-type]

    def end(self, key: str, failed: bool) -> None:
        """End the run of a trial that ended, for now or for good."""
        run = self.runs.pop(key)
        self.callback.log_trial_end(run, failed)  # type: ignore[arg-type]
        if self.upload_to is not None:
            target = self.upload_to / run.name
            for path in Path(run.local_path).iterdir():
                self.later(functools.partial(target.write, path.name, path.read_bytes()))

    def close(self) -> None:
        """Close the tracker when no trial runs any more."""
        self.callback.on_experiment_end([])
        if self.upload_to is not None:
            shutil.rmtree(self.place, ignore_errors=True)


def open_sink(tracker: Tracker, sweep: str, folder: Folder, later: Later) -> Sink:
    """Set a tracker up, after `ray.init`. Raises TrackerError."""
    try:
        scope = hashlib.sha256(str(folder).encode()).hexdigest()[:6]
        sink = _OPENERS[tracker.name](tracker.settings, sweep, folder, scope)
        sink.later = later
        sink.callback.setup()
        return sink
    except Exception as error:
        raise TrackerError(f"trackers: {tracker.name} cannot be used: {without_login(str(error))}") from error


def without_login(text: str) -> str:
    """Return `text` without the user names and passwords of URLs."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def _tensorboard(options: Any, sweep: str, folder: Folder, scope: str) -> Sink:
    target = folder / "tensorboard"
    place, upload = target.local_path, None
    if place is None:  # TensorBoard's writer writes local files alone
        place, upload = make_scratch("tensorboard"), target
    return Sink("tensorboard", TBXLoggerCallback(), place, scope, per_trial=True, upload_to=upload)


def _wandb(options: Any, sweep: str, folder: Folder, scope: str) -> Sink:
    from selgen_ray.cluster.trackers.wandb_runs import wandb_runs  # late: start-up, and the package may be absent

    return Sink("wandb", wandb_runs(options, sweep), _place(options.dir, folder), scope)


def _mlflow(options: Any, sweep: str, folder: Folder, scope: str) -> Sink:
    from selgen_ray.cluster.trackers.mlflow_runs import MLflowRuns  # late: start-up, and the package may be absent

    place = _place(None, folder)
    return Sink("mlflow", MLflowRuns(options, sweep, f"sqlite:///{place / 'mlflow.db'}"), place, scope)


def _trackio(options: Any, sweep: str, folder: Folder, scope: str) -> Sink:
    from selgen_ray.cluster.trackers.trackio_runs import trackio_runs  # late: start-up, and it may be absent

    place = _place(options.dir, folder / "trackio")
    return Sink("trackio", trackio_runs(options, sweep, place), place, scope)


def _place(given: str | None, folder: Folder) -> Path:
    """Return the local folder of a tracker's files; a temporary one where they are only a buffer."""
    if given:
        return Path(given).expanduser().absolute()
    return folder.local_path or make_scratch("tracker")


_OPENERS: dict[str, Callable[[Any, str, Folder, str], Sink]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}
