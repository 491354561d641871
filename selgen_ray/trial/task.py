"""The task of a worker: one trial, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from selgen_ray.records.attempts import Attempt
from selgen_ray.records.names import trial_name
from selgen_ray.storage import Folder
from selgen_ray.trainers.plugins import Plugin
from selgen_ray.trial import provenance

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class TrialTask:
    """One trial to run, as plain data without objects of this package's config classes.

    Attributes:
        config: a nested trial config.
        trial_id: its id, the hash of its identity.
        slug: readable name of its setting.
        folder: the folder for its results.json, config.json and checkpoints.
        model_hash: fingerprint of the model it starts from.
        cache: folder of the values that the trials of a sweep share; None: the trial has a cache of its own.
        git_commit: commit of the directory that the sweep was started in.
        plugins: the files with strategies and metrics of the whole sweep.
        changes: strengths that were changed since it began, as results.json has them.
        attempt: the number of this try, which fences off older ones; None: a run outside of a sweep.
    """

    config: dict[str, Any]
    trial_id: str
    slug: str
    folder: Folder
    model_hash: str | None = None
    cache: Folder | None = None
    git_commit: str | None = field(default_factory=provenance.git_commit)
    plugins: tuple[Plugin, ...] = ()
    attempt: Attempt | None = None
    changes: tuple[dict[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The readable name of the trial, '<slug>/seed_<N>'."""
        return trial_name(self.slug, self.config["seed"])
