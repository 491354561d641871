"""Searches of a sweep: a section `search` becomes the object that makes trials of the settings it asks for."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from selgen_ray import hashing
from selgen_ray.errors import Problem, SpecError
from selgen_ray.space.document import STREAMS, Variant
from selgen_ray.space.expansion import Checked, Checker, is_excluded, make_candidate, seed_axis
from selgen_ray.space.ranges import draw
from selgen_ray.space.search_section import Section
from selgen_ray.space.slugs import slug, unique, varying
from selgen_ray.space.spec import Pareto, SearchSpec, Trial
from selgen_ray.syntax.keys import Flat

_DIGITS = 8  # of the hash in a search's key


@dataclass(frozen=True)
class Template:
    """A strategy's settings with the searched keys left open, until the search gives values for them.

    Attributes:
        own: the strategy's values of the other keys.
    """

    checker: Checker
    variant: Variant
    section: Section
    own: Flat

    def trials(self, values: Mapping[str, Any], problems: list[Problem]) -> list[Checked]:
        """Make one trial per seed, without duplicates; what is wrong is added to `problems`."""
        document, values_of_strategy = self.checker.document, self.own | self.section.flat(dict(values))
        candidates = [
            make_candidate(document, self.variant, values_of_strategy | seed, self.checker.keys, problems)
            for seed in seed_axis(document)
        ]
        return unique(self.checker.check(candidates, problems))[0]

    def points(self) -> Iterable[dict[str, Any]]:
        """Yield some settings that together hold each end of a range and each choice."""
        ranges, settings = self.section.ranges, self.section.settings
        first = draw(ranges, 0, settings.seed, self.variant.strategy)
        yield first
        for share in (0.0, math.nextafter(1, 0)):
            yield {key: one.at(share) for key, one in ranges.items()}
        for key, one in ranges.items():
            yield from (first | {key: choice} for choice in one.choices)

    def key(self, sample: Checked) -> str:
        """Return the search's name: it stays the same while only ranges, seeds and the search's own settings change."""
        settings: dict[str, Any] = {k: v for k, v in sample.settings.items() if k not in STREAMS}
        for key in self.section.ranges:
            *path, leaf = key.split(".")
            inner = functools.reduce(lambda found, part: found.get(part, {}), path, settings)
            if leaf in inner:
                settings = _without(settings, [*path, leaf])
        digest = hashing.digest({"settings": settings, "searched": sorted(self.section.ranges)})
        return f"{self.variant.strategy}_{digest[:_DIGITS]}"


def _without(tree: dict[str, Any], path: list[str]) -> dict[str, Any]:
    first, *inner = path
    if inner:
        return {**tree, first: _without(tree[first], inner)}
    return {key: value for key, value in tree.items() if key != first}


def find_searches(checker: Checker, problems: list[Problem]) -> list[tuple[Template, list[Checked]]]:
    """Return every search of the sweep, one per combination of the other axes, with trials of some of its settings."""
    searches: list[tuple[Template, list[Checked]]] = []
    for variant in checker.document.variants:
        if section := variant.search:
            for choice in itertools.product(*variant.axes):
                values = functools.reduce(operator.or_, choice, variant.fixed)
                template = Template(checker, variant, section, values)
                samples = [trial for point in template.points() for trial in template.trials(point, problems)]
                searches.append((template, samples))
    return searches


def as_searches(found: list[tuple[Template, list[Checked]]], pareto: Pareto) -> list[SearchSpec]:
    """Return the searches of the sweep, each once, without those whose trials are all excluded."""
    left = [(template, [t for t in samples if not is_excluded(t, template.checker)]) for template, samples in found]
    by_strategy: dict[str, list[tuple[Template, list[Checked]]]] = defaultdict(list)
    for template, samples in left:
        if samples:
            by_strategy[template.variant.strategy].append((template, samples))
    specs: dict[str, SearchSpec] = {}
    for group in by_strategy.values():
        fixed = varying([samples[0] for _, samples in group])
        for template, samples in group:
            spec = _search(template, samples, fixed, pareto)
            specs.setdefault(spec.key, spec)
    return list(specs.values())


def _search(template: Template, samples: list[Checked], fixed: list[str], pareto: Pareto) -> SearchSpec:
    section = template.section
    named = [*dict.fromkeys([*fixed, *section.ranges])]
    return SearchSpec(
        key=template.key(samples[0]),
        place=section.origin.key,
        strategy=template.variant.strategy,
        num_settings=section.settings.num_settings,
        seed=section.settings.seed,
        objectives=section.objectives(pareto.x, pareto.y),
        require=() if section.settings.metric else pareto.conditions,
        ranges=section.ranges,
        num_seeds=len(seed_axis(template.checker.document)),
        build=functools.partial(_build, template, named),
        samples=tuple(trial.named(slug(trial, named)) for trial in unique(samples)[0]),
    )


def _build(template: Template, named: list[str], values: Mapping[str, Any]) -> list[Trial]:
    """Make the trials of a setting that a search asks for; their names do not depend on its other settings."""
    problems: list[Problem] = []
    trials = template.trials(values, problems)
    if problems:
        raise SpecError(problems)
    return [trial.named(slug(trial, named)) for trial in trials if not is_excluded(trial, template.checker)]
