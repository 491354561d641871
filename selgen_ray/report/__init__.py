"""A first look at results: `python -m selgen_ray.report <sweep folder>` prints a table and draws the Pareto figure.

Only completed trials are averaged and drawn; the others are counted and listed, with their cause. All input lies in the
sweep's folder: each trial's results.json, and for the page also the search space, the events and control/live.json.

Exit status: 0, 1 when nothing is completed yet, 2 when the input is wrong, 130 after Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from selgen_ray.errors import until_interrupted

if TYPE_CHECKING:
    from selgen_ray.report.model import Report
    from selgen_ray.report.text import report_text
    from selgen_ray.report.writing import write_report

__all__ = ["Report", "main", "report_text", "write_report"]
_HOMES = {"Report": "model", "report_text": "text", "write_report": "writing"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""

    def command() -> int:
        from selgen_ray.report.cli import main as run  # late: seconds of start-up, in which Ctrl-C is met below

        return run(argv)

    return until_interrupted(command)


def __getattr__(name: str) -> Any:
    # lazy: imports are seconds of start-up, in which Ctrl-C would end in a traceback
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"selgen_ray.report.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
