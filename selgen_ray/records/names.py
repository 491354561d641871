"""Names of trials and of the folders of a sweep."""

from __future__ import annotations


def trial_name(slug: str, seed: int) -> str:
    """Return '<slug>/seed_<N>': what people call a trial, and its folder below the sweep's."""
    return f"{slug}/seed_{seed}"
