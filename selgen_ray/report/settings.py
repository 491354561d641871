"""Group trials into settings: find the seeds of one setting, name the setting, summarise its scores."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from selgen_ray.records.requirement import Condition
from selgen_ray.records.results import TrialResult, finite, flatten, less_is_better
from selgen_ray.records.status import TrialStatus
from selgen_ray.report.knob_names import knob_texts, value_text
from selgen_ray.report.roles import (
    Kind,
    Role,
    as_planned,
    control_of,
    is_control_name,
    role_of_setting,
    slug_head,
    strategy_of,
)
from selgen_ray.report.versions import NAMES, STREAMS, SWEEPS, Group, with_versions
from selgen_ray.stats import Summary, is_number, paired_change, pareto_front, summarise

# the order of the strategies in tables and legends; others follow by name
STRATEGIES = (
    *("naive", "positive_negative_proxy", "kl_divergence", "dpo", "representation_constraint"),
    *("grad_project", "grad_project_precomputed_proxy_grad", "orth_penalty", "directional_penalty"),
    *("steering_weights", "steering_weights_add_alignment_plane", "safe_lora"),
    *("inoculation_prompting", "inoculation_adapter", "preventative_steering", "concept_ablation", "interleaving"),
    *("activation_penalty", "asft", "wise_ft", "weight_steering"),
)
_KINDS = (Kind.TASK_ALONE, Kind.CONTROL, Kind.STRATEGY)  # in the order of tables and legends
# what of `naive` is no control mixes the proxy in, and says so wherever it is named
_ALWAYS_NAMED = ("train_on_proxy",)
_LOST = (TrialStatus.DIVERGED, TrialStatus.FAILED, TrialStatus.STOPPED)
_SLUG_HASH = re.compile(r"_([0-9a-f]{6,32})$")


@dataclass(frozen=True)
class Axis:
    """One of the two scores that are weighed against each other: a headline or 'set/metric'."""

    name: str

    @property
    def sign(self) -> int:
        """The direction: +1 where more is better, -1 where less is better (a loss)."""
        return -1 if less_is_better(self.name) else 1

    def metric(self, result: TrialResult) -> str | None:
        """Return the 'set/metric' that this axis stands for in a trial; None where the trial has no such headline."""
        return result.metric_of(self.name)

    def value(self, result: TrialResult) -> float | None:
        """Return the score at the last evaluation; None where it is missing or not finite."""
        return result.value(self.name)

    def base(self, result: TrialResult) -> float | None:
        """Return the score before training; None where it is missing or not finite."""
        return finite(result.metric(self.metric(result), 0))


@dataclass(frozen=True)
class Setting:
    """One setting of a strategy, and its scores over seeds.

    Attributes:
        slug: the name of the folder that holds its results.
        strategy: its proxy_strategy.
        knobs: leaf name -> value, for the keys that differ between the settings of this role, or that the strategy's
            grid names, such as {"beta_kl": 10.0}.
        role: whether it is one of its strategy's settings, or a control that strategies are compared with.
        trial_ids: ids of the trials that were configured with this setting, of any status.
        beside_ids: ids of the trials that were configured otherwise, and evaluated with this setting's value as well.
        num_trials: number of trials of any status, one for each seed.
        num_planned: number of seeds that the sweep has for it: its trials, those not begun yet, and those removed.
        items_x, items_y: number of items that a trial's value of the axis rests on, the least of its trials; None where
            results do not say.
        lost: status -> number of its trials that ended without a result or were removed, such as {"diverged": 2}.
        no_point: id of a completed trial that lacks a value -> the axes it lacks, such as 'capability and alignment'.
        seeds: seeds of the trials behind `x` and `y`: the completed ones with both values, or, where none has both,
            those with either.
        points: (x, y) of each completed trial that has both; the figure shows them.
        x, y: summaries over seeds; None without a value.
        change_x, change_y: paired difference to each trial's own base model, over seeds.
        failures: the conditions for the front that this setting's mean misses, with the mean: 'coherence 0.420'.
        on_front: whether it is complete, misses no condition and is no control but the task alone, and no other such
            setting's mean dominates it (at least as good on both axes and better on one).
        trials: its trials of any status, one for each seed, with this setting's values in their config.
    """

    slug: str
    strategy: str
    knobs: dict[str, Any]
    role: Role
    trial_ids: tuple[str, ...]
    beside_ids: tuple[str, ...]
    num_trials: int
    no_point: dict[str, str]
    seeds: tuple[int, ...]
    points: tuple[tuple[float, float], ...]
    x: Summary | None
    y: Summary | None
    change_x: Summary | None
    change_y: Summary | None
    failures: tuple[str, ...] = ()
    on_front: bool = False
    num_planned: int = 0
    items_x: int | None = None
    items_y: int | None = None
    lost: dict[str, int] = field(default_factory=dict[str, int])
    trials: tuple[TrialResult, ...] = field(default=(), repr=False, compare=False)

    @property
    def group(self) -> str:
        """The name that it is compared and drawn under: its strategy, or that of the control."""
        return self.role.name

    @property
    def outcome_only(self) -> bool:
        """Whether it is plain training on the task without any proxy."""
        return self.role.kind is Kind.TASK_ALONE

    @property
    def label(self) -> str:
        """Its name for people: 'kl_divergence β=10', 'task alone'."""
        return " ".join([self.group, *knob_texts(self.knobs)])

    @property
    def complete(self) -> bool:
        """Whether every seed that the sweep has for it gave both values; no other setting may lead."""
        return 0 < len(self.points) == self.num_planned

    @property
    def may_lead(self) -> bool:
        """Whether it is complete and misses no condition."""
        return self.complete and not self.failures

    @property
    def lost_text(self) -> str:
        """Return '2 of 3 diverged, 1 of 3 failed'; '' where nothing was lost."""
        return ", ".join(f"{n} of {self.num_planned} {status}" for status, n in self.lost.items())


def make_settings(
    trials: Iterable[TrialResult],
    x: Axis,
    y: Axis,
    require: Sequence[Condition] = (),
    waiting: Iterable[str] = (),
    gridded: Mapping[str, Collection[str]] | None = None,
    removed: Iterable[str] = (),
) -> list[Setting]:
    """Summarise trials by setting, and mark the settings on the Pareto front of means.

    Args:
        require: conditions that a setting's means must meet to be on the front.
        waiting: names of planned trials without a result, such as 'naive_1a2b3c/seed_2'.
        gridded: strategy -> keys that its grid names, such as {"kl_divergence": {"finetune_config.beta_kl"}}: they are
            part of a setting's name also where the grid has a single value.
        removed: names of planned trials that somebody removed: seeds that their settings have lost.

    Returns:
        The settings: controls, then strategies (see `STRATEGIES`); within a role by the values of their knobs.
    """
    by_strategy: dict[str, list[list[TrialResult]]] = defaultdict(list)
    for group in group_by_setting(trials):
        by_strategy[strategy_of(group[0])].append(group)
    by_role: dict[Role, list[Group]] = defaultdict(list)
    for strategy in sorted(by_strategy, key=_strategy_order):
        for group in with_versions(by_strategy[strategy]):
            by_role[role_of_setting(group.trials)].append(group)
    missing, without = (Counter(setting_key(name.rpartition("/")[0]) for name in some) for some in (waiting, removed))
    settings: list[Setting] = []
    for role in sorted(by_role, key=lambda role: _KINDS.index(role.kind)):
        groups = by_role[role]
        named = {*_ALWAYS_NAMED, *(gridded or {}).get(role.name, ())}
        knobs = _knobs([group.trials for group in groups], named if role.kind is Kind.STRATEGY else ())
        made = [
            _setting(group, role, its_knobs, x, y, require, missing, without)
            for group, its_knobs in zip(groups, knobs, strict=True)
        ]
        settings += sorted(made, key=lambda s: [_value_order(value) for value in s.knobs.values()])
    # the task alone is a choice that one has, and may dominate a strategy; on clean data nobody can train
    eligible = [i for i, s in enumerate(settings) if s.may_lead and s.role.kind is not Kind.CONTROL]
    front = pareto_front([mean_point(settings[i], x, y) for i in eligible])
    for i in (eligible[j] for j in front):
        settings[i] = replace(settings[i], on_front=True)
    return settings


def mean_point(setting: Setting, x: Axis, y: Axis) -> tuple[float, float]:
    """Return the setting's (x, y) mean, negated where less is better, so that more is better in both."""
    assert setting.x and setting.y, "only a setting with points has a mean in both"
    return x.sign * setting.x.mean, y.sign * setting.y.mean


