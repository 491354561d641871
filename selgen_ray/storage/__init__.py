"""Folders on a disk or an object store: atomic writes, leases, retries, and a cache that trials share."""

from selgen_ray.storage.folder import Folder

__all__ = ["Folder"]
