"""Copies of files from an object store that the processes of a node share: fetched once, mapped into memory by all.

They are named by their sha256 and lie in SELGEN_RAY_NODE_CACHE, or else in a folder of the user's own among the node's
temporary files. When one is added, those that nothing has used for a month go, and those used longest ago where all
together would exceed SELGEN_RAY_NODE_CACHE_GB (default: 20).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from selgen_ray.hashing import unchanged_sha256
from selgen_ray.storage import local_files

logger = logging.getLogger(__name__)
_FOLDER, _LIMIT, _LIMIT_GB = "SELGEN_RAY_NODE_CACHE", "SELGEN_RAY_NODE_CACHE_GB", 20.0
_UNUSED_S = 30 * 24 * 3600.0
_JUST_FOUND_S = 60.0  # who found a file a moment ago may not have opened it yet
_NAME = re.compile(r"[0-9a-f]{64}")


def folder() -> Path:
    """Where this node's files lie; it need not exist."""
    return Path(os.environ.get(_FOLDER) or Path(tempfile.gettempdir()) / f"selgen_ray_{os.getuid()}")


def fetch(sha256: str, download: Callable[[], bytes]) -> Path | bytes:
    """The file of this content on the node's disk, fetched now where it is not there, or is there and damaged.

    Of several processes that ask at once, one fetches it and the others wait. A node whose disk takes no file does
    without: then the content itself is returned, and that is logged.

    Args:
        download: gives the content, already checked.

    Raises:
        Exception: whatever `download` raises.
    """
    path = folder() / sha256
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_locked(path))
        except OSError as error:
            return _without(download(), error)
        if is_whole(path, sha256):
            with contextlib.suppress(OSError):
                os.utime(path, (time.time(), path.stat().st_mtime))  # when it was last used
            return path
        content = download()
        try:
            _make_room(path.parent, len(content))
            local_files.write(path, content)
        except OSError as error:
            return _without(content, error)
        return path


def is_whole(path: Path, sha256: str) -> bool:
    """Whether the file is there with this content; it is read once, and again when it has changed."""
    try:
        return unchanged_sha256(path) == sha256
    except FileNotFoundError:
        return False


def _without(content: bytes, error: OSError) -> bytes:
    logger.warning("%s cannot be used, so each process keeps its own copy in memory: %s", folder(), error)
    return content


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """A lock that ends with its process, even if that is killed."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid():  # anybody may make a folder among the temporary files
        raise PermissionError(f"{path.parent} belongs to another user")
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_room(place: Path, size: int) -> None:
    found = [(file.stat(), file) for file in place.iterdir() if _NAME.fullmatch(file.name)]
    total, now = size + sum(stat.st_size for stat, _ in found), time.time()
    limit = float(os.environ.get(_LIMIT) or _LIMIT_GB) * 1e9
    for stat, file in sorted(found, key=lambda one: one[0].st_atime):
        unused_s = now - max(stat.st_atime, stat.st_mtime)
        if unused_s > _UNUSED_S or (total > limit and unused_s > _JUST_FOUND_S):
            for old in (file, file.with_name(f".{file.name}.lock")):  # who has it mapped keeps it
                old.unlink(missing_ok=True)
            total -= stat.st_size
