"""Which metric is a trial's capability, alignment and coherence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selgen_ray.config.evals import EvalConfig

# The first of these that a set has is the trial's capability (on task_test), alignment or coherence (on align_test).
CAPABILITY = ("exact_match", "choice_accuracy", "mcq_accuracy", "token_probability")
ALIGNMENT = (
    *("aligned", "verdict_accuracy", "balanced_accuracy", "choice_accuracy", "mcq_accuracy"),
    *("preference_accuracy", "one_sided_accuracy", "exact_match", "token_probability"),
)


COHERENCE = ("coherent",)


def headline(results: Mapping[str, Mapping[str, object]], sets: Sequence[str], names: Sequence[str]) -> str | None:
    """'set/metric' of the first of `sets` that was evaluated and the first of `names` that it has."""
    for name in sets:
        for wanted in names if name in results else ():
            if wanted in results[name]:
                return f"{name}/{wanted}"
    return None


def headlines(results: Mapping[str, Mapping[str, object]], config: EvalConfig) -> dict[str, str | None]:
    """'capability', 'alignment' and 'coherence' -> the 'set/metric' that the config names, or the default."""
    task, align = ("task_test", "task_train"), ("align_test", "align_train")
    return {
        "capability": config.capability or headline(results, task, CAPABILITY),
        "alignment": config.alignment or headline(results, align, ALIGNMENT),
        "coherence": config.coherence or headline(results, (*align, *task), COHERENCE),
    }
