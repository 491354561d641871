"""Conditions on metrics, such as 'coherence >= 0.5 and align_test/exact_match > 0.2'.

Settings that violate them are not on the Pareto front of a report, and are not feasible in a search.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from selgen_ray.errors import nearest

_OPERATORS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_GRAMMAR = "allowed: metric >= number, with >=, >, <= or <, several joined by 'and'"
_MOST_DECIMALS = 17
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Condition:
    """One comparison of a metric with a bound, such as 'coherence >= 0.5'.

    Attributes:
        metric: a headline or 'set/metric'.
        sign: '>=', '>', '<=' or '<'.
        bound: the number on the right.
    """

    metric: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.bound:.15g}"

    def failure(self, value: float | None) -> str | None:
        """Return why a value violates the condition, such as 'coherence 0.420'; None if it does not.

        The value has three decimals, or as many as it takes to violate the condition as it is written.
        """
        if value is None:
            return f"no value of {self.metric}"
        holds = _OPERATORS[self.sign]
        if holds(value, self.bound):
            return None
        texts = (f"{value:.{decimals}f}" for decimals in range(3, _MOST_DECIMALS))
        text = next((text for text in texts if not holds(float(text), self.bound)), repr(value))
        return f"{self.metric} {text}"

    def excess(self, value: float) -> float:
        """Return the signed violation: positive if the value violates the condition (Optuna's convention).

        bound - value for '>=' and '>', value - bound for '<=' and '<', in units of the metric.
        """
        return self.bound - value if self.sign.startswith(">") else value - self.bound


def parse_requirement(text: str, check: Callable[[str], object] = lambda _: None) -> tuple[Condition, ...]:
    """Parse a requirement: one or more conditions joined by 'and', all of which must hold.

    'coherence >= 0.5 and align_test/loss < 2' becomes (Condition('coherence', '>=', 0.5),
    Condition('align_test/loss', '<', 2.0)).

    Args:
        check: called with the name of each metric; raises ValueError if there can be no such metric.

    Raises:
        ValueError: the text is no requirement; the message names the column, from 1.
    """
    words = [(match.start() + 1, match[0]) for match in re.finditer(r"[<>=!]+|[^\s<>=!]+", text)]
    conditions: list[Condition] = []
    position = 0
    while True:
        part = words[position : position + 3]
        if len(part) < 3:
            column = words[-1][0] + len(words[-1][1]) if words else 1
            missing = ("a metric", "an operator", "a number")[len(part)]
            raise ValueError(f"column {column}: {missing} is missing; {_GRAMMAR}")
        conditions.append(_condition(part, check))
        position += 3
        if position == len(words):
            return tuple(conditions)
        column, word = words[position]
        if word != "and":
            raise ValueError(f"column {column}: found {word!r}, where only 'and' can follow; {_GRAMMAR}")
        position += 1


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
