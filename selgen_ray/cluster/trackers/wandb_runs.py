"""Weights & Biases: a run for each trial."""

from __future__ import annotations

import os
from typing import Any

from selgen_ray.cluster.trackers.processes import RunsBeside
from selgen_ray.space.tracker_options import Wandb


def wandb_runs(options: Wandb, sweep: str) -> RunsBeside:
    """Open one project for the sweep, with the credentials and the mode of this process handed over in memory.

    A cluster that was started elsewhere does not know this process's environment, and a runtime environment would show
    the key in the cluster's logs.
    """
    environment = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    given = options.model_dump(exclude={"dir", "project", "group"}, exclude_none=True, exclude_defaults=True)
    project = options.project or os.environ.get("WANDB_PROJECT") or sweep
    group = options.group or os.environ.get("WANDB_GROUP")
    return RunsBeside(_Process, environment, {"project": project, **given}, group=group)


class _Process:
    """Where W&B runs: it prints, and reads its settings from the environment."""

    def __init__(self, environment: dict[str, str], init: dict[str, Any]):
        os.environ.update(environment)
        self._init, self._runs = init, {}

    def ready(self) -> None:
        import wandb  # pyright: ignore[reportMissingImports, reportUnusedImport]  # noqa: F401

    def start(self, key: str, name: str, group: str, config: dict[str, Any], folder: str) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        options = {"id": key, "name": name, "group": group, "config": config, "dir": folder, **self._init}
        settings = wandb.Settings(console="off", silent=True)
        # 'create_new': the runs of other trials stay open
        run = wandb.init(resume="allow", reinit="create_new", allow_val_change=True, settings=settings, **options)
        # our step is the axis, so that a run that goes on from a checkpoint overlaps itself
        run.define_metric("*", step_metric="step")
        self._runs[key] = run, {"step"}

    def log(self, key: str, numbers: dict[str, float], step: int) -> None:
        run, axes = self._runs[key]
        for axis in {name for name in numbers if name.endswith("/step")} - axes:
            axes.add(axis)
            run.define_metric(f"{axis.removesuffix('step')}*", step_metric=axis)
        run.log(numbers)

    def finish(self, key: str, failed: bool) -> None:
        run, _ = self._runs.pop(key)
        run.finish(exit_code=int(failed))
