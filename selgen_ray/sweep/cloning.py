"""`sweep add --from TRIAL --set KEY=VALUE`: a trial of the sweep once more, with some of its keys changed.

With `--warm-start` it begins with the trial's weights, which `warm_start` copies into the sweep's folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from selgen_ray.config.trial import TrialConfig
from selgen_ray.driver.preflight import check_data
from selgen_ray.driver.selection import SelectionError, find_trials
from selgen_ray.errors import Problem, SpecError
from selgen_ray.models.adapters import DECIDED
from selgen_ray.records.names import warm_mark
from selgen_ray.records.results import FILE_NAME, TrialResult, flatten
from selgen_ray.records.text import first_line
from selgen_ray.space import Trial, slugs
from selgen_ray.space.kept import inherited, read_kept
from selgen_ray.space.load import load_tree
from selgen_ray.storage import Folder
from selgen_ray.sweep.adding import ANYWAY, START, Member, Members
from selgen_ray.sweep.warm_start import OPTION as WARM_START
from selgen_ray.sweep.warm_start import Start, discard, weights_of
from selgen_ray.syntax.keys import SOURCES, registered_keys
from selgen_ray.syntax.tree import Node, Origin, merge, read_text
from selgen_ray.trainers import catalogue
from selgen_ray.trainers.plugins import Plugin

OPTION = "--set"
_SECTIONS = ("name", "plugins", "resources")  # of the sweep's own search space, that the new trial has too
_NAMES = ("experiment_name", "control", "warm_start", "num_workers")
_SEEDS = ("seed", "data_seed", "model_seed")


@dataclass(frozen=True)
class Original:
    """The trial that another begins as a copy of.

    Attributes:
        place: the folder of its result; None if it has none yet.
    """

    trial_id: str
    name: str
    place: Folder | None


def find_original(text: str, names: Mapping[str, str], places: Mapping[str, Folder]) -> Original:
    """Find the one trial that `text` names, as the other commands name trials.

    Args:
        names: trial id -> '<setting>/seed_<N>', of all trials of the sweep.
        places: trial id -> folder of its result.

    Raises:
        SelectionError: it names none, or several.
    """
    found = find_trials([text], names)
    if len(found) > 1:
        listed = ", ".join(sorted(found.values())[:4]) + (", ..." if len(found) > 4 else "")
        raise SelectionError(f"--from {text}: names {len(found)} trials, and one is needed: {listed}")
    ((trial_id, name),) = found.items()
    return Original(trial_id, name, places.get(trial_id))


def changed_trials(
    folder: Folder,
    original: Original,
    changes: Sequence[str],
    seeds: Sequence[int],
    different: bool,
    confirmed: Iterable[str] = (),
    warm: bool = False,
) -> tuple[list[Member], Members, list[str]]:
    """The trials that a trial becomes with some keys changed.

    Args:
        folder: the sweep's.
        changes: 'KEY=VALUE', a dotted key of a trial's config and its value in YAML.
        seeds: seeds of the new trials; none: that of the original.
        different: allow values that do not compare with the trials of the sweep.
        confirmed: see `Members.of`.
        warm: whether they begin with the original's weights.

    Returns:
        Them, the sweep's own, and what is to be said.

    Raises:
        SpecError: a key or a value is wrong, or the sweep's search space cannot be read. SelectionError: nothing would
            change, there are no weights to begin with, or the trials do not compare with the sweep's.
    """
    kept = read_kept(folder)
    sweep = Members.of(folder, confirmed)
    config = _config_of(original, sweep)
    above = _changes(changes)
    if seeds and "seed" in above:
        raise SelectionError(f"{OPTION} seed and --seeds both give a seed: keep one of the two")
    start = weights_of(folder, original.trial_id, original.name, original.place, config) if warm else None
    try:
        if start and start.key in above:
            raise SelectionError(f"{OPTION} {start.key} and {WARM_START} both say what training begins with: keep one")
        spec = load_tree(_space(kept, original.name, config, above, seeds, start))
        if problems := check_data(spec):
            raise SelectionError("\n".join(problems))
        new = [Member.of(_marked(trial, config, start), spec.plugin_sources) for trial in spec.trials]
        if all(member.trial.trial_id == original.trial_id for member in new):
            raise SelectionError(_nothing(original, changes))
        new = sweep.under_their_names(new)
        wrong = {key: member for member in new for key in sweep.not_comparable(member)}
        if wrong and not different:
            listed = "\n".join(f"  {sweep.part(key, member)}" for key, member in wrong.items())
            raise SelectionError(f"it does not compare with the trials of the sweep:\n{listed}\n{ANYWAY}")
    except BaseException:
        if start and start.is_new:
            discard(start)
        raise
    return new, sweep, list(spec.notes)


def _config_of(original: Original, sweep: Members) -> TrialConfig:
    """The config that the original ran with, or will. Raises SelectionError: it cannot be read, or run here."""
    own = sweep.spec.plugin_sources
    member = next((one for one in sweep.members if one.trial.trial_id == original.trial_id), None)
    if member and (foreign := _foreign(member.plugins, own)):
        raise SelectionError(
            f"{original.name} has plugins that the sweep's search space does not name ({', '.join(foreign)}): add the "
            "trial by a search space of its own, which names them under `plugins`"
        )
    if member:
        return member.trial.config
    if original.place is None:
        raise SelectionError(
            f"{original.name} cannot be copied: it has no result yet, and is no trial of the sweep's search space any "
            "more, since a data file, a plugin or the model has changed"
        )
    try:
        return catalogue.build_config(TrialResult.model_validate_json(original.place.read(FILE_NAME)).config)
    except FileNotFoundError:
        raise SelectionError(f"{original.name}: {original.place / FILE_NAME} is gone") from None
    except (ValidationError, ValueError) as error:
        raise SelectionError(
            f"{original.name}: its config cannot be run by this version: {first_line(error)}"
        ) from error


def _foreign(plugins: Iterable[Plugin], own: Iterable[Plugin]) -> list[str]:
    known = {plugin.sha256 for plugin in own}
    return [plugin.name for plugin in plugins if plugin.sha256 not in known]


def _changes(texts: Sequence[str]) -> dict[str, Node]:
    """Dotted key -> value. Raises SpecError, SelectionError: a text is no KEY=VALUE, or no YAML."""
    values: dict[str, Node] = {}
    problems: list[Problem] = []
    for text in texts:
        key, separator, value = text.partition("=")
        key = key.strip()
        if not separator or not key or not all(key.split(".")):
            raise SelectionError(f"{OPTION} {text}: write KEY=VALUE, such as finetune_config.beta_kl=3")
        if key in values:
            raise SelectionError(f"{OPTION} {key}: is given twice")
        node = read_text(value, Origin(f"{OPTION} {key}"), problems)
        if node is not None:
            values[key] = Node(node.value, Origin(OPTION, key=key))
    if problems:
        raise SpecError(problems)
    return values


def _space(
    kept: Node,
    name: str,
    config: TrialConfig,
    above: Mapping[str, Node],
    seeds: Sequence[int],
    start: Start | None,
) -> Node:
    """The search space of the new trials: one override, with the sweep's plugins and resources."""
    origin = Origin(name)
    sections: dict[str, Node] = {k: v for k, v in inherited(kept).value.items() if k in _SECTIONS}
    workers = Node({"workers": Node(config.num_workers, origin)}, origin)
    if "resources" in sections or config.num_workers != 1:
        sections["resources"] = merge(sections.get("resources", Node({}, origin)), workers)
    values = _written(config, name)
    if start:
        _begin_with(start, config, values)
    if seeds:
        del values["seed"]
        sections["seeds"] = Node([Node(seed, Origin("--seeds")) for seed in seeds], origin)
    for key, node in above.items():
        _put(values, key, node)
    return Node({**sections, "overrides": Node([Node(values, origin)], origin)}, origin)


