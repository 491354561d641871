"""The keys `chat_template` (Jinja text, or the path of a file with it) and `chat_template_kwargs`."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any, cast

from selgen_ray.errors import nearest

_LARGEST = 2**20  # bytes
_SET_HERE = (
    *("messages", "conversation", "conversations", "chat_template", "tools", "documents", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs"),
)


def is_template(value: str) -> bool:
    """Return whether a value of `chat_template` is Jinja text; otherwise it is a path."""
    return "{{" in value or "{%" in value


def read_template(value: str) -> str:
    """Return the Jinja text of a value of `chat_template`; if it is a path, read the file.

    Raises:
        ValueError: there is no such file, it cannot be read, is larger than 1 MiB, or holds no Jinja.
    """
    if is_template(value):
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, siblings)
        message = "no such file, and no Jinja text (which has {{ }} or {% %} in it)"
        raise ValueError(f"{message}.{near}" if near else message)
    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size <= _LARGEST else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    if not is_template(text):
        raise ValueError(f"{path.name} holds no Jinja: a chat template has {{{{ }}}} or {{% %}} in it")
    return text


def template_variables(value: Any) -> Any:
    """Return a value of `chat_template_kwargs` as plain JSON: dates become text.

    YAML reads `date: 2025-01-31` as a date; it becomes {'date': '2025-01-31'}.

    Raises:
        ValueError: a variable is one that this package sets itself, or a value is not plain JSON.
    """
    if not isinstance(value, dict):
        return value  # pydantic then refuses it
    given = cast(dict[str, Any], value)
    variables = {k: v.isoformat() if isinstance(v, datetime.date) else v for k, v in given.items()}
    for name in variables:
        if name in _SET_HERE:
            raise ValueError(f"{name} is set by the evaluation and the training themselves: leave it out")
    try:
        json.dumps(variables, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"text, numbers, true, false, lists and mappings of them are allowed: {error}") from error
    return variables
