"""The ranking of strategies: which one wins, by how much, how sure that is, and what it costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from selgen_ray.records.status import TrialStatus
from selgen_ray.report.costs import cost_of
from selgen_ray.report.model import Comparison, HeldOut, Reference, Report, Standing, Standings
from selgen_ray.report.roles import Role
from selgen_ray.report.scales import is_share
from selgen_ray.report.settings import Axis, Setting, mean_point
from selgen_ray.stats import pareto_front
from selgen_ray.stats.comparing import (
    areas,
    choice_widening,
    compare_family,
    held_out_choices,
    hypervolume,
    mirror,
    summarise_held_out,
)


def compare_strategies(report: Report, reference: tuple[float, float] | None = None) -> Standings:
    """Rank the strategies of a report on its two axes, and compare each with each and with the controls.

    Args:
        reference: the point from which hypervolumes are measured, as values of the two axes; default: see
            `find_reference`.
    """
    point = find_reference(report, reference)
    roles = dict.fromkeys(s.role for s in report.settings)
    if point is None:
        unranked = [_without_points(report, role) for role in roles]
        return Standings(None, tuple(sorted(unranked, key=lambda one: one.is_control)), {}, {})
    ranked = [_standing(report, role, point) for role in roles]
    honest = any(standing.score for standing in ranked)
    ranked.sort(key=lambda one: _rank(report, one, honest), reverse=True)
    families = _families(ranked)
    return Standings(point, tuple(_beaten_last(ranked, families)), {}, families)


def _beaten_last(ranked: Sequence[Standing], families: Mapping[str, Sequence[Comparison]]) -> Iterable[Standing]:
    """Yield strategies in their order, but none before one that beats it, then the controls.

    Means are over all seeds of a strategy and tests over the shared ones, so the two may disagree. Where each is beaten
    by another of them, the order stays.
    """
    left = [one for one in ranked if not one.is_control]
    while left:
        names = {one.strategy for one in left}
        beaten = {name for name in names for c in families.get(name, ()) if c.strategy in names and c.is_won}
        first = next((one for one in left if one.strategy not in beaten), left[0])
        left.remove(first)
        yield first
    yield from (one for one in ranked if one.is_control)


def _rank(report: Report, standing: Standing, honest: bool) -> tuple[bool, float, float]:
    """Return the key of the ranking, more being better: controls last, then by the score, then by the sum of both axes.

    The score is the held-out one, in [0, inf); where no strategy has one, the hypervolume. Whatever is no better than
    the reference point in either axis scores 0, however near it comes: the sum tells such strategies apart.
    """
    score = (standing.score.mean if standing.score else None) if honest else standing.hypervolume
    if score is None:
        return not standing.is_control, -1.0, 0.0
    if standing.x and standing.y:
        return not standing.is_control, score, report.x.sign * standing.x.mean + report.y.sign * standing.y.mean
    assert standing.best is not None, "what has a hypervolume has a setting"
    return not standing.is_control, score, sum(mean_point(report.settings[standing.best], report.x, report.y))


def find_reference(report: Report, given: tuple[float, float] | None = None) -> Reference | None:
    """Return the point from which hypervolumes are measured: the scores that one has without any of the strategies.

    x is the base model's: a setting that does no better has learnt nothing. y is that of the task alone: a setting that
    does no better has gained nothing from the proxy. Where either is missing, the worst mean of any setting stands in.
    Of several settings of the task alone, the best is taken by the sum of both axes, a complete one before others: the
    area says nothing of them, since it is measured from there.

    Args:
        given: a point to take instead, as values of the two axes.

    Returns:
        None where no setting has a point.
    """
    drawn = report.drawn
    if not drawn:
        return None
    if given is not None:
        return _reference(report, given[0], given[1], "as asked for")
    base = next((b.x for b in report.bases if b.x), None)
    alone = [s for s in drawn if s.outcome_only]
    plain = max(alone, key=lambda s: (s.complete, sum(mean_point(s, report.x, report.y))), default=None)
    worst_x = min((s.x.mean for s in drawn if s.x), key=lambda v: report.x.sign * v)
    worst_y = min((s.y.mean for s in drawn if s.y), key=lambda v: report.y.sign * v)
    best = "the best setting of the task alone" if len(alone) > 1 else "the task alone"
    why = [
        f"{report.x.name} of {'the base model' if base else 'the worst setting'}",
        f"{report.y.name} of {best if plain else 'the worst setting'}",
    ]
    y = plain.y.mean if plain and plain.y else worst_y
    return _reference(report, base.mean if base else worst_x, y, ", ".join(why))


def _reference(report: Report, x: float, y: float, why: str) -> Reference:
    room = [_room(axis, value) for axis, value in ((report.x, x), (report.y, y))]
    possible = None if room[0] is None or room[1] is None else room[0] * room[1]
    return Reference(x, y, why, possible or None)


def _room(axis: Axis, value: float) -> float | None:
    """Return how far a share in [0, 1] can still improve; None of a quantity that is no share."""
    return (1 - value if axis.sign > 0 else value) if is_share(axis) else None


def _turned(report: Report, reference: Reference) -> tuple[float, float]:
    return report.x.sign * reference.x, report.y.sign * reference.y


def mean_score(report: Report, setting: Setting) -> float | None:
    """Return the mean area of a setting's runs beyond the reference point, complete or not; None without any."""
    if report.standings.reference is None or not setting.points:
        return None
    xs, ys = np.array(setting.points).T
    return float(areas(report.x.sign * xs, report.y.sign * ys, _turned(report, report.standings.reference)).mean())


