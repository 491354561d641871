"""The command `python -m selgen_ray.report <sweep folder> ...`.

Exit status: 0, 1 when nothing is completed yet, 2 when the input is wrong.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence

from selgen_ray.records.requirement import parse_requirement
from selgen_ray.records.status import TrialStatus
from selgen_ray.records.text import printable
from selgen_ray.report import arguments
from selgen_ray.report.asked import axis_problem
from selgen_ray.report.export import export
from selgen_ray.report.follow import watch
from selgen_ray.report.model import Report
from selgen_ray.report.serve import EVERY_S, Following, Server, serve
from selgen_ray.report.text import report_text
from selgen_ray.report.writing import write_report
from selgen_ray.storage import Folder

DONE, NOTHING_YET, BAD_INPUT = 0, 1, 2
_NEAR = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = _parser().parse_args(argv)
    if wrong := _problems(args):
        return _refuse("\n".join(wrong))
    reports: list[Report] = []
    # what was typed may be mistyped, and writes nothing then; what the sweep says is reported as at its end
    typed = any((args.x, args.y, args.require))

    def write() -> Report:
        report = write_report(
            args.sweep,
            args.x,
            args.y,
            title=args.title,
            strict=typed,
            require=args.require,
            out=args.out,
            reference=args.reference,
            watch_s=EVERY_S if args.serve else args.watch or 0,
        )
        reports.append(report)
        return report

    if args.serve:
        return _serve(args, write, typed)
    try:
        write()
        if args.export:
            _say(f"exported: {export([Folder(one) for one in args.sweep], Folder(args.export), reports[-1])}")
        if typed and reports[-1].unknown_axes:
            return _refuse("\n".join(reports[-1].unknown_axes))
        _say(report_text(reports[-1]))
        if args.watch:
            watch([Folder(one) for one in args.sweep], args.watch, write, _say)
            args.watch = 0
            write()  # the last page looks for no newer one
    except FileNotFoundError as error:
        return _refuse(f"{error}.{near_folders(_missing(args.sweep))}")
    except OSError as error:  # a file in the place of the folder, an unreadable result, no permission, no answer
        return _refuse(str(error))
    return DONE if reports[-1].counts[TrialStatus.COMPLETED] else NOTHING_YET


def _serve(args: argparse.Namespace, write: Callable[[], Report], typed: bool) -> int:
    """Serve the page until Ctrl-C; the page that then lies on the disk looks for no newer one."""
    (sweep,) = args.sweep
    folder = Folder(sweep)
    try:
        if not folder.exists():
            return _refuse(f"no sweep folder at {folder}.{near_folders(sweep)}")
        following = Following(folder, write)
        server = Server(following, sweep, arguments.PORT if args.port is None else args.port)
        following.look()
        if typed and following.report and following.report.unknown_axes:
            return _refuse("\n".join(following.report.unknown_axes))
        serve(server, _say)
        args.serve = False
        write()
    except OSError as error:  # the port, or the storage
        return _refuse(str(error))
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m selgen_ray.report",
        description="What a sweep says: a page, index.html, beside pictures, tables and a summary.",
    )
    arguments.add_report(parser)
    return parser


def _problems(args: argparse.Namespace) -> list[str]:
    axes = [(flag, name) for flag, name in (("--x", args.x), ("--y", args.y)) if name is not None]
    wrong = [f"{flag} {name!r}: {problem}" for flag, name in axes if (problem := axis_problem(name))]
    try:
        if args.require:
            parse_requirement(args.require)
    except ValueError as error:
        wrong.append(f"--require {args.require!r}: {error}")
    if args.port is not None and not args.serve:
        wrong.append("--port belongs to --serve")
    if args.serve and len(args.sweep) > 1:
        wrong.append(f"--serve takes one sweep, and there are {len(args.sweep)}: what would a button stop?")
    if args.serve and args.watch is not None:
        wrong.append("--serve and --watch: leave --watch out, since a served page follows the sweep too")
    if args.serve and args.export is not None:
        wrong.append("--serve and --export: export by a command of its own")
    return wrong


def _missing(sweeps: Sequence[str]) -> str:
    return next((one for one in sweeps if not Folder(one).exists()), sweeps[0])


def near_folders(location: str) -> str:
    """Return a hint for a folder that does not exist: " Did you mean 'x'?" or ' There are: x, y', of its siblings.

    Returns:
        '' where there is no sibling, or the storage cannot be read.
    """
    path, mark, options = location.partition("?")  # a URI's options stay at its end
    parent, slash, name = path.rstrip("/").rpartition("/")
    try:
        names = Folder((parent or slash or ".") + mark + options).folders()
    except OSError:
        return ""
    near = difflib.get_close_matches(name, names, n=_NEAR, cutoff=0.5)
    if near:
        return f" Did you mean {' or '.join(repr(parent + slash + folder) for folder in near)}?"
    return f" There are: {', '.join(names[:_NEAR])}{', ...' * (len(names) > _NEAR)}" if names else ""


def _say(text: str) -> None:
    sys.stdout.write(printable(text + "\n"))
    sys.stdout.flush()


def _refuse(message: str) -> int:
    sys.stderr.write(printable(message + "\n"))
    return BAD_INPUT
