"""The names of the commands that look at a sweep and steer it, apart from their code, which takes long to import."""

from __future__ import annotations

COMMANDS = ("status", "stop", "retry", "rm", "add")
