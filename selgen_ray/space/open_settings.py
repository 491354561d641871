"""A search space before it is multiplied out: for those who choose the values themselves, such as Ray's searchers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from selgen_ray.errors import Problem
from selgen_ray.space.ranges import Range
from selgen_ray.syntax.keys import Flat


@dataclass(frozen=True)
class OpenSetting:
    """A strategy's section of a search space, an override or a control, with its axes left open.

    Attributes:
        section: its place in the file, such as 'strategies.kl_divergence' or 'overrides[0]'.
        strategy: its proxy_strategy.
        fixed: the values that it has whatever is chosen, those of the base included.
        axes: each a list of alternatives, of which a trial takes one.
        ranges: dotted key -> the values that it is searched over.
        is_listed: it is a strategy's section, which its name alone stands for.
    """

    section: str
    strategy: str
    fixed: Flat
    axes: tuple[list[Flat], ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict[str, Range])
    is_listed: bool = True


@dataclass(frozen=True)
class OpenSpace:
    """All open settings of a search space.

    Attributes:
        settings: in the order of the file.
        seeds: as the file has them; () where it names none.
        excluded: the places of its exclusions, which open settings do not heed.
    """

    settings: tuple[OpenSetting, ...] = ()
    seeds: tuple[int, ...] = ()
    excluded: tuple[Problem, ...] = ()
