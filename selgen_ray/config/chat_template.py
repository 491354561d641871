"""The text of `chat_template`: Jinja, or the path of a file with it."""

from __future__ import annotations

from pathlib import Path

from selgen_ray.errors import nearest

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
