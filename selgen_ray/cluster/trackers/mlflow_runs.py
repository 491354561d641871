"""MLflow by Ray's MLflowLoggerCallback: an experiment for the sweep, a run for each trial."""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Any

from ray.air.constants import TRAINING_ITERATION
from ray.air.integrations.mlflow import MLflowLoggerCallback

from selgen_ray.space.tracker_options import MLflow

_TAG = "selgen_trial"


class MLflowRuns(MLflowLoggerCallback):
    """Ray's, but a trial that goes on goes on in its run, and a report is one request.

    Args:
        options: of the search space.
        sweep: its name.
        database: URI of the default database.
    """

    def __init__(self, options: MLflow, sweep: str, database: str):
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)  # they tell of each table they make
        super().__init__(
            tracking_uri=options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or database,
            experiment_name=options.experiment_name or sweep,
            tags=dict(options.tags),
        )

    def log_trial_start(self, trial: Any) -> None:
        client = self.mlflow_util._get_client()  # pyright: ignore[reportPrivateUsage]
        experiment = self.mlflow_util.experiment_id
        found = client.search_runs([str(experiment)], f"tags.{_TAG} = '{trial.trial_id}'", max_results=1)
        if found:
            self._trial_runs[trial] = found[0].info.run_id
            client.update_run(found[0].info.run_id, status="RUNNING")
        super().log_trial_start(trial)
        client.set_tag(self._trial_runs[trial], _TAG, trial.trial_id)
        client.set_tag(self._trial_runs[trial], "group", trial.experiment_dir_name)

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now, step = int(time.time() * 1000), result[TRAINING_ITERATION]
        metrics = [
            Metric(re.sub(r"[^\w\-. /]", "_", key), value, now, step)  # names with other characters are refused
            for key, value in result.items()
            if key != TRAINING_ITERATION
        ]
        client = self.mlflow_util._get_client()  # pyright: ignore[reportPrivateUsage]
        client.log_batch(self._trial_runs[trial], metrics=metrics)
