"""Notes of a plan on rows and their tokens: formats that differ, text that is lost, pairs with nothing to prefer."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from selgen_ray.data.chat_format import render
from selgen_ray.data.chats import format_of
from selgen_ray.data.encode import encode_row, replace_reply
from selgen_ray.data.forms import Row
from selgen_ray.data.roles import Roles
from selgen_ray.errors import DataError

_MESSAGES = {"system": "system messages", "user": "messages of the user", "assistant": "replies"}
_SHOWN = 40  # characters of a message, as an example
_KINDS = {"messages": "chats", "prompt": "strings", "text": "plain texts"}


def format_notes(roles: Roles, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield a note where strings bypass the chat template, and one if the roles differ in format."""
    kinds = {role: _kinds(rows) for role, rows in roles.items()}
    for role in (role for role, role_kinds in kinds.items() if "prompt" in role_kinds and role in roles.places):
        if tokenizer.chat_template:
            yield (
                f"data.{role}: 'prompt' and 'completion' are strings: they are joined as they are, without the model's "
                "chat template, and nothing stands between them; "
                f"data.{role}: {{path: ..., form: chat}} makes chats of them"
            )
    if len({kind for role_kinds in kinds.values() for kind in role_kinds}) > 1:
        listed = ", ".join(
            f"data.{role} {' and '.join(_KINDS[kind] for kind in role_kinds)}" for role, role_kinds in kinds.items()
        )
        yield f"the roles differ in format, so the model is trained and tested in several: {listed}"


def _kinds(rows: Sequence[Row]) -> list[str]:
    return [kind for kind in _KINDS if any(row.get(kind) is not None for row in rows)]


def template_notes(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, name: str, place: Callable[[int], str]
) -> Iterator[str]:
    """Yield a note for each speaker of whose messages the chat template leaves something out.

    White space is not compared, since templates strip it and write some of their own.

    Args:
        name: the role, for people.
        place: number of a row, from 0 -> where a person finds it.

    Raises:
        DataError: the template writes nothing of the replies, or refuses a row.
    """
    chats = {number: row["messages"] for number, row in enumerate(rows) if row.get("messages") is not None}
    if not chats:
        return
    how = format_of(tokenizer)
    first, messages = next(iter(chats.items()))
    others = [m | {"content": m["content"] + "x"} if m["role"] == "assistant" else m for m in messages]
    if render(messages, tokenizer, how)[0] == render(others, tokenizer, how)[0]:
        raise DataError(
            f"{name}, {place(first)}: the chat template writes nothing of the replies, whatever they are, so that "
            "nothing but their end would be learned: is a variable in it misspelt? A message has role and content"
        )
    count: Counter[str] = Counter()
    lost: dict[str, list[tuple[int, str]]] = {}
    for number, messages in chats.items():
        text = _without_space(render(messages, tokenizer, how)[0])
        for message in messages:
            count[message["role"]] += 1
            if _without_space(message["content"]) not in text:
                lost.setdefault(message["role"], []).append((number, message["content"]))
    for speaker, examples in lost.items():
        number, content = examples[0]
        example = repr(content) if len(content) <= _SHOWN else f"{content[:_SHOWN]!r}..."
        yield (
            f"{name}: of {len(examples):,} of {count[speaker]:,} {_MESSAGES[speaker]} the chat template leaves out all "
            f"or a part, which the model never sees, first {place(number)}: {example}; finetune_config.chat_template "
            "takes a template that writes it"
        )


def _without_space(text: str) -> str:
    return "".join(text.split())


def cut_replies(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_seq_length: int, longest_row: float
) -> list[int]:
    """Return the numbers of the rows whose `rejected`, or longest one of `choices`, is cut at `max_seq_length`.

    Args:
        longest_row: tokens of the longest row, with its own reply.
    """
    numbers: list[int] = []
    for number, row in enumerate(rows):
        others = [*(row.get("choices") or ()), *filter(None, [row.get("rejected")])]
        longest = max(others, key=len, default="")
        # a token stands for at least one byte
        if longest and longest_row + len(longest.encode()) > max_seq_length:
            with contextlib.suppress(DataError):  # the encoding of all rows reports it
                if len(encode_row(replace_reply(row, longest), tokenizer, "completion")) > max_seq_length:
                    numbers.append(number)
    return numbers


def pair_notes(
    roles: Roles, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, loss_on: str, truncated: Sequence[str]
) -> Iterator[str]:
    """Yield a note on pairs of a good and a bad reply that are alike after the cut.

    Args:
        truncated: roles with rows longer than `max_seq_length`; the cut makes no pair of the other roles alike.
    """

    def is_alike(good: Row, bad: Row) -> bool:
        try:
            a, b = (encode_row(row, tokenizer, loss_on).ids for row in (good, bad))
        except DataError:
            return False  # the encoding of all rows reports it
        return a[:max_seq_length] == b[:max_seq_length]

    pairs = {"data.proxy and data.proxy_neg": ("proxy", roles.get("proxy", []), roles.get("proxy_neg", []))}
    for role, rows in roles.items():
        rejecting = [row for row in rows if row.get("rejected") is not None]
        if len(rejecting) == len(rows) and not (role == "proxy" and roles.get("proxy_neg")):
            rejected_rows = [replace_reply(row, row["rejected"]) for row in rows]
            pairs[f"data.{role}, its replies and 'rejected',"] = (role, rows, rejected_rows)
    for name, (role, good, bad) in pairs.items():
        if len(good) != len(bad) or not good or not {role, "proxy_neg" if role == "proxy" else role} & {*truncated}:
            continue
        alike = [i for i, pair in enumerate(zip(good, bad, strict=True)) if is_alike(*pair)]
        if alike:
            yield (
                f"{name}: {len(alike)} of {len(good)} pairs are alike after the cut at max_seq_length "
                f"{max_seq_length}, first {roles.place(role)(alike[0])}: they prefer nothing"
            )
