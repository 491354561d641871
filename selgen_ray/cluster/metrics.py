"""Cluster metrics: what Ray's dashboard, its Grafana and any Prometheus show of a running sweep.

Ray exports a value within ten seconds after it is set, and forgets it if it is not set again within twenty. So a thread
sets the values of running trials every few seconds, and those of ended trials vanish by themselves: however many trials
a worker runs, it shows the numbers of one, and for a moment the last numbers of earlier ones.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.util.metrics import Gauge

from selgen_ray.driver.display import Board
from selgen_ray.records.results import TrialResult
from selgen_ray.records.status import STORED, TrialStatus
from selgen_ray.stats import is_finite_number
from selgen_ray.trial.task import TrialTask

logger = logging.getLogger(__name__)
_AGAIN_S = 5.0  # half of the interval at which Ray collects
_TRIAL = ("sweep", "trial", "strategy", "seed")
# key of a progress line or an evaluation -> name and description of the metric
_NUMBERS = {
    "loss": ("selgen_loss", "total loss of the running phase, mean since the line before"),
    "tokens_per_s": ("selgen_tokens_per_second", "tokens processed a second"),
    "step": ("selgen_step", "optimizer steps done in the running phase"),
    "progress": ("selgen_progress", "share of the trial's training that is done, 0 to 1"),
    "gpu_memory": (
        "selgen_gpu_memory_bytes",
        "most GPU memory allocated so far in the trial, in bytes; 0 without a GPU",
    ),
    "capability": ("selgen_capability", "capability at the newest evaluation"),
    "alignment": ("selgen_alignment", "alignment at the newest evaluation"),
}
SHOWN = (TrialStatus.PENDING, *STORED)
"""The statuses of the gauge `selgen_trials`; those that no trial has are 0."""


class TrialMetrics:
    """The metrics of the trial that this worker runs, from its start to `finish`; in the worker's process.

    Args:
        sweep: its name.
        task: the trial.
        again_s: seconds after which values are set again; at most half of the interval at which Ray collects.
    """

    def __init__(self, sweep: str, task: TrialTask, again_s: float = _AGAIN_S):
        strategy, seed = str(task.config["proxy_strategy"]), str(task.config["seed"])
        self._tags: dict[str, str] = dict(zip(_TRIAL, (sweep, task.name, strategy, seed), strict=True))
        self._shown = _KeptVisible(again_s)
        self._status(TrialStatus.RUNNING)
        _reset_gpu_memory()

    def update(self, progress: Mapping[str, Any]) -> None:
        """Show a progress line, or under 'evaluated' one of `TrialResult.readings`; missing numbers stay unchanged."""
        numbers: dict[str, Any] = {**progress, **(progress.get("evaluated") or {}), "gpu_memory": _gpu_memory()}
        if progress.get("phase") == "train" and progress.get("num_steps"):
            numbers["progress"] = progress.get("step", 0) / progress["num_steps"]
        self._set(numbers)

    def finish(self, status: str, result: TrialResult | None = None) -> None:
        """Show once how the trial ended; this vanishes within half a minute, for the next trial."""
        self._shown.clear()
        self._status(TrialStatus.RUNNING, 0.0)
        self._status(status)
        if result is not None:
            scores = {"capability": result.capability, "alignment": result.alignment}
            self._set(scores | ({"progress": 1.0} if status == TrialStatus.COMPLETED else {}))
        self._shown.stop()

    def _set(self, numbers: Mapping[str, Any]) -> None:
        for key, (name, description) in _NUMBERS.items():
            if is_finite_number(numbers.get(key)):
                self._shown.set(_gauge(name, description, _TRIAL), self._tags, float(numbers[key]))

    def _status(self, status: str, value: float = 1.0) -> None:
        gauge = _gauge("selgen_trial_status", "1 for the status that the trial has", (*_TRIAL, "status"))
        self._shown.set(gauge, self._tags | {"status": status}, value)


class SweepMetrics:
    """The metrics of a whole sweep, in the process that runs it, until `stop`."""

    def __init__(self, sweep: str, again_s: float = _AGAIN_S):
        self._sweep = {"sweep": sweep}
        self._shown = _KeptVisible(again_s)

    def update(self, counts: Mapping[str, int], seconds_left: float | None) -> None:
        """Show how many trials have each status (0 if it is left out), and the estimate of the time left."""
        trials = _gauge("selgen_trials", "trials of the sweep by status", ("sweep", "status"))
        for status in dict.fromkeys([*SHOWN, *counts]):
            self._shown.set(trials, self._sweep | {"status": status}, float(counts.get(status, 0)))
        if seconds_left is not None:
            left = _gauge("selgen_seconds_left", "estimate of the time left, in seconds", ("sweep",))
            self._shown.set(left, self._sweep, seconds_left)

    def stop(self) -> None:
        """Set the metrics no more: they vanish within half a minute."""
        self._shown.stop()


class SweepMetricsCallback(tune.Callback):
    """Keeps the metrics of a sweep in step with its terminal.

    Args:
        sweep: its name.
        board: the state that the terminal shows.
        before: status -> number of trials that had it before this run, and are not run again.
    """

    def __init__(self, sweep: str, board: Board, before: Mapping[TrialStatus, int]):
        self._metrics, self._board, self._before = SweepMetrics(sweep), board, Counter(before)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that is never made

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        board, running = self._board, len(self._board.running)
        counts = self._before + Counter(board.finished) + Counter(running=running)
        counts[TrialStatus.PENDING] = max(0, board.total - board.num_finished - running)
        self._metrics.update(counts, board.seconds_left())

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._metrics.stop()


class _KeptVisible:
    """Values that are to stay visible: set now and again every few seconds, until `stop`."""

    def __init__(self, again_s: float) -> None:
        self._again_s = again_s
        self._values: dict[tuple[Gauge, tuple[tuple[str, str], ...]], float] = {}
        self._lock, self._over = threading.Lock(), threading.Event()
        threading.Thread(target=self._keep, name="metrics", daemon=True).start()

    def set(self, gauge: Gauge, tags: Mapping[str, str], value: float) -> None:
        with self._lock:
            self._values[gauge, tuple(tags.items())] = value
            _send(gauge, dict(tags), value)

    def clear(self) -> None:
        """Set the values no more."""
        with self._lock:
            self._values.clear()

    def stop(self) -> None:
        self._over.set()
        self.clear()

    def _keep(self) -> None:
        while not self._over.wait(self._again_s):
            with self._lock:
                for (gauge, tags), value in self._values.items():
                    _send(gauge, dict(tags), value)


def _send(gauge: Gauge, tags: dict[str, str], value: float) -> None:
    try:
        gauge.set(value, tags=tags)
    except Exception as error:  # a metric that is not shown must not end a trial
        logger.warning("a metric cannot be shown: %s", error)


@functools.cache
def _gauge(name: str, description: str, tag_keys: tuple[str, ...]) -> Gauge:
    """Return one object per process and name: Ray registers a name once."""
    return Gauge(name, description, tag_keys=tag_keys)


def _gpu_memory() -> int:
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def _reset_gpu_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
