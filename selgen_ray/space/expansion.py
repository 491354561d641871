"""Expansion of the sections of a search space to its validated trials."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from selgen_ray import hashing
from selgen_ray.config import hardware
from selgen_ray.config.data import ROLES
from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.fingerprint import data_fingerprint
from selgen_ray.errors import ModelError, Problem
from selgen_ray.models import adapters
from selgen_ray.models.fingerprint import start_fingerprint
from selgen_ray.records.results import HEADLINES
from selgen_ray.schema import null_is_default
from selgen_ray.space.document import STREAMS, Document, Variant
from selgen_ray.space.source_parts import with_whole_sources
from selgen_ray.space.spec import Trial
from selgen_ray.syntax.keys import Flat, Keys, explain, held, nested, says_nothing
from selgen_ray.syntax.paths import is_there, near_name
from selgen_ray.syntax.tree import Node, Origin
from selgen_ray.trainers import catalogue, identity

MAX_TRIALS = 100_000
_HEADLINES = {*(f"evals.{name}" for name in HEADLINES), "evals.language", "evals.contexts"}
_RESOURCES = ("gpus", "gpus_per_worker", "strategy")
_CUDA = "needs a CUDA device, but resources.{} is 0; set it to 1, or leave it out to use what there is."
_NO_DATA = "there is no outcome data: give data.outcome (JSON lines), or data.world: toy to generate it."
_SAME_SEEDS = "is fixed, and so is the other one: trials of different seeds would be identical; remove one."


def id_of(settings: dict[str, Any]) -> str:
    """Return the id of the trial whose identity these settings are."""
    return hashing.digest(settings)[: identity.ID_LENGTH]


def setting_of(settings: Mapping[str, Any], fixed: Collection[str]) -> str:
    """Return the hash of a trial's setting, which its seeds share: of all but the streams that follow `seed`."""
    return hashing.digest({key: value for key, value in settings.items() if key not in STREAMS or key in fixed})


def fixed_streams(flat: Flat) -> list[str]:
    """Return the streams of seeds that do not follow `seed`."""
    return [key for key in STREAMS if _is_fixed(flat, key)]


@dataclass(frozen=True)
class Candidate:
    """A trial before validation: its values, and the section it comes from."""

    strategy: str
    origin: Origin
    flat: Flat


@dataclass(frozen=True)
class Checked:
    """A validated trial before it is named.

    Attributes:
        data_hashes: role -> hash of its rows.
        model_hash: hash of the weights that training starts from.
        settings: everything that can change the result; the identity of the trial.
    """

    candidate: Candidate
    config: TrialConfig
    data_hashes: dict[str, str]
    model_hash: str
    settings: dict[str, Any]

    @functools.cached_property
    def trial_id(self) -> str:
        """Hash of everything that can change the trial's result."""
        return id_of(self.settings)

    @functools.cached_property
    def setting(self) -> str:
        """Hash of everything but the seeds that follow `seed`: one folder holds the seeds of one setting."""
        fixed = fixed_streams(self.candidate.flat)
        if fixed == list(STREAMS) and all(getattr(self.config, key) == self.config.seed for key in STREAMS):
            fixed = []  # both are written out, and are the seed
        return setting_of(self.settings, fixed)

    def named(self, slug: str) -> Trial:
        """Return the trial, with `slug` as the folder of its setting."""
        return Trial(
            config=self.config,
            trial_id=self.trial_id,
            slug=slug,
            data_hashes=self.data_hashes,
            model_hash=self.model_hash,
            places={key: node.origin for key, node in self.candidate.flat.items() if key in _HEADLINES},
        )


