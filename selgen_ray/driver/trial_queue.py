"""The queue of a running sweep: which trials wait, which run, how often each failed. No Ray here."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from selgen_ray.driver.packing import pack_size, packing_key
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
        width: trials that share a process at a time, where their packing keys agree; 1: none do.
    """

    def __init__(
        self,
        tasks: Iterable[TrialTask],
        max_failures: int,
        limit: Callable[[], int],
        ask: Callable[[], list[TrialTask]] = _none,
        may_ask: Callable[[], bool] = lambda: False,
        generation: int = 1,
        width: int = 1,
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
        self._width, self._pack_of = width, dict[str, int]()
        self._packs, self._alone = 0, set[str]()

    @property
    def total(self) -> int:
        """Trials that were given to this queue, however they ended."""
        return len(self.known)

    def next_pack(self) -> list[TrialTask]:
        """Return the next trials to run in one process, the first one that waits and those that may share its base.

        An empty list: none may start now. The limit counts packs; a trial that runs alone counts as one.
        """
        limit = self._limit()  # outside of the lock: it asks Ray, whose answer may take a minute
        with self._lock:
            if self.is_ending or self.is_paused or len({self._pack_of[name] for name in self.running}) >= limit:
                return []
            if not self._waiting:
                self.add(self._ask())
            if not self._waiting:
                return []
            chosen = self._chosen(limit)
            ids = {task.trial_id for task in chosen}
            self._waiting = deque(task for task in self._waiting if task.trial_id not in ids)
            self._packs += 1
            tasks = [self.numbered(task) for task in chosen]
            self.running |= {task.trial_id: task for task in tasks}
            self._pack_of |= dict.fromkeys(ids, self._packs)
            return tasks

    def _chosen(self, limit: int) -> list[TrialTask]:
        first = self._waiting[0]
        key = packing_key(first) if self._width > 1 and first.trial_id not in self._alone else None
        if key is None:
            return [first]
        alike = [t for t in self._waiting if t.trial_id not in self._alone and packing_key(t) == key]
        return alike[: pack_size(self._width, len(alike), limit)]

    def run_alone(self, trial_ids: Iterable[str]) -> None:
        """Pack these trials no more: their process died, and the next time it is to be known by whose fault."""
        with self._lock:
            self._alone |= set(trial_ids)

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
