"""First-generation files that a search space names as its `base` and `overrides`, put into today's keys."""

from __future__ import annotations

from selgen_ray.errors import Problem
from selgen_ray.first_generation.convert import convert, convert_override, is_first_generation, nested_node
from selgen_ray.first_generation.differences import lost_differences
from selgen_ray.first_generation.record import Converted
from selgen_ray.syntax.keys import registered_keys
from selgen_ray.syntax.tree import Node, show

_SEEDS = ("data_seed", "model_seed", "seed")


def adopt(sections: dict[str, Node], notes: list[str]) -> list[Problem]:
    """Put the sections `base` and `overrides`, where they are files of the first generation, into today's keys.

    Args:
        sections: of one search space; changed in place.
        notes: what was done is added here.

    Returns:
        What cannot be done: overrides that differ in keys without a counterpart.
    """
    problems: list[Problem] = []
    keys = registered_keys()
    base, overrides = sections.get("base"), sections.get("overrides")
    is_old = base is not None and base.origin.included and is_first_generation(base, keys)
    done = Converted()
    if base and is_old:
        done = convert(base, keys)
        if "seeds" in sections:
            for key in [key for key in _SEEDS if key in done.values]:
                done.take_back(key, "`seeds` gives it")
        sections["base"] = nested_node(done.values | done.unknown, base.origin)
        notes += _told([done], base.origin.file)
    if overrides and overrides.origin.included and (is_old or is_first_generation(overrides, keys)):
        start = base if base and is_old else _strategy_alone(base, overrides)
        whole = done if is_old else convert(start, keys, defaults=False)
        made = [convert_override(whole, start, item, keys, is_old) for item in overrides.value]
        pairs = list(zip(made, overrides.value, strict=True))
        configs = [(one, item) for one, item in pairs if _is_config(item)]
        unknown = {key for part in (whole, *made) for key in part.unknown}  # the reader of the space refuses those
        items = [item for _, item in configs]
        problems = lost_differences(start, items, whole, [one for one, _ in configs], keys, unknown)
        items = [
            nested_node(one.values | one.unknown, item.origin) if _is_config(item) else item for one, item in pairs
        ]
        sections["overrides"] = Node(items, overrides.origin)
        notes += _told(made, overrides.origin.file)
    return problems


def _is_config(node: Node) -> bool:
    return isinstance(node.value, dict)


def _strategy_alone(base: Node | None, overrides: Node) -> Node:
    """Return the part of a base in today's keys that decides which knobs an override has: its strategy."""
    known = base.value if base and isinstance(base.value, dict) else {}
    return Node({key: known[key] for key in ("proxy_strategy",) if key in known}, overrides.origin)


def _told(parts: list[Converted], file: str) -> list[str]:
    """Describe what was changed in a file, in one line for each kind of change."""
    became, left_out, added = {}, {}, {}
    for part in parts:
        for record in part.records:
            if record.kind in ("renamed", "converted"):
                became[f"{record.key} is {record.to}"] = None
            elif record.kind == "dropped":
                left_out[record.key] = None
            elif record.kind == "default":
                added[f"{record.to} {show(part.values[record.key].plain())}"] = None
    lines = {
        "of the first generation": became,
        "left out, `python -m selgen_ray.import_config` says why": left_out,
        "not said, so as the first generation's defaults": added,
    }
    return [f"{file}: {text}: {', '.join(items)}" for text, items in lines.items() if items]
