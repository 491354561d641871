"""A folder on any pyarrow filesystem: a local or NFS path, or a URI such as s3://bucket/prefix.

A reader never sees half a file: a local file is written under another name, flushed and renamed; an object store shows
an object only when its upload is complete. Transient errors are retried (see retries.py), so every operation here may
run twice without harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from pyarrow import fs

from selgen_ray.errors import StorageAwayError, StorageBlockedError, StorageError
from selgen_ray.storage import local_files
from selgen_ray.storage.locations import absolute, check_location, open_location
from selgen_ray.storage.parallel import in_parallel, waiting
from selgen_ray.storage.retries import retrying

T = TypeVar("T")
logger = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
_DEAD_CLAIM_S = 10.0
_CLAIMS = 5


_MOST_DIGITS = 20


def to_json(content: Any) -> bytes:
    """Return plain data as strict JSON. Raises ValueError for NaN and infinity, which JSON lacks."""
    return json.dumps(content, indent=1, allow_nan=False).encode()


def json_object(content: bytes | None) -> dict[str, Any]:
    """Return the JSON object that a file holds; {} if it is damaged, cut off, or anything else.

    A number that is NaN, infinite or of more than 20 digits is null, since no code of ours writes one; a file with
    half a character (a lone surrogate), which no terminal or file takes, is damaged.
    """
    content = content or b"{}"
    try:
        parsed = json.loads(content, parse_constant=lambda _: None, parse_int=_whole, parse_float=_fraction)
        if b"\\u" in content:
            json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return {}
    return as_object(parsed)


def _whole(text: str) -> int | None:
    return int(text) if len(text) <= _MOST_DIGITS else None


def _fraction(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def as_object(value: Any) -> dict[str, Any]:
    """Return a JSON object as it is, {} for anything else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Folder:
    """A folder, existing or not. It is picklable: a worker opens the filesystem itself.

    Every method raises StorageError if the storage refuses, and StorageAwayError if it has not answered for
    retries.RETRY_FOR_S seconds.

    Attributes:
        location: path or URI; a local path is made absolute.
        inside: path below `location`, '/'-separated.
    """

    location: str
    inside: str = ""

    def __post_init__(self) -> None:
        check_location(self.location)
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
        location, mark, options = self.location.partition("?")  # the options of a URI must stay at its end
        return f"{location.rstrip('/')}/{self.inside}".rstrip("/") + mark + options

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._place[1].rsplit("/", 1)[-1]

    @property
    def local_path(self) -> Path | None:
        """The path on this machine; None if the folder lies on an object store."""
        filesystem, path = self._place
        return Path(path) if isinstance(filesystem, fs.LocalFileSystem) else None

    def _do(self, verb: str, name: str, operation: Callable[[], T], for_s: float | None = None) -> T:
        return retrying(lambda: f"{verb} {self / name}", self, operation, for_s)

    def write(self, name: str, content: bytes, for_s: float | None = None) -> None:
        """Write the file `name` atomically; parent folders are created.

        Args:
            name: path of the file below this folder.
            content: all of its bytes.
            for_s: seconds for which to retry while the storage does not answer; default: retries.RETRY_FOR_S.

        Raises:
            StorageError: the storage refused; readers see no change.
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
        except FileNotFoundError as error:  # from GCS and some others: there is no such bucket
            raise StorageBlockedError(f"cannot write {self / name}: there is no such bucket ({error})") from error

    def write_while(self, mark: str, name: str, content: bytes) -> None:
        """Write the file `name` atomically while the file `mark` is there, and only then.

        On a local path this is exact: the new file is renamed out of the folder of `mark`, which fails from the moment
        on at which `delete_at_once` removed that folder. On an object store, where pyarrow has no conditional write,
        the mark is looked for before each try to write: a write that is on its way at that moment still arrives.

        Args:
            mark: path of a file below this folder; it lies in a folder of its own.
            name: path of the file below this folder; parent folders are created.
            content: all of its bytes.

        Raises:
            FileNotFoundError: the mark is gone; readers see no change.
            StorageError: the storage refused; readers see no change.
        """
        filesystem, path = self._place

        def write() -> None:
            if isinstance(filesystem, fs.LocalFileSystem):
                local_files.write_by_way_of((Path(path) / mark).parent, Path(path) / name, content)
                return
            if filesystem.get_file_info(f"{path}/{mark}").type == fs.FileType.NotFound:
                raise FileNotFoundError(f"{self / mark} is gone")
            with filesystem.open_output_stream(f"{path}/{name}") as out:
                out.write(content)

        self._do("write", name, write)

    def write_json(self, name: str, content: Any) -> None:
        """Write `content` atomically as strict JSON. Raises ValueError for NaN and infinity, which JSON lacks."""
        self.write(name, to_json(content))

    def read(self, name: str) -> bytes:
        """Return the bytes of the file `name`. Raises FileNotFoundError if there is none."""
        return self._do("read", name, lambda: self._read(name))

    def _read(self, name: str) -> bytes:
        filesystem, path = self._place
        if isinstance(filesystem, fs.LocalFileSystem):
            return (Path(path) / name).read_bytes()
        with filesystem.open_input_file(f"{path}/{name}") as source:
            return source.read()

    def read_many(self, names: Sequence[str]) -> list[bytes | None]:
        """Return the bytes of many files in the order of `names`, with None for a file that does not exist."""

        def read(name: str) -> bytes | None:
            with contextlib.suppress(FileNotFoundError):
                return self.read(name)

        return in_parallel(read, names)

    def read_json(self, name: str) -> Any:
        """Return the parsed JSON of the file `name`. Raises FileNotFoundError, ValueError: it is no JSON."""
        try:
            return json.loads(self.read(name))
        except RecursionError:
            raise ValueError(f"{name} is nested too deeply") from None

    def publish(self, files: dict[str, bytes]) -> None:
        """Write `files` (name -> content) as one bundle: first each file, then a manifest with their hashes.

        For `read_published` a bundle without a matching manifest does not exist, so a crash half way leaves nothing
        that could be mistaken for a whole bundle.

        Raises:
            StorageError: the storage refused.
        """
        for name, content in files.items():
            self.write(name, content)
        self.write_json(_MANIFEST, {name: hashlib.sha256(content).hexdigest() for name, content in files.items()})

    def read_published(self) -> dict[str, bytes]:
        """Return the bundle that `publish` wrote here, name -> content, after checking every hash.

        Raises:
            FileNotFoundError: there is no manifest, so nothing was published.
            ValueError: a file is missing, truncated or damaged; the message names it.
        """
        return {name: self.read_whole(name, sha256) for name, sha256 in self.published_hashes().items()}

    def published_hashes(self) -> dict[str, str]:
        """Return name -> sha256 of the bundle that `publish` wrote here, from the manifest alone.

        Raises:
            FileNotFoundError: there is no manifest, so nothing was published.
            ValueError: the manifest is truncated or damaged.
        """
        try:
            return dict(self.read_json(_MANIFEST))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{_MANIFEST} is truncated or damaged") from error

    def read_whole(self, name: str, sha256: str) -> bytes:
        """Return the bytes of the file `name`. Raises ValueError if it is missing or does not match `sha256`."""
        try:
            content = self.read(name)
        except FileNotFoundError as error:
            raise ValueError(f"{name} is missing") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"{name} is truncated or damaged")
        return content

    def withdraw(self) -> None:
        """Remove the manifest, which undoes `publish` for every reader; the other files stay."""
        self.remove(_MANIFEST)

    def create(self, name: str, content: bytes, settle_s: float = 0.5) -> bool:
        """Create the file `name` unless it exists; of several processes that try at once, one succeeds.

        On a local path exactly one succeeds, by a primitive of the filesystem. On an object store pyarrow cannot create
        conditionally: every process writes a claim and waits, and the claim with the lowest name wins. Two processes
        can succeed there if the winner is delayed for more than `settle_s` between listing the claims and writing.

        Args:
            name: path of the file below this folder.
            content: all of its bytes.
            settle_s: seconds that a claim may take to show up on an object store; not used on a local path.

        Returns:
            Whether this call created the file.

        Raises:
            StorageError: the storage refused.
        """
        if (path := self.local_path) is None:
            return self._create_by_claim(name, content, settle_s)
        # all tries link the same file, so that a link whose answer was lost is recognised as our own
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
            if self.exists(name):  # created by us, and the answer was lost; or created by another process
                return self.read(name) == content
        raise StorageAwayError(f"cannot create {self / name}: the storage is too slow for it")

    def _claim(self, name: str, content: bytes, settle_s: float) -> bool | None:
        """Return whether our claim won and the file is written; None if the claim may have expired meanwhile.

        Raises:
            StorageError: the storage refused.
        """
        claims, mine = self / f"{name}.claims", uuid.uuid4().hex
        dead_after_s = _DEAD_CLAIM_S + 10 * settle_s
        expires = time.monotonic() + dead_after_s / 2
        claims.write(mine, b"claim")
        try:
            with waiting():
                time.sleep(settle_s)
            times = {info.base_name: info.mtime_ns or 0 for info in claims._infos()}
            # a claim lives for one call: older ones were left by dead processes. Both times are of the storage's clock
            dead_before = times.get(mine, 0) - int(1e9 * dead_after_s)
            lowest = min((claim for claim, written_at in times.items() if written_at >= dead_before), default="")
            if lowest != mine or self.exists(name):
                return False
            if (left_s := expires - time.monotonic()) <= 0:
                return None
            self.write(name, content, for_s=left_s)
            return True
        finally:
            try:
                claims.remove(mine)
            except StorageError as error:  # it expires soon
                logger.warning("%s", error)

    def remove(self, name: str) -> None:
        """Delete the file `name` if it exists. Raises StorageError."""
        filesystem, path = self._place
        with contextlib.suppress(FileNotFoundError):  # also in a retry after the answer was lost
            self._do("delete", name, lambda: filesystem.delete_file(f"{path}/{name}"))

    def exists(self, name: str = "") -> bool:
        """Return whether the file or folder `name` (default: this folder) exists."""
        filesystem, path = self._place
        info = self._do("look for", name, lambda: filesystem.get_file_info(f"{path}/{name}".rstrip("/")))
        return info.type != fs.FileType.NotFound

    def files(self, recursive: bool = False) -> list[str]:
        """Return the sorted names of the files in this folder; [] if the folder does not exist.

        Args:
            recursive: also the files in folders below it, as paths relative to this folder.
        """
        if (local := self.local_path) is not None:
            listing = local_files.files_below if recursive else local_files.files_in
            return self._do("list", "", lambda: listing(local))
        return self._children(fs.FileType.File, recursive)

    def folders(self) -> list[str]:
        """Return the sorted names of the folders directly in this one; [] if it does not exist."""
        if (local := self.local_path) is not None:
            return self._do("list", "", lambda: local_files.folders_in(local))
        if self._place[0].type_name == "gcs":  # it lists objects only, no folders
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
        """Return the sorted relative paths of the files called `name` below this folder.

        Args:
            leave_out: names of folders that are not searched.
        """
        if (path := self.local_path) is not None:
            return self._do("list", "", lambda: local_files.find(path, name, leave_out))
        matching = (path for path in self.files(recursive=True) if path.rpartition("/")[2] == name)
        return [path for path in matching if not set(path.split("/")[:-1]) & set(leave_out)]

    def stamps(self, name: str, leave_out: Collection[str] = ()) -> list[tuple[str, int]]:
        """Return (path, modification time) of the files that `find` returns.

        Times are in ns since 1970; an object store gives whole seconds.
        """
        filesystem, root = self._place
        paths = self.find(name, leave_out)
        infos = self._do("list", "", lambda: filesystem.get_file_info([f"{root}/{path}" for path in paths]))
        return [(path, info.mtime_ns or 0) for path, info in zip(paths, infos, strict=True)]

    def delete_at_once(self) -> None:
        """Remove this folder as `delete` does, on a local path in one moment: see `write_while`."""
        if (path := self.local_path) is not None:
            self._do("delete", "", lambda: local_files.delete_at_once(path))
        else:
            self.delete()

    def delete(self) -> None:
        """Remove this folder, if it exists, and everything in it; of a symbolic link, only the link."""
        filesystem, path = self._place
        if (local := self.local_path) is not None and local.is_symlink():
            self._do("delete", "", lambda: local.unlink(missing_ok=True))
            return

        def delete() -> None:
            try:
                filesystem.delete_dir(path)
            except OSError:  # some stores do not raise FileNotFoundError for a folder that does not exist
                if filesystem.get_file_info(path).type != fs.FileType.NotFound:
                    raise

        self._do("delete", "", delete)
