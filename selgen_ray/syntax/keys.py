"""The config keys there are, and the messages for a key or a value that is not one of them."""

from __future__ import annotations

import difflib
import functools
import re
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from selgen_ray.config.data import ROLES
from selgen_ray.config.source import Source
from selgen_ray.errors import Problem, nearest
from selgen_ray.schema import null_is_default, without_stray_bools
from selgen_ray.storage.secrets import looks_secret
from selgen_ray.syntax.tree import Node, Origin, show
from selgen_ray.trainers import catalogue, strategy_config

Flat = dict[str, Node]
"""Dotted config key -> the node of its value."""

SOURCES = tuple(f"data.{role}" for role in ROLES)
"""The keys that say where rows come from: a path, or a mapping whose keys can be varied one by one."""
_SHORT = 20  # a message lists so many keys at most
_ELSEWHERE = {  # names in other tools
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "lora_r": "r",
    "rank": "r",
    "sequence_len": "max_seq_length",
    "base_model": "model",
}
_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
_BOUNDS = {"Ge": ">=", "Gt": ">", "Le": "<=", "Lt": "<"}  # of the package annotated_types


@dataclass(frozen=True)
class Keys:
    """The config keys of every registered strategy.

    Attributes:
        by_strategy: strategy -> dotted key -> field.
        owners: dotted key of a knob -> the strategies that have it.
        sections: dotted keys that hold other keys, such as 'finetune_config'.
        aliases: another dotted name -> the key it stands for.
        parts: dotted keys inside the value of another key, such as 'data.outcome.limit'.
    """

    by_strategy: dict[str, dict[str, FieldInfo]]
    owners: dict[str, list[str]]
    sections: frozenset[str]
    aliases: dict[str, str] = field(default_factory=dict[str, str])
    parts: frozenset[str] = frozenset()

    @functools.cached_property
    def known(self) -> dict[str, FieldInfo]:
        """The keys of all strategies together, with their fields."""
        return {key: info for fields in self.by_strategy.values() for key, info in fields.items()}

    def nearest(self, key: str) -> str | None:
        """Return the known key whose last part is closest: in the same section, or anywhere if it is very close."""
        section, _, leaf = key.rpartition(".")
        words = {word: word.rpartition(".") for word in {*self.known, *self.sections} - self.parts}
        here = {last: word for word, (place, _, last) in words.items() if place == section}
        anywhere = {last: word for word, (_, _, last) in words.items()}
        for by_leaf, cutoff in ((here, 0.6), (anywhere, 0.8)):
            if match := difflib.get_close_matches(_ELSEWHERE.get(leaf, leaf), by_leaf, n=1, cutoff=cutoff):
                return by_leaf[match[0]]
        return None

    def unknown(self, key: str, prefix: str = "", otherwise: str = "") -> str:
        """Return the message for a key that does not exist.

        Args:
            key: dotted, from the root of the config.
            prefix: the path of the config inside the file, such as 'base.', which a suggestion begins with.
            otherwise: the suggestion if no key is near.
        """
        section, _, leaf = key.rpartition(".")
        if looks_secret(leaf):
            return f"unknown key {leaf!r}: keys and tokens, such as HF_TOKEN, are read from the environment alone."
        siblings = sorted(
            w.rpartition(".")[2] for w in {*self.known, *self.sections} if w.rpartition(".")[0] == section
        )
        allowed = f" Allowed: {', '.join(siblings)}." if len(siblings) <= _SHORT else ""
        match = self.nearest(key)
        suggestion = prefix + match if match else otherwise
        hint = f" Did you mean {suggestion!r}?" if suggestion else ""
        return f"unknown key {key.rpartition('.')[2]!r}.{allowed}{hint}"


def registered_keys() -> Keys:
    """Return the keys of the strategies that are registered now."""
    models = {name: strategy_config.config_model(trainer) for name, trainer in catalogue.strategies().items()}
    parts = {f"{role}.{name}": info for role in SOURCES for name, info in Source.model_fields.items()}
    by_strategy = {name: fields(model) | parts for name, model in models.items()}
    section_keys = frozenset(section for model in models.values() for section in sections(model))
    aliases = {"finetune_config.seed": "seed"}  # its place in the first generation
    for key, info in ((key, info) for known in by_strategy.values() for key, info in known.items()):
        if isinstance(info.validation_alias, str):
            aliases[f"{key.rpartition('.')[0]}.{info.validation_alias}".lstrip(".")] = key
    return Keys(by_strategy, catalogue.knob_owners(), section_keys, aliases, frozenset(parts))


def nested(flat: Flat) -> dict[str, Any]:
    """Return the plain values as a nested dict: {'a.b': 1} becomes {'a': {'b': 1}}."""
    root: dict[str, Any] = {}
    for key, node in flat.items():
        *sections, leaf = key.split(".")
        inner = root
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[leaf] = node.plain()
    return root


