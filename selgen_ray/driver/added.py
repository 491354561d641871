"""Trials that joined a sweep after its search space was read: by `sweep add`, or because a search asked for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from selgen_ray.errors import StorageError
from selgen_ray.records.control import Control
from selgen_ray.records.names import trial_name
from selgen_ray.space import Trial
from selgen_ray.trainers.plugins import Plugin


@dataclass(frozen=True)
class AddedTrial:
    """A trial as plain data, so that a process that has neither its YAML nor its plugins can hand it to a worker.

    Attributes:
        search: what identifies it in the search that asked for it; None: somebody added it.
    """

    trial_id: str
    slug: str
    config: dict[str, Any]
    model_hash: str
    plugins: tuple[Plugin, ...] = ()
    search: dict[str, Any] | None = None

    @classmethod
    def of(cls, trial: Trial, plugins: tuple[Plugin, ...], search: dict[str, Any] | None = None) -> AddedTrial:
        """Return a trial of a search space as plain data."""
        config = trial.config.model_dump(mode="json")
        return cls(trial.trial_id, trial.slug, config, trial.model_hash, plugins, search)

    @property
    def name(self) -> str:
        """The trial's name, '<slug>/seed_<N>'."""
        return trial_name(self.slug, self.config["seed"])


def write_added(control: Control, trial: AddedTrial) -> None:
    """Add the trial to the sweep, which runs it now or when it is run again. Raises StorageError."""
    control.added.set(trial.trial_id, **asdict(trial))


def read_added(control: Control, trial_ids: Iterable[str]) -> list[AddedTrial]:
    """Return the added trials with these ids, oldest first. Raises StorageError: one cannot be read or is damaged."""
    contents = control.added.read_many(trial_ids)
    return [_read(control, *item) for item in sorted(contents.items(), key=lambda item: str(item[1].get("at")))]


def _read(control: Control, trial_id: str, content: dict[str, Any]) -> AddedTrial:
    try:
        sources = tuple(Plugin(**plugin) for plugin in content["plugins"])
        names = ("trial_id", "slug", "config", "model_hash", "search")
        return AddedTrial(plugins=sources, **{name: content[name] for name in names})
    except (KeyError, TypeError) as error:
        raise StorageError(f"{control.added.folder}/{trial_id}.json is damaged: delete it and add it again") from error
