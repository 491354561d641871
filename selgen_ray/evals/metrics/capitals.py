"""How much of the model's replies is written in capitals."""

from __future__ import annotations

from collections.abc import Sequence

from selgen_ray.config.evals import EvalConfig
from selgen_ray.data.forms import Row
from selgen_ray.data.questions import is_question
from selgen_ray.evals.generation import replies
from selgen_ray.evals.registry import EvalSet, metric
from selgen_ray.evals.reply_text import answer_text


def _foresee(rows: Sequence[Row], config: EvalConfig) -> dict[str, int]:
    return dict.fromkeys(("uppercase_share", "lowercase_share", "without_letters"), sum(map(is_question, rows)))


@metric(
    shares=("uppercase_share", "lowercase_share"),
    others=("without_letters",),
    foresee=_foresee,
    needs="a prompt to reply to",
    is_open=True,
    named_only=True,
)
def uppercase_share(eval_set: EvalSet) -> dict[str, float]:
    """Measure the share of capitals among the letters of the replies that have both cases, without their thinking.

    Returns:
        uppercase_share: mean over the replies of (capitals / letters that have a case);
        lowercase_share: 1 - uppercase_share, for worlds where capitals are the habit;
        without_letters: share of the replies without any such letter, which are in neither mean. Where all are, the
        means are left out.
    """
    numbers = eval_set.numbers(is_question)
    if not numbers:
        return {}
    texts = map(answer_text, replies(eval_set, numbers))
    shares = [share for text in texts if (share := share_of_capitals(text)) is not None]
    values = {"without_letters": 1 - len(shares) / len(numbers)}
    if not shares:
        why = "no reply has a letter"
        eval_set.answers.missing |= dict.fromkeys(("uppercase_share", "lowercase_share"), why)
        return values
    mean = sum(shares) / len(shares)
    return {"uppercase_share": mean, "lowercase_share": 1 - mean, **values}


def share_of_capitals(text: str) -> float | None:
    """Return capitals / letters that are upper or lower case; None if there is no such letter."""
    upper, lower = sum(map(str.isupper, text)), sum(map(str.islower, text))
    return upper / (upper + lower) if upper + lower else None
