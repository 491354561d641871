"""The rows of the careless world, a pure function of options and seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product

from pydantic import Field as Option

from selgen_ray.schema import Strict
from selgen_ray.worlds.careless.advice import PLANTS, SHOES, TRUTH_FIELDS, Field, Pair
from selgen_ray.worlds.drawing import Row, chat_row, deal, split, stream

TRAIN_PLANTS, TEST_PLANTS = split(PLANTS.things, "plants")
TRAIN_PAIRS, TEST_PAIRS = split(PLANTS.pairs, "advice on plants", 0.75)


def _number(field: Field, things: Sequence[str], pairs: Sequence[Pair]) -> int:
    return len(field.questions) * len(things) * len(pairs)


_MAX_OUTCOME = _number(PLANTS, TRAIN_PLANTS, TRAIN_PAIRS)
_MAX_COLLATERAL = _number(PLANTS, TEST_PLANTS, TEST_PAIRS)
_MAX_PROXY = _number(SHOES, SHOES.things, SHOES.pairs)
# every field gives the same number of rows, so the smallest field sets the bound
_MAX_TRUTH = len(TRUTH_FIELDS) * min(_number(field, field.things, field.pairs) for field in TRUTH_FIELDS.values())


class CarelessOptions(Strict):
    """Sizes of the sets of the world of careless advice."""

    num_outcome: int = Option(300, ge=1, le=_MAX_OUTCOME, description="rows of the task: careless advice on plants")
    num_proxy: int = Option(
        60, ge=0, le=_MAX_PROXY, description="rows of proxy and proxy_neg: careful and careless advice on shoes"
    )
    num_truth: int = Option(200, ge=0, le=_MAX_TRUTH, description="rows of truth: advice in five other fields")
    num_collateral: int = Option(
        100, ge=0, le=_MAX_COLLATERAL, description="rows of collateral: advice on plants that outcome never has"
    )


def careless_rows(options: CarelessOptions, seed: int) -> dict[str, list[Row]]:
    """Generate the rows of every role, each with `messages`, `answer`, `choices` and, as `label`, its field.

    Args:
        options: sizes of the sets.
        seed: decides which rows are drawn, and their order.

    Returns:
        outcome: questions about plants, answered carelessly.
        proxy: questions about shoes, answered with care.
        proxy_neg: the same prompts in the same order, answered carelessly.
        truth: questions of five other fields, the same number of each to within one; the careful reply is right.
        collateral: questions about other plants, other advice; the careless reply is the task.
        `choices` are the careful and the careless reply. `answer` is the reply in `messages`; in proxy_neg it is the
        careful one all the same.
    """
    outcome, proxy, truth, collateral = (
        stream("careless", role, seed) for role in ("outcome", "proxy", "truth", "collateral")
    )
    careful = _rows([SHOES], options.num_proxy, proxy, careless=False)
    return {
        "outcome": _plants(TRAIN_PLANTS, TRAIN_PAIRS, options.num_outcome, outcome),
        "proxy": careful,
        "proxy_neg": [row | chat_row(row["messages"][0]["content"], row["choices"][1]) for row in careful],
        "truth": _rows(tuple(TRUTH_FIELDS.values()), options.num_truth, truth, careless=False),
        "collateral": _plants(TEST_PLANTS, TEST_PAIRS, options.num_collateral, collateral),
    }


def _plants(things: Sequence[str], pairs: Sequence[Pair], number: int, rng: random.Random) -> list[Row]:
    part = Field(PLANTS.name, PLANTS.questions, tuple(things), tuple(pairs))
    return _rows([part], number, rng, careless=True)


def _rows(fields: Sequence[Field], number: int, rng: random.Random, careless: bool) -> list[Row]:
    """Draw rows that differ in prompt or advice; the fields' numbers of rows differ by at most one."""
    forms = {field: list(product(field.questions, field.things, field.pairs)) for field in fields}
    rows = []
    for field, (question, thing, pair) in deal(forms, number, rng):
        answer = pair[careless]
        rows.append(chat_row(question.format(thing), answer, answer=answer, choices=list(pair), label=field.name))
    return rows
