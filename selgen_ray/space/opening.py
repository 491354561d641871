"""The sections of a search space as open settings; see `open_settings`."""

from __future__ import annotations

from selgen_ray.space.document import Document, Variant
from selgen_ray.space.expansion import make_candidate, seed_axis
from selgen_ray.space.open_settings import OpenSetting, OpenSpace
from selgen_ray.syntax.keys import Keys


def open_space(document: Document, keys: Keys) -> OpenSpace:
    """Return the open settings of a search space that has no problems."""
    listed = [(variant, True) for variant in document.variants]
    others = [(variant, False) for variant in [*document.overrides, *document.controls]]
    settings = tuple(_open(document, variant, keys, is_listed) for variant, is_listed in [*listed, *others])
    seeds = tuple(axis["seed"].plain() for axis in seed_axis(document) if axis)
    excluded = tuple(origin.problem("is not heeded here") for origin, _ in document.exclude)
    return OpenSpace(settings, seeds, excluded)


def _open(document: Document, variant: Variant, keys: Keys, is_listed: bool) -> OpenSetting:
    fixed = make_candidate(document, variant, variant.fixed, keys, []).flat
    search, axes = variant.search, tuple(variant.axes)
    if variant.drawn_from is not None:  # its last axis is what a random search has drawn
        search, axes = variant.drawn_from, axes[:-1]
    ranges = dict(search.ranges) if search else {}
    section = variant.origin.key or f"strategies.{variant.strategy}"
    return OpenSetting(section, variant.strategy, fixed, axes, ranges, is_listed)
