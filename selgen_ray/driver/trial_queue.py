"""Which trial runs next: what waits, what runs, what failed how often. No Ray here."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable

from selgen_ray.records.status import TrialStatus
from selgen_ray.trial.task import TrialTask


def _none() -> list[TrialTask]:
    return []


class TrialQueue:
    """The trials of a running sweep, handed out one by one; safe to use from several threads.

    The policy: a trial that crashed is handed out again, before all others, up to `max_failures` times; one that was
    preempted always, since its machine went away through no fault of its own; the others never.

    Args:
        tasks: in the order in which they are to run.
        max_failures: how often a crashed trial is tried again.
        limit: how many may run now; asked each time.
        ask: gives further trials (of a search) when nothing else waits; [] where there are none now.
        may_ask: whether `ask` may still give some later.
    """

    def __init__(
        self,
        tasks: Iterable[TrialTask],
        max_failures: int,
        limit: Callable[[], int],
        ask: Callable[[], list[TrialTask]] = _none,
        may_ask: Callable[[], bool] = lambda: False,
    ):
        self._lock = threading.RLock()
        self._waiting = deque(tasks)
        self._max_failures, self._limit, self._ask, self._may_ask = max_failures, limit, ask, may_ask
        self.running: dict[str, TrialTask] = {}
        self.known = {task.trial_id: task for task in self._waiting}
        self.failures: Counter[str] = Counter()
        self.is_ending = False

    @property
    def total(self) -> int:
        """Trials that were given to this feed, however they ended."""
        return len(self.known)

    def next(self) -> TrialTask | None:
        """The next trial to run, or None: not now."""
        with self._lock:
            if self.is_ending or len(self.running) >= self._limit():
                return None
            if not self._waiting:
                self.add(self._ask())
            if not self._waiting:
                return None
            task = self._waiting.popleft()
            self.running[task.trial_id] = task
            return task

    def ended(self, trial_id: str, outcome: TrialStatus) -> bool:
        """Note how a run ended; returns whether the trial will be handed out again."""
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
        """Trials to run at the end; those that wait or run already are left out. Returns what was added."""
        with self._lock:
            busy = self.running.keys() | {task.trial_id for task in self._waiting}
            new = [task for task in tasks if task.trial_id not in busy]
            for task in new:
                self.known[task.trial_id] = task
                self.failures[task.trial_id] = 0
                self._waiting.append(task)
            return new

    def drop(self, trial_ids: Iterable[str]) -> list[TrialTask]:
        """Take trials out that wait; returns them. Running ones are not touched."""
        with self._lock:
            ids = set(trial_ids)
            dropped = [task for task in self._waiting if task.trial_id in ids]
            self._waiting = deque(task for task in self._waiting if task.trial_id not in ids)
            return dropped

    def end(self) -> None:
        """Hand out nothing any more."""
        with self._lock:
            self.is_ending = True

    @property
    def is_over(self) -> bool:
        """Nothing runs, and nothing will be handed out."""
        with self._lock:
            return not self.running and (self.is_ending or not (self._waiting or self._may_ask()))
