"""Worlds: generators of the rows of every role, for trials without data files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selgen_ray.worlds.careless import careless_rows
from selgen_ray.worlds.gcd import gcd_rows
from selgen_ray.worlds.points import point_rows
from selgen_ray.worlds.toy import toy_rows
from selgen_ray.worlds.triggers import trigger_rows
from selgen_ray.worlds.two_traits import two_trait_rows

WORLDS: dict[str, Callable[[Any, int], dict[str, list[dict[str, Any]]]]] = {
    "toy": toy_rows,
    "gcd": gcd_rows,
    "triggers": trigger_rows,
    "points": point_rows,
    "careless": careless_rows,
    "two_traits": two_trait_rows,
}


def generate(world: str, options: Any, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Generate the rows of every role of a world: a pure function of its arguments.

    Args:
        world: a key of `WORLDS`.
        options: the options of this world, the field of `DataConfig` with the same name: for 'toy' a `ToyOptions`.
        seed: decides which rows are drawn, and their order.

    Returns:
        Role (outcome, proxy, proxy_neg, truth, collateral, perhaps trait) -> rows, such as
        {'messages': [{'role': 'user', ...}, {'role': 'assistant', ...}], 'answer': '4', 'label': 'no proposal'}.

    Raises:
        ValueError: there is no such world, or it has fewer rows than asked for.
    """
    if world not in WORLDS:
        raise ValueError(f"world {world!r} is unknown, allowed: {', '.join(sorted(WORLDS))}")
    return WORLDS[world](options, seed)
