"""What trials cost: hours of devices, tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from selgen_ray.records.results import TrialResult
from selgen_ray.report.settings import Setting

_HOUR_S = 3600.0


@dataclass(frozen=True)
class Cost:
    """Of a strategy's trials, of whatever status: also what failed was paid for.

    Attributes:
        num_trials: behind it; each once, also where it is evaluated as several settings.
        gpu_hours: of trials on a GPU, times the workers of each; a share of a GPU counts as a whole one.
        cpu_hours: of trials without one, times the workers of each.
        tokens: processed in training, padding included.
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
    """The cost of all trials of these settings."""
    trials = {r.trial_id: r for s in settings for r in s.trials}
    return Cost(
        num_trials=len(trials),
        gpu_hours=sum(device_hours(r) for r in trials.values() if is_on_gpu(r)),
        cpu_hours=sum(device_hours(r) for r in trials.values() if not is_on_gpu(r)),
        tokens=sum(r.tokens.get("processed", 0) for r in trials.values()),
    )


def is_on_gpu(result: TrialResult) -> bool:
    """Whether the trial ran on a GPU."""
    return result.hardware.get("device") == "cuda"


def device_hours(result: TrialResult) -> float:
    """Wall-clock hours of the trial, all resumes together, times its workers; 0 where nothing says."""
    return result.timings.get("total_s", 0.0) / _HOUR_S * int(result.config.get("num_workers") or 1)
