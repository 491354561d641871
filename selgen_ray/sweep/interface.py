"""A sweep as a Python object, for notebooks and programs: `selgen_ray.Sweep`."""

from __future__ import annotations

import ctypes
import logging
import threading
from _thread import interrupt_main
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selgen_ray.cluster import job
from selgen_ray.driver.display import Progress, clock, make_display
from selgen_ray.driver.driver import claim
from selgen_ray.driver.plan import Plan, make_plan, sweep_folder
from selgen_ray.driver.preflight import check_data
from selgen_ray.driver.selection import parse_only
from selgen_ray.driver.token_plan import PlannedTokens
from selgen_ray.errors import ClusterError, DataError, SelectionError, StorageError, SweepLostError, nearest
from selgen_ray.evals.foresight import Foresight
from selgen_ray.reading import load_results
from selgen_ray.records.control import Control
from selgen_ray.records.results import flatten
from selgen_ray.records.status import TrialStatus
from selgen_ray.records.text import last_line
from selgen_ray.space import SweepSpec, kept, load_space
from selgen_ray.space.load import load_content
from selgen_ray.storage import Folder
from selgen_ray.storage.locations import absolute
from selgen_ray.sweep.commands import read_state
from selgen_ray.sweep.launching import launch_sweep
from selgen_ray.trainers import plugins
from selgen_ray.trial.of_values import TrialSource

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from selgen_ray.storage.leases import Lease
    from selgen_ray.trial.task import TrialTask

logger = logging.getLogger(__name__)
_INTERRUPTED = "Ctrl-C"  # why a sweep ended, as the launch says it
_LEFT = (TrialStatus.FAILED, TrialStatus.RUNNING, TrialStatus.UNREADABLE, TrialStatus.PENDING)


@dataclass(frozen=True)
class SweepStatus:
    """The state of a sweep, as its folder shows it.

    Attributes:
        folder: the sweep's.
        is_running: whether a process, this one or another, runs the sweep now.
        counts: status -> number of trials.
        running: name of a running trial -> the numbers it reported last.
        errors: name of a trial -> why it failed, diverged or was stopped, in one line.
        seconds_left: an estimate; None where no process runs the sweep.
    """

    folder: str
    is_running: bool
    counts: Mapping[str, int]
    running: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    errors: Mapping[str, str] = field(default_factory=dict[str, str])
    seconds_left: float | None = None

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {status}" for status, number in self.counts.items())
        left = "" if self.seconds_left is None else f", {clock(self.seconds_left)} left"
        lines = [f"{self.folder}: {'running' if self.is_running else 'not running'}, {counts}{left}"]
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.errors.items())])


