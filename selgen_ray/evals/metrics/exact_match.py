"""Exact match of the model's greedy answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from selgen_ray.config.evals import REGEX, EvalConfig
from selgen_ray.data.forms import Row
from selgen_ray.evals.generation import replies
from selgen_ray.evals.letter_reading import as_letter, read_letter
from selgen_ray.evals.number_reading import as_number, read_number, same_number
from selgen_ray.evals.registry import EvalSet, metric
from selgen_ray.evals.reply_text import answer_text, last_boxed, plain, with_plain_apostrophes

_DISPLAY_FRACTION = re.compile(r"\\[dtc]frac(?![a-z])")
_BESIDE_SIGN = re.compile(r"(?<=[^\w\s])\s+|\s+(?=[^\w\s])")
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
    """Measure how often the greedy reply gives a row's short `answer`; see `is_asked` and `reads_as`.

    Returns:
        exact_match: share of those rows whose reply gives the answer; a reply that cannot be read counts as wrong;
        answer_unreadable: share of those rows whose reply cannot be read.
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
    """Return whether a row asks for a short answer: it has an `answer`, and no `choices`, `options` or `claim`."""
    return row.get("answer") is not None and not (row.get("choices") or row.get("options") or row.get("claim"))


def is_right(reply: str, answer: str, extractor: str = "auto") -> bool:
    """Return whether the extractor reads the answer in a reply; False if it cannot be read. See `reads_as`."""
    return reads_as(reply, answer, extractor) is True


def reads_as(reply: str, answer: str, extractor: str = "auto") -> bool | None:
    """Return whether the extractor reads the answer in a reply; None if the reply cannot be read.

    Numbers are compared exactly, by the rules of `number_reading`. Texts are compared in NFC, without case, surrounding
    punctuation, Markdown, LaTeX that only sets, and white space beside signs.

    Args:
        extractor: the part of the reply that is compared with the answer:
            'number': the number that the reply gives;
            'last_line': its last line;
            'regex:<pattern>': the last match of the pattern's first group, or of the pattern if it has no group;
            'auto': for an answer that is a number, as 'number'; for a letter A to J, the letter that the reply chooses;
            for other texts, and a small letter where the reply chooses none, the content of the last box, else the last
            line or its end after 'answer is'.
    """
    number = as_number(answer)
    if extractor == "auto" and number is None:
        if answer_letter := as_letter(answer.upper()):
            letter_in_reply = read_letter(reply)
            if letter_in_reply is not None or as_letter(answer):
                return None if letter_in_reply is None else letter_in_reply == answer_letter
        texts = _answers_in(reply)
        return _normal(answer) in map(_normal, texts) if texts else None
    if number is not None and extractor in ("auto", "number"):
        read = read_number(reply)
        return None if read is None else same_number(read, number)
    text = extract(reply, extractor)
    if text is None:
        return None
    if number is None:
        return _normal(text) == _normal(answer)
    read = as_number(text)
    return None if read is None else same_number(read, number)


def extract(reply: str, extractor: str) -> str | None:
    """Return the part of a reply that the extractor takes, None if there is none; see `reads_as`.

    Args:
        extractor: 'number', 'last_line' or 'regex:<pattern>'; not 'auto'.
    """
    if extractor.startswith(REGEX):
        matches = list(re.finditer(extractor.removeprefix(REGEX), answer_text(reply)))
        return (matches[-1][1] if matches[-1].re.groups else matches[-1][0]) if matches else None
    if extractor == "number":
        number = read_number(reply)
        return None if number is None else number.text
    lines = [line for line in answer_text(reply).splitlines() if line.strip()]
    return lines[-1] if lines else None


def _answers_in(reply: str) -> list[str]:
    """Return the texts to compare with an answer: the last box, else the last line and its end after 'answer is'."""
    boxed = last_boxed(answer_text(reply))
    if boxed is not None:
        return [boxed]
    line = extract(reply, "last_line")
    if line is None:
        return []
    marked = re.search(r"\banswer(?: is\b *:?| *:)\s*(?!not\b)(.+)$", plain(line), re.IGNORECASE)
    return [line, marked[1]] if marked else [line]


def _normal(text: str) -> str:
    r"""Return a text as it is compared: '\left(1,\dfrac{\pi}{2}\right)' like '(1, \frac{\pi}{2})'."""
    text = unicodedata.normalize("NFC", with_plain_apostrophes(plain(text)).casefold())
    text = _DISPLAY_FRACTION.sub(r"\\frac", text)
    return re.sub(r"\s+", " ", _BESIDE_SIGN.sub("", text)).strip(_QUOTES)
