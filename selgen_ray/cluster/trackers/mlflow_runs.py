"""MLflow: an experiment for the sweep, a run for each trial."""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Any

from ray.air.constants import TRAINING_ITERATION
from ray.tune.logger import LoggerCallback

from selgen_ray.space.tracker_options import MLflow

_TAG = "selgen_trial"
_MOST = 100  # parameters per request


class MLflowRuns(LoggerCallback):
    """The runs of a sweep: a resumed trial continues its run, and each report is one request.

    Args:
        options: of the search space.
        sweep: its name.
        database: URI of the default database.
    """

    def __init__(self, options: MLflow, sweep: str, database: str):
        self._uri = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or database
        self._name, self._tags = options.experiment_name or sweep, dict(options.tags)
        self._runs: dict[str, str] = {}

    def setup(self, *args: Any, **info: Any) -> None:
        """Find the experiment, or make it. Raises MLflow's own errors."""
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)  # they log each table that they make
        self._client: Any = MlflowClient(self._uri)
        experiment = self._client.get_experiment_by_name(self._name)
        self._experiment = experiment.experiment_id if experiment else self._client.create_experiment(self._name)

    def log_trial_start(self, trial: Any) -> None:
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        earlier = self._client.search_runs([self._experiment], f"tags.{_TAG} = '{trial.trial_id}'", max_results=1)
        if earlier:
            self._runs[trial.trial_id] = earlier[0].info.run_id
            self._client.update_run(earlier[0].info.run_id, status="RUNNING")
            return
        tags = {**self._tags, _TAG: trial.trial_id, "group": trial.experiment_dir_name}
        run = self._client.create_run(self._experiment, tags=tags, run_name=str(trial))
        self._runs[trial.trial_id] = run.info.run_id
        params = [Param(_name(key), str(value)) for key, value in trial.config.items()]
        for start in range(0, len(params), _MOST):
            self._client.log_batch(run.info.run_id, params=params[start : start + _MOST])

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now, step = int(time.time() * 1000), result[TRAINING_ITERATION]
        numbers = {key: value for key, value in result.items() if key != TRAINING_ITERATION}
        metrics = [Metric(_name(key), value, now, step) for key, value in numbers.items()]
        self._client.log_batch(self._runs[trial.trial_id], metrics=metrics)

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        self._client.set_terminated(self._runs.pop(trial.trial_id), status="FAILED" if failed else "FINISHED")


def _name(key: str) -> str:
    """Replace the characters that MLflow refuses in a name."""
    return re.sub(r"[^\w\-. /]", "_", key)
