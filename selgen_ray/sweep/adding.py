"""`sweep add`: further trials of another search space, or further seeds, if they compare with the sweep's own."""

from __future__ import annotations

import fnmatch
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from selgen_ray.config.source import Source
from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.fingerprint import data_fingerprint
from selgen_ray.driver.added import AddedTrial, read_added
from selgen_ray.driver.preflight import check_data
from selgen_ray.driver.selection import SelectionError
from selgen_ray.driver.trust import Trust
from selgen_ray.errors import SpecError, nearest
from selgen_ray.models.adapters import DECIDED
from selgen_ray.records.control import PLAN, Control
from selgen_ray.records.results import flatten
from selgen_ray.records.text import first_line
from selgen_ray.space import SweepSpec, Trial, load_space
from selgen_ray.space.kept import axes_of, inherited, read_kept
from selgen_ray.space.load import load_tree
from selgen_ray.storage import Folder
from selgen_ray.syntax.keys import SOURCES
from selgen_ray.trainers import catalogue, identity, plugins
from selgen_ray.trainers.plugins import Plugin

_STREAMS = ("data_seed", "model_seed")
_OWN = ("proxy_strategy", "strategy_code", "seed", *_STREAMS)  # what any trial may have for itself
START = frozenset(f"finetune_config.{key}" for key in ("model", "adapter", *DECIDED))
"""The keys that say what training begins with, and those that an adapter decides."""
_ROWS = ".rows"  # of a source: what its path holds
_SHOWN = 4  # values of the others in a line


@dataclass(frozen=True)
class Member:
    """A trial of the sweep, or one that is to join it.

    Attributes:
        content: dotted key -> value of everything that can change its result, files by their content, defaults left
            out, seeds aside.
    """

    trial: Trial
    content: Mapping[str, Any]
    plugins: tuple[Plugin, ...] = ()

    @classmethod
    def of(cls, trial: Trial, sources: tuple[Plugin, ...]) -> Member:
        """The member that a trial is; its plugins must be those that are loaded."""
        content = flatten(identity.identity_of_trial(trial.config, trial.data_hashes, trial.model_hash))
        content = {f"{key}{_ROWS}" if key in SOURCES else key: value for key, value in content.items()}
        return cls(trial, {key: value for key, value in content.items() if key not in _STREAMS}, sources)

    @functools.cached_property
    def written(self) -> dict[str, Any]:
        """Dotted key -> value as people write it: the path of a file rather than the hash of its content."""
        config = flatten(self.trial.config.model_dump(mode="json"))
        paths = {key.removesuffix(".path") + _ROWS: value for key, value in config.items()}
        paths = {key: value for key, value in paths.items() if key.removesuffix(_ROWS) in SOURCES}
        return {f"{identity.FILES}.{key}": config[key] for key in config} | dict(self.content) | config | paths

    @functools.cached_property
    def setting(self) -> str:
        """Equal for the seeds of one setting."""
        return json.dumps(self.content, sort_keys=True, default=str)

    @property
    def follows_its_seed(self) -> bool:
        """Whether data and model are drawn by the seed alone."""
        config = self.trial.config
        return all(getattr(config, key) == config.seed for key in _STREAMS)


