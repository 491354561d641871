"""One mapping of a search space: its keys known, its paths absolute, its strategy names canonical."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from selgen_ray.config.chat_template import is_template
from selgen_ray.config.source import Source
from selgen_ray.errors import Problem, nearest
from selgen_ray.space.source_parts import NO_PATH
from selgen_ray.storage.folder import absolute
from selgen_ray.syntax.keys import SOURCES, Flat, Keys, coerce, explain, is_stray_bool, names_a_file, refused
from selgen_ray.syntax.paths import expanded, find, find_data, is_there
from selgen_ray.syntax.tree import Node, show
from selgen_ray.trainers import catalogue

MODELS = {f"finetune_config.{key}" for key in ("model", "adapter", "safe_lora_base_model")}
_OUTPUT = "finetune_config.output_dir"


def is_a(kind: type, node: Node, problems: list[Problem]) -> bool:
    """Whether a node is a dict or list, as `kind` says; if not, that is a problem."""
    if isinstance(node.value, kind):
        return True
    wanted = "a mapping of keys" if kind is dict else "a list"
    found = "a list" if isinstance(node.value, list) else show(node.value)
    problems.append(node.problem(f"found {found}; allowed: {wanted}."))
    return False


@dataclass
class Mappings:
    """Reads mappings of config values.

    Attributes:
        keys: the config keys there are.
        problems: what is wrong is added here, and left out of what the methods return.
        incomplete: a strategy or the base is missing, so conclusions from what is there would mislead.
        workers: what resources.workers says.
    """

    keys: Keys
    problems: list[Problem]
    incomplete: bool = False
    workers: Any = 1

    def entries(self, node: Node, keys: Keys, prefix: str = "") -> Flat:
        """Dotted key -> node, of the keys that `keys` knows; the others are reported, with the nearest."""
        found: Flat = {}
        for part, child in node.value.items():
            key = f"{prefix}{part}"
            if key in keys.sections:
                if child.value is not None and is_a(dict, child, self.problems):
                    found |= self.entries(child, keys, f"{key}.")
            elif key in SOURCES and key in keys.known and _is_part_of_a_source(child):
                found |= self.parts(child, key)
            elif key in keys.known or key in keys.aliases:
                found[key] = child
            else:
                outside = keys is not self.keys and self.keys.nearest(key)  # a config key belongs in the base
                told = keys.unknown(
                    key,
                    prefix=child.origin.key.removesuffix(key),
                    otherwise=f"base.{outside}" if outside else "",
                )
                self.problems.append(child.problem(told))
        return found

    def flat(self, node: Node) -> Flat:
        """The config values in a mapping, checked one by one; null counts as an empty mapping."""
        checked = {key: self.value(key, child) for key, child in self.config_entries(node).items()}
        return {key: child for key, child in checked.items() if child}

    def config(self, node: Node) -> Flat:
        """The same of a mapping that may name a strategy, with what that name says of other keys."""
        named = node.value.get("proxy_strategy") if isinstance(node.value, dict) else None
        return self.with_implied(named.value, self.flat(node), named) if named else self.flat(node)

    def with_implied(self, name: Any, flat: Flat, node: Node) -> Flat:
        """`flat` with the keys that another name of a strategy says; another value of one of them is reported."""
        for key, value in catalogue.implied(str(name)).items():
            given = flat.get(key)
            if given and given.value not in (None, value):
                told = f"found {show(given.value)}, but the strategy {name} says {show(value)}: leave one of them out."
                self.problems.append(given.problem(told))
            flat = flat | {key: Node(value, node.origin)}
        return flat

    def config_entries(self, node: Node) -> Flat:
        """The same with the values as they are written."""
        if node.value is None or not is_a(dict, node, self.problems):
            return {}
        found = self.entries(node, self.keys)
        for name, key in self.keys.aliases.items():
            if name in found:
                other = found.pop(name)
                same = found.setdefault(key, other)
                if same.value is None:  # the default, or what the other name says
                    found[key] = other
                elif other.value is not None and other.plain() != same.plain():
                    told = f"found {show(other.plain())}, but `{key}` is {show(same.plain())}: they are the same."
                    self.problems.append(other.problem(told))
        return found

    def value(self, key: str, node: Node) -> Node | None:
        """A value, its path made absolute, its strategy name made canonical; None where it cannot be used."""
        value, info = node.plain(), self.keys.known[key]
        if not self.fits(info, node):
            return None
        if key == "num_workers":
            return self.num_workers(node)
        if key == "proxy_strategy":
            name = self.strategy(info.default if value is None else value, node)
            return Node(name, node.origin) if name else None
        if key in SOURCES and value is not None:
            return self.source(node)
        if key in self.keys.parts:
            return self.part(key, node)
        if not isinstance(value, str):
            return node
        may_be_a_path = key in (*MODELS, _OUTPUT) or names_a_file(info)
        if may_be_a_path and not is_template(value):
            if (known := expanded(node, self.problems)) is None:
                return None
            node, value = known, known.value
        if key in MODELS and _is_path(node):
            path = find(node, self.problems, folder=True)
            return Node(str(path.resolve()), node.origin) if path else node
        is_path = value and names_a_file(info) and not is_template(value)
        return Node(_absolute(node), node.origin) if is_path else node

    def source(self, node: Node) -> Node | None:
        """Where rows come from: its path absolute, or None where it cannot be used."""
        parts = {"path": node} if isinstance(node.value, str) else node.value
        fields = Source.model_fields
        if not isinstance(parts, dict):
            told = f"found {show(node.plain())}; allowed: the path of a file or folder, a hub id, or a mapping of "
            self.problems.append(node.problem(f"{told}{', '.join(fields)}."))
            return None
        before = len(self.problems)
        for name, child in parts.items():
            if name not in fields:
                self.problems.append(_unknown_part(name, child))
            elif is_stray_bool(fields[name], child.plain()):
                self.problems.append(child.problem(refused(fields[name], child.plain())))
        if "path" not in parts:
            self.problems.append(node.problem(NO_PATH))
        elif isinstance(parts["path"].value, str) and (path := find_data(parts["path"], self.problems)):
            parts = parts | {"path": Node(path, parts["path"].origin)}
        if len(self.problems) > before:
            return None
        try:
            Source.model_validate(Node(parts, node.origin).plain())
        except ValidationError as error:
            self.problems += explain(error, parts, fields, node.origin)
            return None
        return Node(parts, node.origin)

    def parts(self, node: Node, key: str) -> Flat:
        """Keys of a source whose path is given elsewhere."""
        known = {name: child for name, child in node.value.items() if f"{key}.{name}" in self.keys.parts}
        self.problems += [_unknown_part(name, child) for name, child in node.value.items() if name not in known]
        return {f"{key}.{name}": child for name, child in known.items()}

    def part(self, key: str, node: Node) -> Node | None:
        """The value of one of them, checked; a path is made absolute."""
        info, value = self.keys.known[key], node.plain()
        try:
            coerce(info, value)
        except ValidationError:
            self.problems.append(node.problem(refused(info, value)))
            return None
        if key.endswith(".path"):
            path = find_data(node, self.problems)
            return Node(path, node.origin) if path else None
        return node

    def num_workers(self, node: Node) -> None:
        """No value: it follows the resources, and a config.json of an earlier run must have had the same."""
        value = node.plain()
        if not (node.origin.included and value in (None, self.workers)):
            told = f"found {show(value)}, but it is no key of a search space: set resources.workers"
            self.problems.append(node.problem(f"{told}: {value}." if isinstance(value, int) else f"{told}."))

    def fits(self, info: FieldInfo, node: Node) -> bool:
        """False, and a problem, for a yes/no value where a number belongs."""
        stray = is_stray_bool(info, node.plain())
        if stray:
            self.problems.append(node.problem(refused(info, node.plain())))
        return not stray

    def strategy(self, name: Any, node: Node) -> str | None:
        """The canonical name of a strategy; None when there is no such strategy."""
        try:
            catalogue.get_trainer(str(name))
        except ValueError as error:
            self.problems.append(node.problem(str(error)))
            self.incomplete = True
            return None
        return catalogue.canonical(str(name))

    def items(self, node: Node | None, empty: bool = False) -> list[Node]:
        """The items of a list that must not be empty, unless `empty`; none when there is no list."""
        if node is None or (empty and node.value is None) or not is_a(list, node, self.problems):
            return []
        if not node.value and not empty:
            self.problems.append(node.problem("found an empty list; give a value, or leave the key out."))
        return node.value


def _is_part_of_a_source(node: Node) -> bool:
    """Whether a mapping says only how a source is read, or gives several paths to choose from."""
    return isinstance(node.value, dict) and not (
        "path" in node.value and not isinstance(node.value["path"].value, dict | list)
    )


def _unknown_part(name: str, node: Node) -> Problem:
    names = Source.model_fields
    return node.problem(f"unknown key {name!r}. Allowed: {', '.join(names)}.{nearest(name, names)}")


def _absolute(node: Node) -> str:
    """The path of a file that may not be there yet: beside the file that names it, or in the current directory."""
    beside = Path(node.origin.file).parent / node.value
    return absolute(str(beside if is_there(beside) else node.value))


def _is_path(node: Node) -> bool:
    """Whether a model is a local directory rather than the shipped model or a hub id."""
    model = node.value
    if model == "toy":
        return False
    places = (Path(node.origin.file).parent, Path())
    return model.startswith(("./", "../", "/", "~")) or any(is_there(place / model, True) for place in places)
