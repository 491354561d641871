"""Trials of values that somebody else has chosen, such as a scheduler of Ray Tune: config values in, a task out."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.fingerprint import data_fingerprint
from selgen_ray.errors import Problem, SpecError, nearest
from selgen_ray.models.fingerprint import start_fingerprint
from selgen_ray.records.names import trial_name
from selgen_ray.records.results import flatten
from selgen_ray.space.expansion import fixed_streams, id_of, setting_of
from selgen_ray.space.open_settings import OpenSetting, OpenSpace
from selgen_ray.space.source_parts import with_whole_sources
from selgen_ray.storage import Folder
from selgen_ray.syntax.keys import SOURCES, explain, nested, registered_keys
from selgen_ray.syntax.tree import Node, Origin, written
from selgen_ray.trainers import catalogue, identity, plugins
from selgen_ray.trainers.plugins import Plugin
from selgen_ray.trial.task import TrialTask

SECTION = "section"
TOGETHER = "together"
"""The keys of values that are no config keys: which setting, and (as a beginning) values that belong together."""
_DIGITS, _DIGITS_CHANGED = 6, 12  # of the setting's hash in a slug: as sweeps have it, so that a report joins the two
_CHOOSE_ROWS = frozenset({"finetune_config.interleave_share"})  # another value, and a step has other rows


@dataclass(frozen=True)
class Change:
    """A change of strengths while a trial trained.

    Attributes:
        step: the optimizer steps that had been taken.
        values: dotted config key -> the value from there on.
    """

    step: int
    values: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """Return it as results.json has it: {'step': 12, 'values': {'finetune_config.beta_kl': 3.0}}."""
        return {"step": self.step, "values": dict(self.values)}


@dataclass(frozen=True)
class TrialSource:
    """Makes the tasks of trials whose values are chosen elsewhere; plain data, for any process.

    Attributes:
        name: the sweep's name.
        folder: where results go.
        space: the settings to choose from.
        plugins: the files with strategies and metrics of the sweep.
    """

    name: str
    folder: Folder
    space: OpenSpace
    plugins: tuple[Plugin, ...] = ()

    def setting(self, values: Mapping[str, Any]) -> OpenSetting:
        """Return the setting that values belong to: by `section`, by `proxy_strategy`, or the only one there is.

        Raises:
            SpecError: there is no such setting, or several.
        """
        settings = self.space.settings
        if (section := values.get(SECTION)) is not None:
            found = [one for one in settings if one.section == section]
            allowed = [one.section for one in settings]
            key, value = SECTION, section
        elif (strategy := values.get("proxy_strategy")) is not None:
            found = [one for one in settings if one.is_listed and one.strategy == catalogue.canonical(str(strategy))]
            allowed = list(dict.fromkeys(one.strategy for one in settings if one.is_listed))
            key, value = "proxy_strategy", strategy
        else:
            found, allowed = list(settings), [one.section for one in settings]
            key, value = SECTION, None
        if len(found) == 1:
            return found[0]
        what = "is not given" if value is None else f"found {value!r}"
        message = f"{what}; allowed: {', '.join(allowed)}.{nearest(str(value), allowed)}"
        raise SpecError([Problem("", None, key, message)])

    def task(
        self,
        values: Mapping[str, Any],
        place: str,
        changes: Sequence[Change] = (),
        first: Mapping[str, Any] | None = None,
        num_workers: int = 1,
    ) -> TrialTask:
        """Make the task of a trial.

        Its id is that of the same trial in a sweep. Where strengths were changed on the way, the id also follows from
        the values it began with and from all changes: it is another trial than one that had its last values all along.

        Args:
            values: what the trial trains with now; see `flat_values` for the form.
            place: the name of its folder among those of its setting and seed.
            changes: of strengths, since the trial began.
            first: the values it began with, if they were others.
            num_workers: processes that train it together.

        Raises:
            SpecError: a value is wrong, with its key.
            OSError: a data file cannot be read.
        """
        plugins.register_exactly(self.plugins)
        config, settings, fixed = self._checked(values, num_workers)
        slug = f"{config.proxy_strategy}_{setting_of(settings, fixed)[:_DIGITS]}"
        if changes:
            _, began, fixed = self._checked(first if first is not None else values, num_workers)
            settings = {**began, "changes": [change.plain() for change in changes]}
            slug = f"{config.proxy_strategy}_changed_{setting_of(settings, fixed)[:_DIGITS_CHANGED]}"
        cfg = config.finetune_config
        return TrialTask(
            config=config.model_dump(mode="json"),
            trial_id=id_of(settings),
            slug=slug,
            folder=self.folder / trial_name(slug, config.seed) / "results" / place,
            model_hash=_model_hash(cfg.model, cfg.model_revision, cfg.adapter, cfg.adapter_revision),
            cache=self.folder / "cache",
            plugins=self.plugins,
            changes=tuple(change.plain() for change in changes),
        )

    def changed(self, before: Mapping[str, Any], now: Mapping[str, Any], num_workers: int = 1) -> dict[str, Any]:
        """Return the strengths in which the values of a running trial differ from those before: key -> new value.

        Raises:
            SpecError: something else differs, which a trial cannot change while it trains.
        """
        plugins.register_exactly(self.plugins)
        configs = [flatten(self._checked(v, num_workers)[0].model_dump(mode="json")) for v in (before, now)]
        differing = [key for key in {**configs[0], **configs[1]} if configs[0].get(key) != configs[1].get(key)]
        strategy = str(configs[1]["proxy_strategy"])
        zero = catalogue.get_trainer(strategy).zero_strength
        allowed = [key for key, value in zero.items() if isinstance(value, float) and key not in _CHOOSE_ROWS]
        problems: list[Problem] = []
        for key in differing:
            value = configs[1].get(key)
            if key not in allowed:
                what = f"a trial of {strategy} can change {', '.join(allowed) or 'nothing'} while it trains"
                message = f"was changed from {configs[0].get(key)!r} to {value!r} between two checkpoints, but {what}."
                problems.append(Problem("", None, key, message))
            elif zero[key] in (value, configs[0].get(key)):
                message = f"was changed to or from {zero[key]:g}, which leaves the strategy out: give it bounds above."
                problems.append(Problem("", None, key, message))
        if problems:
            raise SpecError(problems)
        return {key: configs[1][key] for key in differing}

    def _checked(self, values: Mapping[str, Any], num_workers: int) -> tuple[TrialConfig, dict[str, Any], list[str]]:
        """Return the config, its identity, and the streams of seeds that are fixed."""
        setting = self.setting(flat_values(values))
        own = {
            key: written(value, Origin("", None, key))
            for key, value in flat_values(values).items()
            if key not in (SECTION, "proxy_strategy")
        }
        keys = registered_keys()
        known = keys.by_strategy[setting.strategy]
        problems = [
            Problem("", None, key, keys.unknown(key)) for key in own if key not in known and key not in keys.parts
        ]
        flat = with_whole_sources(setting.fixed, own, problems)
        flat["num_workers"] = Node(num_workers, Origin("", None, "num_workers"))
        if problems:
            raise SpecError(problems)
        try:
            config = catalogue.build_config({"experiment_name": self.name} | nested(flat))
        except ValidationError as error:
            raise SpecError(explain(error, flat, known, Origin("", None, setting.section))) from error
        config = catalogue.resolved(config)
        data = {role: _data_hash(source.path, source.revision) for role, source in config.data.sources().items()}
        cfg = config.finetune_config
        model = _model_hash(cfg.model, cfg.model_revision, cfg.adapter, cfg.adapter_revision)
        return config, identity.identity_of_trial(config, data, model), fixed_streams(flat)


_data_hash = functools.cache(data_fingerprint)
_model_hash = functools.cache(start_fingerprint)


def flat_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted config key -> value of values as a search space of Ray Tune has them.

    They may be nested or dotted. Values below `setting`, and below a key that begins with `together`, are taken as if
    they stood at the top.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and (key == "setting" or key.startswith(TOGETHER)):
            flat |= flat_values(value)
        elif isinstance(value, Mapping) and key not in SOURCES:
            inner = flat_values(value)
            flat |= {f"{key}.{part}": one for part, one in inner.items()}
        else:
            number = getattr(value, "item", None)  # of NumPy, as searchers give them
            flat[key] = number() if callable(number) else value
    return flat
