"""An imported sweep as a YAML file for people."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from selgen_ray.first_generation.convert import nested_node
from selgen_ray.first_generation.folder import Imported
from selgen_ray.first_generation.record import Converted, Record
from selgen_ray.syntax.tree import Origin

_WIDTH = 112
_FOLDERS_UP = 2  # a path from further up is written in full


def to_yaml(made: Imported, target: Path) -> str:
    """Return the search space as YAML: renamed keys with their old names, the left-out keys and why at the top.

    Args:
        target: where it will be written; nearby data files get paths relative to its folder.
    """
    lines = [f"# Imported from {' and '.join(map(str, made.files))}, files of the first generation."]
    lines += [f"# See what it would run: python -m selgen_ray.sweep {target} --dry-run", "#"]
    if made.to_add:
        lines += ["# To add before it can run:", *_items(made.to_add), "#"]
    for title, kinds in (
        ("Left out, as it has no counterpart:", ("dropped", "unknown")),
        ("Left out, as it needs no saying:", ("void",)),
    ):
        if reasons := by_reason([record for record in made.records if record.kind in kinds]):
            lines += [f"# {title}", *_items([f"{', '.join(keys)}: {why}" for why, keys in reasons.items()]), "#"]
    lines = lines[:-1] if lines[-1] == "#" else lines
    lines += [f"name: {made.name}"]
    lines += ["base:", *_config(made.base, target, 1)]
    if made.seeds:
        lines.append(f"seeds: {made.seeds}")
    if made.overrides:
        lines.append("overrides:")
        for one in made.overrides:
            first, *others = _config(one, target, 2) or ["    {}"]
            lines += [f"  - {first.lstrip()}", *others]
    return "\n".join(lines) + "\n"


def by_reason(records: list[Record]) -> dict[str, list[str]]:
    """Return reason -> the keys that have it."""
    keys_by_reason: dict[str, list[str]] = {}
    for record in records:
        names = keys_by_reason.setdefault(record.why, [])
        if record.key not in names:
            names.append(record.key)
    return keys_by_reason


def _items(texts: list[str]) -> list[str]:
    wrapped = [textwrap.wrap(text, _WIDTH - 6, break_on_hyphens=False, break_long_words=False) for text in texts]
    return [f"#   {'- ' if i == 0 else '  '}{row}" for rows in wrapped for i, row in enumerate(rows)]


def _config(part: Converted, target: Path, depth: int) -> list[str]:
    """Return the lines of one config."""
    comments = {record.to: _comment(record) for record in part.records if record.to}
    plain = nested_node(part.values, Origin("")).plain()
    if "data" in plain:
        plain["data"] = {role: _relative(value, target) for role, value in plain["data"].items()}
    ordered = sorted(plain.items(), key=lambda item: isinstance(item[1], dict))  # sections last
    return list(_lines(dict(ordered), "", comments, depth))


def _comment(record: Record) -> str:
    if record.kind == "same":
        return record.why
    if record.kind == "default":
        return "the first generation's default" + (f": {record.why}" if record.why else "")
    old = record.key.rpartition(".")[2]
    return f"was {old}" + (f": {record.why}" if record.why else "")


def _lines(values: dict[str, Any], prefix: str, comments: Mapping[str, str], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, value in values.items():
        key = f"{prefix}{name}"
        comment = f"  # {comments[key]}" if comments.get(key) else ""
        if isinstance(value, dict):
            yield f"{indent}{name}:{comment}"
            yield from _lines(value, f"{key}.", comments, depth + 1)
        else:
            yield f"{indent}{_scalar(name)}: {_scalar(value)}{comment}"


def _scalar(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _relative(value: Any, target: Path) -> Any:
    """Make a data file's path relative to the YAML's folder if it is not far from there."""
    if isinstance(value, dict):
        return {key: _relative(item, target) if key == "path" else item for key, item in value.items()}
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    near = os.path.relpath(value, target.resolve().parent)
    return near if near.count("..") <= _FOLDERS_UP else value