@dataclass(frozen=True)
class Members:
    """The trials of a sweep: those of its search space, and those that joined it."""

    spec: SweepSpec
    members: tuple[Member, ...]

    @classmethod
    def of(cls, folder: Folder, confirmed: Iterable[str] = ()) -> Members:
        """Read a sweep's members from its folder.

        Args:
            confirmed: beginnings of the sha256 of plugins that may run here, beside those that the search space names.

        Raises:
            SpecError, StorageError: it cannot be read. SelectionError: a trial that was added brings other code along.
        """
        spec = load_tree(read_kept(folder))
        sources = spec.plugin_sources
        samples = (sample for search in spec.searches for sample in search.samples)
        members = [Member.of(trial, sources) for trial in [*spec.trials, *samples]]
        control = Control(folder)
        trusted = Trust.of(spec, folder, confirmed)
        for trial in read_added(control, control.added.names()):
            if why := trusted.why_not_code(trial.plugins):
                raise SelectionError(f"{trial.name}, which was added before, {why}")
            members.append(_joined(trial, control))
        plugins.register_exactly(sources)
        return cls(spec, tuple(members))

    def unknown(self, names: Iterable[str], folder: Folder) -> list[str]:
        """Trials of the search space that no run of the sweep planned: something that they read is another now."""
        known = {*names, *Control(folder).read(PLAN).get("left_out", {})}
        return [trial.name for trial in self.spec.trials if trial.trial_id not in known]

    @functools.cached_property
    def values(self) -> dict[str, set[str]]:
        """Dotted key -> the values that the trials have, of keys that one of them has; as JSON, null for a default."""
        keys = {key for member in self.members for key in member.content}
        return {
            key: {_text(member.content.get(key)) for member in self.members if not _is_own_start(key, member)}
            for key in keys
        }

    def under_their_names(self, members: Iterable[Member]) -> list[Member]:
        """Return the members; a setting that the sweep has already keeps its name there, whatever it differs from."""
        slugs = {member.setting: member.trial.slug for member in self.members if member.follows_its_seed}
        renamed: list[Member] = []
        for member in members:
            slug = slugs.get(member.setting) if member.follows_its_seed else None
            trial = member.trial.model_copy(update={"slug": slug}) if slug else member.trial
            renamed.append(replace(member, trial=trial))
        return renamed

    def differing(self, member: Member) -> list[str]:
        """Dotted keys whose value no trial of the sweep has; a default that the sweep never names is none."""
        seen, content = self.values, member.content
        named = [key for key in content if _text(content[key]) not in seen.get(key, {"null"})]
        differing = named + [key for key in seen if key not in content and "null" not in seen[key]]
        return [key for key in differing if not _is_own_start(key, member)]

    def not_comparable(self, member: Member) -> list[str]:
        """Those of `differing` that are the same in the whole sweep, and no business of one strategy."""
        knobs = catalogue.knob_owners()
        return [
            key
            for key in self.differing(member)
            if key not in knobs and key not in _OWN and not key.startswith(f"{identity.FILES}.")
            if len(self.values.get(key, {"null"})) == 1
        ]

    def line(self, member: Member) -> str:
        """'dpo_0c5fd1/seed_4: lambda_dpo 0.3 (the sweep: 0.03), seed 4 (the sweep: 1, 2, 3)'."""
        parts = [self.part(key, member) for key in self.differing(member) if key != "strategy_code"]
        seeds = {other.trial.config.seed for other in self.members}
        if member.trial.config.seed not in seeds:
            parts.append(f"seed {member.trial.config.seed} (the sweep: {_few(map(str, sorted(seeds)))})")
        if whose := member.trial.config.warm_start:
            parts.append(f"begins with the weights of {whose}")
        return f"{member.trial.name}: {', '.join(parts) or 'no value that the sweep does not have'}"

    def part(self, key: str, member: Member) -> str:
        """'lambda_dpo 0.3 (the sweep: 0.03)'."""
        others = dict.fromkeys(_text(other.written[key]) for other in self.members if key in other.written)
        value = _text(member.written.get(key))
        name = key.rpartition(".")[2] if key in catalogue.knob_owners() else key.removesuffix(_ROWS)
        return f"{name} {value}" + (f" (the sweep: {_few(others)})" if others else "")


def more_trials(
    folder: Folder, space: str, different: bool, confirmed: Iterable[str] = ()
) -> tuple[list[Member], Members | None, list[str]]:
    """The trials of another search space, laid over what the sweep gives all of its own.

    Returns:
        Them, the sweep's own (None where they cannot be read, which only `different` allows), and what is to be said.

    Raises:
        SpecError: one of the two search spaces is wrong. SelectionError: the trials do not compare with the sweep's.
    """
    try:
        kept = read_kept(folder)
        sweep, notes = Members.of(folder, confirmed), []
    except SpecError as error:
        if not different:
            raise SelectionError(f"{error}\nsay --different to add trials that inherit nothing of the sweep") from error
        kept, sweep, notes = None, None, ["nothing is inherited: the sweep's own search space cannot be read"]
    spec = load_space(space, inherited(kept), axes_of(kept)) if kept else load_space(space)
    if problems := check_data(spec):
        raise SelectionError("\n".join(problems))
    new = [Member.of(trial, spec.plugin_sources) for trial in spec.trials]
    if sweep is None:
        return new, None, notes
    new = sweep.under_their_names(new)
    wrong = {m.trial.slug: keys for m in new if (keys := sweep.not_comparable(m))}
    if wrong and not different:
        places = dict(spec.places.keys) | {f"{key}{_ROWS}": origin for (key, _), origin in spec.places.sources.items()}
        told: list[str] = []
        for member in new:
            keys = wrong.pop(member.trial.slug, [])
            for key in keys:
                place = places.get(key)
                at = f"{place.file}:{place.line}: " if place else f"{space}: "
                told.append(f"  {at}{member.trial.slug}: {sweep.part(key, member)}")
        listed = "\n".join(dict.fromkeys(told))
        raise SelectionError(f"they do not compare with the trials of the sweep:\n{listed}\n{ANYWAY}")
    return new, sweep, notes


ANYWAY = "leave these keys out to have the sweep's values, or say --different to add the trials all the same"


