"""The search space: a YAML file in, a checked `SweepSpec` with the list of its trials out."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

from selgen_ray.errors import Problem, SpecError
from selgen_ray.space.document import Document, read_document, read_space
from selgen_ray.space.expansion import Checked, expand, named, unique, without_excluded
from selgen_ray.space.keys import explain, fields, nested, registered_keys
from selgen_ray.space.models import Pareto, Resources, SweepSettings, SweepSpec, Trial, plan_counts
from selgen_ray.space.plugins import use_plugins

__all__ = ["Pareto", "Resources", "SweepSpec", "Trial", "load_space", "plan_counts"]


def load_space(path: str | Path) -> SweepSpec:
    """Read a search space and write out its trials.

    Args:
        path: a YAML file. Paths in it are looked up beside it, then in the current directory.

    Raises:
        SpecError: with everything that is wrong, each with file, line and key. A plugin that cannot be used comes
            first and alone: without it, keys are not known.
    """
    problems: list[Problem] = []
    tree = read_space(Path(path), problems)
    used = use_plugins(tree, problems) if tree else None
    if used is None:
        raise SpecError(_in_order(problems, str(path)))
    tree, plugins = used
    keys = registered_keys()
    document = read_document(tree, keys, problems)
    settings = _settings(document, Path(path), problems)
    trials = expand(document, keys, settings.name if settings else "", problems)
    trials, excluded = without_excluded(trials, document, keys, problems)
    if problems or settings is None:
        raise SpecError(_in_order(problems, str(path)))
    kept, repeated = unique(trials)
    planned = named(kept)
    merged = _merged(repeated, {trial.trial_id: trial.name for trial in planned})
    notes = [*document.notes, *excluded, *merged]
    return SweepSpec(**dict(settings), trials=planned, notes=notes, plugin_sources=plugins)


def _settings(document: Document, path: Path, problems: list[Problem]) -> SweepSettings | None:
    default = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "sweep"
    try:
        return SweepSettings.model_validate({"name": default} | nested(document.settings))
    except ValidationError as error:
        problems += explain(error, document.settings, fields(SweepSettings), document.origin)
        return None


def _merged(pairs: list[tuple[Checked, Checked]], names: dict[str, str]) -> list[str]:
    sources: dict[str, list[str]] = {}
    for kept, again in pairs:
        listed = sources.setdefault(names[kept.trial_id], [kept.candidate.origin.key])
        listed.append(again.candidate.origin.key)
    return [f"{name} is given {len(s)} times and runs once: {', '.join(s)}" for name, s in sources.items()]


def _in_order(problems: list[Problem], main: str) -> list[Problem]:
    unique_ones = dict.fromkeys(problems)
    return sorted(unique_ones, key=lambda p: (p.file != main, p.file, p.line or 0, p.key))
