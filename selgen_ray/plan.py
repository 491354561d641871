"""The plan of a sweep: what is already done, what goes on, what is new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from selgen_ray.data.rows import Row, load_roles
from selgen_ray.errors import DataError
from selgen_ray.provenance import git_commit
from selgen_ray.results import Status, read_trials
from selgen_ray.space import SweepSpec, Trial
from selgen_ray.storage import Folder
from selgen_ray.trainers import plugins
from selgen_ray.trainers.registry import get_trainer
from selgen_ray.trial import TrialTask

_FINISHED: tuple[Status, ...] = ("completed", "diverged")


@dataclass(frozen=True)
class Planned:
    """One trial of the sweep.

    Attributes:
        trial: as the search space names it.
        task: what a worker gets.
        found: the status of the result that is already there; None: there is none.
        error: the cause that result gives.
    """

    trial: Trial
    task: TrialTask
    found: Status | None
    error: str | None


@dataclass(frozen=True)
class Plan:
    """All trials of a sweep, and how many results of other trials its folder also holds."""

    folder: Folder
    planned: tuple[Planned, ...]
    num_foreign: int

    def with_status(self, *found: Status | None) -> list[Planned]:
        """The trials whose result on storage has one of these statuses."""
        return [p for p in self.planned if p.found in found]

    @property
    def to_run(self) -> list[TrialTask]:
        """What is left: cut off first, so that a sweep finishes what it began."""
        order: list[Status | None] = ["running", "failed", None]
        return [p.task for status in order for p in self.with_status(status)]

    def lines(self) -> list[str]:
        """The plan in words: counts of each kind, then trials per strategy."""
        kinds: Sequence[tuple[str, Status | None]] = (
            ("completed, skipped", "completed"),
            ("diverged, skipped", "diverged"),
            ("cut off, continued from the last checkpoint", "running"),
            ("failed, tried again", "failed"),
            ("new", None),
        )
        counts = [(len(self.with_status(status)), text) for text, status in kinds]
        lines = [f"{_count(len(self.planned), 'trial')} in {self.folder}"]
        lines += [f"  {count:5d} {text}" for count, text in counts if count]
        strategies: dict[str, list[Planned]] = {}
        for p in self.planned:
            strategies.setdefault(p.trial.config.proxy_strategy, []).append(p)
        for name, trials in sorted(strategies.items()):
            done = sum(p.found in _FINISHED for p in trials)
            settings = len({p.trial.slug for p in trials})
            lines.append(f"  {name}: {_count(len(trials), 'trial')}, {_count(settings, 'setting')}, {done} done")
        if self.num_foreign:
            lines.append(f"  note: the folder also holds {self.num_foreign} results of trials this file does not name")
        return lines


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def sweep_folder(spec: SweepSpec) -> Folder:
    """Where the sweep keeps everything: <storage_path>/<name>."""
    return Folder(spec.storage_path) / spec.name


def make_plan(spec: SweepSpec) -> Plan:
    """Compare the sweep's trials with the results its folder already holds.

    Trials are found by id, not by path: a folder keeps its name when the YAML grows another axis.
    """
    folder = sweep_folder(spec)
    found = {result.trial_id: (place, result) for place, result in read_trials(folder)}
    stamp = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    commit = git_commit()
    planned = []
    for trial in spec.trials:
        place, result = found.get(trial.trial_id, (None, None))
        task = TrialTask(
            config=trial.config.model_dump(mode="json"),
            trial_id=trial.trial_id,
            slug=trial.slug,
            folder=place or folder / trial.name / "results" / stamp,
            model_hash=trial.model_hash,
            cache=folder / "cache",
            git_commit=commit,
            plugins=spec.plugin_sources,
        )
        planned.append(Planned(trial, task, result.status if result else None, result.error if result else None))
    return Plan(folder, tuple(planned), len(found.keys() - {t.trial_id for t in spec.trials}))


def check_data(spec: SweepSpec) -> list[str]:
    """Everything wrong with the data of the sweep's trials, in words: found before any GPU is touched."""
    plugins.use(spec.plugin_sources)  # another search space may have been read since
    problems: dict[str, None] = {}
    loaded: dict[tuple[str, str | None], dict[str, list[Row]]] = {}
    checked: set[tuple[str, ...]] = set()
    for trial in spec.trials:
        config = trial.config
        source = (config.data.model_dump_json(), config.world)  # another seed of the same data has the same form
        key = (*map(str, source), config.proxy_strategy, config.finetune_config.model_dump_json())
        if key in checked:
            continue
        checked.add(key)
        try:
            if source not in loaded:
                loaded[source] = load_roles(config)
            get_trainer(config.proxy_strategy).check_rows(config, loaded[source])
        except DataError as error:
            problems[str(error)] = None
    return list(problems)
