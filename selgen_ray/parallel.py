"""The same for many items at once, where each one waits for a disk or a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

X = TypeVar("X")
Y = TypeVar("Y")
_THREADS = 24  # pyarrow opens no more connections to S3
_FEW = 4


def in_parallel(function: Callable[[X], Y], items: Sequence[X]) -> list[Y]:
    """`function` of each item, in their order, by threads; the first error is raised when all have ended."""
    if len(items) <= _FEW:
        return [function(item) for item in items]

    def some(first: int) -> list[Y]:  # a task for each item would cost more than a local file does
        return [function(item) for item in items[first::_THREADS]]

    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(some, range(_THREADS)))
    return [parts[i % _THREADS][i // _THREADS] for i in range(len(items))]
