"""A first-generation folder (config.json and attributes_to_vary.json) as a search space in today's keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selgen_ray.errors import Problem, SpecError
from selgen_ray.first_generation.convert import convert, convert_override
from selgen_ray.first_generation.differences import lost_differences
from selgen_ray.first_generation.record import Converted, Record
from selgen_ray.syntax.keys import Keys, registered_keys
from selgen_ray.syntax.paths import near_name
from selgen_ray.syntax.tree import Node, read_tree, show
from selgen_ray.trainers import catalogue

CONFIG, OVERRIDES = "config.json", "attributes_to_vary.json"
_SEEDS = ("data_seed", "model_seed", "seed")
_SIDES = ("finetune_config.positive_proxy", "finetune_config.negative_proxy")


@dataclass
class Imported:
    """A sweep of the first generation in today's keys.

    Attributes:
        name: the name of the sweep.
        files: the files that were read.
        base, overrides: `base` and `overrides` of the search space.
        seeds: `seeds` of the search space; [] if the configs have their own.
        to_add: lines on what a person has to supply before it can run.
    """

    name: str
    files: list[Path]
    base: Converted
    overrides: list[Converted]
    seeds: list[int] = field(default_factory=list[int])
    to_add: list[str] = field(default_factory=list[str])

    @property
    def records(self) -> list[Record]:
        """The records of all keys, each once."""
        return list(dict.fromkeys(record for part in (self.base, *self.overrides) for record in part.records))


def read_folder(path: Path, seeds: Sequence[int] = ()) -> Imported:
    """Read a folder of the first generation, or a config.json by itself.

    Args:
        path: the folder, or the config.
        seeds: run everything that has no seeds of its own with each of these.

    Raises:
        SpecError: a file is missing or broken, or holds something else; each problem with file, line and column.
    """
    config, vary = _files(path)
    problems: list[Problem] = []
    keys = registered_keys()
    below = _read(config, dict, problems)
    listed = _read(vary, list, problems) if vary else None
    items: list[Node] = listed.value if listed else []
    wrong = [item for item in items if not isinstance(item.value, dict)]
    problems += [item.problem(f"found {show(item.plain())}; allowed: a mapping of keys.") for item in wrong]
    if problems or below is None:
        raise SpecError(problems)
    base = convert(below, keys)
    overrides = [convert_override(base, below, item, keys) for item in items]
    problems += lost_differences(below, items, base, overrides, keys)
    if seeds:
        for key in [key for key in _SEEDS if key in base.values]:
            base.take_back(key, "--seeds gives it")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", _name(config)).strip("-._") or "imported"
    made = Imported(name, [config, *([vary] if vary else [])], base, overrides, list(dict.fromkeys(seeds)))
    _check_strategies(made, keys, problems)
    if problems:
        raise SpecError(problems)
    _leave_out_unused(made, keys)
    made.to_add = _to_add(made, keys)
    return made


def strategies_of(made: Imported) -> list[str]:
    """Return the strategies of its trials, each once."""
    if not made.overrides:
        return [made.base.strategy]
    named = [one.strategy if "proxy_strategy" in one.values else made.base.strategy for one in made.overrides]
    return list(dict.fromkeys(named))


def _files(path: Path) -> tuple[Path, Path | None]:
    """Return the paths of the config, and of the list of overrides if there is one."""
    if path.is_file():
        beside = path.with_name(OVERRIDES)
        return path, beside if path.name == CONFIG and beside.is_file() else None
    if not path.is_dir():
        raise SpecError([Problem(str(path), None, "", f"there is no such folder or file.{near_name(path)}")])
    config, beside = path / CONFIG, path / OVERRIDES
    if not config.is_file():
        raise SpecError([Problem(str(path), None, "", f"has no {CONFIG}.{near_name(config)}")])
    return config, beside if beside.is_file() else None


def _name(config: Path) -> str:
    """Return the name of a sweep: that of its folder, or of its file if it is not called config.json."""
    return config.resolve().parent.name if config.name == CONFIG else config.stem


def _read(path: Path, kind: type, problems: list[Problem]) -> Node | None:
    tree = read_tree(path, problems, included=True)
    if tree is not None and not isinstance(tree.value, kind):
        wanted = "a mapping of keys" if kind is dict else "a list of mappings"
        problems.append(tree.problem(f"found {show(tree.plain())}; allowed: {wanted}."))
        return None
    return tree


def _check_strategies(made: Imported, keys: Keys, problems: list[Problem]) -> None:
    for one in (made.base, *made.overrides):
        if "proxy_strategy" in one.values and one.strategy not in keys.by_strategy:
            node = one.values["proxy_strategy"]
            try:
                catalogue.get_trainer(one.strategy)
            except ValueError as error:
                problems.append(node.problem(str(error)))


def _leave_out_unused(made: Imported, keys: Keys) -> None:
    """Leave out the knobs that no trial has: the first generation listed those of all strategies."""
    used = {key for name in strategies_of(made) for key in keys.by_strategy[name]}
    for to in [to for to in made.base.values if to in keys.known and to not in used]:
        if made.base.sources[to]:
            made.base.take_back(to, f"no trial uses it: a knob of {', '.join(keys.owners[to])}")
        else:
            made.base.remove(to)


def _to_add(made: Imported, keys: Keys) -> list[str]:
    """Return lines on what is missing: files that do not exist, roles that a strategy needs."""
    parts = (made.base, *made.overrides)
    lines = [f"data.{role}: {why}" for part in parts for role, why in part.missing.items()]
    given = {
        role for part in parts for role in ("outcome", "proxy", "proxy_neg", "truth") if f"data.{role}" in part.values
    }
    if "align_train_coverage" in keys.known and any("align_train_coverage" in part.values for part in parts):
        if not given & {"proxy", "truth"}:
            lines.append("data.truth: the alignment data, which the first generation loaded itself, as JSON lines")
            given.add("proxy")
        if "truth" in given:
            given.add("proxy")
    needs: dict[str, list[str]] = {}
    for name in strategies_of(made):
        roles = list(catalogue.get_trainer(name).required_roles)
        sides = [part.values.get(key) for part in parts for key in _SIDES if key in keys.by_strategy[name]]
        roles += [str(node.value) for node in sides if node and node.value]
        for role in dict.fromkeys(roles):
            if role not in given:
                needs.setdefault(role, []).append(name)
    lines += [f"data.{role}: needed by {', '.join(names)}" for role, names in needs.items()]
    return list(dict.fromkeys(lines))
