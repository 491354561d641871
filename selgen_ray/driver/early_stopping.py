"""Early stopping of settings: a scheduler judges the mean over the seeds of each setting.

A scheduler of Ray Tune judges single trials. Here it is given one stand-in for each setting. The value of a setting at
an epoch is the mean over its seeds; it is known once every seed that will reach this epoch has reached it. So one lucky
seed does not save a setting, and one unlucky seed does not end it. A setting is stopped with all its seeds or not at
all.

A seed that diverged, failed or was stopped by hand is no longer waited for, and leaves the mean from then on. Its
setting goes on: stopping the other seeds would hide how often the setting diverges.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Protocol

from selgen_ray.records.results import TrialResult, less_is_better
from selgen_ray.records.status import TrialStatus
from selgen_ray.space.spec import StoppingRule

logger = logging.getLogger(__name__)
_PREFIX = "early stopping"


class Task(Protocol):
    """The part of a trial that early stopping reads."""

    @property
    def trial_id(self) -> str:
        """The trial's hash."""
        ...

    @property
    def slug(self) -> str:
        """The name of the trial's setting."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The trial's config, as in config.json."""
        ...


@dataclass(eq=False)
class _Setting:
    """A setting, in place of a trial: a scheduler of Ray Tune looks at its `trial_id` alone.

    Attributes:
        trial_id: the slug of the setting.
        is_kept: it is never to be stopped.
        is_stopped: it was told to stop.
        alive: ids of the trials that may still report.
        seeds: ids of the trials whose value an epoch must have before it is judged.
        values: epoch -> trial id -> value; None: the evaluation has no such metric.
        judged: the last epoch that was judged.
        end: its last epoch, once it is known.
    """

    trial_id: str
    is_kept: bool
    is_stopped: bool = False
    alive: set[str] = field(default_factory=set[str])
    seeds: set[str] = field(default_factory=set[str])
    values: dict[float, dict[str, float | None]] = field(default_factory=dict[float, dict[str, float | None]])
    judged: float = 0.0
    end: float = math.inf


class Judge(Protocol):
    """Compares settings at an epoch; `cluster.schedulers` has those of Ray Tune."""

    def add(self, setting: Any) -> None:
        """Register a setting; the judge looks at its `trial_id` alone."""
        ...

    def stops(self, setting: Any, epoch: float, value: float) -> bool:
        """Return whether the setting is to stop; its value counts for others in any case."""
        ...

    def watch(self, setting: Any, epoch: float, value: float) -> None:
        """Let the value count for others, without a verdict."""
        ...


MakeJudge = Callable[[StoppingRule, str], Judge]
"""(rule, 'max' or 'min') -> the judge of a sweep."""


