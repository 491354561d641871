"""A report that is written anew while its sweep runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from selgen_ray.errors import StorageError
from selgen_ray.reading import NOT_IN
from selgen_ray.records.control import LIVE, Control
from selgen_ray.records.results import FILE_NAME
from selgen_ray.report.model import Report
from selgen_ray.storage import Folder

logger = logging.getLogger(__name__)


def watch(sweeps: Sequence[Folder], every_s: float, write: Callable[[], Report], say: Callable[[str], None]) -> None:
    """Write the report whenever results have changed, until no sweep is running any more, or Ctrl-C.

    A sweep runs as long as its driver says so in control/live.json; one that says nothing (it has not started, or its
    driver was killed) is waited for until Ctrl-C. A storage that is away for a while is asked again.
    """
    before = _stamps(sweeps)
    try:
        while not _over(sweeps):
            time.sleep(every_s)
            try:
                if (after := _stamps(sweeps)) != before:
                    report = write()
                    before = after
                    counts = ", ".join(f"{n} {status}" for status, n in report.counts.items() if n)
                    say(f"{time.strftime('%H:%M:%S')}  {counts}")
            except StorageError as error:
                logger.warning("not this time: %s", error)
    except KeyboardInterrupt:
        say("no longer watched")


def _stamps(sweeps: Sequence[Folder]) -> list[tuple[str, int]]:
    """Every results.json with the time it was written, and what runs."""
    found = [(f"{sweep}/{path}", at) for sweep in sweeps for path, at in sweep.stamps(FILE_NAME, leave_out=NOT_IN)]
    return [*found, *((str(Control(sweep).read(LIVE).get("finished")), 0) for sweep in sweeps)]


def _over(sweeps: Sequence[Folder]) -> bool:
    try:
        return all(Control(sweep).read(LIVE).get("over") for sweep in sweeps)
    except StorageError:
        return False
