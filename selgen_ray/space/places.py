"""Places in a search space (file, line and key) that messages about data and models refer to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from selgen_ray.config.trial import TrialConfig
from selgen_ray.errors import Problem
from selgen_ray.syntax.keys import SOURCES, Flat
from selgen_ray.syntax.tree import Node, Origin

_NAMED = re.compile(r"[a-z][a-z_]*(?:\.[a-z][a-z_0-9]*)*")


@dataclass(frozen=True)
class Places:
    """Where the keys of a search space's trials were written.

    Attributes:
        file: the search space, as it was named.
        sources: (dotted key, path) of a source -> where it was written.
        keys: another dotted key -> where it was written first.
    """

    file: str = ""
    sources: Mapping[tuple[str, str], Origin] = field(default_factory=dict[tuple[str, str], Origin])
    keys: Mapping[str, Origin] = field(default_factory=dict[str, Origin])

    @classmethod
    def of(
        cls, file: str, trials: Iterable[tuple[Flat, TrialConfig]], more: Mapping[str, Origin] | None = None
    ) -> Places:
        """Return the places of all that these trials were given; `more` are those of the sweep's own keys."""
        sources: dict[tuple[str, str], Origin] = {}
        keys = dict(more or {})
        for flat, config in trials:
            for role, source in config.data.sources().items():
                if (key := f"data.{role}") in flat:
                    sources.setdefault((key, source.path), _of_path(flat[key]))
            for key in [key for key in flat if key not in keys]:
                keys[key] = flat[key].origin
        return cls(file, sources, {key: origin for key, origin in keys.items() if key not in SOURCES})

    def problem(self, message: str) -> Problem:
        """Return a problem at the key that a message is about: a source whose path it names, or the first key in it."""
        origin, key = self._origin(message)
        for prefix in (f"{key}, ", f"{key}: "):  # the problem already names the key
            message = message.removeprefix(prefix)
        return origin.problem(message) if origin else Problem(self.file, None, "", message)

    def _origin(self, message: str) -> tuple[Origin | None, str]:
        sources = [(key, path) for key, path in self.sources if _names(message, path)]
        longest = max((len(path) for _, path in sources), default=0)
        sources = [(key, path) for key, path in sources if len(path) == longest]
        words: list[str] = _NAMED.findall(message)
        for source in sorted(sources, key=lambda source: source[0] not in words):
            return self.sources[source], source[0]
        for word in words:
            if word in SOURCES:
                paths = [path for key, path in self.sources if key == word]
                if len(paths) == 1:
                    return self.sources[word, paths[0]], word
            elif word in self.keys and ("." in word or "_" in word):
                # a plain word such as 'seed' may stand in any sentence
                return self.keys[word], word
            elif (near := self._beside(word)) is not None:
                return near, ""
        return None, ""

    def _beside(self, key: str) -> Origin | None:
        """Return the place of another key in the section of a key that was left at its default, or None."""
        section = key.rpartition(".")[0]
        keys = (other for other in self.keys if "." in section and other.startswith(f"{section}."))
        return next((self.keys[other] for other in keys), None)


def _names(message: str, path: str) -> bool:
    return bool(re.search(rf"{re.escape(path)}(?![\w.-]*\w)", message))


def _of_path(source: Node) -> Origin:
    """Return the place of a source's path, which may stand inside a mapping."""
    return source.value["path"].origin if isinstance(source.value, dict) and "path" in source.value else source.origin
