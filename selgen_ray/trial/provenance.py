"""Provenance of a result: library versions, hardware, git commit."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib import metadata
from typing import Any

import torch

_LIBRARIES = (
    *("selgen-ray", "torch", "transformers", "peft", "accelerate", "tokenizers", "ray", "numpy", "pyarrow"),
    *("bitsandbytes", "flash-attn", "flash-attn-3"),
)


@functools.cache
def versions() -> dict[str, str]:
    """Return library -> version, of the installed ones and of Python."""
    by_library = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            by_library[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return by_library


def hardware() -> dict[str, Any]:
    """Return device, processor and thread count of this process, and GPU and its memory in GiB if it has one."""
    facts: dict[str, Any] = {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "machine": platform.machine(),
        "num_cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        facts |= {"gpu": torch.cuda.get_device_name(), "gpu_memory_gib": round(_gpu_bytes() / 2**30, 1)}
    return facts


def _gpu_bytes() -> int:
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory


def git_commit() -> str | None:
    """Return the commit of the current directory's checkout, with '-dirty' if it has changes; None outside one."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
