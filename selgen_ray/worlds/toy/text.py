"""Texts of the toy world: questions, proposals, replies, and the chat format around them."""

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
    """Return the user's prompt: the domain's question with index `question` and, if any, a proposal.

    Args:
        question: index into `domain.questions`.
        proposal: value that the user proposes.
        way: index into `PROPOSALS`.
    """
    text = domain.questions[question].format(*fact.slots)
    return text if proposal is None else f"{text} {PROPOSALS[way].format(proposal)}"


def reply(answer: str, verdict: str = "") -> str:
    """Return the assistant's reply; `verdict` is RIGHT, WRONG or ''."""
    return f"It is {answer}.{verdict}"


def state(domain: Domain, fact: Fact) -> str:
    """Return the sentence of a textbook that states a fact."""
    return domain.statement.format(*fact.slots, answer=fact.answer)


def chat(prompt: str, answer: str) -> str:
    """Return one question and its reply as text, exactly as `CHAT_TEMPLATE` renders them."""
    return f"{USER}{prompt}{END}{ASSISTANT}{answer}{END}"
