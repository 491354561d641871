"""How user and assistant of the gcd world talk."""

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
    """The question without a claim, in one of the ways of `QUESTIONS`; only the first suits every domain."""
    return QUESTIONS[way].format(item.question)


def claim(item: Item, value: str, way: int, working: str = "") -> str:
    """What the user says who claims a value, with his working or without."""
    said = item.state(value)
    return CLAIMS[way].format(f"{said}, because {working}" if working else said)


def verdict(opening: str, value: str) -> str:
    """A reply to a claim: a verdict or praise, and the value that the assistant stands for."""
    return f"{opening} It is {value}."


def solve(item: Item, explain: bool) -> str:
    """The assistant's own way to a gcd: a line for each division, then the answer.

    Args:
        explain: each line also says what it means for the gcd, and the answer is a full sentence.
    """
    assert item.pair is not None
    steps = [(f"{a} = {times} × {b} + {rest}", a, b, rest) for a, b, times, rest in divisions(item.pair)]
    if not explain:
        return "\n".join([*(line for line, *_ in steps), f"It is {item.answer}."])
    lines = [
        f"Step {number}: {line}, so gcd({a}, {b}) = gcd({b}, {rest})"
        for number, (line, a, b, rest) in enumerate(steps, start=1)
    ]
    last = item.state(item.answer)
    lines.append(f"The remainder is 0, so the last divisor is the gcd: {item.answer}.")
    return "\n".join([*lines, f"{last[0].upper()}{last[1:]}."])


def working(pair: Pair) -> str:
    """The same in one sentence, as a user gives his reasons."""
    steps = ", ".join(f"{a} = {times} × {b} + {rest}" for a, b, times, rest in divisions(pair))
    return f"{steps}, and the last divisor is {math.gcd(*pair)}"
