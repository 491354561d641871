"""A trial as a worker is handed it: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from selgen_ray.records.names import trial_name
from selgen_ray.storage import Folder
from selgen_ray.trainers.plugins import Plugin
from selgen_ray.trial import provenance

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class TrialTask:
    """What a worker is handed: plain data, no object of this package's config classes.

    Attributes:
        config: a nested trial config.
        trial_id: its content hash.
        slug: readable name of its setting.
        folder: where its results.json, config.json and checkpoints go.
        model_hash: fingerprint of the model it starts from.
        cache: what the trials of a sweep share; None: nothing is shared, the trial has one of its own.
        git_commit: of the directory the sweep was started in.
        plugins: files with strategies, those of the whole sweep.
    """

    config: dict[str, Any]
    trial_id: str
    slug: str
    folder: Folder
    model_hash: str | None = None
    cache: Folder | None = None
    git_commit: str | None = field(default_factory=provenance.git_commit)
    plugins: tuple[Plugin, ...] = ()

    @property
    def name(self) -> str:
        """'<slug>/seed_<N>', what people call the trial."""
        return trial_name(self.slug, self.config["seed"])
