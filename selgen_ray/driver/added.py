"""Trials that joined a sweep after its search space was read: by `sweep add`, or because a search asked for them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from selgen_ray.records.control import Control
from selgen_ray.records.names import NAMES, is_slug, is_trial_id, trial_name
from selgen_ray.space import Trial
from selgen_ray.trainers.plugins import Plugin

logger = logging.getLogger(__name__)


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


def read_added(control: Control, trial_ids: Iterable[str], damaged: dict[str, str] | None = None) -> list[AddedTrial]:
    """Return the added trials with these ids, oldest first; those whose file is damaged are left out.

    Args:
        damaged: gets trial id -> what is wrong, of files that are damaged; None: they are only logged.

    Raises:
        StorageError: the storage refused.
    """
    contents = control.added.read_many(trial_ids)
    trials: list[AddedTrial] = []
    for trial_id, content in sorted(contents.items(), key=lambda item: str(item[1].get("at"))):
        try:
            trials.append(_read(trial_id, content))
        except (KeyError, TypeError, ValueError) as error:
            message = f"{control.added.folder}/{trial_id}.json is damaged ({error}): delete it and add the trial again"
            if damaged is None:
                logger.warning("%s", message)
            else:
                damaged[trial_id] = message
    return trials


def _read(trial_id: str, content: dict[str, Any]) -> AddedTrial:
    names = ("trial_id", "slug", "config", "model_hash", "search", "plugins")
    if missing := [name for name in names if name not in content]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    search = content["search"]
    if content["trial_id"] != trial_id or not (is_trial_id(trial_id) and is_slug(content["slug"])):
        raise ValueError(f"found id {content['trial_id']!r:.80}, slug {content['slug']!r:.80}; {NAMES}")
    if not _is_config(content["config"]):
        raise ValueError("its config has no seed or no proxy_strategy")
    if not isinstance(search, dict | None) or not isinstance(content["model_hash"], str):
        raise ValueError("its search or model_hash is of another kind")
    sources = tuple(Plugin(**plugin) for plugin in content["plugins"])
    parts: list[Any] = [part for plugin in sources for part in (plugin.name, plugin.source)]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("its plugins are no texts")
    return AddedTrial(plugins=sources, **{name: content[name] for name in names if name != "plugins"})


def _is_config(value: Any) -> bool:
    try:
        return type(value["seed"]) is int and "proxy_strategy" in value
    except (KeyError, TypeError):  # a list, a text, a number
        return False
