"""Records of what became of the keys of a first-generation config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from selgen_ray.syntax.keys import Flat, Keys, is_valid
from selgen_ray.syntax.tree import Node, Origin

Kind = Literal["same", "renamed", "converted", "void", "dropped", "unknown", "default"]


@dataclass(frozen=True)
class Record:
    """The fate of a key.

    Attributes:
        key: dotted, as the file has it; for a default, today's key.
        kind: 'same': key and value are kept. 'renamed': the key has another name. 'converted': its value changes too.
            'unknown': neither generation has it. 'void': today it need not be said. 'dropped': it has no counterpart.
            'default': the file does not have the key, and the first generation's default differs from today's.
        to: today's dotted key.
        why: the reason, for people; a dropped key always has one.
        lost: what the key asked for is not done today, whatever the other keys say.
        origin: where the key was written.
    """

    key: str
    kind: Kind
    to: str | None = None
    why: str = ""
    lost: bool = False
    origin: Origin = field(default_factory=lambda: Origin(""), compare=False)


@dataclass
class Converted:
    """A config in today's keys.

    Attributes:
        values: today's dotted key -> value.
        sources: today's dotted key -> the keys of the file that it comes from.
        records: one for each key of the file, and for each default that was added.
        missing: role -> message, for roles whose path leads to no file.
        unknown: dotted key of the file that neither generation has -> value.
    """

    values: Flat = field(default_factory=dict)
    sources: dict[str, set[str]] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    unknown: Flat = field(default_factory=dict)

    def put(self, to: str, node: Node, source: str, kind: Kind, why: str = "") -> None:
        """Set one of today's keys, and record where it comes from."""
        self.values[to] = node
        self.sources[to] = {source}
        self.records.append(Record(source, kind, to, why, origin=node.origin))

    def drop(self, source: str, node: Node, why: str, lost: bool = True) -> None:
        """Record that a key is left out, and whether anything is lost by it."""
        self.records.append(Record(source, "dropped" if lost else "void", None, why, lost, node.origin))

    def remove(self, to: str) -> tuple[Node, str]:
        """Remove a key with its records; return its value and a key of the file that it came from, or ''."""
        self.records = [record for record in self.records if record.to != to]
        return self.values.pop(to), min(self.sources.pop(to), default="")

    def take_back(self, to: str, why: str) -> None:
        """Remove a key, and record its sources as dropped, with the reason."""
        sources = sorted(self.sources[to])
        node, _ = self.remove(to)
        self.records += [Record(source, "dropped", None, why, origin=node.origin) for source in sources]

    @property
    def strategy(self) -> str:
        """The value of proxy_strategy, or its default 'naive'."""
        node = self.values.get("proxy_strategy")
        return str(node.plain()) if node and node.value is not None else "naive"


def takes(keys: Keys, key: str, value: Any) -> bool:
    """Return whether today's key takes a value."""
    if key in keys.sections:
        return isinstance(value, dict) and all(f"{key}.{part}" in keys.known for part in value)
    return key in keys.known and is_valid(keys.known[key], value)
