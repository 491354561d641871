"""Settings of the first generation that differ in what is left out of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence

from selgen_ray.errors import Problem
from selgen_ray.first_generation.convert import leaves
from selgen_ray.first_generation.record import Converted, Record
from selgen_ray.syntax.keys import Flat, Keys
from selgen_ray.syntax.tree import Node, merge, show

_SHOWN = 5


def lost_differences(
    below: Node,
    overrides: Sequence[Node],
    base: Converted,
    converted: Sequence[Converted],
    keys: Keys,
    told_elsewhere: Collection[str] = (),
) -> list[Problem]:
    """Return a problem for each key in which settings differ, and which has no counterpart or is all they differ in.

    `[{"train_on_task": true}, {"train_on_task": false}]` would else become `overrides: [{}, {}]`.

    Args:
        below, overrides: as the files have them.
        base, converted: what became of each.
        told_elsewhere: keys that somebody else refuses.
    """
    settings = [dict(leaves(merge(below, override), keys)) for override in overrides]
    own = [dict(leaves(override, keys)) for override in overrides]
    left_out: dict[str, Record] = {}
    for record in (record for part in (base, *converted) for record in part.records if record.to is None):
        if record.key not in left_out or record.lost:
            left_out[record.key] = record
    differing = {
        key: record for key, record in left_out.items() if key not in told_elsewhere and _differ(key, settings)
    }
    refused = {key for key, record in differing.items() if record.lost} | set(told_elsewhere)
    problems = [_problem(key, differing[key].why, settings, own) for key in differing if key in refused]
    for group in _alike(base, converted):
        alone = [key for key in differing if _differ(key, [settings[i] for i in group])]
        if alone and not any(key in refused for key in alone):
            numbers = ", ".join(f"[{i}]" for i in group)
            why = f"{differing[alone[0]].why}; without it the settings {numbers} are one"
            problems.append(_problem(alone[0], why, [settings[i] for i in group], [own[i] for i in group]))
    return problems


def _differ(key: str, settings: Sequence[Flat]) -> bool:
    return len({_text(setting, key) for setting in settings}) > 1


def _text(setting: Flat, key: str) -> str:
    """The value of a key as text; a key that is not there says as much as null."""
    return show(setting[key].plain()) if key in setting and setting[key].value is not None else "nothing"


def _problem(key: str, why: str, settings: Sequence[Flat], own: Sequence[Flat]) -> Problem:
    values = list(dict.fromkeys(_text(setting, key) for setting in settings))
    shown = ", ".join(values[:_SHOWN]) + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")
    written = next(flat[key] for flat in (*own, *settings) if key in flat)
    return written.problem(
        f"settings differ in {key}, which would be left out: found {shown}. Why: {why}. Allowed: one value in all "
        "settings; or say with keys of today what it did, and take it out of the old files."
    )


def _alike(base: Converted, converted: Sequence[Converted]) -> Iterator[list[int]]:
    """Numbers of the overrides that are one setting in today's keys."""
    groups: dict[str, list[int]] = {}
    for i, one in enumerate(converted):
        values = {to: node.plain() for to, node in (base.values | one.values).items()}
        known = {to: value for to, value in values.items() if value is not None}
        groups.setdefault(json.dumps(known, sort_keys=True, default=str), []).append(i)
    return (group for group in groups.values() if len(group) > 1)
