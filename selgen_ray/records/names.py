"""Names of trials and of the folders of a sweep."""

from __future__ import annotations


def trial_name(slug: str, seed: int) -> str:
    """Return '<slug>/seed_<N>', the readable name of a trial and the path of its folder in the sweep's."""
    return f"{slug}/seed_{seed}"
