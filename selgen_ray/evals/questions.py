"""A row's question as plain text, for a judge and for people."""

from __future__ import annotations

from selgen_ray.data.forms import Row

_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


def question_of(row: Row) -> str:
    """What was asked: the user's message, or where there are more, all before the reply, each with its speaker."""
    if row.get("messages") is None:
        return str(row.get("prompt") or "")
    before = row["messages"][:-1]
    if len(before) == 1:
        return before[0]["content"]
    return "\n".join(f"{_SPEAKERS.get(m['role'], m['role'])}: {m['content']}" for m in before)


def is_question(row: Row) -> bool:
    """Whether the row has a prompt that can be replied to; a `text` row has none."""
    return bool(question_of(row))