class Sweep:
    """A search space with its trials, which can be planned, run, looked at and reported from Python.

    Make one by `from_yaml` or `from_dict`. Runs, results and reports are those of the command: both see the same
    folder, and what one has run the other skips.

    Attributes:
        spec: the search space, read and checked, with an absolute `storage_path`.
        is_placed: `storage_path` was absolute, or a URI, as it was given.
    """

    def __init__(self, spec: SweepSpec, kept_text: Callable[[], bytes]):
        self.is_placed = absolute(spec.storage_path) == spec.storage_path
        # a notebook may change its folder
        self.spec = spec.model_copy(update={"storage_path": absolute(spec.storage_path)})
        self._kept_text = kept_text
        self._folder = sweep_folder(self.spec)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Sweep:
        """Read a search space from a YAML file.

        Raises:
            SpecError: everything that is wrong with it, each problem with file, line and key.
        """
        return cls(load_space(path), lambda: kept.kept_text(Path(path)))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Sweep:
        """Take a search space as a dict with the keys of a YAML file; see search_spaces/README.md.

        Paths in it are looked up in the current directory. Keys may be dotted.

        Raises:
            SpecError: everything that is wrong with it, each problem with the path of its key.
        """
        spec, tree = load_content(content)
        return cls(spec, lambda: kept.written_out(tree, "made of a dict by selgen_ray.Sweep.from_dict"))

    @classmethod
    def of(cls, space: Sweep | str | Path | Mapping[str, Any]) -> Sweep:
        """Return the sweep of a search space that is given as one, as a YAML file, or as a dict. Raises SpecError."""
        if isinstance(space, Sweep):
            return space
        return cls.from_dict(space) if isinstance(space, Mapping) else cls.from_yaml(space)

    def source(self, folder: str | Path | None = None) -> TrialSource:
        """Return what makes trials of values that are chosen elsewhere, see `selgen_ray.tune`.

        Args:
            folder: where their results go; default: the sweep's folder with '_own' after its name.
        """
        place = Folder(self.spec.storage_path) / f"{self.name}_own" if folder is None else Folder(str(folder))
        return TrialSource(self.name, place, self.spec.open_space, self.spec.plugin_sources)

    @property
    def name(self) -> str:
        """The sweep's name, that of its folder in `storage_path`."""
        return self.spec.name

    @property
    def folder(self) -> str:
        """The sweep's folder, a path or URI."""
        return str(self._folder)

    def __repr__(self) -> str:
        return f"<Sweep {self.name}: {len(self.spec.trials)} trials, {self.folder}>"

    def check(self) -> list[str]:
        """Read all rows, look at all models, and return lines that say what will be measured: a dry run.

        Raises:
            DataError: everything that is wrong with data and models, a line each.
        """
        return self._checked(PlannedTokens(self._folder / "cache", keep=False))

    def _checked(self, tokens: PlannedTokens) -> list[str]:
        foresight = Foresight()
        if problems := check_data(self.spec, tokens, foresight):
            raise DataError("\n".join(problems))
        return [*foresight.lines(), *tokens.lines(), *self.spec.notes]

    def plan(self) -> pd.DataFrame:
        """Return the trials as a table, one row each, with what their folder already holds.

        Returns:
            Columns trial_id, status ('pending' where there is no result), slug, seed, proxy_strategy, error (the cause
            in one line, or None), and each config key in which trials of one strategy differ, those of finetune_config
            by their short names, such as beta_kl. Trials that a search by optuna has not asked for yet are not there.

        Raises:
            StorageError: the folder cannot be read.
        """
        import pandas as pd  # late: start-up

        plan = self._plan()
        varied = _varied([p.task for p in plan.planned])
        rows = [
            {
                "trial_id": p.task.trial_id,
                "status": str(p.found),
                "slug": p.task.slug,
                "seed": p.task.config["seed"],
                "proxy_strategy": p.task.config["proxy_strategy"],
                "error": last_line(p.error) or None,
                **varied[p.task.trial_id],
            }
            for p in plan.planned
        ]
        return pd.DataFrame(rows, columns=None if rows else ["trial_id", "status", "slug", "seed", "proxy_strategy"])

    def run(
        self,
        progress: Literal["auto", "rich", "plain", "none"] | Callable[[Progress], object] = "auto",
        *,
        only: Iterable[str] = (),
        max_concurrent: int | None = None,
        time_budget_s: float | None = None,
        trust_plugins: Iterable[str] = (),
    ) -> pd.DataFrame:
        """Run the trials that are left to run, and return when none runs any more.

        If this process is connected to a Ray cluster (`ray.init`), the trials run there and the connection stays;
        otherwise they run on the cluster at RAY_ADDRESS, or on a local one, which ends with them. An interrupt (Ctrl-C,
        or that of a notebook) lets running trials finish their step and save a checkpoint, and is then raised; a second
        one ends them at once. `run` goes on from the checkpoints.

        Args:
            progress: 'auto': a live display in a terminal or a notebook, plain lines elsewhere; 'none': nothing; or a
                function that gets a `Progress` at each event and every half second at most in between.
            only: run these trials alone: 'strategy=kl_divergence', 'seed=1,2'; several must all hold.
            max_concurrent: trials at a time, in place of `resources.max_concurrent`.
            time_budget_s: after so many seconds the sweep ends, with checkpoints.
            trust_plugins: beginnings of the sha256 of what added trials may run and reach, as the plan names them.

        Returns:
            The table of `plan`: status and error say how each trial ended. A trial that fails raises nothing here.

        Raises:
            DataError: data or models are wrong; nothing has begun.
            SelectionError: `only` fits no trial.
            SweepError: another process runs the sweep, the cluster is gone, no node can hold a trial, or a tracker
                cannot be set up; see its subclasses in `selgen_ray.errors`.
            StorageError: the sweep's folder cannot be read or written.
            KeyboardInterrupt: the sweep was interrupted; its checkpoints are saved.
        """
        if lost := job.lost_storage(self.spec.storage_path):
            raise StorageError(lost)
        tokens = PlannedTokens(self._folder / "cache", keep=True)
        self._checked(tokens)
        only, trusted = list(only), list(trust_plugins)
        if not self._plan(only, trusted).is_open:
            return self.plan()
        spec = self.spec
        if max_concurrent is not None:
            resources = spec.resources.model_copy(update={"max_concurrent": max_concurrent})
            spec = spec.model_copy(update={"resources": resources})
        display = make_display(progress)
        with claim(Control(self._folder), self._plan().generation) as lease:
            self._folder.write(kept.FILE, self._kept_text())
            tokens.publish()
            abandoned = _Abandoned()
            try:
                plan = self._plan(only, trusted)
                why = launch_sweep(spec, plan, display, abandoned, lease, time_budget_s)
            except KeyboardInterrupt:
                abandoned.check()
                raise
            abandoned.check()
        return self._ended(lease, why, only, trusted)

    def _ended(self, lease: Lease, why: str | None, only: list[str], trusted: list[str]) -> pd.DataFrame:
        if lease.lost is not None:
            raise SweepLostError(lease.lost)
        plan = self._plan(only, trusted)
        try:
            plan.remove_leftovers()
        except StorageError as error:  # they only take room
            logger.warning("%s", error)
        if why == _INTERRUPTED:
            raise KeyboardInterrupt
        if left := len(plan.with_status(*_LEFT)):
            early = f"ended early ({why}): " if why else ""
            logger.warning("%s%d trials failed or are left to run; run() goes on", early, left)
        return self.plan()

    def _plan(self, only: Iterable[str] = (), trusted: Iterable[str] = ()) -> Plan:
        plugins.register_exactly(self.spec.plugin_sources)  # another search space may have been read since
        plan = make_plan(self.spec, trusted)
        only = list(only)
        return plan.selected(parse_only(only, [p.task for p in plan.planned])) if only else plan

    def status(self) -> SweepStatus:
        """Return how far the sweep is, whichever process runs it; all is pending before its first run.

        Raises:
            StorageError: the folder cannot be read.
        """
        if not self._folder.exists():
            return SweepStatus(self.folder, False, {str(TrialStatus.PENDING): len(self.spec.trials)})
        state = read_state(self._folder)
        running = state.live.get("running", {}) if state.is_driven else {}
        left = state.live.get("seconds_left") if state.is_driven else None
        errors = {state.names[trial_id]: why for trial_id, why in state.errors.items()}
        return SweepStatus(
            self.folder, state.is_driven, dict(Counter(map(str, state.status.values()))), running, errors, left
        )

    def results(
        self, per: Literal["trial", "epoch"] = "trial", status: str | Iterable[str] = TrialStatus.COMPLETED
    ) -> pd.DataFrame:
        """Return the results as a table; see `selgen_ray.load_results`.

        Raises:
            StorageError: the sweep has not been run yet, or its folder cannot be read.
            ValueError: a status that there is not.
        """
        self._check_begun()
        return load_results(self._folder, per, status)

    def report(self, x: str | None = None, y: str | None = None) -> str:
        """Write the report (page, pictures, tables) of all results, and return the path of its page.

        Args:
            x, y: 'capability', 'alignment', 'coherence' or 'set/metric'; default: those of the search space's `pareto`.

        Raises:
            StorageError: no trial has a result yet, or the folder cannot be read or written.
        """
        from selgen_ray.report import write_report  # late: start-up
        from selgen_ray.report.text import PAGE

        self._check_begun()
        pareto = self.spec.pareto
        report = write_report(self._folder, x or pareto.x, y or pareto.y, title=self.name, require=pareto.require or "")
        if PAGE not in report.paths:
            raise StorageError(f"{self.folder}: no trial has a result yet")
        return report.paths[PAGE]

    def plot(self, name: str = "pareto", x: str | None = None, y: str | None = None) -> Figure:
        """Draw a picture of the report, a Matplotlib figure; a notebook shows it.

        Args:
            name: 'pareto', 'strengths', 'hypervolumes' or 'paths' (the best settings, epoch by epoch).
            x, y: as in `report`.

        Raises:
            SelectionError: there is no such picture, or the results do not suffice for it.
            StorageError: the folder cannot be read.
        """
        from selgen_ray.report.plots import figures  # late: start-up, Matplotlib
        from selgen_ray.report.writing import read_report

        self._check_begun()
        pareto = self.spec.pareto
        report = read_report(
            self._folder, x=x or pareto.x, y=y or pareto.y, title=self.name, require=pareto.require or ""
        )
        drawn = dict(figures(report, report.standings))
        if name not in drawn:
            there = ", ".join(drawn) or "none: no trial is completed"
            raise SelectionError(f"no picture {name!r}; there are: {there}.{nearest(name, drawn)}")
        return drawn[name]()

    def _check_begun(self) -> None:
        if not self._folder.exists():
            raise StorageError(f"{self.folder}: the sweep has not been run yet")