def _written(config: TrialConfig, name: str) -> dict[str, Node]:
    """Key -> node of what a config says beyond the defaults, as somebody would write it into an override."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    values = {key: value for key, value in values.items() if key not in (*_NAMES, *_SEEDS)}
    values |= {key: seed for key in _SEEDS[1:] if (seed := getattr(config, key)) != config.seed}
    if config.finetune_config.adapter:  # it says these itself, and another one may say others
        values["finetune_config"] = {k: v for k, v in values["finetune_config"].items() if k not in DECIDED}
    values |= {"proxy_strategy": config.proxy_strategy, "seed": config.seed}
    return {key: _node(value, name, key) for key, value in values.items()}


def _begin_with(start: Start, config: TrialConfig, values: dict[str, Node]) -> None:
    """Name the weights that training begins with, in place of those that the original began with."""
    origin = Origin(WARM_START)
    left_out = {"adapter", "adapter_revision", *(DECIDED if start.is_adapter else ("model_revision",))}
    tuning: dict[str, Node] = values.get("finetune_config", Node({}, origin)).value
    tuning = {key: node for key, node in tuning.items() if key not in left_out}
    section, _, leaf = start.key.rpartition(".")
    values[section] = Node(tuning | {leaf: Node(start.path, Origin(WARM_START, key=start.key))}, origin)
    if config.world and not start.is_adapter:  # `model: toy` implied it, and the model has another name now
        _put(values, "data.world", Node(config.world, origin))


def _node(value: Any, file: str, key: str) -> Node:
    if isinstance(value, dict):
        return Node({part: _node(item, file, f"{key}.{part}") for part, item in value.items()}, Origin(file, key=key))
    if isinstance(value, list):
        return Node([_node(item, file, f"{key}[{i}]") for i, item in enumerate(value)], Origin(file, key=key))
    return Node(value, Origin(file, key=key))


def _put(values: dict[str, Node], key: str, node: Node) -> None:
    """Set the value of a dotted key; a section is laid over what is there, everything else replaces it."""
    sections = registered_keys().sections
    *above, leaf = key.split(".")
    inner, path = values, ""
    for part in above:
        path = f"{path}.{part}".lstrip(".")
        below = inner.get(part)
        if below is None or not isinstance(below.value, dict):
            # `data.outcome` that is a path alone, of which `data.outcome.split` is to be set
            content = {"path": below} if below is not None and path in SOURCES else {}
            below = Node(content, node.origin)
        inner[part] = below = Node(dict(below.value), below.origin)
        inner = below.value
    is_section = key in sections and leaf in inner
    inner[leaf] = merge(inner[leaf], node) if is_section else node


def _marked(trial: Trial, config: TrialConfig, start: Start | None) -> Trial:
    """The trial with what was changed in its name, 'kl_divergence_beta_kl-3_1a2b3c', and whose weights it has."""
    tuning, before = trial.config.finetune_config, config.finetune_config
    same_start = (tuning.model, tuning.adapter) == (before.model, before.adapter)
    whose = start.text if start else config.warm_start if same_start else None
    trial = trial.model_copy(update={"config": trial.config.model_copy(update={"warm_start": whose})})
    old, new = (flatten(one.model_dump(mode="json", exclude_defaults=True)) for one in (config, trial.config))
    unnamed = {*_NAMES, *_SEEDS, "proxy_strategy", *(START if whose else ())}
    changed = [k for k in dict.fromkeys([*new, *old]) if old.get(k) != new.get(k) and k not in unnamed]
    return slugs.with_keys(trial, changed, warm_mark(whose) if whose else "")


def _nothing(original: Original, changes: Sequence[str]) -> str:
    given = ", ".join(changes)
    return (
        f"nothing changed: {original.name} has {given} already, or its result does not depend on it"
        if changes
        else f"nothing changed: {original.name} is in the sweep already"
    )