def model_name(result: TrialResult) -> str:
    """Return the name of the base model; imported results are marked, since other code evaluated them."""
    name = start_name(result)
    return f"{name} (imported)" if result.imported_from else name


def start_name(result: TrialResult) -> str:
    """Return the name of the model that the trial began with, as its config has it."""
    return str(result.config.get("finetune_config", {}).get("model", "base model"))


def group_by_setting(trials: Iterable[TrialResult]) -> list[list[TrialResult]]:
    """Group trials by setting.

    A slug ends with a hash of its setting, such as 'kl_divergence_beta_kl-10_1a2b3c', and its readable part grows when
    the search space gets another axis. So trials of one strategy and hash are one setting, whatever the rest of their
    slugs; unless two of them have the same seed, which cannot be within a setting: then each slug is a setting.
    """
    by_hash: dict[tuple[str, str], list[TrialResult]] = defaultdict(list)
    for result in trials:
        by_hash[strategy_of(result), setting_key(result.slug)].append(result)
    groups: list[list[TrialResult]] = []
    for group in by_hash.values():
        groups += [group] if len({r.seed for r in group}) == len(group) else _split(group, lambda r: r.slug)
    return groups


def with_planned_roles(trials: Sequence[TrialResult], names: Iterable[str]) -> list[TrialResult]:
    """Return the trials, each as the control that the plan calls its setting now, whatever it was when it ran.

    The section `controls` of a search space may be edited beside results: it is no part of a trial's identity.

    Args:
        names: of the plan's trials, such as 'control_oracle_1a2b3c/seed_2'. A setting without one stays what it was.
    """
    planned: dict[str, str] = {}
    for slug in sorted({name.rpartition("/")[0] for name in names}, key=is_control_name):
        planned[setting_key(slug)] = slug  # of two sweeps that differ, the one that says it is a control
    spelled = {slug_head(r.slug): control_of(r) for r in trials if control_of(r)}  # a slug shortens the name
    return [as_planned(r, planned.get(setting_key(r.slug)), spelled) for r in trials]


