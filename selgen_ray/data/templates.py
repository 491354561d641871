"""Chat templates: where their text comes from, and what is wrong with one, in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from selgen_ray.errors import nearest

if TYPE_CHECKING:
    from jinja2 import TemplateError

_LARGEST = 2**20  # bytes


def is_template(value: str) -> bool:
    """Whether a value of `chat_template` is Jinja text; else it is a path."""
    return "{{" in value or "{%" in value


def read_template(value: str) -> str:
    """The Jinja text of a value of `chat_template`.

    Raises:
        ValueError: it is the path of no file, or the file holds no Jinja.
    """
    if is_template(value):
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, there)
        told = "no such file, and no Jinja text (which has {{ }} or {% %} in it)"
        raise ValueError(f"{told}.{near}" if near else told)
    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size <= _LARGEST else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    if not is_template(text):
        raise ValueError(f"{path.name} holds no Jinja: a chat template has {{{{ }}}} or {{% %}} in it")
    return text


def explain(error: TemplateError) -> str:
    """What a template raised, with the line in it."""
    line: Any = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace and line is None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}: {error.message}" if line else str(error.message)
