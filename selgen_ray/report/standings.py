"""The ranking of strategies: which one wins, by how much, how sure that is, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from selgen_ray.comparing import (
    Floats,
    compare_family,
    hypervolume,
    hypervolumes,
    probability_better,
    resampled_means,
    resamples,
)
from selgen_ray.report.costs import cost_of
from selgen_ray.report.model import Comparison, Reference, Report, Standing, Standings
from selgen_ray.report.scales import is_share
from selgen_ray.report.settings import Axis, Setting
from selgen_ray.stats import pareto_front


def compare_strategies(report: Report, reference: tuple[float, float] | None = None) -> Standings:
    """Rank the strategies of a report on its two axes, and compare each with each.

    Args:
        reference: the point from which hypervolumes are measured, as values of the two axes; default: see
            `find_reference`.
    """
    point = find_reference(report, reference)
    strategies = dict.fromkeys(s.strategy for s in report.settings)
    if point is None:
        unranked = (_without_points(report, name) for name in strategies)
        return Standings(None, tuple(unranked), {}, {})
    ranked = [_standing(report, name, point) for name in strategies]
    ranked.sort(key=lambda pair: -1.0 if pair[0].hypervolume is None else pair[0].hypervolume, reverse=True)
    boots = {standing.strategy: volumes for standing, volumes in ranked}
    standings = tuple(standing for standing, _ in ranked)
    with_best = {s.strategy: report.settings[s.best] for s in standings if s.best is not None}
    families = {name: _family(report, name, with_best) for name in with_best}
    return Standings(point, standings, _beats(standings, boots), families)


def find_reference(report: Report, given: tuple[float, float] | None = None) -> Reference | None:
    """Return the point from which hypervolumes are measured: the scores that one has without any of the strategies.

    x is the base model's: a setting that does no better has learnt nothing. y is the outcome-only run's: a setting that
    does no better has gained nothing from the proxy. Where either is missing, the worst mean of any setting stands in.

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
    plain = next((s.y for s in drawn if s.outcome_only and s.y), None)
    worst_x = min((s.x.mean for s in drawn if s.x), key=lambda v: report.x.sign * v)
    worst_y = min((s.y.mean for s in drawn if s.y), key=lambda v: report.y.sign * v)
    why = [
        f"{report.x.name} of {'the base model' if base else 'the worst setting'}",
        f"{report.y.name} of {'the outcome-only run' if plain else 'the worst setting'}",
    ]
    return _reference(report, base.mean if base else worst_x, plain.mean if plain else worst_y, ", ".join(why))


def _reference(report: Report, x: float, y: float, why: str) -> Reference:
    room = [_room(axis, value) for axis, value in ((report.x, x), (report.y, y))]
    possible = None if room[0] is None or room[1] is None else room[0] * room[1]
    return Reference(x, y, why, possible or None)


def _room(axis: Axis, value: float) -> float | None:
    """Return how far a share in [0, 1] can still improve; None of a quantity that is no share."""
    return (1 - value if axis.sign > 0 else value) if is_share(axis) else None


def _turned(report: Report, reference: Reference) -> tuple[float, float]:
    return report.x.sign * reference.x, report.y.sign * reference.y


def _means(report: Report, settings: Iterable[Setting]) -> list[tuple[float, float]]:
    return [(report.x.sign * s.x.mean, report.y.sign * s.y.mean) for s in settings if s.x and s.y]


def _standing(report: Report, strategy: str, reference: Reference) -> tuple[Standing, Floats | None]:
    indices = [i for i, s in enumerate(report.settings) if s.strategy == strategy and s.points and not s.failures]
    if not indices:
        return _without_points(report, strategy), None
    settings = [report.settings[i] for i in indices]
    origin = _turned(report, reference)
    means = _means(report, settings)
    volume = hypervolume(means, origin)
    alone = [(hypervolume([mean], origin), sum(mean)) for mean in means]
    seeds = sorted({seed for s in settings for seed in s.seeds})
    volumes = _bootstrap(report, settings, seeds, origin) if len(seeds) > 1 else None
    ends = None if volumes is None else np.quantile(volumes, [0.025, 0.975])
    standing = Standing(
        strategy=strategy,
        settings=tuple(indices),
        front=tuple(indices[i] for i in pareto_front(means)),
        best=indices[alone.index(max(alone))],
        seeds=tuple(seeds),
        hypervolume=volume,
        share=volume / reference.possible if reference.possible else None,
        interval=None if ends is None else (float(ends[0]), float(ends[1])),
        num_resamples=0 if volumes is None else len(volumes),
        cost=cost_of(s for s in report.settings if s.strategy == strategy),
    )
    return standing, volumes


def _without_points(report: Report, strategy: str) -> Standing:
    cost = cost_of(s for s in report.settings if s.strategy == strategy)
    return Standing(strategy, (), (), None, (), None, None, None, 0, cost)


def _bootstrap(
    report: Report, settings: Sequence[Setting], seeds: Sequence[int], origin: tuple[float, float]
) -> Floats:
    """Return the hypervolume of the front of means in each resample of the seeds, [resamples].

    Strategies with the same seeds get the same draws, so that they can be compared draw by draw.
    """
    draws = resamples(len(seeds))
    means: list[Floats] = []  # of x, of y: [resamples, settings]
    for i, axis in enumerate((report.x, report.y)):
        values = np.full((len(seeds), len(settings)), np.nan)
        for column, s in enumerate(settings):
            for seed, point in zip(s.seeds, s.points, strict=True):
                values[seeds.index(seed), column] = axis.sign * point[i]
        means.append(resampled_means(values, draws))
    return hypervolumes(means[0], means[1], origin)


def _beats(standings: Sequence[Standing], boots: Mapping[str, Floats | None]) -> dict[str, dict[str, float | None]]:
    beats: dict[str, dict[str, float | None]] = {}
    for a in standings:
        row = beats.setdefault(a.strategy, {})
        for b in standings:
            mine, theirs = boots[a.strategy], boots[b.strategy]
            if a is not b and a.hypervolume is not None and b.hypervolume is not None:
                row[b.strategy] = None
                if mine is not None and theirs is not None:
                    row[b.strategy] = probability_better(mine, theirs, a.seeds == b.seeds)
    return beats


def _family(report: Report, name: str, best: Mapping[str, Setting]) -> tuple[Comparison, ...]:
    """Compare the best settings of all others with this one's; both axes together are one family of tests."""
    reference = dict(zip(best[name].seeds, best[name].points, strict=True))
    others = [other for other in best if other != name]
    common_seeds, pairs = [], []
    for other in others:
        points = dict(zip(best[other].seeds, best[other].points, strict=True))
        seeds = sorted(reference.keys() & points.keys())
        common_seeds.append(seeds)
        pairs += [([points[s][i] for s in seeds], [reference[s][i] for s in seeds]) for i in (0, 1)]
    differences = compare_family(pairs)
    return tuple(
        Comparison(other, name, tuple(seeds), differences[2 * i], differences[2 * i + 1])
        for i, (other, seeds) in enumerate(zip(others, common_seeds, strict=True))
    )
