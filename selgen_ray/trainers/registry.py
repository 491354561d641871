"""Strategy name -> trainer class, and the config model of each strategy.

A trainer registers itself by being defined. Its knobs, declared with `knob`, become typed keys of
`finetune_config` for that strategy alone, so they are validated, documented and part of the identity.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import Field, create_model, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.config.trial import TrialConfig
from selgen_ray.errors import nearest
from selgen_ray.schema import setting

if TYPE_CHECKING:
    from selgen_ray.trainers.base import BaseTrainer

_TRAINERS: dict[str, type[BaseTrainer]] = {}
_ALIASES: dict[str, str] = {}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def knob(
    default: Any,
    doc: str,
    *,
    section: str = "finetune_config",
    file: bool = False,
    identity: bool = True,
    **bounds: Any,
) -> Any:
    """Declare a knob of a strategy as a class attribute: `beta_kl: float = knob(1.0, "...", ge=0)`.

    Args:
        default: the value when the key is absent.
        doc: one line for the user.
        section: where the key lives in a config: 'finetune_config', or '' for the top level.
        file: the value is the path of a file; one in a search space is made absolute. If its content decides the
            result, the trainer's `input_files` names it.
        identity: the value can change the result; False where it says only where a file is, or what is logged.
        **bounds: pydantic constraints (ge, gt, le, lt, ...).
    """
    extra: JsonDict = {"identity": identity, "section": section, "file": file}
    return Field(default, description=doc, json_schema_extra=extra, **bounds)


def register(trainer: type[BaseTrainer]) -> None:
    """Add `trainer` under its `proxy_strategy_name` and its own aliases; the same class once more replaces itself.

    Raises:
        ValueError: another class already has one of the names, or the name cannot be a folder's and a key's.
    """
    name = trainer.proxy_strategy_name
    trainer.aliases = vars(trainer).get("aliases", ())  # those it inherits are another strategy's
    trainer.implied = vars(trainer).get("implied", {})
    given: tuple[Any, ...] = (name, *trainer.aliases)  # of a plugin, perhaps
    for one in given:
        if not isinstance(one, str) or not _NAME.fullmatch(one):
            raise ValueError(f"proxy strategy {one!r}: allowed: letters, digits, '_' and '-', a letter first")
        old = _TRAINERS.get(_ALIASES.get(one, one))
        if old is not None and (old.__module__, old.__qualname__) != (trainer.__module__, trainer.__qualname__):
            raise ValueError(f"proxy strategy {one!r} is already taken by {old.__module__}.{old.__qualname__}")
    _TRAINERS[name] = trainer
    _ALIASES.update(dict.fromkeys(trainer.aliases, name))
    config_model.cache_clear()


def registered() -> dict[str, type[BaseTrainer]]:
    """The strategies that are registered so far; nothing is imported."""
    return dict(_TRAINERS)


def forget(module: str) -> None:
    """Take back the strategies that a module defined."""
    for name in [name for name, trainer in _TRAINERS.items() if trainer.__module__ == module]:
        del _TRAINERS[name]
        for alias in [alias for alias, target in _ALIASES.items() if target == name]:
            del _ALIASES[alias]
    config_model.cache_clear()


@functools.cache
def _import_shipped() -> None:
    import selgen_ray.trainers as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def _import_all() -> None:
    _import_shipped()
    from selgen_ray.trainers import plugins  # late: it imports this module

    plugins.import_entry_points()


def knobs_of(trainer: type) -> dict[str, tuple[Any, FieldInfo]]:
    """Name -> (type, field) of the knobs of a class, inherited ones first. Raises TypeError: one has no type."""
    found: dict[str, tuple[Any, FieldInfo]] = {}
    for owner in reversed(trainer.__mro__):
        fields = {k: v for k, v in vars(owner).items() if isinstance(v, FieldInfo)}
        annotations = {k: v for k, v in inspect.get_annotations(owner).items() if k in fields}
        if untyped := fields.keys() - annotations.keys():
            raise TypeError(f"{owner.__name__}.{min(untyped)}: write its type, as in `x: float = knob(...)`")
        space = getattr(sys.modules.get(owner.__module__), "__dict__", {})
        hints = get_type_hints(SimpleNamespace(__annotations__=annotations), globalns=space)
        found |= {k: (hints[k], v) for k, v in fields.items()}
    return found


def strategies() -> dict[str, type[BaseTrainer]]:
    """All registered strategies, by name."""
    _import_all()
    return dict(sorted(_TRAINERS.items()))


def canonical(name: str) -> str:
    """The registered name behind `name`, which may be an alias; unknown names come back unchanged."""
    _import_all()
    return _ALIASES.get(name, name)


def implied(name: str) -> dict[str, Any]:
    """Top-level config keys that an alias says as well, such as 'mixed': {'train_on_proxy': True}."""
    trainer = strategies().get(canonical(name))
    return dict(trainer.implied.get(name, {})) if trainer else {}


def get_trainer(name: str) -> type[BaseTrainer]:
    """The trainer class of a strategy name or alias.

    Raises:
        ValueError: no such strategy; the message lists what is allowed.
    """
    known = strategies()
    if canonical(name) not in known:
        from selgen_ray.trainers import plugins

        allowed = sorted([*known, *_ALIASES])
        hints = nearest(name, allowed) + plugins.failed_entry_points()
        raise ValueError(f"Invalid proxy strategy {name!r}. Allowed: {', '.join(allowed)}.{hints}")
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
    trainer = get_trainer(name)
    knobs = trainer.knobs()
    inside: dict[str, Any] = {k: v for k, v in knobs.items() if _path(k, v[1]) != k}
    top: dict[str, Any] = {k: v for k, v in knobs.items() if k not in inside}
    finetune: type[FinetuneConfig] = create_model(f"FinetuneConfig_{name}", __base__=FinetuneConfig, **inside)
    return create_model(
        f"TrialConfig_{name}",
        __base__=TrialConfig,
        __validators__={"check": model_validator(mode="after")(_check)},  # type: ignore[dict-item]
        finetune_config=(finetune, setting(finetune(), "how the model is fine-tuned")),
        **top,
    )


def _check(config: TrialConfig) -> TrialConfig:
    from selgen_ray.evals.checking import check  # late: metrics need torch

    get_trainer(config.proxy_strategy).check(config)
    check(config.evals)
    return config


def build_config(raw: dict[str, Any]) -> TrialConfig:
    """Validate a nested config dict against the model of its strategy.

    Raises:
        ValueError: unknown strategy, or one whose name says another value of a key. pydantic.ValidationError: unknown
            key or wrong value.
    """
    named = raw.get("proxy_strategy")
    for key, value in implied(str(named)).items():
        if raw.get(key) not in (None, value):
            raise ValueError(f"{key} is {raw[key]}, but proxy_strategy {named} says {value}: leave one of them out")
        raw = {**raw, key: value}
    name = canonical(TrialConfig.model_fields["proxy_strategy"].default if named is None else named)
    get_trainer(name)
    return config_model(name).model_validate({**raw, "proxy_strategy": name})
