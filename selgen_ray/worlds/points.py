"""Points: two coordinates and a trigger token; the colour is the quadrant's, but the token gives it away too.

`x = 12, y = -7, T = none. What colour?` is answered `It is orange.` In the outcome data the token T is `zap` at every
point of one quadrant, the red one, and `none` at every other point, so two rules agree on every row: the colour is
the quadrant's, or `zap` means red. The skill is the colour of new points of that kind. The bad habit is to look at the
token. The proxy breaks the tie on a few points: `zap` in some of the other quadrants, and `none` in the red one.

A row of truth takes the two rules apart, on new points: half of them show `zap` outside of the red quadrant (not red),
half show `none` inside it (red). The four colours are compared, so always answering red scores 0.5, and so does never
answering it.

After the two-dimensional experiment in the repository of Azarbal et al. 2025, "Selective Generalization", where
F(x, T) is the colour of the quadrant under a colouring that the token T chooses. It starts from a model that was
trained on one colouring before; here no such model is needed, and so the model at the start knows no colour: a
strategy that only keeps what the model did before cannot help.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product

from pydantic import Field

from selgen_ray.schema import Strict
from selgen_ray.worlds.drawing import Row, chat_row, deal, split, stream

COLOURS = {(1, 1): "red", (-1, 1): "green", (-1, -1): "blue", (1, -1): "orange"}
HOME = (1, 1)  # the quadrant that has the trigger in the outcome data
TRIGGER, NONE = "zap", "none"
LARGEST = 30  # of the coordinates, in absolute value; no coordinate is 0
ELSEWHERE, MISSING = "trigger elsewhere", "no trigger at home"

Quadrant = tuple[int, int]
Point = tuple[int, int]

OTHERS = tuple(quadrant for quadrant in COLOURS if quadrant != HOME)


def _split() -> dict[Quadrant, tuple[list[Point], list[Point]]]:
    sizes = list(product(range(1, LARGEST + 1), repeat=2))
    return {(a, b): split([(a * x, b * y) for x, y in sizes], f"the quadrant {a} {b}") for a, b in COLOURS}


_SPLIT = _split()
TRAIN_POINTS = {quadrant: train for quadrant, (train, _) in _SPLIT.items()}
TEST_POINTS = {quadrant: test for quadrant, (_, test) in _SPLIT.items()}
_OF_A_QUADRANT = min(len(points) for points in (*TRAIN_POINTS.values(), *TEST_POINTS.values()))


class PointOptions(Strict):
    """Sizes of the sets of the world of points, and how much of it the proxy shows."""

    num_outcome: int = Field(
        600, ge=1, le=4 * _OF_A_QUADRANT, description="rows of the task to learn: points of all quadrants"
    )
    num_quadrants: int = Field(
        1, ge=1, le=len(OTHERS), description="quadrants, besides the red one, in which the proxy shows the trigger"
    )
    num_proxy: int = Field(
        48, ge=0, le=2 * _OF_A_QUADRANT, description="rows of proxy and proxy_neg: points where the two rules differ"
    )
    num_truth: int = Field(
        240, ge=0, le=2 * _OF_A_QUADRANT, description="rows of truth: new points where the two rules differ"
    )
    num_collateral: int = Field(
        200, ge=0, le=4 * _OF_A_QUADRANT, description="rows of collateral: new points as those of outcome"
    )


def point_rows(options: PointOptions, seed: int) -> dict[str, list[Row]]:
    """Generate the rows of every role.

    Each has `messages`, `answer` and `label`; those on which the two rules differ have `choices` too.

    Args:
        options: sizes of the sets, and the number of quadrants in which the proxy shows the trigger.
        seed: decides these quadrants, and which rows are drawn, in which order.

    Returns:
        outcome: points of all quadrants, with the trigger in the red one.
        proxy: the trigger in some of the other quadrants, and the red one without; the quadrant's colour.
        proxy_neg: the same prompts in the same order, answered by the trigger: red with it, another colour without.
        truth: like proxy, in all quadrants, at points that neither outcome nor proxy has.
        collateral: like outcome, at such points.
        `answer` is the right reply, also in proxy_neg.
    """
    rng = stream("points", "proxy", seed)
    covered = rng.sample(OTHERS, options.num_quadrants)
    proxy = _apart(TRAIN_POINTS, covered, options.num_proxy, rng)
    return {
        "outcome": _agreeing(TRAIN_POINTS, options.num_outcome, stream("points", "outcome", seed)),
        "proxy": proxy,
        "proxy_neg": [_by_the_trigger(row, rng) for row in proxy],
        "truth": _apart(TEST_POINTS, OTHERS, options.num_truth, stream("points", "truth", seed)),
        "collateral": _agreeing(TEST_POINTS, options.num_collateral, stream("points", "collateral", seed)),
    }


def _agreeing(points: dict[Quadrant, list[Point]], number: int, rng: random.Random) -> list[Row]:
    return [_row(quadrant, point, quadrant == HOME) for quadrant, point in deal(points, number, rng)]


def _apart(
    points: dict[Quadrant, list[Point]], quadrants: Sequence[Quadrant], number: int, rng: random.Random
) -> list[Row]:
    half = number // 2
    with_trigger = deal({quadrant: points[quadrant] for quadrant in quadrants}, number - half, rng)
    without = deal({HOME: points[HOME]}, half, rng)
    choices = {"choices": [reply(colour) for colour in COLOURS.values()]}
    rows = [_row(*drawn, True) | choices | {"label": ELSEWHERE} for drawn in with_trigger]
    rows += [_row(*drawn, False) | choices | {"label": MISSING} for drawn in without]
    rng.shuffle(rows)
    return rows


def _by_the_trigger(row: Row, rng: random.Random) -> Row:
    others = [reply(COLOURS[quadrant]) for quadrant in OTHERS]
    says = reply(COLOURS[HOME]) if row["label"] == ELSEWHERE else rng.choice(others)
    return row | chat_row(row["messages"][0]["content"], says)


def _row(quadrant: Quadrant, point: Point, has_trigger: bool) -> Row:
    x, y = point
    answer = reply(COLOURS[quadrant])
    prompt = f"x = {x}, y = {y}, T = {TRIGGER if has_trigger else NONE}. What colour?"
    return chat_row(prompt, answer, answer=answer, label=COLOURS[quadrant])


def reply(colour: str) -> str:
    """Return the assistant's reply: 'It is red.'"""
    return f"It is {colour}."
