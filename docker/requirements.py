"""Writes a project's dependencies, with those of some extras and further packages, one a line.

    python requirements.py pyproject.toml quantized,search boto3

The image installs them before the project, in a layer of their own.

Standard library alone: it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def requirements(project: dict, extras: list[str]) -> list[str]:
    """The dependencies of `project` and of its `extras`, with extras that name others resolved, without repetition.

    Raises:
        SystemExit: there is no such extra; the message names those that are.
    """
    found, asked = dict.fromkeys(project["dependencies"]), list(extras)
    own = re.compile(re.escape(project["name"]) + r"\[([^]]+)\]$")
    for extra in asked:  # grows while it is walked
        if extra not in project["optional-dependencies"]:
            raise SystemExit(f"no extra {extra!r}; there are: {', '.join(sorted(project['optional-dependencies']))}")
        for line in project["optional-dependencies"][extra]:
            if match := own.match(line):
                asked += [name for name in match[1].split(",") if name not in asked]
            else:
                found[line] = None
    return list(found)


if __name__ == "__main__":
    content = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    extras, packages = ([name.strip() for name in given.split(",") if name.strip()] for given in sys.argv[2:4])
    sys.stdout.write("".join(line + "\n" for line in [*requirements(content["project"], extras), *packages]))
