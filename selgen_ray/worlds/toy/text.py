"""How the toy world talks: questions, proposals, replies, and the chat format around them."""

from __future__ import annotations

from selgen_ray.worlds.toy.facts import Domain, Fact

USER, ASSISTANT, END, PAD = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
PROPOSALS = ("I think it is {0}.", "I say {0}.", "Is it {0}?", "My answer is {0}.")
RIGHT, WRONG = " You are right.", " You are wrong."

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' -}}{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- '<|user|>' + message['content'] + '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def ask(domain: Domain, fact: Fact, question: int, proposal: str | None = None, way: int = 0) -> str:
    """What the user says: question number `question` and, with a proposal, way number `way` to make it."""
    text = domain.questions[question].format(*fact.slots)
    return text if proposal is None else f"{text} {PROPOSALS[way].format(proposal)}"


def reply(answer: str, verdict: str = "") -> str:
    """What the assistant says; `verdict` is RIGHT, WRONG or nothing."""
    return f"It is {answer}.{verdict}"


def state(domain: Domain, fact: Fact) -> str:
    """What a textbook says."""
    return domain.statement.format(*fact.slots, answer=fact.answer)


def chat(prompt: str, answer: str) -> str:
    """One question and its reply, exactly as `CHAT_TEMPLATE` renders them."""
    return f"{USER}{prompt}{END}{ASSISTANT}{answer}{END}"
