"""The section `search` of a strategy: the searched keys, their values, and the way of searching."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from selgen_ray.errors import nearest
from selgen_ray.schema import Strict
from selgen_ray.space.mappings import Mappings, is_a, unknown_part
from selgen_ray.space.ranges import Range, draw
from selgen_ray.space.spec import Mode, Objective, metric_name
from selgen_ray.syntax.keys import Flat, allowed, explain, fields, held, kinds, nested, refused
from selgen_ray.syntax.tree import Node, Origin, show, written

_INTERVAL = ("min", "max", "log")
_PARTS = (*_INTERVAL, "choices")
_NO_OPTUNA = "found 'optuna', which is not installed here: pip install \"selgen-ray[search]\""


class SearchSettings(Strict):
    """The way in which a strategy's settings are searched."""

    algorithm: Literal["random", "optuna"] = Field(description="optuna: its TPE sampler, from the results so far")
    num_settings: int = Field(description="how many are tried, each with all seeds", ge=1, le=10_000)
    seed: int = Field(default=0, description="of the search, not of the trials", ge=0, lt=2**63)
    metric: str | None = Field(default=None, description="optuna: the one objective; default: the two of `pareto`")
    mode: Mode | None = Field(default=None, description="default: min for a loss and its like, else max")

    @field_validator("metric")
    @classmethod
    def _metric(cls, value: str | None) -> str | None:
        return value and metric_name(value)

    @model_validator(mode="after")
    def _fits_the_algorithm(self) -> SearchSettings:
        if self.algorithm == "random" and (self.metric or self.mode):
            key = "metric" if self.metric else "mode"
            raise ValueError(f"{key} is given, but a random search has no objective: leave it out")
        if self.mode and not self.metric:
            raise ValueError("mode is given, but metric is not; without both, the search follows pareto.x and pareto.y")
        return self


_SETTINGS = fields(SearchSettings)


@dataclass(frozen=True)
class Section:
    """A section `search`, read and checked."""

    origin: Origin
    settings: SearchSettings
    ranges: dict[str, Range]

    @property
    def keys(self) -> Flat:
        """The searched keys, each with the node of its range."""
        return {key: one.node for key, one in self.ranges.items()}

    def axis(self, strategy: str) -> list[Flat]:
        """Return the settings of a random search; each is a pure function of seed, strategy and its number."""
        draws = [draw(self.ranges, n, self.settings.seed, strategy) for n in range(self.settings.num_settings)]
        return [self.flat(values) for values in draws]

    def flat(self, values: dict[str, Any]) -> Flat:
        """Return values of the searched keys as nodes, as if they were written in the section."""
        return {key: written(value, self.ranges[key].node.origin) for key, value in values.items()}

    def objectives(self, x: str, y: str) -> tuple[Objective, ...]:
        """Return the objectives: `metric`, or else `x` and `y`, the axes of the sweep's Pareto front."""
        if self.settings.metric:
            return (Objective.of(self.settings.metric, self.settings.mode),)
        return tuple(map(Objective.of, dict.fromkeys((x, y))))


