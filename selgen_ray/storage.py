"""The sweep folder on any pyarrow filesystem: a local or NFS path, or a URI such as s3://bucket/prefix.

A reader never sees half a file: local files are written beside their place, flushed and renamed; an object
store shows an object only when its upload is complete. Credentials come from the environment alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pyarrow import fs

from selgen_ray.errors import StorageError

_MANIFEST = "manifest.json"
_DEAD_CLAIM_S = 10.0
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


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


@contextlib.contextmanager
def _refusal(doing: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, StorageError):
        raise
    except OSError as error:
        raise StorageError(f"cannot {doing}: {error}") from error


@dataclass(frozen=True)
class Folder:
    """A folder, existing or not; picklable, so that workers open it themselves.

    Everything here raises StorageError when the storage refuses.

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
        with _refusal(f"read {self}/{name}"), filesystem.open_input_file(f"{path}/{name}") as source:
            return source.read()

    def read_json(self, name: str) -> Any:
        """The parsed JSON of the file `name`. Raises FileNotFoundError, json.JSONDecodeError."""
        return json.loads(self.read(name))

    def publish(self, files: dict[str, bytes]) -> None:
        """Publish `files` (name -> content) as one bundle: each of them, then a manifest of their hashes.

        Without a manifest that fits, the bundle does not exist for `read_published`, so a crash on the way
        leaves nothing that could be mistaken for it.

        Raises:
            StorageError: the storage refused.
        """
        for name, content in files.items():
            self.write(name, content)
        self.write_json(_MANIFEST, {name: hashlib.sha256(content).hexdigest() for name, content in files.items()})

    def read_published(self) -> dict[str, bytes]:
        """The files of the bundle that `publish` wrote here, name -> content, each as it was written.

        Raises:
            FileNotFoundError: no manifest, so nothing was published.
            ValueError: a file is missing, truncated or damaged; the message names it.
        """
        try:
            expected = dict(self.read_json(_MANIFEST))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{_MANIFEST} is truncated or damaged") from error
        return {name: self._whole(name, sha256) for name, sha256 in expected.items()}

    def _whole(self, name: str, sha256: str) -> bytes:
        try:
            content = self.read(name)
        except FileNotFoundError as error:
            raise ValueError(f"{name} is missing") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"{name} is truncated or damaged")
        return content

    def withdraw(self) -> None:
        """Undo `publish` for every reader, by removing the manifest; the other files stay."""
        self._remove(_MANIFEST)

    def create(self, name: str, content: bytes, settle_s: float = 0.5) -> bool:
        """Publish `content` as the file `name` unless there is one; of several at once, one succeeds.

        On a local path exactly one, by a primitive of the filesystem. pyarrow's object stores cannot create
        conditionally: there everybody writes a claim, waits, and the lowest name wins. Two can succeed there, if
        the winner is held up for longer than `settle_s` between looking at the claims and publishing.

        Args:
            name: of the file.
            content: of the file.
            settle_s: how long claims may take to show up on an object store; not used on a local path.

        Returns:
            Whether this call created the file.

        Raises:
            StorageError: the storage refused.
        """
        path = self.local_path
        try:
            return self._create_by_claim(name, content, settle_s) if path is None else _create(path / name, content)
        except OSError as error:
            raise StorageError(f"cannot create {self}/{name}: {error}") from error

    def _create_by_claim(self, name: str, content: bytes, settle_s: float) -> bool:
        if self.exists(name):
            return False
        claims, mine = self / f"{name}.claims", uuid.uuid4().hex
        claims.write(mine, b"claim")
        try:
            time.sleep(settle_s)
            written = {info.base_name: info.mtime_ns or 0 for info in claims._infos()}
            # a claim lives for one call: an older one is of the dead, by the storage's own clock, the only one asked
            dead_before = written.get(mine, 0) - int(1e9 * (_DEAD_CLAIM_S + 10 * settle_s))
            lowest = min((claim for claim, at in written.items() if at >= dead_before), default="")
            if lowest != mine or self.exists(name):
                return False
            self.write(name, content)
            return True
        finally:
            claims._remove(mine)

    def _remove(self, name: str) -> None:
        filesystem, path = self._place
        with contextlib.suppress(FileNotFoundError), _refusal(f"delete {self}/{name}"):
            filesystem.delete_file(f"{path}/{name}")

    def exists(self, name: str = "") -> bool:
        """Whether the file or folder `name` (default: this folder) exists."""
        filesystem, path = self._place
        with _refusal(f"look for {self}/{name}"):
            return filesystem.get_file_info(f"{path}/{name}".rstrip("/")).type != fs.FileType.NotFound

    def files(self, recursive: bool = False) -> list[str]:
        """Names of the files below this folder, relative to it, sorted; none when it does not exist."""
        return self._children(fs.FileType.File, recursive)

    def folders(self) -> list[str]:
        """Names of the folders directly in this one, sorted; none when it does not exist."""
        return self._children(fs.FileType.Directory, False)

    def _children(self, kind: fs.FileType, recursive: bool) -> list[str]:
        path = self._place[1]
        return sorted(info.path[len(path) :].lstrip("/") for info in self._infos(recursive) if info.type == kind)

    def _infos(self, recursive: bool = False) -> list[fs.FileInfo]:
        filesystem, path = self._place
        with _refusal(f"list {self}"):
            return filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=recursive))

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


def _write_beside(target: Path, content: bytes) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())  # a crash after the rename must not leave an empty file
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return beside


def _write_local(target: Path, content: bytes) -> None:
    beside = _write_beside(target, content)
    try:
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _create(target: Path, content: bytes) -> bool:
    beside = _write_beside(target, content)
    try:
        os.link(beside, target)  # atomic on NFS too, and the file has its content from the start
    except FileExistsError:
        return beside.stat().st_nlink == 2  # NFS repeats a call whose answer was lost, and then finds our own link
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _create_without_links(target, content)
    finally:
        beside.unlink(missing_ok=True)
    return True


def _create_without_links(target: Path, content: bytes) -> bool:
    try:
        with target.open("xb") as out:  # for a moment a reader can see it empty
            out.write(content)
    except FileExistsError:
        return False
    return True
