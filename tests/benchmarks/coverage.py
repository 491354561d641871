"""How often the report's intervals hold the truth, and how often it tells alike strategies apart, in made-up sweeps.

    python tests/benchmarks/coverage.py [--sweeps 4000]

Each line simulates sweeps of one kind and prints:

row        the interval of one setting's mean over seeds, with the items' range where no spread is seen: holds the truth
score      the interval of a strategy's held-out score: holds the mean truth of the settings that are chosen
naive      the same of the best setting on the seeds that chose it, which the page gives without an interval
pair       the interval of the difference of two strategies
apart      two alike strategies are told apart
leader     the leader is told apart from at least one other, all alike (2, or as many as the line says)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from selgen_ray.stats import binomial_interval
from selgen_ray.stats.comparing import (
    Floats,
    choice_widening,
    held_out_choices,
    held_out_scores,
    holm,
    t_half_widths,
    t_p_values,
)

LEVEL, ITEMS = 0.05, 50


@dataclass(frozen=True)
class Kind:
    """One kind of sweep.

    Attributes:
        draw: (generator, shape [sweeps, strategies, settings, seeds]) -> scores and true means, of this shape.
        num_settings, num_strategies: of each sweep.
        shares: the scores are shares of `ITEMS` items.
    """

    name: str
    draw: Callable[[np.random.Generator, tuple[int, ...]], tuple[Floats, Floats]]
    num_settings: int
    num_strategies: int = 2
    shares: bool = False


def alike(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """All settings alike, normal noise of their own."""
    return rng.standard_normal(shape), np.zeros(shape)


def shared(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """All alike; every seed moves all settings together as much as each alone."""
    own, common = rng.standard_normal(shape), rng.standard_normal((shape[0], 1, 1, shape[3]))
    return own + common, np.zeros(shape)


def spread(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Settings half a seed's noise apart, strategies alike."""
    truth = np.broadcast_to(0.5 * np.arange(shape[2])[:, None], shape)
    return rng.standard_normal(shape) + truth, truth


def ceiling(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """All right in 98 of 100 items; a value is the share of 50."""
    return rng.binomial(ITEMS, 0.98, shape) / ITEMS, np.full(shape, 0.98)


def collapsing(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """One run in ten collapses to 0, the others are 0.8 ± 0.02."""
    alive = rng.random(shape) >= 0.1
    return np.where(alive, 0.8 + 0.02 * rng.standard_normal(shape), 0.0), np.full(shape, 0.72)


KINDS = (
    *(Kind("alike", alike, k) for k in (1, 5, 20)),
    *(Kind("alike", alike, k, 12) for k in (1, 5)),
    *(Kind("shared noise", shared, k) for k in (1, 5, 20)),
    *(Kind("settings differ", spread, k) for k in (5, 20)),
    *(Kind("ceiling", ceiling, k, shares=True) for k in (1, 5)),
    *(Kind("collapsing seeds", collapsing, k) for k in (1, 5)),
)
HEAD = ("kind", "strategies", "settings", "seeds", "row", "score", "naive", "pair", "apart", "leader")


def measure(kind: Kind, num_seeds: int, sweeps: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the shares of simulated sweeps that the module's docstring explains."""
    shape = (sweeps, kind.num_strategies, kind.num_settings, num_seeds)
    scores, truth = kind.draw(rng, shape)
    factor = choice_widening(kind.num_settings, num_seeds)
    held = held_out_scores(scores)  # [sweeps, strategies, seeds]
    chosen = np.take_along_axis(truth, held_out_choices(scores)[:, :, None], axis=2)[:, :, 0]
    target = chosen.mean()  # of all sweeps: the mean truth of what is chosen
    best = scores.mean(-1).argmax(-1)[..., None, None]
    naive, true_best = (np.take_along_axis(part, best, axis=2)[:, 0, 0] for part in (scores, truth))
    difference = held[:, 0] - held[:, 1]
    leader = _leader_is_told_apart(held, factor)
    return {
        "row": _row_coverage(scores[:, 0, 0], truth[:, 0, 0], kind.shares),
        "score": _holds(held[:, 0], target, factor),
        "naive": _holds(naive, true_best.mean(-1), 1.0),
        "pair": _holds(difference, 0.0, factor),
        "apart": float((np.nan_to_num(t_p_values(difference, factor), nan=1.0) < LEVEL).mean()),
        "leader": float(leader.mean()),
    }


def _is_flat(values: Floats) -> np.ndarray:
    return values.std(-1, ddof=1) <= 1e-12 * np.abs(values.mean(-1))


def _holds(values: Floats, truth: Floats | float, factor: float) -> float:
    """Return the share of intervals that hold the truth, of those that the page prints: all with a spread."""
    printed = ~_is_flat(values)
    holds = np.abs(values.mean(-1) - truth) <= t_half_widths(values, factor)
    return float(holds[printed].mean()) if printed.any() else float("nan")


def _row_coverage(values: Floats, truth: Floats, shares: bool) -> float:
    holds = np.abs(values.mean(-1) - truth.mean(-1)) <= t_half_widths(values)
    for i in np.flatnonzero(_is_flat(values)) if shares else ():
        low, high = binomial_interval(float(values[i].mean()), ITEMS)
        holds[i] = low <= truth[i].mean() <= high
    return float(holds.mean())


def _leader_is_told_apart(held: Floats, factor: float) -> np.ndarray:
    """Return whether the leader is told apart from at least one other, by Holm over all pairs, [sweeps]."""
    first, second = np.triu_indices(held.shape[1], 1)
    p_values = t_p_values(held[:, first] - held[:, second], factor)
    leaders = held.mean(-1).argmax(-1)
    corrected = np.array(
        [
            [1.0 if p is None else p for p in holm([None if np.isnan(p) else p for p in row])]
            for row in p_values.tolist()
        ]
    )
    return ((corrected < LEVEL) & ((first == leaders[:, None]) | (second == leaders[:, None]))).any(1)


def table(sweeps: int, seeds: Sequence[int] = (3, 5, 10)) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table, each as texts in the order of `HEAD`."""
    rng = np.random.default_rng(0)
    for kind in KINDS:
        for num_seeds in seeds:
            shares = measure(kind, num_seeds, sweeps, rng)
            numbers = [str(n) for n in (kind.num_strategies, kind.num_settings, num_seeds)]
            yield kind.name, *numbers, *(f"{shares[name]:.3f}".lstrip("0") for name in HEAD[4:])


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=4000, help="of each kind (default: %(default)s)")
    sweeps = parser.parse_args().sweeps
    for row in (HEAD, ("---",) * len(HEAD), *table(sweeps)):
        sys.stdout.write(f"| {' | '.join(row)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
