"""Take the paths of this machine out of texts: a page that is sent to somebody says nothing of where it was made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from selgen_ray.storage import Folder

# an absolute path of two parts or more, of this machine or another; what follows '//', ':' or a word is part of a URI
_PATH = re.compile(r"(?<![\w:/.~-])(?:file://)?(?:/|~/|[A-Za-z]:[\\/])(?:[\w.@+=%~-]+[\\/])+(?P<name>[\w.@+=%~-]*)")
_FILE_URI = re.compile(r"file:///(?:[\w.@+=%~-]+/)*(?P<name>[\w.@+=%~-]*)")


def path_in(sweep: Folder, folder: Folder) -> str | None:
    """Return the path of a folder in the sweep's, '' for that itself; None if it lies elsewhere."""
    path = folder.inside.removeprefix(sweep.inside).strip("/")
    return path if str(sweep / path if path else sweep) == str(folder) else None


class Places:
    """Texts without the paths of the machine: a sweep's folder becomes its name, of any other path the name remains.

    '/home/eve/sweeps/lab/naive_1a2b3c/seed_1' becomes 'lab/naive_1a2b3c/seed_1' in the report of that sweep, and
    '/home/eve/data/rows.jsonl' becomes '…/rows.jsonl'. URIs of a store or an endpoint stay.

    Args:
        sweeps: the folders of the sweeps.
    """

    def __init__(self, sweeps: Iterable[Folder]):
        known: dict[str, str] = {}
        for folder in sweeps:
            known[str(folder)] = folder.name
            if folder.local_path is not None:
                known[str(folder.local_path)] = known[folder.local_path.as_uri()] = folder.name
        self._known = sorted(known.items(), key=lambda item: -len(item[0]))

    def text(self, text: str) -> str:
        """Return a text without paths."""
        if "/" not in text and "\\" not in text:
            return text
        for path, name in self._known:
            text = re.sub(rf"{re.escape(path)}(?![\w-]|\.\w)", lambda _, name=name: name, text)
        return _PATH.sub(_name, _FILE_URI.sub(_name, text))

    def anywhere(self, value: Any) -> Any:
        """Return plain data, such as of JSON, with no path in any of its texts; keys are left as they are."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.anywhere(one) for key, one in value.items()}
        return [self.anywhere(one) for one in value] if isinstance(value, list | tuple) else value


def _name(match: re.Match[str]) -> str:
    return f"…/{match['name']}" if match["name"] else "…/"
