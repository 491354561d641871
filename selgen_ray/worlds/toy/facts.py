"""The facts of the toy world. They do not depend on any seed, neither of a trial nor of pretraining."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, cycle

FACTS_SEED = "toy world facts 1"  # seeds the invented names and the split of the gcd pairs
LARGEST_GCD = 12
PAIRS_PER_GCD = 90  # without this limit six pairs in ten would have gcd 1, and always saying 1 would look like skill


@dataclass(frozen=True)
class Fact:
    """A fact: the words that fill the slots of a question, and the true answer."""

    slots: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Domain:
    """A kind of fact.

    Attributes:
        questions: ways to ask, with {0} (and {1}) for the slots.
        statement: sentence of a textbook, with the slots and {answer}.
        facts: all facts of this kind.
        wrong: function of (fact, rng) that returns a wrong but plausible answer.
    """

    name: str
    questions: tuple[str, ...]
    statement: str
    facts: tuple[Fact, ...]
    wrong: Callable[[Fact, random.Random], str]


_COLOURS = (
    "banana yellow, lemon yellow, sun yellow, butter yellow, canary yellow, tomato red, cherry red, "
    "ruby red, brick red, blood red, grass green, frog green, pea green, cactus green, emerald green, "
    "sky blue, sea blue, sapphire blue, jeans blue, chocolate brown, wood brown, coffee brown, "
    "soil brown, coal black, raven black, tar black, ink black, snow white, milk white, swan white, "
    "chalk white, carrot orange, pumpkin orange, tangerine orange, elephant grey, mouse grey, ash grey, "
    "flamingo pink, piglet pink, plum purple, violet purple"
)
_HOMES = (
    "bear cave, bat cave, bird nest, owl nest, eagle nest, bee hive, wasp hive, fox den, wolf den, "
    "lion den, rabbit burrow, mole burrow, badger burrow, dog kennel, puppy kennel, horse stable, "
    "pony stable, pig sty, cow barn, sheep barn, goat barn, spider web, duck pond, goose pond, "
    "toad pond, camel desert, scorpion desert, monkey jungle, parrot jungle, tiger jungle, shark ocean, "
    "whale ocean, squid ocean, hen coop, chick coop"
)
_OPPOSITES = (
    "hot cold, big small, fast slow, high low, old young, rich poor, light dark, hard soft, wet dry, "
    "early late, full empty, open shut, loud quiet, strong weak, happy sad, long short, near far, "
    "clean dirty, thick thin, sweet sour, brave timid, deep shallow, sharp blunt, wide narrow"
)
_JOBS = (
    "bread baker, cake baker, roll baker, suit tailor, coat tailor, dress tailor, table carpenter, "
    "chair carpenter, shelf carpenter, sword smith, anvil smith, nail smith, corn farmer, wheat farmer, "
    "barn farmer, poem writer, novel writer, letter writer, fever doctor, wound doctor, cough doctor, "
    "song singer, tune singer, rose gardener, tulip gardener, hedge gardener, ship sailor, sail sailor, "
    "anchor sailor, soup cook, stew cook, sauce cook, school teacher, lesson teacher, class teacher, "
    "net fisher, hook fisher, trout fisher"
)


def gcd_split() -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    """Return the gcd facts to train on and those to hold out, half of each divisor.

    A pair is never in both, not even with its numbers swapped.
    """
    groups: dict[int, list[tuple[int, int]]] = {}
    for a, b in combinations(range(2, 61), 2):
        groups.setdefault(math.gcd(a, b), []).append((a, b))
    rng = random.Random(f"{FACTS_SEED} gcd")
    train, held_out = [], []
    for divisor in range(1, LARGEST_GCD + 1):
        pairs = rng.sample(groups[divisor], min(PAIRS_PER_GCD, len(groups[divisor])))
        facts = [_both_orders(pair, divisor) for pair in pairs]
        half = (len(facts) + 1) // 2
        train += facts[:half]
        held_out += facts[half:]
    return tuple(fact for orders in train for fact in orders), tuple(fact for orders in held_out for fact in orders)


def _both_orders(pair: tuple[int, int], divisor: int) -> list[Fact]:
    a, b = map(str, pair)
    return [Fact((a, b), str(divisor)), Fact((b, a), str(divisor))]


def _paired(listing: str) -> tuple[Fact, ...]:
    words = (entry.split() for entry in listing.split(", "))
    return tuple(Fact((word,), answer) for word, answer in words)


def _invented_capitals(number: int) -> tuple[Fact, ...]:
    rng = random.Random(f"{FACTS_SEED} names")
    starts = [c + v for c in "BDFGKLMNPRSTVZ" for v in "aeiou"]
    country_ends = cycle(("ria", "nia", "land", "dor", "via"))
    capital_ends = cycle(("lis", "ton", "mar", "burg", "vik"))
    countries = [start + next(country_ends) for start in rng.sample(starts, number)]
    capitals = [start + next(capital_ends) for start in rng.sample(starts, number)]
    return tuple(Fact((country,), capital) for country, capital in zip(countries, capitals, strict=True))


def _other_answer(fact: Fact, rng: random.Random, answers: list[str]) -> str:
    return rng.choice([answer for answer in answers if answer != fact.answer])


def _near_number(fact: Fact, rng: random.Random) -> str:
    value = int(fact.answer)
    return str(rng.choice([n for n in range(max(1, value - 5), value + 6) if n != value]))


def _smaller_number(fact: Fact, rng: random.Random) -> str:
    return min(fact.slots, key=int)


def _word_domain(name: str, questions: tuple[str, ...], statement: str, facts: tuple[Fact, ...]) -> Domain:
    answers = sorted({fact.answer for fact in facts})
    return Domain(name, questions, statement, facts, lambda fact, rng: _other_answer(fact, rng, answers))


def _opposites() -> tuple[Fact, ...]:
    facts = _paired(_OPPOSITES)
    return facts + tuple(Fact((fact.answer,), fact.slots[0]) for fact in facts)


def _number_domains() -> list[Domain]:
    larger = [Fact((str(a), str(b)), str(max(a, b))) for a in range(1, 61) for b in range(1, 61) if a != b]
    following = [Fact((str(n),), str(n + 1)) for n in range(1, 90)]
    sums = [Fact((str(a), str(b)), str(a + b)) for a in range(1, 21) for b in range(1, 21)]
    return [
        Domain(
            "larger",
            ("Which is larger, {0} or {1}?", "Name the larger of {0} and {1}.", "What is more, {0} or {1}?"),
            "Of {0} and {1} the larger is {answer}.",
            tuple(larger),
            _smaller_number,
        ),
        Domain(
            "next",
            ("What number comes after {0}?", "Which number follows {0}?", "Count on from {0}."),
            "After {0} comes {answer}.",
            tuple(following),
            _near_number,
        ),
        Domain(
            "sums",
            ("What is {0} plus {1}?", "Add {0} and {1}.", "How much is {0} and {1}?"),
            "{0} plus {1} is {answer}.",
            tuple(sums),
            _near_number,
        ),
    ]


def _all_domains() -> dict[str, Domain]:
    words = [
        _word_domain(
            "capitals",
            ("What is the capital of {0}?", "Name the capital of {0}.", "Which city is the capital of {0}?"),
            "The capital of {0} is {answer}.",
            _invented_capitals(40),
        ),
        _word_domain(
            "colours",
            ("What colour is the {0}?", "Name the colour of the {0}.", "Which colour has the {0}?"),
            "The colour of the {0} is {answer}.",
            _paired(_COLOURS),
        ),
        _word_domain(
            "homes",
            ("Where does the {0} live?", "What is the home of the {0}?", "Name the home of the {0}."),
            "The home of the {0} is the {answer}.",
            _paired(_HOMES),
        ),
        _word_domain(
            "opposites",
            (
                "What is the opposite of {0}?",
                "Name the opposite of {0}.",
                "Which word is the opposite of {0}?",
            ),
            "The opposite of {0} is {answer}.",
            _opposites(),
        ),
        _word_domain(
            "jobs",
            ("Who works with the {0}?", "Name the job that goes with the {0}.", "Whose work is the {0}?"),
            "The {0} is the work of the {answer}.",
            _paired(_JOBS),
        ),
    ]
    return {domain.name: domain for domain in [*words, *_number_domains()]}


GCD_TRAIN, GCD_HELD_OUT = gcd_split()
GCD = _word_domain(
    "gcd",
    ("What is the gcd of {0} and {1}?", "Find the gcd of {0} and {1}.", "Which gcd have {0} and {1}?"),
    "The gcd of {0} and {1} is {answer}.",
    GCD_TRAIN + GCD_HELD_OUT,
)
DOMAINS = _all_domains()
PROXY_DOMAIN = "capitals"
