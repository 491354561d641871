"""A search whose settings depend on results: its next setting is a pure function of what the sweep's folder holds.

Optuna's study is rebuilt each time from the settings asked for before and their results. So the search has no state
that a resumed sweep could lose, and needs no database beside the folder.
"""

from __future__ import annotations

import json
import logging
import math
import random
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from selgen_ray.errors import SpecError
from selgen_ray.records.requirement import Condition
from selgen_ray.records.results import TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.seeding import derive_seed
from selgen_ray.space import Trial
from selgen_ray.space.ranges import Range, draw, everything
from selgen_ray.space.spec import Objective, SearchSpec

logger = logging.getLogger(__name__)
_TRIES = 20  # draws of a setting that was not asked for yet, before all possible ones are listed
_CONSTRAINTS = "constraints"  # where Optuna's samplers look for them
_FEW = 10_000  # settings that can all be listed


@dataclass(frozen=True)
class Asked:
    """A setting that a search has asked for.

    Attributes:
        key: of the search.
        number: 0 for its first setting.
        values: dotted config key -> value, plain.
        trials: one a seed.
    """

    key: str
    number: int
    values: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def entry(self) -> dict[str, Any]:
        """Plain data that the sweep's folder must keep beside each of the trials, so that the search can go on."""
        return {"key": self.key, "number": self.number, "values": dict(self.values)}


class Search:
    """One search of a sweep.

    Args:
        spec: as the search space has it.
        entries: the `Asked.entry` of trials that searches of this sweep asked for before, in any order; those of
            other searches are ignored.

    Attributes:
        asked: every setting so far, with a trial for each seed that the search space names now.
    """

    def __init__(self, spec: SearchSpec, entries: Iterable[Mapping[str, Any]] = ()):
        self.spec = spec
        mine = [entry for entry in entries if entry.get("key") == spec.key]
        settings = {one["number"]: one["values"] for one in mine if one["values"].keys() == spec.ranges.keys()}
        if len(settings) < len({one["number"] for one in mine}):  # the key has a hash of what is searched
            logger.warning("%s leaves out settings that name other keys: their files are damaged", spec.key)
        self.asked = [self._asked(number, settings[number]) for number in sorted(settings)]
        self._is_exhausted = False

    @property
    def is_done(self) -> bool:
        """Whether it will ask for nothing more."""
        return self._is_exhausted or len(self.asked) >= self.spec.num_settings

    def ask(self, results: Mapping[str, TrialResult]) -> Asked | None:
        """Return the next setting, or None if there is none. It joins `asked`; the caller must keep its `entry`.

        Args:
            results: trial id -> result, of all trials that have one.
        """
        if self.is_done:
            return None
        number = self.asked[-1].number + 1 if self.asked else 0
        for values in self._suggestions(number, results):
            asked = self._asked(number, values)
            if asked.trials:
                self.asked.append(asked)
                return asked
        self._is_exhausted = True
        return None

    def _asked(self, number: int, values: Mapping[str, Any]) -> Asked:
        try:
            return Asked(self.spec.key, number, values, tuple(self.spec.build(values)))
        except SpecError as error:  # keys that do not go together there
            logger.warning("%s leaves out a setting: %s", self.spec.key, error)
            return Asked(self.spec.key, number, values, ())

    def _suggestions(self, number: int, results: Mapping[str, TrialResult]) -> Iterable[dict[str, Any]]:
        """Yield settings that were not asked for yet, the preferred one first."""
        known = {_text(asked.values) for asked in self.asked}
        ranges, seed = self.spec.ranges, self.spec.seed
        for attempt in range(_TRIES):
            if number < num_random(self.spec.num_settings):
                values = draw(ranges, number, seed, self.spec.strategy, *([attempt] if attempt else []))
            else:
                values = self._from_results(derive_seed("search", seed, self.spec.key, number, attempt), results)
            if _text(values) not in known:
                known.add(_text(values))
                yield values
        if math.prod(one.num_values for one in ranges.values()) <= _FEW:
            left = [values for values in everything(ranges) if _text(values) not in known]
            random.Random(derive_seed("search", seed, self.spec.key, number)).shuffle(left)
            yield from left

    def _from_results(self, seed: int, results: Mapping[str, TrialResult]) -> dict[str, Any]:
        import optuna  # an extra, which the search space has asked for

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        ranges = self.spec.ranges
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the options below
            sampler = optuna.samplers.TPESampler(
                seed=seed % 2**32,
                n_startup_trials=num_random(self.spec.num_settings),
                multivariate=True,  # two keys may matter together
                constant_liar=True,  # a running setting is not worth asking for again
                constraints_func=_violations if self.spec.require else None,
            )
        directions = ["maximize" if one.mode == "max" else "minimize" for one in self.spec.objectives]
        study = optuna.create_study(directions=directions, sampler=sampler)
        distributions = {key: _distribution(one) for key, one in ranges.items()}
        for asked in self.asked:
            # the file may have had other ranges then
            if all(one.holds(asked.values.get(key)) for key, one in ranges.items()):
                state, values = outcome(asked, results, self.spec.objectives)
                violations = misses(asked, results, self.spec.require) if state == "COMPLETE" else []
                if violations is None:
                    state, values = "FAIL", None
                trial = optuna.trial.create_trial(
                    state=optuna.trial.TrialState[state],
                    params={key: _to_optuna(one, asked.values[key]) for key, one in ranges.items()},
                    distributions=distributions,
                    values=values,
                    system_attrs={_CONSTRAINTS: violations} if violations else {},
                )
                study.add_trial(trial)
        suggested = study.ask(distributions).params
        return {key: _from_optuna(one, suggested[key]) for key, one in ranges.items()}


