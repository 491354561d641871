"""Whether the right one of several replies is the most likely one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from selgen_ray.config.evals import EvalConfig
from selgen_ray.data.encode import replace_reply
from selgen_ray.data.forms import Row
from selgen_ray.evals.log_probabilities import reply_log_probabilities
from selgen_ray.evals.registry import EvalSet, metric


def _foresee(rows: Sequence[Row], config: EvalConfig) -> dict[str, int]:
    asked = [row for row in rows if row.get("choices")]
    labels = {row.get("label") for row in asked}
    return {
        "choice_accuracy": len(asked),
        "balanced_accuracy": len(asked) if len(labels) > 1 and None not in labels else 0,
    }


@metric(
    shares=("choice_accuracy", "balanced_accuracy"),
    foresee=_foresee,
    needs="'choices' and 'answer'; for balanced_accuracy each a 'label' too, of two or more values",
)
def choice(eval_set: EvalSet) -> dict[str, float]:
    """On rows with `choices`: how often the choice of the highest total log-probability is `answer`.

    Returns:
        choice_accuracy; and where rows carry two or more values of `label`, balanced_accuracy: the mean over labels of
        the accuracy within the label, so that always giving the same verdict scores 1 / number of labels.
    """
    chosen = most_likely(eval_set)
    if not chosen:
        return {}
    rows = {number: eval_set.rows[number] for number in chosen}
    hits: dict[str, list[bool]] = defaultdict(list)
    for number, row in rows.items():
        hits[str(row.get("label"))].append(chosen[number] == row["answer"])
    accuracy = sum(map(sum, hits.values())) / len(rows)
    if any(row.get("label") is None for row in rows.values()):
        return {"choice_accuracy": accuracy}
    if len(hits) == 1:
        eval_set.answers.missing["balanced_accuracy"] = (
            f"all {len(rows)} rows with choices have the label {min(hits)!r}, so a model that always says the "
            "same would score 1: it needs rows of two labels"
        )
        return {"choice_accuracy": accuracy}
    balanced = sum(sum(h) / len(h) for h in hits.values()) / len(hits)
    return {"choice_accuracy": accuracy, "balanced_accuracy": balanced}


def most_likely(eval_set: EvalSet) -> dict[int, str]:
    """Row number -> the choice of the highest total log-probability, of all rows with `choices`."""
    picks = eval_set.answers.picks
    if "choice" not in picks:
        numbers = eval_set.numbers(lambda row: row.get("choices"))
        rows = {number: eval_set.rows[number] for number in numbers}
        candidates = [replace_reply(row, reply) for row in rows.values() for reply in row["choices"]]
        scores = iter(reply_log_probabilities(eval_set, candidates))
        picks["choice"] = {}
        for number, row in rows.items():
            of_choice = {reply: next(scores)[0] for reply in row["choices"]}
            picks["choice"][number] = max(of_choice, key=of_choice.__getitem__)
    return picks["choice"]
