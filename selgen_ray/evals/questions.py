"""Question of a row as plain text, for a judge and for people."""

from __future__ import annotations

from selgen_ray.data.forms import Row

_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


def question_of(row: Row) -> str:
    """Return the text of a row's prompt; '' for a `text` row.

    A single message is returned as it is; several are joined in lines, each with its speaker: 'User: ...'.
    """
    if row.get("messages") is None:
        return str(row.get("prompt") or "")
    before = row["messages"][:-1]
    if len(before) == 1:
        return before[0]["content"]
    return "\n".join(f"{_SPEAKERS.get(m['role'], m['role'])}: {m['content']}" for m in before)


def is_question(row: Row) -> bool:
    """Return whether the row has a prompt that can be replied to; a `text` row has none."""
    return bool(question_of(row))
