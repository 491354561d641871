"""`python -m selgen_ray.import_config DIR`: write a sweep of the first generation as a search space of today.

Exit status: 0 if it is written, 2 if the input is wrong.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from selgen_ray.errors import SpecError, StorageError
from selgen_ray.storage import local_files

DONE, BAD_INPUT = 0, 2
_WIDTH = 112


def main(argv: Sequence[str] | None = None, prog: str = "python -m selgen_ray.import_config") -> int:
    """Run the command; return its exit status.

    Args:
        prog: the command as the person has typed it.
    """
    parser = _parser(prog)
    args = parser.parse_args(argv)
    if (args.folder is None) == (args.results is None):
        parser.error("give a folder with config.json, or --results OLD_FOLDER SWEEP_FOLDER")
    try:
        lines = _results(args) if args.results else _config(args)
    except SpecError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in dict.fromkeys(error.problems)))
        return BAD_INPUT
    except StorageError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    except FileExistsError as error:
        sys.stderr.write(f"{error.filename} is there already: --force replaces it, -o names another file\n")
        return BAD_INPUT
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return BAD_INPUT
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return DONE


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Read the first generation's config.json and attributes_to_vary.json, or its results.",
    )
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to a parser."""
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="the folder, or a config.json by itself")
    parser.add_argument("-o", "--output", type=Path, metavar="space.yaml", help="default: <name of the folder>.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], metavar="N", help="run everything with these seeds")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument(
        "--results", nargs=2, metavar=("OLD_FOLDER", "SWEEP_FOLDER"), help="put old results beside those of a sweep"
    )


def _config(args: argparse.Namespace) -> list[str]:
    """Write the search space; return the lines to print."""
    # late: the strategies take seconds of start-up, for which `--help` and a wrong folder need not wait
    from selgen_ray.first_generation.folder import read_folder
    from selgen_ray.first_generation.writing import by_reason, to_yaml

    made = read_folder(args.folder, args.seeds)
    target: Path = args.output or Path(f"{made.name}.yaml")
    if target.exists() and not args.force:
        raise FileExistsError(None, "", str(target))
    local_files.write(target, to_yaml(made, target).encode())
    kinds = {kind: [r for r in made.records if r.kind == kind] for kind in ("same", "default", "void")}
    moved = [r for r in made.records if r.kind in ("renamed", "converted")]
    lost = [r for r in made.records if r.kind in ("dropped", "unknown")]
    same = len({record.key for record in kinds["same"]})
    lines = [f"{target}: {len(made.overrides) or 1} settings from {' and '.join(map(str, made.files))}"]
    lines += ["", f"kept as they are: {same} keys"]
    otherwise = dict.fromkeys(f"{r.key}: {r.why}" for r in kinds["same"] if r.why)
    lines += _section("kept, though then they did something else", list(otherwise))
    renamed = dict.fromkeys(f"{r.key} -> {r.to}{f': {r.why}' if r.why else ''}" for r in moved)
    lines += _section("renamed or converted", list(renamed))
    defaults = [r for r in kinds["default"] if r.key in made.base.values]
    added = [f"{r.key}: {made.base.values[r.key].plain()}{f': {r.why}' if r.why else ''}" for r in defaults]
    lines += _section("defaults of the first generation, written out", added)
    lines += _section("left out, with no counterpart", _reasons(by_reason(lost)))
    lines += _section("left out, as they need no saying", _reasons(by_reason(kinds["void"])))
    lines += _section("to add before it can run", made.to_add)
    return [*lines, "", f"next: python -m selgen_ray.sweep {target} --dry-run"]


def _reasons(keys_by_reason: dict[str, list[str]]) -> list[str]:
    return [f"{', '.join(keys)}: {why}" for why, keys in keys_by_reason.items()]


def _section(title: str, texts: list[str]) -> list[str]:
    """Return the lines of a heading and its items; [] without items."""
    rows = [
        row for text in texts for row in textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="      ")
    ]
    return ["", f"{title} ({len(texts)}):", *rows] if texts else []


def _results(args: argparse.Namespace) -> list[str]:
    """Write old results into a sweep's folder; return the lines to print."""
    from selgen_ray.first_generation.beside import import_results  # late: start-up, as above

    return import_results(Path(args.results[0]), args.results[1], args.force)


if __name__ == "__main__":
    sys.exit(main())
