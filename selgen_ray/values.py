"""Tell numbers from what only looks like them."""

from __future__ import annotations

import math
from typing import Any


def is_number(value: Any) -> bool:
    """Return whether a value is an int or a float, NaN and infinity too; True and False are no numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite_number(value: Any) -> bool:
    """Return whether a value is an int or a float, but neither NaN nor infinite; True and False are no numbers."""
    return is_number(value) and math.isfinite(value)
