"""Files on a local disk or NFS: write atomically, create exactly once, find by name without searching every folder."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Collection
from pathlib import Path

from selgen_ray.storage.parallel import in_parallel

_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
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
        target.parent.mkdir(parents=True, exist_ok=True)
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

    folders = _walk(root, lambda entry: entry.name == name, leave_out)
    return sorted(os.path.relpath(path, root) for path in folders)


def files_in(root: Path) -> list[str]:
    """Return the sorted names of the files directly in a folder; [] if it does not exist, or goes meanwhile."""
    return sorted(entry.name for entry in _entries(root) if _is(entry.is_file))


def folders_in(root: Path) -> list[str]:
    """Return the sorted names of the folders directly in a folder; [] if it does not exist, or goes meanwhile."""
    return sorted(entry.name for entry in _entries(root) if _is(entry.is_dir))


def files_below(root: Path) -> list[str]:
    """Return the sorted paths, relative to `root`, of all files below it; [] if it does not exist."""
    return sorted(os.path.relpath(path, root) for path in _walk(root, lambda _: True, ())) if root.exists() else []


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _walk(root: Path, is_wanted: Callable[[os.DirEntry[str]], bool], leave_out: Collection[str]) -> list[str]:
    """Return the paths of the wanted files below a folder; what a link leads to is searched once, never in a circle."""

    def scan(folder: str) -> tuple[list[tuple[str, bool]], list[str]]:
        """Return the folders in a folder, each with whether it is a symbolic link, and the wanted files."""
        try:
            with os.scandir(folder) as entries:
                listed = list(entries)
        except OSError as error:
            if error.errno in _NO_FOLDER:  # removed while we search, or a link that leads nowhere
                return [], []
            raise
        below = [(e.path, e.is_symlink()) for e in listed if e.name not in leave_out and _is(e.is_dir)]
        return below, [e.path for e in listed if is_wanted(e) and _is(e.is_file)]

    level, paths, searched = [str(root)], list[str](), [os.path.realpath(root)]
    while level:
        scanned = in_parallel(scan, level)
        paths += [path for _, files in scanned for path in files]
        level = [path for below, _ in scanned for path, is_link in below if not is_link or _is_new(path, searched)]
    return paths


def _is(look: Callable[[], bool]) -> bool:
    try:
        return look()
    except OSError:  # a link that leads to itself
        return False


def _is_new(link: str, searched: list[str]) -> bool:
    """Return whether a link leads to a place that is not searched anyway, and add that place to those that are."""
    target = os.path.realpath(link)
    for known in searched:
        if os.path.commonpath([known, target]) in (known, target):
            return False
    searched.append(target)
    return True
