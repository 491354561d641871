"""Trials that joined a sweep after its search space was read: by `sweep add`, or because a search asked for them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.records.control import Control
from selgen_ray.records.names import NAMES, is_slug, is_trial_id, trial_name
from selgen_ray.space import Trial
from selgen_ray.storage.folder import as_object
from selgen_ray.trainers.plugins import Plugin

logger = logging.getLogger(__name__)
_SECTIONS = ("data", "finetune_config", "evals")
_MOST_ASKED = 2**31  # settings of a search, far more than one can ask for


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
    if problem := _problem(content["config"]):
        raise ValueError(problem)
    if not (search is None or _is_entry(search)) or not isinstance(content["model_hash"], str):
        raise ValueError("its search or model_hash is of another kind")
    json.dumps(content, ensure_ascii=False).encode()  # half a character cannot be written, hashed or shown
    sources = tuple(Plugin(**plugin) for plugin in content["plugins"])
    parts: list[Any] = [part for plugin in sources for part in (plugin.name, plugin.source)]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("its plugins are no texts")
    return AddedTrial(plugins=sources, **{name: content[name] for name in names if name != "plugins"})


def _problem(config: Any) -> str | None:
    """Return what is wrong with a config, as far as every trial's needs it; its worker checks the rest."""
    config = as_object(config)
    if type(config.get("seed")) is not int or not isinstance(config.get("proxy_strategy"), str):
        return "its config has no seed or no proxy_strategy"
    if not 0 <= config["seed"] < 2**63:
        return "its seed is not from 0 to 2^63 - 1"
    wrong = [name for name in _SECTIONS if not isinstance(config.get(name, {}), dict)]
    if wrong:
        return f"its {wrong[0]} is no mapping"
    tuning = config.get("finetune_config", {})
    # without the knobs, which its strategy may bring along, and the template, a file that nobody may have named
    known = tuning.keys() & FinetuneConfig.model_fields.keys() - {"chat_template"}
    try:
        FinetuneConfig.model_validate({key: tuning[key] for key in known})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"its finetune_config.{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return None


def _is_entry(search: Any) -> bool:
    """Return whether something is the `Asked.entry` of a search."""
    entry = as_object(search)
    number, values = entry.get("number"), entry.get("values")
    return (
        isinstance(entry.get("key"), str)
        and type(number) is int
        and 0 <= number < _MOST_ASKED
        and isinstance(values, dict)
    )