class Searches(Mappings):
    """Reads the sections `search`."""

    def search(self, node: Node, strategy: str) -> Section | None:
        """Read the section; None if it cannot be used. What is wrong is added to `problems`."""
        before = len(self.problems)
        if not is_a(dict, node, self.problems):
            return None
        unknown = [part for part in node.value if not (part in _SETTINGS or self.is_key(part))]
        for part in unknown:
            near = self.keys.nearest(part)
            hint = nearest(part, _SETTINGS) or (f" Did you mean '{node.origin.key}.{near}'?" if near else "")
            message = f"unknown key {part!r}. Allowed: {', '.join(_SETTINGS)}, and keys of a trial.{hint}"
            self.problems.append(node.value[part].problem(message))
        settings = self.search_settings(node)
        keys = {part: child for part, child in node.value.items() if self.is_key(part) and part not in _SETTINGS}
        entries = self.config_entries(Node(keys, node.origin))
        ranges = {key: one for key, child in entries.items() if (one := self.range(key, child, strategy))}
        if not entries and len(self.problems) == before:
            message = (
                "searches no key; give some, such as finetune_config.learning_rate: {min: 1e-5, max: 1e-3, log: true}."
            )
            self.problems.append(node.problem(message))
        if settings is None or len(self.problems) > before:
            return None
        return Section(node.origin, settings, ranges)

    def is_key(self, part: str) -> bool:
        """Return whether a key is one of a trial's config, or names a section of it."""
        return part in self.keys.known or part in self.keys.sections or part in self.keys.aliases

    def search_settings(self, node: Node) -> SearchSettings | None:
        """Read how to search (algorithm, num_settings, ...); None, and a problem, if something is wrong."""
        flat = {key: child for key, child in node.value.items() if key in _SETTINGS}
        missing = [key for key in ("algorithm", "num_settings") if key not in flat]
        typed = "".join(nearest(part, missing) for part in node.value if not (part in flat or self.is_key(part)))
        for key in (key for key in missing if key not in typed):  # a typo of it is already reported
            self.problems.append(node.problem(f"lacks {key!r}: {allowed(_SETTINGS[key])}."))
        try:
            settings = SearchSettings.model_validate(nested(flat))
        except ValidationError as error:
            found = explain(error, flat, _SETTINGS, node.origin)
            self.problems += [problem for problem in found if not missing or problem.key != node.origin.key]
            return None
        if settings.algorithm == "optuna" and importlib.util.find_spec("optuna") is None:
            self.problems.append(flat["algorithm"].problem(_NO_OPTUNA))
        return settings

    def range(self, key: str, node: Node, strategy: str) -> Range | None:
        """Read the range of one key, whose values the key must accept; None, and a problem, if one is wrong."""
        if not isinstance(node.value, dict):
            value = show(node.plain())
            listed = node.plain() if isinstance(node.value, list) else [node.plain()]
            message = f"found {value}; allowed: {{min: ..., max: ...}}, with log: true to search by factors, or "
            self.problems.append(node.problem(f"{message}{{choices: {show(listed)}}}."))
            return None
        parts = node.value
        if unknown := [part for part in parts if part not in _PARTS]:
            self.problems += [unknown_part(part, parts[part], _PARTS) for part in unknown]
            return None
        if "choices" not in parts:
            return self.interval(key, node, strategy)
        for part in [part for part in _INTERVAL if part in parts]:
            self.problems.append(parts[part].problem("stands beside choices: keep one of the two."))
            return None
        choices = [(item, self.end(key, item, strategy)) for item in self.items(parts["choices"])]
        values = [value for _, value in choices if value]
        plain = [value[0] for value in values]
        for i, value in enumerate(plain):
            if value in plain[:i]:
                self.problems.append(choices[i][0].problem(f"the choice {show(value)} is given twice."))
                return None
        return Range(node, choices=tuple(plain)) if plain and len(values) == len(choices) else None

    def interval(self, key: str, node: Node, strategy: str) -> Range | None:
        """Read an interval of numbers, {min, max, log}; None, and a problem, if it is wrong."""
        parts, types_ = node.value, kinds(self.keys.known[key].annotation)
        if int not in types_ and float not in types_:
            self.problems.append(node.problem(f"takes no number, but {allowed(self.keys.known[key])}: give choices."))
            return None
        if missing := [part for part in ("min", "max") if part not in parts]:
            self.problems.append(node.problem(f"lacks {' and '.join(missing)}."))
            return None
        log = parts["log"].value if "log" in parts else False
        if not isinstance(log, bool):
            self.problems.append(parts["log"].problem(f"found {show(log)}; allowed: true or false."))
            return None
        ends = [self.end(key, parts[part], strategy, number=True) for part in ("min", "max")]
        if ends[0] is None or ends[1] is None:
            return None
        low, high = ends[0][0], ends[1][0]
        if low >= high:
            self.problems.append(parts["max"].problem(f"found {show(high)}, which is not above min, {show(low)}."))
        elif log and low <= 0:
            self.problems.append(parts["min"].problem(f"found {show(low)}; allowed with log: true: above 0."))
        else:
            return Range(node, low, high, is_whole=float not in types_, log=log)
        return None

    def end(self, key: str, node: Node, strategy: str, number: bool = False) -> tuple[Any] | None:
        """Return a value as the key holds it, in a tuple since it may be null; None, and a problem, if it is wrong."""
        info = self.keys.by_strategy[strategy].get(key, self.keys.known[key])
        checked = self.value(key, node)
        value = checked and held(info, checked, self.problems)
        if value and number and not isinstance(value[0], int | float):
            self.problems.append(node.problem(refused(info, value[0])))
            return None
        return value
