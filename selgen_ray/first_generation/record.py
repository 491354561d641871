"""What became of the keys of a first-generation config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from selgen_ray.syntax.keys import Flat, Keys, coerce
from selgen_ray.syntax.tree import Node, Origin

Kind = Literal["same", "renamed", "converted", "void", "dropped", "unknown", "default"]


@dataclass(frozen=True)
class Record:
    """What became of a key.

    Attributes:
        key: dotted, as the file has it; of a default, the key of today.
        kind: 'same': key and value are kept. 'renamed': the key is another. 'converted': the value too. 'unknown':
            neither generation has it. 'void': what it says needs no saying today. 'dropped': it has no counterpart.
            'default': the file was silent, and today's default is not that of then.
        to: dotted key of today.
        why: for people; of a dropped key always.
        lost: what it asked for is not done today, whatever the other keys say.
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
        values: dotted key of today -> value.
        sources: dotted key of today -> the keys of the file that it comes from.
        records: one for each key of the file, and for each default that was added.
        missing: role -> what is wrong with its path, where no file is there.
        unknown: dotted key of the file that neither generation has -> value.
    """

    values: Flat = field(default_factory=dict)
    sources: dict[str, set[str]] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    unknown: Flat = field(default_factory=dict)

    def put(self, to: str, node: Node, source: str, kind: Kind, why: str = "") -> None:
        """Set a key of today, and record where from."""
        self.values[to] = node
        self.sources[to] = {source}
        self.records.append(Record(source, kind, to, why, origin=node.origin))

    def drop(self, source: str, node: Node, why: str, lost: bool = True) -> None:
        """Record that a key is left out, and whether anything is lost by it."""
        self.records.append(Record(source, "dropped" if lost else "void", None, why, lost, node.origin))

    def remove(self, to: str) -> tuple[Node, str]:
        """Take out what was put, with its records; returns the value and a key that it came from, or ''."""
        self.records = [record for record in self.records if record.to != to]
        return self.values.pop(to), min(self.sources.pop(to), default="")

    def take_back(self, to: str, why: str) -> None:
        """Leave out what was put, and record why."""
        sources = sorted(self.sources[to])
        node, _ = self.remove(to)
        self.records += [Record(source, "dropped", None, why, origin=node.origin) for source in sources]

    @property
    def strategy(self) -> str:
        """Its proxy_strategy."""
        node = self.values.get("proxy_strategy")
        return str(node.value) if node and node.value is not None else "naive"


def takes(keys: Keys, key: str, value: Any) -> bool:
    """Whether a key of today takes a value."""
    if key in keys.sections:
        return isinstance(value, dict) and all(f"{key}.{part}" in keys.known for part in value)
    try:
        return key in keys.known and coerce(keys.known[key], value) is not None
    except ValidationError:
        return False