def _split(trials: Iterable[TrialResult], key: Callable[[TrialResult], str]) -> list[list[TrialResult]]:
    parts: dict[str, list[TrialResult]] = defaultdict(list)
    for result in trials:
        parts[key(result)].append(result)
    return list(parts.values())


def setting_key(slug: str) -> str:
    """Return the hash at the end of a slug, which stays when its readable part grows; without one, the slug."""
    match = _SLUG_HASH.search(slug)
    return match[1] if match else slug


def _setting(
    group: Group,
    role: Role,
    knobs: dict[str, Any],
    x: Axis,
    y: Axis,
    require: Sequence[Condition],
    waiting: Mapping[str, int],
    removed: Mapping[str, int],
) -> Setting:
    completed = sorted((r for r in group.trials if r.status == TrialStatus.COMPLETED), key=lambda r: r.seed)
    missing = {r.trial_id: [axis.name for axis in (x, y) if axis.value(r) is None] for r in completed}
    both = [r for r in completed if not missing[r.trial_id]]
    counted = both or completed  # both summaries are over the same seeds, where any seed has both values
    pairs = [(x.value(r), y.value(r)) for r in both]
    ids = [r.trial_id for r in group.trials]
    keys = {setting_key(r.slug) for r in group.trials}
    lost = {status: sum(r.status == status for r in group.trials) for status in _LOST}
    lost[TrialStatus.REMOVED] = sum(removed.get(key, 0) for key in keys)
    return Setting(
        slug=next((r.slug for r in group.trials[::-1] if r.trial_id in group.own), group.trials[-1].slug),
        strategy=strategy_of(group.trials[0]),
        knobs=knobs,
        role=role,
        trial_ids=group.own,
        beside_ids=tuple(i for i in ids if i not in group.own),
        num_trials=len(ids),
        no_point={trial_id: " and ".join(names) for trial_id, names in missing.items() if names},
        seeds=tuple(r.seed for r in counted if x.value(r) is not None or y.value(r) is not None),
        points=tuple((a, b) for a, b in pairs if a is not None and b is not None),
        x=_summary(counted, x),
        y=_summary(counted, y),
        change_x=_change(counted, x),
        change_y=_change(counted, y),
        failures=tuple(_failures(counted, require)),
        num_planned=len(ids) + sum(waiting.get(key, 0) + removed.get(key, 0) for key in keys),
        items_x=_items(counted, x),
        items_y=_items(counted, y),
        lost={status: n for status, n in lost.items() if n},
        trials=tuple(sorted(group.trials, key=lambda r: r.seed)),
    )


