"""The table at the top of the report: three to five rows that carry the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from selgen_ray.report.knob_names import knob_texts
from selgen_ray.report.model import LEVEL, Base, Report, Standing
from selgen_ray.report.roles import BASE, TASK_ALONE
from selgen_ray.report.scales import is_share
from selgen_ray.report.settings import Axis
from selgen_ray.stats import Summary, binomial_interval

MOST_ROWS, _NAMED = 5, 2
_NO_LEADER = ("first by the sum of both", "second")
NOTE = (
    "mean ± 95 % t-interval over seeds; of a strategy each seed is read in the setting that is best on all its other "
    "seeds. Ahead by: the difference of the scores, a score being {x} and {y} in one: the area that a run gains on "
    "both. p: paired t-test of that difference, corrected by Holm."
)


@dataclass(frozen=True)
class Row:
    """One row of the table at the top; all but the names may be ''.

    Attributes:
        role: its part in the verdict: 'base model', 'task alone', 'control', 'leader', 'runner-up', 'diverged'; of an
            unfinished sweep 'leader so far'; where no strategy gains on both axes 'first by the sum of both', 'second'.
        name: the setting, such as 'kl_divergence β=10'; what diverged, and on how many of its seeds.
        group: the strategy or control whose mark it has; '' where it has none.
        x, y: the two axes.
        seeds: how many seeds there are, or how many trials were lost.
        behind: the leader's score minus its own, seed by seed.
        p: of that difference.
    """

    role: str
    name: str
    group: str = ""
    x: str = ""
    y: str = ""
    seeds: str = ""
    behind: str = ""
    p: str = ""

    @property
    def text(self) -> str:
        """Role and name in one, such as 'leader: kl_divergence β=10' or 'task alone'."""
        return self.name if self.name.startswith(self.role) else f"{self.role}: {self.name}"


def head(report: Report) -> list[str]:
    """Return the names of the columns: role and name, both axes, seeds, behind, p."""
    leader = report.standings.leader
    ahead = f"{'first' if report.standings.gains_nowhere else 'leader'} ahead by"
    return ["", report.x.name, report.y.name, "seeds", ahead if leader else "", "p" if leader else ""]


def note(report: Report) -> str:
    """Return what the numbers of the table are."""
    return NOTE.format(x=report.x.name, y=report.y.name)


def rows(report: Report) -> list[Row]:
    """Return the base model, the task alone, the leader, the runner-up and what diverged, as far as there are any.

    Named controls fill what room is left of five rows.
    """
    standings = report.standings
    plain = [s for s in standings.standings if s.is_control and s.strategy == TASK_ALONE]
    named = [s for s in standings.standings if s.is_control and s.strategy != TASK_ALONE]
    first = [_base(base, report) for base in report.bases[:1]]
    first += [_standing(report, one, TASK_ALONE) for one in plain if one.best is not None]
    so_far = "" if report.progress.is_over else " so far"
    names = _NO_LEADER if standings.gains_nowhere else ("leader", "runner-up")
    places = zip(names, (standings.leader, standings.runner_up), strict=True)
    ranked = [(f"{name}{so_far}", one) for name, one in places]
    last = [_standing(report, one, role) for role, one in ranked if one]
    last += _diverged(report)
    room = MOST_ROWS - len(first) - len(last)
    controls = [_standing(report, one, "control") for one in named if one.best is not None]
    return [*first, *controls[: max(room, 0)], *last][:MOST_ROWS]


def _base(base: Base, report: Report) -> Row:
    n = max((one.n for one in (base.x, base.y) if one), default=0)
    return Row(BASE, base.model, BASE, score_text(base.x), score_text(base.y), f"{n}" if n else "")


def _standing(report: Report, one: Standing, role: str) -> Row:
    standings = report.standings
    comparison = standings.against(standings.leader.strategy, one.strategy) if standings.leader else None
    score = comparison.score if comparison else None
    best = report.settings[one.best] if one.best is not None else None
    x, y = (one.x, one.y) if one.score or best is None else (best.x, best.y)
    return Row(
        role=role,
        name=_name(report, one),
        group=one.strategy,
        x=score_text(x, items=items_of(report.x, best.items_x if best else None)),
        y=score_text(y, items=items_of(report.y, best.items_y if best else None)),
        seeds=f"{len(one.held_out) or len(one.seeds)}",
        behind=score_text(score.summary, signed=True) if score and score.summary else "",
        p=p_text(score.p_holm) if score and score.p_holm is not None else "",
    )


def _name(report: Report, one: Standing) -> str:
    """Return the setting that every seed was read in, or the strategy with its settings where seeds differ in it."""
    chosen = list(dict.fromkeys(run.setting for run in one.held_out.values()))
    if len(chosen) > 1:
        texts = [", ".join(knob_texts(report.settings[i].knobs)) for i in chosen]
        return f"{one.strategy} {' or '.join(texts[:_NAMED])}{' …' if len(texts) > _NAMED else ''}, by seed"
    i = chosen[0] if chosen else one.best
    return one.strategy if i is None else report.settings[i].label


def _diverged(report: Report) -> Iterable[Row]:
    """Yield one row for all settings that lost seeds by diverging."""
    lost = [(s.label, s.lost["diverged"], s.num_planned) for s in report.settings if "diverged" in s.lost]
    if not lost:
        return
    lost.sort(key=lambda one: -one[1] / one[2])
    texts = [f"{label} ({n} of {total})" for label, n, total in lost[:_NAMED]]
    more = [f"{len(lost) - _NAMED} more settings"] if len(lost) > _NAMED else []
    trials = sum(report.counts.values())
    yield Row("diverged", ", ".join([*texts, *more]), seeds=f"{report.counts['diverged']} of {trials} trials")


# -- numbers ---------------------------------------------------------------------------------------------------------


def p_text(p: float) -> str:
    """Return a p-value: '0.041', '< 0.001'. One below the level never reads like the level: '0.0496'."""
    if p < 0.001:
        return "< 0.001"
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next(text for text in texts if (float(text) < LEVEL) == (p < LEVEL)) if p < 0.1 else f"{p:.2f}"


def number_text(value: float, matters: float | None = None, signed: bool = False) -> str:
    """Return a number to three decimals, or to as many as give two digits to what is smaller: '0.812', '0.00031'.

    Args:
        matters: the number that needs two digits, such as the half-width behind a mean; default: the number itself.
        signed: write '+' before a positive number.
    """
    size = abs(value if matters is None else matters)
    plus = "+" if signed else ""
    if 0 < size < _TINY:
        return f"{value:{plus}.1e}"
    decimals = _DECIMALS if size == 0 or size >= 10**-_DECIMALS else 1 - math.floor(math.log10(size))
    return f"{value:{plus}.{decimals}f}"


_DECIMALS, _TINY = 3, 1e-7


def score_text(summary: Summary | None, signed: bool = False, items: int | None = None) -> str:
    """Return '0.812 ± 0.034', without an interval '0.812', without a value '-', of equal values '0.980, no spread'.

    A half-width below 0.001 has two digits, and the mean as many decimals: '0.000310 ± 0.000021'.

    Args:
        signed: write '+' before a positive mean, as of a change.
        items: number of items that a share rests on: with them equal values have a binomial interval.
    """
    if summary is None:
        return "-"
    half = summary.half_width
    if half is None or summary.is_flat:
        mean = number_text(summary.mean, signed=signed)
        return f"{mean}, no spread{_range(summary, items)}" if summary.is_flat else mean
    return f"{number_text(summary.mean, half, signed)} ± {number_text(half)}"


def _range(summary: Summary, items: int | None) -> str:
    """Return ', 0.894–0.999', the binomial interval of equal shares; '' where the number of items is not known."""
    if items is None or not 0 <= summary.mean <= 1:
        return ""
    low, high = binomial_interval(summary.mean, items)
    return f", {low:.3f}–{high:.3f}"


def items_of(axis: Axis, items: int | None) -> int | None:
    """Return the number of items of a share; None of any other quantity."""
    return items if is_share(axis) else None
