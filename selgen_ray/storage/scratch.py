"""Folders among the machine's temporary files that do not outlive their process for long.

A killed process leaves its folder behind, with a finished model in it, say. Each folder is locked by the process that
uses it; a lock ends with its process, and whoever makes the next folder removes those that nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "selgen_"
_LOCK, _CONTENT = ".lock", "content"
_OLD_S = 24 * 3600.0  # a folder without a lock is being made, or is of an earlier release
_KINDS = ("model", "tune", "train", "tracker", "tensorboard", "check", "estimate")
_BEGINNINGS = tuple(f"{_PREFIX}{kind}_" for kind in _KINDS)


@contextlib.contextmanager
def scratch(kind: str) -> Iterator[Path]:
    """Yield an empty folder that is removed at the end, or by another process after this one was killed.

    Args:
        kind: one of _KINDS, part of the folder's name.
    """
    folder, lock = _made(kind)
    try:
        yield folder
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
        os.close(lock)


def make_scratch(kind: str) -> Path:
    """Return an empty folder, one of `scratch`, that another process removes once this one has ended."""
    return _made(kind)[0]  # its lock stays open until then


def _made(kind: str) -> tuple[Path, int]:
    if kind not in _KINDS:
        raise ValueError(f"{kind!r} is no kind of temporary folder; there are {', '.join(_KINDS)}")
    remove_left_behind()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}_"))
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / _CONTENT).mkdir()
    return folder / _CONTENT, lock


def remove_left_behind() -> None:
    """Remove this user's temporary folders whose process has ended."""
    place = Path(tempfile.gettempdir())
    for name in os.listdir(place):  # noqa: PTH208  # they may be many, and no Path is made of each
        if name.startswith(_BEGINNINGS):
            with contextlib.suppress(OSError):
                if _is_left_behind(place / name):
                    shutil.rmtree(place / name, ignore_errors=True)


def _is_left_behind(folder: Path) -> bool:
    stat = folder.lstat()
    if stat.st_uid != os.getuid() or folder.is_symlink() or not folder.is_dir():
        return False
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - stat.st_mtime > _OLD_S
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # its maker locks it first: without the folder inside it is being made just now
        return (folder / _CONTENT).exists() or time.time() - stat.st_mtime > _OLD_S
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
