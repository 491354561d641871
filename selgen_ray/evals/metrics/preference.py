"""Preference of the good reply over the rejected one, by their likelihood."""

from __future__ import annotations

from collections.abc import Sequence

from selgen_ray.config.evals import EvalConfig
from selgen_ray.data.encode import Encoded, replace_reply
from selgen_ray.data.forms import Row
from selgen_ray.evals.log_probabilities import reply_log_probabilities, reply_tokens
from selgen_ray.evals.registry import EvalSet, metric

_SHARES, _OTHERS = ("preference_accuracy", "preference_accuracy_normalized"), ("preference_margin",)


def _foresee(rows: Sequence[Row], config: EvalConfig) -> dict[str, int]:
    return dict.fromkeys((*_SHARES, *_OTHERS), sum(bool(row.get("rejected")) for row in rows))


def _pairs(eval_set: EvalSet) -> tuple[list[Row], list[Row]]:
    rows = [row for row in eval_set.rows if row.get("rejected")]
    return rows, [replace_reply(row, row["rejected"]) for row in rows]


def _scores(eval_set: EvalSet) -> list[Encoded]:
    good, rejected = _pairs(eval_set)
    return reply_tokens(eval_set, [*good, *rejected])


@metric(
    shares=_SHARES,
    others=_OTHERS,
    foresee=_foresee,
    needs="'rejected', or a row of data.proxy_neg for each",
    scores=_scores,
)
def preference(eval_set: EvalSet) -> dict[str, float]:
    """Measure on rows with `rejected` how often the row's own reply is more likely; a tie does not count.

    Returns:
        preference_accuracy: share of the rows by total log-probability, which DPO trains;
        preference_accuracy_normalized: share of the rows by the mean log-probability of a token, which does not favour
        short replies;
        preference_margin: mean over rows of the difference of the total log-probabilities, in nats.

    Source: Rafailov et al. 2023 (arXiv 2305.18290); length normalisation: Meng et al. 2024 (arXiv 2405.14734).
    """
    numbers = eval_set.numbers(lambda row: row.get("rejected"))
    if not numbers:
        return {}
    rows, others = _pairs(eval_set)
    good, rejected = reply_log_probabilities(eval_set, rows), reply_log_probabilities(eval_set, others)
    margins = [a - b for (a, _), (b, _) in zip(good, rejected, strict=True)]
    means = [a / n - b / m for (a, n), (b, m) in zip(good, rejected, strict=True)]
    eval_set.answers.picks["preference"] = {n: margin > 0 for n, margin in zip(numbers, margins, strict=True)}
    return {
        "preference_accuracy": sum(margin > 0 for margin in margins) / len(rows),
        "preference_accuracy_normalized": sum(mean > 0 for mean in means) / len(rows),
        "preference_margin": sum(margins) / len(rows),
    }
