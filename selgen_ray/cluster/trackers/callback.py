"""Tune's events, passed on to the trackers."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.result import AUTO_RESULT_KEYS, DEBUG_METRICS

from selgen_ray.cluster.trackers.sinks import Later, Sink, TrackerError, open_sink, without_login
from selgen_ray.space.tracker_options import Tracker
from selgen_ray.stats import is_finite_number
from selgen_ray.storage import Folder
from selgen_ray.trial.task import TrialTask

__all__ = ["TrackerError", "Trackers", "readings", "tracker_callbacks"]

logger = logging.getLogger(__name__)
_NOT_OURS = {*AUTO_RESULT_KEYS, *DEBUG_METRICS, "done", "should_checkpoint", "timesteps_since_restore", "num_steps"}
_MOST_WAITING = 2_000
_LAST_WORDS_S = 120.0


def tracker_callbacks(
    trackers: Sequence[Tracker],
    sweep: str,
    folder: Folder,
    task_of: Callable[[str], TrialTask],
    later: Later = lambda write: write(),
) -> list[tune.Callback]:
    """Return the Tune callbacks that keep a sweep's trackers up to date. Call it after `ray.init`, before the trials.

    Args:
        trackers: of the search space.
        sweep: its name.
        folder: of the sweep. Where it is local, the trackers' files go there; to an object store, TensorBoard's are
            copied whenever a trial ends.
        task_of: trial id -> task; the config of a Tune trial has the id as 'trial_id'.
        later: does a write to the sweep's folder, at once or when it can.

    Raises:
        TrackerError: a tracker cannot be set up; the message says which and why.
    """
    if not trackers:
        return []
    return [Trackers([open_sink(tracker, sweep, folder, later) for tracker in trackers], task_of)]


def readings(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a report: losses and metrics, without Tune's own keys, text and lists.

    Those of a preparation are named '<phase>/<name>', those of an evaluation 'eval/<set>/<metric>'.

    Args:
        result: a progress line or, under 'evaluated', one of `TrialResult.readings`; with Tune's own keys.
    """
    phase = result.get("phase") or "train"
    prefix = "" if phase == "train" else f"{phase}/"
    entries = {f"{prefix}{key}": value for key, value in result.items() if key not in _NOT_OURS}
    for key, value in (result.get("evaluated") or {}).items():
        entries[f"eval/{key}" if "/" in key else key] = value
    return {key: value for key, value in entries.items() if is_finite_number(value)}


class Trackers(tune.Callback):
    """Tune's events, handed to the trackers in order by a thread of its own.

    So a tracker that is slow or away holds up neither Tune nor the trials, which wait for Tune; one that fails is
    named in a warning, and the sweep goes on.

    Args:
        sinks: the trackers.
        task_of: trial id -> task.
    """

    def __init__(self, sinks: list[Sink], task_of: Callable[[str], TrialTask]):
        self._sinks, self._task_of = sinks, task_of
        self._waiting: queue.Queue[tuple[Any, ...] | None] = queue.Queue()
        self._missed = 0
        self._thread = threading.Thread(target=self._run, name="trackers", daemon=True)
        self._thread.start()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that is never made

    def on_trial_start(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        self._waiting.put(("start", trial.trial_id, self._task_of(trial.config["trial_id"])))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        numbers = readings(result)
        if self._waiting.qsize() > _MOST_WAITING and "evaluated" not in result and "status" not in result:
            self._missed += 1
        elif numbers:
            self._waiting.put(("log", trial.trial_id, numbers))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        self._waiting.put(("end", trial.trial_id, (trial.last_result or {}).get("status") in ("failed", "crashed")))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        self._waiting.put(("end", trial.trial_id, True))

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._waiting.put(None)
        self._thread.join(_LAST_WORDS_S)
        if self._thread.is_alive():
            logger.warning("the trackers still had numbers to send after %.0f s: those are lost", _LAST_WORDS_S)
        if self._missed:
            logger.warning("the trackers were slower than the trials: they miss %d progress lines", self._missed)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            for sink in self._sinks:
                if item[0] == "start" or item[1] in sink.runs:  # otherwise its start failed, which was reported
                    self._try(sink, *item)
        for sink in self._sinks:
            self._try(sink, "close")

    def _try(self, sink: Sink, event: str, *args: Any) -> None:
        try:
            getattr(sink, event)(*args)
        except Exception as error:
            sink.failures += 1
            if sink.failures in (1, 10, 100) or sink.failures % 1000 == 0:
                message = "tracker %s: %s (failure %d); the sweep goes on"
                logger.warning(message, sink.name, without_login(str(error)), sink.failures)
