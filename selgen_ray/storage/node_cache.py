"""A cache on the node's disk for files from an object store: fetched once, mapped into memory by all processes.

Files are named by their sha256. They lie in the folder SELGEN_RAY_NODE_CACHE, or else in a folder of the user among the
node's temporary files. When a file is added, files that were not used for a month are deleted; if all together would
exceed SELGEN_RAY_NODE_CACHE_GB (default: 20), the least recently used ones are deleted too.
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
_JUST_FOUND_S = 60.0  # a process that was just given a path may not have opened it yet
_NAME = re.compile(r"[0-9a-f]{64}")


def folder() -> Path:
    """Return the folder of this node's files, which need not exist."""
    return Path(os.environ.get(_FOLDER) or Path(tempfile.gettempdir()) / f"selgen_ray_{os.getuid()}")


def fetch(sha256: str, download: Callable[[], bytes]) -> Path | bytes:
    """Return the path of the file with this content on the node's disk; download it if it is missing or damaged.

    If several processes ask at once, one downloads the file and the others wait. If the disk takes no file, the content
    itself is returned, and that is logged.

    Args:
        sha256: hex sha256 of the content.
        download: returns the content, already checked.

    Raises:
        Exception: an error of `download`.
    """
    path = folder() / sha256
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_locked(path))
        except OSError as error:
            return _without(download(), error)
        if is_whole(path, sha256):
            with contextlib.suppress(OSError):
                os.utime(path, (time.time(), path.stat().st_mtime))  # records the last use
            return path
        content = download()
        try:
            _make_room(path.parent, len(content))
            local_files.write(path, content)
        except OSError as error:
            return _without(content, error)
        return path


def is_whole(path: Path, sha256: str) -> bool:
    """Return whether the file exists and has this content; it is read again only after a change."""
    try:
        return unchanged_sha256(path) == sha256
    except FileNotFoundError:
        return False


def _without(content: bytes, error: OSError) -> bytes:
    logger.warning("%s cannot be used, so each process keeps its own copy in memory: %s", folder(), error)
    return content


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock on the file's name inside the context; the lock ends with the process, even if that is killed."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid():  # any user can create a folder among the temporary files
        raise PermissionError(f"{path.parent} belongs to another user")
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_room(place: Path, size: int) -> None:
    files = [(file.stat(), file) for file in place.iterdir() if _NAME.fullmatch(file.name)]
    total, now = size + sum(stat.st_size for stat, _ in files), time.time()
    limit = float(os.environ.get(_LIMIT) or _LIMIT_GB) * 1e9
    for stat, file in sorted(files, key=lambda entry: entry[0].st_atime):
        unused_s = now - max(stat.st_atime, stat.st_mtime)
        if unused_s > _UNUSED_S or (total > limit and unused_s > _JUST_FOUND_S):
            for old in (file, file.with_name(f".{file.name}.lock")):  # a process that has mapped it keeps it
                old.unlink(missing_ok=True)
            total -= stat.st_size
