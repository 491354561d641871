"""From the sections of a search space to its unique, validated, named trials."""

from __future__ import annotations

import functools
import itertools
import math
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from selgen_ray import fingerprint
from selgen_ray.config import ROLES, TrialConfig
from selgen_ray.errors import Problem
from selgen_ray.results import flatten
from selgen_ray.space.document import STREAMS, Document, Variant
from selgen_ray.space.keys import Flat, Keys, coerce, explain, nested, refused, says_nothing
from selgen_ray.space.models import Trial
from selgen_ray.space.tree import Node, Origin, is_there, near_name
from selgen_ray.strict import null_is_default
from selgen_ray.trainers import registry

MAX_TRIALS = 100_000
_SLUG_LENGTH = 80
_DIGITS = 6  # of the setting's hash in a slug; more where two slugs would be equal
_CUDA = "needs a CUDA device, but resources.gpus is 0; set it to 1, or leave it out to use what there is."
_NO_DATA = "there is no outcome data: give data.outcome (JSON lines), or data.world: toy to generate it."
_SAME_SEEDS = "is fixed, and so is the other one: trials of different seeds would be identical; remove one."


@dataclass(frozen=True)
class Candidate:
    """A trial before validation: its values, and the section it comes from."""

    strategy: str
    origin: Origin
    flat: Flat


@dataclass(frozen=True)
class Checked:
    """A validated trial before it is named; `settings` is its identity, `setting` what its seeds share."""

    candidate: Candidate
    config: TrialConfig
    data_hashes: dict[str, str]
    model_hash: str
    settings: dict[str, Any]

    @functools.cached_property
    def trial_id(self) -> str:
        return fingerprint.digest(self.settings)[: fingerprint.ID_LENGTH]

    @functools.cached_property
    def setting(self) -> str:
        """Hash of everything but the seeds that follow `seed`: one folder holds the seeds of one setting."""
        fixed = [key for key in STREAMS if _is_fixed(self.candidate.flat, key)]
        if fixed == list(STREAMS) and all(getattr(self.config, key) == self.config.seed for key in STREAMS):
            fixed = []  # both are written out, and are the seed
        return fingerprint.digest({k: v for k, v in self.settings.items() if k not in STREAMS or k in fixed})

    def named(self, slug: str) -> Trial:
        return Trial(
            config=self.config,
            trial_id=self.trial_id,
            slug=slug,
            data_hashes=self.data_hashes,
            model_hash=self.model_hash,
        )


def expand(document: Document, keys: Keys, name: str, problems: list[Problem]) -> list[Checked]:
    """The trials of a search space in order, duplicates included; what is wrong is added to `problems`.

    Args:
        name: the sweep's, for trials without an experiment_name.
    """
    num_settings = sum(math.prod(map(len, v.axes)) for v in [*document.variants, *document.overrides])
    total = num_settings * max(1, len(document.seeds))
    if total > MAX_TRIALS:
        problems.append(document.origin.problem(f"found {total:,} trials; allowed: {MAX_TRIALS:,}."))
        return []
    gpus = document.settings.get("resources.gpus")
    no_gpu = gpus is not None and gpus.plain() == 0
    valid: list[tuple[Candidate, TrialConfig]] = []
    for candidate in _candidates(document, keys, problems):
        config = _validate(candidate, keys, name, problems)
        if config:
            problems += _contradictions(candidate, config, no_gpu)
            valid.append((candidate, config))
    if problems:  # hashing files would only repeat them
        return []
    problems += [problem for candidate, config in valid for problem in _missing_files(candidate, config)]
    if problems:
        return []
    data_hash = functools.cache(fingerprint.file_sha256)
    model_hash = functools.cache(fingerprint.model_fingerprint)
    checked: list[Checked] = []
    try:
        for candidate, config in valid:
            data = {role: data_hash(path) for role, path in config.data.paths().items()}
            model = model_hash(config.finetune_config.model, config.finetune_config.model_revision)
            settings = fingerprint.settings(config, data, model)
            checked.append(Checked(candidate, config, data, model, settings))
    except OSError as error:
        problems.append(document.origin.problem(f"{error.filename} cannot be read: {error.strerror}."))
    return checked


