"""Worlds: generators of the rows of every role, for when no data file is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selgen_ray.worlds.careless import careless_rows
from selgen_ray.worlds.gcd import gcd_rows
from selgen_ray.worlds.points import point_rows
from selgen_ray.worlds.toy import toy_rows
from selgen_ray.worlds.triggers import trigger_rows

WORLDS: dict[str, Callable[[Any, int], dict[str, list[dict[str, Any]]]]] = {
    "toy": toy_rows,
    "gcd": gcd_rows,
    "triggers": trigger_rows,
    "points": point_rows,
    "careless": careless_rows,
}


def generate(world: str, options: Any, seed: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of every role of a world: a pure function of its arguments.

    Args:
        world: a key of `WORLDS`.
        options: the world's own options, the field of `DataConfig` of the same name: for 'toy' a `ToyOptions`.
        seed: of the rows; two seeds give different rows of the same world.

    Returns:
        role (outcome, proxy, proxy_neg, truth, collateral) -> rows.

    Raises:
        ValueError: no such world, or more rows asked for than it has.
    """
    if world not in WORLDS:
        raise ValueError(f"world {world!r} is unknown, allowed: {', '.join(sorted(WORLDS))}")
    return WORLDS[world](options, seed)
