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
    """Return the hex sha256 of canonical JSON: sorted keys, no white space, no NaN."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def content_sha256(path: str | Path) -> str:
    """Return what identifies the content at a path: of a file its sha256, of a folder the digest of its files'.

    Raises:
        OSError: a file cannot be read.
    """
    place = Path(path)
    return folder_sha256(place, list_files(place)) if place.is_dir() else unchanged_sha256(place)


def unchanged_sha256(path: Path) -> str:
    """Return a file's sha256, read anew only if its size, time of change or inode differ from the last reading's.

    Raises:
        OSError: the file cannot be read.
    """
    stat = path.stat()
    return _sha256_of_state(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(maxsize=4096)  # many trials read one file; one that was replaced is read again
def _sha256_of_state(path: str, size: int, changed: int, inode: int) -> str:
    return file_sha256(path)


def list_files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return (relative name, bytes, time of change in ns) of a folder's files; hidden ones are left out."""
    files = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


@functools.cache  # the listing is part of the key, so a model that was replaced is read again
def folder_sha256(folder: Path, listing: tuple[tuple[str, int, int], ...]) -> str:
    """Return the digest of a folder's files by name; `listing` is from `list_files`."""
    content = {name: file_sha256(folder / name) for name, _, _ in listing}
    return digest(content)