# multiplying ----------------------------------------------------------------------------------------------


def _candidates(document: Document, keys: Keys, problems: list[Problem]) -> Iterator[Candidate]:
    seeds: list[Flat] = [{"seed": node} for node in document.seeds] or [{}]
    for variant in document.variants:
        for choice in itertools.product(*variant.axes, seeds):
            own = functools.reduce(operator.or_, choice, variant.fixed)
            yield _candidate(document, variant, own, keys, problems)
    for override in document.overrides:
        fixed = _without_nulls(override.fixed, keys.by_strategy[override.strategy])
        has_seed = fixed.keys() & {"seed", *STREAMS}
        for seed in [{}] if has_seed else seeds:
            yield _candidate(document, override, override.fixed | seed, keys, problems)


def _candidate(document: Document, variant: Variant, own: Flat, keys: Keys, problems: list[Problem]) -> Candidate:
    known = keys.by_strategy[variant.strategy]
    flat = _without_nulls({key: node for key, node in document.base.items() if key in known} | own, known)
    own, fixed = _without_nulls(own, known), _without_nulls(variant.fixed, known)
    flat["proxy_strategy"] = Node(variant.strategy, variant.origin)
    if all(_is_fixed(flat, key) for key in STREAMS):
        multiplied = "seed" in own and "seed" not in fixed and len(document.seeds) > 1
        if multiplied or ("seed" in fixed and not fixed.keys() & set(STREAMS)):
            problems += [flat[key].problem(_SAME_SEEDS) for key in STREAMS]
        if "seed" not in own and flat["data_seed"].plain() == flat["model_seed"].plain():
            flat["seed"] = flat["data_seed"]  # the first generation gave a seed by its two streams
    return Candidate(variant.strategy, variant.origin, flat)


def _without_nulls(flat: Flat, known: dict[str, FieldInfo]) -> Flat:
    """Without what is null for the default; only now, since a null over a value of the base takes it back."""
    return {key: node for key, node in flat.items() if not says_nothing(known[key], node)}


def _is_fixed(flat: Flat, stream: str) -> bool:
    return stream in flat and flat[stream].value not in (None, -1)


# validating -----------------------------------------------------------------------------------------------


def _validate(candidate: Candidate, keys: Keys, name: str, problems: list[Problem]) -> TrialConfig | None:
    """The config; where values are wrong, that of the others, to find what they contradict as well."""
    try:
        return registry.build_config({"experiment_name": name} | nested(candidate.flat))
    except ValidationError as error:
        found = explain(error, candidate.flat, keys.by_strategy[candidate.strategy], candidate.origin)
        problems += found
        wrong = {(problem.line, problem.key) for problem in found}
        flat = candidate.flat
        rest = {k: node for k, node in flat.items() if (node.origin.line, node.origin.key) not in wrong}
        shorter = Candidate(candidate.strategy, candidate.origin, rest)
        return _validate(shorter, keys, name, problems) if len(rest) < len(flat) else None


def _contradictions(candidate: Candidate, config: TrialConfig, no_gpu: bool) -> Iterable[Problem]:
    """What is right by itself but cannot run."""
    flat = candidate.flat
    if no_gpu:
        yield from (flat[f"finetune_config.{key}"].problem(_CUDA) for key in config.finetune_config.cuda_only)
    outcome = config.data.outcome or (flat["data.outcome"].value if "data.outcome" in flat else None)
    if config.world is None and outcome is None:
        related = [*(f"data.{role}" for role in ROLES), "finetune_config.model"]
        place = next((flat[key].origin for key in related if key in flat), candidate.origin)
        yield place.problem(_NO_DATA)


def _missing_files(candidate: Candidate, config: TrialConfig) -> Iterable[Problem]:
    """The files besides the data that decide the result, and are not there."""
    for key, path in registry.get_trainer(config.proxy_strategy).input_files(config).items():
        if not (is_there(Path(path)) or is_there(Path(path), True)):  # a file, or the folder of a model
            origin = candidate.flat[key].origin if key in candidate.flat else candidate.origin
            yield origin.problem(f"found {path!r}, but there is no such file.{near_name(Path(path))}")


