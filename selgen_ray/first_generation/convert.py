"""Conversion of a first-generation config to today's keys, with a record of what became of every key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selgen_ray.config.data import ROLES
from selgen_ray.errors import nearest
from selgen_ray.first_generation import combined
from selgen_ray.first_generation.keys import DATA_FILES, RULES, STRATEGIES, TELLTALES, Rule, SaysNothing, as_bool
from selgen_ray.first_generation.record import Converted, Kind, Record
from selgen_ray.syntax.keys import Flat, Keys, kinds, says_nothing
from selgen_ray.syntax.paths import is_there, near_name
from selgen_ray.syntax.tree import Node, Origin, merge, show

_ANCESTORS = 3  # of a config's folder, in which its data files are looked for: paths began at the project's folder


def is_first_generation(tree: Node, keys: Keys) -> bool:
    """Return whether a config, or a list of them, has keys that only the first generation had."""
    if isinstance(tree.value, list):
        return any(is_first_generation(item, keys) for item in tree.value)
    foreign = {key.rpartition(".")[2] for key, _ in leaves(tree, keys) if key not in keys.known}
    return bool(foreign & DATA_FILES) or len(foreign & TELLTALES) >= 2


def leaves(tree: Node, keys: Keys, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """Yield the (dotted key, value) pairs of a config; a mapping that is no section is a value."""
    if not isinstance(tree.value, dict):
        return
    for name, node in tree.value.items():
        key = f"{prefix}{name}"
        if isinstance(node.value, dict) and key in keys.sections:
            yield from leaves(node, keys, f"{key}.")
        else:
            yield key, node


def convert(tree: Node, keys: Keys, own: frozenset[str] | None = None, defaults: bool = True) -> Converted:
    """Convert a whole config to today's keys; paths of data files that exist become absolute.

    For example {'dataset_path': 'rows.jsonl', 'load_in_16bit': true} gives data.outcome and finetune_config.dtype.

    Args:
        tree: the config, as `read_tree` gives it; without a file, its paths stay as they are.
        keys: the config keys of today.
        own: the keys that an override wrote itself, if `tree` is that override over its base; None: no override.
        defaults: add the first generation's defaults of the keys that the file does not have.
    """
    converted = Converted()
    written = dict(leaves(tree, keys))
    for to, claims in _claims(written, keys).items():
        _settle(to, claims, converted, keys)
    for key in written.keys() - {record.key for record in converted.records}:
        _unknown(key, written[key], converted, keys)
    _strategy(converted)
    combined.combine(converted, keys, own)
    if defaults:
        combined.add_defaults(converted, keys, tree.origin)
    if tree.origin.file:
        _locate(converted, Path(tree.origin.file).parent)
    for to in [to for to in converted.values if to not in keys.known and to not in keys.sections]:
        converted.take_back(to, f"this version has no {to}")
    converted.records.sort(key=lambda record: (record.origin.line or 0, record.key))
    return converted


def convert_override(base: Converted, below: Node, override: Node, keys: Keys, defaults: bool = True) -> Converted:
    """Convert an override of a first-generation config to today's keys: what it wrote, and what follows from it.

    Args:
        base: `below`, converted.
        below: the base config.
        override: one mapping of attributes_to_vary.json.
        keys, defaults: as in `convert`.
    """
    if not isinstance(override.value, dict):  # the reader of the search space reports it
        return Converted()
    own_keys = frozenset(key for key, _ in leaves(override, keys))
    whole = convert(merge(below, override), keys, own_keys, defaults)
    result = Converted()
    for to, node in whole.values.items():
        known = base.values.get(to)
        if whole.sources[to] & own_keys or known is None or known.plain() != node.plain():
            result.values[to], result.sources[to] = node, whole.sources[to]
    result.records = [
        r for r in whole.records if r.key in own_keys or (r.to in result.values and r.kind == "converted")
    ]
    for to in [to for to in base.values if to not in whole.values]:  # null over a value takes it back
        result.values[to], result.sources[to] = Node(None, override.origin), set()
    result.missing = {role: reason for role, reason in whole.missing.items() if f"data.{role}" in result.values}
    result.unknown = {key: node for key, node in whole.unknown.items() if key in own_keys}
    _owned(result, whole.strategy, own_keys, keys)
    return result


def nested_node(flat: Flat, origin: Origin) -> Node:
    """Return dotted keys as a tree of nodes: {'a.b': 1} becomes {a: {b: 1}}."""
    root: dict[str, Any] = {}
    for key, node in flat.items():
        *sections, leaf = key.split(".")
        inner = root
        for section in sections:
            inner = inner.setdefault(section, Node({}, node.origin)).value
        inner[leaf] = node
    return Node(root, origin)


# one key ------------------------------------------------------------------------------------------------------

Claim = tuple[int, str, Node, Rule | None]


def _claims(written: Flat, keys: Keys) -> dict[str | None, list[Claim]]:
    """Return destination -> the keys that go there, by rank; None stands for keys that go nowhere."""
    claims: dict[str | None, list[Claim]] = {}
    for key, node in written.items():
        rule = RULES.get(key.rpartition(".")[2])
        if rule:
            to, rank = rule.to, rule.rank
        else:
            to, rank = key if key in keys.known else _elsewhere(key, keys), 0 if key in keys.known else 2
            if to is None:
                continue
        claims.setdefault(to, []).append((rank, key, node, rule))
    return {to: sorted(c, key=lambda claim: (claim[2].value is None, claim[0])) for to, c in claims.items()}


def _elsewhere(key: str, keys: Keys) -> str | None:
    """Return today's key with the same name in another section, if there is exactly one."""
    leaf = key.rpartition(".")[2]
    named = [known for known in keys.known.keys() - keys.parts if known.rpartition(".")[2] == leaf]
    return keys.aliases.get(key, named[0] if len(named) == 1 else None)


