"""A report that is rewritten while its sweep runs: `python -m selgen_ray.report --watch`."""

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
    """Write the report whenever results have changed, until all sweeps are over, or Ctrl-C.

    A sweep is over once its driver has written so to control/live.json. A sweep that has not started, or whose driver
    was killed, never says so: only Ctrl-C ends the wait for it. A storage error is logged, and the storage is read
    again after the next interval.

    Args:
        every_s: seconds between two looks.
        write: writes the report and returns it.
        say: prints a line.

    Raises:
        StorageError: the storage cannot be read at the first look.
    """
    before = stamps_of(sweeps)
    try:
        while not _over(sweeps):
            time.sleep(every_s)
            try:
                if (after := stamps_of(sweeps)) != before:
                    report = write()
                    before = after
                    counts = ", ".join(f"{n} {status}" for status, n in report.counts.items() if n)
                    say(f"{time.strftime('%H:%M:%S')}  {counts}")
            except StorageError as error:
                logger.warning("not this time: %s", error)
    except KeyboardInterrupt:
        say("no longer watched")


def stamps_of(sweeps: Sequence[Folder]) -> list[tuple[str, int]]:
    """Return whatever changes with the results: each results.json with its stamp, and how many trials are over.

    A list that differs from the one before means that the report is out of date.
    """
    stamps = [(f"{sweep}/{path}", at) for sweep in sweeps for path, at in sweep.stamps(FILE_NAME, leave_out=NOT_IN)]
    return [*stamps, *((str(Control(sweep).read(LIVE).get("finished")), 0) for sweep in sweeps)]


def _over(sweeps: Sequence[Folder]) -> bool:
    try:
        return all(Control(sweep).read(LIVE).get("over") for sweep in sweeps)
    except StorageError:
        return False
