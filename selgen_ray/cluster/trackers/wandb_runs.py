"""Weights & Biases by Ray's WandbLoggerCallback: a run for each trial, in a process of its own."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray
from ray.air.constants import TRAINING_ITERATION
from ray.air.integrations import wandb as integration

from selgen_ray.cluster.trackers.processes import beside_driver
from selgen_ray.space.tracker_options import Wandb

logger = logging.getLogger(__name__)


class _RunProcess(integration._WandbLoggingActor):  # pyright: ignore[reportPrivateUsage]
    """Ray's, but with our step as the axis, so that a run that goes on from a checkpoint overlaps itself."""

    def __init__(self, *args: Any, environment: dict[str, str], **kwargs: Any):
        os.environ.update(environment)
        super().__init__(*args, **kwargs)
        self._axes: set[str] = set()

    def _handle_result(self, result: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        numbers = {key: value for key, value in result.items() if key != TRAINING_ITERATION}
        for axis in {"step", *(key for key in numbers if key.endswith("/step"))} - self._axes:
            self._axes.add(axis)
            self._wandb.define_metric(f"{axis.removesuffix('step')}*", step_metric=axis)
        return numbers, {}


class WandbRuns(integration.WandbLoggerCallback):
    """Ray's, but with the credentials and the mode of this process handed over in memory.

    Ray would write the key into a runtime environment, which the cluster's logs show.
    """

    def __init__(self, options: Wandb, sweep: str):
        given = options.model_dump(exclude={"dir", "project", "group"}, exclude_none=True, exclude_defaults=True)
        super().__init__(group=options.group, upload_timeout=100, resume="allow", **given)
        self.project = options.project or os.environ.get("WANDB_PROJECT") or sweep
        # Ray sets its class when the first trial starts, unless there is one
        self._remote_logger_class = beside_driver(_RunProcess)

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: credentials were looked for when the search space was read."""

    def _start_logging_actor(self, trial: Any, exclude_results: list[str], **init: Any) -> None:
        # a cluster that was started elsewhere does not know this process's environment
        environment = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
        super()._start_logging_actor(trial, exclude_results, environment=environment, **init)

    def _cleanup_logging_actor(self, trial: Any) -> None:
        done = self._trial_logging_futures[trial]
        super()._cleanup_logging_actor(trial)
        try:
            ray.get(done, timeout=10)  # Ray does not look how it ended
        except Exception as error:
            logger.warning("tracker wandb: %s: %s", trial, str(error).strip().splitlines()[-1])

    def __del__(self) -> None:
        """Nothing: `on_experiment_end` has cleaned up, and Ray's cleaning up fails while Python ends."""
