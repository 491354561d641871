"""The files of a model or adapter, in a local directory or on the hub; of weights only the headers are read."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selgen_ray.config.hub_names import is_hub_id
from selgen_ray.errors import ModelError, nearest
from selgen_ray.records.text import first_line
from selgen_ray.storage.secrets import masked, without
from selgen_ray.worlds.toy import MODEL_DIR

_LARGEST_HEADER = 100 * 2**20  # bytes; the limit of the format
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model or adapter. `"config.json" in files` asks whether there is one of that name.

    Attributes:
        key: key of the config that names the model, for messages.
        name: local directory or hub id, as written in the config.
        folder: the local directory; None: the files are on the hub.
        revision: of the hub id.
        names: relative paths of all files.
    """

    key: str
    name: str
    folder: Path | None
    revision: str | None
    names: frozenset[str]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def error(self, text: str) -> ModelError:
        """Return an error whose message names the key and the model."""
        return ModelError(f"{self.key} {self.name!r}: {text}")

    def path(self, name: str) -> Path:
        """Return the local path of a file; one on the hub is downloaded, or taken from the hub's cache.

        Raises:
            ModelError: the hub does not give the file.
        """
        if self.folder is not None:
            return self.folder / name
        from huggingface_hub import hf_hub_download  # late: start-up; most models are local

        try:
            return Path(hf_hub_download(self.name, name, revision=self.revision))
        except Exception as error:
            raise self.error(f"{name} cannot be fetched from the hub: {hub_reason(error)}") from error

    def json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file. Raises ModelError: it is not JSON, or holds no object."""
        try:
            content = json.loads(self.path(name).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
            where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise self.error(f"{name} is not JSON{where}: {error}") from error
        if not isinstance(content, dict):
            raise self.error(f"{name} holds {type(content).__name__}, expected an object")
        return content


def find_files(key: str, name: str, revision: str | None) -> ModelFiles:
    """Return the files of a model that a config names.

    Args:
        key: key of the config, for messages.
        name: local directory or hub id.
        revision: of the hub id.

    Raises:
        ModelError: there is no such directory, and no repository on the hub that can be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        return ModelFiles(key, name, folder, None, frozenset(names))
    if folder.is_file():
        raise ModelError(f"{key} {name!r}: is a file; allowed: a local directory or a hub id")
    if not is_hub_id(name):
        near = nearest(folder.name, [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else [])
        raise ModelError(f"{key} {name!r}: no such directory, and no hub id ('owner/name').{near}")
    return ModelFiles(key, name, None, revision, frozenset(_of_the_hub(key, name, revision)))


def _of_the_hub(key: str, name: str, revision: str | None) -> set[str]:
    from huggingface_hub import HfApi, constants, snapshot_download

    try:
        if constants.HF_HUB_OFFLINE:
            folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
            return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        return {file.rfilename for file in HfApi().model_info(name, revision=revision).siblings or ()}
    except Exception as error:
        at = f" at revision {revision!r}" if revision else ""
        raise ModelError(f"{key} {name!r}{at}: no such local directory, and {hub_reason(error)}") from error


def hub_reason(error: Exception) -> str:
    """Return why a request to the hub failed and what to do about it, in words; the token is never repeated."""
    from huggingface_hub import constants, errors

    token = os.environ.get("HF_TOKEN", "")
    grant = "that the token in HF_TOKEN may read it" if token else "set HF_TOKEN, to a token that may read it"
    if constants.HF_HUB_OFFLINE or isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set and nothing of it is in the local cache: unset it, or name a local directory"
    if isinstance(error, errors.GatedRepoError):
        return f"the hub gives it to those who accepted its terms only: accept them on its page, and {_do(token)}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub's repository has no such revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no such repository, or it is private: check the name, and {grant}"
    return f"the hub cannot be asked: {masked(without(first_line(error), token))}"


def _do(token: str) -> str:
    return "check that the token in HF_TOKEN is yours" if token else "set HF_TOKEN to a token of yours"


def read_header(files: ModelFiles, name: str) -> dict[str, Any]:
    """Return the header of a safetensors file, after checking that the file has its full length.

    Returns:
        Name of a tensor -> {'dtype': 'F32', 'shape': [8, 64], 'data_offsets': [0, 2048]}, offsets in bytes.

    Raises:
        ModelError: it is no safetensors file, or shorter than its header says.
    """
    path = files.path(name)
    size = path.stat().st_size
    with path.open("rb") as source:
        start = source.read(len(_LFS))
        if start == _LFS:
            raise files.error(f"{name} is a pointer of Git LFS, the file itself is missing: run `git lfs pull`")
        length = struct.unpack("<Q", start[:8])[0] if size >= 8 else 0
        if not 0 < length <= min(_LARGEST_HEADER, size - 8):
            raise files.error(f"{name} is no safetensors file, or was cut off ({size:,} bytes)")
        source.seek(8)
        try:
            header = dict(json.loads(source.read(length)))
        except (ValueError, TypeError) as error:
            raise files.error(f"{name} is no safetensors file: its header is not JSON") from error
    tensors = {key: value for key, value in header.items() if key != "__metadata__"}
    expected = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    if size < expected:
        raise files.error(f"{name} was cut off: it has {size:,} bytes, its header says {expected:,}")
    return tensors


def model_location(model: str) -> str:
    """Return the path or hub id for `from_pretrained`: the shipped folder for 'toy', with '~' expanded."""
    return str(MODEL_DIR) if model == "toy" else str(Path(model).expanduser()) if model.startswith("~") else model


def cannot_load(what: str, location: str, error: Exception) -> str:
    """Return the one-line message for a model or tokenizer that Transformers could not load.

    Args:
        what: 'model' or 'tokenizer'.
    """
    offline = " (HF_HUB_OFFLINE is set: only local directories work)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return f"cannot load the {what} of {location!r}{offline}: {masked(' '.join(str(error).split()))}"
