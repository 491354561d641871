"""Files on a local disk or NFS: write atomically, create exactly once, find by name without searching every folder."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Collection
from pathlib import Path

from selgen_ray.parallel import in_parallel

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def write_beside(target: Path, content: bytes) -> Path:
    """Write `content` to a new file beside `target`, flush it to the disk and return its path.

    After an error the file is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())  # a crash after the rename must not leave an empty file
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            beside.unlink(missing_ok=True)
        raise
    return beside


def write(target: Path, content: bytes) -> None:
    """Write `content` to the file `target` atomically; one that exists is replaced."""
    beside = write_beside(target, content)
    try:
        beside.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def write_by_way_of(staging: Path, target: Path, content: bytes) -> None:
    """Write `content` to the file `target` atomically, from a temporary file in the folder `staging`.

    Raises:
        FileNotFoundError: `staging` is gone, or went while this call was writing; `target` is then as it was.
    """
    beside = staging / f".{uuid.uuid4().hex}.tmp"
    try:
        with beside.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(target)  # the path is looked up now: of a folder that was moved away it finds nothing
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def delete_at_once(folder: Path) -> None:
    """Remove a folder and all in it, so that every path into it is invalid from one moment on."""
    doomed = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.gone")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def link(beside: Path, target: Path, content: bytes) -> bool:
    """Give the file `beside`, which holds `content`, the second name `target`; return False if that name is taken."""
    try:
        os.link(beside, target)  # atomic on NFS too, and the file has its content from the start
    except FileExistsError:
        return beside.stat().st_nlink == 2  # an earlier try made this link, and its answer was lost
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _create_without_links(target, content)
    return True


def _create_without_links(target: Path, content: bytes) -> bool:
    try:
        with target.open("xb") as out:  # not atomic: for a moment a reader can see the file empty
            out.write(content)
    except FileExistsError:
        return False
    return True


def find(root: Path, name: str, leave_out: Collection[str]) -> list[str]:
    """Return the sorted paths, relative to `root`, of the files called `name`; skip folders named in `leave_out`."""
    if not root.exists():
        return []

    def scan(folder: str) -> tuple[list[str], bool]:
        """Return the folders in a folder, and whether the file is in it."""
        try:
            with os.scandir(folder or ".") as entries:
                listed = list(entries)
        except FileNotFoundError:  # removed while we search
            return [], False
        below = [entry.path for entry in listed if entry.name not in leave_out and entry.is_dir()]
        return below, any(entry.name == name and entry.is_file() for entry in listed)

    level, paths = [str(root)], list[str]()
    while level:
        scanned = in_parallel(scan, level)
        paths += [folder for folder, (_, has_file) in zip(level, scanned, strict=True) if has_file]
        level = [path for below, _ in scanned for path in below]
    return sorted(os.path.relpath(f"{folder}/{name}", root) for folder in paths)
