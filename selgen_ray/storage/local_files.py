"""Files on a local disk or NFS: written whole, created once, found without looking everywhere."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Collection
from pathlib import Path

from selgen_ray.parallel import in_parallel

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def write_beside(target: Path, content: bytes) -> Path:
    """Write `content` into a new file beside `target`, flushed to the disk; nothing is left of it after an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())  # a crash after the rename must not leave an empty file
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            beside.unlink(missing_ok=True)
        raise
    return beside


def write(target: Path, content: bytes) -> None:
    """Put `content` in the place of `target`, atomically."""
    beside = write_beside(target, content)
    try:
        beside.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def link(beside: Path, target: Path, content: bytes) -> bool:
    """Give the file `beside`, which has `content`, the name `target` too; False when another has that name."""
    try:
        os.link(beside, target)  # atomic on NFS too, and the file has its content from the start
    except FileExistsError:
        return beside.stat().st_nlink == 2  # the answer to an earlier try was lost: it is our own link
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _create_without_links(target, content)
    return True


def _create_without_links(target: Path, content: bytes) -> bool:
    try:
        with target.open("xb") as out:  # for a moment a reader can see it empty
            out.write(content)
    except FileExistsError:
        return False
    return True


def find(root: Path, name: str, leave_out: Collection[str]) -> list[str]:
    """Paths relative to `root` of the files called `name`, sorted, folders called one of `leave_out` left out."""
    if not root.exists():
        return []

    def scan(folder: str) -> tuple[list[str], bool]:
        """Its folders, and whether the file is in it."""
        try:
            with os.scandir(folder or ".") as entries:
                found = list(entries)
        except FileNotFoundError:  # removed meanwhile
            return [], False
        inside = [entry.path for entry in found if entry.name not in leave_out and entry.is_dir()]
        return inside, any(entry.name == name and entry.is_file() for entry in found)

    level, paths = [str(root)], list[str]()
    while level:
        scanned = in_parallel(scan, level)
        paths += [folder for folder, (_, is_in) in zip(level, scanned, strict=True) if is_in]
        level = [path for inside, _ in scanned for path in inside]
    return sorted(os.path.relpath(f"{folder}/{name}", root) for folder in paths)
