"""The rows of one file, by the way that a trial's rows take."""

from __future__ import annotations

from typing import Any

from selgen_ray.data.rows import load_roles
from selgen_ray.trainers import build_config


def read_rows(path: str) -> list[dict[str, Any]]:
    return load_roles(build_config({"data": {"outcome": path}, "finetune_config": {"model": "x"}}))["outcome"]
