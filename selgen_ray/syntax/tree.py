"""Reading YAML and JSON into nodes that remember the file, line and key they were written at."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from selgen_ray.errors import Problem, nearest

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser reads 10,000 overrides in a second
_TAG = "tag:yaml.org,2002:"
_Pairs = dict[str, tuple[yaml.Node, yaml.Node]]
_MARKER = re.compile(r"(<<<<<<<|=======|>>>>>>>|\|\|\|\|\|\|\|)(\s|$)")
_SHOWN = 20  # characters of what could not be parsed
_DEEPEST = 100  # levels
_INDENT = re.compile(r"^[ \t?:-]+", re.MULTILINE)  # each level of a block takes a column of it at least
_NUMBERS = {f"{_TAG}int", f"{_TAG}float"}
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_FROM_ALIASES = 100_000  # values that anchors and aliases may add to those that are written out


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written.

    Attributes:
        file: as the user named it.
        line: 1-based, of the key; None for a whole file.
        key: dotted path inside the file.
        included: the file was named by `base` or `overrides`; it is not a search space itself.
    """

    file: str
    line: int | None = None
    key: str = ""
    included: bool = False

    def problem(self, message: str) -> Problem:
        """Return a problem at this place."""
        return Problem(self.file, self.line, self.key, message)


@dataclass(frozen=True, slots=True)
class Node:
    """A scalar, a dict of nodes or a list of nodes, and where it was written."""

    value: Any
    origin: Origin

    def problem(self, message: str) -> Problem:
        """Return a problem with this value."""
        return self.origin.problem(message)

    def plain(self) -> Any:
        """Return the value without origins."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value


def written(value: Any, origin: Origin) -> Node:
    """Return a plain value as a node, as if it had been written at `origin`."""
    if isinstance(value, dict):
        return Node({key: written(item, origin) for key, item in value.items()}, origin)
    return Node([written(item, origin) for item in value] if isinstance(value, list) else value, origin)


def show(value: Any) -> str:
    """Format a value for a message: at most 80 characters, in YAML's words (null, true, false)."""
    if isinstance(value, dict):
        return "a mapping (" + ", ".join(list(map(str, value))[:3]) + ("..." if len(value) > 3 else "") + ")"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str | int | float | list) else f"{value} ({type(value).__name__})"
    return text if len(text) <= 80 else text[:77] + "..."


def merge(below: Node, above: Node) -> Node:
    """Lay `above` over `below`: dicts merge deeply, everything else replaces."""
    if not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, above.origin)


def names_in(folder: Path) -> list[str]:
    """Return the names of the files and folders in a folder, [] if it cannot be read."""
    with contextlib.suppress(OSError):
        return [path.name for path in folder.iterdir()]
    return []


def read_tree(path: Path, problems: list[Problem], included: bool = False) -> Node | None:
    """Read a YAML or (by suffix) JSON file, with dotted keys unfolded: `a.b: 1` becomes `a: {b: 1}`.

    Returns:
        None, and a message in `problems`, if the file cannot be read or parsed.
    """
    root = Origin(str(path), included=included)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 text ({error})"
        near = [name for name in names_in(path.parent) if name != path.name]
        problems.append(root.problem(f"cannot be read: {reason}.{nearest(path.name, near)}"))
        return None
    return read_text(text, root, problems, is_json=path.suffix == ".json")


def read_text(text: str, root: Origin, problems: list[Problem], is_json: bool = False) -> Node | None:
    """Read a text of YAML or JSON that was written at `root`; see `read_tree`."""
    try:
        return _compose(text, root, is_json, problems)
    except json.JSONDecodeError as error:
        problems.append(json_problem(root, text, error))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        start = f" ({error.context} in line {error.context_mark.line + 1})" if error.context_mark else ""
        problems.append(_broken(root, text, line, column, f"{error.problem}{start}"))
    except yaml.YAMLError as error:  # characters that YAML forbids: no mark
        problems.append(root.problem(f"is not YAML: {' '.join(str(error).split())}"))
    except _TooLarge:
        message = f"has aliases (*name) that stand for more than {_FROM_ALIASES:,} values: write out what is meant"
        problems.append(root.problem(f"{message}."))
    except RecursionError:
        problems.append(root.problem("is nested too deeply: does an anchor contain itself?"))
    return None


def tree_of(content: Any, problems: list[Problem], name: str = "") -> Node:
    """Return plain content (dicts, lists, texts, numbers) as nodes, with dotted keys unfolded as in a file.

    Its places have keys and no lines. Paths and numbers of NumPy are taken as texts and numbers.

    Args:
        content: a search space as YAML would give it.
        problems: gets a message for each value that no YAML file could hold; such a value is left out.
        name: what messages call the content in place of a file.
    """
    root = Origin(name)
    dumper = yaml.SafeDumper(io.StringIO(), sort_keys=False)
    dumper.ignore_aliases = lambda data: True
    constructor = yaml.SafeLoader("")
    source = dumper.represent_data(_as_yaml_has_it(content, root, problems))
    # a value that contains itself is met before
    node = _Builder(constructor.construct_object, problems, sys.maxsize).node(source, root)
    return node or Node({}, root)