def _settle(to: str | None, claims: list[Claim], converted: Converted, keys: Keys) -> None:
    """Put the first claim that says something, and record what became of the others."""
    settled = ""
    for _, key, node, rule in claims:
        reason = rule.why if rule else ""
        if node.value is None and (to not in keys.known or says_nothing(keys.known[to], node)):
            converted.drop(key, node, "null, which says nothing", lost=False)
            continue
        try:
            value = rule.value(node.plain()) if rule else node.plain()
        except SaysNothing as nothing:
            converted.drop(key, node, str(nothing), nothing.lost)
            continue
        if to is None:
            converted.drop(key, node, reason)
            continue
        if settled:
            converted.records.append(Record(key, "dropped", None, f"{settled} decides", origin=node.origin))
            continue
        value = as_bool(value) if to in keys.known and bool in kinds(keys.known[to].annotation) else value
        changed = value != node.plain()
        kind: Kind = "converted" if changed else "same" if key == to else "renamed"
        if changed:
            reason = f"{show(node.plain())} became {show(value)}" + (f"; {reason}" if reason else "")
        converted.put(to, Node(value, node.origin) if changed else node, key, kind, reason)
        settled = key


def _unknown(key: str, node: Node, converted: Converted, keys: Keys) -> None:
    near = keys.nearest(key)
    hint = f" Did you mean {near!r}?" if near else nearest(key.rpartition(".")[2], RULES)
    why = f"no key of either generation; the first one passed over such a key.{hint}"
    converted.unknown[key] = node
    converted.records.append(Record(key, "unknown", None, why, lost=True, origin=node.origin))


def _strategy(converted: Converted) -> None:
    """Replace another name of a strategy by the strategy and the values of keys that the name implies."""
    node = converted.values.get("proxy_strategy")
    if node is None or not isinstance(node.value, str) or node.value not in STRATEGIES:
        return
    name, says = STRATEGIES[node.value]
    converted.remove("proxy_strategy")
    converted.put("proxy_strategy", Node(name, node.origin), "proxy_strategy", "converted", f"{node.value} is {name}")
    for to, value in says.items():
        if to in converted.values:
            converted.take_back(to, f"{node.value} says {show(value)}")
        converted.put(to, Node(value, node.origin), "proxy_strategy", "converted", f"as {node.value} says")


# the whole ----------------------------------------------------------------------------------------------------


def _owned(result: Converted, strategy: str, own_keys: frozenset[str], keys: Keys) -> None:
    """Leave out the knobs that the override's strategy does not have."""
    if strategy not in keys.by_strategy:
        return
    for to in [to for to in result.values if to in keys.known and to not in keys.by_strategy[strategy]]:
        if result.sources[to] & own_keys:
            result.take_back(to, f"a knob of {', '.join(keys.owners[to])}, not of {strategy}")
        else:
            result.remove(to)


def _locate(converted: Converted, folder: Path) -> None:
    """Make the paths of data files absolute where a file is there, and note where none is."""
    for role in ROLES:
        node = converted.values.get(f"data.{role}")
        typed = node.plain() if node else None
        typed = typed.get("path") if isinstance(typed, dict) else typed
        if node is None or not isinstance(typed, str):
            continue
        starts = [folder, Path(), *folder.resolve().parents[:_ANCESTORS]]
        places = [start / Path(typed).expanduser() for start in starts]
        here = next((place for place in places if is_there(place)), None)
        if here is None:
            converted.missing[role] = f"{typed} is not there.{next(filter(None, map(near_name, places)), '')}"
            continue
        located = Node(str(here.resolve()), node.origin)
        mapping = isinstance(node.value, dict)
        converted.values[f"data.{role}"] = Node({**node.value, "path": located}, node.origin) if mapping else located
