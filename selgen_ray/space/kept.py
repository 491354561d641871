"""A search space as the sweep's folder keeps it: one file that needs no other, and can be read anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from selgen_ray.config.chat_template import is_template
from selgen_ray.errors import Problem, SpecError
from selgen_ray.space.document import read_space
from selgen_ray.space.mappings import MODELS
from selgen_ray.storage import Folder
from selgen_ray.syntax.keys import SOURCES, names_a_file, registered_keys
from selgen_ray.syntax.paths import where_it_is
from selgen_ray.syntax.tree import Node

FILE = "space.yaml"
_INHERITED = ("name", "base", "seeds", "plugins", "resources")
_AXES = ("grid", "zip")
_UNDER_BASE = ("base", "grid", "zip", "strategies", "overrides", "controls", "exclude")


def kept_text(path: Path) -> bytes:
    """The very file where it stands alone, else one with all that it extends, includes and names by a relative path.

    `extends: below.yaml` becomes what below.yaml says; `data.outcome: rows.jsonl` becomes an absolute path.

    Raises:
        SpecError: the file, or one that it extends, cannot be read.
    """
    problems: list[Problem] = []
    tree = read_space(path, problems, [])
    if tree is None or problems:
        raise SpecError(problems)
    files = list(dict.fromkeys([str(path), *(node.origin.file for node in _leaves(tree))]))
    if len(files) == 1 and _with_absolute_paths(tree).plain() == tree.plain():
        return path.read_bytes()
    head = f"{path.name}, with all that it extends and includes ({', '.join(files)}) and absolute paths"
    return written_out(tree, head)


def written_out(tree: Node, head: str) -> bytes:
    """Return a search space that is read already as a file that stands alone, with absolute paths.

    Args:
        head: a line of comment.
    """
    whole = _with_absolute_paths(tree)
    return (f"# {head}\n" + yaml.safe_dump(whole.plain(), sort_keys=False, allow_unicode=True, width=120)).encode()


def read_kept(sweep: Folder) -> Node:
    """The search space that a sweep's folder keeps. Raises SpecError: there is none, or it cannot be read."""
    try:
        content = sweep.read(FILE)
    except FileNotFoundError:
        raise SpecError(
            [Problem(f"{sweep}/{FILE}", None, "", "is not there: no run of this sweep has begun.")]
        ) from None
    problems: list[Problem] = []
    here = sweep.local_path
    with tempfile.TemporaryDirectory() as folder:
        file = here / FILE if here else Path(folder) / FILE
        if not here:
            file.write_bytes(content)
        tree = read_space(file, problems, [])
    if tree is None or problems:
        raise SpecError(problems)
    if "name" not in tree.value:
        name = Node(sweep.name, tree.origin)
        tree = Node({"name": name, **tree.value}, tree.origin)
    return _as_included(tree)


def inherited(kept: Node) -> Node:
    """The sections that trials which are added to a sweep have from it: all that names no trials."""
    return Node({key: kept.value[key] for key in _INHERITED if key in kept.value}, kept.origin)


def axes_of(kept: Node) -> Node:
    """The sections that multiply all strategies of a sweep: its `grid` and `zip`, those of single strategies aside."""
    return Node({key: kept.value[key] for key in _AXES if key in kept.value}, kept.origin)


def _as_included(node: Node) -> Node:
    """The node as if another file named it: what of it no trial uses is no error."""
    value = node.value
    if isinstance(value, dict):
        value = {key: _as_included(child) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_as_included(child) for child in value]
    return Node(value, replace(node.origin, included=True))


def _leaves(node: Node) -> Iterator[Node]:
    if isinstance(node.value, dict | list):
        for child in node.value.values() if isinstance(node.value, dict) else node.value:
            yield from _leaves(child)
    else:
        yield node


def _with_absolute_paths(tree: Node) -> Node:
    known = {*SOURCES, *(f"{key}.path" for key in SOURCES), *MODELS}
    known |= {key for key, info in registered_keys().known.items() if names_a_file(info)}
    ends = tuple(f".{key}" for key in known)

    def absolute(node: Node, key: str) -> Node:
        value = node.value
        if isinstance(value, dict):
            return Node({part: absolute(child, f"{key}.{part}") for part, child in value.items()}, node.origin)
        if isinstance(value, list):
            return Node([absolute(child, key) for child in value], node.origin)
        is_path = key == "plugins" or (key.partition(".")[0] in _UNDER_BASE and key.endswith(ends))
        if not is_path or not isinstance(value, str) or is_template(value) or value == "toy":
            return node
        return Node(where_it_is(node) or value, node.origin)

    return Node({key: absolute(child, key) for key, child in tree.value.items()}, tree.origin)
