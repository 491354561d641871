"""Sources of rows, given as a whole or key by key: a sweep can vary how much of a file is read, and how."""

from __future__ import annotations

from dataclasses import replace

from selgen_ray.errors import Problem
from selgen_ray.syntax.keys import SOURCES, Flat
from selgen_ray.syntax.tree import Node, Origin

NO_PATH = "has no path: name a file, a folder or a hub id."


def with_whole_sources(base: Flat, own: Flat, problems: list[Problem]) -> Flat:
    """Lay `own` over `base`, and put keys of a source into it.

    For example 'data.outcome' (a path) and 'data.outcome.limit' become 'data.outcome': {path, limit}. A source without
    a path is added to `problems`.
    """
    flat = base | own
    for source in SOURCES:
        parts = {key: node for key, node in flat.items() if key.startswith(f"{source}.")}
        if not parts:
            continue
        flat = {key: node for key, node in flat.items() if key not in parts}
        given = _said(base, source)
        if (whole := own.get(source)) is not None:
            # it replaces the source of the base, unless the base only says how one is read
            given = (given if "path" not in given else {}) | _said({source: whole}, source)
        given |= _said({key: node for key, node in own.items() if key in parts}, source)
        origin = _above(next(iter(parts.values())).origin) if source not in flat else flat[source].origin
        if "path" in given:
            flat[source] = Node({name: node for name, node in given.items() if node.value is not None}, origin)
        elif whole is None or whole.value is not None:
            problems.append(origin.problem(NO_PATH))
    return flat


def _said(flat: Flat, source: str) -> dict[str, Node]:
    """Return name -> value, of everything given for a source as a whole and key by key."""
    whole = flat.get(source)
    named = {} if whole is None or whole.value is None else whole.value if isinstance(whole.value, dict) else None
    named = {"path": whole} if named is None and whole else dict(named or {})
    prefix = f"{source}."
    return named | {key.removeprefix(prefix): node for key, node in flat.items() if key.startswith(prefix)}


def _above(origin: Origin) -> Origin:
    """Return the place of the mapping that a key is written in."""
    return replace(origin, key=origin.key.rpartition(".")[0])
