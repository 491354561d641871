"""Ray Tune's early-stopping rules behind the driver's protocol."""

from __future__ import annotations

import math
from typing import Any

from selgen_ray.space.spec import StoppingRule

_FOREVER = 1_000_000  # epochs; more than any trial has: no setting is stopped for being at its end
_NEVER: Any = math.inf
_NO_TUNE: Any = None  # the schedulers are used without Tune: as they are set up, neither asks for its controller


class _TuneRule:
    """A scheduler of Tune that judges settings: it is handed each, and then its values epoch by epoch."""

    _scheduler: Any

    def add(self, setting: Any) -> None:
        self._scheduler.on_trial_add(_NO_TUNE, setting)

    def stops(self, setting: Any, epoch: float, value: float) -> bool:
        """Return whether the setting is to stop; its value counts for others in any case."""
        return self._scheduler.on_trial_result(_NO_TUNE, setting, {"epoch": epoch, "value": value}) == "STOP"


class Asha(_TuneRule):
    """AsyncHyperBandScheduler with one bracket: at the rungs grace * factor^k the best 1/factor go on."""

    def __init__(self, rule: StoppingRule, mode: str):
        # late: it takes a second to import, and few sweeps stop early
        from ray.tune.schedulers import AsyncHyperBandScheduler

        self._scheduler = AsyncHyperBandScheduler(
            time_attr="epoch",
            metric="value",
            mode=mode,
            max_t=max(_FOREVER, rule.grace_epochs),
            grace_period=rule.grace_epochs,
            reduction_factor=3 if rule.reduction_factor is None else rule.reduction_factor,
            stop_last_trials=False,
        )

    def watch(self, setting: Any, epoch: float, value: float) -> None:
        """Let the value count for others, without a verdict."""
        self.stops(setting, epoch, value)


class Median(_TuneRule):
    """MedianStoppingRule: a setting whose best is worse than the median of the others' running means stops."""

    def __init__(self, rule: StoppingRule, mode: str):
        from ray.tune.schedulers import MedianStoppingRule

        self._scheduler = MedianStoppingRule(
            time_attr="epoch",
            metric="value",
            mode=mode,
            grace_period=rule.grace_epochs,
            min_samples_required=3 if rule.min_settings is None else rule.min_settings,
            min_time_slice=_NEVER,  # never pause a trial, which would need Tune
        )

    def watch(self, setting: Any, epoch: float, value: float) -> None:
        """Let the value count for others, without a verdict: after one to stop, the scheduler takes no more values."""
        self._scheduler.on_trial_complete(_NO_TUNE, setting, {"epoch": epoch, "value": value})


def make_judge(rule: StoppingRule, mode: str) -> Asha | Median:
    """Return the scheduler that a rule names; `mode` is 'max' or 'min'."""
    return Asha(rule, mode) if rule.scheduler == "asha" else Median(rule, mode)
