"""Texts for people: one line of a cause, tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def last_line(text: str | None, default: str = "") -> str:
    """Return the last line of a cause that is not blank, without the space around it.

    A traceback ends with the error itself. A cause may be missing, empty or blank: then `default` is returned.
    """
    return next((line.strip() for line in reversed((text or "").splitlines()) if line.strip()), default)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message that is not blank; the name of its class if it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are written as they are, so a '|' in one must be escaped by the caller."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