class Checker:
    """Validates candidates and makes trials of them; a file is hashed once.

    Args:
        name: the sweep's name, for trials without an experiment_name.
    """

    def __init__(self, document: Document, keys: Keys, name: str):
        self.document, self.keys, self.name = document, keys, name
        self._data_hash = functools.cache(data_fingerprint)
        self._model_hash = functools.cache(start_fingerprint)
        self._adapter = functools.cache(adapters.lora_settings_of)

    def check(self, candidates: Iterable[Candidate], problems: list[Problem]) -> list[Checked]:
        """Return the validated trials, [] if there are problems; the problems are added to `problems`."""
        valid: list[tuple[Candidate, TrialConfig]] = []
        for candidate in candidates:
            config = _validate(candidate, self.keys, self.name, problems)
            config = config and self._continued(candidate, config, problems)
            if config:
                problems += _contradictions(candidate, config, self.document.settings)
                valid.append((candidate, config))
        if problems:  # hashing files would only report them again
            return []
        problems += [problem for candidate, config in valid for problem in _missing_files(candidate, config)]
        if problems:
            return []
        try:
            return [self._checked(candidate, config) for candidate, config in valid]
        except OSError as error:
            problems.append(self.document.origin.problem(f"{error.filename} cannot be read: {error.strerror}."))
            return []

    def _continued(self, candidate: Candidate, config: TrialConfig, problems: list[Problem]) -> TrialConfig | None:
        """Return the config with the settings of the adapter it continues from; None, and a problem: one is wrong."""
        cfg, flat = config.finetune_config, candidate.flat
        if cfg.adapter is None:
            return config
        place = flat["finetune_config.adapter"]
        if any((problem.line, problem.key) == (place.origin.line, place.origin.key) for problem in problems):
            return None  # its path is already reported
        try:
            lora_settings = self._adapter(cfg.adapter, cfg.adapter_revision)
            written = {key.rpartition(".")[2] for key in flat if key.startswith("finetune_config.")}
            wrong = adapters.contradictions(cfg, lora_settings, written)
            problems += [flat[f"finetune_config.{key}"].problem(why) for key, why in wrong.items()]
            return None if wrong else catalogue.continued(config, lora_settings)
        except ValidationError as error:
            known = self.keys.by_strategy[candidate.strategy]
            problems += explain(error, flat, known, place.origin)
        except ModelError as error:
            problems.append(place.problem(str(error).removeprefix("finetune_config.adapter ")))
        return None

    def _checked(self, candidate: Candidate, config: TrialConfig) -> Checked:
        data = {role: self._data_hash(s.path, s.revision) for role, s in config.data.sources().items()}
        cfg = config.finetune_config
        model = self._model_hash(cfg.model, cfg.model_revision, cfg.adapter, cfg.adapter_revision)
        return Checked(candidate, config, data, model, identity.identity_of_trial(config, data, model))


def expand(checker: Checker, problems: list[Problem]) -> list[Checked]:
    """Return the trials of a search space in order, duplicates included; what is wrong is added to `problems`."""
    document = checker.document
    num_settings = sum(
        math.prod(map(len, v.axes)) * (v.search.settings.num_settings if v.search else 1)
        for v in [*document.variants, *document.overrides, *document.controls]
    )
    total = num_settings * max(1, len(document.seeds))
    if total > MAX_TRIALS:
        problems.append(document.origin.problem(f"found {total:,} trials; allowed: {MAX_TRIALS:,}."))
        return []
    return checker.check(_candidates(document, checker.keys, problems), problems)


# multiplying ----------------------------------------------------------------------------------------------


def _candidates(document: Document, keys: Keys, problems: list[Problem]) -> Iterator[Candidate]:
    seeds = seed_axis(document)
    # first: of trials that are given twice the first is kept, and with it the name of the control
    for control in document.controls:
        for seed in seeds:
            yield make_candidate(document, control, control.fixed | seed, keys, problems)
    for variant in (v for v in document.variants if not v.search):
        for choice in itertools.product(*variant.axes, seeds):
            values = functools.reduce(operator.or_, choice, variant.fixed)
            yield make_candidate(document, variant, values, keys, problems)
    for override in document.overrides:
        fixed = _without_nulls(override.fixed, keys.by_strategy[override.strategy])
        has_seed = fixed.keys() & {"seed", *STREAMS}
        for seed in [{}] if has_seed else seeds:
            yield make_candidate(document, override, override.fixed | seed, keys, problems)


def seed_axis(document: Document) -> list[Flat]:
    """Return the seeds as the last axis: [{'seed': 1}, {'seed': 2}], or [{}] if none are given."""
    return [{"seed": node} for node in document.seeds] or [{}]


def make_candidate(document: Document, variant: Variant, own: Flat, keys: Keys, problems: list[Problem]) -> Candidate:
    """Make a trial of a strategy: the values of the base, with its own above them."""
    known = keys.by_strategy[variant.strategy]
    base = {key: node for key, node in document.base.items() if key in known}
    flat = _without_nulls(with_whole_sources(base, own, problems), known)
    own, fixed = _without_nulls(own, known), _without_nulls(variant.fixed, known)
    flat["proxy_strategy"] = Node(variant.strategy, variant.origin)
    if variant.control:
        flat["control"] = Node(variant.control, variant.origin)
    if document.workers:
        flat["num_workers"] = document.workers
    if all(_is_fixed(flat, key) for key in STREAMS):
        multiplied = "seed" in own and "seed" not in fixed and len(document.seeds) > 1
        if multiplied or ("seed" in fixed and not fixed.keys() & set(STREAMS)):
            problems += [flat[key].problem(_SAME_SEEDS) for key in STREAMS]
        if "seed" not in own and flat["data_seed"].plain() == flat["model_seed"].plain():
            flat["seed"] = flat["data_seed"]  # the first generation gave a seed by its two streams
    return Candidate(variant.strategy, variant.origin, flat)


def _without_nulls(flat: Flat, known: dict[str, FieldInfo]) -> Flat:
    """Leave out nulls that mean the default; not earlier, since a null over a value of the base takes it back."""
    return {key: node for key, node in flat.items() if not says_nothing(known[key], node)}


def _is_fixed(flat: Flat, stream: str) -> bool:
    return stream in flat and flat[stream].value not in (None, -1)


