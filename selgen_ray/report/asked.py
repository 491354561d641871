"""Decide what a report is of: its axes and what the front requires, as given, else as the sweeps' own `pareto` says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from selgen_ray.errors import nearest
from selgen_ray.records.requirement import parse_requirement
from selgen_ray.records.results import SUMMARIES


@dataclass(frozen=True)
class Pareto:
    """The section `pareto` of a search space.

    Attributes:
        x, y: a headline or 'set/metric'.
        require: such as 'coherence >= 0.5'; '': nothing.
    """

    x: str = "capability"
    y: str = "alignment"
    require: str = ""

    def __str__(self) -> str:
        return f"{self.x} and {self.y}" + (f", where {self.require}" if self.require else "")


_KEYS = tuple(key.name for key in fields(Pareto))


def asked(
    x: str | None, y: str | None, require: str | None, spaces: Iterable[tuple[str, Mapping[str, Any] | None]]
) -> tuple[Pareto, tuple[str, ...]]:
    """Return what the report is of, and notes on what was not clear.

    Args:
        x, y, require: as somebody asked for them; None: what the first of the sweeps says.
        spaces: of each sweep that keeps its search space, its name and the parsed space; None: it cannot be read.
    """
    given = {key: value for key, value in zip(_KEYS, (x, y, require), strict=True) if value is not None}
    own: list[tuple[str, Pareto]] = []
    notes: list[str] = []
    for name, space in spaces:
        section = {} if space is None else space.get("pareto") or {}
        problems = ["it is no search space"] if space is None else list(_problems(section, given))
        sound = {} if problems else {key: section[key] for key in _KEYS if section.get(key) is not None}
        own.append((name, Pareto(**{**sound, **given})))
        if problems and given.keys() != set(_KEYS):
            taken = f"this report is of {own[-1][1]}"
            notes.append(f"{name}/space.yaml does not say what the sweep is judged by ({'; '.join(problems)}): {taken}")
    if len({pareto for _, pareto in own}) > 1:
        notes.append(_differ(own))
    return (own[0][1] if own else Pareto(**given)), tuple(notes)


def _problems(section: Any, given: Mapping[str, str]) -> Iterable[str]:
    """Yield what is wrong in a section that somebody may have edited; what was given instead does not matter."""
    if not isinstance(section, dict):
        yield f"pareto: found {section!r:.80}, where a mapping belongs"
        return
    for key in (key for key in _KEYS if section.get(key) is not None and key not in given):
        value: Any = section[key]
        if not isinstance(value, str):
            yield f"pareto.{key}: found {value!r:.80}, where a text belongs"
        elif key != "require":
            yield from (f"pareto.{key}: found {value!r:.80}; {problem}" for problem in [axis_problem(value)] if problem)
        else:
            try:
                parse_requirement(value)
            except ValueError as error:
                yield f"pareto.{key}: {error}"


def _differ(own: Sequence[tuple[str, Pareto]]) -> str:
    sweeps_of: dict[Pareto, list[str]] = {}
    for name, pareto in own:
        sweeps_of.setdefault(pareto, []).append(name)
    texts = [f"{', '.join(names)}: {pareto}" for pareto, names in sweeps_of.items()]
    return (
        f"the sweeps are judged by different things ({'; '.join(texts)}): this report is of what {own[0][0]} says, "
        "and --x, --y and --require ask for something else"
    )


def axis_problem(name: str) -> str:
    """Return why nothing of that name can be an axis, and what is allowed; '' if it can be one."""
    if name in SUMMARIES or re.fullmatch(r"[^/\s]+/\S+", name):
        return ""
    return f"allowed are {', '.join(SUMMARIES)}, or the 'set/metric' of an evaluation.{nearest(name, SUMMARIES)}"
