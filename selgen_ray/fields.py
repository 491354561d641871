"""How a field of a trial's config is declared: whether it is part of the trial's identity."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from pydantic.config import JsonDict


def setting(default: Any, doc: str, *, file: bool = False, **bounds: Any) -> Any:
    """A field that can change the result of a trial; it enters the trial's identity.

    Args:
        default: the value when the key is absent.
        doc: one line for the user.
        file: the value may be the path of a file; one in a search space is made absolute.
        **bounds: pydantic constraints (ge, gt, le, lt, ...).
    """
    extra: JsonDict = {"identity": True, "file": True} if file else {"identity": True}
    return Field(default, description=doc, json_schema_extra=extra, **bounds)


def execution(default: Any, doc: str, *, secret: bool = False, **bounds: Any) -> Any:
    """A field that cannot change the result (paths, names, logging); kept out of the identity.

    Args:
        default: the value when the key is absent.
        doc: one line for the user.
        secret: a wrong value may hold a key, so messages do not repeat it.
        **bounds: pydantic constraints (ge, gt, le, lt, ...).
    """
    extra: JsonDict = {"identity": False, "secret": secret}
    return Field(default, description=doc, json_schema_extra=extra, **bounds)