# validating -----------------------------------------------------------------------------------------------


def _validate(candidate: Candidate, keys: Keys, name: str, problems: list[Problem]) -> TrialConfig | None:
    """Return the config. If values are wrong, validate the others alone, to find what they contradict as well."""
    try:
        return catalogue.build_config({"experiment_name": name} | nested(candidate.flat))
    except ValidationError as error:
        new_problems = explain(error, candidate.flat, keys.by_strategy[candidate.strategy], candidate.origin)
        problems += new_problems
        wrong = {(problem.line, problem.key) for problem in new_problems}
        flat = candidate.flat
        valid = {
            key: node
            for key, node in flat.items()
            # the strategy decides which keys there are: without it the others would be called unknown
            if key == "proxy_strategy" or (node.origin.line, node.origin.key) not in wrong
        }
        shorter = Candidate(candidate.strategy, candidate.origin, valid)
        return _validate(shorter, keys, name, problems) if len(valid) < len(flat) else None


def _contradictions(candidate: Candidate, config: TrialConfig, sweep: Flat) -> Iterable[Problem]:
    """Yield problems of values that are valid alone but cannot run together."""
    flat = candidate.flat
    asked = {key: sweep[f"resources.{key}"].plain() for key in _RESOURCES if f"resources.{key}" in sweep}
    for key in [key for key in ("gpus", "gpus_per_worker") if asked.get(key) == 0]:
        message = _CUDA.format(key)
        yield from (
            flat[f"finetune_config.{name}"].problem(message) for name in hardware.cuda_only(config.finetune_config)
        )
    for name, why in hardware.not_for_fsdp(config.finetune_config).items() if asked.get("strategy") == "fsdp" else ():
        node = flat[f"finetune_config.{name}"]
        yield node.problem(
            f"found {str(node.plain()).lower()}, but resources.strategy: fsdp does not go with it: {why}."
        )
    outcome = config.data.outcome or (flat["data.outcome"].value if "data.outcome" in flat else None)
    if config.world is None and outcome is None:
        related = [*(f"data.{role}" for role in ROLES), "finetune_config.model"]
        place = next((flat[key].origin for key in related if key in flat), candidate.origin)
        yield place.problem(_NO_DATA)


def _missing_files(candidate: Candidate, config: TrialConfig) -> Iterable[Problem]:
    """Yield problems of missing files that decide the result, besides the data."""
    for key, path in identity.input_files(config).items():
        if not (is_there(Path(path)) or is_there(Path(path), True)):  # a file, or the folder of a model
            origin = candidate.flat[key].origin if key in candidate.flat else candidate.origin
            yield origin.problem(f"found {path!r}, but there is no such file.{near_name(Path(path))}")


def without_excluded(
    trials: list[Checked], searched: list[Checked], checker: Checker, problems: list[Problem]
) -> tuple[list[Checked], list[str]]:
    """Return the trials that no exclusion matches, and a note on every exclusion.

    Args:
        searched: trials of searches; a note only says whether some of them are matched.
    """
    notes: list[str] = []
    for origin, wanted in exclusions(checker, problems):
        left = [t for t in trials if not _matches(t, wanted, checker.keys)]
        count = len(trials) - len(left)
        message = f"excludes {count} of {len(trials)} trials." if count else "matches no trial."
        if any(_matches(t, wanted, checker.keys) for t in searched):
            message = f"excludes {count} of {len(trials)} trials, and what a search would ask for."
        notes.append(str(origin.problem(message)))
        trials = left
    return trials, notes


def exclusions(checker: Checker, problems: list[Problem]) -> list[tuple[Origin, dict[str, Any]]]:
    """Return place and values of each entry of `exclude`, the values as a config holds them."""
    return [(origin, _wanted(flat, checker.keys, problems)) for origin, flat in checker.document.exclude]


def is_excluded(trial: Checked, checker: Checker) -> bool:
    """Return whether an exclusion matches the trial."""
    return any(_matches(trial, wanted, checker.keys) for _, wanted in exclusions(checker, []))


def _wanted(flat: Flat, keys: Keys, problems: list[Problem]) -> dict[str, Any]:
    values = {key: held(keys.known[key], node, problems) for key, node in flat.items()}
    return {key: value[0] for key, value in values.items() if value}


def _matches(trial: Checked, wanted: dict[str, Any], keys: Keys) -> bool:
    known = keys.by_strategy[trial.config.proxy_strategy]

    def is_met(key: str, value: Any) -> bool:
        if value is None and key in known and null_is_default(known[key]):
            value = known[key].default  # of this strategy: two may have a knob of one name
        return value_of(trial.config, key, object()) == value

    return all(is_met(key, value) for key, value in wanted.items())


def value_of(config: TrialConfig, key: str, default: Any = None) -> Any:
    """Return the value of a dotted key of a config, `default` if it has no such key."""
    return functools.reduce(lambda inner, part: getattr(inner, part, default), key.split("."), config)
