"""Where rows come from, said as a whole or key by key: a sweep can vary how much of a file is read, and how."""

from __future__ import annotations

from dataclasses import replace

from selgen_ray.errors import Problem
from selgen_ray.syntax.keys import SOURCES, Flat
from selgen_ray.syntax.tree import Node, Origin

NO_PATH = "has no path: name a file, a folder or a hub id."


def with_whole_sources(base: Flat, own: Flat, problems: list[Problem]) -> Flat:
    """`own` over `base`, with what is said of a source key by key, 'data.outcome.limit', put into the source."""
    flat = base | own
    for source in SOURCES:
        parts = {key: node for key, node in flat.items() if key.startswith(f"{source}.")}
        if not parts:
            continue
        flat = {key: node for key, node in flat.items() if key not in parts}
        given = _said(base, source)
        if (whole := own.get(source)) is not None:
            # another source, unless the base only says how one is read
            given = (given if "path" not in given else {}) | _said({source: whole}, source)
        given |= _said({key: node for key, node in own.items() if key in parts}, source)
        origin = _above(next(iter(parts.values())).origin) if source not in flat else flat[source].origin
        if "path" in given:
            flat[source] = Node({name: node for name, node in given.items() if node.value is not None}, origin)
        elif whole is None or whole.value is not None:
            problems.append(origin.problem(NO_PATH))
    return flat


def _said(flat: Flat, source: str) -> dict[str, Node]:
    """Name -> value of what is said of a source, as a whole and key by key."""
    whole = flat.get(source)
    found = {} if whole is None or whole.value is None else whole.value if isinstance(whole.value, dict) else None
    found = {"path": whole} if found is None and whole else dict(found or {})
    prefix = f"{source}."
    return found | {key.removeprefix(prefix): node for key, node in flat.items() if key.startswith(prefix)}


def _above(origin: Origin) -> Origin:
    """The mapping that a key is written in."""
    return replace(origin, key=origin.key.rpartition(".")[0])
