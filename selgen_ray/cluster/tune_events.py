"""What Ray Tune tells of a sweep's trials: to the terminal, the feed, the event log and what guides the sweep."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial as TuneTrial

from selgen_ray.driver.display import Display, finished_line
from selgen_ray.driver.driver import Driver
from selgen_ray.records.results import FILE_NAME, TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.trial.task import TrialTask


def mark_failed(task: TrialTask, cause: str) -> None:
    """Publish status 'failed' for a trial whose worker could not: killed, out of memory, node lost."""
    result = TrialResult(
        trial_id=task.trial_id, slug=task.slug, seed=task.config["seed"], status=TrialStatus.RUNNING, config=task.config
    )
    with contextlib.suppress(FileNotFoundError):
        result = TrialResult.model_validate_json(task.folder.read(FILE_NAME))
    if result.status == TrialStatus.RUNNING:
        result.status, result.error = TrialStatus.FAILED, cause
        result.publish(task.folder)


def _cause(trial: TuneTrial) -> str:
    """What Ray knows of a failure; a traceback's own last line comes first."""
    error = None
    if trial.pickled_error_file:  # where Tune has just written it; its own reader looks where it is copied to later
        with contextlib.suppress(OSError), Path(trial.pickled_error_file).open("rb") as source:
            error = cloudpickle.load(source)
    lines = str(error or "the worker died; Ray gives no cause, its log is in the dashboard").strip().splitlines()
    return "\n".join([lines[-1], *lines[:-1]] if isinstance(error, RayTaskError) else lines)


class TuneEvents(tune.Callback):
    """Tune's events to board, feed and event log; marks what died without a word."""

    def __init__(self, driver: Driver, display: Display, max_failures: int):
        self._driver, self._feed, self._board = driver, driver.feed, driver.board
        self._display, self._max_failures = display, max_failures

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above; a terminal cannot be pickled

    def on_trial_start(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        self._driver.events.add("started", str(trial))
        self._board.running.setdefault(str(trial), {})
        self._display.update(self._board)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        for event in result.get("events", ()):
            self._driver.events.add(trial=str(trial), **event)
        if "evaluated" in result:
            self._driver.guidance.evaluated(trial.config["trial_id"], result["evaluated"])
        self._board.running.setdefault(str(trial), {}).update(result)  # an evaluation's report has no step
        self._display.update(self._board)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        last = trial.last_result or {}
        self._finish(trial, TrialStatus(last.get("status", "preempted")), last, last.get("error", ""))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        last = trial.last_result or {}
        self._finish(
            trial,
            TrialStatus.PREEMPTED if last.get("status") == TrialStatus.PREEMPTED else TrialStatus.CRASHED,
            {},
            _cause(trial),
        )

    def _finish(self, trial: TuneTrial, outcome: TrialStatus, metrics: dict[str, Any], cause: str) -> None:
        trial_id, name, driver = trial.config["trial_id"], str(trial), self._driver
        task = self._feed.known[trial_id]
        again = self._feed.ended(trial_id, outcome)
        if again and self._feed.is_ending:
            outcome = TrialStatus.PREEMPTED
        status = TrialStatus.FAILED if outcome == TrialStatus.CRASHED else outcome
        told = {"why": cause} if cause else {}
        self._board.running.pop(name, None)
        if again and not self._feed.is_ending:
            failures = self._feed.failures[trial_id]
            driver.events.add("retry", name, failures=failures, max_failures=self._max_failures, **told)
            self._display.line(f"retrying   {name}  {cause.splitlines()[0] if cause else outcome}", self._board)
            return
        driver.events.add(status, name, **told)
        if outcome == TrialStatus.CRASHED:
            driver.later(lambda: mark_failed(task, cause))
        if outcome != TrialStatus.PREEMPTED:
            driver.guidance.ended(trial_id, status)
            self._board.end(name, status, cause)
        self._display.line(
            finished_line(name, "cut off" if outcome == TrialStatus.PREEMPTED else status, metrics), self._board
        )
