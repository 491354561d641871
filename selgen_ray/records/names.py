"""Names of trials and of the folders of a sweep.

Names that are read from storage become parts of paths: each is checked here before it is used.
"""

from __future__ import annotations

import re

_ID = re.compile(r"[0-9a-f]{16}")
# names of strategies are their authors' choice: whatever is one part of a path, and no option of a command, will do
_SLUG = re.compile(r"(?![.~-])[^/\\\x00-\x1f\x7f]{1,200}")
_SEED_FOLDER = re.compile(r"seed_(-?\d{1,20})")
NAMES = "a trial's id is 16 of 0-9a-f, a setting's name one part of a path that does not begin with . ~ or -"


def trial_name(slug: str, seed: int) -> str:
    """Return '<slug>/seed_<N>', the readable name of a trial and the path of its folder in the sweep's."""
    return f"{slug}/seed_{seed}"


def is_trial_id(text: object) -> bool:
    """Return whether something is the id of a trial: 16 hex digits in lower case."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def is_slug(text: object) -> bool:
    """Return whether something is the name of a setting, and so one part of a path that leads nowhere else."""
    return isinstance(text, str) and _SLUG.fullmatch(text) is not None


def is_trial_name(text: object) -> bool:
    """Return whether something is '<slug>/seed_<N>'."""
    slug, _, seed = str(text).partition("/")
    return isinstance(text, str) and is_slug(slug) and _SEED_FOLDER.fullmatch(seed) is not None
