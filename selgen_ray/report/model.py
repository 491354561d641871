"""The data of a report: plain dataclasses that `build` fills and `text`, `page`, `markdown` and `figures` present."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from selgen_ray.comparing import Difference
from selgen_ray.report.costs import Cost
from selgen_ray.report.settings import Axis, Setting
from selgen_ray.stats import Summary


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
class Standing:
    """One strategy in the ranking: the hypervolume of its settings, how sure it is, and its cost.

    Settings are given by their index in `Report.settings`.

    Attributes:
        settings: its settings that have a point and meet `require`.
        front: those of them on the strategy's own Pareto front of means.
        best: the one whose mean alone dominates the largest area; None without a point.
        seeds: the seeds of all these settings, each once, ascending.
        hypervolume: the area that its front dominates beyond the reference point; None without a point.
        share: `hypervolume` / `Reference.possible`, in [0, 1]; None where that is not known.
        interval: 2.5 % and 97.5 % quantiles of the bootstrap over seeds; None for fewer than two seeds.
        num_resamples: number of resamples behind the interval; 0 without one.
        cost: the cost of all its trials, also of those without a point.
    """

    strategy: str
    settings: tuple[int, ...]
    front: tuple[int, ...]
    best: int | None
    seeds: tuple[int, ...]
    hypervolume: float | None
    share: float | None
    interval: tuple[float, float] | None
    num_resamples: int
    cost: Cost


@dataclass(frozen=True)
class Comparison:
    """One strategy's best setting against another's, over the seeds that both have.

    Attributes:
        strategy, other: x and y are the differences strategy - other.
        seeds: the seeds in common.
    """

    strategy: str
    other: str
    seeds: tuple[int, ...]
    x: Difference
    y: Difference


@dataclass(frozen=True)
class Standings:
    """All strategies, ranked by hypervolume and compared with each other.

    Attributes:
        reference: the point from which hypervolumes are measured; None where no setting has a point.
        standings: one for each strategy, the largest hypervolume first, those without a point last.
        beats: strategy -> other -> probability that the strategy's hypervolume is larger, by the bootstrap over seeds,
            such as {"dpo": {"naive": 0.93}}; None with fewer than two seeds in either.
        families: strategy -> comparisons of all others with it; p-values are corrected within each family.
    """

    reference: Reference | None
    standings: tuple[Standing, ...]
    beats: Mapping[str, Mapping[str, float | None]]
    families: Mapping[str, tuple[Comparison, ...]]

    @property
    def leader(self) -> Standing | None:
        """The strategy with the largest hypervolume; None if no strategy has a point."""
        return next((s for s in self.standings if s.hypervolume is not None), None)


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

    @property
    def drawn(self) -> list[Setting]:
        """The settings with a point in the figure."""
        return [setting for setting in self.settings if setting.points]
