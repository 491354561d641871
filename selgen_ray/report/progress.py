"""How far a sweep has come: which of its planned trials are done, which were cut off, which never began."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from selgen_ray.reading import Unreadable
from selgen_ray.records.control import LIVE, PLAN, Control
from selgen_ray.records.liveness import beat_s, is_driven
from selgen_ray.records.names import trial_name
from selgen_ray.records.results import TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.report.places import path_in
from selgen_ray.report.roles import is_control_name, role_in_name, role_of
from selgen_ray.report.settings import STRATEGIES, setting_key
from selgen_ray.storage import Folder


@dataclass(frozen=True)
class Plan:
    """The planned trials of the sweeps, as far as they have written a plan.

    Attributes:
        names: trial id -> name, such as {"1a2b3c4d5e6f7081": "naive_1a2b3c/seed_2"}; without those that were removed.
        running: names of the trials that a driver runs now.
        removed: those of the plan that somebody removed, likewise.
        left_out: trials of the sweep that its last run was told to leave alone, likewise.
        is_whole: whether every sweep has written a plan; else trials of the sweep may stand in none.
    """

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    running: frozenset[str] = frozenset()
    removed: Mapping[str, str] = field(default_factory=dict[str, str])
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    is_whole: bool = True


@dataclass(frozen=True)
class Progress:
    """How many trials of a sweep are done, and what is missing.

    Attributes:
        planned: number of trials that are to be run, with those that have a result but stand in no plan.
        done: number of trials that ended: completed, diverged, stopped or failed.
        running: number of trials that a driver runs now.
        cut_off: number of trials that began, are not done, and that nobody runs.
        waiting: names of the trials without a result.
        unfinished: strategy or control -> (trials of it that are not done, all its trials), for those that lack some.
        removed: names of the planned trials that were removed and have no result; they are not among `planned`.
        without: 'removed', 'left out' or 'abandoned' -> strategy or control -> (trials of it that are not done and that
            no run of the sweep goes on with, all its trials). Abandoned ones began, and stand in no plan any more.
    """

    planned: int = 0
    done: int = 0
    running: int = 0
    cut_off: int = 0
    waiting: tuple[str, ...] = ()
    unfinished: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    removed: tuple[str, ...] = ()
    without: Mapping[str, Mapping[str, tuple[int, int]]] = field(
        default_factory=dict[str, Mapping[str, tuple[int, int]]]
    )

    @property
    def is_over(self) -> bool:
        """Whether no trial is missing that a run of the sweep would go on with."""
        return self.done == self.planned


NO_PROGRESS = Progress()


def read_plan(folders: Iterable[Folder], damaged: Sequence[Unreadable] = ()) -> Plan:
    """Read the plans of sweeps: plan.json, and what was added or removed since.

    Args:
        damaged: results that cannot be read: of a sweep without a plan all that says that there is such a trial.

    Raises:
        StorageError: a folder cannot be read.
    """
    names: dict[str, str] = {}
    removed: dict[str, str] = {}
    left_out: dict[str, str] = {}
    running: set[str] = set()
    is_whole = True
    for folder in folders:
        control = Control(folder)
        plan = control.read(PLAN)
        planned = dict(plan.get("trials", {}))
        if not planned:
            is_whole = False
            planned = {
                u.trial_id or u.name: u.name for u in damaged if u.name and path_in(folder, u.folder) is not None
            }
        added = control.added.names() - planned.keys() - plan.get("left_out", {}).keys()
        planned |= control.names_of_added(added)
        marks = control.removed.names()
        names |= {trial_id: name for trial_id, name in planned.items() if trial_id not in marks}
        removed |= {trial_id: name for trial_id, name in planned.items() if trial_id in marks}
        left_out |= {trial_id: name for trial_id, name in plan.get("left_out", {}).items() if trial_id not in marks}
        live = control.read(LIVE)
        # a report need not wait for as long as somebody who would take the sweep over
        running |= set(live.get("running", {})) if is_driven(control, live, 3 * beat_s(live)) else set()
    # what one sweep leaves alone, another may have
    removed, left_out = ({i: name for i, name in one.items() if i not in names} for one in (removed, left_out))
    return Plan(names, frozenset(running), removed, left_out, is_whole)


def progress_of(trials: Sequence[TrialResult], plan: Plan) -> Progress:
    """Return how far the sweep is.

    Args:
        trials: those that have a result; without a plan they are all there is.
    """
    known = {r.trial_id for r in trials}
    by_name = {trial_name(r.slug, r.seed) for r in trials}  # a damaged file may have no id but its name

    def without_result(table: Mapping[str, str]) -> list[str]:
        return sorted(name for i, name in table.items() if i not in known and not (i == name and name in by_name))

    waiting, removed, left_out = map(without_result, (plan.names, plan.removed, plan.left_out))
    begun = [r for r in trials if r.status == TrialStatus.RUNNING]
    open_trials = [r for r in begun if _goes_on(r, plan)]
    gone = [r for r in begun if not _goes_on(r, plan)]
    running = sum(trial_name(r.slug, r.seed) in plan.running for r in open_trials)
    by_key = {setting_key(r.slug): role_of(r).name for r in trials}
    names = {*STRATEGIES, *by_key.values()}
    of_waiting, of_removed, of_left_out = (
        [_strategy_of_name(name, by_key, names) for name in some] for some in (waiting, removed, left_out)
    )
    missing = Counter([*of_waiting, *(role_of(r).name for r in open_trials)])
    everything = Counter([*of_waiting, *of_removed, *of_left_out, *(role_of(r).name for r in trials)])
    without = {
        "removed": [*of_removed, *(role_of(r).name for r in gone if r.trial_id in plan.removed)],
        "left out": [*of_left_out, *(role_of(r).name for r in gone if r.trial_id in plan.left_out)],
        "abandoned": [role_of(r).name for r in gone if r.trial_id not in {*plan.removed, *plan.left_out}],
    }
    return Progress(
        planned=len(trials) - len(gone) + len(waiting),
        done=len(trials) - len(begun),
        running=running,
        cut_off=len(open_trials) - running,
        waiting=tuple(waiting),
        unfinished={name: (n, everything[name]) for name, n in missing.most_common()},
        removed=tuple(removed),
        without={
            why: {name: (n, everything[name]) for name, n in Counter(some).most_common()}
            for why, some in without.items()
            if some
        },
    )


def _goes_on(result: TrialResult, plan: Plan) -> bool:
    """Return whether a trial that began is run now, or is gone on with when the sweep runs again."""
    if trial_name(result.slug, result.seed) in plan.running or result.trial_id in plan.names:
        return True
    is_known = bool(plan.names) and plan.is_whole
    return not is_known and result.trial_id not in {*plan.removed, *plan.left_out}


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
    """Return '8 of 33 trials are done; not yet run: dpo (all 6), naive (1 of 3).', and what no run goes on with.

    Returns:
        '' of a sweep that has all its trials.
    """
    parts = [] if progress.is_over else [_not_over(progress)]
    parts += [_WITHOUT[why].format(trials=_trials(some), whose=_whose(some)) for why, some in progress.without.items()]
    return " ".join(parts)


_WITHOUT = {
    "removed": "{trials} removed: {whose}. A setting that lacks a removed seed leads nothing, until a retry runs it.",
    "left out": (
        "{trials} left alone when the sweep last ran (--only), without a result: {whose}. "
        "So this is a part of the sweep."
    ),
    "abandoned": "{trials} begun and never ended, and no plan of the sweep names them any more: {whose}.",
}


def _not_over(progress: Progress) -> str:
    parts = [f"{progress.done} of {progress.planned} trials are done"]
    parts += [f"{progress.running} {_are(progress.running)} running"] if progress.running else []
    cut = progress.cut_off
    parts += [f"{cut} began and {_are(cut)} not run by anybody now"] if cut else []
    return f"{'; '.join(parts)}; not yet run: {_whose(progress.unfinished)}."


def _trials(whose: Mapping[str, tuple[int, int]]) -> str:
    n = sum(missing for missing, _ in whose.values())
    return f"{n} trial was" if n == 1 else f"{n} trials were"


def _whose(missing: Mapping[str, tuple[int, int]]) -> str:
    """Return 'dpo (all 6), naive (1 of 3)', those of which nothing is done first."""
    ordered = sorted(missing.items(), key=lambda item: (item[1][0] < item[1][1], item[0]))
    return ", ".join(f"{name} ({f'all {n}' if n == total else f'{n} of {total}'})" for name, (n, total) in ordered)


def _are(n: int) -> str:
    return "is" if n == 1 else "are"
