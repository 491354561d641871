"""Fingerprints: the identity of the model that training starts from."""

from __future__ import annotations

from pathlib import Path

from selgen_ray.hashing import digest, folder_sha256, list_files
from selgen_ray.models import adapters
from selgen_ray.worlds import toy


def model_fingerprint(model: str, revision: str | None = None) -> str:
    """Return the identity of a model: the hash of its files if it is local, else 'hub:<id>@<revision>'.

    Args:
        model: 'toy', a local directory, or a hub id.
        revision: of the hub id; default: main. It is ignored for a local directory.

    Raises:
        OSError: a file of the directory cannot be read.
    """
    folder = toy.MODEL_DIR if model == "toy" else Path(model).expanduser()
    if model == "toy" or folder.is_dir():
        return folder_sha256(folder, list_files(folder))
    return f"hub:{model}@{revision or 'main'}"


def start_fingerprint(
    model: str, revision: str | None, adapter: str | None = None, adapter_revision: str | None = None
) -> str:
    """Return the identity of the model that training starts from: `model` and the adapter it continues from.

    Of an adapter only its config and weights count. Without one this is `model_fingerprint`.

    Raises:
        OSError: a file cannot be read.
    """
    base = model_fingerprint(model, revision)
    if adapter is None:
        return base
    folder = Path(adapter).expanduser()
    if folder.is_dir():
        listing = tuple(file for file in list_files(folder) if file[0] in (adapters.CONFIG, adapters.WEIGHTS))
        return digest({"model": base, "adapter": folder_sha256(folder, listing)})
    return digest({"model": base, "adapter": f"hub:{adapter}@{adapter_revision or 'main'}"})
