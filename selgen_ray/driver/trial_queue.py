"""The queue of a running sweep: which trials wait, which run, how often each failed. No Ray here."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from selgen_ray.records.attempts import Attempt
from selgen_ray.records.status import TrialStatus
from selgen_ray.trial.task import TrialTask


def _none() -> list[TrialTask]:
    return []


class TrialQueue:
    """The trials of a running sweep, handed out one by one; safe to use from several threads.

    A trial that crashed is handed out again, before all others, up to `max_failures` times. One that was preempted is
    always handed out again, since it lost its machine through no fault of its own. Others never are.

    Attributes:
        is_paused: nothing is handed out now.

    Args:
        tasks: in the order in which they are to run.
        max_failures: how often a crashed trial is tried again.
        limit: how many may run now; asked each time.
        ask: gives further trials (of a search) when nothing else waits; [] where there are none now.
        may_ask: whether `ask` may still give some later.
        generation: number of the driver's lease, for the attempts.
    """

    def __init__(
        self,
        tasks: Iterable[TrialTask],
        max_failures: int,
        limit: Callable[[], int],
        ask: Callable[[], list[TrialTask]] = _none,
        may_ask: Callable[[], bool] = lambda: False,
        generation: int = 1,
    ):
        self._lock = threading.RLock()
        self._waiting = deque(tasks)
        self._max_failures, self._limit, self._ask, self._may_ask = max_failures, limit, ask, may_ask
        self.running: dict[str, TrialTask] = {}
        self.known = {task.trial_id: task for task in self._waiting}
        self.failures: Counter[str] = Counter()
        self._generation, self._attempts = generation, Counter[str]()
        self.is_ending = False
        self.is_paused = False

    @property
    def total(self) -> int:
        """Trials that were given to this queue, however they ended."""
        return len(self.known)

    def next(self) -> TrialTask | None:
        """Return the next trial to run, or None if none may start now."""
        limit = self._limit()  # outside of the lock: it asks Ray, whose answer may take a minute
        with self._lock:
            if self.is_ending or self.is_paused or len(self.running) >= limit:
                return None
            if not self._waiting:
                self.add(self._ask())
            if not self._waiting:
                return None
            task = self.numbered(self._waiting.popleft())
            self.running[task.trial_id] = task
            return task

    def numbered(self, task: TrialTask) -> TrialTask:
        """Return the task with the number of a new attempt, which fences off all that were handed out before."""
        with self._lock:
            self._attempts[task.trial_id] += 1
            return replace(task, attempt=Attempt(self._generation, self._attempts[task.trial_id]))

    def ended(self, trial_id: str, outcome: TrialStatus) -> bool:
        """Note how a run ended; return whether the trial will be handed out again."""
        with self._lock:
            task = self.running.pop(trial_id)
            self.failures[trial_id] += outcome == TrialStatus.CRASHED
            again = outcome == TrialStatus.PREEMPTED or (
                outcome == TrialStatus.CRASHED and self.failures[trial_id] <= self._max_failures
            )
            if again:
                self._waiting.appendleft(task)
            return again

    def add(self, tasks: Iterable[TrialTask]) -> list[TrialTask]:
        """Append trials; those that wait or run already are left out. Returns the trials that were added."""
        with self._lock:
            busy = self.running.keys() | {task.trial_id for task in self._waiting}
            new = [task for task in tasks if task.trial_id not in busy]
            for task in new:
                self.known[task.trial_id] = task
                self.failures[task.trial_id] = 0
                self._waiting.append(task)
            return new

    def drop(self, trial_ids: Iterable[str]) -> list[TrialTask]:
        """Remove waiting trials and return them. Running ones are not touched."""
        with self._lock:
            ids = set(trial_ids)
            dropped = [task for task in self._waiting if task.trial_id in ids]
            self._waiting = deque(task for task in self._waiting if task.trial_id not in ids)
            return dropped

    def end(self) -> None:
        """Hand out no further trials."""
        with self._lock:
            self.is_ending = True

    @property
    def is_over(self) -> bool:
        """Whether nothing runs, and nothing will be handed out."""
        with self._lock:
            return not self.running and (self.is_ending or not (self._waiting or self._may_ask()))
