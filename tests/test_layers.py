"""The order of the package: every import of ours goes down, and Ray is imported in one room.

`selgen_ray/README.md` draws it. Late imports and those for type checkers count as any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "selgen_ray"
# from the top down; rooms of one line do not import each other
LAYERS = (
    ("__main__",),
    ("testing",),
    # `python -m selgen_ray.data` is a command of `sweep`, whose face lies where `python -m` looks for it
    ("data.__main__",),
    ("tune", "train"),
    ("sweep", "strategies", "import_config"),
    ("cluster",),
    ("driver",),
    ("report", "trial"),
    ("reading",),
    ("space",),
    ("first_generation",),
    ("syntax",),
    ("trainers",),
    ("trainers.engine",),
    ("trainers.pack",),
    ("evals",),
    ("models",),
    ("data",),
    ("records",),
    ("config",),
    ("storage", "worlds"),
    ("stats",),
    ("errors", "hashing", "schema", "seeding"),
    ("",),
)
FLOOR = {room: len(LAYERS) - floor for floor, rooms in enumerate(LAYERS) for room in rooms}
LEAVES = {"stats", "errors", "hashing", "schema", "seeding", ""}
# the lazy `selgen_ray.load_results` and `selgen_ray.Sweep`
ALLOWED = {("", "reading"), ("", "sweep"), ("", "tune"), ("", "train")}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path) -> str:
    """'data.encode' of selgen_ray/data/encode.py; '' of the package's own face."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {f"selgen_ray.{module_of(file)}" for file in files()}


def room_of(module: str) -> str:
    """The room with the longest name that a module begins with."""
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next(name for name in [*names, ""] if name in FLOOR)


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, wherever it stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import hides where it goes"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node.lineno, whole if whole in MODULES else str(node.module)


def arrows() -> Iterator[tuple[Path, int, str, str]]:
    """(file, line, room that imports, room that is imported), of our own modules."""
    for file in files():
        here = room_of(module_of(file))
        for line, module in imported(file):
            if module == "selgen_ray" or module.startswith("selgen_ray."):
                yield file, line, here, room_of(module.removeprefix("selgen_ray").removeprefix("."))


def test_every_file_lies_in_a_room():
    rooms = {module_of(file).split(".")[0] for file in files()}
    assert rooms == {room.split(".")[0] for room in FLOOR}
    assert len([entry for entry in PACKAGE.iterdir() if entry.name != "__pycache__"]) <= 30


def test_every_import_goes_down():
    climbing = [
        f"{file.relative_to(PACKAGE)}:{line}: {here or 'selgen_ray'} imports {there or 'selgen_ray'}"
        for file, line, here, there in arrows()
        if here != there and FLOOR[there] >= FLOOR[here] and (here, there) not in ALLOWED
    ]
    assert not climbing, "\n".join(climbing)


def test_ray_is_imported_in_one_room():
    users = [
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in files()
        for line, module in imported(file)
        if module.split(".")[0] == "ray" and room_of(module_of(file)) != "cluster"
    ]
    assert not users


def test_the_report_reads_results_and_nothing_else():
    seen = {there for _, _, here, there in arrows() if here == "report"}
    assert seen <= {"report", "records", "reading", "storage", *LEAVES}


def test_no_two_files_import_each_other():
    """No circle of files, late imports and those for type checkers included."""
    edges: dict[str, set[str]] = {}
    names = {module_of(file) for file in files()}
    for file in files():
        here = module_of(file)
        for _, module in imported(file):
            there = module.removeprefix("selgen_ray.")
            if there in names and there != here:
                edges.setdefault(here, set()).add(there)
    open_, done = list[str](), set[str]()

    def visit(name: str) -> None:
        if name in open_:
            pytest.fail(" -> ".join([*open_[open_.index(name) :], name]))
        if name not in done:
            open_.append(name)
            for one in sorted(edges.get(name, ())):
                visit(one)
            done.add(open_.pop())

    for name in sorted(names):
        visit(name)


def test_a_late_import_names_the_start_up_it_saves():
    silent = list[str]()
    for file in files():
        lines = file.read_text(encoding="utf-8").splitlines()
        tree = ast.parse("\n".join(lines))
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in functions:
            inside = [
                n
                for n in ast.walk(function)
                if isinstance(n, ast.ImportFrom | ast.Import)
                and any(str(getattr(n, "module", None) or a.name).startswith("selgen_ray") for a in n.names)
            ]
            block = lines[function.lineno - 1 : function.end_lineno]
            if inside and not any("# late" in line for line in block):
                silent.append(f"{file.relative_to(PACKAGE)}:{inside[0].lineno}")
    assert not silent, "\n".join(silent)
