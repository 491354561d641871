"""Selection of a sweep's trials: by `--only strategy=kl_divergence`, a trial's name, or a pattern."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from selgen_ray.errors import SelectionError, nearest
from selgen_ray.records.results import flatten
from selgen_ray.syntax.tree import Origin, read_text

if TYPE_CHECKING:
    from selgen_ray.trial.task import TrialTask

_SHORT = {"strategy": "proxy_strategy"}


def parse_only(only: Iterable[str], tasks: Iterable[TrialTask]) -> Callable[[TrialTask], bool]:
    """Return a predicate that accepts the trials for which every 'key=value' holds; commas separate several values.

    A key is 'strategy', 'seed', 'trial' (a pattern of '<setting>/seed_<N>'), or a key of the config, of which the last
    part is enough: 'beta_kl=1,10' for 'finetune_config.beta_kl'.

    Raises:
        SelectionError: no trial has the key, or one of the values.
    """
    configs = {task.trial_id: _flat(task) for task in tasks}
    conditions = [_condition(text, configs) for text in only]
    return lambda task: all(condition(_flat(task)) for condition in conditions)


def _flat(task: TrialTask) -> dict[str, Any]:
    return {"trial": task.name, **flatten(task.config)}


def _condition(text: str, configs: Mapping[str, dict[str, Any]]) -> Callable[[dict[str, Any]], bool]:
    key, mark, wanted = text.partition("=")
    if not (mark and key and wanted):
        raise SelectionError(f"--only {text}: write key=value, such as strategy=kl_divergence")
    key = _SHORT.get(key, key)
    there = {full for config in configs.values() for full in config}
    keys = [full for full in sorted(there) if full == key or full.rpartition(".")[2] == key]
    if not keys:
        raise SelectionError(f"--only {text}: no trial has the key {key!r}.{nearest(key, there)}")
    texts = wanted.split(",")

    def holds(config: dict[str, Any]) -> bool:
        return any(_is(config[full], one, full) for full in keys if full in config for one in texts)

    if not any(holds(config) for config in configs.values()):
        values = sorted({str(config[full]) for config in configs.values() for full in keys if full in config})
        listed = ", ".join(values[:12]) + (", ..." if len(values) > 12 else "")
        raise SelectionError(f"--only {text}: no trial has it. Found: {listed}.{nearest(wanted, values)}")
    return holds


def _is(value: Any, text: str, key: str) -> bool:
    if key == "trial":
        return fnmatch.fnmatchcase(value, text)
    if str(value) == text:
        return True
    node = read_text(text, Origin("--only"), [])
    if node is None or isinstance(value, bool) is not isinstance(node.value, bool):  # 1 is not true
        return False
    return value == node.plain()


def find_trials(wanted: Iterable[str], names: Mapping[str, str]) -> dict[str, str]:
    """Find the trials that a person means.

    Args:
        wanted: names '<setting>/seed_<N>', settings, ids, beginnings of ids (4 characters at least), or patterns with
            * and ?.
        names: trial id -> name, of all trials of the sweep.

    Returns:
        Trial id -> name.

    Raises:
        SelectionError: one of `wanted` fits none; the message names the nearest.
    """
    trials: dict[str, str] = {}
    for text in wanted:
        fits = {i: n for i, n in names.items() if n == text or n.rpartition("/")[0] == text}
        fits = fits or {i: n for i, n in names.items() if len(text) >= 4 and i.startswith(text)}
        fits = fits or {i: n for i, n in names.items() if fnmatch.fnmatchcase(n, text)}
        if not fits:
            raise SelectionError(f"no trial {text!r} in this sweep.{nearest(text, names.values())}")
        trials |= fits
    return trials
