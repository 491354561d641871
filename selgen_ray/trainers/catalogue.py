"""All strategies by name (shipped, installed and from plugin files), and the trial configs built for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selgen_ray.config.trial import TrialConfig
from selgen_ray.errors import ModelError, nearest
from selgen_ray.models.adapters import contradictions, lora_settings_of
from selgen_ray.trainers.plugins import failed_entry_points, import_entry_points
from selgen_ray.trainers.registry import ALIASES, TRAINERS, Strategy, import_shipped
from selgen_ray.trainers.strategy_config import config_model, path_of_knob


def _import_all() -> None:
    import_shipped()
    import_entry_points()


def strategies() -> dict[str, type[Strategy]]:
    """Return name -> class of all strategies, sorted by name."""
    _import_all()
    return dict(sorted(TRAINERS.items()))


def canonical(name: str) -> str:
    """Return the registered name behind `name`, which may be an alias; an unknown name comes back unchanged."""
    _import_all()
    return ALIASES.get(name, name)


def implied(name: str) -> dict[str, Any]:
    """Return the top-level config keys that an alias sets: {'train_on_proxy': True} for 'mixed'."""
    trainer = strategies().get(canonical(name))
    return dict(trainer.implied.get(name, {})) if trainer else {}


def get_trainer(name: str) -> type[Strategy]:
    """Return the trainer class of a strategy name or alias.

    Raises:
        ValueError: there is no such strategy; the message lists the allowed names.
    """
    known = strategies()
    if canonical(name) not in known:
        allowed = sorted([*known, *ALIASES])
        hints = nearest(name, allowed) + failed_entry_points()
        raise ValueError(f"Invalid proxy strategy {name!r}. Allowed: {', '.join(allowed)}.{hints}")
    return known[canonical(name)]


def knob_paths(name: str) -> set[str]:
    """Return the dotted config keys of the knobs of one strategy, such as 'finetune_config.beta_kl'."""
    return {path_of_knob(key, info) for key, (_, info) in get_trainer(name).knobs().items()}


def knob_owners() -> dict[str, list[str]]:
    """Return dotted knob key -> names of the strategies that have it."""
    owners: dict[str, list[str]] = {}
    for name in strategies():
        for path in knob_paths(name):
            owners.setdefault(path, []).append(name)
    return owners


def build_config(raw: dict[str, Any]) -> TrialConfig:
    """Validate a nested config dict against the model of its strategy.

    Raises:
        ValueError: the strategy is unknown, or its alias sets a key to another value than the config.
        pydantic.ValidationError: a key is unknown or a value wrong.
    """
    named = raw.get("proxy_strategy")
    for key, value in implied(str(named)).items():
        if raw.get(key) not in (None, value):
            raise ValueError(f"{key} is {raw[key]}, but proxy_strategy {named} says {value}: leave one of them out")
        raw = {**raw, key: value}
    name = canonical(TrialConfig.model_fields["proxy_strategy"].default if named is None else named)
    return config_model(get_trainer(name)).model_validate({**raw, "proxy_strategy": name})


def continued(config: TrialConfig, own: Mapping[str, Any]) -> TrialConfig:
    """Return the config with an adapter's settings, keys of `finetune_config`.

    Raises:
        pydantic.ValidationError: the strategy refuses them.
    """
    raw = config.model_dump()
    return build_config({**raw, "finetune_config": {**raw["finetune_config"], **own}})


def resolved(config: TrialConfig) -> TrialConfig:
    """Return the config with the settings of the adapter that it continues from, if it names one.

    Raises:
        ModelError: there is no such adapter, or a key contradicts its settings.
    """
    cfg = config.finetune_config
    if cfg.adapter is None:
        return config
    adapter_settings = lora_settings_of(cfg.adapter, cfg.adapter_revision)
    if wrong := contradictions(cfg, adapter_settings):
        raise ModelError("; ".join(f"finetune_config.{key}: {why}" for key, why in wrong.items()))
    return continued(config, adapter_settings)
