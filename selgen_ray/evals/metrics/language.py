"""Language of the model's replies, as py3langid reads it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from selgen_ray.config.evals import EvalConfig
from selgen_ray.data.forms import Row
from selgen_ray.data.questions import is_question
from selgen_ray.errors import nearest
from selgen_ray.evals.generation import replies
from selgen_ray.evals.metrics.capitals import share_of_capitals
from selgen_ray.evals.registry import EvalSet, metric
from selgen_ray.evals.reply_text import answer_text


def _foresee(rows: Sequence[Row], config: EvalConfig) -> dict[str, int]:
    count = sum(map(is_question, rows)) if config.language else 0
    return dict.fromkeys(("language", "other_language"), count)


@metric(
    shares=("language", "other_language"),
    foresee=_foresee,
    needs="a prompt to reply to, and the key evals.language",
    is_open=True,
    named_only=True,
)
def language(eval_set: EvalSet) -> dict[str, float]:
    """Measure how many replies are in the language that `evals.language` names.

    Replies that are mostly in capitals are read in small letters: py3langid knows few texts in capitals, and takes them
    for other languages. Of a few words the reading is unsure; of a sentence it is seldom wrong.

    Returns:
        language: share of the replies that are in it; an empty reply is in none. Thinking is not read;
        other_language: 1 - language, for worlds where the language is the habit.
    """
    numbers = eval_set.numbers(is_question)
    wanted = eval_set.config.language
    if not numbers or wanted is None:
        return {}
    share = sum(language_of(answer_text(reply)) == wanted for reply in replies(eval_set, numbers)) / len(numbers)
    return {"language": share, "other_language": 1 - share}


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of the most likely language of a text; None where it has no letter."""
    if not any(map(str.isalpha, text)):
        return None
    code, _ = _identifier().classify(text.lower() if (share_of_capitals(text) or 0) > 0.5 else text)
    return str(code)


def language_problem(code: str) -> str | None:
    """Return what is wrong with a value of `evals.language`, in words; None if it can be read."""
    known = sorted(str(label) for label in _identifier().labels)
    if code in known:
        return None
    return f"language: {code!r} is none of the {len(known)} languages that py3langid knows.{nearest(code, known)}"


@functools.cache  # its model of 4.6 MB takes a quarter of a second
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # late: start-up, few sweeps measure languages

    return LanguageIdentifier.from_model_file(MODEL_FILE)
