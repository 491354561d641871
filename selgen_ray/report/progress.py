"""How far a sweep has come: which of its planned trials are done, which were cut off, which never began."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from selgen_ray.records.control import LIVE, PLAN, Control
from selgen_ray.records.liveness import beat_s, is_driven
from selgen_ray.records.names import trial_name
from selgen_ray.records.results import TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.report.roles import is_control_name, role_in_name, role_of
from selgen_ray.report.settings import STRATEGIES, setting_key
from selgen_ray.storage import Folder


@dataclass(frozen=True)
class Plan:
    """The planned trials of the sweeps, as far as they have written a plan.

    Attributes:
        names: trial id -> name, such as {"1a2b3c4d5e6f7081": "naive_1a2b3c/seed_2"}; without those that were removed.
        running: names of the trials that a driver runs now.
    """

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    running: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Progress:
    """How many trials of a sweep are done, and what is missing.

    Attributes:
        planned: number of trials, with those that have a result but stand in no plan.
        done: number of trials that ended: completed, diverged, stopped or failed.
        running: number of trials that a driver runs now.
        cut_off: number of trials that began, are not done, and that nobody runs.
        waiting: names of the trials without a result.
        unfinished: strategy or control -> (trials of it that are not done, all its trials), for those that lack some.
    """

    planned: int = 0
    done: int = 0
    running: int = 0
    cut_off: int = 0
    waiting: tuple[str, ...] = ()
    unfinished: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    @property
    def is_over(self) -> bool:
        """Whether no trial is missing."""
        return self.done == self.planned


NO_PROGRESS = Progress()


def read_plan(folders: Iterable[Folder]) -> Plan:
    """Read the plans of sweeps: plan.json, and what was added or removed since. Raises StorageError."""
    names: dict[str, str] = {}
    running: set[str] = set()
    for folder in folders:
        control = Control(folder)
        planned = dict(control.read(PLAN).get("trials", {}))
        planned |= control.names_of_added(control.added.names() - planned.keys())
        removed = control.removed.names()
        names |= {trial_id: name for trial_id, name in planned.items() if trial_id not in removed}
        live = control.read(LIVE)
        # a report need not wait for as long as somebody who would take the sweep over
        running |= set(live.get("running", {})) if is_driven(control, live, 3 * beat_s(live)) else set()
    return Plan(names, frozenset(running))


def progress_of(trials: Sequence[TrialResult], plan: Plan) -> Progress:
    """Return how far the sweep is.

    Args:
        trials: those that have a result; without a plan they are all there is.
    """
    known = {result.trial_id for result in trials}
    waiting = sorted(name for trial_id, name in plan.names.items() if trial_id not in known)
    open_trials = [r for r in trials if r.status == TrialStatus.RUNNING]
    running = sum(trial_name(r.slug, r.seed) in plan.running for r in open_trials)
    by_key = {setting_key(r.slug): role_of(r).name for r in trials}
    names = {*STRATEGIES, *by_key.values()}
    of_waiting = [_strategy_of_name(name, by_key, names) for name in waiting]
    missing = Counter([*of_waiting, *(role_of(r).name for r in open_trials)])
    everything = Counter([*of_waiting, *(role_of(r).name for r in trials)])
    return Progress(
        planned=len(trials) + len(waiting),
        done=len(trials) - len(open_trials),
        running=running,
        cut_off=len(open_trials) - running,
        waiting=tuple(waiting),
        unfinished={name: (n, everything[name]) for name, n in missing.most_common()},
    )


def _strategy_of_name(name: str, by_key: Mapping[str, str], strategies: Iterable[str]) -> str:
    """Return the strategy of a planned trial's name; of an unknown strategy the slug without its hash."""
    slug = name.rpartition("/")[0]
    key = setting_key(slug)
    if key in by_key:
        return by_key[key]
    if is_control_name(slug):
        return role_in_name(slug, "")
    fitting = [one for one in strategies if slug == one or slug.startswith(f"{one}_")]
    return role_in_name(slug, max(fitting, key=len) if fitting else slug.removesuffix(f"_{key}"))


def progress_text(progress: Progress) -> str:
    """Return '8 of 33 trials are done; 2 were cut off; not yet run: dpo (all 6), naive (1 of 3).'; '' once over."""
    if progress.is_over:
        return ""
    parts = [f"{progress.done} of {progress.planned} trials are done"]
    parts += [f"{progress.running} {_are(progress.running)} running"] if progress.running else []
    cut = progress.cut_off
    parts += [f"{cut} began and {_are(cut)} not run by anybody now"] if cut else []
    missing = [f"{name} ({f'all {n}' if n == total else f'{n} of {total}'})" for name, (n, total) in _sorted(progress)]
    return f"{'; '.join(parts)}; not yet run: {', '.join(missing)}."


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _sorted(progress: Progress) -> list[tuple[str, tuple[int, int]]]:
    """Return what is unfinished, strategies of which nothing is done first."""
    return sorted(progress.unfinished.items(), key=lambda item: (item[1][0] < item[1][1], item[0]))
