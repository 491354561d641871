"""Trainer classes by name, of Transformers, TRL or a plugin of the search space, and the rows they learn from."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import typing
from typing import TYPE_CHECKING, Any, Literal

from selgen_ray.errors import nearest
from selgen_ray.trainers import plugins

if TYPE_CHECKING:
    from transformers import Trainer

Form = Literal["tokens", "pairs", "labelled"]
"""Rows that a Trainer learns from: tokens with those to score marked; two answers to a prompt; answers called good
or bad."""
PACKAGES = ("trl", "transformers")
_FORMS: dict[str, Form] = {
    "SFTTrainer": "tokens",
    "DPOTrainer": "pairs",
    "ORPOTrainer": "pairs",
    "CPOTrainer": "pairs",
    "KTOTrainer": "labelled",
}
_NAMES = ("trl.SFTTrainer", "trl.DPOTrainer", "trl.KTOTrainer", "trl.experimental.orpo.ORPOTrainer")
_ALLOWED = f"{', '.join(_NAMES)}, transformers.Trainer, and a class of a file that `plugins` names: my_file.MyTrainer"


def find(name: str) -> type[Trainer]:
    """Return the class that `trainer_class` names.

    Only Transformers and TRL are imported: code of one's own comes from the plugins of the search space, which are
    hashed, sent to the workers and confirmed as for every other strategy.

    Raises:
        ValueError: there is no such class, or it is no Trainer; the message says what is allowed.
    """
    module, _, leaf = name.rpartition(".")
    try:
        found = _imported(module, leaf) if module.split(".")[0] in PACKAGES else plugins.class_of(name)
    except LookupError as error:
        own = [f"{stem}.{one}" for stem, one in plugins.trainers_of_plugins()]
        hint = nearest(name, [*_NAMES, "transformers.Trainer", *own])
        raise ValueError(f"trainer_class {name!r}: {error.args[0]}. Allowed: {_ALLOWED}.{hint}") from error
    if not plugins.is_hf_trainer(found):
        raise ValueError(f"trainer_class {name!r} is no subclass of transformers.Trainer. Allowed: {_ALLOWED}.")
    return found


def _imported(module: str, leaf: str) -> Any:
    try:
        return getattr(importlib.import_module(module), leaf)
    except (ImportError, AttributeError) as error:
        raise LookupError(" ".join(str(error).split()).rstrip(".")) from error


def form_of(trainer: type[Trainer], name: str) -> Form:
    """Return which rows a class learns from: those of the class of TRL that it is, or inherits from.

    Raises:
        ValueError: it is a class of TRL that learns from more than rows, such as rewards or a teacher.
    """
    for owner in trainer.__mro__:
        if owner.__module__.split(".")[0] == "trl" and not owner.__name__.startswith("_"):
            if owner.__name__ not in _FORMS:
                raise ValueError(
                    f"trainer_class {name!r}: {owner.__name__} needs more than rows, such as rewards or a teacher, "
                    f"which no search space gives it. Allowed: {_ALLOWED}."
                )
            return _FORMS[owner.__name__]
    return "tokens"


def is_of_trl(trainer: type[Trainer]) -> bool:
    """Return whether a class is one of TRL, or inherits from one: it then makes its batches itself."""
    return any(owner.__module__.split(".")[0] == "trl" for owner in trainer.__mro__)


def has_reference(trainer: type[Trainer]) -> bool:
    """Return whether a Trainer compares with the model as it was, such as a DPOTrainer."""
    return "ref_model" in inspect.signature(trainer.__init__).parameters


@functools.cache
def args_class(trainer: type[Trainer]) -> type[Any]:
    """Return the dataclass of a Trainer's `args`, by the annotation of the nearest constructor that has one."""
    for owner in trainer.__mro__:
        init = vars(owner).get("__init__")
        if init is None or "args" not in inspect.signature(init).parameters:
            continue
        try:
            hint = typing.get_type_hints(init).get("args")
        except Exception:  # other annotations may name what is imported for type checkers alone
            hint = _evaluated(inspect.signature(init).parameters["args"].annotation, init)
        kinds = [kind for kind in (*typing.get_args(hint), hint) if dataclasses.is_dataclass(kind)]
        if kinds:
            return typing.cast("type[Any]", kinds[0])
    from transformers import TrainingArguments  # late: start-up, a plan of other strategies needs no Trainer

    return TrainingArguments


def _evaluated(annotation: Any, function: Any) -> Any:
    """Return an annotation's type: where it is text, its first name that the function's module knows."""
    if not isinstance(annotation, str):
        return annotation
    names = [name.strip(" \"'") for name in annotation.replace("Optional[", "").replace("]", "").split("|")]
    return next((function.__globals__[name] for name in names if name in function.__globals__), None)
