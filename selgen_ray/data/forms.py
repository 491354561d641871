"""The forms that a row may have, and the check that it has one of them."""

from __future__ import annotations

import json
from typing import Any

from selgen_ray.errors import nearest

Row = dict[str, Any]
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
        bad = [key for key in needed if not isinstance(row.get(key), str) or not row[key]]
        problem = f"{bad[0]!r} must be non-empty text" if bad else None
    return problem or _answer_problem(row) or _rejected_problem(row)


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
    return None


def _answer_problem(row: Row) -> str | None:
    choices = row.get("choices")
    if row.get("text") is not None and (choices or row.get("answer")) is not None:
        return "'answer' and 'choices' need 'messages' or 'prompt': a 'text' row has no reply to compare"
    if choices is None:
        return None
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        return "'choices' must be a list of at least two texts"
    if row.get("answer") not in choices:
        return f"'answer' {row.get('answer')!r} is not one of 'choices'"
    return None


def _rejected_problem(row: Row) -> str | None:
    rejected = row.get("rejected")
    if rejected is None:
        return None
    if not isinstance(rejected, str) or not rejected:
        return "'rejected' must be non-empty text: the misaligned reply"
    return "'rejected' is the row's own reply: there is nothing to prefer" if rejected == reply_of(row) else None


def prompt_of(row: Row) -> str:
    """Return a text that identifies the prompt, to find the same prompt in another set."""
    if "messages" in row and row["messages"] is not None:
        return json.dumps([[m["role"], m["content"]] for m in row["messages"][:-1]])
    return str(row.get("prompt") or row.get("text"))


def reply_of(row: Row) -> str:
    """Return the text of a row's final reply; of a `text` row, the whole text."""
    messages = row.get("messages")
    return str(messages[-1]["content"] if messages else row.get("completion") or row.get("text"))
