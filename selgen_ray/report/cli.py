"""`python -m selgen_ray.report <sweep folder>`.

Exit status: 0, 1 when nothing is completed yet, 2 when the input is wrong.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence

from selgen_ray.errors import nearest
from selgen_ray.report.build import write_report
from selgen_ray.requirement import parse_requirement
from selgen_ray.results import HEADLINES
from selgen_ray.storage import Folder

DONE, NOTHING_YET, BAD_INPUT = 0, 1, 2
_NEAR = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m selgen_ray.report", description="Table and figure of a sweep.")
    parser.add_argument("sweep", metavar="SWEEP", help="the sweep's folder, a path or URI")
    choices = "'capability', 'alignment', 'coherence' or 'set/metric'"
    parser.add_argument("--x", default="capability", help=f"{choices}; default: %(default)s")
    parser.add_argument("--y", default="alignment", help=f"{choices}; default: %(default)s")
    parser.add_argument("--require", metavar="CONDITION", help="for the front, such as 'coherence >= 0.5'")
    args = parser.parse_args(argv)
    if wrong := [_axis_problem(flag, name) for flag, name in (("--x", args.x), ("--y", args.y)) if _is_no_axis(name)]:
        return _refuse("\n".join(wrong))
    try:
        if args.require is not None:
            parse_requirement(args.require)
    except ValueError as error:
        return _refuse(f"--require {args.require!r}: {error}")
    try:
        report = write_report(args.sweep, args.x, args.y, strict=True, require=args.require)
    except FileNotFoundError as error:
        return _refuse(f"{error}.{near_folders(args.sweep)}")
    except OSError as error:  # a file in the place of the folder, a result that cannot be read, no permission
        return _refuse(str(error))
    if report.unknown_axes:
        return _refuse("\n".join(report.unknown_axes))
    sys.stdout.write(report.to_text() + "\n")
    return DONE if report.counts["completed"] else NOTHING_YET


def near_folders(location: str) -> str:
    """' Did you mean 'x'?' or ' There are: ...', of the folders beside the one that is not there."""
    path, mark, options = location.partition("?")  # a URI's options stay at its end
    parent, slash, name = path.rstrip("/").rpartition("/")
    try:
        names = Folder((parent or slash or ".") + mark + options).folders()
    except OSError:
        return ""
    near = difflib.get_close_matches(name, names, n=_NEAR, cutoff=0.5)
    if near:
        return f" Did you mean {' or '.join(repr(parent + slash + found) for found in near)}?"
    return f" There are: {', '.join(names[:_NEAR])}{', ...' * (len(names) > _NEAR)}" if names else ""


def _is_no_axis(name: str) -> bool:
    return name not in HEADLINES and not re.fullmatch(r"[^/\s]+/\S+", name)


def _axis_problem(flag: str, name: str) -> str:
    hint = nearest(name, HEADLINES)
    return f"{flag} {name!r}: allowed are {', '.join(HEADLINES)}, or the 'set/metric' of an evaluation.{hint}"


def _refuse(message: str) -> int:
    sys.stderr.write(message + "\n")
    return BAD_INPUT
