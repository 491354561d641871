"""Names on the hub, and the tokens that must not be among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
_ID = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
_LONGEST = 96  # what the hub takes


def is_hub_id(name: str) -> bool:
    """Whether a name can be a repository on the hub, 'name' or 'owner/name', and is nothing local."""
    return bool(_ID.fullmatch(name)) and not Path(name).exists()


def key_with_token(values: Mapping[str, Any]) -> str | None:
    """The first key whose text holds what looks like a token of the hub."""
    return next((str(key) for key, value in values.items() if isinstance(value, str) and _TOKEN.search(value)), None)


def check_name(name: str) -> None:
    """Raises ValueError: no repository can have a name that begins so."""
    if not _ID.fullmatch(name) or "--" in name or ".." in name:
        raise ValueError(
            "finetuned_model_id with push_to_hub begins a repository's name: 'name' or 'owner/name', of letters, "
            "digits, '-', '_' and '.', without '--' and '..'"
        )


def repository(beginning: str | None, slug: str, seed: int, trial_id: str) -> str:
    """The name of a trial's own repository: another one for every trial.

    Args:
        beginning: `finetuned_model_id`; default: 'selgen'.
        slug, seed: of the trial.
        trial_id: takes the slug's place where the name would be too long.
    """
    owner, _, name = (beginning or "selgen").rpartition("/")
    found = _joined(name, f"{slug}_seed_{seed}")
    if len(found) > _LONGEST:
        found = _joined(name[: _LONGEST - len(trial_id) - 1], trial_id)
    return f"{owner}/{found}" if owner else found


def _joined(name: str, rest: str) -> str:
    text = f"{name.rstrip('-_.')}_{rest}"
    return re.sub(r"([.-])[.-]+", r"\1", text).strip("-.")


PACKED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz", ".zip", ".lz4", ".7z", ".tar")
DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")
_DATA_SET_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_dataset_id(path: str) -> bool:
    """Whether a path can only be a data set on the hub: 'name/name', without a known ending, and nothing local."""
    return bool(_DATA_SET_ID.fullmatch(path)) and not path.endswith(DATA_SUFFIXES) and not Path(path).exists()