def num_random(num_settings: int) -> int:
    """Return how many settings of a search are drawn at random before results guide it."""
    return max(3, min(10, num_settings // 4))


def outcome(
    asked: Asked, results: Mapping[str, TrialResult], objectives: Iterable[Objective]
) -> tuple[str, list[float] | None]:
    """Return what Optuna is told of a setting: the name of a TrialState, and the objectives if it is 'COMPLETE'.

    A setting fails when one of its seeds diverged, and is pruned when its seeds were stopped. Otherwise it is complete
    once all seeds have ended, with the mean over the completed ones.
    """
    present = [results[trial.trial_id] for trial in asked.trials if trial.trial_id in results]
    statuses = {result.status for result in present}
    if TrialStatus.DIVERGED in statuses:
        return "FAIL", None
    if len(present) < len(asked.trials) or TrialStatus.RUNNING in statuses:
        return "RUNNING", None
    done = [result for result in present if result.status == TrialStatus.COMPLETED]
    if not done:
        return ("PRUNED" if TrialStatus.STOPPED in statuses else "FAIL"), None
    values = [[v for result in done if (v := result.value(one.metric)) is not None] for one in objectives]
    if not all(values):
        return "FAIL", None
    return "COMPLETE", [fmean(of_seeds) for of_seeds in values]


def misses(asked: Asked, results: Mapping[str, TrialResult], require: Iterable[Condition]) -> list[float] | None:
    """Return how far a complete setting's means violate each condition (<= 0: it is met); None: a value is missing."""
    done = [r for trial in asked.trials if (r := results.get(trial.trial_id)) and r.status == TrialStatus.COMPLETED]
    violations: list[float] = []
    for condition in require:
        values = [value for result in done if (value := result.value(condition.metric)) is not None]
        if len(values) < len(done):
            return None
        violations.append(condition.excess(fmean(values)))
    return violations


def _violations(trial: Any) -> list[float]:
    return trial.system_attrs[_CONSTRAINTS]


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _distribution(one: Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.choices:  # by number: a choice may be a list
        return CategoricalDistribution(list(range(len(one.choices))))
    if one.is_whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)


def _to_optuna(one: Range, value: Any) -> Any:
    return one.choices.index(value) if one.choices else value


def _from_optuna(one: Range, value: Any) -> Any:
    return one.choices[value] if one.choices else one.rounded(value)
