"""Folders on a disk or an object store: atomic writes, leases, a cache that trials share, retries."""

from selgen_ray.storage.folder import Folder

__all__ = ["Folder"]