def more_seeds(
    folder: Folder,
    names: Iterable[str],
    seeds: Sequence[int],
    wanted: Sequence[str],
    different: bool,
    confirmed: Iterable[str] = (),
) -> tuple[list[Member], Members]:
    """The sweep's settings with further seeds.

    Args:
        names: the ids of the trials that the sweep knows.
        wanted: strategies, settings or patterns of settings; none: all.

    Raises:
        SpecError: the sweep's search space cannot be read. SelectionError: nothing has such a name, or the sweep's
            settings are not what they were.
    """
    sweep = Members.of(folder, confirmed)
    if (changed := sweep.unknown(names, folder)) and not different:
        raise SelectionError(
            f"{folder}: {len(changed)} of {len(sweep.spec.trials)} trials are others than when the sweep ran, such as "
            f"{changed[0]}: a data file, a plugin or the model has changed since. Say --different to add seeds of what "
            "they are now"
        )
    asked_for = {m.trial.trial_id for search in sweep.spec.searches for m in map(_bare, search.samples)}
    first: dict[str, Member] = {}
    for member in sweep.members:
        if member.trial.trial_id not in asked_for:  # a sample of a search is no setting of the sweep
            first.setdefault(member.trial.slug, member)
    chosen = _chosen(first, wanted)
    if fixed := [slug for slug, member in chosen.items() if not _may_vary(member.trial.config)]:
        raise SelectionError(f"{fixed[0]}: data_seed and model_seed are fixed, so further seeds would be identical")
    made = [_with_seed(member, seed) for member in chosen.values() for seed in seeds]
    plugins.register_exactly(sweep.spec.plugin_sources)
    own = [member.trial for member in made if member.plugins == sweep.spec.plugin_sources]
    if problems := check_data(sweep.spec.model_copy(update={"trials": own, "searches": ()})):
        raise SelectionError("\n".join(problems))
    return made, sweep


def _bare(trial: Trial) -> Member:
    return Member(trial, {})


def _may_vary(config: TrialConfig) -> bool:
    return any(getattr(config, key) == config.seed for key in _STREAMS)


def _chosen(settings: Mapping[str, Member], wanted: Sequence[str]) -> dict[str, Member]:
    if not wanted:
        return dict(settings)
    chosen: dict[str, Member] = {}
    there = sorted({member.trial.config.proxy_strategy for member in settings.values()})
    for text in wanted:
        name = catalogue.canonical(text)
        fits = {s: m for s, m in settings.items() if m.trial.config.proxy_strategy == name or s == text}
        fits = fits or {slug: member for slug, member in settings.items() if fnmatch.fnmatchcase(slug, text)}
        if not fits:
            hint = nearest(text, [*there, *settings])
            raise SelectionError(f"--strategies {text}: no such strategy or setting; found: {', '.join(there)}.{hint}")
        chosen |= fits
    return {slug: member for slug, member in settings.items() if slug in chosen}


def _with_seed(member: Member, seed: int) -> Member:
    config = member.trial.config
    follow = {key: -1 for key in _STREAMS if getattr(config, key) == config.seed}
    raw = config.model_dump(mode="json") | follow | {"seed": seed}
    return _member(raw, member.trial.slug, member.trial.data_hashes, member.trial.model_hash, member.plugins)


def _joined(added: AddedTrial, control: Control) -> Member:
    """Return the member that an added trial is. Raises SelectionError: its file is damaged, or of another release."""
    try:
        plugins.register_exactly(added.plugins)
        config = catalogue.build_config(added.config)
        data = {role: _fingerprint(s) for role, s in config.data.sources().items()}
        return _member(added.config, added.slug, data, added.model_hash, added.plugins)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        file = f"{control.added.folder}/{added.trial_id}.json"
        raise SelectionError(
            f"{added.name}, which was added before, cannot be read ({_reason(error)}): delete {file}, or add the "
            "trial again"
        ) from error


def _fingerprint(source: Source) -> str:
    try:
        return data_fingerprint(source.path, source.revision)
    except OSError:  # moved since: the trial compares with the others by the path that it had
        return f"gone:{source.path}"


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return first_line(error)


def _member(
    raw: dict[str, Any], slug: str, data: dict[str, str], model_hash: str, sources: tuple[Plugin, ...]
) -> Member:
    plugins.register_exactly(sources)
    config = catalogue.build_config(raw)
    trial_id = identity.trial_id(config, data, model_hash)
    return Member.of(
        Trial(config=config, trial_id=trial_id, slug=slug, data_hashes=data, model_hash=model_hash), sources
    )


def _is_own_start(key: str, member: Member) -> bool:
    """Whether a key belongs to the weights that training begins with, of a trial that says whose they are."""
    return key in START and member.trial.config.warm_start is not None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _few(values: Iterable[str]) -> str:
    listed = list(values)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
