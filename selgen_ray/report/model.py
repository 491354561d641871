"""The data of a report: plain dataclasses that `build` fills and `text`, `page`, `markdown` and `figures` present."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from selgen_ray.report.colours import Look, looks
from selgen_ray.report.costs import Cost
from selgen_ray.report.foreseen import Foreseen
from selgen_ray.report.progress import NO_PROGRESS, Progress
from selgen_ray.report.roles import TASK_ALONE
from selgen_ray.report.settings import Axis, Setting
from selgen_ray.stats import Summary
from selgen_ray.stats.comparing import Difference

LEVEL, LEAST_SEEDS = 0.05, 3  # strategies that share fewer seeds are not told apart


@dataclass(frozen=True)
class Reference:
    """The reference point from which hypervolumes are measured.

    Attributes:
        x, y: its coordinates, as values of the two axes.
        why: where they come from, in words.
        possible: the largest hypervolume there can be: the area up to the best value of both axes (1, or 0 where less
            is better). None unless both axes are shares in [0, 1] and the area is positive.
    """

    x: float
    y: float
    why: str
    possible: float | None


@dataclass(frozen=True)
class HeldOut:
    """One seed of a strategy, with the setting that is best on all its other seeds.

    Attributes:
        setting: its index in `Report.settings`.
        x, y: the values of the two axes in this seed's run.
        score: the area that it dominates beyond the reference point.
    """

    setting: int
    x: float
    y: float
    score: float


@dataclass(frozen=True)
class Standing:
    """One strategy or control in the ranking: its score on seeds that did not choose its setting, and its cost.

    Settings are given by their index in `Report.settings`.

    Attributes:
        strategy: its name, or that of the control.
        settings: its settings that may lead: every planned seed has a point, and they meet `require`, which those of a
            control need not.
        incomplete: number of its settings that lack a seed, whatever became of it.
        num_trials: number of its planned trials; `num_diverged` of them diverged.
        front: those of them on the strategy's own Pareto front of means.
        best: the one whose mean alone dominates the largest area; None without a point.
        seeds: the seeds of all these settings, each once, ascending.
        hypervolume: the area that its front dominates beyond the reference point; None without a point. Fronts are
            chosen on the seeds that they are judged by, so it flatters whoever has more settings.
        share: `hypervolume` / `Reference.possible`, in [0, 1]; None where that is not known.
        score: over seeds, the area that one run dominates beyond the reference point; its setting is chosen on all
            other seeds, and a seed that this one lacks has no score. None where a choice among several settings has no
            other seed. See `choice_widening`.
        x, y: the two axes of the same runs.
        flattering: the mean area of the runs of `best`, which is chosen on the same seeds.
        held_out: seed -> the run behind `score`.
        cost: the cost of all its trials, also of those without a point.
        is_control: whether strategies are compared with it; then it never leads.
    """

    strategy: str
    settings: tuple[int, ...]
    front: tuple[int, ...]
    best: int | None
    seeds: tuple[int, ...]
    hypervolume: float | None
    share: float | None
    cost: Cost
    score: Summary | None = None
    x: Summary | None = None
    y: Summary | None = None
    flattering: float | None = None
    held_out: Mapping[int, HeldOut] = field(default_factory=dict[int, "HeldOut"])
    incomplete: int = 0
    num_trials: int = 0
    num_diverged: int = 0
    is_control: bool = False


@dataclass(frozen=True)
class Comparison:
    """One strategy against another, seed by seed, each with the setting that is best on all other seeds.

    Attributes:
        strategy, other: their names, or those of controls; x, y and score are the differences strategy - other.
        seeds: the seeds in common.
    """

    strategy: str
    other: str
    seeds: tuple[int, ...]
    x: Difference
    y: Difference
    score: Difference

    @property
    def told_apart(self) -> bool:
        """Whether the scores differ, by p-values corrected over all pairs of strategies, on enough shared seeds."""
        p = self.score.p_holm
        return len(self.seeds) >= LEAST_SEEDS and p is not None and p < LEVEL

    @property
    def is_won(self) -> bool:
        """Whether `strategy` beats `other`: the two are told apart, and its score is the higher one."""
        return self.told_apart and self.score.summary is not None and self.score.summary.mean > 0


@dataclass(frozen=True)
class Standings:
    """All strategies and controls, ranked by their held-out scores and compared with each other.

    Attributes:
        reference: the point from which hypervolumes are measured; None where no setting has a point.
        standings: one for each strategy, the largest held-out score first, but none before one that beats it; those
            without a point last; then controls.
        beats: empty: a bootstrap over few seeds is far too sure of itself. Kept for readers of summary.json.
        families: strategy -> comparisons of all others with it; p-values are corrected over all pairs of strategies.
    """

    reference: Reference | None
    standings: tuple[Standing, ...]
    beats: Mapping[str, Mapping[str, float | None]]
    families: Mapping[str, tuple[Comparison, ...]]

    @property
    def ranked(self) -> list[Standing]:
        """The strategies with a setting that may lead, the best first."""
        return [s for s in self.standings if s.hypervolume is not None and not s.is_control]

    @property
    def leader(self) -> Standing | None:
        """The first of the ranking; None if no strategy has a setting that may lead."""
        return next(iter(self.ranked), None)

    @property
    def runner_up(self) -> Standing | None:
        """The strategy that is ranked next to the leader."""
        return next(iter(self.ranked[1:]), None)

    @property
    def task_alone(self) -> Standing | None:
        """Plain training on the task's rows, if it has a setting with all its seeds."""
        alone = (s for s in self.standings if s.strategy == TASK_ALONE and s.is_control)
        return next((s for s in alone if s.hypervolume is not None), None)

    @property
    def gains_nowhere(self) -> bool:
        """Whether no strategy has any area beyond the reference: then none leads, whatever the order of the ranking.

        Of a strategy that stands alone this says nothing: the reference is its own.
        """
        is_alone = len(self.ranked) == 1 and self.task_alone is None
        gains = [s.score.mean if s.score else s.hypervolume for s in self.ranked]
        return bool(gains) and not is_alone and not any(gains)

    @property
    def num_pairs(self) -> int:
        """The number of pairs, over which p-values are corrected; two controls are no pair."""
        return sum(map(len, self.families.values())) // 2

    def against(self, strategy: str, other: str) -> Comparison | None:
        """Return the comparison strategy - other; None where either has no held-out score."""
        return next((c for c in self.families.get(other, ()) if c.strategy == strategy), None)