def _as_yaml_has_it(value: Any, place: Origin, problems: list[Problem], depth: int = 0) -> Any:
    """Return a value with tuples as lists, paths as texts and NumPy's numbers as Python's; None where it is none."""
    if depth > _DEEPEST:
        problems.append(place.problem(f"is nested too deeply, in more than {_DEEPEST} levels: does it contain itself?"))
        return None
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, item in cast(Mapping[Any, Any], value).items():
            if not isinstance(key, str):
                problems.append(place.problem(f"found the key {key!r} ({type(key).__name__}); keys are text."))
                continue
            inner = Origin(place.file, None, f"{place.key}.{key}".lstrip("."))
            found[key] = _as_yaml_has_it(item, inner, problems, depth + 1)
        return found
    if isinstance(value, list | tuple):
        return [
            _as_yaml_has_it(item, Origin(place.file, None, f"{place.key}[{i}]"), problems, depth + 1)
            for i, item in enumerate(cast(Sequence[Any], value))
        ]
    if isinstance(value, os.PathLike):
        return os.fspath(cast(os.PathLike[str], value))
    if not isinstance(value, str | bool | int | float) and callable(number := getattr(value, "item", None)):
        value = number()
    if value is None or type(value) in (str, bool, int, float):
        return value
    for kind in (str, int, float):  # such as an enum's member, or numpy.float64
        if isinstance(value, kind):
            return kind(value)
    allowed = "what YAML can hold (dicts, lists, text, numbers, true, false, null)"
    problems.append(place.problem(f"found {show(value)}; allowed: {allowed}."))
    return None


def _compose(text: str, root: Origin, is_json: bool, problems: list[Problem]) -> Node | None:
    if is_json:
        json.loads(text)  # the strict grammar; YAML's parser, which accepts more, then adds the lines
    if _depth(text) > _DEEPEST:
        problems.append(root.problem(f"is nested too deeply: in more than {_DEEPEST} levels."))
        return None
    loader = _LOADER(text.replace("\t", " ") if is_json else text)
    top = loader.get_single_node()
    if top is None:
        problems.append(root.problem("is empty."))
        return None

    def scalar(node: yaml.ScalarNode) -> Any:
        if is_json:  # YAML would read 1e-5 as text
            return json.loads(text[node.start_mark.index : node.end_mark.index])
        value = loader.construct_object(node)
        if node.tag in _NUMBERS and (":" in node.value or _OCTAL.fullmatch(node.value)):
            raise ValueError(_otherwise_read(node.value, value))
        return value

    # without aliases a text has fewer values than characters
    return _Builder(scalar, problems, len(text) + _FROM_ALIASES).node(top, root)


def _otherwise_read(text: str, value: float) -> str:
    """Return the message for a number that YAML 1.1 reads in base 8 or 60, as nobody means it today."""
    if ":" in text:
        return f"found {text}, which YAML takes for {value}, in base 60; write {value}, or as text {text!r}, in quotes"
    decimal = int(text.replace("_", ""))
    written = f"{decimal}" if decimal == value else f"{decimal}, or {value} if that is meant"
    return f"found {text}, which YAML takes for {value}, in base 8; write {written}, or as text {text!r}, in quotes"


