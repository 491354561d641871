"""What the command and the Python interface do alike: run what is left of a sweep on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.driver.display import Display
from selgen_ray.driver.plan import Plan
from selgen_ray.errors import ClusterError
from selgen_ray.space import SweepSpec
from selgen_ray.storage.leases import Lease


def launch_sweep(
    spec: SweepSpec,
    plan: Plan,
    display: Display,
    abandon: Callable[[str], None],
    lease: Lease,
    time_budget_s: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> str | None:
    """Run the trials that a plan leaves to run; return why the sweep ended early, or None if it did not.

    A cluster that this process had joined before is used and left as it is.

    Args:
        abandon: called when the cluster is gone, see `cluster.tune_sweep.Launch`.
        say: gets a line about the cluster.

    Raises:
        ClusterError: nothing answers at RAY_ADDRESS.
        InfeasibleError: no node can hold a trial, or Ray did not start.
        TrackerError: a tracker cannot be set up.
        SweepLostError: another process has the sweep.
        KeyboardInterrupt: a second Ctrl-C.
    """
    # late: start-up, a dry run or a finished sweep needs no Ray
    from selgen_ray.cluster import cluster
    from selgen_ray.cluster.tune_sweep import Launch, launch, resolve, settings_of_tune

    tasks = [p.task for p in plan.planned] + [task for search in plan.searches for task in plan.samples(search)]
    shared = FinetuneConfig.model_fields.keys()
    configs = [{k: v for k, v in task.config.get("finetune_config", {}).items() if k in shared} for task in tasks]
    with settings_of_tune():  # before Ray begins threads
        connection = None
        try:
            connection = cluster.connect(spec.resources)
            granted = resolve(spec.resources)
            cluster.check_hardware(map(FinetuneConfig.model_validate, configs), granted.gpus_per_process)
            if connection.dashboard:
                say(f"dashboard: {connection.dashboard}")
            run = Launch(spec, plan, granted, display, abandon, lease, time_budget_s, connection.is_private)
            return launch(run)
        except ConnectionError as error:
            hint = "Is it running? One with token authentication needs RAY_AUTH_MODE=token."
            raise ClusterError(f"RAY_ADDRESS {os.environ.get('RAY_ADDRESS')!r}: {error}. {hint}") from error
        finally:
            if connection is None or connection.is_ours:
                cluster.disconnect()
