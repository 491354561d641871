"""Tune's events of a pack of trials, taken apart: each trial of it looks like a Tune trial of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from selgen_ray.cluster.tune_events import cause_of_trial
from selgen_ray.records.status import TrialStatus


@dataclass
class Member:
    """One trial of a pack, with what callbacks read of a Tune trial.

    Attributes:
        trial_id: Tune's id of the pack, and a number.
        config: as that of a Tune trial of its own.
        last_result: its last report.
        pickled_error_file: of the pack.
        has_started, has_ended: what it has reported.
    """

    trial_id: str
    config: dict[str, Any]
    last_result: dict[str, Any] = field(default_factory=dict[str, Any])
    pickled_error_file: str | None = None
    has_started: bool = False
    has_ended: bool = False

    def __str__(self) -> str:
        return str(self.config["name"])


class EachOfAPack(tune.Callback):
    """Passes Tune's events on to callbacks that know trials alone; those of a pack as events of its trials.

    When the process of a pack dies, all of its trials that have not ended are handed out again. It counts as a failure
    of a trial only if that one ran alone; if several ran, each is to run alone next.

    Args:
        callbacks: get the events.
        run_alone: called with the ids of the trials whose process died while several ran.
    """

    def __init__(self, callbacks: Sequence[tune.Callback], run_alone: Callable[[Iterable[str]], None]):
        self._callbacks, self._run_alone = callbacks, run_alone
        self._packs: dict[str, dict[str, Member]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that is never made

    def on_trial_start(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        if "members" not in trial.config:
            self._tell("on_trial_start", iteration, trials, trial, **info)
            return
        self._packs[trial.trial_id] = {
            config["trial_id"]: Member(f"{trial.trial_id}_{number}", config)
            for number, config in enumerate(trial.config["members"])
        }

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if trial.trial_id not in self._packs:
            self._tell("on_trial_result", iteration, trials, trial, result, **info)
            return
        for report in result.get("reports", ()):
            member = self._packs[trial.trial_id][report["member"]]
            line = {key: value for key, value in report.items() if key not in ("member", "started")}
            if report.get("started"):
                member.has_started = True
                self._tell("on_trial_start", iteration, trials, member)
                continue
            member.last_result = line
            self._tell("on_trial_result", iteration, trials, member, line)
            if "status" in line:
                self._end(iteration, trials, member)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        if trial.trial_id not in self._packs:
            self._tell("on_trial_complete", iteration, trials, trial, **info)
            return
        for member in self._left(trial):
            self._end(iteration, trials, member)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: TuneTrial, **info: Any) -> None:
        if trial.trial_id not in self._packs:
            self._tell("on_trial_error", iteration, trials, trial, **info)
            return
        left = self._left(trial)
        ran = [member for member in left if member.has_started]
        cause = cause_of_trial(trial)
        if len(ran) > 1:
            self._run_alone([member.config["trial_id"] for member in ran])
        for member in reversed(left):  # each is put before those that wait
            if ran == [member]:
                member.has_ended, member.pickled_error_file = True, trial.pickled_error_file
                self._tell("on_trial_error", iteration, trials, member)
                continue
            why = f"the process of its pack died: {cause.line}"
            member.last_result = {"status": TrialStatus.PREEMPTED} | ({"error": why} if member.has_started else {})
            self._end(iteration, trials, member)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._tell("on_experiment_end", trials, **info)

    def _left(self, trial: TuneTrial) -> list[Member]:
        return [member for member in self._packs.pop(trial.trial_id).values() if not member.has_ended]

    def _end(self, iteration: int, trials: list[Any], member: Member) -> None:
        member.has_ended = True
        self._tell("on_trial_complete", iteration, trials, member)

    def _tell(self, event: str, *args: Any, **info: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, event)(*args, **info)
