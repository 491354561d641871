"""Loading of a search space: a YAML file in, a checked `SweepSpec` with its trials out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selgen_ray.errors import Problem, SpecError, StorageError
from selgen_ray.models import adapters
from selgen_ray.space.document import Document, read_document, read_space, whole_space
from selgen_ray.space.expansion import Checked, Checker, expand, without_excluded
from selgen_ray.space.load_plugins import use_plugins
from selgen_ray.space.opening import open_space
from selgen_ray.space.places import Places
from selgen_ray.space.search_trials import as_searches, find_searches
from selgen_ray.space.slugs import named, unique
from selgen_ray.space.spec import Pareto, Resources, SearchSpec, StoppingRule, SweepSettings, SweepSpec, Trial
from selgen_ray.space.tracker_options import misplaced, use_trackers
from selgen_ray.storage import locations
from selgen_ray.syntax.keys import explain, fields, nested, registered_keys
from selgen_ray.syntax.tree import Node, merge, tree_of

__all__ = ["Pareto", "Resources", "SearchSpec", "StoppingRule", "SweepSpec", "Trial", "load_space"]


def load_space(path: str | Path, below: Node | None = None, axes: Node | None = None) -> SweepSpec:
    """Read a search space and write out its trials.

    Args:
        path: a YAML file. Paths in it are looked up beside it, then in the current directory.
        below: sections that the file is laid over, as if it extended them.
        axes: `grid` and `zip` of the file that `below` comes from; they multiply the strategies too, but for keys that
            the file itself gives.

    Raises:
        SpecError: holds everything that is wrong, each problem with file, line and key. A plugin that cannot be used
            is reported first and alone: without it, keys are not known.
    """
    problems: list[Problem] = []
    imported: list[str] = []
    tree = read_space(Path(path), problems, imported)
    if tree and below:
        tree = merge(below, tree)
    return _space(tree, path, problems, imported, axes)


def load_tree(tree: Node) -> SweepSpec:
    """Write out the trials of a search space that is read already. Raises SpecError."""
    return _space(tree, tree.origin.file, [], [])


def load_content(content: Mapping[str, Any]) -> tuple[SweepSpec, Node]:
    """Write out the trials of a search space that is given as a dict; return them, and the search space as nodes.

    Paths in it are looked up in the current directory.

    Raises:
        SpecError: holds everything that is wrong, each problem with the path of its key.
    """
    problems: list[Problem] = []
    imported: list[str] = []
    tree = whole_space(tree_of(content, problems), problems, imported)
    spec = _space(tree, "", problems, imported)
    assert tree is not None  # else a SpecError was raised
    return spec, tree


def _space(
    tree: Node | None, path: str | Path, problems: list[Problem], imported: list[str], further: Node | None = None
) -> SweepSpec:
    used = use_plugins(tree, problems) if tree else None
    if used is None:
        raise SpecError(_in_order(problems, str(path)))
    tree, plugins = used
    tree = use_trackers(tree, problems)
    keys = registered_keys()
    document = read_document(tree, keys, problems, further)
    settings = _settings(document, Path(path), problems)
    checker = Checker(document, keys, settings.name if settings else "")
    trials = expand(checker, problems)
    templates = find_searches(checker, problems)
    samples = [trial for _, some in templates for trial in some]
    trials, excluded = without_excluded(trials, samples, checker, problems)
    if problems or settings is None:
        raise SpecError(_in_order(problems, str(path)))
    searches = as_searches(templates, settings.pareto)
    if not trials and not searches:
        raise SpecError([document.origin.problem("no trial is left: `exclude` matches all of them.")])
    if wrong := _early_stopping(settings, document, [*trials, *samples]):
        raise SpecError(wrong)
    if wrong := _coherence(settings, document, [*trials, *samples]):
        raise SpecError(wrong)
    kept, repeated = unique(trials)
    planned = named(kept)
    merged = _merged(repeated, {trial.trial_id: trial.name for trial in planned})
    continued = adapters.adapter_notes(trial.config.finetune_config for trial in [*kept, *samples])
    notes = [*imported, *document.notes, *excluded, *merged, *continued]
    axes = {key: document.settings[key].origin for key in ("pareto.x", "pareto.y") if key in document.settings}
    places = Places.of(str(path), [(trial.candidate.flat, trial.config) for trial in [*kept, *samples]], axes)
    return SweepSpec(
        **dict(settings),
        trials=planned,
        searches=tuple(searches),
        notes=notes,
        plugin_sources=plugins,
        places=places,
        open_space=open_space(document, keys),
    )


def _settings(document: Document, path: Path, problems: list[Problem]) -> SweepSettings | None:
    default = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "sweep"
    try:
        settings = SweepSettings.model_validate({"name": default} | nested(document.settings))
        wrong = misplaced(settings.trackers, settings.storage_path)
        problems += [document.settings["trackers"].problem(message) for message in wrong]
        locations.check_location(settings.storage_path)
        return settings
    except ValidationError as error:
        problems += explain(error, document.settings, fields(SweepSettings), document.origin)
    except StorageError as error:  # without the value, which may hold a secret
        problems.append(document.settings["storage_path"].problem(str(error).removeprefix("storage_path ")))
    return None


def _early_stopping(settings: SweepSettings, document: Document, trials: list[Checked]) -> list[Problem]:
    """Return problems of early stopping: it keeps strategies that the sweep lacks, or could never stop a setting."""
    rule, problems = settings.early_stopping, []
    if rule.scheduler is None:
        return []
    strategies = {trial.config.proxy_strategy for trial in trials}
    for node in document.settings["early_stopping.keep"].value if rule.keep else ():
        if node.value not in strategies:
            message = f"found {node.value!r}, but the sweep's strategies are {', '.join(sorted(strategies))}."
            problems.append(node.problem(message))
    if any(trial.config.evals.during.every == "never" for trial in trials):
        place = document.settings["early_stopping.scheduler"]
        problems.append(place.problem("no setting could ever be stopped: evals.during.every is never."))
    configs = [trial.config.finetune_config for trial in trials]
    longest = max(config.epochs for config in configs)
    if rule.grace_epochs >= longest and all(config.max_steps is None for config in configs):
        key = "grace_epochs" if "early_stopping.grace_epochs" in document.settings else "scheduler"
        message = f"no setting could ever be stopped: grace_epochs is {rule.grace_epochs}, the longest trial has"
        place = document.settings[f"early_stopping.{key}"]
        problems.append(place.problem(f"{message} {longest} epoch{'s' if longest > 1 else ''}."))
    return problems


def _coherence(settings: SweepSettings, document: Document, trials: list[Checked]) -> list[Problem]:
    """Return a problem for each key that asks for coherence if some trials measure none."""
    pareto, rule = settings.pareto, settings.early_stopping
    asked = {"pareto.x": [pareto.x], "pareto.y": [pareto.y], "pareto.require": [c.metric for c in pareto.conditions]}
    asked["early_stopping.metric"] = [rule.metric]
    configs = [trial.config.evals for trial in trials]
    if not any("coherence" in names for names in asked.values()):
        return []
    if all(config.coherence or config.judge.model for config in configs):
        return []
    message = (
        "asks for coherence, but not every trial has it: give evals.judge.model, or evals.coherence: <set/metric>."
    )
    return [document.settings[key].problem(message) for key, names in asked.items() if "coherence" in names]


def _merged(pairs: list[tuple[Checked, Checked]], names: dict[str, str]) -> list[str]:
    sources: dict[str, list[str]] = {}
    for kept, again in pairs:
        listed = sources.setdefault(names[kept.trial_id], [kept.candidate.origin.key])
        listed.append(again.candidate.origin.key)
    return [f"{name} is given {len(s)} times and runs once: {', '.join(s)}" for name, s in sources.items()]


def _in_order(problems: list[Problem], main: str) -> list[Problem]:
    unique_ones = dict.fromkeys(problems)
    return sorted(unique_ones, key=lambda p: (p.file != main, p.file, p.line or 0, p.key))
