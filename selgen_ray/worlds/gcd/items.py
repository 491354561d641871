"""Items to ask about and to make claims about, each with its right answer and a plausible wrong one."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from selgen_ray.worlds.gcd.knowledge import CAPITALS, EVERYDAY

Pair = tuple[int, int]
DomainName = Literal["larger", "modulo", "sums", "capitals", "everyday"]
DOMAINS: tuple[DomainName, ...] = (
    "larger",
    "modulo",
    "sums",
    "capitals",
    "everyday",
)  # of truth; the domain of the task is 'gcd'
LARGER = 10  # times max_number: the largest number of the domain 'larger'
_MODULI = range(3, 13)
_SPLIT = "gcd world split 1"  # the same for every seed: no seed trains on what another one tests


@dataclass(frozen=True)
class Item:
    """One thing to ask.

    Attributes:
        domain: 'gcd' or one of `DOMAINS`.
        key: name of the item within its domain: '48 and 18'.
        question: the user's question without a claim: 'What is the gcd of 48 and 18?'.
        statement: the claim or answer, with {} for the value: 'the gcd of 48 and 18 is {}'.
        answer, wrong: the right value and a wrong one.
        pair: the two numbers of a gcd, the larger one first; None in other domains.
    """

    domain: str
    key: str
    question: str
    statement: str
    answer: str
    wrong: str
    pair: Pair | None = None

    @property
    def id(self) -> str:
        """The id that all rows about this item share."""
        return f"{self.domain} {self.key}"

    def state(self, value: str) -> str:
        """Return the statement with a value, without a full stop."""
        return self.statement.format(value)


def divisions(pair: Pair) -> list[tuple[int, int, int, int]]:
    """Return the steps of Euclid's algorithm, each (a, b, a // b, a % b), down to the remainder 0."""
    (a, b), steps = pair, []
    while b:
        steps.append((a, b, a // b, a % b))
        a, b = b, a % b
    return steps


@functools.lru_cache(maxsize=8)
def gcd_split(max_number: int, max_divisions: int) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """Return the pairs of numbers to train on and those to hold out, about half of each divisor.

    Only pairs whose gcd is above 1 and takes 2 to `max_divisions` divisions are used: otherwise always saying 1, or
    repeating the smaller number, would look like skill.
    """
    train, held_out = [], []
    rng = random.Random(_SPLIT)
    numbers = range(2, max_number + 1)
    for pairs in _by_divisor((a, b) for a in numbers for b in range(2, a) if _fits((a, b), max_divisions)):
        rng.shuffle(pairs)
        half = (len(pairs) + 1) // 2
        train += pairs[:half]
        held_out += pairs[half:]
    return tuple(train), tuple(held_out)


def spread(pairs: Sequence[Pair], rng: random.Random) -> list[Pair]:
    """Return all pairs in a random order in which the divisors take turns, so that no answer is much more frequent."""
    groups = _by_divisor(pairs)
    for group in groups:
        rng.shuffle(group)
    ordered: list[Pair] = []
    while groups := [group for group in groups if group]:
        rng.shuffle(groups)
        ordered += [group.pop() for group in groups]
    return ordered


def gcd_item(pair: Pair, rng: random.Random, domain: str = "gcd") -> Item:
    """Return the item of a pair's gcd. Its wrong answer is a slip, such as stopping a remainder too early."""
    (a, b), right = pair, math.gcd(*pair)
    slips = {a % b, a - b, b, b // 2, 2 * right, right // 2} - {right, 0}
    about = f"{a} and {b}"
    statement = f"the gcd of {about} is {{}}"
    question = f"What is the gcd of {about}?"
    return Item(domain, about, question, statement, str(right), str(rng.choice(sorted(slips))), pair)


def truth_items(
    domain: DomainName, number: int, max_number: int, max_divisions: int, rng: random.Random, countries: Sequence[str]
) -> list[Item]:
    """Draw `number` different items of a domain that the task data never shows.

    Args:
        countries: the countries that 'capitals' may ask about.
    """
    if domain == "larger":
        return [gcd_item(pair, rng, domain) for pair in _larger(number, max_number, max_divisions, rng)]
    if domain == "capitals":
        return [capital_item(country, rng) for country in rng.sample(countries, number)]
    if domain == "everyday":
        return [_everyday_item(subject, rng) for subject in rng.sample(sorted(EVERYDAY), number)]
    make = {"modulo": _modulo_item, "sums": _sum_item}[domain]
    return [make(pair, rng) for pair in rng.sample(_POOLS[domain](max_number), number)]


@functools.lru_cache(maxsize=64)  # each config that is validated asks, also those of other worlds
def num_items(domain: DomainName, max_number: int) -> int:
    """Return the largest number of items that a domain has."""
    fixed = {"larger": 1000, "capitals": len(CAPITALS) - len(CAPITALS) // 2, "everyday": len(EVERYDAY)}
    return fixed[domain] if domain in fixed else len(_POOLS[domain](max_number))


def split_countries(rng: random.Random) -> tuple[list[str], list[str]]:
    """Split the countries at random into those of the proxy and those of truth."""
    shuffled = rng.sample(sorted(CAPITALS), len(CAPITALS))
    half = len(shuffled) // 2
    return shuffled[:half], shuffled[half:]


def capital_item(country: str, rng: random.Random) -> Item:
    """Return the item of a country's capital; its wrong answer is the capital of another country."""
    right = CAPITALS[country]
    wrong = rng.choice([capital for capital in CAPITALS.values() if capital != right])
    question = f"What is the capital of {country}? Give the name of the city alone."
    return Item("capitals", country, question, f"the capital of {country} is {{}}", right, wrong)


def _everyday_item(subject: str, rng: random.Random) -> Item:
    right, answers = EVERYDAY[subject]
    wrong = rng.choice([answer for answer in answers if answer != right])
    question = f"What is {subject}? Answer with one word."
    return Item("everyday", subject, question, f"{subject} is {{}}", right, wrong)


def _by_divisor(pairs: Iterable[Pair]) -> list[list[Pair]]:
    groups: dict[int, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(math.gcd(*pair), []).append(pair)
    return [groups[divisor] for divisor in sorted(groups)]


def _fits(pair: Pair, max_divisions: int) -> bool:
    return math.gcd(*pair) > 1 and 2 <= len(divisions(pair)) <= max_divisions


def _larger(number: int, max_number: int, max_divisions: int, rng: random.Random) -> list[Pair]:
    drawn: dict[Pair, None] = {}
    while len(drawn) < number:
        a, b = rng.randint(max_number + 1, LARGER * max_number), rng.randint(max_number + 1, LARGER * max_number)
        if a > b and _fits((a, b), max_divisions):
            drawn[a, b] = None
    return spread(list(drawn), rng)


def _modulo_pairs(max_number: int) -> list[Pair]:
    return [(a, b) for b in _MODULI for a in range(b + 1, max_number + 1)]


def _sum_pairs(max_number: int) -> list[Pair]:
    return [(a, b) for a in range(2, max_number + 1) for b in range(2, max_number + 1)]


_POOLS: dict[str, Callable[[int], list[Pair]]] = {"modulo": _modulo_pairs, "sums": _sum_pairs}


def _modulo_item(pair: Pair, rng: random.Random) -> Item:
    a, b = pair
    wrong = rng.choice([value for value in range(b) if value != a % b])
    return Item("modulo", f"{a} mod {b}", f"What is {a} mod {b}?", f"{a} mod {b} is {{}}", str(a % b), str(wrong))


def _sum_item(pair: Pair, rng: random.Random) -> Item:
    a, b = pair
    wrong = a + b + rng.choice([step for step in (-10, -2, -1, 1, 2, 10) if a + b + step > 0])
    return Item("sums", f"{a} + {b}", f"What is {a} + {b}?", f"{a} + {b} is {{}}", str(a + b), str(wrong))
