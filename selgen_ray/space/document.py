"""The sections of a search space: includes resolved, every key known and in its place, nothing multiplied yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from selgen_ray.errors import Problem
from selgen_ray.first_generation.adopt import adopt
from selgen_ray.space.mappings import is_a, unknown_part
from selgen_ray.space.search_section import Searches, Section
from selgen_ray.space.spec import SweepSettings
from selgen_ray.syntax.keys import Flat, Keys, fields, is_valid, says_nothing, sections
from selgen_ray.syntax.paths import expanded, find_path
from selgen_ray.syntax.tree import Node, Origin, merge, read_tree, show

Axis = list[Flat]
"""Alternatives, of which each trial takes one: [{'finetune_config.r': 8}, {'finetune_config.r': 16}]."""

STREAMS = ("data_seed", "model_seed")
_SECTIONS = ("extends", "base", "grid", "zip", "strategies", "overrides", "controls", "seeds", "exclude")
_FILES = ("extends", "base", "overrides")
_SETTINGS = fields(SweepSettings)
_TOP = Keys({"": _SETTINGS | {key: FieldInfo() for key in _SECTIONS}}, {}, frozenset(sections(SweepSettings)))
TASK_ALONE = "task alone"
"""The control that is always there: the task without the proxy."""
_PLAIN, _MIXES = "naive", "train_on_proxy"
_PARTS = ("fixed", "grid", "zip", "search")
_ELSEWHERE = {
    "seed": "a seed cannot be varied here: list the seeds under `seeds`.",
    "proxy_strategy": "a strategy cannot be chosen here: list them under `strategies` or in `overrides`.",
}


@dataclass(frozen=True)
class Variant:
    """A strategy, the values it fixes over the base and the axes that multiply it; an override has no axes.

    Attributes:
        search: the strategy's search, if it has one. `drawn` turns a random search into an axis.
        control: its name in `controls`; '': it is none of them.
        drawn_from: the random search that the last axis was drawn from.
    """

    strategy: str
    origin: Origin
    fixed: Flat
    axes: list[Axis] = field(default_factory=list)
    search: Section | None = None
    control: str = ""
    drawn_from: Section | None = None

    def drawn(self) -> Variant:
        """Return the variant with a random search written out as an axis."""
        if not self.search or self.search.settings.algorithm != "random":
            return self
        return replace(self, axes=[*self.axes, self.search.axis(self.strategy)], search=None, drawn_from=self.search)


@dataclass(frozen=True)
class Document:
    """The sections of a search space.

    Attributes:
        settings: the values of SweepSettings, by dotted key.
        workers: the valid value of resources.workers among them, if it is given.
        variants: the strategies with their axes.
        overrides: the settings that `overrides` lists.
        controls: the settings that `controls` names, and the task alone where that section is given.
        seeds: [] if none are given.
        exclude: place and values of each exclusion.
        notes: lines on what is no error.
    """

    origin: Origin
    settings: Flat
    workers: Node | None
    base: Flat
    variants: list[Variant]
    overrides: list[Variant]
    controls: list[Variant]
    seeds: list[Node]
    exclude: list[tuple[Origin, Flat]]
    notes: list[str]


def read_document(tree: Node, keys: Keys, problems: list[Problem], axes: Node | None = None) -> Document:
    """Read the sections of a search space; add what is wrong to `problems`, and leave it out.

    Args:
        axes: as in `load_space`.
    """
    return _Sections(keys, problems).document(tree, axes)


def read_space(path: Path, problems: list[Problem], notes: list[str], chain: tuple[Path, ...] = ()) -> Node | None:
    """Read a search space and lay it over those that it extends; None if it is not one. Adds to both lists."""
    tree = read_tree(path, problems)
    return tree and whole_space(tree, problems, notes, (*chain, path.resolve()))


def whole_space(tree: Node, problems: list[Problem], notes: list[str], chain: tuple[Path, ...] = ()) -> Node | None:
    """Return a search space with what it includes, laid over those that it extends; None if it is not one.

    Args:
        tree: the search space as it is written.
        problems, notes: get what is wrong, and what is to be known.
        chain: the files that extend each other, this one last; () for one that is no file.
    """
    if not is_a(dict, tree, problems):
        return None
    sections: dict[str, Node] = dict(tree.value)
    for key, kind in (("base", dict), ("overrides", list)):
        if key in sections and isinstance(sections[key].value, str):
            where = find_path(sections[key], problems)
            included = read_tree(where, problems, included=True) if where else None
            if included and is_a(kind, included, problems):
                sections[key] = included
    if any(key in sections and sections[key].origin.included for key in ("base", "overrides")):
        problems += adopt(sections, notes)
    tree = Node(sections, tree.origin)
    if "extends" not in sections:
        return tree
    link = sections["extends"]
    where = find_path(link, problems)
    if where and where.resolve() in chain:
        names = " -> ".join(one.name for one in (*chain, where))
        problems.append(link.problem(f"found {link.value!r}, which extends itself: {names}."))
    elif where and (below := read_space(where, problems, notes, chain)):
        del sections["extends"]
        return merge(below, tree)
    return tree


class _Sections(Searches):
    def document(self, tree: Node, axes: Node | None = None) -> Document:
        if "search" in tree.value:
            message = "belongs into the section of a strategy: strategies.kl_divergence.search, for example."
            self.problems.append(tree.value["search"].problem(message))
            tree = Node({key: node for key, node in tree.value.items() if key != "search"}, tree.origin)
        settings = self.settings(tree)
        workers = settings.get("resources.workers")
        if workers and is_valid(self.keys.known["num_workers"], workers.value):
            self.workers = workers.value
        else:
            workers = None
        listed = {key: tree.value[key] for key in _SECTIONS if key in tree.value}
        sections = {key: node for key, node in listed.items() if key not in _FILES or not isinstance(node.value, str)}
        self.incomplete = len(sections) < len(listed)  # a file that they name was not read
        base = self.config(sections["base"]) if "base" in sections else {}
        variants = self.variants(sections, base, tree.origin.file, axes)
        overrides = [self.override(node, base) for node in self.items(sections.get("overrides"))]
        controls = list(self.controls(sections["controls"])) if "controls" in sections else []
        present = [v for v in [*variants, *overrides, *controls] if v]
        return Document(
            origin=tree.origin,
            settings=settings,
            workers=workers,
            base=base,
            variants=variants,
            overrides=[v for v in overrides if v],
            controls=controls,
            seeds=self.seeds(sections.get("seeds")),
            exclude=list(self.exclude(sections.get("exclude"))),
            notes=self.unused(base, present) if present and not self.incomplete else [],
        )

    # sections ---------------------------------------------------------------------------------------------

    def settings(self, tree: Node) -> Flat:
        """Return the values of SweepSettings; check the keys of the whole file on the way."""
        values = {key: node for key, node in self.entries(tree, _TOP).items() if key in _SETTINGS}
        if "name" in values and values["name"].value is None:
            del values["name"]  # null: the default is the name of the file, which the model does not know
        if "storage_path" in values:
            known = expanded(values.pop("storage_path"), self.problems)
            values |= {"storage_path": known} if known else {}
        if "early_stopping.keep" in values and isinstance((kept := values["early_stopping.keep"]).value, list):
            names = [Node(name, item.origin) for item in kept.value if (name := self.strategy(item.value, item))]
            values["early_stopping.keep"] = Node(names, kept.origin)
        return values

    def axes(self, sections: dict[str, Node]) -> list[Axis]:
        """Return one axis per key of `grid`, and one for `zip`."""
        axes: list[Axis] = []
        if (grid := sections.get("grid")) and not grid.value:
            self.problems.append(grid.problem("found an empty grid; give at least one key, or leave it out."))
        elif grid:
            for key, node in self.config_entries(grid).items():
                if not isinstance(node.value, list):
                    value = show(node.plain())
                    self.problems.append(node.problem(f"found {value}; a grid takes a list: [{value}]."))
                    continue
                axes.append([{key: value} for item in self.items(node) if (value := self.value(key, item))])
        if "zip" in sections:
            axes.append([self.flat(item) for item in self.items(sections["zip"])])
        return [axis for axis in axes if axis]

    def variants(
        self, sections: dict[str, Node], base: Flat, file: str, inherited: Node | None = None
    ) -> list[Variant]:
        """Return the strategies with the top-level axes and their own; the base's strategy if the file names none."""
        axes = self.axes(sections)
        if "strategies" in sections:
            listed = list(self.strategies(sections["strategies"]))
        elif "overrides" in sections:
            for key in sections.keys() & {"grid", "zip"}:
                message = "multiplies strategies, not overrides, and there are none: add `strategies`."
                self.problems.append(sections[key].problem(message))
            return []
        elif self.incomplete:
            return []
        else:
            name = base["proxy_strategy"].value if "proxy_strategy" in base else "naive"
            listed = [Variant(str(name), Origin(file, key="base"), {})]
        axes = [self.shared(axis, [v.strategy for v in listed]) for axis in axes]
        joined = [replace(v, axes=[*axes, *v.axes]) for v in listed]
        if inherited and (more := self.axes(inherited.value)):
            given = {key: node for key, node in base.items() if node.origin.file != inherited.origin.file}
            joined = [replace(v, axes=[*self.open_axes(more, v, given), *v.axes]) for v in joined]
        for variant in joined:
            self.once(variant)
        return [v.drawn() for v in joined]

    def strategies(self, node: Node) -> Iterable[Variant]:
        if not node.value or not is_a(dict, node, self.problems):
            if not node.value:
                self.problems.append(node.problem("is empty; name at least one strategy, or leave it out."))
            return
        for name, child in node.value.items():
            strategy = self.strategy(name, child)
            if child.value is not None and not is_a(dict, child, self.problems):
                continue
            parts = child.value or {}
            for key in parts.keys() - set(_PARTS):
                near = self.keys.nearest(key)
                hint = f" Did you mean '{child.origin.key}.fixed.{near}'?" if near else ""
                self.problems.append(unknown_part(key, parts[key], _PARTS, hint))
            fixed = self.flat(parts["fixed"]) if "fixed" in parts else {}
            axes = self.axes({key: parts[key] for key in ("grid", "zip") if key in parts})
            if strategy:
                fixed = self.with_implied(name, fixed, child)
                axes = [[self.owned(flat, strategy) for flat in axis] for axis in axes]
                search = self.search(parts["search"], strategy) if "search" in parts else None
                if search and len(self.owned(search.keys, strategy)) < len(search.keys):
                    search = None
                yield Variant(strategy, child.origin, self.owned(fixed, strategy), axes, search)

    def override(self, node: Node, base: Flat) -> Variant | None:
        if not is_a(dict, node, self.problems):
            return None
        flat = self.config(node)
        if "proxy_strategy" in node.value and "proxy_strategy" not in flat:
            return None
        name = flat.get("proxy_strategy") or base.get("proxy_strategy")
        if name is None and self.incomplete:
            return None
        strategy = name.value if name else "naive"
        return Variant(strategy, node.origin, self.owned(flat, strategy))

    def controls(self, node: Node) -> Iterable[Variant]:
        """Yield the task alone, and each control; see `_control`."""
        if node.value is not None and not is_a(dict, node, self.problems):
            return
        listed = node.value or {}
        if TASK_ALONE not in listed:
            yield Variant(_PLAIN, node.origin, {_MIXES: Node(False, node.origin)}, control=TASK_ALONE)
        for name, child in listed.items():
            if child.value is not None and not is_a(dict, child, self.problems):
                continue
            values = {self._in_full(key): value for key, value in (child.value or {}).items()}
            if (control := self._control(str(name), Node(values, child.origin))) is not None:
                yield control

    def _control(self, name: str, node: Node) -> Variant | None:
        """Return a control: its strategy is the one that it names, else that of its knobs, else the task alone."""
        flat = self.config(node)
        if "proxy_strategy" in node.value and "proxy_strategy" not in flat:
            return None
        owners = [set(self.keys.owners[key]) for key in flat if key in self.keys.owners and key != _MIXES]
        fitting = sorted(set.intersection(*owners)) if owners else [_PLAIN]
        given = flat.pop("proxy_strategy", None)
        if given is None and len(fitting) != 1:
            of = (
                f"; strategies that have its knobs: {', '.join(fitting)}"
                if fitting
                else ", and no strategy has its knobs"
            )
            self.problems.append(node.problem(f"names no proxy_strategy{of}: give it one."))
            return None
        strategy = given.value if given else fitting[0]
        if given is None and strategy == _PLAIN:
            flat.setdefault(_MIXES, Node(False, node.origin))
        variant = Variant(strategy, node.origin, self.owned(flat, strategy), control=name)
        self.once(replace(variant, fixed={key: node for key, node in variant.fixed.items() if key in _ELSEWHERE}))
        return variant

    def _in_full(self, key: str) -> str:
        """Return a key of finetune_config that is written without its section with it."""
        is_known = key in self.keys.known or key in self.keys.sections or key in self.keys.aliases
        return key if is_known or (full := f"finetune_config.{key}") not in self.keys.known else full

    def seeds(self, node: Node | None) -> list[Node]:
        by_text: dict[Any, Node] = {}
        for item in self.items(node):
            seed = self.value("seed", item)
            if seed and (first := by_text.setdefault(str(seed.plain()), seed)) is not seed:
                lines = first.origin.line, seed.origin.line
                where = f", first in line {lines[0]}" if lines[0] != lines[1] else ""
                self.problems.append(seed.problem(f"the seed {show(seed.plain())} is given twice{where}."))
        return list(by_text.values())

    def exclude(self, node: Node | None) -> Iterable[tuple[Origin, Flat]]:
        for item in self.items(node, empty=True):
            if item.value == {}:
                self.problems.append(item.problem("found an empty mapping, which would exclude every trial."))
            elif flat := self.flat(item):
                yield item.origin, flat

    # keys in their place ----------------------------------------------------------------------------------

    def owned(self, flat: Flat, strategy: str) -> Flat:
        """Return `flat` without the knobs that the strategy lacks; report those that are not null."""
        lacking = {key for key in flat if key not in self.keys.by_strategy[strategy]}
        for key in {key for key in lacking if not says_nothing(self.keys.known[key], flat[key])}:
            owners = ", ".join(self.keys.owners[key])
            message = f"is no knob of strategy {strategy!r}; the strategies that have it: {owners}."
            self.problems.append(flat[key].problem(message))
        return {key: node for key, node in flat.items() if key in self.keys.by_strategy[strategy]}

    def shared(self, axis: Axis, strategies: list[str]) -> Axis:
        """Return a top-level axis without the knobs that some strategy of the sweep lacks; report those."""
        keys = {key for flat in axis for key in flat}
        lacking = {key: [s for s in strategies if key not in self.keys.by_strategy[s]] for key in keys}
        for flat in axis:
            for key in flat:
                if lacking[key]:
                    owners = self.keys.owners[key]
                    message = f"is no knob of {', '.join(lacking[key])}: move it to strategies.{owners[0]}.grid"
                    others = f" (also a knob of {', '.join(owners[1:])})" if owners[1:] else ""
                    self.problems.append(flat[key].problem(f"{message}{others}."))
        return [{key: node for key, node in flat.items() if not lacking[key]} for flat in axis]

    def open_axes(self, inherited: list[Axis], variant: Variant, given: Flat) -> list[Axis]:
        """Return the axes of another file without the keys that a strategy lacks, and those that this file gives.

        Args:
            given: what the base of this file gives.
        """
        given = dict(given)
        for flat in [variant.fixed, *(flat for axis in variant.axes for flat in axis)]:
            given |= flat
        given |= variant.search.keys if variant.search else {}
        left: list[Axis] = []
        for axis in inherited:
            keys = {key for flat in axis for key in flat if key in self.keys.by_strategy[variant.strategy]}
            named = {key: node for key in sorted(keys) if (node := _overlapping(key, given))}
            if not named:
                left.append([{key: node for key, node in flat.items() if key in keys} for flat in axis])
            elif silent := sorted(keys - named.keys()):
                message = (
                    f"the sweep's zip varies it together with {', '.join(silent)}: give {variant.strategy} these too."
                )
                self.problems.append(next(iter(named.values())).problem(message))
        return [axis for axis in left if any(axis)]

    def once(self, variant: Variant) -> None:
        """Report the keys that two sections set for one trial, and those that no section may set."""
        seen = dict(variant.fixed)
        searched = [[variant.search.keys]] if variant.search else []
        for axis in [[variant.fixed], *variant.axes, *searched]:
            keys = {key: node for flat in reversed(axis) for key, node in flat.items()}
            for key, node in keys.items():
                if key in _ELSEWHERE:
                    self.problems.append(node.problem(_ELSEWHERE[key]))
                elif (first := seen.setdefault(key, node)) is not node:
                    other = first.origin.key + (f" (line {first.origin.line})" if first.origin.line else "")
                    self.problems.append(node.problem(f"is also set by {other}: keep one of the two."))

    def unused(self, base: Flat, variants: list[Variant]) -> list[str]:
        """Report base knobs that no strategy of the sweep has; for an included config.json return notes instead.

        A knob that is null is neither: the first generation listed the knobs of all strategies.
        """
        strategies = list(dict.fromkeys(v.strategy for v in variants))
        used = {key for name in strategies for key in self.keys.by_strategy[name]}
        notes = []
        for key in [k for k, node in base.items() if k not in used and not says_nothing(self.keys.known[k], node)]:
            owners, here = ", ".join(self.keys.owners[key]), ", ".join(strategies)
            if base[key].origin.line is None and base[key].origin.included:  # a default that nobody wrote
                continue
            message = f"no trial uses it: it is a knob of {owners}, and the sweep's strategies are {here}."
            if base[key].origin.included:
                notes.append(str(base[key].problem(message)))
            else:
                self.problems.append(base[key].problem(message))
        return notes


def _overlapping(key: str, given: Flat) -> Node | None:
    """Return what is given for a key, for a part of it, or for the whole that it is a part of."""
    return next(
        (node for one, node in given.items() if f"{one}.".startswith(f"{key}.") or key.startswith(f"{one}.")), None
    )