class EarlyStopping:
    """Decides which settings of a sweep are stopped.

    Args:
        rule: of the search space; its scheduler is not None.
        make_judge: makes the scheduler that the rule names.
        tasks: the trials of the sweep, the ended ones as well; those that share a slug are the seeds of one setting.
    """

    def __init__(self, rule: StoppingRule, make_judge: MakeJudge, tasks: Iterable[Task] = ()):
        self._rule = rule
        self._mode = rule.mode or ("min" if less_is_better(rule.metric) else "max")
        self._judge = make_judge(rule, self._mode)
        self._settings: dict[str, _Setting] = {}
        self._of_trial: dict[str, tuple[_Setting, Mapping[str, Any]]] = {}
        self._means: dict[float, dict[str, float]] = {}
        self._is_warned = False
        self.add(tasks)

    def add(self, tasks: Iterable[Task]) -> None:
        """Add trials that join the sweep, or run again after a retry; all seeds of a setting together."""
        for task in tasks:
            setting = self._settings.get(task.slug)
            if setting is None:
                is_kept = task.config["proxy_strategy"] in self._rule.keep
                setting = self._settings[task.slug] = _Setting(task.slug, is_kept)
                self._judge.add(setting)
            setting.alive.add(task.trial_id)
            setting.seeds.add(task.trial_id)
            self._of_trial[task.trial_id] = (setting, task.config["finetune_config"])

    def report(self, trial_id: str, reading: Mapping[str, Any]) -> str | None:
        """Take in an evaluation of a trial, and decide whether its setting is stopped.

        Args:
            reading: as `TrialResult.readings` gives it: 'epoch', 'step' and the metrics. Repeated readings, epoch 0
                and unknown trials are ignored.

        Returns:
            None to go on, else the reason why all seeds of the trial's setting are to be stopped. It is returned only
            once: the caller first marks all of them as stopped, so that a sweep that dies meanwhile still knows.
        """
        if trial_id not in self._of_trial:
            return None
        return self._next(self._note(trial_id, reading))

    def ended(self, trial_id: str, status: str) -> str | None:
        """Note that a trial ended and will not run again: its setting no longer waits for it. Returns as `report`."""
        if trial_id not in self._of_trial or status in (TrialStatus.RUNNING, TrialStatus.PREEMPTED):
            return None
        setting = self._of_trial[trial_id][0]
        self._end(setting, trial_id, status)
        return self._next(setting)

    def restore(self, results: Iterable[TrialResult]) -> None:
        """Take in the results that the folder holds when a sweep goes on; stop nothing because of them.

        Earlier decisions stand in the folder as marks. Later ones are the same as if the sweep had not been cut off,
        since the verdict of neither scheduler depends on the order in which settings reach an epoch.
        """
        known = [result for result in results if result.trial_id in self._of_trial]
        for result in sorted(known, key=lambda r: (r.slug, r.seed, r.trial_id)):
            for reading in result.readings():
                self._note(result.trial_id, reading)
            setting = self._of_trial[result.trial_id][0]
            if result.status == TrialStatus.STOPPED and (result.error or "").startswith(_PREFIX):
                setting.is_stopped = True  # a seed that still runs was brought back by a retry
                setting.alive.discard(result.trial_id)
            elif result.status.is_final:
                self._end(setting, result.trial_id, result.status, by_hand=True)
        for setting in self._settings.values():
            self._next(setting, may_stop=False)

    @staticmethod
    def _end(setting: _Setting, trial_id: str, status: str, by_hand: bool = False) -> None:
        setting.alive.discard(trial_id)
        is_ours = status == TrialStatus.STOPPED and setting.is_stopped and not by_hand
        # otherwise the epochs that it has beyond the others' would count for the setting
        if status != TrialStatus.COMPLETED and not is_ours:
            setting.seeds.discard(trial_id)

    def _note(self, trial_id: str, reading: Mapping[str, Any]) -> _Setting:
        setting, config = self._of_trial[trial_id]
        epoch, step = reading["epoch"], reading["step"]
        if epoch > 0:
            setting.values.setdefault(epoch, {}).setdefault(trial_id, reading.get(self._rule.metric))
        steps = config["max_steps"]
        if step >= steps if steps is not None else epoch >= config["epochs"]:
            setting.end = min(setting.end, epoch)
        return setting

    def _next(self, setting: _Setting, may_stop: bool = True) -> str | None:
        """Judge the complete epochs that were not judged yet; return why the setting is to stop, if it is."""
        for epoch in sorted(epoch for epoch in setting.values if epoch > setting.judged):
            by_trial = setting.values[epoch]
            if not setting.seeds or setting.seeds - by_trial.keys():
                return None
            setting.judged = epoch
            values = [value for value in by_trial.values() if value is not None]
            if not values:
                self._warn(epoch)
                continue
            mean = fmean(values)
            others = self._means.setdefault(epoch, {})
            reason = self._why(mean, epoch, len(values), [v for slug, v in others.items() if slug != setting.trial_id])
            others[setting.trial_id] = mean
            is_over = not setting.alive or epoch >= setting.end
            can_stop = may_stop and not (is_over or setting.is_kept or setting.is_stopped)
            if not can_stop:
                self._judge.watch(setting, epoch, mean)
            elif self._judge.stops(setting, epoch, mean):
                setting.is_stopped = True
                return reason
        return None

    def _why(self, mean: float, epoch: float, num_seeds: int, others: list[float]) -> str:
        seeds = f"the mean over {num_seeds} seeds" if num_seeds > 1 else "its one seed"
        text = (
            f"early stopping ({self._rule.scheduler}): {self._rule.metric} is {mean:.4g} after epoch {epoch:g}, {seeds}"
        )
        if others:
            best = max(others) if self._mode == "max" else min(others)
            text += f"; of {len(others)} other settings there the best has {best:.4g}, the median {median(others):.4g}"
        return text

    def _warn(self, epoch: float) -> None:
        if not self._is_warned:
            self._is_warned = True
            logger.warning("early stopping: no evaluation of epoch %g reports %r", epoch, self._rule.metric)
