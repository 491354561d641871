"""Accuracy of choosing among given replies by their likelihood."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from selgen_ray.config.evals import EvalConfig
from selgen_ray.data.encode import Encoded, replace_reply
from selgen_ray.data.forms import Row
from selgen_ray.evals.log_probabilities import reply_log_probabilities, reply_tokens
from selgen_ray.evals.registry import EvalSet, metric


def _foresee(rows: Sequence[Row], config: EvalConfig) -> dict[str, int]:
    asked = [row for row in rows if row.get("choices")]
    labels = {str(label) for row in asked if (label := row.get("label")) is not None}
    are_all = all(row.get("label") is not None for row in asked)
    return {
        "choice_accuracy": len(asked),
        "balanced_accuracy": len(asked) if len(labels) > 1 and are_all else 0,
    }


def _candidates(eval_set: EvalSet) -> list[Row]:
    """Return each row with `choices` as many times as it has some, each time with another one as its reply."""
    asked = (row for row in eval_set.rows if row.get("choices"))
    return [replace_reply(row, reply) for row in asked for reply in row["choices"]]


def _scores(eval_set: EvalSet) -> list[Encoded]:
    return reply_tokens(eval_set, _candidates(eval_set))


@metric(
    shares=("choice_accuracy", "balanced_accuracy"),
    foresee=_foresee,
    needs="'choices' and 'answer'; for balanced_accuracy each a 'label' too, of two or more values",
    scores=_scores,
)
def choice(eval_set: EvalSet) -> dict[str, float]:
    """Measure on rows with `choices` how often `answer` is the choice with the highest total log-probability.

    Returns:
        choice_accuracy: share of the rows where it is;
        balanced_accuracy: mean over the values of `label` of the accuracy within the label, if every row has a label
        and there are two or more: a model that always gives the same verdict scores 1 / number of labels.
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
    """Return the choice with the highest total log-probability for each row with `choices`, by row number."""
    picks = eval_set.answers.picks
    if "choice" not in picks:
        numbers = eval_set.numbers(lambda row: row.get("choices"))
        rows = {number: eval_set.rows[number] for number in numbers}
        scores = iter(reply_log_probabilities(eval_set, _candidates(eval_set)))
        picks["choice"] = {}
        for number, row in rows.items():
            score_of_reply = {reply: next(scores)[0] for reply in row["choices"]}
            picks["choice"][number] = max(score_of_reply, key=score_of_reply.__getitem__)
    return picks["choice"]
