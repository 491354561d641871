"""Registry of the strategies: name -> trainer class.

A trainer class registers itself when it is defined. Its knobs, declared with `knob`, become typed keys of
`finetune_config` for that strategy alone, so they are validated, documented and part of the identity.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

from pydantic import Field
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from selgen_ray.config.source import TrainingPrompt
from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.forms import Row
from selgen_ray.errors import DataError

if TYPE_CHECKING:
    from torch import nn

TRAINERS: dict[str, type[Strategy]] = {}
ALIASES: dict[str, str] = {}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class Strategy:
    """The part of a strategy that planning needs, without PyTorch: name, knobs, and checks of config and rows.

    A subclass that sets `proxy_strategy_name` is registered when it is defined. Strategies subclass
    `trainers.base.BaseTrainer`, which adds the training.

    Attributes:
        proxy_strategy_name: the value of `proxy_strategy` in a config.
        aliases: other names of the strategy.
        implied: alias -> top-level config keys that it sets, such as {'mixed': {'train_on_proxy': True}}.
        required_roles: the roles without which it cannot be run, unless `needed_roles` says otherwise of a config.
        zero_strength: dotted config key -> value with which the strategy equals `naive` without the proxy, bit for bit;
            {}: no value does.
        cannot_promise: promise of `selgen_ray.testing.check_strategy` -> why the strategy cannot keep it.
    """

    proxy_strategy_name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    implied: ClassVar[dict[str, dict[str, Any]]] = {}
    required_roles: ClassVar[tuple[str, ...]] = ("outcome",)
    zero_strength: ClassVar[dict[str, Any]] = {}
    cannot_promise: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "proxy_strategy_name" in vars(cls):
            cls.knobs()  # raises TypeError for a knob without a type
            register(cls)

    @classmethod
    def knobs(cls) -> dict[str, tuple[Any, FieldInfo]]:
        """Return name -> (type, field) of the strategy's knobs, inherited ones first.

        Raises:
            TypeError: a knob has no type.
        """
        return knobs_of(cls)

    # all of these are called before any trial starts

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError if keys do not go together; the message names them."""

    @classmethod
    def training_prompts(cls, config: TrialConfig) -> dict[str, TrainingPrompt]:
        """Return role -> the training prompt of its rows, by default those of the sources in `data`."""
        return config.data.training_prompts()

    @classmethod
    def needed_roles(cls, config: TrialConfig) -> tuple[str, ...]:
        """Return the roles that a trial cannot do without; override it where knobs decide."""
        return cls.required_roles

    @classmethod
    def check_rows(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> None:
        """Raise DataError if a role is missing or its rows do not suit; `roles` has all rows, before any split."""
        for role in cls.needed_roles(config):
            if not roles.get(role):
                message = f"proxy_strategy {cls.proxy_strategy_name} needs data.{role}, which was not given"
                if role == "proxy_neg" and roles.get("proxy"):
                    message += ", and the rows of data.proxy have no 'rejected'"
                raise DataError(message)

    @classmethod
    def row_notes(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> list[str]:
        """Return what a person should know of the rows that suit, in words; the plan shows it."""
        return []

    @classmethod
    def check_model(cls, config: TrialConfig, model: nn.Module) -> None:
        """Raise ModelError if the adapted modules do not suit; `model` has its adapter, and lies on the meta device."""

    @classmethod
    def input_files(cls, config: TrialConfig) -> dict[str, str]:
        """Return dotted knob key -> path of each file, besides the data, that decides the result."""
        return {}

    @classmethod
    def named_classes(cls, config: TrialConfig) -> tuple[type, ...]:
        """Return classes that the config names and that decide the result; the text of their plugins identifies it."""
        return ()

    @classmethod
    def why_alone(cls) -> str | None:
        """Return why its trials cannot share a process with others (`resources.pack`); None: they can."""
        return None


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
        identity: the value can change the result; False if it only says where a file is, or what is logged.
        **bounds: pydantic constraints (ge, gt, le, lt, ...).
    """
    extra: JsonDict = {"identity": identity, "section": section, "file": file}
    return Field(default, description=doc, json_schema_extra=extra, **bounds)


def register(trainer: type[Strategy]) -> None:
    """Register a class under its `proxy_strategy_name` and aliases; a class defined again replaces itself.

    Raises:
        ValueError: another class has one of the names, or a name is not of letters, digits, '_' and '-'.
    """
    name = trainer.proxy_strategy_name
    trainer.aliases = vars(trainer).get("aliases", ())  # inherited ones are another strategy's
    trainer.implied = vars(trainer).get("implied", {})
    given_names: tuple[Any, ...] = (name, *trainer.aliases)  # a plugin may give anything
    for given_name in given_names:
        if not isinstance(given_name, str) or not _NAME.fullmatch(given_name):
            raise ValueError(f"proxy strategy {given_name!r}: allowed: letters, digits, '_' and '-', a letter first")
        old = TRAINERS.get(ALIASES.get(given_name, given_name))
        if old is not None and (old.__module__, old.__qualname__) != (trainer.__module__, trainer.__qualname__):
            raise ValueError(f"proxy strategy {given_name!r} is already taken by {old.__module__}.{old.__qualname__}")
    TRAINERS[name] = trainer
    ALIASES.update(dict.fromkeys(trainer.aliases, name))


def registered() -> dict[str, type[Strategy]]:
    """Return name -> class of the strategies registered so far; import nothing."""
    return dict(TRAINERS)


def forget(module: str) -> None:
    """Remove the strategies that a module defined."""
    for name in [name for name, trainer in TRAINERS.items() if trainer.__module__ == module]:
        del TRAINERS[name]
        for alias in [alias for alias, target in ALIASES.items() if target == name]:
            del ALIASES[alias]


@functools.cache
def import_shipped() -> None:
    """Import every module of this package once, so that the shipped strategies register themselves."""
    package = importlib.import_module("selgen_ray.trainers")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def knobs_of(trainer: type) -> dict[str, tuple[Any, FieldInfo]]:
    """Return name -> (type, field) of the knobs of a class, inherited ones first.

    Raises:
        TypeError: a knob has no type.
    """
    knobs: dict[str, tuple[Any, FieldInfo]] = {}
    for owner in reversed(trainer.__mro__):
        fields = {k: v for k, v in vars(owner).items() if isinstance(v, FieldInfo)}
        annotations = {k: v for k, v in inspect.get_annotations(owner).items() if k in fields}
        if untyped := fields.keys() - annotations.keys():
            raise TypeError(f"{owner.__name__}.{min(untyped)}: write its type, as in `x: float = knob(...)`")
        namespace = getattr(sys.modules.get(owner.__module__), "__dict__", {})
        hints = get_type_hints(SimpleNamespace(__annotations__=annotations), globalns=namespace)
        knobs |= {k: (hints[k], v) for k, v in fields.items()}
    return knobs
