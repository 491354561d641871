"""The options of `report`, apart from its code, which takes long to import."""

from __future__ import annotations

import argparse
import math

PORT = 8642
_WATCH_S, _LEAST_S = 10.0, 0.2


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    parser.add_argument("sweep", metavar="SWEEP", nargs="+", help="a sweep's folder, a path or URI; several: as one")
    choices = "'capability', 'alignment', 'coherence' or 'set/metric'"
    of_sweep = "what the sweep's `pareto` says"
    parser.add_argument("--x", help=f"{choices}; default: {of_sweep}, else capability")
    parser.add_argument("--y", help=f"{choices}; default: {of_sweep}, else alignment")
    parser.add_argument(
        "--require",
        metavar="CONDITION",
        help=f"for the front, such as 'coherence >= 0.5'; default: {of_sweep}; '': nothing",
    )
    parser.add_argument("--title", help="default: the name of the folder")
    parser.add_argument("--out", metavar="FOLDER", help="default: report/ in the sweep's folder, of several here")
    parser.add_argument(
        "--reference",
        metavar="X,Y",
        type=_point,
        help="from where hypervolumes are measured; default: the base model's x, the task alone's y",
    )
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=_interval,
        const=_WATCH_S,
        help=f"look for new results so often (default: {_WATCH_S:g}) until the sweep is over; an open page follows",
    )
    parser.add_argument(
        "--serve", action="store_true", help="a page on this machine that follows the sweep, with buttons to steer it"
    )
    parser.add_argument(
        "--port", metavar="N", type=_port, help=f"of --serve; default: {PORT}, and 0 is any that is free"
    )
    parser.add_argument("--export", metavar="FOLDER", help="also write trials and epochs as parquet, with a data card")


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed are two numbers, such as 0.1,0.5") from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed are two finite numbers")
    return x, y


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a whole number from 0 to 65535")
    return int(text)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not _LEAST_S <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a number of seconds, {_LEAST_S:g} or more")
    return seconds