def _standing(report: Report, role: Role, reference: Reference) -> Standing:
    # a control leads nothing, so it need not meet a requirement to be compared with
    may = [s.complete if role.is_control else s.may_lead for s in report.settings]
    indices = [i for i, s in enumerate(report.settings) if s.role == role and may[i]]
    if not indices:
        return _without_points(report, role)
    settings = [report.settings[i] for i in indices]
    origin = _turned(report, reference)
    means = [mean_point(s, report.x, report.y) for s in settings]
    volume = hypervolume(means, origin)
    seeds = sorted({seed for s in settings for seed in s.seeds})
    points = np.full((2, len(settings), len(seeds)), np.nan)  # [axes, settings, seeds]
    for row, s in enumerate(settings):
        for seed, point in zip(s.seeds, s.points, strict=True):
            points[:, row, seeds.index(seed)] = point
    xs, ys = report.x.sign * points[0], report.y.sign * points[1]
    scores = areas(xs, ys, origin)
    alone = list(zip(np.nanmean(scores, axis=1).tolist(), map(sum, means), strict=True))
    best = alone.index(max(alone))
    held = {
        seed: (int(row), column)
        for column, (seed, row) in enumerate(zip(seeds, held_out_choices(scores, ties=xs + ys), strict=True))
        if row >= 0
    }
    everything = np.concatenate([points, scores[None]])  # x, y, score
    values = {seed: everything[:, row, column].tolist() for seed, (row, column) in held.items()}
    x, y, score = (summarise_held_out([v[i] for v in values.values()], len(settings)) for i in range(3))
    return Standing(
        strategy=role.name,
        settings=tuple(indices),
        front=tuple(indices[i] for i in pareto_front(means)),
        best=indices[best],
        seeds=tuple(seeds),
        hypervolume=volume,
        share=volume / reference.possible if reference.possible else None,
        score=score,
        x=x,
        y=y,
        flattering=alone[best][0],
        held_out={seed: HeldOut(indices[held[seed][0]], *values[seed]) for seed in held},
        **_fate(report, role),
    )


def _without_points(report: Report, role: Role) -> Standing:
    return Standing(role.name, (), (), None, (), None, None, **_fate(report, role))


def _fate(report: Report, role: Role) -> dict[str, Any]:
    """Return the fields of a standing that all trials of the role decide, whatever became of them."""
    settings = [s for s in report.settings if s.role == role]
    trials = {r.trial_id: r.status for s in settings for r in s.trials if r.trial_id in s.trial_ids}
    waiting = sum(s.num_planned - s.num_trials for s in settings)
    return {
        "cost": cost_of(settings),
        "incomplete": sum(not s.complete for s in settings),
        "num_trials": len(trials) + waiting,
        "is_control": role.is_control,
        "num_diverged": sum(status == TrialStatus.DIVERGED for status in trials.values()),
    }


def _families(standings: Sequence[Standing]) -> dict[str, tuple[Comparison, ...]]:
    """Compare each strategy with each, and with each control, on the seeds that both have.

    p-values are corrected over all pairs: the leader is the best of them by the same data, so whatever it is compared
    with was chosen as well.
    """
    there = [s for s in standings if s.held_out]
    pairs = [(a, b) for a, b in itertools.combinations(there, 2) if not (a.is_control and b.is_control)]
    shared = [tuple(sorted(a.held_out.keys() & b.held_out.keys())) for a, b in pairs]
    widenings = [
        choice_widening(max(len(a.settings), len(b.settings)), len(seeds))
        for (a, b), seeds in zip(pairs, shared, strict=True)
    ]

    def values(part: str) -> list[tuple[list[float], list[float]]]:
        return [
            ([getattr(a.held_out[s], part) for s in seeds], [getattr(b.held_out[s], part) for s in seeds])
            for (a, b), seeds in zip(pairs, shared, strict=True)
        ]

    scores = compare_family(values("score"), widenings)
    both = compare_family([*values("x"), *values("y")], widenings * 2)
    families: dict[str, list[Comparison]] = {s.strategy: [] for s in there}
    for (a, b), seeds, score, x, y in zip(pairs, shared, scores, both[: len(pairs)], both[len(pairs) :], strict=True):
        families[b.strategy].append(Comparison(a.strategy, b.strategy, seeds, x, y, score))
        mirrored = (mirror(one) for one in (x, y, score))
        families[a.strategy].append(Comparison(b.strategy, a.strategy, seeds, *mirrored))
    return {name: tuple(family) for name, family in families.items()}
