"""Early stopping: schedulers of Ray Tune, handed in, judge settings, each the mean over its seeds.

A scheduler of Ray Tune judges trials. Here it is given one stand-in for each setting: the value of a setting at an
epoch is the mean over its seeds, known as soon as every seed that is still to come that far has. So a lucky seed saves
no setting and an unlucky one costs none, and a setting is stopped with all its seeds or not at all.

A seed that diverged, failed or was stopped by hand is waited for no more, and leaves the mean from there on: stopping
the rest of its setting would hide how often the setting diverges.
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
    """What early stopping has to know of a trial."""

    @property
    def trial_id(self) -> str:
        """Its hash."""
        ...

    @property
    def slug(self) -> str:
        """Its setting."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """As in config.json."""
        ...


@dataclass(eq=False)
class _Setting:
    """A setting, and what a scheduler of Ray Tune looks at in a trial: `trial_id`.

    Attributes:
        is_kept: it is never to be stopped.
        is_stopped: it was told to stop.
        alive: ids of the trials that may still report.
        seeds: those whose value an epoch must have, to be judged.
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
        """Note a setting; the judge looks at its `trial_id` only."""
        ...

    def stops(self, setting: Any, epoch: float, value: float) -> bool:
        """Whether the setting is to stop; its value counts for others in any case."""
        ...

    def watch(self, setting: Any, epoch: float, value: float) -> None:
        """Let the value count for others."""
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
        """Trials that join the sweep, or run again after a retry; all seeds of a setting together."""
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
        """An evaluation of a trial.

        Args:
            reading: as `TrialResult.readings` has it: 'epoch', 'step' and the metrics. One that came before is
                passed over, as are epoch 0 and trials that are not known.

        Returns:
            None: go on; else why all seeds of the trial's setting are to be stopped. It is told once: the caller
            marks all of them first, so that a sweep that dies meanwhile remembers.
        """
        if trial_id not in self._of_trial:
            return None
        return self._next(self._note(trial_id, reading))

    def ended(self, trial_id: str, status: str) -> str | None:
        """A trial has ended and is not run again: its setting waits for it no more. Returns what `report` does."""
        if trial_id not in self._of_trial or status in (TrialStatus.RUNNING, TrialStatus.PREEMPTED):
            return None
        setting = self._of_trial[trial_id][0]
        self._end(setting, trial_id, status)
        return self._next(setting)

    def restore(self, results: Iterable[TrialResult]) -> None:
        """Take in what the folder holds when a sweep goes on; nothing is stopped for it.

        What was decided before stands in the folder as marks; what is decided from here on is the same as if the
        sweep had not been cut off, since neither scheduler minds in which order it hears of an epoch.
        """
        known = [result for result in results if result.trial_id in self._of_trial]
        for result in sorted(known, key=lambda r: (r.slug, r.seed, r.trial_id)):
            for reading in result.readings():
                self._note(result.trial_id, reading)
            setting = self._of_trial[result.trial_id][0]
            if result.status == TrialStatus.STOPPED and (result.error or "").startswith(_PREFIX):
                setting.is_stopped = True  # a seed that still runs was taken back by a retry
                setting.alive.discard(result.trial_id)
            elif result.status.is_final:
                self._end(setting, result.trial_id, result.status, by_hand=True)
        for setting in self._settings.values():
            self._next(setting, may_stop=False)

    @staticmethod
    def _end(setting: _Setting, trial_id: str, status: str, by_hand: bool = False) -> None:
        setting.alive.discard(trial_id)
        is_ours = status == TrialStatus.STOPPED and setting.is_stopped and not by_hand
        if (
            status != TrialStatus.COMPLETED and not is_ours
        ):  # else its epochs after the others' would count for the setting
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
        """Judge the epochs that are complete and were not judged; why the setting is to stop, if it is."""
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
            told = self._why(mean, epoch, len(values), [v for slug, v in others.items() if slug != setting.trial_id])
            others[setting.trial_id] = mean
            is_over = not setting.alive or epoch >= setting.end
            can_stop = may_stop and not (is_over or setting.is_kept or setting.is_stopped)
            if not can_stop:
                self._judge.watch(setting, epoch, mean)
            elif self._judge.stops(setting, epoch, mean):
                setting.is_stopped = True
                return told
        return None

    def _why(self, mean: float, epoch: float, num_seeds: int, others: list[float]) -> str:
        seeds = f"the mean over {num_seeds} seeds" if num_seeds > 1 else "its one seed"
        told = (
            f"early stopping ({self._rule.scheduler}): {self._rule.metric} is {mean:.4g} after epoch {epoch:g}, {seeds}"
        )
        if others:
            best = max(others) if self._mode == "max" else min(others)
            told += f"; of {len(others)} other settings there the best has {best:.4g}, the median {median(others):.4g}"
        return told

    def _warn(self, epoch: float) -> None:
        if not self._is_warned:
            self._is_warned = True
            logger.warning("early stopping: no evaluation of epoch %g reports %r", epoch, self._rule.metric)
