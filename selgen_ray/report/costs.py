"""The cost of trials: device-hours and tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from selgen_ray.records.results import TrialResult
from selgen_ray.report.settings import Setting

_HOUR_S = 3600.0


@dataclass(frozen=True)
class Cost:
    """The cost of a strategy's trials, whatever their status: failed trials were paid for, too.

    Attributes:
        num_trials: number of trials; a trial that is evaluated as several settings counts once.
        gpu_hours: wall-clock hours times workers, of trials on a GPU; a share of a GPU counts as a whole one.
        cpu_hours: wall-clock hours times workers, of trials without a GPU.
        tokens: tokens processed in training, padding included.
    """

    num_trials: int
    gpu_hours: float
    cpu_hours: float
    tokens: int

    @property
    def hours(self) -> float:
        """GPU-hours where there are any, else CPU-hours."""
        return self.gpu_hours or self.cpu_hours

    @property
    def device(self) -> str:
        """'GPU' or 'CPU'."""
        return "GPU" if self.gpu_hours else "CPU"


def cost_of(settings: Iterable[Setting]) -> Cost:
    """Add up the cost of all trials of these settings."""
    trials = {r.trial_id: r for s in settings for r in s.trials}
    return Cost(
        num_trials=len(trials),
        gpu_hours=sum(device_hours(r) for r in trials.values() if is_on_gpu(r)),
        cpu_hours=sum(device_hours(r) for r in trials.values() if not is_on_gpu(r)),
        tokens=sum(r.tokens.get("processed", 0) for r in trials.values()),
    )


def is_on_gpu(result: TrialResult) -> bool:
    """Return whether the trial ran on a GPU."""
    return result.hardware.get("device") == "cuda"


def device_hours(result: TrialResult) -> float:
    """Return the trial's wall-clock hours, all resumes together, times its workers; 0 where they are unknown."""
    return result.timings.get("total_s", 0.0) / _HOUR_S * int(result.config.get("num_workers") or 1)
