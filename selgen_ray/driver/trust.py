"""What trials of a sweep may run and reach: what the person who starts it names, never what storage alone says."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # start-up: the commands that look at a sweep need the option's name alone
    from selgen_ray.space import SweepSpec
    from selgen_ray.storage import Folder
    from selgen_ray.trainers.plugins import Plugin

OPTION = "--trust-plugin"
SHORTEST = 12
"""Hex digits of a sha256 that confirm a plugin, or what a trial reaches, at least."""
STARTS = "starts"
"""The folder in a sweep's folder with the weights that `sweep add --warm-start` copied."""
_WEIGHTS = ("finetune_config.model", "finetune_config.adapter")
_PLACES = (*_WEIGHTS, "finetune_config.output_dir", "evals.questions")
_LONGEST = 300  # characters of a value in a message


@dataclass(frozen=True)
class Reach:
    """One thing outside of the sweep's folder that a trial reads, writes or talks to.

    Attributes:
        key: dotted config key.
        value: as JSON.
    """

    key: str
    value: str

    def __str__(self) -> str:
        from selgen_ray.storage.secrets import masked  # late: start-up, pyarrow comes with it and begins threads

        text = masked(self.value)
        return f"{self.key} {text if len(text) <= _LONGEST else text[:_LONGEST] + '...'}"


@dataclass(frozen=True)
class Trust:
    """What a person trusts. A trial that was added to the sweep brings its config, and the text of its plugins, along.

    Attributes:
        code: sha256 of the plugins that the person's own search space names.
        reach: what the trials of that search space reach.
        starts: the folder of the sweep whose weights any of its trials may begin with; None: there is none here.
        confirmed: beginnings of sha256 that the person has confirmed: of plugins, and of what a trial reaches.
    """

    code: frozenset[str] = frozenset()
    reach: frozenset[Reach] = frozenset()
    starts: Path | None = None
    confirmed: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: SweepSpec, folder: Folder, confirmed: Iterable[str] = ()) -> Trust:
        """Return the trust in what a search space names, and in what begins with one of `confirmed`.

        Args:
            folder: the sweep's.
        """
        trials = [*spec.trials, *(sample for search in spec.searches for sample in search.samples)]
        reach = frozenset(one for trial in trials for one in reached(trial.config.model_dump(mode="json")))
        code = frozenset(plugin.sha256 for plugin in spec.plugin_sources)
        starts = folder.local_path.resolve() / STARTS if folder.local_path else None
        return cls(code, reach, starts, tuple(confirmed))

    def why_not(self, plugins: Iterable[Plugin], config: Mapping[str, Any]) -> str | None:
        """Return why a trial must not run, and how to confirm it; None if all that it runs and reaches is trusted."""
        return _refusal(self.other_code(plugins), self.other_reach(config))

    def why_not_code(self, plugins: Iterable[Plugin]) -> str | None:
        """Return why these plugins must not run, and how to confirm them; None if all are trusted."""
        return _refusal(self.other_code(plugins), [])

    def other_code(self, plugins: Iterable[Plugin]) -> list[Plugin]:
        """Return those of the plugins that are not trusted."""
        return [p for p in plugins if p.sha256 not in self.code and not self._confirms(p.sha256)]

    def other_reach(self, config: Mapping[str, Any]) -> list[Reach]:
        """Return what a trial reaches that is not trusted, in the order of its config."""
        others = [one for one in reached(config) if one not in self.reach and not self._is_start(one)]
        return [] if self._confirms(digest_of(others)) else others

    def _confirms(self, sha256: str) -> bool:
        return sha256.startswith(self.confirmed or "-")

    def _is_start(self, one: Reach) -> bool:
        """Whether it is a folder of weights that `sweep add --warm-start` has copied, and no link to another."""
        if self.starts is None or one.key not in _WEIGHTS:
            return False
        path = Path(str(json.loads(one.value)))
        try:
            return path.is_absolute() and path.resolve().parent == self.starts
        except (OSError, ValueError, RuntimeError):  # a loop of links, a name that no file can have
            return False


def _refusal(code: list[Plugin], reach: list[Reach]) -> str | None:
    parts: list[str] = []
    hashes = [p.sha256 for p in code]
    if code:
        listed = ", ".join(f"{PurePath(p.name).name} (sha256 {p.sha256[:SHORTEST]})" for p in code)
        parts.append(f"runs code that the search space does not name: {listed}")
    if reach:
        hashes.append(digest_of(reach))
        listed = ", ".join(map(str, reach))
        parts.append(f"reaches what the search space does not name: {listed} (sha256 {hashes[-1][:SHORTEST]})")
    options = " ".join(f"{OPTION} {one[:SHORTEST]}" for one in hashes)
    return f"{'; '.join(parts)}. To confirm it: {options}" if parts else None


def digest_of(reach: Iterable[Reach]) -> str:
    """Return the sha256 that confirms all of `reach` together, whatever its order."""
    return hashlib.sha256(json.dumps(sorted({(one.key, one.value) for one in reach})).encode()).hexdigest()


def reached(config: Mapping[str, Any]) -> list[Reach]:
    """Return all that a trial reads, writes or talks to outside of the sweep's folder.

    These are the places of its rows, model, adapter and questions, on a disk or the hub (where the token may open what
    is private), its output folder, the judge with the variable of its key, the repository that it is pushed to, and
    any other value that may be a path or an address.

    Args:
        config: of a trial, in which nothing has been checked yet.
    """
    # late: start-up, as above
    from selgen_ray.config.data import ROLES
    from selgen_ray.config.evals import JudgeConfig

    places = {*_PLACES, *(f"data.{role}{end}" for role in ROLES for end in ("", ".path"))}
    found = [Reach(key, _json(value)) for key, value in _leaves(config, "") if _is_place(key, value, places)]
    tuning, judge = _section(config, "finetune_config"), _section(config, "evals", "judge")
    if tuning.get("push_to_hub"):
        names = ("finetuned_model_id", "push_to_private")
        found.append(Reach("finetune_config.push_to_hub", _json({name: tuning.get(name) for name in names})))
    if judge.get("model") is not None:
        fields = {name: JudgeConfig.model_fields[name].default for name in ("base_url", "api_key_env")}
        found.append(Reach("evals.judge", _json({name: judge.get(name, fields[name]) for name in fields})))
    return list(dict.fromkeys(found))


def _section(config: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    found: Any = config
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner, key)
    else:
        yield key, value


def _is_place(key: str, value: Any, places: set[str]) -> bool:
    if not isinstance(value, str) or key.startswith("evals.judge."):
        return False  # the judge counts as a whole
    if key in places:
        return value != "toy"
    if "." not in key:  # a name, such as experiment_name
        return False
    is_path = value.startswith(("/", "~", "\\")) or ".." in PurePath(value).parts or os.path.lexists(value)
    return is_path or bool(re.fullmatch(r"\w+:/+\S*", value))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def sha256_start(text: str) -> str:
    """Return the beginning of a sha256 as a command line gives it. Raises ArgumentTypeError: it is none."""
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},64}}", text):
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: the first {SHORTEST} to 64 hex digits of a sha256")
    return text
