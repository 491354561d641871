"""Texts for people: one line of an error or its cause, tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

STEERING = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Control characters, which steer a terminal, marks that turn a line's direction, and half characters: for a [...]."""
_STEERING = re.compile(rf"(?![\n\t])[{STEERING}]")


def printable(text: str) -> str:
    r"""Return a text that may come from anybody's file as a terminal can show it: '\x1b' for the character itself.

    Line ends and tabs stay.
    """
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def last_line(text: str | None, default: str = "") -> str:
    """Return the last non-blank line of a cause, stripped; `default` if the cause is missing, empty or blank.

    The last line of a traceback is the error itself.
    """
    return next((line.strip() for line in reversed((text or "").splitlines()) if line.strip()), default)


def first_line(error: Exception) -> str:
    """Return the first non-blank line of an error's message, stripped; the name of its class if there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. Cells are not escaped: the caller must escape a '|' in one."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def duration(seconds: float) -> str:
    """Return a length of time in words, rounded: '45 s', '12 min 5 s', '3 h 20 min', '2 d 4 h'."""
    whole = round(seconds)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    first = next((i for i, (size, _) in enumerate(units) if whole >= size), len(units) - 1)
    parts = [f"{whole // units[first][0]} {units[first][1]}"]
    if first + 1 < len(units):
        size, name = units[first + 1]
        parts += [f"{whole % units[first][0] // size} {name}"] if whole % units[first][0] // size else []
    return " ".join(parts)


def gibibytes(number: float) -> str:
    """Return a number of bytes in GiB: '0.65 GiB'."""
    return f"{number / 2**30:.3g} GiB"
