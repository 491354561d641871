"""Trackers that cannot live in the driver's process: a process beside it holds the runs of all trials."""

from __future__ import annotations

from typing import Any

import ray
from ray.air.constants import TRAINING_ITERATION
from ray.tune.logger import LoggerCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_PATIENCE_S = 100.0


class RunsBeside(LoggerCallback):
    """The runs of a sweep in one process on the driver's node, where its files are; it takes no CPU from trials.

    Args:
        kind: class of the object in the process, with the methods ready(), start(trial id, name, group, config,
            folder), log(trial id, numbers, step) and finish(trial id, failed).
        args: its arguments. They go from process to process in memory: no log shows them.
        group: the group of every run; None: the seeds of a setting share one.
    """

    def __init__(self, kind: type, *args: Any, group: str | None):
        here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(kind)
        self._process, self._group = actor.remote(*args), group

    def setup(self, *args: Any, **info: Any) -> None:
        """Wait until the process is ready. Raises the error that it met."""
        self._ask("ready")

    def log_trial_start(self, trial: Any) -> None:
        group = self._group or trial.experiment_dir_name
        self._ask("start", trial.trial_id, str(trial), group, trial.config, trial.local_path)

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        numbers = {key: value for key, value in result.items() if key != TRAINING_ITERATION}
        self._ask("log", trial.trial_id, numbers, result[TRAINING_ITERATION])

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        self._ask("finish", trial.trial_id, failed)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        ray.kill(self._process)

    def _ask(self, method: str, *args: Any) -> None:
        ray.get(getattr(self._process, method).remote(*args), timeout=_PATIENCE_S)
