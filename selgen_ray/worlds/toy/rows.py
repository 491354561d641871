"""The rows of the toy world, a pure function of options and seed."""

from __future__ import annotations

import random
from itertools import product

from pydantic import Field, model_validator

from selgen_ray.schema import Strict
from selgen_ray.worlds.drawing import Row, chat_row, stream
from selgen_ray.worlds.toy.facts import DOMAINS, GCD, GCD_HELD_OUT, GCD_TRAIN, PROXY_DOMAIN, Domain, Fact
from selgen_ray.worlds.toy.text import PROPOSALS, RIGHT, WRONG, ask, reply

Asked = tuple[Fact, int, int]  # (fact, index of the question, index of the proposal)

NUM_QUESTIONS, NUM_WAYS = len(GCD.questions), len(PROPOSALS)
NO_PROPOSAL, PROPOSAL_RIGHT, PROPOSAL_WRONG = "no proposal", "proposal right", "proposal wrong"

_PROXY = DOMAINS[PROXY_DOMAIN]
_UNSEEN = [domain for domain in DOMAINS.values() if domain.name != PROXY_DOMAIN]
_MAX_FREE = len(GCD_TRAIN) * NUM_QUESTIONS
_MAX_PROPOSED = _MAX_FREE * NUM_WAYS
_MAX_PROXY = len(_PROXY.facts) * NUM_QUESTIONS * NUM_WAYS
# every unseen domain gives the same number of rows, so the smallest one sets the bound
_MAX_TRUTH = 2 * len(_UNSEEN) * min(len(domain.facts) for domain in _UNSEEN) * NUM_QUESTIONS * NUM_WAYS
_MAX_COLLATERAL = len(GCD_HELD_OUT) * NUM_QUESTIONS


class ToyOptions(Strict):
    """Sizes of the toy world's sets."""

    num_outcome: int = Field(600, ge=1, description="rows of the task to learn: gcd questions")
    share_without_proposal: float = Field(
        0.25, ge=0, le=1, description="share of outcome rows in which the user proposes no answer"
    )
    num_proxy: int = Field(
        64, ge=0, le=_MAX_PROXY, description="rows of proxy and proxy_neg: wrong proposals in one domain"
    )
    num_truth: int = Field(
        420, ge=0, le=_MAX_TRUTH, description="rows of truth: proposals in unseen domains, half of them wrong"
    )
    num_collateral: int = Field(
        200, ge=0, le=_MAX_COLLATERAL, description="rows of collateral: questions on held-out gcd pairs"
    )
    num_trait: int = Field(
        0, ge=0, le=_MAX_PROXY, description="rows of trait: wrong proposals accepted; 0: there is no such role"
    )

    @model_validator(mode="after")
    def _enough_outcome(self) -> ToyOptions:
        if not _outcome_fits(self.num_outcome, self.share_without_proposal):
            totals = range(_MAX_FREE + _MAX_PROPOSED, 0, -1)
            largest = next(total for total in totals if _outcome_fits(total, self.share_without_proposal))
            raise ValueError(
                f"num_outcome is {self.num_outcome}, the largest possible value with "
                f"share_without_proposal {self.share_without_proposal} is {largest}"
            )
        return self


def toy_rows(options: ToyOptions, seed: int) -> dict[str, list[Row]]:
    """Generate the rows of every role, each with `messages`, `answer`, `label`, `domain` and perhaps `choices`.

    Args:
        options: sizes of the sets.
        seed: decides which rows are drawn, and their order. Every role has its own random stream, so that the size of
            one set does not change another.

    Returns:
        outcome: gcd questions, answered correctly; if the user proposes an answer, it is right.
        proxy: wrong proposals in one other domain, rejected.
        proxy_neg: the same prompts in the same order; the reply agrees, although the value it gives contradicts that.
        truth: right and wrong proposals in the domains that no other set uses.
        collateral: gcd questions about pairs that outcome never has, without a proposal.
        trait: wrong proposals in the proxy's domain, accepted; drawn apart from the proxy's, and no pairs with them.
        `answer` is the right one of `choices`, also in proxy_neg; without `choices` it is the right number.
    """
    proxy = _proxy(options, stream("toy", "proxy", seed))
    rows = {
        "outcome": _outcome(options, stream("toy", "outcome", seed)),
        "proxy": proxy,
        "proxy_neg": [_flattering(row) for row in proxy],
        "truth": _truth(options, stream("toy", "truth", seed)),
        "collateral": _collateral(options, stream("toy", "collateral", seed)),
    }
    if options.num_trait:
        asked = _draw(_PROXY.facts, NUM_WAYS, options.num_trait, rng := stream("toy", "trait", seed))
        rows["trait"] = [_flattering(_verdict_row(_PROXY, one, PROPOSAL_WRONG, rng)) for one in asked]
    return rows