def fields(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Return dotted key -> field, for everything in a model that is not a section."""
    flat: dict[str, FieldInfo] = {}
    for name, info in model.model_fields.items():
        inner = _section_model(info)
        flat |= fields(inner, f"{prefix}{name}.") if inner else {f"{prefix}{name}": info}
    return flat


def sections(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted keys of a model that hold other keys."""
    inner = {f"{prefix}{name}": _section_model(info) for name, info in model.model_fields.items()}
    return [key for name, section in inner.items() if section for key in [name, *sections(section, f"{name}.")]]


def _section_model(info: FieldInfo) -> type[BaseModel] | None:
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def kinds(annotation: Any) -> list[Any]:
    """Return the alternatives of a union, or the one type."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return [kind for arg in typing.get_args(annotation) for kind in kinds(arg)] if union else [annotation]


def allowed(info: FieldInfo) -> str:
    """Describe the values that a field takes: 'a whole number >= 1 or null'."""
    signs = [(name.lower(), m) for m in info.metadata if (name := type(m).__name__) in _BOUNDS]
    bounds = " and ".join(f"{_BOUNDS[name.title()]} {getattr(m, name)}" for name, m in signs)
    return " or ".join(_word(kind, bounds) for kind in kinds(info.annotation))


def _word(kind: Any, bounds: str) -> str:
    args = typing.get_args(kind)
    if typing.get_origin(kind) is dict:
        return "a mapping"
    if typing.get_origin(kind) is Literal:
        return ", ".join(map(str, args))
    if typing.get_origin(kind) in (list, tuple):
        return "a list of " + " or ".join(_word(k, bounds) for k in kinds(args[0]))
    word = _WORDS.get(kind, getattr(kind, "__name__", str(kind)))
    return f"{word} {bounds}" if bounds and kind in (int, float) else word


def refused(info: FieldInfo, value: Any) -> str:
    """Return the message for a value of the wrong type or out of bounds."""
    options = [str(o) for k in kinds(info.annotation) if typing.get_origin(k) is Literal for o in typing.get_args(k)]
    hint = nearest(value, options) if isinstance(value, str) else ""
    return f"found {_shown(info, value)}; allowed: {allowed(info)}.{hint}"


def _shown(info: FieldInfo, value: Any) -> str:
    return "a value that is not shown" if is_secret(info) else show(value)


def says_nothing(info: FieldInfo, node: Node) -> bool:
    """Return whether a value is null and null is the default, so that the key could be left out."""
    return node.value is None and (null_is_default(info) or info.default is None)


def names_a_file(info: FieldInfo) -> bool:
    """Return whether the value of a knob is the path of a file."""
    extra = info.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("file"))


def is_secret(info: FieldInfo) -> bool:
    """Return whether a wrong value of the field may be a secret, which no message must repeat."""
    extra = info.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("secret"))


def coerce(info: FieldInfo, value: Any) -> Any:
    """Return `value` as the field holds it, such as 1e-5 for '1e-5', or null. Raises pydantic.ValidationError."""
    if value is None and null_is_default(info):
        return None
    no_bools = BeforeValidator(functools.partial(without_stray_bools, info))
    kind: Any = typing.Annotated[info.annotation, *info.metadata, no_bools]
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value)


def is_valid(info: FieldInfo, value: Any) -> bool:
    """Return whether the field takes the value, and it is not null."""
    try:
        return coerce(info, value) is not None
    except ValidationError:
        return False


def held(info: FieldInfo, node: Node, problems: list[Problem]) -> tuple[Any] | None:
    """Return a value as the field holds it, in a tuple since it may be null; None, and a problem, if it is wrong."""
    try:
        return (coerce(info, node.plain()),)
    except ValidationError:
        problems.append(node.problem(refused(info, node.plain())))
        return None


def explain(error: ValidationError, flat: Flat, known: dict[str, FieldInfo], fallback: Origin) -> list[Problem]:
    """Turn a validation error into problems at the places where the values were written.

    Args:
        flat: the values that were validated.
        known: the fields of the model, by dotted key.
        fallback: the place of a problem that no value of `flat` can be blamed for.
    """
    by_key: dict[str, Problem] = {}
    pairs: list[Problem] = []
    derived: list[Problem] = []
    for item in error.errors(include_url=False):
        text = item["msg"].removeprefix("Value error, ")
        text += "" if text.endswith(("?", ".")) else "."
        loc = [str(part) for part in item["loc"]]
        paths = (".".join(loc[:n]) for n in range(len(loc), 0, -1))
        key = next((path for path in paths if path in known), "")
        if key in flat:
            value = flat[key].plain()
            custom = f"found {_shown(known[key], value)}; {text}" if item["type"] == "value_error" else None
            by_key[key] = flat[key].problem(custom or refused(known[key], value))
        elif not key:  # keys that do not go together: the message names them
            named = [k for k in flat if k.rpartition(".")[2] in re.findall(r"\w+", text)]
            pairs.append((_part_named(named[-1], flat[named[-1]], text) if named else fallback).problem(text))
        else:  # a value nobody wrote, which follows one that is wrong too
            derived.append(fallback.problem(f"{key}: {text}"))
    return [*by_key.values(), *pairs] or derived


def _part_named(key: str, node: Node, text: str) -> Origin:
    """Return where a value was written, or the part of it that the message names: 'trainer_args.beta' of a mapping."""
    parts = node.value.items() if isinstance(node.value, dict) else ()
    dotted = set(re.findall(r"[\w.]+\w", text))
    leaf = key.rpartition(".")[2]
    named = (part for name, part in parts if any(word.endswith(f"{leaf}.{name}") for word in dotted))
    return next((part.origin for part in named), node.origin)
