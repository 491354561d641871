"""The sweep folder on any pyarrow filesystem: a local or NFS path, or a URI such as s3://bucket/prefix.

A reader never sees half a file: local files are written beside their place, flushed and renamed; an object
store shows an object only when its upload is complete. Credentials come from the environment alone.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pyarrow import fs

from selgen_ray.errors import StorageError


def absolute(location: str) -> str:
    """A local path made absolute, since a worker has another current directory; a URI as it is."""
    return location if "://" in location else str(Path(location).expanduser().absolute())


def _resolve(location: str) -> tuple[fs.FileSystem, str]:
    if "://" not in location:
        return fs.LocalFileSystem(), location
    try:
        return fs.FileSystem.from_uri(location)
    except (OSError, ValueError) as error:
        raise StorageError(f"storage_path {location!r} cannot be used: {error}") from error


@dataclass(frozen=True)
class Folder:
    """A folder, existing or not; picklable, so that workers open it themselves.

    Attributes:
        location: path or URI as the user gave it.
        inside: path below `location`, '/'-separated.
    """

    location: str
    inside: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "location", absolute(self.location))

    @cached_property
    def _place(self) -> tuple[fs.FileSystem, str]:
        filesystem, root = _resolve(self.location)
        return filesystem, f"{root.rstrip('/')}/{self.inside}".rstrip("/")

    def __reduce__(self):
        return (type(self), (self.location, self.inside))

    def __truediv__(self, name: str) -> Folder:
        return Folder(self.location, f"{self.inside}/{name}".strip("/"))

    def __str__(self) -> str:
        location, mark, options = self.location.partition("?")  # a URI's options stay at its end
        return f"{location.rstrip('/')}/{self.inside}".rstrip("/") + mark + options

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._place[1].rsplit("/", 1)[-1]

    @property
    def local_path(self) -> Path | None:
        """The path on this machine, or None on an object store."""
        filesystem, path = self._place
        return Path(path) if isinstance(filesystem, fs.LocalFileSystem) else None

    def write(self, name: str, content: bytes) -> None:
        """Publish `content` as the file `name`, atomically; parent folders are made.

        Raises:
            StorageError: the storage refused; nothing readable was changed.
        """
        filesystem, path = self._place
        target = f"{path}/{name}"
        try:
            if isinstance(filesystem, fs.LocalFileSystem):
                _write_local(Path(target), content)
            else:
                with filesystem.open_output_stream(target) as out:
                    out.write(content)
        except OSError as error:
            raise StorageError(f"cannot write {self}/{name}: {error}") from error

    def write_json(self, name: str, content: Any) -> None:
        """Publish `content` as strict JSON (NaN is refused: it would not be JSON)."""
        self.write(name, json.dumps(content, indent=1, allow_nan=False).encode())

    def read(self, name: str) -> bytes:
        """The bytes of the file `name`. Raises FileNotFoundError when there is none."""
        filesystem, path = self._place
        with filesystem.open_input_file(f"{path}/{name}") as source:
            return source.read()

    def read_json(self, name: str) -> Any:
        """The parsed JSON of the file `name`. Raises FileNotFoundError, json.JSONDecodeError."""
        return json.loads(self.read(name))

    def exists(self, name: str = "") -> bool:
        """Whether the file or folder `name` (default: this folder) exists."""
        filesystem, path = self._place
        return filesystem.get_file_info(f"{path}/{name}".rstrip("/")).type != fs.FileType.NotFound

    def files(self, recursive: bool = False) -> list[str]:
        """Names of the files below this folder, relative to it, sorted; none when it does not exist."""
        return self._children(fs.FileType.File, recursive)

    def folders(self) -> list[str]:
        """Names of the folders directly in this one, sorted; none when it does not exist."""
        return self._children(fs.FileType.Directory, False)

    def _children(self, kind: fs.FileType, recursive: bool) -> list[str]:
        filesystem, path = self._place
        selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
        return sorted(i.path[len(path) :].lstrip("/") for i in filesystem.get_file_info(selector) if i.type == kind)

    def delete(self) -> None:
        """Remove this folder and everything in it; nothing happens when it does not exist."""
        filesystem, path = self._place
        try:
            filesystem.delete_dir(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            if self.exists():
                raise StorageError(f"cannot delete {self}: {error}") from error


def _write_local(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())  # a crash after the rename must not leave an empty file
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
