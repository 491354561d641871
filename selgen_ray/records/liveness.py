"""Whether a process runs a sweep just now, told without comparing the clocks of two machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from selgen_ray.records.control import LIVE, Control
from selgen_ray.stats import is_finite_number
from selgen_ray.storage.leases import Watch, named, this_host

LEASE_S = 30.0
"""Seconds of silence after which the driver of a sweep counts as dead."""
_LOOK_EVERY_S = 0.5


def beat_s(live: Mapping[str, Any]) -> float:
    """Return the seconds between two writes of `live.json`, as it says itself, at most LEASE_S / 3; else 1.0."""
    every_s: Any = live.get("every_s")
    return float(min(every_s, LEASE_S / 3)) if is_finite_number(every_s) and every_s > 0 else 1.0


def is_driven(
    control: Control,
    live: Mapping[str, Any],
    patience_s: float = LEASE_S,
    on_wait: Callable[[str], None] = lambda _: None,
) -> bool:
    """Return whether a process runs the sweep now.

    The lease of a driver on this machine says so at once. One elsewhere is looked at until its lease or `live.json`,
    which it writes every few seconds, changes: the time in that file is of another clock than ours.

    Args:
        live: the content of `live.json`, read just now; {} if there is none.
        patience_s: seconds without a change after which the driver counts as dead.
        on_wait: called once with the name of the driver, 'process 7 on lab2', if no change comes soon.

    Raises:
        StorageError: the storage refused.
    """
    if not live or live.get("over"):
        return False
    watch = Watch(control.driver, patience_s, 0.0)
    has_lease = bool(control.driver.files())
    first = holder = watch.holder()
    start, waits = time.monotonic(), False
    while holder is not None or not has_lease:  # the first releases had no lease
        if holder and (holder.get("host") == this_host() or holder != first):
            return True
        now_live = control.read(LIVE)
        if now_live != live:
            return bool(now_live) and not now_live.get("over")
        waited_s = time.monotonic() - start
        if waited_s > patience_s:
            return False
        if not waits and waited_s > 2 * beat_s(live):
            waits = True
            on_wait(named(holder or live))
        time.sleep(min(_LOOK_EVERY_S, patience_s / 10))
        holder = watch.holder()
    return False
