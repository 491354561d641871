"""Threads: a function over many items, for work that waits for a disk or a network; and threads that take turns."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
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


class Turn:
    """A thread's right to run. This one is never disturbed; threads that run one at a time have another."""

    def aside(self) -> AbstractContextManager[None]:
        """Let others run inside the context, in which this thread only waits."""
        return nullcontext()

    def now(self) -> float:
        """Return a time in seconds, of which differences count as this thread's own."""
        return time.monotonic()


class _OfThread(threading.local):
    turn = Turn()


_of_thread = _OfThread()


@contextlib.contextmanager
def taking_turns(turn: Turn) -> Generator[None]:
    """Make `waiting` and `clock` those of `turn`, in this thread, inside the context."""
    before, _of_thread.turn = _of_thread.turn, turn
    try:
        yield
    finally:
        _of_thread.turn = before


def waiting() -> AbstractContextManager[None]:
    """Let the threads that this one takes turns with run inside the context; for what blocks without computing."""
    return _of_thread.turn.aside()


def clock() -> float:
    """Return a time in seconds; differences leave out what other threads computed that this one takes turns with."""
    return _of_thread.turn.now()
