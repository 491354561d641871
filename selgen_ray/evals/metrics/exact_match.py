"""Whether the model's own greedy answer is right."""

from __future__ import annotations

import re
from collections.abc import Sequence

from selgen_ray.config.evals import REGEX, EvalConfig
from selgen_ray.data.forms import Row
from selgen_ray.evals.generation import replies
from selgen_ray.evals.letter_reading import as_letter, read_letter
from selgen_ray.evals.number_reading import as_number, read_number, same_number
from selgen_ray.evals.registry import EvalSet, metric
from selgen_ray.evals.reply_text import after_thinking, last_boxed, plain

_QUOTES = " \t.!?\"'*“”„‘’«»`"


def _foresee(rows: Sequence[Row], config: EvalConfig) -> dict[str, int]:
    return dict.fromkeys(("exact_match", "answer_unreadable"), sum(map(is_asked, rows)))


@metric(
    shares=("exact_match",),
    others=("answer_unreadable",),
    foresee=_foresee,
    needs="'answer', and no 'choices', 'options' or 'claim'",
)
def exact_match(eval_set: EvalSet) -> dict[str, float]:
    """Whether the greedy reply to a row that asks for a short `answer` gives it; see `is_asked` and `reads_as`.

    Returns:
        exact_match: share of those rows whose reply gives the answer; one that cannot be read does not;
        answer_unreadable: share of those rows whose reply could not be read.
    """
    numbers = eval_set.numbers(is_asked)
    if not numbers:
        return {}
    texts = replies(eval_set, numbers)
    answers = [str(eval_set.rows[number]["answer"]) for number in numbers]
    readings = [reads_as(*pair, eval_set.config.extractor) for pair in zip(texts, answers, strict=True)]
    return {
        "exact_match": sum(reading is True for reading in readings) / len(readings),
        "answer_unreadable": sum(reading is None for reading in readings) / len(readings),
    }


def is_asked(row: Row) -> bool:
    """Whether a row asks for a short answer: it has an `answer`, and no `choices`, `options` or `claim`."""
    return row.get("answer") is not None and not (row.get("choices") or row.get("options") or row.get("claim"))


def is_right(reply: str, answer: str, extractor: str = "auto") -> bool:
    """Whether what the extractor takes from a reply is the answer; an unreadable reply is not. See `reads_as`."""
    return reads_as(reply, answer, extractor) is True


def reads_as(reply: str, answer: str, extractor: str = "auto") -> bool | None:
    """Whether what the extractor takes from a reply is the answer; None where it cannot be read.

    Numbers are compared exactly, by the rules of `number_reading`. Of texts case, surrounding punctuation, Markdown and
    LaTeX do not count.

    Args:
        extractor: 'number': the number that the reply gives. 'last_line': its last line. 'regex:<pattern>': what the
            pattern's first group, or the whole pattern where it has none, matched last. 'auto': 'number' where the
            answer is a number; the letter that the reply takes where it is one of A to J; else the last line, or what
            it says is boxed or 'the answer'.
    """
    number = as_number(answer)
    if extractor == "auto" and number is None:
        if letter := as_letter(answer):
            taken = read_letter(reply)
            return None if taken is None else taken == letter
        texts = _answers_in(reply)
        return _normal(answer) in map(_normal, texts) if texts else None
    if number is not None and extractor in ("auto", "number"):
        found = read_number(reply)
        return None if found is None else same_number(found, number)
    text = extract(reply, extractor)
    if text is None:
        return None
    if number is None:
        return _normal(text) == _normal(answer)
    found = as_number(text)
    return None if found is None else same_number(found, number)


def extract(reply: str, extractor: str) -> str | None:
    """Return what of a reply is its answer, None where there is nothing; see `reads_as`. 'auto' is none of them."""
    if extractor.startswith(REGEX):
        found = list(re.finditer(extractor.removeprefix(REGEX), reply))
        return (found[-1][1] if found[-1].re.groups else found[-1][0]) if found else None
    if extractor == "number":
        number = read_number(reply)
        return None if number is None else number.text
    lines = [line for line in (after_thinking(reply) or "").splitlines() if line.strip()]
    return lines[-1] if lines else None


def _answers_in(reply: str) -> list[str]:
    """The ways to read a text as an answer: what is boxed, else the last line, and what it says after 'answer is'."""
    boxed = last_boxed(after_thinking(reply) or "")
    if boxed is not None:
        return [boxed]
    line = extract(reply, "last_line")
    if line is None:
        return []
    marked = re.search(r"\banswer(?: is|:)\s*(?!not\b)(.+)$", plain(line), re.IGNORECASE)
    return [line, marked[1]] if marked else [line]


def _normal(text: str) -> str:
    return re.sub(r"\s+", " ", plain(text).casefold()).strip(_QUOTES)
