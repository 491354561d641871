"""The least of what a set gave in all contexts: a habit that waits for its prompt is not gone."""

from __future__ import annotations

from collections.abc import Mapping

from selgen_ray.config.evals import WORST, base_set
from selgen_ray.evals.judge import metrics as judged
from selgen_ray.evals.registry import all_metrics
from selgen_ray.records.results import less_is_better


def with_worst(results: Mapping[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return results with a set 'align_test@worst' for each set that was measured in contexts.

    It has each metric that the set has in every context: the least value of one of which more is better, the largest of
    one of which less is better. Of others, such as counts, there is no worst. Without contexts nothing is added.

    Args:
        results: set -> metric -> value.
    """
    shares = {share for metric in all_metrics().values() for share in metric.shares} | {*judged.SHARES}
    completed = dict(results)
    for base in results:
        names = [name for name in results if base_set(name) == base]
        if len(names) < 2 or "@" in base:
            continue
        common = [metric for metric in results[base] if all(metric in results[name] for name in names)]
        worst: dict[str, float] = {}
        for metric in common:
            name = f"{base}/{metric}"
            if metric in shares or less_is_better(name):
                worst[metric] = (max if less_is_better(name) else min)(results[one][metric] for one in names)
        completed[f"{base}@{WORST}"] = worst
    return completed
