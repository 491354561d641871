"""Compute once, share by content hash: what several trials of a sweep need, on any storage.

An entry is a folder, `<kind>/<digest of the key>`:

    value.safetensors, .json or .arrow, key.json, manifest.json   the published bundle
    leases/000001.json, 000002.json, ...                          who computed or computes it; the highest one counts
    work/                                                         checkpoints of the one that computes

The value is found by its manifest alone; leases only save work. Should two hold one at once (a holder that was
frozen wakes up; an object store was slower than its settle delay), both compute the same value and both publish it
atomically: time is lost, never a wrong value read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selgen_ray.hashing import digest
from selgen_ray.storage import node_cache
from selgen_ray.storage.folder import Folder
from selgen_ray.storage.leases import Lease, Watch

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)
_DIGEST_LENGTH = 32
_KEY = "key.json"


def _ignore(kind: str) -> None:
    pass


class Cache:
    """Values that several trials need, computed once and shared by content hash: <folder>/<kind>/<digest>/.

    Args:
        folder: of the cache, shared by all who may need its values.
        on_wait: called with the kind at every look while another computes what is asked for.
        lease_s: after so long without a sign of life the one that computes is taken for dead.
        poll_s: seconds between two looks; on an object store also the settle delay of a lease.
    """

    def __init__(
        self, folder: Folder, on_wait: Callable[[str], None] = _ignore, *, lease_s: float = 30.0, poll_s: float = 0.5
    ):
        self.folder = folder
        self.on_wait = on_wait
        self.lease_s = lease_s
        self.poll_s = poll_s

    def tensors(
        self, kind: str, key: dict[str, Any], compute: Callable[[Folder], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Tensors by name, on the CPU, with dtype and shape as computed.

        Args:
            kind: names what it is; a folder of the cache.
            key: plain JSON, all that the value depends on.
            compute: gives the value. Gets a folder of its own that outlives a crash: the next one to compute finds
                in it what this one left. It may be called again elsewhere, so it must give the same value.

        Raises:
            StorageError: the storage refused.
            Exception: whatever `compute` raises; the next one that waits then computes.
        """
        entry = _Entry(self.folder / kind, key, "value.safetensors")
        return _unpack_tensors(self._get(entry, lambda: _pack_tensors(compute(entry.work))))

    def json(self, kind: str, key: dict[str, Any], compute: Callable[[Folder], Any]) -> Any:
        """A value of plain JSON, NaN and infinities included; a tuple comes back as a list. Else as `tensors`."""
        entry = _Entry(self.folder / kind, key, "value.json")
        return json.loads(self._get(entry, lambda: _pack_json(compute(entry.work))))

    def peek_json(self, kind: str, key: dict[str, Any]) -> Any:
        """The same where it was computed already; else None. Nothing is written."""
        content = _Entry(self.folder / kind, key, "value.json").read()
        return None if content is None else json.loads(content)

    def file(self, kind: str, key: dict[str, Any], compute: Callable[[Folder], bytes]) -> Path | bytes:
        """A value of bytes as a file to be mapped into memory, its content checked. Else as `tensors`.

        Where the cache lies on a path of this machine it is the published file itself; of an object store it is a
        copy on the node's disk, or the bytes where the disk takes none (`node_files`).
        """
        entry = _FileEntry(self.folder / kind, key, "value.arrow")
        return self._get(entry, lambda: compute(entry.work))

    def _get(self, entry: _Entry, make: Callable[[], bytes]) -> Any:
        watch = Watch(entry.place / "leases", self.lease_s, self.poll_s)
        while True:
            value = entry.read()
            lease = watch.acquire() if value is None else None
            if lease is not None:
                value = entry.fill(lease, make)
            if value is not None:
                return value
            self.on_wait(entry.kind)
            time.sleep(self.poll_s)


class _Entry:
    """One value's folder.

    Args:
        kind: the folder of all values of a kind.
        name: of the value's file.
    """

    def __init__(self, kind: Folder, key: dict[str, Any], name: str):
        self.kind = kind.name
        self.digest = digest(key)
        self.place = kind / self.digest[:_DIGEST_LENGTH]
        self.work = self.place / "work"
        self.key = json.dumps(key, indent=1, sort_keys=True).encode()
        self.name = name
        self._damage = ""

    def read(self) -> Any:
        """The published value, or None when there is none or it is damaged, which is logged."""
        try:
            hashes = self.place.published_hashes()
            if self.name not in hashes or _KEY not in hashes:
                raise ValueError(f"the manifest lacks {self.name} or {_KEY}")
            if digest(json.loads(self.place.read_whole(_KEY, hashes[_KEY]))) != self.digest:
                raise ValueError(f"{_KEY} is of another value")
            return self.value(hashes[self.name])
        except FileNotFoundError:
            self._damage = ""
        except ValueError as error:
            if not self._damage:  # one who waits looks often
                logger.warning("cached value %s is damaged and will be computed again: %s", self.place, error)
            self._damage = str(error)
        return None

    def value(self, sha256: str) -> Any:
        """The value as it is handed out. Raises ValueError: the file is not what `sha256` says."""
        return self.place.read_whole(self.name, sha256)

    def handed(self, content: bytes) -> Any:
        """The same of what was published just now."""
        return content

    def fill(self, lease: Lease, make: Callable[[], bytes]) -> Any:
        """Compute and publish the value, unless it was published meanwhile; the lease is released in any case."""
        with lease:
            value = self.read()
            if value is None:
                value = self._publish(make)
            try:
                self.work.delete()
            except OSError as error:  # the value is there: a folder left over is no reason to fail
                logger.warning("%s", error)
            return value

    def _publish(self, make: Callable[[], bytes]) -> Any:
        if self._damage:
            self.place.withdraw()  # those who wait need not read the damaged files at every look
        try:
            content = make()
        except Exception:
            # another that took this one for dead has removed `work` under it: then the value is there
            value = self.read()
            if value is None:
                raise
            logger.warning("%s was computed by another meanwhile", self.place, exc_info=True)
            return value
        found = self.read()  # all must get the same bytes, even if a GPU rounds differently the second time
        if found is None:
            self.place.publish({_KEY: self.key, self.name: content})
        return self.handed(content) if found is None else found


class _FileEntry(_Entry):
    """A value that is handed out as a file of this machine."""

    def value(self, sha256: str) -> Path | bytes:
        if (path := self.place.local_path) is None:
            return node_cache.fetch(sha256, lambda: self.place.read_whole(self.name, sha256))
        if not node_cache.is_whole(path / self.name, sha256):
            raise ValueError(f"{self.name} is missing, truncated or damaged")
        return path / self.name

    def handed(self, content: bytes) -> Path | bytes:
        if (path := self.place.local_path) is None:
            return node_cache.fetch(hashlib.sha256(content).hexdigest(), lambda: content)
        return path / self.name


def _pack_tensors(tensors: dict[str, Tensor]) -> bytes:
    # imported late: torch takes seconds, and JSON needs none of it
    import safetensors.torch

    packed: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        if flat.untyped_storage().data_ptr() in memory:  # two names of one memory: safetensors wants a copy
            flat = flat.clone()
        memory.add(flat.untyped_storage().data_ptr())
        packed[name] = flat
    return safetensors.torch.save(packed)


def _unpack_tensors(content: bytes) -> dict[str, Tensor]:
    import safetensors.torch

    return safetensors.torch.load(content)


def _pack_json(value: Any) -> bytes:
    return json.dumps(value).encode()
