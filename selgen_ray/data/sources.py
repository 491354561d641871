"""Where the rows of a role come from, and which of them, under which names."""

from __future__ import annotations

import json
from typing import Any, TypeGuard

from selgen_ray.config.source import Source
from selgen_ray.data.readers import Found, cell, read_entries
from selgen_ray.errors import nearest


def read_source(source: Source) -> list[Found]:
    """The entries that the filter keeps, in the order of the file, with our names for their columns.

    Raises:
        DataError: there is no such file, folder, split or data set, or the whole of it cannot be read.
    """
    found = []
    for entry in read_entries(source.path, source.split, source.revision):
        if entry.row is None:
            found.append(entry)
        elif problem := _lacks(entry.row, source):
            found.append(Found(entry.where, None, problem))
        elif _is_kept(entry.row, source):
            found.append(Found(entry.where, _formed(entry.row, source)))
    return found


# what becomes of a row -------------------------------------------------------------------------------------------


def _lacks(row: dict[str, Any], source: Source) -> str | None:
    missing = [c for c in (*source.filter, *source.columns.values()) if c not in row]
    if not missing or (missing[0] in source.filter and None in _listed(source.filter[missing[0]])):
        return None
    return f"has no column {missing[0]!r}; found {', '.join(sorted(row))}.{nearest(missing[0], row)}"


def _is_kept(row: dict[str, Any], source: Source) -> bool:
    return all(_is_one_of(row.get(column), wanted) for column, wanted in source.filter.items())


def _is_one_of(value: Any, wanted: Any) -> bool:
    # the cells of a CSV file are texts
    texts = {str(one) for one in _listed(wanted) if one is not None}
    return value in _listed(wanted) or (isinstance(value, str) and value in texts)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _formed(row: dict[str, Any], source: Source) -> dict[str, Any]:
    taken = set(source.columns.values())
    row = {ours: row[theirs] for ours, theirs in source.columns.items()} | {
        key: value for key, value in row.items() if key not in taken and key not in source.columns
    }
    row = _cells(row)
    return _with_system(_preference(row), source.system_prompt)


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    try:
        return {key: cell(key, value) for key, value in row.items()}
    except json.JSONDecodeError:
        return row


def _preference(row: dict[str, Any]) -> dict[str, Any]:
    """A row of TRL's preference form, {prompt, chosen, rejected}, as one of ours: rejected is the reply's text."""
    if "chosen" not in row or row.keys() & {"completion", "messages", "text"}:
        return row
    chosen, rejected, prompt = row["chosen"], row.get("rejected"), row.get("prompt")
    rest = {key: value for key, value in row.items() if key not in ("chosen", "rejected", "prompt")}
    if _is_chat(rejected):
        rejected = rejected[-1]["content"]
    rest |= {"rejected": rejected} if rejected is not None else {}
    if _is_chat(chosen):
        before = prompt if _is_chat(prompt) else [{"role": "user", "content": prompt}] if prompt else []
        whole = chosen if chosen[0].get("role") != "assistant" else [*before, *chosen]
        return rest | {"messages": whole}
    if _is_chat(prompt):
        return rest | {"messages": [*prompt, {"role": "assistant", "content": chosen}]}
    return rest | {"prompt": prompt, "completion": chosen}


def _is_chat(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "content" in m for m in value)


def _with_system(row: dict[str, Any], text: str | None) -> dict[str, Any]:
    """The row as a chat after the system prompt; one that has a system message of its own keeps that."""
    if text is None:
        return row
    if "messages" not in row and isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        turns = [("user", row["prompt"]), ("assistant", row["completion"])]
        row = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
        row["messages"] = [{"role": role, "content": content} for role, content in turns]
    messages = row.get("messages")
    if not _is_chat(messages) or messages[0].get("role") == "system":
        return row
    return row | {"messages": [{"role": "system", "content": text}, *messages]}
