"""Reading a Dockerfile and a .dockerignore as a builder does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

KNOWN = {"FROM", "ARG", "ENV", "WORKDIR", "SHELL", "COPY", "RUN", "USER", "LABEL", "ENTRYPOINT", "CMD", "HEALTHCHECK"}
KNOWN |= {"EXPOSE"}
_VARIABLE = re.compile(r"\\(.)|\$(?:(\w+)|\{(\w+)(?::-([^}]*))?\})")


class Instruction(NamedTuple):
    """One instruction, continued lines joined: `RUN --mount=type=cache,target=/x make` has the flag ("mount", ...)."""

    name: str
    flags: list[tuple[str, str]]
    text: str
    line: int

    def words(self) -> list[str] | None:
        """The exec form, a JSON list, or None: the shell form."""
        return json.loads(self.text) if self.text.startswith("[") else None

    def pairs(self, variables: Mapping[str, str]) -> dict[str, str]:
        """`A=1 B="2 $A"` with what is in quotes, and in it the variables; `A` alone has the value of `variables`."""
        found = {}
        for word in re.findall(r"(?:[^\s\"\\]|\\.|\"(?:[^\"\\]|\\.)*\")+", self.text):
            name, given, value = word.partition("=")
            if given:
                found[name] = substituted(value.replace('"', ""), variables)
            elif name in variables:
                found[name] = variables[name]
        return found


def read_dockerfile(text: str) -> list[Instruction]:
    """
    Raises:
        ValueError: an instruction that is not `KNOWN`; a heredoc; a parser directive other than `syntax`.
    """
    found, started, parts = [], 0, []
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"#\s*escape\s*=", line):
            raise ValueError(f"line {number}: another escape character")
        if line.lstrip().startswith("#") or not line.strip():
            continue  # in the middle of an instruction too
        started = started or number
        parts.append(line.rstrip().removesuffix("\\"))
        if line.rstrip().endswith("\\"):
            continue
        found.append(_instruction("".join(parts).strip(), started))
        started, parts = 0, []
    if parts:
        raise ValueError(f"line {started}: ends in the middle")
    return found


def _instruction(text: str, line: int) -> Instruction:
    name, _, rest = text.partition(" ")
    if name.upper() not in KNOWN or "<<" in rest:
        raise ValueError(f"line {line}: not understood: {text}")
    flags, rest = [], rest.lstrip()
    while match := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
        flags.append((match[1], match[2]))
        rest = rest[match.end() :]
    return Instruction(name.upper(), flags, rest, line)


def substituted(text: str, variables: Mapping[str, str]) -> str:
    """With $NAME, ${NAME} and ${NAME:-default} replaced; a variable that is not set is empty."""
    return _VARIABLE.sub(lambda m: m[1] or variables.get(m[2] or m[3]) or m[4] or "", text)


def options(text: str) -> dict[str, str]:
    """`type=bind,target=/x` -> {"type": "bind", "target": "/x"}."""
    return dict(part.partition("=")[::2] for part in text.split(","))


def _pattern(line: str) -> re.Pattern[str]:
    found = ""
    for part in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", line.strip("/")):
        found += {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part)
    return re.compile(found)


def context_files(context: Path, ignore: str) -> Iterator[Path]:
    """The files of a folder, relative to it, that a .dockerignore leaves: for each, its last matching line decides."""
    rules = [line.strip() for line in ignore.splitlines() if line.strip() and not line.startswith("#")]
    compiled = [(not rule.startswith("!"), _pattern(rule.removeprefix("!"))) for rule in rules]
    for path in sorted(p.relative_to(context) for p in context.rglob("*") if not p.is_dir()):
        names, ignored = [path.as_posix(), *(parent.as_posix() for parent in path.parents[:-1])], False
        for ignores, pattern in compiled:
            if any(pattern.fullmatch(name) for name in names):
                ignored = ignores
        if not ignored:
            yield path
