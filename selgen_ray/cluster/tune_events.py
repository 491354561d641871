"""Events of Ray Tune, passed on to the terminal, the queue, the event log, early stopping and searches."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.experiment import Trial as TuneTrial

from selgen_ray.driver.display import Display, finished_line
from selgen_ray.driver.driver import Driver
from selgen_ray.errors import Cause, TrialError
from selgen_ray.records.status import TrialStatus
from selgen_ray.trial.run import publish_failure

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # in Ray's text of an error


def cause_of_trial(trial: TuneTrial) -> Cause:
    """Return what Ray knows of a failure: the message of the worker's error, with Ray's traceback as the detail."""
    error = None
    if trial.pickled_error_file:  # Tune has just written it here; its own reader looks where it is copied to later
        with contextlib.suppress(OSError), Path(trial.pickled_error_file).open("rb") as source:
            error = cloudpickle.load(source)
    return (
        Cause("the worker died; Ray gives no cause, its log is in the dashboard") if error is None else cause_of(error)
    )


def cause_of(error: BaseException) -> Cause:
    """Return the first line of an error's own message as the cause, however often Ray has wrapped it.

    The message of a TrialError names the type of the first error itself; a worker group's begins with the worker that
    died. The lines of a traceback, which end Ray's own text, never are the cause.
    """
    raised: Any = error
    while isinstance(raised, RayTaskError):
        raised = raised.cause
    text, message = _COLOUR.sub("", str(error)).strip(), str(raised).strip()
    line = message.splitlines()[0].strip() if message else ""
    if not isinstance(raised, TrialError | RayError) or not line:
        line = f"{type(raised).__name__}: {line}" if line else type(raised).__name__
    return Cause(line, text if text != line else "")


class TuneEvents(tune.Callback):
    """Passes Tune's events on to board, queue and event log; writes the result of a trial that died without one."""

    def __init__(self, driver: Driver, display: Display, max_failures: int):
        self._driver, self._queue, self._board = driver, driver.queue, driver.board
        self._display, self._max_failures = display, max_failures

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that is never made; a terminal cannot be pickled

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
            self._driver.feedback.evaluated(trial.config["trial_id"], result["evaluated"])
        self._board.running.setdefault(str(trial), {}).update(result)  # an evaluation's report has no step
        self._display.update(self._board)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        last = trial.last_result or {}
        cause = Cause.of_text(last["error"]) if last.get("error") else None
        self._finish(trial, TrialStatus(last.get("status", "preempted")), last, cause)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        last = trial.last_result or {}
        self._finish(
            trial,
            TrialStatus.PREEMPTED if last.get("status") == TrialStatus.PREEMPTED else TrialStatus.CRASHED,
            {},
            cause_of_trial(trial),
        )

    def _finish(self, trial: TuneTrial, outcome: TrialStatus, metrics: dict[str, Any], cause: Cause | None) -> None:
        trial_id, name, driver = trial.config["trial_id"], str(trial), self._driver
        task = self._queue.known[trial_id]
        if why := metrics.get("blocked") or (outcome is TrialStatus.FAILED and driver.gone(task)):
            outcome = TrialStatus.PREEMPTED if driver.block(why, task) else TrialStatus.CRASHED
            cause = Cause(why)
        again = self._queue.ended(trial_id, outcome)
        if outcome is TrialStatus.SUPERSEDED:
            driver.look_now()  # it may be the whole sweep that another process has
        if again and self._queue.is_ending:
            outcome = TrialStatus.PREEMPTED
        status = TrialStatus.FAILED if outcome is TrialStatus.CRASHED else outcome
        details = {"why": cause.line} if cause else {}
        if cause and cause.detail:
            details["detail"] = cause.detail
        self._board.running.pop(name, None)
        if again and not self._queue.is_ending:
            failures = self._queue.failures[trial_id]
            driver.events.add("retry", name, failures=failures, max_failures=self._max_failures, **details)
            self._display.line(f"retrying   {name}  {cause.line if cause else outcome}", self._board)
            return
        found = metrics.get("found_finished")
        driver.events.add("found_finished" if found else status, name, **details | ({"why": found} if found else {}))
        if outcome is TrialStatus.CRASHED:
            # killed, out of memory, node lost: the worker could not say so itself, or is only cut off
            attempt = self._queue.numbered(task)
            driver.later(lambda: publish_failure(attempt, cause.text if cause else outcome))
        if outcome not in (TrialStatus.PREEMPTED, TrialStatus.SUPERSEDED):
            driver.feedback.ended(trial_id, status)
            self._board.end(name, status, cause)
        self._display.line(
            finished_line(name, "cut off" if outcome == TrialStatus.PREEMPTED else status, metrics), self._board
        )
