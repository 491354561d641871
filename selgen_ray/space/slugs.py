"""Readable, unique names for the settings of a search space."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from selgen_ray import hashing
from selgen_ray.config.chat_template import is_template
from selgen_ray.config.source import Source
from selgen_ray.config.trial import TrialConfig
from selgen_ray.records.results import flatten
from selgen_ray.space.document import STREAMS
from selgen_ray.space.expansion import Checked, value_of
from selgen_ray.space.spec import Trial
from selgen_ray.trainers import identity

_SLUG_LENGTH = 80
_MISSING = object()
_DIGITS = 6  # of the setting's hash in a slug; more where two slugs would be equal


def unique(trials: list[Checked]) -> tuple[list[Checked], list[tuple[Checked, Checked]]]:
    """Return the first trial of every id, and the pairs (kept trial, duplicate)."""
    first: dict[str, Checked] = {}
    pairs = [(first.setdefault(trial.trial_id, trial), trial) for trial in trials]
    return list(first.values()), [(kept, trial) for kept, trial in pairs if kept is not trial]


def named(trials: list[Checked]) -> list[Trial]:
    """Name the trials with readable slugs: the strategy, what varies within it, a hash of the whole setting."""
    by_strategy: dict[str, list[Checked]] = defaultdict(list)
    for trial in [trial for trial in trials if not trial.config.control]:
        by_strategy[trial.config.proxy_strategy].append(trial)
    keys = {strategy: varying(group) for strategy, group in by_strategy.items()}
    slugs = {trial.setting: slug(trial, keys.get(trial.config.proxy_strategy, [])) for trial in trials}
    shared = {one for one, count in Counter(slugs.values()).items() if count > 1}
    slugs = {key: one + key[_DIGITS:32] if one in shared else one for key, one in slugs.items()}
    return [trial.named(slugs[trial.setting]) for trial in trials]


def varying(trials: list[Checked]) -> list[str]:
    """Return the dotted keys whose values differ between trials of one strategy, seeds aside; files by content."""
    flats = [flatten(trial.settings) for trial in trials]
    keys = dict.fromkeys(key for flat in flats for key in flat if key not in STREAMS)
    differing = [key for key in keys if len({repr(flat.get(key)) for flat in flats}) > 1]
    # the rows of a source that also has options
    whole = [key.removesuffix(".rows") if key.startswith("data.") else key for key in differing]
    return list(dict.fromkeys(key.removeprefix(f"{identity.FILES}.") for key in whole))


def slug(trial: Checked, keys: list[str]) -> str:
    """Return the name of a setting: strategy, values of `keys`, hash ('kl_divergence_beta_kl-10_1a2b3c').

    That of a control is its name ('control_oracle_1a2b3c').
    """
    if control := trial.config.control:
        return f"control_{_short(control)[: _SLUG_LENGTH // 2]}_{trial.setting[:_DIGITS]}"
    return _readable(trial.config, keys, trial.setting[:_DIGITS])


def with_keys(trial: Trial, keys: Iterable[str], mark: str = "") -> Trial:
    """Return a trial under another name, in which these keys have their values; the hash at its end stays.

    Args:
        mark: what else the name says, before the hash.
    """
    there = [key for key in keys if value_of(trial.config, key, _MISSING) is not _MISSING]
    end = f"{mark}_" if mark else ""
    return trial.model_copy(update={"slug": _readable(trial.config, there, end + trial.slug.rpartition("_")[2])})


def _readable(config: TrialConfig, keys: Iterable[str], end: str) -> str:
    parts = [f"{key.rpartition('.')[2]}-{_short(value_of(config, key))}" for key in keys]
    readable = "_".join([config.proxy_strategy, *parts])
    return f"{readable[: _SLUG_LENGTH - len(end) - 1].rstrip('._-')}_{end}"


def _short(value: Any) -> str:
    """Format a value as a part of a folder name."""
    if isinstance(value, list | tuple):
        return "-".join(map(_short, value))
    if isinstance(value, Source):
        value = value.path
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if value is None or isinstance(value, bool):
        text = text.lower()
    if is_template(text):
        return hashing.digest({"text": text})[:_DIGITS]
    name = text.rsplit("/", 1)[-1]  # of a path or a hub id
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".") or "empty"
