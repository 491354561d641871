"""What a sweep will cost, from a little of each kind of trial: kinds, arithmetic, and the words of `--estimate`."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from selgen_ray.config.data import ROLES
from selgen_ray.config.evals import DuringConfig
from selgen_ray.driver.plan import Plan
from selgen_ray.records.estimate import NOTHING, Estimate, KindEstimate, Span
from selgen_ray.records.results import flatten, now
from selgen_ray.stats import summarise
from selgen_ray.trainers.catalogue import get_trainer
from selgen_ray.trainers.strategy_config import path_of_knob
from selgen_ray.trial.task import TrialTask

# keys that change no trial's cost, or are counted trial by trial
_LENGTH = {"finetune_config.epochs", "finetune_config.max_steps", "evals.during.every", "evals.during.max_rows"}
_OF_NO_COST = {"seed", "data_seed", "model_seed", "experiment_name", "control"} | {
    f"finetune_config.{key}"
    for key in (
        *("learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "weight_decay", "max_grad_norm"),
        *("lora_alpha", "use_rslora", "logging_steps", "save_steps", "max_checkpoints_to_keep"),
        *("output_dir", "finetuned_model_id", "push_to_private"),
    )
}
_SCHEDULE = ("learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "weight_decay", "max_grad_norm")
_LEAST_SPREAD = 0.1
"""Share by which an estimate is taken to be wrong at least: no machine repeats a time more exactly."""
_BASE = "base_evaluation"


@dataclass(frozen=True)
class Kind:
    """Trials that cost alike: one strategy, one model, one size of everything; strengths and seeds differ.

    Attributes:
        label: names it among the others.
        tasks: its trials.
    """

    label: str
    tasks: tuple[TrialTask, ...]

    @property
    def strategy(self) -> str:
        """The strategy of its trials."""
        return self.tasks[0].config["proxy_strategy"]


def trials_to_estimate(plan: Plan) -> list[TrialTask]:
    """Return the trials that are left to run, and one for each that a search may still ask for."""
    tasks = list(plan.to_run)
    for search in plan.searches:
        samples = plan.samples(search)
        left = (search.spec.num_settings - len(search.asked)) * search.spec.num_seeds
        tasks += [replace(samples[i % len(samples)], trial_id=f"{search.spec.key} {i}") for i in range(left)]
    return tasks


def kinds_of(tasks: Iterable[TrialTask]) -> list[Kind]:
    """Group trials into kinds, in the order of their first trials."""
    groups: dict[str, list[TrialTask]] = {}
    sizes: dict[str, dict[str, Any]] = {}
    for task in tasks:
        size = _size_of(task.config)
        key = json.dumps(size, sort_keys=True, default=str)
        groups.setdefault(key, []).append(task)
        sizes[key] = size
    return [
        Kind(_label(sizes[key], sizes.values()), tuple(sorted(group, key=lambda task: task.config["seed"])))
        for key, group in groups.items()
    ]


def _size_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted key -> value of what decides the cost of a trial's parts; of a strength whether it is zero."""
    paths = {path_of_knob(key, info) for key, (_, info) in get_trainer(config["proxy_strategy"]).knobs().items()}
    size: dict[str, Any] = {}
    for key, value in flatten(dict(config)).items():
        if key in _LENGTH | _OF_NO_COST:
            continue
        is_strength = key in paths and isinstance(value, float) and not key.endswith("_share")
        size[key] = ("zero" if value == 0 else "not zero") if is_strength else value
    return size


def _label(size: Mapping[str, Any], sizes: Iterable[Mapping[str, Any]]) -> str:
    strategy = size["proxy_strategy"]
    alike = [one for one in sizes if one["proxy_strategy"] == strategy]
    differing = [key for key in size if any(one.get(key) != size[key] for one in alike)]
    parts = [f"{key.rpartition('.')[2]} {json.dumps(size[key]).strip(chr(34))}" for key in differing]
    return ", ".join([strategy, *parts])


