"""What a search space becomes: the trials, and what the sweep as a whole asks for."""

from __future__ import annotations

import re

from pydantic import Field, SerializeAsAny, field_validator

from selgen_ray.config import TrialConfig
from selgen_ray.strict import Strict
from selgen_ray.trainers.plugins import Plugin

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a file name may be on every file system and object store."""


class Resources(Strict):
    """What one trial gets, and how many run and retry."""

    gpus: float | None = Field(
        default=None, description="GPUs of a trial; default: 1 where there are any, else 0", ge=0, le=64
    )
    cpus: float = Field(default=1.0, description="CPU cores of a trial", gt=0, le=1024)
    max_concurrent: int | None = Field(
        default=None, description="trials at a time; default: as many as fit", ge=1, le=10_000
    )
    max_failures: int = Field(default=2, description="retries of a trial that failed", ge=0, le=100)
    torch_threads: int = Field(default=1, description="threads of PyTorch in a trial", ge=1, le=1024)

    @field_validator("gpus")
    @classmethod
    def _whole_above_one(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("a trial gets a share of one GPU or whole GPUs")
        return value


class Pareto(Strict):
    """The two numbers that are weighed against each other; more is better in both."""

    x: str = Field(default="capability", description="'capability', 'alignment' or 'set/metric'")
    y: str = Field(default="alignment", description="'capability', 'alignment' or 'set/metric'")

    @field_validator("x", "y")
    @classmethod
    def _metric(cls, value: str) -> str:
        if value not in ("capability", "alignment") and not re.fullmatch(r"[^/\s]+/[^/\s]+", value):
            raise ValueError("allowed: capability, alignment, or the 'set/metric' of an evaluation")
        return value


class SweepSettings(Strict):
    """Everything about a sweep but its trials."""

    name: str = Field(description="the sweep's folder in storage_path; default: the name of the YAML file")
    storage_path: str = Field("./sweeps", description="folder or URI, relative to the current directory")
    resources: Resources = Resources()
    pareto: Pareto = Pareto()
    plugins: list[str] = Field(default=[], description="Python files that define strategies")

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
    """

    config: SerializeAsAny[TrialConfig]
    trial_id: str
    slug: str
    data_hashes: dict[str, str]
    model_hash: str

    @property
    def name(self) -> str:
        """The trial's folder inside the sweep's."""
        return f"{self.slug}/seed_{self.config.seed}"


class SweepSpec(SweepSettings):
    """A search space, read, checked and written out.

    Attributes:
        trials: unique, in the order of the file: strategies, their settings, seeds; then overrides.
        plugin_sources: the content of `plugins` as it was when the search space was read.
        notes: what a person should know though it is no error: merged duplicates, unused knobs, exclusions.
    """

    trials: list[Trial]
    plugin_sources: tuple[Plugin, ...] = Field(default=(), description="what workers load")
    notes: list[str] = Field(default=[], description="for people")


def plan_counts(spec: SweepSpec) -> dict[str, int]:
    """Strategy -> number of trials, in the order of the sweep."""
    counts: dict[str, int] = {}
    for trial in spec.trials:
        counts[trial.config.proxy_strategy] = counts.get(trial.config.proxy_strategy, 0) + 1
    return counts