class _Abandoned:
    """Gets why a launch was given up, from whichever thread noticed, and wakes the thread that waits for it."""

    def __init__(self) -> None:
        self._why: str | None = None
        self._caller = threading.current_thread()

    def __call__(self, why: str) -> None:
        self._why = why
        if self._caller is threading.main_thread():
            interrupt_main()
        elif self._caller.ident is not None and self._caller is not threading.current_thread():
            interrupt = ctypes.py_object(KeyboardInterrupt)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._caller.ident), interrupt)

    def check(self) -> None:
        """Raise ClusterError if the launch was given up."""
        if self._why is not None:
            raise ClusterError(f"{self._why}; what was finished is on storage, run() goes on")


def _varied(tasks: Iterable[TrialTask]) -> dict[str, dict[str, Any]]:
    """Return trial id -> {short key: value}, of the keys in which trials of one strategy differ, seeds aside."""
    by_strategy: dict[str, dict[str, dict[str, Any]]] = {}
    for task in tasks:
        by_strategy.setdefault(task.config["proxy_strategy"], {})[task.trial_id] = flatten(task.config)
    varied: dict[str, dict[str, Any]] = {}
    for flats in by_strategy.values():
        keys = dict.fromkeys(key for flat in flats.values() for key in flat if key not in _SEEDS)
        keys = [key for key in keys if len({repr(flat.get(key)) for flat in flats.values()}) > 1]
        for trial_id, flat in flats.items():
            varied[trial_id] = {key.removeprefix("finetune_config."): flat[key] for key in keys if key in flat}
    return varied


_SEEDS = ("seed", "data_seed", "model_seed")