@dataclass(frozen=True)
class Measured:
    """The measurement of one kind, as `trial.measuring` and `cluster.measuring` made it.

    Attributes:
        problem: why there is none; '' if there is one.
        fits: False: memory was too small.
        found: device, memory, open_s, load_s, steps, checkpoint_s, evaluation, versions, edits, edits_s, prepare_s,
            shared, trainings, events, and save_s where the model is kept.
        start_s: seconds that a new worker takes to import what it needs.
    """

    problem: str = ""
    fits: bool = True
    found: Mapping[str, Any] = field(default_factory=dict[str, Any])
    start_s: float = 0.0

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Measured:
        """Make one of the plain data that a worker returned."""
        if "problem" in plain:
            return cls(plain["problem"], plain["fits"])
        return cls(found=plain, start_s=plain.get("start_s", 0.0))

    @property
    def step(self) -> Span:
        """Seconds of an optimizer step, mean over all steps."""
        total = NOTHING
        for stratum in self.found["steps"]["strata"]:
            summary = summarise(stratum["seconds"])
            assert summary is not None
            total += _spread(summary.mean, summary.half_width or 0.0) * stratum["share"]
        return total

    def evaluation(self, max_rows: int | None = None) -> Span:
        """Seconds of an evaluation of all sets, or of at most so many rows of each."""
        total = NOTHING
        for one in self.found["evaluation"]:
            rows = one["rows"] if max_rows is None else min(max_rows, one["rows"])
            mean = sum(one["seconds"]) / len(one["seconds"])
            total += _spread(mean, max(one["seconds"]) - mean) * (rows / one["sampled"])
        return total

    def num_steps(self, config: Mapping[str, Any]) -> int:
        """Return the optimizer steps of a trial of this kind."""
        cfg = config["finetune_config"]
        return cfg["max_steps"] or cfg["epochs"] * self.found["steps"]["per_epoch"]

    def evaluations(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Return how often a trial evaluates whole sets after it began to train, and how often during training."""
        during, steps = DuringConfig.model_validate(config["evals"]["during"]), self.num_steps(config)
        num_during = sum(during.is_due(step, self.found["steps"]["per_epoch"]) for step in range(1, steps))
        return 1 + self.found["versions"] + self.found["edits"], num_during

    def trial(self, config: Mapping[str, Any]) -> Span:
        """Seconds of a trial of this kind, without what it shares with others."""
        steps = self.num_steps(config)
        whole, num_during = self.evaluations(config)
        saves = (steps - 1) // config["finetune_config"]["save_steps"]
        rest = sum(self.found[key] for key in ("open_s", "prepare_s", "edits_s")) + self.found.get("save_s", 0.0)
        rest += saves * self.found["checkpoint_s"]
        evaluations = self.evaluation() * whole + self.evaluation(config["evals"]["during"]["max_rows"]) * num_during
        return self.step * steps + evaluations + _spread(rest)

    def shared(self, config: Mapping[str, Any]) -> dict[str, tuple[str, Span]]:
        """Return the values that a trial shares with others: key, equal for those that share it -> (kind, seconds)."""
        values: dict[str, tuple[str, Span]] = {}
        for one in self.found["shared"]:
            key, follows = [one["kind"], one["key"]], set(one["follows"])
            if _draws_rows(config):
                follows |= {"data_seed"}
            key += [str(config[seed]) for seed in ("data_seed", "model_seed") if seed in follows]
            if "config" in follows:
                key += [str(config["finetune_config"].get(name)) for name in _SCHEDULE]
            seconds = self.evaluation() if one["kind"] == _BASE else _spread(one["seconds"])
            values[" ".join(key)] = one["kind"], seconds
        return values

    @property
    def replies(self) -> tuple[float, int] | None:
        """(tokens of a reply on average, at most) over all sets with replies; None without any."""
        asked = [one for one in self.found["evaluation"] if one["tokens"] is not None]
        rows = sum(one["rows"] for one in asked)
        if not rows:
            return None
        return sum(one["tokens"] * one["rows"] for one in asked) / rows, max(one["limit"] for one in asked)


def _spread(value: float, half_width: float = 0.0) -> Span:
    half_width = max(half_width, _LEAST_SPREAD * value)
    return Span(value, max(0.0, value - half_width), value + half_width)


def _draws_rows(config: Mapping[str, Any]) -> bool:
    """Return whether the rows that a trial trains on or measures follow from its data_seed."""
    draws = ("align_train_coverage", "limit_proxy_data_to", "upsample_proxy_to")
    has_files = any(config["data"].get(role) for role in ROLES)
    return (
        config["finetune_config"]["train_split"] < 1
        or any(config.get(key) is not None for key in draws)
        or not has_files
        or config["data"].get("world") is not None
    )


def schedule(trials: Sequence[tuple[str, float, Mapping[str, float]]], places: int) -> tuple[dict[str, float], float]:
    """Run trials in their order, each in the first place that is free; return id -> seconds, and when the last ends.

    A value that trials share is computed by the first that needs it; others that need it meanwhile wait for it, and
    their seconds count.

    Args:
        trials: (id, seconds alone, key of a shared value -> seconds to compute it).
        places: trials that run at a time.
    """
    free, known, seconds = [0.0] * max(1, places), dict[str, float](), dict[str, float]()
    for trial_id, alone, shared in trials:
        start = heapq.heappop(free)
        at = start
        for key, value in shared.items():
            known.setdefault(key, at + value)
            at = max(at, known[key])
        seconds[trial_id] = at + alone - start
        heapq.heappush(free, at + alone)
    return seconds, max(free)


def estimate(
    tasks: Iterable[TrialTask],
    kinds: Sequence[Kind],
    measured: Sequence[Measured],
    places: int,
    gpus: float,
    cpus: float,
    price_per_gpu_hour: float | None = None,
    ray_s: float = 0.0,
) -> Estimate:
    """Make the estimate of all trials from the measurement of each kind.

    Args:
        tasks: the trials, in the order in which they will run.
        kinds, measured: their kinds, and the measurement of each.
        places: trials that run at a time.
        gpus, cpus: of each trial.
        price_per_gpu_hour: in any currency; None: no price is asked for.
        ray_s: seconds that Ray took to start.
    """
    known = [(kind, one) for kind, one in zip(kinds, measured, strict=True) if not one.problem]
    of_trial = {task.trial_id: one for kind, one in known for task in kind.tasks}
    order = [task for task in tasks if task.trial_id in of_trial]
    alone = {task.trial_id: of_trial[task.trial_id].trial(task.config) for task in order}
    shared = {task.trial_id: of_trial[task.trial_id].shared(task.config) for task in order}
    times: dict[str, dict[str, Span]] = {}
    for values in shared.values():
        for key, (name, seconds) in values.items():
            times.setdefault(name, {})[key] = seconds

    def scheduled(edge: str) -> tuple[dict[str, float], float]:
        rows = [
            (name, getattr(span, edge), {key: getattr(one, edge) for key, (_, one) in shared[name].items()})
            for name, span in alone.items()
        ]
        return schedule(rows, places)

    by_edge = {edge: scheduled(edge) for edge in ("value", "low", "high")}
    seconds = by_edge["value"][0]
    estimates = [
        KindEstimate(
            label=kind.label,
            strategy=kind.strategy,
            trials={} if one.problem else {task.trial_id: seconds[task.trial_id] for task in kind.tasks},
            seconds=NOTHING if one.problem else _mean([alone[task.trial_id] for task in kind.tasks]),
            memory=one.found.get("memory"),
            problem=one.problem,
            fits=one.fits,
            num_trials=len(kind.tasks),
        )
        for kind, one in zip(kinds, measured, strict=True)
    ]
    load_s = max((one.start_s + one.found["load_s"] for _, one in known), default=0.0)
    return Estimate(
        at=now(),
        kinds=estimates,
        places=places,
        gpus=gpus,
        cpus=cpus,
        trial_seconds=Span(*(sum(by_edge[edge][0].values()) for edge in ("value", "low", "high"))),
        wall_seconds=Span(*(by_edge[edge][1] for edge in ("value", "low", "high"))),
        once={name: (len(by_key), _mean(list(by_key.values())).value) for name, by_key in times.items()},
        start_seconds=ray_s + load_s,
        price_per_gpu_hour=price_per_gpu_hour,
    )


def _mean(spans: Sequence[Span]) -> Span:
    return sum(spans, NOTHING) * (1 / len(spans))
