"""Our trials in a Ray TorchTrainer of one's own, on one or several workers.

config = {"space": "space.yaml", "proxy_strategy": "kl_divergence", "seed": 1, "finetune_config.beta_kl": 3}
trainer = TorchTrainer(selgen_ray.train.loop, train_loop_config=config, scaling_config=ScalingConfig(num_workers=2))
trainer.fit()
"""

from __future__ import annotations

from typing import Any

from selgen_ray.cluster.own_runs import run_train_loop
from selgen_ray.errors import Problem, SpecError
from selgen_ray.sweep.interface import Sweep

__all__ = ["loop"]


def loop(config: dict[str, Any]) -> None:
    """Run a trial on the workers of a TorchTrainer together: its `train_loop_per_worker`.

    The weights are those of a trial with `resources.workers` in a sweep, and so is its id. After each evaluation all
    workers report its metrics with a checkpoint; a run that Ray restarts goes on from it.

    Args:
        config: 'space' (a search space: a path that all workers see, or a dict), 'folder' (where results.json goes;
            default as in `selgen_ray.tune.trainable`), and values of our config keys as there.

    Raises:
        SpecError: the search space or a value is wrong.
        TrialError: a loss or a metric became NaN or infinite.
    """
    values = dict(config)
    sweep = Sweep.of(values.pop("space"))
    if "folder" not in values and not sweep.is_placed:
        message = "is relative, but a worker has a current directory of its own: give an absolute one, or 'folder'."
        raise SpecError([Problem("", None, "storage_path", message)])
    run_train_loop(sweep.source(values.pop("folder", None)), values, sweep.spec.resources)
