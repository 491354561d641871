"""A plugin, and Python processes that use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from running import environment

MINE = """\
from selgen_ray.trainers import knob
from selgen_ray.trainers.base import BaseTrainer


class Mine(BaseTrainer):
    proxy_strategy_name = "mine"
    aliases = ("my_own",)
    push: float = knob(1.0, "factor", gt=0)

    def _compute_loss(self, batch):
        return self.push * super()._compute_loss(batch)
"""


def run_python(*args: str, cwd: Path, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = environment()
    env["PYTHONPATH"] += f":{site}" if site else ""
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120}
    return subprocess.run([sys.executable, *args], cwd=cwd, env=env, **options)