NOTHING = Standings(None, (), {}, {})


@dataclass(frozen=True)
class Base:
    """Scores of a base model before training, over seeds; each seed counts once, however many trials evaluated it."""

    model: str
    x: Summary | None
    y: Summary | None


@dataclass(frozen=True)
class LeftOut:
    """A trial that is in no average and no figure.

    Attributes:
        setting: its label.
        status: its status; 'no point' for a completed trial that lacks a value.
        cause: one line, such as the last one of its traceback; '' where nothing is known.
        folder: the folder of its results.json.
    """

    setting: str
    seed: int
    status: str
    cause: str
    folder: str


@dataclass(frozen=True)
class Flagged:
    """A doubt about a completed trial, which is averaged all the same."""

    setting: str
    seed: int
    flag: str


@dataclass(frozen=True)
class Report:
    """The results of a sweep so far, summarised by setting and compared by strategy.

    Attributes:
        sweep: its folder; of several, all of them, joined by ', '.
        title: its name.
        x, y: the two axes that are weighed against each other: a headline or 'set/metric'.
        settings: the rows of the table; a trial that is evaluated with several values of a knob has a row for each.
        bases: one for each base model.
        counts: status -> number of trials; every status is a key.
        left_out: every trial that is not averaged.
        notes: sentences that a reader should know before trusting the numbers.
        unknown_axes: for each axis that no completed trial has, a sentence that names the nearest existing ones.
        paths: file name -> where it was written; no picture without a point, nothing without a result.
        require: the conditions that a setting must meet to be on the front, joined by ' and '; '': none.
        flagged: doubts about trials that are averaged.
        standings: the strategies against each other.
        progress: how many of the planned trials are done, and what is missing.
        unlike: the first of the notes: in what way settings that are ranked here do not compare.
        foreseen: what `--estimate` said beside what became true; None without an estimate.
    """

    sweep: str
    title: str
    x: Axis
    y: Axis
    settings: tuple[Setting, ...]
    bases: tuple[Base, ...]
    counts: dict[str, int]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...] = ()
    unknown_axes: tuple[str, ...] = ()
    paths: dict[str, str] = field(default_factory=dict[str, str])
    require: str = ""
    flagged: tuple[Flagged, ...] = ()
    standings: Standings = NOTHING
    progress: Progress = NO_PROGRESS
    unlike: tuple[str, ...] = ()
    foreseen: Foreseen | None = None

    @cached_property
    def looks(self) -> dict[str, Look]:
        """The look of each role, by its name."""
        return looks(setting.role for setting in self.settings)

    @property
    def drawn(self) -> list[Setting]:
        """The settings with a point in the figure."""
        return [setting for setting in self.settings if setting.points]
