"""Rows of a source: those that its filter keeps, with our names for their columns."""

from __future__ import annotations

import json
from typing import Any

from selgen_ray.config.source import Source
from selgen_ray.data.conversions import FormError, check_label, convert, is_chat
from selgen_ray.data.forms import READ
from selgen_ray.data.readers import Found, cell, read_entries
from selgen_ray.errors import nearest


def read_source(source: Source) -> list[Found]:
    """Read the entries that the source's filter keeps, in the order of the file, with our names for their columns.

    Entries that cannot be read are returned too, each with its problem.

    Raises:
        DataError: there is no such file, folder, split or data set, or the whole of it cannot be read.
    """
    entries = []
    for entry in read_entries(source.path, source.split, source.revision):
        if entry.row is None:
            entries.append(entry)
        elif problem := _column_problem(entry.row, source):
            entries.append(Found(entry.where, None, problem))
        elif _is_kept(entry.row, source):
            entries.append(_convert_entry(entry, entry.row, source))
    return entries


# what becomes of a row -------------------------------------------------------------------------------------------


def _column_problem(row: dict[str, Any], source: Source) -> str | None:
    missing = [c for c in (*source.filter, *source.columns.values()) if c not in row]
    if not missing or (missing[0] in source.filter and None in _listed(source.filter[missing[0]])):
        return None
    return f"has no column {missing[0]!r}; found {', '.join(sorted(row))}.{nearest(missing[0], row)}"


def _is_kept(row: dict[str, Any], source: Source) -> bool:
    return all(_is_one_of(row.get(column), allowed_values) for column, allowed_values in source.filter.items())


def _is_one_of(value: Any, wanted: Any) -> bool:
    # the cells of a CSV file are texts
    texts = {str(allowed) for allowed in _listed(wanted) if allowed is not None}
    return value in _listed(wanted) or (isinstance(value, str) and value in texts)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _convert_entry(entry: Found, row: dict[str, Any], source: Source) -> Found:
    renamed = set(source.columns.values())
    row = {ours: row[theirs] for ours, theirs in source.columns.items()} | {
        key: value for key, value in row.items() if key not in renamed and key not in source.columns
    }
    try:
        converted = convert(_cells(row), source.form)
        check_label(converted.row, source.columns.get("label", "label"), source.filter)
    except FormError as error:
        return Found(entry.where, None, str(error))
    unused = [key for key in row if (key in converted.dropped or key in converted.row.keys() - READ) and row[key]]
    unused = [key for key in unused if key not in source.filter]
    return Found(
        entry.where,
        _with_system(converted.row, source.system_prompt),
        unused=tuple(unused),
        remarks=tuple(converted.remarks),
    )


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    try:
        return {key: cell(key, value) for key, value in row.items()}
    except json.JSONDecodeError:
        return row


def _with_system(row: dict[str, Any], text: str | None) -> dict[str, Any]:
    """Return the row as a chat that begins with the system prompt, unless it has a system message already."""
    if text is None:
        return row
    if "messages" not in row and isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        turns = [("user", row["prompt"]), ("assistant", row["completion"])]
        row = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
        row["messages"] = [{"role": role, "content": content} for role, content in turns]
    messages = row.get("messages")
    if not is_chat(messages) or messages[0].get("role") == "system":
        return row
    return row | {"messages": [{"role": "system", "content": text}, *messages]}
