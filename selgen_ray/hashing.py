"""Content hashes of files, folders and plain JSON; a file that has not changed is read once."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any


def file_sha256(path: str | Path) -> str:
    """Return the hex sha256 of a file's bytes. Raises OSError when it cannot be read."""
    with Path(path).open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def digest(content: dict[str, Any]) -> str:
    """Return the hex sha256 of `content` as canonical JSON: sorted keys, no white space.

    Raises:
        ValueError: a number is NaN or infinite.
        TypeError: a value is not plain JSON.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def content_sha256(path: str | Path) -> str:
    """Return the hash of the content at a path: `unchanged_sha256` of a file, `folder_sha256` of a folder.

    Raises:
        OSError: a file cannot be read.
    """
    content = Path(path)
    return folder_sha256(content, list_files(content)) if content.is_dir() else unchanged_sha256(content)


def unchanged_sha256(path: Path) -> str:
    """Return a file's sha256; the file is read again only if its size, modification time or inode has changed.

    Raises:
        OSError: the file cannot be read.
    """
    stat = path.stat()
    return _sha256_of_state(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(maxsize=4096)  # many trials read the same file; a replaced one has another key
def _sha256_of_state(path: str, size: int, changed: int, inode: int) -> str:
    return file_sha256(path)


def list_files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return (relative path, size in bytes, modification time in ns) of every file below a folder, sorted.

    Hidden files and folders, whose names begin with '.', are left out.
    """
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


@functools.cache  # `listing` is part of the key, so a folder whose files were replaced is read again
def folder_sha256(folder: Path, listing: tuple[tuple[str, int, int], ...]) -> str:
    """Return the digest of {relative path: sha256} over a folder's files.

    Args:
        listing: the files, from `list_files`.

    Raises:
        OSError: a file cannot be read.
    """
    content = {name: file_sha256(folder / name) for name, _, _ in listing}
    return digest(content)
