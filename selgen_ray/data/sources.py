"""Rows of a source: those that its filter keeps, with our names for their columns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from selgen_ray.config.source import Source
from selgen_ray.data.conversions import FormError, check_label, convert, is_chat
from selgen_ray.data.forms import READ
from selgen_ray.data.readers import Found, read_entries, with_lists
from selgen_ray.data.roles import Origin
from selgen_ray.data.training_prompts import Met, listed, meets
from selgen_ray.errors import DataError, nearest

_WORDS_OF_YAML = {"yes": True, "on": True, "no": False, "off": False}


def read_source(source: Source, role: str = "", data_seed: int = 0) -> list[Found]:
    """Read the entries that the source's filter keeps, in the order of the file, with our names for their columns.

    Entries that cannot be read are returned too, each with its problem.

    Args:
        role, data_seed: they decide which text a row draws, where the source's training prompt has several.

    Raises:
        DataError: there is no such file, folder, split or data set, or the whole of it cannot be read; or the training
            prompt's `where` meets no row; or YAML took a word of a column for true or false.
    """
    entries = []
    met = Met(source.training_prompt, role) if source.training_prompt else None
    for number, entry in enumerate(read_entries(source.path, source.split, source.revision)):
        if entry.row is None:
            entries.append(entry)
            continue
        _check_words(f"{source.path}, {entry.where}", entry.row, source)
        if problem := _column_problem({*entry.row, *entry.columns}, source):
            entries.append(Found(entry.where, None, problem))
        elif meets(entry.row, source.filter):
            origin = Origin(number, met.texts(entry.row, data_seed, number) if met else {})
            entries.append(replace(_convert_entry(entry, entry.row, source), origin=origin))
    if met and any(entry.row is not None for entry in entries):
        met.check()
    return entries


# what becomes of a row -------------------------------------------------------------------------------------------


def _asked(source: Source) -> dict[str, Any]:
    return source.filter | (source.training_prompt.where if source.training_prompt else {})


def _check_words(where: str, row: dict[str, Any], source: Source) -> None:
    """Raise DataError if a cell is a word such as 'no', and what is wanted is false, as YAML reads it."""
    for column, wanted in _asked(source).items():
        found = row.get(column)
        meant = _WORDS_OF_YAML.get(found.lower()) if isinstance(found, str) else None
        if meant is None or found in listed(wanted) or not any(value is meant for value in listed(wanted)):
            continue
        raise DataError(
            f"{where}: the column {column!r} has {found!r}, and {str(meant).lower()} is wanted of it, which YAML reads "
            f"for a bare {found}: write '{found}' in quotes"
        )


def _column_problem(columns: set[str], source: Source) -> str | None:
    asked = _asked(source)
    missing = [column for column in (*asked, *source.columns.values()) if column not in columns]
    if not missing or (missing[0] in asked and None in listed(asked[missing[0]])):
        return None
    return f"has no column {missing[0]!r}; found {', '.join(sorted(columns))}.{nearest(missing[0], columns)}"


def _convert_entry(entry: Found, row: dict[str, Any], source: Source) -> Found:
    renamed = set(source.columns.values())
    row = {ours: row[theirs] for ours, theirs in source.columns.items() if theirs in row} | {
        key: value for key, value in row.items() if key not in renamed and key not in source.columns
    }
    try:
        converted = convert(with_lists(row, is_table=entry.is_table), source.form)
        check_label(converted.row, source.columns.get("label", "label"), source.filter)
        row_with_system = _with_system(converted.row, source.system_prompt)
    except FormError as error:
        return Found(entry.where, None, str(error))
    unused = [key for key in row if (key in converted.dropped or key in converted.row.keys() - READ) and row[key]]
    unused = [key for key in unused if key not in source.filter]
    return Found(
        entry.where,
        row_with_system,
        unused=tuple(unused),
        remarks=tuple(converted.remarks),
    )


def _with_system(row: dict[str, Any], text: str | None) -> dict[str, Any]:
    """Return the row as a chat that begins with the system prompt, unless it has a system message already.

    Raises:
        FormError: a `text` row, which is no chat.
    """
    if text is None:
        return row
    if row.get("text") is not None and row.keys().isdisjoint(("messages", "prompt")):
        raise FormError("a row of plain 'text' takes no system_prompt: it does not say where a chat in it begins")
    if "messages" not in row and isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        turns = [("user", row["prompt"]), ("assistant", row["completion"])]
        row = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
        row["messages"] = [{"role": role, "content": content} for role, content in turns]
    messages = row.get("messages")
    if not is_chat(messages) or messages[0].get("role") == "system":
        return row
    return row | {"messages": [{"role": "system", "content": text}, *messages]}
