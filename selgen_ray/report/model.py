"""What a report holds: plain data, made by `build`, told by `text`, `page`, `markdown` and `figures`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from selgen_ray.comparing import Difference
from selgen_ray.report.costs import Cost
from selgen_ray.report.settings import Axis, Setting
from selgen_ray.stats import Summary


@dataclass(frozen=True)
class Reference:
    """The point from which hypervolumes are measured.

    Attributes:
        x, y: its coordinates.
        why: where they come from, for people.
        possible: area up to (1, 1), or to the perfect 0, where both quantities are shares; else None.
    """

    x: float
    y: float
    why: str
    possible: float | None


@dataclass(frozen=True)
class Standing:
    """What the settings of one strategy reach together.

    Attributes:
        settings: numbers of its settings in the report that have a point, and of those that are kept off by `require`.
        front: numbers of those on the strategy's own front of means.
        best: number of the one that dominates the largest area alone.
        seeds: behind them, all together.
        hypervolume: of its front; None without a point.
        share: of what is possible, in [0, 1]; None where that is not known.
        interval: 2.5 % and 97.5 % of the bootstrap over seeds; None for fewer than two seeds.
        num_resamples: behind the interval.
        cost: of its trials.
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
        seeds: in common.
    """

    strategy: str
    other: str
    seeds: tuple[int, ...]
    x: Difference
    y: Difference


@dataclass(frozen=True)
class Standings:
    """The strategies compared.

    Attributes:
        standings: the one with the largest hypervolume first; without a point last.
        beats: strategy -> other -> probability that its hypervolume is larger, by the bootstrap over seeds; None with
            fewer than two seeds in either.
        families: strategy -> comparisons of all others with it; corrected within each.
    """

    reference: Reference | None
    standings: tuple[Standing, ...]
    beats: Mapping[str, Mapping[str, float | None]]
    families: Mapping[str, tuple[Comparison, ...]]

    @property
    def leader(self) -> Standing | None:
        """The strategy with the largest hypervolume, if any has a point."""
        return next((s for s in self.standings if s.hypervolume is not None), None)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for summary.json."""
        return asdict(self) | {"beats": {a: dict(b) for a, b in self.beats.items()}}


NOTHING = Standings(None, (), {}, {})


@dataclass(frozen=True)
class Base:
    """The base model before training: over seeds, each seed once however many trials evaluated it."""

    model: str
    x: Summary | None
    y: Summary | None


@dataclass(frozen=True)
class LeftOut:
    """A trial that is in no average and no figure.

    Attributes:
        setting: its label.
        status: its status; 'no point' for a completed one that lacks a value.
        cause: one line.
        folder: where its results.json is.
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
    """What a sweep says so far.

    Attributes:
        sweep: its folder.
        title: its name.
        x, y: what is weighed: a headline or 'set/metric'.
        require: what a setting must reach to be on the front; '': nothing.
        settings: the rows of the table; of a trial evaluated with several values of a knob each is one.
        bases: one for each base model.
        counts: status -> number of trials, of all statuses.
        left_out: every trial that is not averaged.
        flagged: what is doubtful about trials that are.
        notes: what a reader should know before trusting the numbers.
        unknown_axes: for each axis that no completed trial has, a sentence with the nearest that there are.
        paths: file name -> where it was written; no picture without a point, nothing without a result.
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
