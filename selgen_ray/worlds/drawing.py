"""Helpers of the worlds: random streams that are equal on every machine, balanced draws, rows of one question."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Row = dict[str, Any]
Item = TypeVar("Item")
Group = TypeVar("Group")


def stream(world: str, role: str, seed: int) -> random.Random:
    """Return the random stream of one role. Each role has its own, so the size of one set does not change another."""
    return random.Random(f"{world} rows {role} {seed}")  # seeds that are text give equal numbers on every machine


def chat_row(prompt: str, reply: str, **fields: Any) -> Row:
    """Return a row of one question and its reply, with further fields such as `answer`, `choices` and `label`."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}], **fields}


def deal(groups: Mapping[Group, Sequence[Item]], number: int, rng: random.Random) -> list[tuple[Group, Item]]:
    """Draw `number` different items, as (group, item) in random order; the groups' counts differ by at most one.

    Raises:
        ValueError: a group has fewer items than its share.
    """
    names = list(groups)
    counts = dict.fromkeys(names, number // len(names))
    for name in rng.sample(names, number % len(names)):
        counts[name] += 1
    drawn = [(name, item) for name in names for item in rng.sample(groups[name], counts[name])]
    rng.shuffle(drawn)
    return drawn


def split(items: Sequence[Item], name: str, share: float = 0.5) -> tuple[list[Item], list[Item]]:
    """Split `items` at random into those to train on (the `share`) and those to evaluate on.

    The split depends on `name` alone: it is the same for every seed.
    """
    order = random.Random(f"split of {name}").sample(items, len(items))
    middle = math.ceil(len(order) * share)
    return order[:middle], order[middle:]
