"""The values that a search may give a key."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from selgen_ray.seeding import derive_seed
from selgen_ray.stats import is_number
from selgen_ray.syntax.tree import Node

_DIGITS = 4
"""Significant digits of a searched number: enough to search with, few enough to read in a folder's name."""


@dataclass(frozen=True)
class Range:
    """An interval, both ends included, or a list of choices.

    Attributes:
        node: where it is written.
        low, high: of an interval.
        is_whole: it holds whole numbers only.
        log: it is searched by factors rather than by differences.
        choices: plain values; () for an interval.
    """

    node: Node
    low: float = 0
    high: float = 0
    is_whole: bool = False
    log: bool = False
    choices: tuple[Any, ...] = ()

    def at(self, share: float) -> Any:
        """Return the value at a share in [0, 1) of the way from low to high, or along the choices."""
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        margin = 0.5 if self.is_whole else 0.0  # so that the whole numbers at the ends are as likely as others
        ends = self.low - margin, self.high + margin
        if self.log:
            low, high = map(math.log, ends)
            return self.rounded(math.exp(low + share * (high - low)))
        return self.rounded(ends[0] + share * (ends[1] - ends[0]))

    def rounded(self, number: float) -> float:
        """Round a number as a person would write it (4 significant digits, or a whole number), inside the interval."""
        value = round(number) if self.is_whole else float(f"{number:.{_DIGITS}g}")
        return min(max(value, self.low), self.high)

    def holds(self, value: Any) -> bool:
        """Return whether a value, as results hold it, lies in this range."""
        if self.choices:
            return value in self.choices
        return is_number(value) and self.low <= value <= self.high and not (self.is_whole and value != int(value))

    @property
    def num_values(self) -> float:
        """How many values there are; infinity for an interval of fractions."""
        if self.choices:
            return len(self.choices)
        return self.high - self.low + 1 if self.is_whole else math.inf


def draw(ranges: Mapping[str, Range], number: int, *key: int | str) -> dict[str, Any]:
    """Draw a random value for each range; a pure function of `number` and `key`.

    Settings 0, 1, 2, ... take steps of a fixed size from a random start, which spreads any number of them evenly;
    independent draws of a few settings would leave gaps. This is Roberts' R_d sequence (a generalised golden ratio, see
    "The unreasonable effectiveness of quasirandom sequences", 2018), shifted at random.

    Args:
        ranges: key -> the values it may take.
        number: of the setting, from 0.
        key: the parts of the seed.
    """
    values = {}
    for i, (name, one) in enumerate(sorted(ranges.items()), 1):
        start = random.Random(derive_seed("search", *key, name)).random()
        values[name] = one.at((start + number * _ratio(len(ranges)) ** -i) % 1)
    return {name: values[name] for name in ranges}


@functools.cache
def _ratio(dimensions: int) -> float:
    """Return the positive root of x^(d + 1) = x + 1; the golden ratio for d = 1."""
    x = 1.5
    for _ in range(100):
        x = (1 + x) ** (1 / (dimensions + 1))
    return x


def everything(ranges: Mapping[str, Range]) -> Iterator[dict[str, Any]]:
    """Yield every combination of values, in order; all ranges must have finitely many."""
    values = [one.choices or range(int(one.low), int(one.high) + 1) for one in ranges.values()]
    for combination in itertools.product(*values):
        yield dict(zip(ranges, combination, strict=True))
