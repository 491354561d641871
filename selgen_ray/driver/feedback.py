"""Decisions from results while a sweep runs: which settings stop early, and which ones a search asks for next."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from selgen_ray.driver.added import AddedTrial
from selgen_ray.driver.early_stopping import EarlyStopping, MakeJudge
from selgen_ray.driver.plan import Plan
from selgen_ray.driver.search import Asked
from selgen_ray.reading import read_trials
from selgen_ray.records.results import FILE_NAME, TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.space import SweepSpec
from selgen_ray.trial.task import TrialTask

logger = logging.getLogger(__name__)
Stop = Callable[[list[TrialTask], str], None]


class Feedback:
    """The early stopping and the searches of one sweep, as its folder left them.

    Args:
        stop: stops trials for good, and says why.
        keep: keeps a trial that a search asked for in the sweep's folder; called before the trial is handed out.
        make_judge: makes the scheduler of early stopping.

    Raises:
        StorageError: the folder cannot be read.
    """

    def __init__(
        self,
        spec: SweepSpec,
        plan: Plan,
        stop: Stop,
        keep: Callable[[AddedTrial, TrialTask], None],
        make_judge: MakeJudge,
    ):
        self._lock = threading.RLock()  # trials join from the driver's thread
        self._stop, self._keep, self._make = stop, keep, plan.make
        self._plugins = spec.plugin_sources
        self._tasks = {p.task.trial_id: p.task for p in plan.planned}
        self._results: dict[str, TrialResult] = {}
        guided = spec.early_stopping.scheduler is not None or bool(plan.searches)
        if guided:
            self._results = {result.trial_id: result for _, result in read_trials(plan.folder)}
        self._searches = plan.searches
        self._early = None
        if spec.early_stopping.scheduler is not None:
            self._early = EarlyStopping(spec.early_stopping, make_judge, self._tasks.values())
            self._early.restore(self._results.values())
            for p in plan.with_status(TrialStatus.STOPPED, TrialStatus.REMOVED):
                self._early.ended(p.task.trial_id, TrialStatus.STOPPED)

    @property
    def may_ask(self) -> bool:
        """Whether a search has settings left to ask for."""
        return not all(search.is_done for search in self._searches)

    def ask(self) -> list[TrialTask]:
        """Return the new trials of the next setting of a search, [] if there is none; known trials are left out."""
        with self._lock:
            for search in self._searches:
                while (asked := search.ask(self._results)) is not None:
                    if new := self._hand_out(asked):
                        return new
        return []

    def _hand_out(self, asked: Asked) -> list[TrialTask]:
        new: list[TrialTask] = []
        for trial in (AddedTrial.of(one, self._plugins, search=asked.entry) for one in asked.trials):
            task = self._make.task(trial, trial.config, trial.plugins)
            self._keep(trial, task)  # also a trial that the sweep has already: the search must find it again
            if trial.trial_id not in self._tasks:
                new.append(task)
        self.add(new)
        return new

    def add(self, tasks: Iterable[TrialTask]) -> None:
        """Add trials that join the sweep, or run again."""
        tasks = list(tasks)
        with self._lock:
            self._tasks |= {task.trial_id: task for task in tasks}
            if self._early:
                self._early.add(tasks)

    def evaluated(self, trial_id: str, reading: Mapping[str, Any]) -> None:
        """Take in an evaluation of a running trial, which may stop its setting."""
        with self._lock:
            if self._early and (why := self._early.report(trial_id, reading)):
                self._stop_setting(trial_id, why)

    def ended(self, trial_id: str, status: str) -> None:
        """Note that a trial ended and will not run again, which may stop its setting."""
        with self._lock:
            if self._searches:
                self._note(trial_id, status)
            if self._early and (why := self._early.ended(trial_id, status)):
                self._stop_setting(trial_id, why)

    def _note(self, trial_id: str, status: str) -> None:
        task = self._tasks[trial_id]
        try:
            result = TrialResult.model_validate_json(task.folder.read(FILE_NAME))
        except (OSError, ValueError) as error:  # a worker that died early left none
            logger.warning("%s: no result to guide the search: %s", task.name, error)
            result = TrialResult(
                trial_id=trial_id,
                slug=task.slug,
                seed=task.config["seed"],
                status=TrialStatus.FAILED,
                config=task.config,
            )
        self._results[trial_id] = (
            result if status != TrialStatus.FAILED else result.model_copy(update={"status": TrialStatus.FAILED})
        )

    def _stop_setting(self, trial_id: str, why: str) -> None:
        slug = self._tasks[trial_id].slug
        self._stop([task for task in self._tasks.values() if task.slug == slug], why)
