"""Run a function over many items in threads, for work that waits for a disk or a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

X = TypeVar("X")
Y = TypeVar("Y")
_THREADS = 24  # pyarrow opens no more connections to S3
_FEW = 4


def in_parallel(function: Callable[[X], Y], items: Sequence[X]) -> list[Y]:
    """Call `function` on each item in threads and return the values in the order of the items.

    Up to 4 items are handled one after the other, without threads.

    Raises:
        Exception: an error of `function`; with threads it is raised once all of them have ended.
    """
    if len(items) <= _FEW:
        return [function(item) for item in items]

    def some(first: int) -> list[Y]:  # a task for each item would cost more than reading a local file
        return [function(item) for item in items[first::_THREADS]]

    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(some, range(_THREADS)))
    return [parts[i % _THREADS][i // _THREADS] for i in range(len(items))]
