"""The guides: README.md and the READMEs beside what they describe, read as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
PATHS = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md")), *sorted((ROOT / "selgen_ray").glob("*/README.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A fenced block of a guide.

    Attributes:
        where: file and line, 'README.md:16'.
        language: as the fence names it; '' where it does not.
        marker: of the HTML comment in the line before, such as 'quickstart', or ''.
    """

    where: str
    language: str
    marker: str
    text: str


def name_of(path: Path) -> str:
    """Return the path of a guide inside the repository."""
    return path.relative_to(ROOT).as_posix()


GUIDES = {name_of(path): path.read_text(encoding="utf-8") for path in PATHS}


def blocks(language: str, guide: str | None = None) -> list[Block]:
    """Return the fenced blocks of a language, of one guide or of all, in their order."""
    matches = []
    for name, text in GUIDES.items():
        for match in _BLOCK.finditer(text) if guide in (None, name) else ():
            before = text[: match.start()]
            marker = re.search(r"<!-- ([\w ]+) -->\s*$", before)
            where = f"{name}:{before.count(chr(10)) + 1}"
            matches.append(Block(where, match[1], marker[1] if marker else "", match[2]))
    return [block for block in matches if block.language == language]


def commands(block: Block) -> list[str]:
    """Return the commands of a bash block, without comments; a here-document belongs to the line that begins it."""
    lines: list[str] = []
    end = ""
    for line in block.text.splitlines():
        if end:
            lines[-1] += f"\n{line}"
            end = "" if line == end else end
        elif line.strip() and not line.startswith("#"):
            lines.append(re.sub(r"\s+# .*", "", line))
            end = here[1] if (here := re.search(r"<<'(\w+)'$", line)) else ""
    return lines


def bash() -> dict[str, str]:
    """Map each command of the guides to where it stands."""
    return {command: block.where for block in blocks("bash") for command in commands(block)}


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a guide."""
    prose = _BLOCK.sub("", text)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose, re.M)}
