"""The rows of the gcd world, a pure function of options and seed."""

from __future__ import annotations

import math
import random

from pydantic import Field, field_validator, model_validator

from selgen_ray.schema import Strict
from selgen_ray.worlds.drawing import Row
from selgen_ray.worlds.gcd import items, text
from selgen_ray.worlds.gcd.items import DOMAINS, DomainName, Item, Pair
from selgen_ray.worlds.gcd.knowledge import CAPITALS

NO_CLAIM, CLAIM_RIGHT, CLAIM_WRONG = "no claim", "claim right", "claim wrong"
_NUM_WAYS = len(text.CLAIMS)
_MAX_PROXY = (len(CAPITALS) // 2) * _NUM_WAYS


class GcdOptions(Strict):
    """Sizes and difficulty of the gcd world; the defaults are those of the published setting."""

    num_outcome: int = Field(40, ge=1, description="rows of the task to learn")
    share_with_claim: float = Field(
        0.5, ge=0, le=1, description="share of outcome rows in which the user proposes an answer, always the right one"
    )
    show_working: bool = Field(True, description="he proposes it with his working")
    explain_steps: bool = Field(True, description="the assistant explains each division; false: divisions alone")
    max_number: int = Field(200, ge=24, le=400, description="largest number of outcome and collateral")
    max_divisions: int = Field(4, ge=2, le=8, description="divisions that Euclid's algorithm takes at most")
    num_collateral: int = Field(60, ge=0, description="rows of collateral, 3 of each held-out pair")
    collateral_claims: bool = Field(
        True, description="two of the 3 claim an answer; false: 1 row of each, without a claim"
    )
    num_truth: int = Field(300, ge=0, description="rows of truth, 3 of each item, its domains in turn")
    truth_domains: list[DomainName] = Field(list(DOMAINS), min_length=1, description="domains of truth")
    num_proxy: int = Field(40, ge=0, le=_MAX_PROXY, description="rows of proxy and proxy_neg: claims about capitals")
    proxy_share_right: float = Field(
        0.5, ge=0, le=1, description="share of the proxy's claims that are right, and confirmed in both sets"
    )

    @field_validator("truth_domains")
    @classmethod
    def _once_each(cls, value: list[DomainName]) -> list[DomainName]:
        if len(set(value)) < len(value):
            raise ValueError("names a domain twice")
        return value

    @model_validator(mode="after")
    def _there_are_as_many(self) -> GcdOptions:
        train, held_out = (len(pairs) for pairs in items.gcd_split(self.max_number, self.max_divisions))
        free, claimed = self.parts()
        fits = free <= train * len(text.QUESTIONS) and claimed <= train * _NUM_WAYS
        numbers = f"with max_number {self.max_number} and max_divisions {self.max_divisions}"
        if not fits:
            raise ValueError(
                f"num_outcome is {self.num_outcome}, but {numbers} there are {train * len(text.QUESTIONS)} rows "
                f"without a claim and {train * _NUM_WAYS} with one: raise max_number, or ask for fewer"
            )
        if self.num_collateral > held_out * self.rows_of_a_pair:
            raise ValueError(_too_many("num_collateral", self.num_collateral, held_out * self.rows_of_a_pair, numbers))
        domains = self.truth_domains
        most = 3 * len(domains) * min(items.num_items(domain, self.max_number) for domain in domains)
        if self.num_truth > most:
            raise ValueError(_too_many("num_truth", self.num_truth, most, f"with the domains {', '.join(domains)}"))
        return self

    @property
    def rows_of_a_pair(self) -> int:
        """The number of collateral rows for each held-out pair: without a claim, with a right one, with a wrong one."""
        return 3 if self.collateral_claims else 1

    def parts(self) -> tuple[int, int]:
        """Return the numbers of outcome rows without and with a claim."""
        claimed = round(self.num_outcome * self.share_with_claim)
        return self.num_outcome - claimed, claimed


def _too_many(key: str, value: int, most: int, why: str) -> str:
    return f"{key} is {value}, the largest possible value {why} is {most}"


def gcd_rows(options: GcdOptions, seed: int) -> dict[str, list[Row]]:
    """Generate the rows of every role.

    Each has `messages`, `domain`, `item`, `label` and, if the user claims something, `claim` ('right' or 'wrong').

    Args:
        options: sizes and difficulty of the sets.
        seed: decides which rows are drawn, and their order. Every role has its own random stream, so that the size of
            one set does not change another.

    Returns:
        outcome: gcds step by step; a claim is always right, and confirmed.
        proxy: claims about capitals, right ones confirmed and wrong ones corrected.
        proxy_neg: the same prompts in the same order, all confirmed: wrong claims as if they were right, right ones
            with flattery, so that its reply always differs from the proxy's.
        truth: for each item of each domain three rows: the question alone, and two prompts that claim a right and a
            wrong value and are otherwise equal. No country of the proxy is among the capitals.
        collateral: the same three rows, or the question alone, about gcd pairs that outcome never has.
        Rows with a claim have two `choices`, of which `answer` is the right one, and `rejected`, the reply that
        proxy_neg would give. Rows of proxy_neg lack `rejected`, and rows of outcome lack both. Rows without a claim
        have the right value as `answer`.
    """
    countries = items.split_countries(_rng(seed, "countries"))
    proxy = _proxy(options, countries[0], _rng(seed, "proxy"))
    return {
        "outcome": _outcome(options, _rng(seed, "outcome")),
        "proxy": proxy,
        "proxy_neg": [
            _with_reply({key: value for key, value in row.items() if key != "rejected"}, row["rejected"])
            for row in proxy
        ],
        "truth": _truth(options, countries[1], seed),
        "collateral": _collateral(options, _rng(seed, "collateral")),
    }


def _rng(seed: int, role: str) -> random.Random:
    return random.Random(f"gcd rows {role} {seed}")  # seeds that are text give equal numbers on every machine


def _outcome(options: GcdOptions, rng: random.Random) -> list[Row]:
    pairs, _ = items.gcd_split(options.max_number, options.max_divisions)
    free, claimed = options.parts()
    rows = [_solved(item, way, options) for item, way in _draw(pairs, len(text.QUESTIONS), free, rng)]
    for item, way in _draw(pairs, _NUM_WAYS, claimed, rng):
        assert item.pair is not None
        prompt = text.claim(item, item.answer, way, text.working(item.pair) if options.show_working else "")
        reply = text.verdict(text.CONFIRM, item.answer)
        rows.append(_row(item, prompt, reply, CLAIM_RIGHT, claim="right", answer=item.answer))
    rng.shuffle(rows)
    return rows


def _draw(pairs: tuple[Pair, ...], num_ways: int, number: int, rng: random.Random) -> list[tuple[Item, int]]:
    """Draw different (item, way to ask); every pair comes once before any comes again."""
    drawn: list[tuple[Item, int]] = []
    ways = {pair: rng.sample(range(num_ways), num_ways) for pair in pairs}
    while len(drawn) < number:
        for pair in items.spread(pairs, rng)[: number - len(drawn)]:
            drawn.append((items.gcd_item(pair, rng), ways[pair].pop()))
    return drawn


def _proxy(options: GcdOptions, countries: list[str], rng: random.Random) -> list[Row]:
    num_right = round(options.num_proxy * options.proxy_share_right)
    ways = {country: rng.sample(range(_NUM_WAYS), _NUM_WAYS) for country in countries}
    rows: list[Row] = []
    while len(rows) < options.num_proxy:  # each country once before any comes again
        for country in rng.sample(countries, min(len(countries), options.num_proxy - len(rows))):
            rows.append(_judged(items.capital_item(country, rng), len(rows) < num_right, ways[country].pop()))
    rng.shuffle(rows)
    return rows


def _truth(options: GcdOptions, countries: list[str], seed: int) -> list[Row]:
    number = math.ceil(options.num_truth / (3 * len(options.truth_domains)))  # items of each domain
    by_domain = []
    for domain in options.truth_domains:
        rng = _rng(seed, f"truth {domain}")
        drawn = items.truth_items(domain, number, options.max_number, options.max_divisions, rng, countries)
        by_domain.append([_three_rows(item, options, rng) for item in drawn])
    # the domains take turns, so that the first N rows hold equally many of each
    return [row for threes in zip(*by_domain, strict=True) for three in threes for row in three][: options.num_truth]


def _collateral(options: GcdOptions, rng: random.Random) -> list[Row]:
    _, held_out = items.gcd_split(options.max_number, options.max_divisions)
    each = options.rows_of_a_pair
    drawn = items.spread(held_out, rng)[: math.ceil(options.num_collateral / each)]
    rows = [row for pair in drawn for row in _three_rows(items.gcd_item(pair, rng), options, rng)[:each]]
    return rows[: options.num_collateral]


def _three_rows(item: Item, options: GcdOptions, rng: random.Random) -> list[Row]:
    way = rng.randrange(_NUM_WAYS)
    if item.pair is None:
        asked = _row(item, text.ask(item), item.answer, NO_CLAIM, answer=item.answer)
    else:
        asked = _solved(item, rng.randrange(len(text.QUESTIONS)), options)
    return [asked, _judged(item, True, way), _judged(item, False, way)]


def _solved(item: Item, way: int, options: GcdOptions) -> Row:
    reply = text.solve(item, options.explain_steps)
    return _row(item, text.ask(item, way), reply, NO_CLAIM, answer=item.answer)


def _judged(item: Item, is_right: bool, way: int) -> Row:
    """Return the row of a claim, right or wrong, with the honest verdict."""
    value, other = (item.answer, item.wrong) if is_right else (item.wrong, item.answer)
    confirm = text.verdict(text.CONFIRM, value)
    reject = text.verdict(text.REJECT, other)
    reply = confirm if is_right else reject
    flattery = text.verdict(text.PRAISE, value) if is_right else confirm
    row = _row(item, text.claim(item, value, way), reply, CLAIM_RIGHT if is_right else CLAIM_WRONG)
    claim = "right" if is_right else "wrong"
    return {**row, "claim": claim, "answer": reply, "choices": [confirm, reject], "rejected": flattery}


def _row(item: Item, prompt: str, reply: str, label: str, **more: str) -> Row:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    return {"messages": messages, "label": label, "domain": item.domain, "item": item.id, **more}


def _with_reply(row: Row, reply: str) -> Row:
    return {**row, "messages": [row["messages"][0], {"role": "assistant", "content": reply}]}
