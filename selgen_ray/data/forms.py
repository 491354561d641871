"""The forms that a row may have, and the check that it has one of them."""

from __future__ import annotations

import json
import string
from typing import Any

from selgen_ray.errors import nearest

Row = dict[str, Any]
LETTERS = string.ascii_uppercase
"""Letters by which options are named, the first one 'A'."""
RIGHT, WRONG = "right", "wrong"
"""Values of `claim`."""
_FORMS = "'messages', 'prompt' with 'completion', or 'text'"
_OTHERS = (
    "conversations, instruction with output, question with answer, or chosen with rejected are read too; other names: "
    "columns: {prompt: <column>, completion: <column>}"
)
_SPEAKERS = ("system", "user", "assistant")
READ = frozenset(
    ("messages", "prompt", "completion", "text", "rejected", "answer", "choices", "options", "label", "claim", "item")
)
"""Fields of a row that are read: those that are trained on, and those that the metrics look at."""


def row_problem(row: Any) -> str | None:
    """Return what is wrong with a row, in words; None if nothing is."""
    if not isinstance(row, dict):
        return f"found {type(row).__name__}, expected an object with {_FORMS}"
    forms = [form for form in ("messages", "prompt", "text") if row.get(form) is not None]
    if len(forms) != 1:
        hint = "".join(nearest(key, ("messages", "prompt", "completion", "text")) for key in list(row)[:3])
        others = f" ({_OTHERS})" if not forms and not hint else ""
        return f"found keys {sorted(row)}, expected exactly one of {_FORMS}{others}.{hint if not forms else ''}"
    if forms == ["messages"]:
        problem = _messages_problem(row["messages"])
    else:
        needed = ("prompt", "completion") if forms == ["prompt"] else ("text",)
        bad = [key for key in needed if not isinstance(row.get(key), str) or not row[key].strip()]
        problem = f"{bad[0]!r} must be non-empty text" if bad else None
    return problem or _answer_problem(row) or _options_problem(row) or _claim_problem(row) or _rejected_problem(row)


def _messages_problem(messages: Any) -> str | None:
    if not isinstance(messages, list) or not messages:
        return "'messages' must be a non-empty list of {role, content}"
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return f"messages[{i}] must be an object with 'role' and a text 'content'"
        if message.get("role") not in _SPEAKERS:
            return f"messages[{i}].role is {message.get('role')!r}, allowed: {', '.join(_SPEAKERS)}"
    if messages[-1]["role"] != "assistant":
        return "the last message must be the assistant's: there is no reply to learn"
    empty = [i for i, m in enumerate(messages) if m["role"] == "assistant" and not m["content"].strip()]
    return f"messages[{empty[0]}] is an empty reply: there is nothing to learn" if empty else None


def _answer_problem(row: Row) -> str | None:
    """Return what a metric could not do with `answer` or `choices`, in words; None if there is nothing."""
    choices, answer = row.get("choices"), row.get("answer")
    compared = [key for key in ("answer", "choices", "options", "claim") if row.get(key)]
    if row.get("text") is not None and compared:
        return f"{compared[0]!r} needs 'messages' or 'prompt': a 'text' row has no reply to compare"
    if answer is not None and (not isinstance(answer, str | int | float) or answer != answer):
        return f"'answer' must be text or a number, found {answer!r}"
    if choices is None:
        return None
    if not _are_texts(choices):
        return "'choices' must be a list of at least two texts"
    if len({*choices}) < 2:
        return f"'choices' are all alike, {choices[0]!r}: there is nothing to choose"
    return None if answer in choices else f"'answer' {answer!r} is not one of 'choices'{_counted(answer)}"


def _options_problem(row: Row) -> str | None:
    options, answer = row.get("options"), row.get("answer")
    if not options:
        return None
    if not _are_texts(options) or len({*options}) < len(options) or len(options) > len(LETTERS):
        return (
            f"'options' must be 2 to {len(LETTERS)} different texts, in a list or by letter, {{'A': ..., 'B': ...}}, "
            f"found {options!r}"
        )
    if answer not in options:
        return f"'answer' {answer!r} is not one of 'options'{_counted(answer)}"
    if row.get("messages") is not None and [m["role"] for m in row["messages"][-2:-1]] != ["user"]:
        return "'options' need a user's message before the reply: they are asked behind it"
    return None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 2 and all(isinstance(text, str) and text for text in value)


def _counted(answer: Any) -> str:
    is_number = isinstance(answer, int) and not isinstance(answer, bool)
    return ": a number is the place of one, from 0" if is_number else ""


def _claim_problem(row: Row) -> str | None:
    claim = row.get("claim")
    if claim is None:
        return None
    if claim not in (RIGHT, WRONG):
        return (
            f"'claim' must be {RIGHT!r} or {WRONG!r}, found {claim!r}: a column that means something else needs "
            "another name, columns: {my_claim: claim}"
        )
    return "'claim' needs an 'item', the id of what it is about" if row.get("item") is None else None


def _rejected_problem(row: Row) -> str | None:
    rejected = row.get("rejected")
    if rejected is None:
        return None
    if not isinstance(rejected, str) or not rejected.strip():
        return "'rejected' must be non-empty text: the misaligned reply"
    return "'rejected' is the row's own reply: there is nothing to prefer" if rejected == reply_of(row) else None


def prompt_of(row: Row, *, system: bool = True) -> str:
    """Return a text that identifies the prompt, to find the same prompt in another set.

    Args:
        system: prompts that differ in their system message alone are different ones.
    """
    if "messages" in row and row["messages"] is not None:
        return json.dumps([[m["role"], m["content"]] for m in row["messages"][:-1] if system or m["role"] != "system"])
    return str(row.get("prompt") or row.get("text"))


def reply_of(row: Row) -> str:
    """Return the text of a row's final reply; of a `text` row, the whole text."""
    messages = row.get("messages")
    return str(messages[-1]["content"] if messages else row.get("completion") or row.get("text"))
