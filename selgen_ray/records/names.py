"""Names of trials and of the folders of a sweep.

Names that are read from storage become parts of paths: each is checked here before it is used.
"""

from __future__ import annotations

import re

from selgen_ray.records.text import STEERING

_ID = re.compile(r"[0-9a-f]{16}")
# names of strategies are their authors' choice: whatever is one part of a path, and no option of a command, will do
# but for what a terminal obeys
_SLUG = re.compile(rf"(?![.~-])[^/\\{STEERING}]{{1,200}}")
_SEED_FOLDER = re.compile(r"seed_(-?\d{1,20})")
_WHOSE = re.compile(r"(.+) \(([0-9a-f]{16})\), ")
_WARM = re.compile(r"_warm-[0-9a-f]{6}_[0-9a-f]+$")
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


def warm_mark(whose: str) -> str:
    """Return what a setting's name says of a start with another trial's weights: 'warm-' and 6 digits of its id.

    Args:
        whose: the config's `warm_start`, such as 'naive_1a2b3c/seed_1 (0123456789abcdef), after step 30'.
    """
    match = _WHOSE.match(whose)
    return f"warm-{match[2][:6]}" if match else "warm"


def warm_name(whose: str) -> str:
    """Return the name of the trial whose weights a config's `warm_start` names; all of it, where it has none."""
    match = _WHOSE.match(whose)
    return match[1] if match else whose


def is_warm_name(slug: str) -> bool:
    """Return whether a setting's name says that it began with another trial's weights."""
    return _WARM.search(slug) is not None
