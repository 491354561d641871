"""Azure Blob Storage: abfs://container@account.dfs.core.windows.net/prefix."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import Any
from urllib.parse import SplitResult, unquote

from pyarrow import fs

from selgen_ray.errors import StorageError

logger = logging.getLogger(__name__)
ENVIRONMENT = "AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, or AZURE_CLIENT_ID and its like"
_SUFFIX = "core.windows.net"
_PROBE_S = 60.0
_PROBE = """
import json, sys
from pyarrow import fs
fs.AzureFileSystem(**json.loads(sys.argv[1])).get_file_info(sys.argv[2])
"""


def open_azure(parts: SplitResult, options: dict[str, str]) -> tuple[fs.FileSystem, str]:
    """The filesystem, and the path in it, of a URI whose credentials are in the environment.

    Raises:
        ValueError: the URI names no account or no container.
        StorageError: there are no credentials.
    """
    container, _, host = parts.netloc.rpartition("@")
    path = f"{container}{unquote(parts.path)}".strip("/")
    account, _, domain = host.partition(".")
    if not path or not domain:
        raise ValueError(f"it is not like abfs://container@account.dfs.{_SUFFIX}/prefix")
    scheme = "http" if options.get("enable_tls") == "false" else "https"
    suffix = domain.partition(".")[2] or _SUFFIX  # other clouds have others
    known: dict[str, Any] = {"account_name": account}
    for service in ("blob", "dfs"):
        known[f"{service}_storage_authority"] = options.get(f"{service}_storage_authority", f".{service}.{suffix}")
        known[f"{service}_storage_scheme"] = scheme
    if key := os.environ.get("AZURE_STORAGE_KEY"):
        return fs.AzureFileSystem(**known, account_key=key), path
    if token := os.environ.get("AZURE_STORAGE_SAS_TOKEN"):
        return fs.AzureFileSystem(**known, sas_token=token), path
    _probe(known, path)
    return fs.AzureFileSystem(**known), path


def _probe(options: dict[str, Any], path: str) -> None:
    """Where Azure finds no credentials, a read by pyarrow aborts the process: let another process ask first."""
    command = [sys.executable, "-c", _PROBE, json.dumps(options), path]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PROBE_S)
    except subprocess.TimeoutExpired:
        logger.warning("Azure took more than %.0f s to find credentials", _PROBE_S)
        return
    if done.returncode and b"AuthenticationException" in done.stderr:
        raise StorageError(f"no credentials for Azure were found in the environment ({ENVIRONMENT})")
