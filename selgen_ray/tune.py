"""Our trials in a Ray Tuner of one's own, with its schedulers and searchers.

space = "space.yaml"
tuner = ray.tune.Tuner(selgen_ray.tune.trainable(space), param_space=selgen_ray.tune.param_space(space))
tuner.fit()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from selgen_ray.cluster.own_runs import param_space_of, trainable_of
from selgen_ray.sweep.interface import Sweep

__all__ = ["param_space", "trainable"]


def param_space(space: Sweep | str | Path | Mapping[str, Any], strategy: str | None = None) -> dict[str, Any]:
    """Return a search space of Ray Tune for a Tuner of one's own.

    Axes of `grid`, and the seeds, are `tune.grid_search`; ranges of `search` are `tune.loguniform`, `uniform`,
    `randint`, `lograndint` or `choice`, whatever the section's algorithm: the Tuner's searcher takes its place. Values
    of `zip` are a grid of dicts, under a key that begins with 'together'.

    Of one strategy it is flat, {'proxy_strategy': 'kl_divergence', 'finetune_config.beta_kl': ..., 'seed': ...}, as
    schedulers that change values need it. Strategies have axes of their own; so several are {'setting': a grid of such
    dicts}, which only Tune's basic variant generator takes.

    Args:
        space: a search space: a `Sweep`, the path of a YAML file, or a dict.
        strategy: take this one alone.

    Raises:
        SpecError: the search space is wrong, has no such strategy, or excludes trials, which a grid cannot.
    """
    return param_space_of(Sweep.of(space).spec.open_space, strategy)


def trainable(
    space: Sweep | str | Path | Mapping[str, Any], folder: str | Path | None = None
) -> Callable[[dict[str, Any]], None]:
    """Return a function trainable for a Tuner of one's own.

    Its config has values of our config keys, dotted or nested, over those of the search space: `proxy_strategy` (or
    'section', such as 'overrides[0]') says which section they are laid over. After each evaluation (`evals.during`) it
    reports all metrics ('capability', 'align_test/loss', 'epoch', 'step', ...) with a checkpoint, from which any trial
    can go on with other strengths: float knobs such as beta_kl, and nothing else. Each trial asks for what the search
    space's `resources` say; `tune.with_resources` overrides that.

    Args:
        space: as in `param_space`.
        folder: where results.json go, a folder or URI that all nodes see; default: that of the sweep of the same
            search space with '_own' after its name, so that a run of the sweep does not take up a Tuner's trials.

    Raises:
        SpecError: the search space is wrong, or has `resources.workers`.
    """
    sweep = Sweep.of(space)
    return trainable_of(sweep.source(folder), sweep.spec.resources)
