"""The sweep folder on any pyarrow filesystem: a local or NFS path, or a URI such as s3://bucket/prefix.

A reader never sees half a file: local files are written beside their place, flushed and renamed; an object
store shows an object only when its upload is complete. What fails for reasons that pass is done again, see retries.py;
every operation here is safe to be done twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs

from selgen_ray.errors import StorageAwayError, StorageError
from selgen_ray.parallel import in_parallel
from selgen_ray.storage import local_files
from selgen_ray.storage.locations import absolute, check, open_location
from selgen_ray.storage.retries import retrying

T = TypeVar("T")
logger = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
_DEAD_CLAIM_S = 10.0
_CLAIMS = 5


@dataclass(frozen=True)
class Folder:
    """A folder, existing or not; picklable, so that workers open it themselves.

    Everything here raises StorageError when the storage refuses, and StorageAwayError when it has not answered for
    retries.RETRY_FOR_S.

    Attributes:
        location: path or URI as the user gave it.
        inside: path below `location`, '/'-separated.
    """

    location: str
    inside: str = ""

    def __post_init__(self) -> None:
        check(self.location)
        object.__setattr__(self, "location", absolute(self.location))

    @cached_property
    def _place(self) -> tuple[fs.FileSystem, str]:
        filesystem, root = open_location(self.location)
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

    def _do(self, verb: str, name: str, operation: Callable[[], T], for_s: float | None = None) -> T:
        return retrying(lambda: f"{verb} {self / name}", self, operation, for_s)

    def write(self, name: str, content: bytes, for_s: float | None = None) -> None:
        """Publish `content` as the file `name`, atomically; parent folders are made.

        Args:
            name: of the file.
            content: of the file.
            for_s: how long to wait for a storage that is away; default: retries.RETRY_FOR_S.

        Raises:
            StorageError: the storage refused; nothing readable was changed.
        """
        filesystem, path = self._place

        def write() -> None:
            if isinstance(filesystem, fs.LocalFileSystem):
                local_files.write(Path(path) / name, content)
                return
            with filesystem.open_output_stream(f"{path}/{name}") as out:
                out.write(content)

        try:
            self._do("write", name, write, for_s)
        except FileNotFoundError as error:  # GCS and some others, of the bucket
            raise StorageError(f"cannot write {self / name}: there is no such bucket ({error})") from error

    def write_json(self, name: str, content: Any) -> None:
        """Publish `content` as strict JSON (NaN is refused: it would not be JSON)."""
        self.write(name, json.dumps(content, indent=1, allow_nan=False).encode())

    def read(self, name: str) -> bytes:
        """The bytes of the file `name`. Raises FileNotFoundError when there is none."""
        return self._do("read", name, lambda: self._read(name))

    def _read(self, name: str) -> bytes:
        filesystem, path = self._place
        if isinstance(filesystem, fs.LocalFileSystem):
            return (Path(path) / name).read_bytes()
        with filesystem.open_input_file(f"{path}/{name}") as source:
            return source.read()

    def read_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The bytes of many files, in the order of their names; None where there is no such file."""

        def read(name: str) -> bytes | None:
            with contextlib.suppress(FileNotFoundError):
                return self.read(name)

        return in_parallel(read, names)

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
        return {name: self.read_whole(name, sha256) for name, sha256 in self.published_hashes().items()}

    def published_hashes(self) -> dict[str, str]:
        """Name -> sha256 of the files that `publish` wrote here, which are not read. Raises as `read_published`."""
        try:
            return dict(self.read_json(_MANIFEST))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{_MANIFEST} is truncated or damaged") from error

    def read_whole(self, name: str, sha256: str) -> bytes:
        """The bytes of the file `name`. Raises ValueError: it is missing, or is not what `sha256` says."""
        try:
            content = self.read(name)
        except FileNotFoundError as error:
            raise ValueError(f"{name} is missing") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"{name} is truncated or damaged")
        return content

    def withdraw(self) -> None:
        """Undo `publish` for every reader, by removing the manifest; the other files stay."""
        self.remove(_MANIFEST)

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
        if (path := self.local_path) is None:
            return self._create_by_claim(name, content, settle_s)
        # one file is written and linked, so that a link whose answer was lost is known as our own
        beside = self._do("create", name, lambda: local_files.write_beside(path / name, content))
        try:
            return self._do("create", name, lambda: local_files.link(beside, path / name, content))
        finally:
            beside.unlink(missing_ok=True)

    def _create_by_claim(self, name: str, content: bytes, settle_s: float) -> bool:
        for _ in range(_CLAIMS):
            if self.exists(name):
                return False
            with contextlib.suppress(StorageAwayError):
                created = self._claim(name, content, settle_s)
                if created is not None:
                    return created
            if self.exists(name):  # published by us, and the answer was lost; or by one who came after us
                return self.read(name) == content
        raise StorageAwayError(f"cannot create {self / name}: the storage is too slow for it")

    def _claim(self, name: str, content: bytes, settle_s: float) -> bool | None:
        """Whether our claim won and the file is published; None: it took too long, and others may take it for dead."""
        claims, mine = self / f"{name}.claims", uuid.uuid4().hex
        dead_after_s = _DEAD_CLAIM_S + 10 * settle_s
        expires = time.monotonic() + dead_after_s / 2
        claims.write(mine, b"claim")
        try:
            time.sleep(settle_s)
            written = {info.base_name: info.mtime_ns or 0 for info in claims._infos()}
            # a claim lives for one call: an older one is of the dead, by the storage's own clock, the only one asked
            dead_before = written.get(mine, 0) - int(1e9 * dead_after_s)
            lowest = min((claim for claim, at in written.items() if at >= dead_before), default="")
            if lowest != mine or self.exists(name):
                return False
            if (left := expires - time.monotonic()) <= 0:
                return None
            self.write(name, content, for_s=left)
            return True
        finally:
            try:
                claims.remove(mine)
            except StorageError as error:  # it is dead soon
                logger.warning("%s", error)

    def remove(self, name: str) -> None:
        """Delete the file `name`; nothing happens when there is none. Raises StorageError."""
        filesystem, path = self._place
        with contextlib.suppress(FileNotFoundError):  # also one whose answer was lost, done again
            self._do("delete", name, lambda: filesystem.delete_file(f"{path}/{name}"))

    def exists(self, name: str = "") -> bool:
        """Whether the file or folder `name` (default: this folder) exists."""
        filesystem, path = self._place
        info = self._do("look for", name, lambda: filesystem.get_file_info(f"{path}/{name}".rstrip("/")))
        return info.type != fs.FileType.NotFound

    def files(self, recursive: bool = False) -> list[str]:
        """Names of the files below this folder, relative to it, sorted; none when it does not exist."""
        return self._children(fs.FileType.File, recursive)

    def folders(self) -> list[str]:
        """Names of the folders directly in this one, sorted; none when it does not exist."""
        if self._place[0].type_name == "gcs":  # lists objects only
            return sorted({path.partition("/")[0] for path in self.files(recursive=True) if "/" in path})
        return self._children(fs.FileType.Directory, False)

    def _children(self, kind: fs.FileType, recursive: bool) -> list[str]:
        path = self._place[1]
        return sorted(info.path[len(path) :].lstrip("/") for info in self._infos(recursive) if info.type == kind)

    def _infos(self, recursive: bool = False) -> list[fs.FileInfo]:
        filesystem, path = self._place
        below = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
        return self._do("list", "", lambda: filesystem.get_file_info(below))

    def find(self, name: str, leave_out: Collection[str] = ()) -> list[str]:
        """Paths of the files called `name` below this folder, sorted, but for what folders in `leave_out` hold."""
        if (path := self.local_path) is not None:
            return self._do("list", "", lambda: local_files.find(path, name, leave_out))
        found = (path for path in self.files(recursive=True) if path.rpartition("/")[2] == name)
        return [path for path in found if not set(path.split("/")[:-1]) & set(leave_out)]

    def stamps(self, name: str, leave_out: Collection[str] = ()) -> list[tuple[str, int]]:
        """As `find`, each path with the time of its last change, in ns since 1970 (on an object store in seconds)."""
        filesystem, root = self._place
        paths = self.find(name, leave_out)
        infos = self._do("list", "", lambda: filesystem.get_file_info([f"{root}/{path}" for path in paths]))
        return [(path, info.mtime_ns or 0) for path, info in zip(paths, infos, strict=True)]

    def delete(self) -> None:
        """Remove this folder and everything in it; nothing happens when it does not exist."""
        filesystem, path = self._place

        def delete() -> None:
            try:
                filesystem.delete_dir(path)
            except OSError:  # some stores call a folder that is not there an error like any other
                if filesystem.get_file_info(path).type != fs.FileType.NotFound:
                    raise

        self._do("delete", "", delete)
