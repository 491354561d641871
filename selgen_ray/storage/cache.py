"""A cache for values that several trials need: each is computed once and found by a content hash, on any storage.

An entry is a folder, `<kind>/<digest of the key>`:

    value.safetensors, .json or .arrow, key.json, manifest.json   the published bundle
    leases/000001.json, 000002.json, ...                          who computes it; the highest number counts
    work/                                                         checkpoints of the process that computes

A reader looks at the manifest alone; leases only save work. If two processes hold a lease at once (a frozen holder
wakes up; an object store was slower than its settle delay), both compute the same value and publish it atomically:
that costs time, but no reader ever gets a wrong value.
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
from selgen_ray.storage.parallel import waiting

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
        folder: the folder of the cache, shared by all processes that may need its values.
        on_wait: called with the kind at every poll while another process computes the value.
        lease_s: seconds without a sign of life after which the process that computes counts as dead.
        poll_s: seconds between two polls; on an object store also the settle delay of a lease.
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
        """Return tensors by name, on the CPU, from the cache; on a miss compute and publish them.

        While another process computes the value, wait for it.

        Args:
            kind: kind of the value, which names its folder in the cache.
            key: all that the value depends on, as plain JSON.
            compute: computes the value. It gets a folder for checkpoints that outlives a crash: the next process that
                computes finds there what this one left. It must be deterministic: it may be called again elsewhere.

        Returns:
            Name -> tensor, with dtype and shape as computed.

        Raises:
            StorageError: the storage refused.
            Exception: an error of `compute`; the next process that waits then computes the value.
        """
        entry = _Entry(self.folder / kind, key, "value.safetensors")
        return _unpack_tensors(self._get(entry, lambda: _pack_tensors(compute(entry.work))))

    def json(self, kind: str, key: dict[str, Any], compute: Callable[[Folder], Any]) -> Any:
        """Return a value of plain JSON from the cache; on a miss compute and publish it, as `tensors` does.

        NaN and infinities are allowed; a tuple comes back as a list.
        """
        entry = _Entry(self.folder / kind, key, "value.json")
        return json.loads(self._get(entry, lambda: _pack_json(compute(entry.work))))

    def peek_json(self, kind: str, key: dict[str, Any]) -> Any:
        """Return the cached JSON value if it exists, else None; never compute it, never write."""
        content = _Entry(self.folder / kind, key, "value.json").read()
        return None if content is None else json.loads(content)

    def file(self, kind: str, key: dict[str, Any], compute: Callable[[Folder], bytes]) -> Path | bytes:
        """Return a file that holds a value of bytes, ready to be mapped into memory; on a miss compute and publish it.

        The content is checked. If the cache lies on a local path, this is the published file itself; on an object store
        it is a copy on the node's disk, or the bytes themselves if the disk takes no file (see `node_cache`). All else
        is as in `tensors`.
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
            with waiting():
                time.sleep(self.poll_s)


class _Entry:
    """The folder of one value.

    Args:
        kind: the folder of all values of this kind.
        name: the name of the value's file.
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
        """Return the published value; None if there is none, or if it is damaged, which is logged."""
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
            if not self._damage:  # a process that waits comes here at every poll: warn once
                logger.warning("cached value %s is damaged and will be computed again: %s", self.place, error)
            self._damage = str(error)
        return None

    def value(self, sha256: str) -> Any:
        """Read the value in the form that the caller gets. Raises ValueError if the file does not match `sha256`."""
        return self.place.read_whole(self.name, sha256)

    def handed(self, content: bytes) -> Any:
        """Return the value, whose `content` was just published, in the form that the caller gets."""
        return content

    def fill(self, lease: Lease, make: Callable[[], bytes]) -> Any:
        """Compute, publish and return the value, unless another has published it meanwhile; then release the lease."""
        with lease:
            value = self.read()
            if value is None:
                value = self._publish(make)
            try:
                self.work.delete()
            except OSError as error:  # the value is published: a folder left over is no reason to fail
                logger.warning("%s", error)
            return value

    def _publish(self, make: Callable[[], bytes]) -> Any:
        if self._damage:
            self.place.withdraw()  # so that waiting processes do not read the damaged files at every poll
        try:
            content = make()
        except Exception:
            # another process may have taken this one for dead, published the value and removed `work`
            value = self.read()
            if value is None:
                raise
            logger.warning("%s was computed by another meanwhile", self.place, exc_info=True)
            return value
        published = self.read()  # all trials must get the same bytes, even if a GPU rounds differently the second time
        if published is None:
            self.place.publish({_KEY: self.key, self.name: content})
        return self.handed(content) if published is None else published


class _FileEntry(_Entry):
    """The folder of a value that the caller gets as a file on this machine."""

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
    # late: torch takes seconds to import, and values of JSON do not need it
    import safetensors.torch

    packed: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        if flat.untyped_storage().data_ptr() in seen:  # safetensors refuses two names for the same memory
            flat = flat.clone()
        seen.add(flat.untyped_storage().data_ptr())
        packed[name] = flat
    return safetensors.torch.save(packed)


def _unpack_tensors(content: bytes) -> dict[str, Tensor]:
    import safetensors.torch

    return safetensors.torch.load(content)


def _pack_json(value: Any) -> bytes:
    return json.dumps(value).encode()
