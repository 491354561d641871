"""Strict models for configs. A field is part of a trial's identity (`setting`) or not (`execution`)."""

from __future__ import annotations

import re
import typing
from types import NoneType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError


class Strict(BaseModel):
    """Frozen model that refuses unknown keys, non-finite numbers, and true or false where a number belongs.

    Where null is no value, it means the default.
    """

    # protected_namespaces: pydantic would warn of `model_seed`, which is the usual name in this field of research
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        validate_by_name=True,  # a knob with an alias can be given by either name
        loc_by_alias=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or all(value is not None for value in raw.values()):
            return raw
        fields = {key: info for name, info in cls.model_fields.items() for key in (name, info.validation_alias)}
        return {k: v for k, v in raw.items() if v is not None or k not in fields or not null_is_default(fields[k])}

    @field_validator("*", mode="before")
    @classmethod
    def _without_stray_bools(cls, value: Any, info: ValidationInfo) -> Any:
        is_suspect = isinstance(value, bool | list)  # of few values, so that a trial is read fast
        return without_stray_bools(cls.model_fields[str(info.field_name)], value) if is_suspect else value


def without_stray_bools(info: FieldInfo, value: Any) -> Any:
    """Return the value. Raises PydanticCustomError: it is, or holds, true or false, and the field takes neither.

    Pydantic would read them as 1 and 0.
    """
    if _holds_bool(value) and not {"bool", "True", "False", "Any"} & set(re.findall(r"\w+", str(info.annotation))):
        raise PydanticCustomError("stray_bool", "neither true nor false is allowed")
    return value


def _holds_bool(value: Any) -> bool:
    return any(map(_holds_bool, value)) if isinstance(value, list) else isinstance(value, bool)


def null_is_default(info: FieldInfo) -> bool:
    """Return whether null in a file means the same as leaving the key out.

    It does if the field has a default and its type has no null: for `r: int = 8`, but not for `limit: int | None`.
    """
    types = (info.annotation, *typing.get_args(info.annotation))
    return not info.is_required() and not any(type_ in (None, NoneType, Any) for type_ in types)


def setting(default: Any, doc: str, *, file: bool = False, **bounds: Any) -> Any:
    """Declare a field that can change the result of a trial; it is part of the trial's identity.

    Args:
        default: the value when the key is absent.
        doc: one line for the user.
        file: the value may be the path of a file; a path in a search space is made absolute.
        **bounds: pydantic constraints (ge, gt, le, lt, ...).
    """
    extra: JsonDict = {"identity": True, "file": True} if file else {"identity": True}
    return Field(default, description=doc, json_schema_extra=extra, **bounds)


def execution(default: Any, doc: str, *, secret: bool = False, **bounds: Any) -> Any:
    """Declare a field that cannot change the result (paths, names, logging); it is not part of the identity.

    Args:
        default: the value when the key is absent.
        doc: one line for the user.
        secret: a wrong value may hold a secret, so messages do not repeat it.
        **bounds: pydantic constraints (ge, gt, le, lt, ...).
    """
    extra: JsonDict = {"identity": False, "secret": secret}
    return Field(default, description=doc, json_schema_extra=extra, **bounds)
