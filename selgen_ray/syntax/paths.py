"""Lookup of files and folders that a search space names: beside the naming file, or in the current directory."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from selgen_ray.config.hub_names import is_dataset_id
from selgen_ray.errors import Problem, nearest
from selgen_ray.syntax.tree import Node, names_in, show

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([^}]*)\})")


def expanded(node: Node, problems: list[Problem]) -> Node | None:
    """Replace $NAME and ${NAME} in a path or URI by the environment's values; None, and a problem, where one is unset.

    An empty variable counts as unset: a path would silently begin at the root of the file system.
    """
    if not isinstance(node.value, str):
        return node
    before = len(problems)

    def value_of(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            message = f"found {show(node.value)}, but the environment variable {name} is not set."
            problems.append(node.problem(message + nearest(name, os.environ)))
        return os.environ.get(name, "")

    text = _VARIABLE.sub(value_of, node.value)
    return Node(text, node.origin) if len(problems) == before else None


def find_path(node: Node, problems: list[Problem], folder: bool = False) -> Path | None:
    """Find the file or folder that a node names: beside the file it is written in, or in the current directory.

    Args:
        problems: gets a message if there is none; the result then is None.
        folder: look for a folder, not for a file.
    """
    if not isinstance(node.value, str) or not node.value:
        problems.append(node.problem(f"found {show(node.value)}; allowed: the path of a {_kind(folder)}."))
        return None
    if (known := expanded(node, problems)) is None:
        return None
    node = known
    typed, places = _places(node)
    for place in reversed(places):
        if is_there(place, folder):
            return places[place]
    near = {name for place in places for name in names_in(place.parent)}
    tried = " and ".join(map(str, reversed(places)))
    message = f"found {node.value!r}, but there is no such {_kind(folder)}; tried {tried}."
    problems.append(node.problem(message + nearest(typed.name, near - {typed.name})))
    return None


def find_data(node: Node, problems: list[Problem]) -> str | None:
    """Return the absolute path of the file or folder that a node names, or an unchanged data set id of the hub.

    None, and a message in `problems`, if it is none of these.
    """
    if (known := expanded(node, problems)) is None:
        return None
    node = known
    _, places = _places(node)
    for place in reversed(places):
        if is_there(place) or is_there(place, True):
            return str(places[place].resolve())
    if is_dataset_id(node.value):
        return node.value
    find_path(node, problems)
    return None


def where_it_is(node: Node) -> str | None:
    """The absolute path of the file or folder that a node names, links kept; None where there is none."""
    if not isinstance(node.value, str) or not node.value or (known := expanded(node, [])) is None:
        return None
    _, places = _places(known)
    return next((str(place) for place in reversed(places) if is_there(place) or is_there(place, True)), None)


def _places(node: Node) -> tuple[Path, dict[Path, Path]]:
    """Return the typed path, and absolute -> relative path of each place it may mean, the first choice last."""
    typed = Path(node.value)
    with contextlib.suppress(RuntimeError):  # ~name of a user that does not exist
        typed = typed.expanduser()
    return typed, {Path.cwd() / start / typed: start / typed for start in (Path(), Path(node.origin.file).parent)}


def near_name(path: Path) -> str:
    """Return " Did you mean 'x'?" with the nearest name in the folder of a missing path, or ''."""
    return nearest(path.name, names_in(path.parent))


def is_there(path: Path, folder: bool = False) -> bool:
    """Return whether a path is a file (or folder) that can be reached."""
    with contextlib.suppress(OSError):  # no permission, a name that is too long
        return path.is_dir() if folder else path.is_file()
    return False


def _kind(folder: bool) -> str:
    return "folder" if folder else "file"