def without_excluded(
    trials: list[Checked], document: Document, keys: Keys, problems: list[Problem]
) -> tuple[list[Checked], list[str]]:
    """The trials that no exclusion matches, and a note on every exclusion."""
    notes: list[str] = []
    for origin, flat in document.exclude:
        wanted = _wanted(flat, keys, problems)
        left = [t for t in trials if not _matches(t.config, wanted, keys.by_strategy[t.config.proxy_strategy])]
        count = len(trials) - len(left)
        told = f"excludes {count} of {len(trials)} trials." if count else "matches no trial."
        notes.append(str(origin.problem(told)))
        trials = left
    if not trials and not problems:
        problems.append(document.origin.problem("no trial is left: `exclude` matches all of them."))
    return trials, notes


def _wanted(flat: Flat, keys: Keys, problems: list[Problem]) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    for key, node in flat.items():
        try:
            wanted[key] = coerce(keys.known[key], node.plain())
        except ValidationError:
            problems.append(node.problem(refused(keys.known[key], node.plain())))
    return wanted


def _matches(config: TrialConfig, wanted: dict[str, Any], known: dict[str, FieldInfo]) -> bool:
    def is_met(key: str, value: Any) -> bool:
        if value is None and key in known and null_is_default(known[key]):
            value = known[key].default  # of this strategy: two may have a knob of one name
        return _get(config, key, object()) == value

    return all(is_met(key, value) for key, value in wanted.items())


def _get(config: TrialConfig, key: str, default: Any = None) -> Any:
    return functools.reduce(lambda inner, part: getattr(inner, part, default), key.split("."), config)


# naming ---------------------------------------------------------------------------------------------------


def unique(trials: list[Checked]) -> tuple[list[Checked], list[tuple[Checked, Checked]]]:
    """The first trial of every id, and the pairs (kept, merged into it)."""
    first: dict[str, Checked] = {}
    pairs = [(first.setdefault(trial.trial_id, trial), trial) for trial in trials]
    return list(first.values()), [(kept, trial) for kept, trial in pairs if kept is not trial]


def named(trials: list[Checked]) -> list[Trial]:
    """The trials with readable slugs: the strategy, what varies within it, a hash of the whole setting."""
    by_strategy: dict[str, list[Checked]] = defaultdict(list)
    for trial in trials:
        by_strategy[trial.config.proxy_strategy].append(trial)
    varying = {strategy: _varying(group) for strategy, group in by_strategy.items()}
    slugs = {trial.setting: _slug(trial, varying[trial.config.proxy_strategy]) for trial in trials}
    shared = {slug for slug, count in Counter(slugs.values()).items() if count > 1}
    slugs = {key: slug + key[_DIGITS:32] if slug in shared else slug for key, slug in slugs.items()}
    return [trial.named(slugs[trial.setting]) for trial in trials]


def _varying(trials: list[Checked]) -> list[str]:
    """The dotted keys whose values differ between trials of one strategy, seeds aside; of a file, its content."""
    flats = [flatten(trial.settings) for trial in trials]
    keys = dict.fromkeys(key for flat in flats for key in flat if key not in STREAMS)
    varying = [key for key in keys if len({repr(flat.get(key)) for flat in flats}) > 1]
    return list(dict.fromkeys(key.removeprefix(f"{fingerprint.FILES}.") for key in varying))


def _slug(trial: Checked, varying: list[str]) -> str:
    parts = [f"{key.rpartition('.')[2]}-{_short(_get(trial.config, key))}" for key in varying]
    readable = "_".join([trial.config.proxy_strategy, *parts])
    return f"{readable[: _SLUG_LENGTH - _DIGITS - 1].rstrip('._-')}_{trial.setting[:_DIGITS]}"


def _short(value: Any) -> str:
    """A value as a part of a folder name."""
    if isinstance(value, list | tuple):
        return "-".join(map(_short, value))
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if value is None or isinstance(value, bool):
        text = text.lower()
    name = text.rsplit("/", 1)[-1]  # of a path or a hub id
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".") or "empty"
