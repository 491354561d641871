"""The plan of a sweep: what is already done, what goes on, what is new."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from selgen_ray.driver.added import AddedTrial, read_added
from selgen_ray.driver.search import Search
from selgen_ray.driver.trust import Trust
from selgen_ray.reading import Unreadable, read_heads
from selgen_ray.records.attempts import newest_generation
from selgen_ray.records.control import PLAN, Control
from selgen_ray.records.results import ResultHead
from selgen_ray.records.status import TrialStatus
from selgen_ray.space import SweepSpec, Trial
from selgen_ray.storage import Folder
from selgen_ray.storage.leases import newest_number
from selgen_ray.trainers.plugins import Plugin
from selgen_ray.trial.provenance import git_commit
from selgen_ray.trial.task import CHECKPOINTS, TrialTask

T = TypeVar("T")
_WARNINGS = 12  # that are shown


@dataclass(frozen=True)
class Planned:
    """One trial of the sweep.

    Attributes:
        task: what a worker gets for it.
        found: the status of the result that is already there; `STOPPED` or `REMOVED` where somebody asked for it,
            `PENDING` where there is nothing, `UNREADABLE` where a file is damaged.
        error: the cause that result gives.
    """

    task: TrialTask
    found: TrialStatus
    error: str | None = None


@dataclass(frozen=True)
class TaskMaker:
    """Makes the tasks of one sweep: its own trials, and those that are added to it.

    Attributes:
        found: trial id -> folder of the result that is there already, and the result.
        damaged: trial id, or name where the file has no id -> a result that cannot be read and is to be replaced.
        trusted: what its trials may run and reach.
        names: trial id -> name, as the plan of the last run has it.
        commit: the git commit of the directory the sweep was started in; None outside of a repository.
    """

    folder: Folder
    found: dict[str, tuple[Folder, Any]]
    damaged: dict[str, Unreadable] = field(default_factory=dict[str, Unreadable])
    trusted: Trust = field(default_factory=Trust)
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    commit: str | None = field(default_factory=git_commit)

    def task(self, trial: Trial | AddedTrial, config: dict[str, Any], sources: tuple[Plugin, ...]) -> TrialTask:
        """Make the task that a worker gets for a trial."""
        return TrialTask(
            config=config,
            trial_id=trial.trial_id,
            slug=trial.slug,
            folder=self._place(trial),
            model_hash=trial.model_hash,
            cache=self.folder / "cache",
            git_commit=self.commit,
            plugins=sources,
        )

    def _place(self, trial: Trial | AddedTrial) -> Folder:
        """Return the one folder of a trial's results, whoever plans it and whatever it is called by now.

        A driver that was taken for dead may have begun it without leaving a result, under the name that it had then.
        """
        if trial.trial_id in self.found:
            return self.found[trial.trial_id][0]
        if damaged := self.damage_of(trial.trial_id, trial.name):
            return damaged.folder  # its checkpoints may be whole, and the new result replaces the damaged one
        before = self.names.get(trial.trial_id, trial.name)
        if before != trial.name:
            place = self.folder / before / "results" / trial.trial_id
            if place.exists():
                return place
        return self.folder / trial.name / "results" / trial.trial_id

    def damage_of(self, trial_id: str, name: str) -> Unreadable | None:
        """Return the damaged file of a trial that has no other result; None if it has a result, or no file at all."""
        return None if trial_id in self.found else self.damaged.get(trial_id) or self.damaged.get(name)


@dataclass(frozen=True)
class Plan:
    """All trials of a sweep, and how many results of other trials its folder also holds.

    Attributes:
        planned: the trials that were selected.
        make: the maker of its tasks.
        num_foreign: results in the folder whose trials the search space does not name.
        searches: those whose trials are not all known yet.
        left_out: trial id -> name, of the trials of the sweep that were not selected.
        warnings: lines on damaged files in the folder, and on added trials that are not run.
        refused: those of the warnings that say which added trials run or reach what nobody has named.
        generation: the highest one that has left a result, or an attempt; 0 if none says so.
    """

    folder: Folder
    planned: tuple[Planned, ...]
    num_foreign: int
    make: TaskMaker
    searches: tuple[Search, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    warnings: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    generation: int = 0

    def with_status(self, *statuses: TrialStatus) -> list[Planned]:
        """Return the trials whose result on storage has one of these statuses."""
        return [p for p in self.planned if p.found in statuses]

    def remove_leftovers(self) -> None:
        """Remove checkpoints of finished trials whose worker was killed after the result and before it removed them.

        Raises:
            StorageError: the folder cannot be read, or written to.
        """
        sweep = self.folder.inside
        tasks = [p.task for p in self.planned if p.found.is_finished]
        done = {task.folder.inside.removeprefix(sweep).strip("/"): task for task in tasks}
        names = self.folder.files(recursive=True)
        held = {trial for trial, separator, _ in (name.partition(f"/{CHECKPOINTS}/") for name in names) if separator}
        for trial in done.keys() & held:
            (done[trial].folder / CHECKPOINTS).delete()

    def selected(self, select: Callable[[TrialTask], bool]) -> Plan:
        """Return the plan of those trials alone that `select` accepts."""
        kept = tuple(p for p in self.planned if select(p.task))
        searches = tuple(one for one in self.searches if any(map(select, self.samples(one))))
        chosen = {p.task.trial_id for p in kept}
        left_out = {p.task.trial_id: p.task.name for p in self.planned if p.task.trial_id not in chosen}
        return replace(self, planned=kept, searches=searches, left_out=self.left_out | left_out)

    def samples(self, search: Search) -> list[TrialTask]:
        """Return some of the trials that a search could ask for."""
        return [self.make.task(trial, trial.config.model_dump(mode="json"), ()) for trial in search.spec.samples]

    @property
    def is_open(self) -> bool:
        """Whether there is anything to run, or a search may ask for more."""
        return bool(self.to_run) or not all(search.is_done for search in self.searches)

    @property
    def to_run(self) -> list[TrialTask]:
        """The trials left to run, those that were cut off first, so that a sweep finishes what it began."""
        order = [TrialStatus.RUNNING, TrialStatus.FAILED, TrialStatus.UNREADABLE, TrialStatus.PENDING]
        return [p.task for status in order for p in self.with_status(status)]

    def lines(self) -> list[str]:
        """Describe the plan in lines: the count of each kind, then trials per strategy."""
        kinds = (
            ("completed, skipped", TrialStatus.COMPLETED),
            ("diverged, skipped", TrialStatus.DIVERGED),
            ("stopped, skipped until a retry", TrialStatus.STOPPED),
            ("removed, skipped until a retry", TrialStatus.REMOVED),
            ("cut off, continued from the last checkpoint", TrialStatus.RUNNING),
            ("failed, tried again", TrialStatus.FAILED),
            ("unreadable, run again", TrialStatus.UNREADABLE),
            ("new", TrialStatus.PENDING),
        )
        counts = [(len(self.with_status(status)), text) for text, status in kinds]
        lines = [f"{_count(len(self.planned), 'trial')} in {self.folder}"]
        lines += [f"  {count:5d} {text}" for count, text in counts if count]
        strategies: dict[str, list[Planned]] = {}
        for p in self.planned:
            strategies.setdefault(p.task.config["proxy_strategy"], []).append(p)
        for name, trials in sorted(strategies.items()):
            done = sum(p.found.is_finished for p in trials)
            settings = len({p.task.slug for p in trials})
            lines.append(f"  {name}: {_count(len(trials), 'trial')}, {_count(settings, 'setting')}, {done} done")
        lines += [f"  search {search.spec.line}, {len(search.asked)} asked" for search in self.searches]
        if self.left_out:
            lines.append(f"  {len(self.left_out):5d} others not selected")
        lines += [f"  warning: {one}" for one in self.warnings[:_WARNINGS]]
        if len(self.warnings) > _WARNINGS:
            lines.append(f"  and {len(self.warnings) - _WARNINGS} warnings more of this kind")
        if self.num_foreign:
            lines.append(f"  note: the folder also holds {self.num_foreign} results of trials this file does not name")
        return lines


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def sweep_folder(spec: SweepSpec) -> Folder:
    """Return the folder that holds everything of a sweep: <storage_path>/<name>."""
    return Folder(spec.storage_path) / spec.name


def make_plan(spec: SweepSpec, confirmed: Iterable[str] = ()) -> Plan:
    """Compare the sweep's trials, and those that were added to it, with the results its folder already holds.

    Trials are found by id, not by path: a folder keeps its name when the YAML grows another axis.

    Args:
        confirmed: beginnings of the sha256 of what added trials may run and reach beside what the search space names.

    Raises:
        StorageError: the folder cannot be read.
    """
    folder = sweep_folder(spec)
    control = Control(folder)
    unreadable: list[Unreadable] = []
    damaged_marks: dict[str, str] = {}
    trusted = Trust.of(spec, folder, confirmed)
    results = {result.trial_id: (place, result) for place, result in read_heads(folder, unreadable)}
    damaged_results = {one.trial_id or one.name: one for one in unreadable if one.name}
    names: dict[str, str] = control.read(PLAN).get("trials", {})
    make = TaskMaker(folder, results, damaged_results, trusted, names)
    tasks = {t.trial_id: make.task(t, t.config.model_dump(mode="json"), spec.plugin_sources) for t in spec.trials}
    added = read_added(control, control.added.names(), damaged_marks)
    # a finished result runs nothing
    added_now = [trial for trial in added if not _is_finished(results.get(trial.trial_id))]
    refused = {t.trial_id: f"{t.name} {why}" for t in added_now if (why := trusted.why_not(t.plugins, t.config))}
    joining = [trial for trial in added if trial.trial_id not in refused]
    tasks = {trial.trial_id: make.task(trial, trial.config, trial.plugins) for trial in joining} | tasks
    entries = [trial.search for trial in added if trial.search]
    searches = tuple(Search(one, entries) for one in spec.searches)
    for trial in (t for search in searches for asked in search.asked for t in asked.trials):
        if trial.trial_id not in tasks:  # of a seed that the file did not name when it was asked for
            config = trial.config.model_dump(mode="json")
            if why := trusted.why_not(spec.plugin_sources, config):  # the values are those of a file in the folder
                refused[trial.trial_id] = f"{trial.name} {why}"
            else:
                tasks[trial.trial_id] = make.task(trial, config, spec.plugin_sources)
    warnings = [*map(str, unreadable), *damaged_marks.values(), *refused.values()]
    stopped, removed = control.stop.names(), control.removed.names()
    planned: list[Planned] = []
    for task in tasks.values():
        _, result = results.get(task.trial_id, (None, None))
        damaged = make.damage_of(task.trial_id, task.name)
        status = result.status if result else TrialStatus.UNREADABLE if damaged else TrialStatus.PENDING
        if not status.is_finished:
            marked = (
                TrialStatus.REMOVED
                if task.trial_id in removed
                else TrialStatus.STOPPED
                if task.trial_id in stopped
                else None
            )
            status = marked or status
        planned.append(Planned(task, status, result.error if result else damaged.why if damaged else None))
    num_foreign = len(results.keys() - tasks.keys())
    left_out = {trial.trial_id: trial.name for trial in added if trial.trial_id not in tasks}
    generation = max((result.generation or 0 for _, result in results.values()), default=0)
    if not newest_number(control.driver.files()):  # leases may have been lost, while marks of attempts are left
        generation = max(generation, newest_generation(folder))
    told = tuple(refused.values())
    return Plan(folder, tuple(planned), num_foreign, make, searches, left_out, tuple(warnings), told, generation)


def _is_finished(found: tuple[Folder, ResultHead] | None) -> bool:
    return found is not None and found[1].status.is_finished
