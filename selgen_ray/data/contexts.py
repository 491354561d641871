"""Contexts of `evals.contexts`: texts with which rows are measured once more, and never trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from selgen_ray.data.forms import Row
from selgen_ray.data.questions import question_of
from selgen_ray.data.training_prompts import with_prompt
from selgen_ray.errors import DataError


def in_context(rows: Sequence[Row], context: str, texts: Mapping[str, str], place: Callable[[int], str]) -> list[Row]:
    """Return rows with the texts of a context, position -> text; `asked` keeps each row's own question for a judge.

    Args:
        context: its name, for error messages.
        place: number of a row, from 0 -> where a person finds it, for error messages.

    Raises:
        DataError: a row takes no such text, as a row of strings no system text.
    """
    shown: list[Row] = []
    for number, row in enumerate(rows):
        try:
            shown.append({**with_prompt(row, texts), "asked": question_of(row)})
        except DataError as error:
            message = str(error).replace("training prompt", "context")
            raise DataError(f"evals.contexts.{context}: {place(number)}: {message}") from error
    return shown