def _depth(text: str) -> int:
    """Return how deeply a text of YAML is nested, or a bound on it; the C parser's recursion ends the process."""
    bound = text.count("[") + text.count("{") + max(map(len, _INDENT.findall(text)), default=0)
    if bound <= _DEEPEST:
        return bound
    depth = deepest = 0
    with contextlib.suppress(yaml.YAMLError):  # it is reported when the text is read
        for event in yaml.parse(text, Loader=_LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            deepest = max(deepest, depth)
            if deepest > _DEEPEST:
                break
    return deepest


def json_problem(root: Origin, text: str, error: json.JSONDecodeError) -> Problem:
    """Return the problem of a text that is not JSON: where it breaks, what stands there, and a likely cause."""
    return _broken(root, text, error.lineno, error.colno, error.msg)


def _broken(root: Origin, text: str, line: int, column: int, what: str) -> Problem:
    lines = text.splitlines() or [""]
    line = min(line, len(lines))  # a bracket that is never closed is reported after the last line
    here = lines[line - 1]
    before = "\n".join([*lines[: line - 1], here[: column - 1]]).rstrip()
    after = here[column - 1 :].strip()
    excerpt = f", found {show(after[:_SHOWN])}" if after and root.file.endswith(".json") else ""
    hint = ""
    if markers := [number for number, one in enumerate(lines, 1) if _MARKER.match(one)]:
        listed = ", ".join(f"{lines[number - 1].split()[0]} in line {number}" for number in markers[:3])
        hint = f" The file has merge conflict markers of git ({listed}): keep one of the two versions."
    elif "\t" in here[: len(here) - len(here.lstrip())]:
        hint = " The line is indented with a tab; use spaces."
    elif root.file.endswith(".json") and (before.endswith(",") or "trailing comma" in what):
        number, end = (line, column) if "trailing comma" in what else _end(before)
        hint = f" A comma must not come before a closing bracket: it is in line {number}, column {end}."
    return Problem(root.file, line, "", f"cannot be parsed, column {column}: {what}{excerpt}.{hint}")


def _end(text: str) -> tuple[int, int]:
    """Return line and column of the last character."""
    lines = text.splitlines()
    return len(lines), len(lines[-1])


class _TooLarge(Exception):
    """Raised where aliases, each used several times by another, stand for more values than memory could hold."""


@dataclass
class _Builder:
    scalar: Callable[[yaml.ScalarNode], Any]
    problems: list[Problem]
    left: int

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _TooLarge

    def node(self, source: yaml.Node, origin: Origin) -> Node | None:
        """Return the node with everything in it; None, and a problem, if it cannot be read."""
        self.count()
        if isinstance(source, yaml.MappingNode) and source.tag == f"{_TAG}map":
            return Node(self.mapping(source, origin), origin)
        if isinstance(source, yaml.SequenceNode) and source.tag == f"{_TAG}seq":
            places = [_at(origin, item, f"{origin.key}[{i}]") for i, item in enumerate(source.value)]
            items = [self.node(item, place) for item, place in zip(source.value, places, strict=True)]
            return Node([item for item in items if item], origin)
        try:
            if not isinstance(source, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem=f"the tag {source.tag!r} is not allowed")
            return Node(self.scalar(source), origin)
        except (ValueError, yaml.MarkedYAMLError) as error:
            reason = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
            self.problems.append(_at(origin, source, origin.key).problem(f"cannot be read: {reason}."))
            return None

    def mapping(self, source: yaml.MappingNode, origin: Origin) -> dict[str, Node]:
        """Return the mapping with `a.b: 1` unfolded to `a: {b: 1}`; keys of its own override those that `<<` brings."""
        inherited, direct = self.pairs(source, origin)
        inherited = {key: pair for key, pair in inherited.items() if key not in direct}
        below, above = (self.unfold(pairs, origin) for pairs in (inherited, direct))
        return merge(Node(below, origin), Node(above, origin)).value

    def pairs(self, source: yaml.MappingNode, origin: Origin) -> tuple[_Pairs, _Pairs]:
        inherited: _Pairs = {}
        direct: _Pairs = {}
        for key_node, value in source.value:
            self.count()
            if key_node.tag == f"{_TAG}merge":
                for other in reversed(value.value if isinstance(value, yaml.SequenceNode) else [value]):
                    if isinstance(other, yaml.MappingNode):
                        theirs, its_direct = self.pairs(other, origin)
                        inherited |= theirs | its_direct
                    else:
                        self.problems.append(_at(origin, other, origin.key).problem("<< takes a mapping."))
                continue
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "(a list or mapping)"
            place = _at(origin, key_node, origin.key)
            if key_node.tag != f"{_TAG}str":
                self.problems.append(place.problem(f"found the key {key}; keys are text: quote it."))
            elif not all(key.split(".")):
                self.problems.append(place.problem(f"found the key {key!r}; a dot stands between two names."))
            elif key in direct:
                first = direct[key][0].start_mark.line + 1
                self.problems.append(place.problem(f"the key {key!r} is given twice, first in line {first}."))
            else:
                direct[key] = key_node, value
        return inherited, direct

    def unfold(self, pairs: dict[str, tuple[yaml.Node, yaml.Node]], origin: Origin) -> dict[str, Node]:
        root: dict[str, Node] = {}
        for key, (key_node, value) in pairs.items():
            place = _at(origin, key_node, f"{origin.key}.{key}".lstrip("."))
            node = self.node(value, place)
            if node is None:
                continue
            first, *inner_keys = key.split(".")
            for part in reversed(inner_keys):
                place = Origin(place.file, place.line, place.key.removesuffix(f".{part}"), place.included)
                node = Node({part: node}, place)
            self.join(root, first, node)
        return root

    def join(self, into: dict[str, Node], key: str, node: Node) -> None:
        """Add `key`, which may be present already: nested in one place and dotted in another."""
        old = into.setdefault(key, node)
        if old is node:
            return
        if isinstance(old.value, dict) and isinstance(node.value, dict):
            into[key] = old = Node(dict(old.value), old.origin)
            for part, inner in node.value.items():
                self.join(old.value, part, inner)
        else:
            first = f", first in line {old.origin.line}" if old.origin.line else ""
            message = f"is given twice{first}"
            self.problems.append(node.problem(f"{message}: {show(old.plain())} and {show(node.plain())}."))


def _at(origin: Origin, source: yaml.Node, key: str) -> Origin:
    line = source.start_mark.line + 1 if source.start_mark else None
    return Origin(origin.file, line, key, origin.included)