def _items(trials: Iterable[TrialResult], axis: Axis) -> int | None:
    metrics = [(r, axis.metric(r) or "") for r in trials]
    # a metric that scores some of a set's rows has a number of its own, which earlier results lack
    counts = [r.num_rows.get(f"eval/{m}") or r.num_rows.get(f"eval/{m.partition('/')[0]}") for r, m in metrics]
    return min((n for n in counts if n), default=None)


def _failures(trials: Sequence[TrialResult], require: Sequence[Condition]) -> Iterable[str]:
    """Yield the conditions that the means over seeds miss; a metric that one of the seeds lacks counts as missing."""
    for condition in require if trials else ():
        values = [value for r in trials if (value := r.value(condition.metric)) is not None]
        mean = sum(values) / len(values) if len(values) == len(trials) else None
        if failure := condition.failure(mean):
            yield failure


def _summary(trials: Iterable[TrialResult], axis: Axis) -> Summary | None:
    return summarise([value for r in trials if (value := axis.value(r)) is not None])


def _change(trials: Iterable[TrialResult], axis: Axis) -> Summary | None:
    pairs = [(axis.value(r), axis.base(r)) for r in trials]
    known = [(after, before) for after, before in pairs if after is not None and before is not None]
    return paired_change([after for after, _ in known], [before for _, before in known])


def _knobs(groups: Sequence[Sequence[TrialResult]], named: Collection[str]) -> list[dict[str, Any]]:
    """Return the knobs of each setting of one role: the keys whose values differ between settings, and the named ones.

    A knob is called by the last part of its key, or by the whole key where two keys end alike.

    Args:
        named: keys that are knobs also where all settings have one value; the first sections may be missing.
    """
    flats = [[flatten(r.config) | {"imported": r.imported_from is not None} for r in group] for group in groups]
    everything = [flat for group in flats for flat in group]
    hidden = {*NAMES, *SWEEPS} | {s for s in STREAMS if all(f.get(s) == f.get("seed") for f in everything)}
    varying = [
        key
        for key in dict.fromkeys(key for flat in everything for key in flat if key not in hidden)
        # a key that older results lack says nothing about them; one that differs between seeds is no knob
        if (len({repr(f[key]) for f in everything if key in f}) > 1 or _is_named(key, named, everything))
        and all(len({repr(f[key]) for f in group if key in f}) <= 1 for group in flats)
    ]
    leaves = [key.rpartition(".")[2] for key in varying]
    names = {k: leaf if leaves.count(leaf) == 1 else k for k, leaf in zip(varying, leaves, strict=True)}
    knobs = [{name: next((f[k] for f in group if k in f), None) for k, name in names.items()} for group in flats]
    texts = [[value_text(value) for value in k.values()] for k in knobs]
    for group, its_knobs, text in zip(groups, knobs, texts, strict=True):
        if texts.count(text) > 1:  # the config looks the same, so a file behind it differs: the hash tells them apart
            its_knobs["setting"] = setting_key(group[-1].slug)
    return knobs


def _is_named(key: str, named: Collection[str], flats: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a dotted key is one of the named ones, and has a value."""
    return any(key == one or key.endswith(f".{one}") for one in named) and any(f.get(key) is not None for f in flats)


def _strategy_order(name: str) -> tuple[int, str]:
    return (STRATEGIES.index(name), "") if name in STRATEGIES else (len(STRATEGIES), name)


def _value_order(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if is_number(value) else (1, 0.0, str(value))
