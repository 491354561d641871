"""Evaluations of one trial that count as settings of their own: its finished weights with another value of a knob.

An evaluation whose version is called 'key=value', such as 'safe_lora_threshold=0.3', gives the result that a trial with
that value would have, since the training does not depend on it. Other edits of the weights ('steered', 'projected') are
the trial's own result, and models on the way to it ('aligned') belong to no setting.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selgen_ray.records.results import SUMMARIES, TrialResult, flatten
from selgen_ray.records.status import PREFERENCE
from selgen_ray.report.knob_names import value_text

# lists of further values to evaluate: they do not change the weights of a setting
SWEEPS = ("finetune_config.safe_lora_sweep_thresholds",)
# keys that name a trial and do not change its result, and its seed: the seeds of a setting may differ in them
NAMES = (
    *("proxy_strategy", "seed", "experiment_name", "control", "warm_start"),
    *("finetune_config.output_dir", "finetune_config.finetuned_model_id"),
)
STREAMS = ("data_seed", "model_seed")


@dataclass(frozen=True)
class Group:
    """The trials of one setting.

    Attributes:
        trials: its trials, with the setting's values in their config; after joining, one for each seed.
        own: ids of the trials that were configured so; the others were evaluated with the setting's value beside their
            own.
        sources: the configs that the trials were run with, as JSON; empty where no two groups can be one setting.
    """

    trials: tuple[TrialResult, ...]
    own: tuple[str, ...]
    sources: frozenset[str]


def with_versions(groups: Iterable[Sequence[TrialResult]]) -> list[Group]:
    """Return the groups of one strategy, and one more for each 'key=value' that a group evaluated beside its own value.

    Groups are joined where they are one setting: one that was run by itself and also evaluated beside another, or whose
    trials differ only in the values evaluated beside their own. Where a seed would then count twice, one trial is kept.

    Args:
        groups: the trials of each setting as configured.
    """
    groups = list(groups)
    sweeps = any(flatten(r.config).get(key) for group in groups for r in group for key in SWEEPS)
    if not sweeps and not any("=" in version for group in groups for r in group for version in r.eval_versions):
        return [Group(tuple(group), tuple(r.trial_id for r in group), frozenset()) for group in groups]
    parts = [part for group in groups for part in _parts(group)]
    return list(_joined(parts)) if sweeps or any(not part.own for part in parts) else parts


def at_version(result: TrialResult, version: str) -> TrialResult:
    """Return the trial as if configured with the value of `version`; its evaluations then end with that version.

    A trial without such an evaluation gets no headline, and no evaluation but the base model's.

    Args:
        version: 'key=value' of a knob that the trial's config has.
    """
    last = result.eval_versions.index(version) if version in result.eval_versions else None
    end = 1 if last is None else last + 1
    series = {name: {m: v[:end] for m, v in metrics.items()} for name, metrics in result.eval_results.items()}
    if last is None:  # the base model's metrics must not pass for the last ones
        series = {name: {m: [*v, None] for m, v in metrics.items()} for name, metrics in series.items()}
    path = _path(result, version)
    assert path, f"{version} names no knob of this trial"
    value = _value(version.partition("=")[2], flatten(result.config)[path])
    cut: dict[str, Any] = {name: getattr(result, name)[:end] for name in ("eval_epochs", "eval_steps", "eval_versions")}
    shown = result.model_copy(update={**cut, "eval_results": series, "config": _replaced(result.config, path, value)})
    scores = {name: shown.metric(shown.metric_of(name)) for name in SUMMARIES}
    return shown.model_copy(update=scores)


def _parts(group: Sequence[TrialResult]) -> Iterator[Group]:
    """Yield a group as it was configured, then one for each other value that any of its trials evaluated."""
    sources = frozenset(_written(r) for r in group)
    yield Group(tuple(group), tuple(r.trial_id for r in group), sources)
    for version in dict.fromkeys(v for r in group for v in r.eval_versions if _is_other_value(r, v)):
        # an older result may lack the knob: nothing says what another value of it would give
        yield Group(tuple(at_version(r, version) for r in group if _path(r, version)), (), sources)


def _is_other_value(result: TrialResult, version: str) -> bool:
    """Return whether a version is the 'key=value' of a knob this trial has, with another value than configured."""
    path, text = _path(result, version), version.partition("=")[2]
    return path is not None and value_text(flatten(result.config)[path]) != text


def _path(result: TrialResult, version: str) -> str | None:
    """Return the dotted key of the knob that 'key=value' names; None where it names none, or more than one."""
    key, mark, _ = version.partition("=")
    if not mark:
        return None
    paths = [path for path in flatten(result.config) if path.rpartition(".")[2] == key]
    return paths[0] if len(paths) == 1 else None


def _value(text: str, configured: Any) -> Any:
    """Parse the value of a version: JSON, else the text itself; a float where the configured value is one."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return float(value) if isinstance(configured, float) and isinstance(value, int) else value


def _replaced(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    head, _, tail = path.partition(".")
    return {**config, head: _replaced(config[head], tail, value) if tail else value}


def _written(result: TrialResult, without: Sequence[str] = ()) -> str:
    """Return the config as JSON without the keys that name the trial, to compare configs by."""
    flat = flatten(result.config)
    names = {*NAMES, *without, *(s for s in STREAMS if flat.get(s) == flat.get("seed"))}
    return json.dumps({k: v for k, v in flat.items() if k not in names}, sort_keys=True, default=str)


def _joined(groups: Iterable[Group]) -> Iterator[Group]:
    """Join the groups that are one setting."""
    by_config: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        same = by_config[_written(group.trials[0], SWEEPS)]
        twin = next((i for i, other in enumerate(same) if _same_weights(group, other)), None)
        if twin is None:
            same.append(group)
        else:
            same[twin] = _join(same[twin], group)
    for same in by_config.values():
        yield from same


def _same_weights(a: Group, b: Group) -> bool:
    """Return whether two groups with equal configs are one setting: the files behind the configs may differ."""
    if a.sources & b.sources:  # run with the same config, yet grouped apart: something behind the config differs
        return False
    known = [{r.seed: (r.model_hash, r.data_hashes) for r in group.trials} for group in (a, b)]
    return all(known[0][seed] == known[1][seed] for seed in known[0].keys() & known[1].keys())


def _join(a: Group, b: Group) -> Group:
    both = Group((*a.trials, *b.trials), (*a.own, *b.own), a.sources | b.sources)
    best: dict[int, TrialResult] = {}
    for trial in sorted(both.trials, key=lambda r: (_rank(r), r.trial_id not in both.own)):
        best.setdefault(trial.seed, trial)
    return replace(both, trials=tuple(best.values()))


def _rank(trial: TrialResult) -> tuple[int, bool]:
    return PREFERENCE.index(trial.status), trial.capability is None or trial.alignment is None
