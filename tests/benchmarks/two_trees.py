"""Run one piece of Python with this package, and with that of another tree, for benchmarks that compare the two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def environment(tree: str | Path) -> dict[str, str]:
    """The environment in which `import selgen_ray` finds the package in `tree`; one thread, no hub."""
    rest = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and Path(path) != ROOT]
    places = os.pathsep.join([str(Path(tree).resolve()), *rest])
    return {
        **os.environ,
        "PYTHONPATH": places,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def run(tree: str | Path, code: str, *arguments: str) -> Any:
    """Run `code` with the package in `tree`; return what its last line says in JSON."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment(tree), stdout=subprocess.PIPE, text=True, cwd=tree)
    if done.returncode:
        raise SystemExit(f"it failed with the package in {tree}")
    return json.loads(done.stdout.splitlines()[-1])


def require_package(tree: str) -> str:
    """For argparse: a folder that holds the package, such as a checkout or a site-packages."""
    if not Path(tree, "selgen_ray", "__init__.py").is_file():
        raise SystemExit(f"--against {tree}: there is no selgen_ray in it; name a checkout or a folder of packages")
    return str(Path(tree).resolve())
