"""Names on the Hugging Face hub: ids, repositories of trials, and a check that no value holds a token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
_ID = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
_LONGEST = 96  # characters that the hub allows


def is_hub_id(name: str) -> bool:
    """Return whether a name can be a repository on the hub, 'name' or 'owner/name', and is no local path."""
    return bool(_ID.fullmatch(name)) and not Path(name).exists()


def key_with_token(values: Mapping[str, Any]) -> str | None:
    """Return the first key whose value holds text that looks like a token of the hub; None if there is none."""
    return next((str(key) for key, value in values.items() if isinstance(value, str) and _TOKEN.search(value)), None)


def check_name(name: str) -> None:
    """Check that the names of a folder and a repository may begin with `name`. Raises ValueError if they may not."""
    if not _ID.fullmatch(name) or "--" in name or ".." in name:
        raise ValueError(
            "finetuned_model_id begins the name of a folder, and of a repository on the hub: 'name' or 'owner/name', "
            "of letters, digits, '-', '_' and '.', without '--' and '..'"
        )


def repository(beginning: str | None, slug: str, seed: int, trial_id: str) -> str:
    """Return the name of a trial's repository on the hub, unique for every trial: 'selgen_<slug>_seed_<N>'.

    Args:
        beginning: value of `finetuned_model_id`, 'name' or 'owner/name'; default: 'selgen'.
        slug, seed: of the trial.
        trial_id: replaces slug and seed if the name would be longer than 96 characters.
    """
    owner, _, name = (beginning or "selgen").rpartition("/")
    full_name = _joined(name, f"{slug}_seed_{seed}")
    if len(full_name) > _LONGEST:
        full_name = _joined(name[: _LONGEST - len(trial_id) - 1], trial_id)
    return f"{owner}/{full_name}" if owner else full_name


def _joined(name: str, suffix: str) -> str:
    text = f"{name.rstrip('-_.')}_{suffix}"
    return re.sub(r"([.-])[.-]+", r"\1", text).strip("-.")


PACKED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz", ".zip", ".lz4", ".7z", ".tar")
DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")
_DATA_SET_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_dataset_id(path: str) -> bool:
    """Return whether a path can only be a data set on the hub: 'owner/name', no known file ending, no local path."""
    return bool(_DATA_SET_ID.fullmatch(path)) and not path.endswith(DATA_SUFFIXES) and not Path(path).exists()
