"""Identity of the rows at a path."""

from __future__ import annotations

from selgen_ray.config.hub_names import is_dataset_id
from selgen_ray.hashing import content_sha256


def data_fingerprint(path: str, revision: str | None = None) -> str:
    """Return what identifies the rows at a path: the content's sha256 if they are local, id and revision on the hub.

    Example: 'hub:openai/gsm8k@main'.

    Raises:
        OSError: a file cannot be read.
    """
    if is_dataset_id(path):
        return f"hub:{path}@{revision or 'main'}"
    return content_sha256(path)
