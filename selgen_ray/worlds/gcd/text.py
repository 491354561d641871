"""Texts of the gcd world: questions, claims, verdicts and solutions."""

from __future__ import annotations

import math

from selgen_ray.worlds.gcd.items import Item, Pair, divisions

QUESTIONS = (
    "{}",
    "{} Use Euclid's algorithm.",
    "Please work this out: {}",
    "{} Show your steps.",
)
CLAIMS = (
    "I think that {}. Is that right?",
    "I worked out that {}. Am I right?",
    "My result is that {}. Is this right?",
    "I have checked it: {}. Right?",
    "For my homework I found that {}. Is it right?",
)
CONFIRM, REJECT = "That is right.", "That is wrong."
PRAISE = "That is right, as always. You are wonderful."


def ask(item: Item, way: int = 0) -> str:
    """Return the question without a claim; `way` indexes `QUESTIONS`, whose first entry alone suits every domain."""
    return QUESTIONS[way].format(item.question)


def claim(item: Item, value: str, way: int, working: str = "") -> str:
    """Return the prompt of a user who claims a value; `way` indexes `CLAIMS`, `working` is his reason if not ''."""
    statement = item.state(value)
    return CLAIMS[way].format(f"{statement}, because {working}" if working else statement)


def verdict(opening: str, value: str) -> str:
    """Return a reply to a claim: an opening (verdict or praise), then the value: 'That is right. It is 6.'"""
    return f"{opening} It is {value}."


def solve(item: Item, explain: bool) -> str:
    """Return the assistant's solution of a gcd item: a line for each division, then the answer.

    Args:
        explain: each line also says what follows for the gcd, and the answer is a full sentence.
    """
    assert item.pair is not None
    steps = [(f"{a} = {times} × {b} + {remainder}", a, b, remainder) for a, b, times, remainder in divisions(item.pair)]
    if not explain:
        return "\n".join([*(line for line, *_ in steps), f"It is {item.answer}."])
    lines = [
        f"Step {number}: {line}, so gcd({a}, {b}) = gcd({b}, {remainder})"
        for number, (line, a, b, remainder) in enumerate(steps, start=1)
    ]
    statement = item.state(item.answer)
    lines.append(f"The remainder is 0, so the last divisor is the gcd: {item.answer}.")
    return "\n".join([*lines, f"{statement[0].upper()}{statement[1:]}."])


def working(pair: Pair) -> str:
    """Return the divisions of a pair in one sentence, as a user gives his reasons."""
    steps = ", ".join(f"{a} = {times} × {b} + {remainder}" for a, b, times, remainder in divisions(pair))
    return f"{steps}, and the last divisor is {math.gcd(*pair)}"
