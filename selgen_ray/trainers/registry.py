"""Strategy name -> trainer class, and the config model of each strategy.

A trainer registers itself by being defined. Its knobs, declared with `knob`, become typed keys of
`finetune_config` for that strategy alone, so they are validated, documented and part of the identity.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from pydantic import create_model
from pydantic.fields import FieldInfo

from selgen_ray.config import FinetuneConfig, TrialConfig, setting
from selgen_ray.errors import nearest

if TYPE_CHECKING:
    from selgen_ray.trainers.base import BaseTrainer

_TRAINERS: dict[str, type[BaseTrainer]] = {}
_ALIASES: dict[str, str] = {}


def knob(default: Any, doc: str, *, section: str = "finetune_config", **bounds: Any) -> Any:
    """Declare a knob of a strategy as a class attribute: `beta_kl: float = knob(1.0, "...", ge=0)`.

    Args:
        default: the value when the key is absent.
        doc: one line for the user.
        section: where the key lives in a config: 'finetune_config', or '' for the top level.
        **bounds: pydantic constraints (ge, gt, le, lt, ...).
    """
    field: FieldInfo = setting(default, doc, **bounds)
    field.json_schema_extra = {"identity": True, "section": section}
    return field


def register(trainer: type[BaseTrainer]) -> None:
    """Add `trainer` under its `proxy_strategy_name` and aliases.

    Raises:
        ValueError: another class already has that name.
    """
    name = trainer.proxy_strategy_name
    old = _TRAINERS.get(name)
    if old is not None and (old.__module__, old.__qualname__) != (trainer.__module__, trainer.__qualname__):
        raise ValueError(f"proxy strategy {name!r} is already taken by {old.__module__}.{old.__qualname__}")
    _TRAINERS[name] = trainer
    _ALIASES.update(dict.fromkeys(trainer.aliases, name))
    config_model.cache_clear()


@functools.cache
def _import_shipped() -> None:
    import selgen_ray.trainers as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def strategies() -> dict[str, type[BaseTrainer]]:
    """All registered strategies, by name."""
    _import_shipped()
    return dict(sorted(_TRAINERS.items()))


def canonical(name: str) -> str:
    """The registered name behind `name`, which may be an alias; unknown names come back unchanged."""
    _import_shipped()
    return _ALIASES.get(name, name)


def get_trainer(name: str) -> type[BaseTrainer]:
    """The trainer class of a strategy name or alias.

    Raises:
        ValueError: no such strategy; the message lists what is allowed.
    """
    known = strategies()
    if canonical(name) not in known:
        allowed = sorted([*known, *_ALIASES])
        raise ValueError(f"Invalid proxy strategy {name!r}. Allowed: {', '.join(allowed)}.{nearest(name, allowed)}")
    return known[canonical(name)]


def knob_paths(name: str) -> set[str]:
    """Dotted config keys of the knobs of one strategy, such as 'finetune_config.beta_kl'."""
    return {_path(key, info) for key, (_, info) in get_trainer(name).knobs().items()}


def knob_owners() -> dict[str, list[str]]:
    """Dotted knob key -> the strategies that have it."""
    owners: dict[str, list[str]] = {}
    for name in strategies():
        for path in knob_paths(name):
            owners.setdefault(path, []).append(name)
    return owners


def _path(key: str, info: FieldInfo) -> str:
    extra = info.json_schema_extra
    section = extra.get("section", "") if isinstance(extra, dict) else ""
    return f"{section}.{key}" if section else key


@functools.cache
def config_model(name: str) -> type[TrialConfig]:
    """The trial config model of one strategy: `TrialConfig` plus the strategy's knobs."""
    knobs = get_trainer(name).knobs()
    inside: dict[str, Any] = {k: v for k, v in knobs.items() if _path(k, v[1]) != k}
    top: dict[str, Any] = {k: v for k, v in knobs.items() if k not in inside}
    finetune: type[FinetuneConfig] = create_model(f"FinetuneConfig_{name}", __base__=FinetuneConfig, **inside)
    return create_model(
        f"TrialConfig_{name}",
        __base__=TrialConfig,
        finetune_config=(finetune, setting(finetune(), "how the model is fine-tuned")),
        **top,
    )


def build_config(raw: dict[str, Any]) -> TrialConfig:
    """Validate a nested config dict against the model of its strategy.

    Raises:
        ValueError: unknown strategy. pydantic.ValidationError: unknown key or wrong value.
    """
    name = canonical(raw.get("proxy_strategy", "naive"))
    get_trainer(name)
    return config_model(name).model_validate({**raw, "proxy_strategy": name})
