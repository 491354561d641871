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
    """Return the filesystem of an abfs:// URI and the path in it; the credentials come from the environment.

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
    suffix = domain.partition(".")[2] or _SUFFIX  # clouds other than the public one have other suffixes
    settings: dict[str, Any] = {"account_name": account}
    for service in ("blob", "dfs"):
        settings[f"{service}_storage_authority"] = options.get(f"{service}_storage_authority", f".{service}.{suffix}")
        settings[f"{service}_storage_scheme"] = scheme
    if key := os.environ.get("AZURE_STORAGE_KEY"):
        return fs.AzureFileSystem(**settings, account_key=key), path
    if token := os.environ.get("AZURE_STORAGE_SAS_TOKEN"):
        return fs.AzureFileSystem(**settings, sas_token=token), path
    _probe(settings, path)
    return fs.AzureFileSystem(**settings), path


def _probe(options: dict[str, Any], path: str) -> None:
    """Read once in another process: without credentials such a read makes pyarrow abort the process.

    Raises:
        StorageError: there are no credentials.
    """
    command = [sys.executable, "-c", _PROBE, json.dumps(options), path]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PROBE_S)
    except subprocess.TimeoutExpired:
        logger.warning("Azure took more than %.0f s to find credentials", _PROBE_S)
        return
    if done.returncode and b"AuthenticationException" in done.stderr:
        raise StorageError(f"no credentials for Azure were found in the environment ({ENVIRONMENT})")
