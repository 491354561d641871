"""What a setting must reach to be on the Pareto front: 'coherence >= 0.5 and align_test/exact_match > 0.2'."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from selgen_ray.errors import nearest

_OPERATORS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_GRAMMAR = "allowed: metric >= number, with >=, >, <= or <, several joined by 'and'"
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Condition:
    """One comparison.

    Attributes:
        metric: a headline or 'set/metric'.
        sign: '>=', '>', '<=' or '<'.
        bound: the number on its right.
    """

    metric: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.bound:g}"

    def failure(self, value: float | None) -> str | None:
        """Why a value does not meet it, such as 'coherence 0.420'; None where it does."""
        if value is None:
            return f"no value of {self.metric}"
        return None if _OPERATORS[self.sign](value, self.bound) else f"{self.metric} {value:.3f}"

    def excess(self, value: float) -> float:
        """By how much a value misses the bound; 0 or less where it meets it."""
        return self.bound - value if self.sign.startswith(">") else value - self.bound


def parse_requirement(text: str, check: Callable[[str], object] = lambda _: None) -> tuple[Condition, ...]:
    """The conditions, all of which must hold.

    Args:
        check: called with each metric; raises ValueError where it cannot be one.

    Raises:
        ValueError: the text is none; names the column, from 1.
    """
    words = [(found.start() + 1, found[0]) for found in re.finditer(r"[<>=!]+|[^\s<>=!]+", text)]
    conditions: list[Condition] = []
    at = 0
    while True:
        part = words[at : at + 3]
        if len(part) < 3:
            column = words[-1][0] + len(words[-1][1]) if words else 1
            wanted = ("a metric", "an operator", "a number")[len(part)]
            raise ValueError(f"column {column}: {wanted} is missing; {_GRAMMAR}")
        conditions.append(_condition(part, check))
        at += 3
        if at == len(words):
            return tuple(conditions)
        column, word = words[at]
        if word != "and":
            raise ValueError(f"column {column}: found {word!r}, where only 'and' can follow; {_GRAMMAR}")
        at += 1


def _condition(part: list[tuple[int, str]], check: Callable[[str], object]) -> Condition:
    (first, metric), (second, sign), (third, number) = part
    if sign not in _OPERATORS:
        near = nearest(sign, _OPERATORS) if set(sign) <= set("<>=!") else ""
        raise ValueError(f"column {second}: found {sign!r}, no operator; {_GRAMMAR}.{near}".removesuffix("."))
    try:
        check(metric)
    except ValueError as error:
        raise ValueError(f"column {first}: found {metric!r}; {error}") from None
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"column {third}: found {number!r}, no number; {_GRAMMAR}")
    return Condition(metric, sign, float(number))
