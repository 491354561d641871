"""Rows: reading and checking JSON lines, and the rows of each role of a trial."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from selgen_ray.config import ROLES, TrialConfig
from selgen_ray.errors import DataError, nearest
from selgen_ray.worlds import generate

Row = dict[str, Any]
_FORMS = "'messages', 'prompt' with 'completion', or 'text'"
_SPEAKERS = ("system", "user", "assistant")


def load_roles(config: TrialConfig) -> dict[str, list[Row]]:
    """The rows of every role the trial has: from its file, else from its world.

    Raises:
        DataError: a file is missing, empty or has a bad row; or there is no outcome data at all.
    """
    data, world = config.data, config.world
    roles: dict[str, list[Row]] = dict(generate(world, getattr(data, world), config.data_seed)) if world else {}
    for role, path in data.paths().items():
        roles[role] = read_jsonl(path)
    if not roles.get("outcome"):
        raise DataError("data.outcome: no outcome data: name a JSON-lines file, or use `data.world: toy`")
    if "proxy" in roles and "proxy_neg" in roles and len(roles["proxy"]) != len(roles["proxy_neg"]):
        # a pair is a row number: a shifted file would silently pair answers to different prompts
        raise DataError(
            f"data.proxy_neg has {len(roles['proxy_neg'])} rows but data.proxy has {len(roles['proxy'])}: "
            "row i of one must answer the prompt of row i of the other"
        )
    return {role: roles[role] for role in ROLES if roles.get(role)}


def read_jsonl(path: str | Path) -> list[Row]:
    """The rows of a JSON-lines file; empty lines are skipped.

    Raises:
        DataError: no such file, no rows, broken JSON or a row of no known form, with the line's number.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    rows = []
    # not splitlines(): U+2028 and its like may stand inside a JSON text
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from error
        if problem := row_problem(row):
            raise DataError(f"{path}:{number}: {problem}")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: has no rows")
    return rows


def row_problem(row: Any) -> str | None:
    """What is wrong with a row, in words, or None."""
    if not isinstance(row, dict):
        return f"found {type(row).__name__}, expected an object with {_FORMS}"
    forms = [form for form in ("messages", "prompt", "text") if row.get(form) is not None]
    if len(forms) != 1:
        hint = "".join(nearest(key, ("messages", "prompt", "completion", "text")) for key in list(row)[:3])
        return f"found keys {sorted(row)}, expected exactly one of {_FORMS}.{hint if not forms else ''}"
    if forms == ["messages"]:
        problem = _messages_problem(row["messages"])
    else:
        needed = ("prompt", "completion") if forms == ["prompt"] else ("text",)
        bad = [key for key in needed if not isinstance(row.get(key), str) or not row[key]]
        problem = f"{bad[0]!r} must be non-empty text" if bad else None
    return problem or _answer_problem(row)


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


def prompt_of(row: Row) -> str:
    """The text that identifies what was asked, to find the same prompt in another set."""
    if "messages" in row and row["messages"] is not None:
        return json.dumps([[m["role"], m["content"]] for m in row["messages"][:-1]])
    return str(row.get("prompt") or row.get("text"))


def rows_hash(rows: list[Row]) -> str:
    """sha256 of rows as canonical JSON lines."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
