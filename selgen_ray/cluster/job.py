"""Differences inside a job of `ray job submit`: its environment, and a working directory that is deleted."""

from __future__ import annotations

import json
import os
from typing import Any

_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def runtime_env() -> dict[str, Any] | None:
    """Return the runtime environment of the job whose driver this process is; None outside of a job."""
    try:
        return dict(json.loads(os.environ[_CONFIG]).get("runtime_env") or {})
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def lost_storage(storage_path: str) -> str | None:
    """Return why results in `storage_path`, as the search space has it, would be lost; None if they would not."""
    job = runtime_env()
    if not job or not job.get("working_dir") or "://" in storage_path or storage_path.startswith(("/", "~")):
        return None
    return (
        f"storage_path {storage_path!r} is relative: in a Ray job it lies in the job's temporary working directory on "
        "the cluster, which is deleted with the job. Give an absolute path or a URI that all nodes see"
    )


def set_by_the_job() -> frozenset[str]:
    """Return the environment variables that the job gives workers; Ray refuses a second value, even an equal one."""
    return frozenset((runtime_env() or {}).get("env_vars") or ())
