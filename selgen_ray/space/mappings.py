"""One mapping of a search space: its keys known, its paths absolute, its strategy names canonical."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selgen_ray.config.chat_template import is_template
from selgen_ray.config.source import Source
from selgen_ray.errors import Problem, nearest
from selgen_ray.space.source_parts import NO_PATH
from selgen_ray.storage.folder import absolute
from selgen_ray.syntax.keys import SOURCES, Flat, Keys, explain, held, names_a_file
from selgen_ray.syntax.paths import expanded, find_data, find_path, is_there
from selgen_ray.syntax.tree import Node, show
from selgen_ray.trainers import catalogue

MODELS = {f"finetune_config.{key}" for key in ("model", "adapter", "safe_lora_base_model")}
_ADAPTER = "finetune_config.adapter"
_OUTPUT = "finetune_config.output_dir"


def is_a(kind: type, node: Node, problems: list[Problem]) -> bool:
    """Return whether a node is a dict or list, as `kind` says; add a problem if it is not."""
    if isinstance(node.value, kind):
        return True
    wanted = "a mapping of keys" if kind is dict else "a list"
    shown = "a list" if isinstance(node.value, list) else show(node.value)
    problems.append(node.problem(f"found {shown}; allowed: {wanted}."))
    return False


def unknown_part(name: str, node: Node, names: Collection[str], otherwise: str = "") -> Problem:
    """Return the problem of a key that is none of `names`; it ends with `otherwise` if none of them is near."""
    hint = nearest(name, names) or otherwise
    return node.problem(f"unknown key {name!r}. Allowed: {', '.join(names)}.{hint}")


@dataclass
class Mappings:
    """Reads mappings of config values.

    Attributes:
        keys: the config keys there are.
        problems: what is wrong is added here, and left out of what the methods return.
        incomplete: a strategy or the base is missing, so that conclusions from the others would mislead.
        workers: the value of resources.workers.
    """

    keys: Keys
    problems: list[Problem]
    incomplete: bool = False
    workers: Any = 1

    def entries(self, node: Node, keys: Keys, prefix: str = "") -> Flat:
        """Return dotted key -> node, for the keys that `keys` knows; report the others, with the nearest key."""
        flat: Flat = {}
        for part, child in node.value.items():
            key = f"{prefix}{part}"
            if key in keys.sections:
                if child.value is not None and is_a(dict, child, self.problems):
                    flat |= self.entries(child, keys, f"{key}.")
            elif key in SOURCES and key in keys.known and _is_part_of_a_source(child):
                flat |= self.parts(child, key)
            elif key in keys.known or key in keys.aliases:
                flat[key] = child
            else:
                outside = keys is not self.keys and self.keys.nearest(key)  # a config key belongs in the base
                message = keys.unknown(
                    key,
                    prefix=child.origin.key.removesuffix(key),
                    otherwise=f"base.{outside}" if outside else "",
                )
                self.problems.append(child.problem(message))
        return flat

    def flat(self, node: Node) -> Flat:
        """Return the config values in a mapping, checked one by one; null counts as an empty mapping."""
        checked = {key: self.value(key, child) for key, child in self.config_entries(node).items()}
        return {key: child for key, child in checked.items() if child}

    def config(self, node: Node) -> Flat:
        """Return the values of a mapping that may name a strategy, with the values that this name implies."""
        named = node.value.get("proxy_strategy") if isinstance(node.value, dict) else None
        return self.with_implied(named.value, self.flat(node), named) if named else self.flat(node)

    def with_implied(self, name: Any, flat: Flat, node: Node) -> Flat:
        """Add to `flat` the values that another name of a strategy implies; report a value that contradicts one."""
        for key, value in catalogue.implied(str(name)).items():
            given = flat.get(key)
            if given and given.value not in (None, value):
                message = (
                    f"found {show(given.value)}, but the strategy {name} says {show(value)}: leave one of them out."
                )
                self.problems.append(given.problem(message))
            flat = flat | {key: Node(value, node.origin)}
        return flat

    def config_entries(self, node: Node) -> Flat:
        """Return the config values in a mapping as they are written, under today's keys."""
        if node.value is None or not is_a(dict, node, self.problems):
            return {}
        entries = self.entries(node, self.keys)
        for name, key in self.keys.aliases.items():
            if name in entries:
                other = entries.pop(name)
                same = entries.setdefault(key, other)
                if same.value is None:  # null means the default, or the value of the other name
                    entries[key] = other
                elif other.value is not None and other.plain() != same.plain():
                    message = f"found {show(other.plain())}, but `{key}` is {show(same.plain())}: they are the same."
                    self.problems.append(other.problem(message))
        return entries

    def value(self, key: str, node: Node) -> Node | None:
        """Return a value with absolute path and canonical strategy name; None, and a problem, if it cannot be used."""
        value, info = node.plain(), self.keys.known[key]
        if key == "control" and value is not None:
            self.problems.append(node.problem("is the name of a control: write it as a key of the section `controls`."))
            return None
        if key == "warm_start" and value is not None:
            message = f"is written by `sweep add --warm-start`: to begin with some weights, name them in {_ADAPTER}."
            self.problems.append(node.problem(message))
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
        if key == "evals.questions":
            path = find_path(node, self.problems)
            return Node(str(path.resolve()), node.origin) if path else None
        if key in MODELS and _is_path(node):
            path = find_path(node, self.problems, folder=True)
            return Node(str(path.resolve()), node.origin) if path else node
        is_path = value and names_a_file(info) and not is_template(value)
        return Node(_absolute(node), node.origin) if is_path else node

    def source(self, node: Node) -> Node | None:
        """Return a source of rows as a mapping with an absolute path; None, and a problem, if it cannot be used."""
        parts = {"path": node} if isinstance(node.value, str) else node.value
        fields = Source.model_fields
        if not isinstance(parts, dict):
            message = f"found {show(node.plain())}; allowed: the path of a file or folder, a hub id, or a mapping of "
            self.problems.append(node.problem(f"{message}{', '.join(fields)}."))
            return None
        before = len(self.problems)
        self.problems += [unknown_part(name, child, fields) for name, child in parts.items() if name not in fields]
        known = {name: child for name, child in parts.items() if name in fields}
        if "path" not in known:
            self.problems.append(node.problem(NO_PATH))
        elif isinstance(known["path"].value, str) and (path := find_data(known["path"], self.problems)):
            known["path"] = Node(path, known["path"].origin)
        if len(self.problems) > before:  # a path that goes with all other keys: what is wrong with them is told too
            known["path"] = Node("some/hub-id", node.origin)
        try:
            Source.model_validate(Node(known, node.origin).plain())
        except ValidationError as error:
            self.problems += explain(error, known, fields, node.origin)
        return Node(known, node.origin) if len(self.problems) == before else None

    def parts(self, node: Node, key: str) -> Flat:
        """Return the keys of a source whose path is given elsewhere: 'data.outcome.limit' -> node."""
        fields, parts = Source.model_fields, node.value.items()
        self.problems += [unknown_part(name, child, fields) for name, child in parts if name not in fields]
        return {f"{key}.{name}": child for name, child in parts if name in fields}

    def part(self, key: str, node: Node) -> Node | None:
        """Return the checked value of one key of a source, a path as an absolute one."""
        if not held(self.keys.known[key], node, self.problems):
            return None
        if key.endswith(".path"):
            path = find_data(node, self.problems)
            return Node(path, node.origin) if path else None
        return node

    def num_workers(self, node: Node) -> None:
        """Refuse num_workers, which follows the resources; a config.json of an earlier run may repeat their value."""
        value = node.plain()
        if not (node.origin.included and value in (None, self.workers)):
            message = f"found {show(value)}, but it is no key of a search space: set resources.workers"
            self.problems.append(node.problem(f"{message}: {value}." if type(value) is int else f"{message}."))

    def strategy(self, name: Any, node: Node) -> str | None:
        """Return the canonical name of a strategy; None, and a problem, if there is no such strategy."""
        try:
            catalogue.get_trainer(str(name))
        except ValueError as error:
            self.problems.append(node.problem(str(error)))
            self.incomplete = True
            return None
        return catalogue.canonical(str(name))

    def items(self, node: Node | None, empty: bool = False) -> list[Node]:
        """Return the items of a list, [] if there is none; an empty list is a problem unless `empty` allows it."""
        if node is None or (empty and node.value is None) or not is_a(list, node, self.problems):
            return []
        if not node.value and not empty:
            self.problems.append(node.problem("found an empty list; give a value, or leave the key out."))
        return node.value


def _is_part_of_a_source(node: Node) -> bool:
    """Return whether a mapping says only how a source is read, or gives several paths to choose from."""
    return isinstance(node.value, dict) and not (
        "path" in node.value and not isinstance(node.value["path"].value, dict | list)
    )


def _absolute(node: Node) -> str:
    """Return the absolute path of a file that may not exist yet: beside the naming file if it is there, else here."""
    beside = Path(node.origin.file).parent / node.value
    return absolute(str(beside if is_there(beside) else node.value))


def _is_path(node: Node) -> bool:
    """Return whether a model is a local directory rather than the shipped model or a hub id."""
    model = node.value
    if model == "toy":
        return False
    places = (Path(node.origin.file).parent, Path())
    return model.startswith(("./", "../", "/", "~")) or any(is_there(place / model, True) for place in places)
