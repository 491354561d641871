"""A condition that would fail every trial: the feed pauses, it is said once, looked at again, and the sweep goes on.

Such conditions are a full disk or quota, refused credentials, a storage that became read-only, and a model or data
file that is gone.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from selgen_ray.records.results import flatten
from selgen_ray.storage import Folder

FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 60.0
_CALM_S = 600.0  # without a condition, after which the next one is told again
_PROBE_BYTES = 2**20
_FILES = ("finetune_config.model", "finetune_config.adapter")
MOST_EXCUSED = 10
"""How often a trial may be ended by such a condition without its being counted as a failure."""


class Blockade:
    """The condition that holds a sweep up, if there is one. Its methods are for one thread; reading `why` is for any.

    Args:
        probe: raises OSError while the condition lasts.
        clock: seconds, of a clock that never goes back.

    Attributes:
        why: the condition in words; None if there is none.
    """

    def __init__(self, probe: Callable[[], None], clock: Callable[[], float] = time.monotonic):
        self._probe, self._clock = probe, clock
        self.why: str | None = None
        self._wait_s, self._next, self._ended = FIRST_WAIT_S, 0.0, -_CALM_S
        self._last = ""

    def begin(self, why: str) -> bool:
        """Note the condition; return whether to tell the user: not if it is there already, or came straight back."""
        if self.why is not None:
            return False
        calm_s = self._clock() - self._ended
        if calm_s >= self._wait_s:
            # the sweep ran for longer than it would wait now: one that fails once a minute costs seconds each time
            self._wait_s = FIRST_WAIT_S
        calm = calm_s >= _CALM_S
        self.why, self._next = why, self._clock() + self._wait_s
        is_new, self._last = calm or why != self._last, why
        return is_new

    def look(self) -> bool:
        """Look again if it is time to; return whether the condition has just ended."""
        if self.why is None or self._clock() < self._next:
            return False
        # twice as long the next time, also if it only seems to have ended
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        try:
            self._probe()
        except OSError:
            self._next = self._clock() + self._wait_s
            return False
        self.why, self._ended = None, self._clock()
        return True


def probe_storage(folder: Folder) -> None:
    """Write and remove a megabyte in a folder. Raises StorageError: it takes no file now."""
    name = f"probe_{uuid.uuid4().hex}"
    try:
        folder.write(name, bytes(_PROBE_BYTES), for_s=0)
    finally:
        folder.remove(name)


def missing_inputs(config: Mapping[str, Any]) -> list[str]:
    """Return the local files and folders that a trial's config names and that are not there.

    Args:
        config: of a task, nested and plain; its relative paths are not looked for.
    """
    named = flatten(dict(config))
    paths = [value for key, value in named.items() if key in _FILES or (key.startswith("data.") and _is_path(key))]
    return [path for path in dict.fromkeys(paths) if str(path).startswith("/") and not Path(path).exists()]


def _is_path(key: str) -> bool:
    return key.endswith(".path") or key.count(".") == 1
