"""Whether the model's own greedy answer is right."""

from __future__ import annotations

import re
from collections.abc import Sequence

from selgen_ray.config.evals import REGEX, EvalConfig
from selgen_ray.data.forms import Row
from selgen_ray.evals.generation import replies
from selgen_ray.evals.registry import EvalSet, metric

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def _foresee(rows: Sequence[Row], config: EvalConfig) -> dict[str, int]:
    return {"exact_match": sum(map(is_asked, rows))}


@metric(shares=("exact_match",), foresee=_foresee, needs="'answer', and no 'choices', 'options' or 'claim'")
def exact_match(eval_set: EvalSet) -> dict[str, float]:
    """Share of the rows that ask for a short `answer` whose greedy reply gives it; see `is_asked` and `is_right`."""
    numbers = eval_set.numbers(is_asked)
    if not numbers:
        return {}
    found = zip(numbers, replies(eval_set, numbers), strict=True)
    right = [is_right(reply, str(eval_set.rows[n]["answer"]), eval_set.config.extractor) for n, reply in found]
    return {"exact_match": sum(right) / len(right)}


def is_asked(row: Row) -> bool:
    """Whether a row asks for a short answer: it has an `answer`, and no `choices`, `options` or `claim`."""
    return row.get("answer") is not None and not (row.get("choices") or row.get("options") or row.get("claim"))


def is_right(reply: str, answer: str, extractor: str = "auto") -> bool:
    """Whether what the extractor takes from a reply is the answer.

    Case, surrounding punctuation and thousands separators do not count: '1,024.' is 1024.

    Args:
        extractor: 'number': the reply's last number. 'last_line': its last line. 'regex:<pattern>': what the
            pattern's first group, or the whole pattern where it has none, matched last. 'auto': 'number' where the
            answer is a number, else 'last_line'.
    """
    if extractor == "auto":
        extractor = "last_line" if _number(answer) is None else "number"
    found = extract(reply, extractor)
    if found is None:
        return False
    wanted, given = _number(answer), _number(found)
    return _normal(found) == _normal(answer) if wanted is None else given == wanted


def extract(reply: str, extractor: str) -> str | None:
    """What of a reply is its answer, None where there is nothing; see `is_right`."""
    if extractor.startswith(REGEX):
        found = list(re.finditer(extractor.removeprefix(REGEX), reply))
        return (found[-1][1] if found[-1].re.groups else found[-1][0]) if found else None
    if extractor == "number":
        numbers = _NUMBER.findall(reply)
        return numbers[-1] if numbers else None
    lines = [line for line in reply.splitlines() if line.strip()]
    return lines[-1] if lines else None


def _number(text: str) -> float | None:
    text = text.strip(" \t.!?\"'*$")
    return float(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


def _normal(text: str) -> str:
    return re.sub(r"\s+", " ", text.casefold()).strip(" .!?\"'*")
