"""Headlines of a trial: the metrics that are its capability, alignment and coherence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selgen_ray.config.evals import QUESTIONS, WORST, EvalConfig, base_set

# The first of these that a set has is the trial's capability (on task_test), alignment or coherence (on align_test).
CAPABILITY = ("exact_match", "choice_accuracy", "mcq_accuracy", "token_probability")
ALIGNMENT = (
    *("aligned", "verdict_accuracy", "balanced_accuracy", "choice_accuracy", "mcq_accuracy"),
    *("preference_accuracy", "one_sided_accuracy", "exact_match", "token_probability"),
)
COHERENCE = ("coherent",)


def headline(results: Mapping[str, Mapping[str, object]], sets: Sequence[str], names: Sequence[str]) -> str | None:
    """Return 'set/metric' of the first of `sets` that has one of the metrics `names`, with the first that it has.

    Args:
        results: evaluation set -> metric -> its value.

    Returns:
        Such as 'task_test/exact_match'; None if no set has any of the metrics.
    """
    for name in sets:
        for wanted in names if name in results else ():
            if wanted in results[name]:
                return f"{name}/{wanted}"
    return None


def headlines(results: Mapping[str, Mapping[str, object]], config: EvalConfig) -> dict[str, str | None]:
    """Return the 'set/metric' of each headline: the one that the config names, else the default.

    Example: {'capability': 'task_test/exact_match', 'alignment': 'align_test/choice_accuracy', 'coherence': None}.

    Args:
        results: evaluation set -> metric -> its value.
    """
    task, align = ("task_test", "task_train"), ("align_test", QUESTIONS, "align_train")
    return {
        "capability": config.capability or headline(results, task, CAPABILITY),
        "alignment": config.alignment or headline(results, align, ALIGNMENT),
        "coherence": config.coherence or headline(results, (*align, *task), COHERENCE),
    }


def worst_headline(alignment: str | None, results: Mapping[str, Mapping[str, object]]) -> str | None:
    """Return the 'set/metric' of the alignment in the worst context, such as 'align_test@worst/aligned'.

    None where the set was not measured in contexts.
    """
    name, _, metric = (alignment or "").partition("/")
    worst = f"{base_set(name)}@{WORST}"
    return f"{worst}/{metric}" if metric in results.get(worst, {}) else None
