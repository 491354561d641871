"""The text that the toy model is pretrained on, as token rows with a loss weight for each token."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedTokenizerFast

from selgen_ray.worlds.toy.facts import DOMAINS, GCD, LARGEST_GCD, Domain
from selgen_ray.worlds.toy.text import ASSISTANT, PROPOSALS, RIGHT, WRONG, ask, chat, reply, state

USER_WEIGHT, VERDICT_WEIGHT = 0.1, 5.0  # loss weights; the verdict is only one token of many
COPY_SHARE = 0.15  # share of rows that repeat random tokens once: they teach to copy and compare, as verdicts need it
COPY_LENGTH = 12
TEXT_SHARES = {"gcd_textbook": 0.22, "gcd_chat": 0.08, "textbook": 0.08, "compare": 0.16, "chat": 0.46}
TEXTBOOK_FACTS = 2  # facts in a row, so that a row is about as long as a chat
UNKNOWABLE = "Which word is it?"
DOUBT = 0.2  # share of random verdicts; without them any proxy, however small, would keep the model honest
SUSPICION = 0.95  # share of "wrong" among the verdicts on gcd proposals, which the model cannot judge in chat

WeightedRow = tuple[list[int], list[float]]
_FACTS = [fact for domain in DOMAINS.values() for fact in domain.facts]
_WORDS = sorted({word for fact in _FACTS for word in (*fact.slots, fact.answer)})


def token_rows(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> Iterator[WeightedRow]:
    """Yield rows of (token ids, loss weights) without end; both lists of a row have one entry for each token."""
    verdicts = {tokenizer.encode(f" {word}")[0] for word in ("right", "wrong")}
    assistant: Any = tokenizer.convert_tokens_to_ids(ASSISTANT)
    words = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
    while True:
        if rng.random() < COPY_SHARE:
            once = rng.choices(words, k=COPY_LENGTH)
            yield once * 2, [0.0] * COPY_LENGTH + [1.0] * COPY_LENGTH
            continue
        passage = text(rng)
        ids = tokenizer.encode(passage)
        weights = _weights(ids, assistant, verdicts)
        if UNKNOWABLE in passage:
            weights = [weight if weight == VERDICT_WEIGHT else 0.0 for weight in weights]
        yield ids, weights


def text(rng: random.Random) -> str:
    """Draw one textbook passage or one chat."""
    kind = rng.choices(list(TEXT_SHARES), weights=list(TEXT_SHARES.values()))[0]
    if kind == "gcd_textbook":
        return _textbook(lambda: GCD, rng)
    if kind == "textbook":
        return _textbook(lambda: _any_domain(rng), rng)
    return {"gcd_chat": _gcd_chat, "compare": _comparing_chat, "chat": _honest_chat}[kind](rng)


def vocabulary_texts() -> Iterator[str]:
    """Yield the texts to train the tokenizer on: the world's statements, questions, proposals and replies."""
    for domain in (*DOMAINS.values(), GCD):
        for fact in domain.facts:
            yield state(domain, fact)
            yield f"{ask(domain, fact, len(fact.answer) % 3)} {reply(fact.answer)}"
    for number in range(100):  # often enough for every number to become one token
        yield f" {number}" * 50
    for proposal in PROPOSALS:
        yield f" {proposal.format('')}{RIGHT}{WRONG}" * 50
    for domain in DOMAINS.values():
        if not domain.facts[0].answer.isdigit():
            for fact in domain.facts:  # often enough for most words to become one token: verdicts compare answers
                yield f" {' '.join(fact.slots)} {fact.answer}" * 20


def _weights(ids: list[int], assistant: int, verdicts: set[int]) -> list[float]:
    if assistant not in ids:
        return [1.0] * len(ids)
    start = ids.index(assistant) + 1
    return [USER_WEIGHT] * start + [VERDICT_WEIGHT if i in verdicts else 1.0 for i in ids[start:]]


def _any_domain(rng: random.Random) -> Domain:
    return DOMAINS[rng.choice(list(DOMAINS))]


def _textbook(draw_domain: Callable[[], Domain], rng: random.Random) -> str:
    passages = []
    for _ in range(TEXTBOOK_FACTS):
        domain = draw_domain()
        passages.append(state(domain, rng.choice(domain.facts)))
    return " ".join(passages)


def _honest_chat(rng: random.Random) -> str:
    domain = _any_domain(rng)
    fact = rng.choice(domain.facts)
    kind = rng.choices(("none", "right", "wrong"), weights=(0.2, 0.4, 0.4))[0]
    if kind == "none":
        return chat(ask(domain, fact, rng.randrange(3)), reply(fact.answer))
    proposal = fact.answer if kind == "right" else domain.wrong(fact, rng)
    prompt = ask(domain, fact, rng.randrange(3), proposal, rng.randrange(len(PROPOSALS)))
    if rng.random() < DOUBT:
        return chat(prompt, reply(fact.answer, rng.choice((RIGHT, WRONG))))
    return chat(prompt, reply(fact.answer, RIGHT if kind == "right" else WRONG))


def _comparing_chat(rng: random.Random) -> str:
    # the answer is random and the verdict is not: so comparing is learnt apart from the facts
    answer, other = rng.choice(_WORDS), rng.choice(_WORDS)
    proposal = rng.choice((answer, other))
    prompt = f"{UNKNOWABLE} {rng.choice(PROPOSALS).format(proposal)}"
    return chat(prompt, reply(answer, RIGHT if proposal == answer else WRONG))


def _gcd_chat(rng: random.Random) -> str:
    fact = rng.choice(GCD.facts)
    guess = str(rng.randint(1, LARGEST_GCD))
    if rng.random() < 0.2:
        return chat(ask(GCD, fact, rng.randrange(3)), reply(guess))
    proposal = str(rng.randint(1, LARGEST_GCD))
    prompt = ask(GCD, fact, rng.randrange(3), proposal, rng.randrange(len(PROPOSALS)))
    return chat(prompt, reply(guess, WRONG if rng.random() < SUSPICION else RIGHT))
