"""The classes of a checked search space: its trials, its searches, and the settings of the whole sweep."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, SkipValidation, field_validator, model_validator

from selgen_ray.config.evals import set_problem
from selgen_ray.config.trial import TrialConfig
from selgen_ray.errors import nearest
from selgen_ray.records.names import trial_name
from selgen_ray.records.requirement import Condition, parse_requirement
from selgen_ray.records.results import SUMMARIES, less_is_better
from selgen_ray.schema import Strict
from selgen_ray.space.open_settings import OpenSpace
from selgen_ray.space.places import Places
from selgen_ray.space.ranges import Range
from selgen_ray.space.tracker_options import Tracker
from selgen_ray.syntax.tree import Origin
from selgen_ray.trainers.plugins import Plugin

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""A file name that every file system and object store allows."""
Mode = Literal["max", "min"]


class Resources(Strict):
    """The resources of a trial, and how many trials run at a time and run again.

    A trial runs in one process, with `gpus` and `cpus`; with `workers` it runs in that many, and the keys of one
    worker take their place.
    """

    gpus: float | None = Field(
        default=None, description="GPUs of a trial; default: 1 where there are any, else 0", ge=0, le=64
    )
    cpus: float = Field(default=1.0, description="CPU cores of a trial", gt=0, le=1024)
    workers: int | None = Field(
        default=None, description="processes that train one trial together; default: one", ge=1, le=1024
    )
    gpus_per_worker: int | None = Field(
        default=None, description="GPUs of a worker; default: 1 where there are any, else 0", ge=0, le=64
    )
    cpus_per_worker: float | None = Field(default=None, description="CPU cores of a worker; default: 1", gt=0, le=1024)
    strategy: Literal["ddp", "fsdp"] | None = Field(
        default=None, description="ddp (default): each worker has the whole model; fsdp: they share it out"
    )
    pack: int | Literal["auto"] | None = Field(
        default=None,
        description="trials that share a base in one process; auto: what a GPU holds; default: one trial a process",
    )
    max_concurrent: int | None = Field(
        default=None, description="trials at a time; default: as many as fit", ge=1, le=10_000
    )
    max_failures: int = Field(default=2, description="retries of a trial that failed", ge=0, le=100)
    torch_threads: int = Field(default=1, description="threads of PyTorch in a trial", ge=1, le=1024)
    autoscaling: bool = Field(
        default=False, description="the cluster adds nodes while trials wait: ask for what no node has now"
    )

    @property
    def packs_by_memory(self) -> bool:
        """Whether each worker finds out how many trials its GPU has memory for."""
        return self.pack == "auto"

    @property
    def trials_of_a_pack(self) -> int | None:
        """Trials that share a process; None: one a process, or as many as a worker finds room for."""
        return self.pack if isinstance(self.pack, int) else None

    @field_validator("gpus")
    @classmethod
    def _whole_above_one(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("a trial gets a share of one GPU or whole GPUs")
        return value

    @field_validator("pack")
    @classmethod
    def _of_several(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and not 2 <= value <= 64:
            raise ValueError("allowed: a whole number from 2 to 64, or auto")
        return value

    @field_validator("gpus_per_worker", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        if isinstance(value, float) and not value.is_integer():
            raise ValueError("a worker gets whole GPUs or none: NCCL needs a GPU for each")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Resources:
        given = self.model_fields_set
        if self.workers is None:
            for key in ("gpus_per_worker", "cpus_per_worker", "strategy"):
                if key in given and getattr(self, key) is not None:
                    raise ValueError(f"{key} is given, but workers is not: say how many")
        for key in ("gpus", "cpus"):
            if self.workers is not None and key in given and getattr(self, key) is not None:
                raise ValueError(f"workers and {key} are both given: with workers, set {key}_per_worker instead")
        if self.workers is not None and self.pack is not None:
            raise ValueError("workers and pack are both given: a pack is several trials in one process; leave one out")
        if self.packs_by_memory and self.gpus == 0:
            raise ValueError("pack auto asks what fits into a GPU's memory, and gpus is 0: say how many, 2 to 64")
        key = "gpus" if self.workers is None else "gpus_per_worker"
        if self.autoscaling and getattr(self, key) is None:
            raise ValueError(f"autoscaling is given, but {key} is not: nodes that are yet to come cannot be asked")
        return self


def metric_name(value: str) -> str:
    """Return `value` if it is the name of a metric of evaluations. Raises ValueError: it cannot be one."""
    if value in SUMMARIES:
        return value
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", value):
        near = nearest(value, SUMMARIES)
        message = f"allowed: {', '.join(SUMMARIES)}, or the 'set/metric' of an evaluation.{near}"
        raise ValueError(message.removesuffix("."))
    if problem := set_problem(*value.split("/")):
        raise ValueError(problem)
    return value


class Pareto(Strict):
    """The two numbers that are weighed against each other: more is better, but less of a loss and its like."""

    x: str = Field(
        default="capability", description="capability, alignment, alignment_worst, coherence or 'set/metric'"
    )
    y: str = Field(default="alignment", description="capability, alignment, alignment_worst, coherence or 'set/metric'")
    require: str | None = Field(default=None, description="what the front's settings must reach: 'coherence >= 0.5'")

    @field_validator("x", "y")
    @classmethod
    def _metric(cls, value: str) -> str:
        return metric_name(value)

    @field_validator("require")
    @classmethod
    def _requirement(cls, value: str | None) -> str | None:
        if value is not None:
            parse_requirement(value, metric_name)
        return value

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions of `require`, parsed."""
        return () if self.require is None else parse_requirement(self.require)


class StoppingRule(Strict):
    """The rule by which a setting that does worse than others is stopped; off unless a scheduler is given.

    Time is counted in epochs of training; the value of a setting is the mean over its seeds.
    """

    scheduler: Literal["asha", "median"] | None = Field(
        default=None, description="Ray Tune's AsyncHyperBandScheduler or MedianStoppingRule; default: none"
    )
    metric: str = Field(
        default="alignment", description="capability, alignment, alignment_worst, coherence or 'set/metric'"
    )
    mode: Mode | None = Field(default=None, description="default: min for a loss and its like, else max")
    grace_epochs: int = Field(default=1, description="no setting is stopped before", ge=1, le=100_000)
    reduction_factor: float | None = Field(
        default=None, description="asha: the best 1/reduction_factor go on; default: 3", gt=1, le=100
    )
    min_settings: int | None = Field(
        default=None, description="median: so many others must have come that far; default: 3", ge=1, le=100_000
    )
    keep: list[str] = Field(default=[], description="strategies whose settings are never stopped")

    @field_validator("metric")
    @classmethod
    def _metric(cls, value: str) -> str:
        return metric_name(value)

    @model_validator(mode="after")
    def _fits_the_scheduler(self) -> StoppingRule:
        given = [key for key in self.model_fields_set if getattr(self, key) is not None]
        if self.scheduler is None and given:
            raise ValueError(f"{min(given)} is given, but scheduler is not: asha or median")
        for key, owner in (("reduction_factor", "asha"), ("min_settings", "median")):
            if key in given and self.scheduler != owner:
                raise ValueError(f"{key} belongs to scheduler: {owner}, and the scheduler is {self.scheduler}")
        return self


class SweepSettings(Strict):
    """Everything about a sweep except its trials."""

    name: str = Field(description="the sweep's folder in storage_path; default: the name of the YAML file")
    storage_path: str = Field("./sweeps", description="folder or URI, relative to the current directory")
    resources: Resources = Resources()
    pareto: Pareto = Pareto()
    early_stopping: StoppingRule = StoppingRule()
    plugins: list[str] = Field(default=[], description="Python files that define strategies")
    trackers: list[Tracker] = Field(default=[], description="where numbers go too: tensorboard, wandb, mlflow, trackio")

    @field_validator("storage_path")
    @classmethod
    def _is_somewhere(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("allowed: a folder or a URI such as s3://bucket/sweeps")
        return value

    @field_validator("name")
    @classmethod
    def _is_a_file_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("allowed: up to 100 letters, digits, '.', '_' and '-', a letter or digit first")
        return value


class Trial(Strict):
    """One run: a setting and a seed.

    Attributes:
        trial_id: 16 hex digits, equal for two trials exactly when they must give the same result.
        slug: readable name of the setting, shared by its seeds; safe as a folder name.
        data_hashes: role -> sha256 of its file.
        model_hash: fingerprint of the start model.
        places: config key -> where it was written, of the headlines: whether they can be is known with the rows alone.
    """

    config: SerializeAsAny[TrialConfig]
    trial_id: str
    slug: str
    data_hashes: dict[str, str]
    model_hash: str
    places: dict[str, SkipValidation[Origin]] = Field(default={}, exclude=True, repr=False)

    @property
    def name(self) -> str:
        """The trial's folder inside the sweep's."""
        return trial_name(self.slug, self.config.seed)


@dataclass(frozen=True)
class Objective:
    """A number that a search makes as large or as small as it can: the mean over a setting's seeds."""

    metric: str
    mode: Mode

    @classmethod
    def of(cls, metric: str, mode: Mode | None = None) -> Objective:
        """Make an objective; the default mode is 'min' for a loss and its like, else 'max'."""
        return cls(metric, mode or ("min" if less_is_better(metric) else "max"))


@dataclass(frozen=True)
class SearchSpec:
    """A search whose settings depend on the results of those before; see `selgen_ray.driver.search`.

    Attributes:
        key: names it in the sweep's folder: the strategy and a hash of all that is not searched, seeds aside.
        place: where it stands in the file.
        strategy, num_settings, seed: as the file has them.
        objectives: one, or the two of `pareto`.
        require: what `pareto` requires, where its two are the objectives.
        ranges: dotted config key -> the values it may take.
        num_seeds: trials of a setting.
        build: values -> one trial per seed, without those that `exclude` matches. Raises SpecError.
        samples: the trials of some settings, to check data and resources before the sweep starts.
    """

    key: str
    place: str
    strategy: str
    num_settings: int
    seed: int
    objectives: tuple[Objective, ...]
    ranges: Mapping[str, Range]
    num_seeds: int
    build: Callable[[Mapping[str, Any]], list[Trial]]
    samples: tuple[Trial, ...]
    require: tuple[Condition, ...] = ()

    @property
    def line(self) -> str:
        """A line that describes the search in the plan."""
        goal = " and ".join(f"{one.mode} {one.metric}" for one in self.objectives)
        size = f"{self.num_settings} settings x {self.num_seeds} seeds"
        return f"{self.key}: up to {size} by optuna ({goal}), of {', '.join(self.ranges)}"


class SweepSpec(SweepSettings):
    """A search space, read, checked and written out.

    Attributes:
        trials: unique, in the order of the file: strategies, their settings, seeds; then overrides.
        searches: whose trials are not known yet.
        plugin_sources: the content of `plugins` as it was when the search space was read.
        notes: what a person should know though it is no error: merged duplicates, unused knobs, exclusions.
        places: key of `pareto` -> where it was written.
        open_space: its settings before they were multiplied out.
    """

    trials: list[Trial]
    searches: tuple[SkipValidation[SearchSpec], ...] = Field(default=(), exclude=True, description="settings to come")
    plugin_sources: tuple[Plugin, ...] = Field(default=(), description="what workers load")
    notes: list[str] = Field(default=[], description="for people")
    places: SkipValidation[Places] = Field(default=Places(), exclude=True, description="where its keys were written")
    open_space: SkipValidation[OpenSpace] = Field(default=OpenSpace(), exclude=True, description="not multiplied out")