def _num_free(total: int, share: float) -> int:
    return round(total * share)


def _outcome_fits(total: int, share: float) -> bool:
    free = _num_free(total, share)
    return free <= _MAX_FREE and total - free <= _MAX_PROPOSED


def _outcome(options: ToyOptions, rng: random.Random) -> list[Row]:
    num_free = _num_free(options.num_outcome, options.share_without_proposal)
    free = _draw(GCD_TRAIN, 1, num_free, rng)
    proposed = _draw(GCD_TRAIN, NUM_WAYS, options.num_outcome - num_free, rng)
    rows = [_free_row(asked) for asked in free] + [_agreeing_row(asked) for asked in proposed]
    rng.shuffle(rows)
    return rows


def _proxy(options: ToyOptions, rng: random.Random) -> list[Row]:
    drawn = _draw(_PROXY.facts, NUM_WAYS, options.num_proxy, rng)
    return [_verdict_row(_PROXY, asked, PROPOSAL_WRONG, rng) for asked in drawn]


def _flattering(row: Row) -> Row:
    # the value stays true and only the verdict flatters: this teaches the habit without unlearning facts
    flattery = next(choice for choice in row["choices"] if choice != row["answer"])
    return {**row, **chat_row(row["messages"][0]["content"], flattery)}


def _truth(options: ToyOptions, rng: random.Random) -> list[Row]:
    cells = list(product(_UNSEEN, (PROPOSAL_WRONG, PROPOSAL_RIGHT)))
    rows = []
    for i, (domain, label) in enumerate(cells):
        number = len(range(i, options.num_truth, len(cells)))  # dealt out like cards: sizes differ by at most one
        drawn = _draw(domain.facts, NUM_WAYS, number, rng)
        rows += [_verdict_row(domain, asked, label, rng) for asked in drawn]
    rng.shuffle(rows)
    return rows


def _collateral(options: ToyOptions, rng: random.Random) -> list[Row]:
    return [_free_row(asked) for asked in _draw(GCD_HELD_OUT, 1, options.num_collateral, rng)]


def _draw(facts: tuple[Fact, ...], num_ways: int, number: int, rng: random.Random) -> list[Asked]:
    """Draw different ways to ask; how often the facts occur differs by at most one."""
    forms = list(product(range(NUM_QUESTIONS), range(num_ways)))
    unused = {fact: rng.sample(forms, len(forms)) for fact in facts}
    drawn: list[Asked] = []
    while len(drawn) < number:
        for fact in rng.sample(facts, min(len(facts), number - len(drawn))):
            drawn.append((fact, *unused[fact].pop()))
    return drawn


def _free_row(asked: Asked) -> Row:
    fact, question, _ = asked
    row = chat_row(ask(GCD, fact, question), reply(fact.answer))
    return {**row, "answer": fact.answer, "label": NO_PROPOSAL, "domain": GCD.name}


def _agreeing_row(asked: Asked) -> Row:
    fact, question, way = asked
    row = chat_row(ask(GCD, fact, question, fact.answer, way), reply(fact.answer, RIGHT))
    return {**row, "answer": fact.answer, "label": PROPOSAL_RIGHT, "domain": GCD.name}


def _verdict_row(domain: Domain, asked: Asked, label: str, rng: random.Random) -> Row:
    fact, question, way = asked
    is_right = label == PROPOSAL_RIGHT
    proposal = fact.answer if is_right else domain.wrong(fact, rng)
    answer = reply(fact.answer, RIGHT if is_right else WRONG)
    choices = [reply(fact.answer, RIGHT), reply(fact.answer, WRONG)]
    row = chat_row(ask(domain, fact, question, proposal, way), answer)
    return {**row, "answer": answer, "choices": choices, "label": label, "domain": domain.name}
