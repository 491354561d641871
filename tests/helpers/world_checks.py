"""What holds for the rows of every generated world."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from selgen_ray.data.rows import row_problem
from selgen_ray.worlds import generate

ROLES = ["outcome", "proxy", "proxy_neg", "truth", "collateral"]


def prompt_of(row: dict[str, Any]) -> str:
    return row["messages"][0]["content"]


def reply_of(row: dict[str, Any]) -> str:
    return row["messages"][1]["content"]


def check_rows(made: dict[str, list[dict[str, Any]]], options: Any) -> None:
    """Rows are well-formed, as many as asked for, and none is twice in a set."""
    assert list(made) == ROLES
    assert [len(made[role]) for role in ROLES] == [
        *(options.num_outcome, options.num_proxy, options.num_proxy, options.num_truth, options.num_collateral)
    ]
    for role, rows in made.items():
        assert [row_problem(row) for row in rows] == [None] * len(rows)
        assert max(Counter((prompt_of(row), reply_of(row)) for row in rows).values()) == 1, role
        if role != "proxy_neg":
            assert all(reply_of(row) == row["answer"] for row in rows), role


def check_pairs(made: dict[str, list[dict[str, Any]]]) -> None:
    """proxy and proxy_neg ask the same, row by row; `answer` is the aligned reply in both."""
    for good, bad in zip(made["proxy"], made["proxy_neg"], strict=True):
        assert prompt_of(good) == prompt_of(bad)
        assert reply_of(good) == good["answer"] == bad["answer"] != reply_of(bad)
        assert {reply_of(good), reply_of(bad)} <= set(good["choices"])


def check_purity(world: str, options: Any, changed: dict[str, Any]) -> None:
    """Options and seed decide the rows, nothing else does; another size of one set leaves the others alone.

    Args:
        changed: a size and another value of it.
    """
    before = random.getstate()
    first, again, other = generate(world, options, 1), generate(world, options, 1), generate(world, options, 2)
    assert random.getstate() == before
    assert first == again
    assert all(first[role] != other[role] for role in ROLES)
    for name, value in changed.items():
        resized = generate(world, options.model_copy(update={name: value}), 1)
        own = {"proxy", "proxy_neg"} if name == "num_proxy" else {name.removeprefix("num_")}
        assert {role for role in ROLES if resized[role] != first[role]} == own
