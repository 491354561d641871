"""`python -m selgen_ray.sweep space.yaml` runs a sweep, `python -m selgen_ray.sweep status FOLDER` and others steer it.

Exit status: 0 every trial is done (a diverged one is), 1 trials failed or are left to run, 2 the input is wrong,
130 Ctrl-C before the sweep began.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from selgen_ray.errors import misspelt, until_interrupted
from selgen_ray.sweep.command_names import COMMANDS

_HELP = {"-h", "--help", "--dry-run", "--estimate"}  # these run no sweep


def main(argv: Sequence[str] | None = None, guard: bool | None = None) -> int:
    """Run the command; return its exit status.

    Args:
        argv: what the command line says; None: this process's own.
        guard: whether a sweep runs in a child process with this one as its guard, which must not have begun anything
            else; None: if `argv` is None.
    """
    guard = argv is None if guard is None else guard
    argv = sys.argv[1:] if argv is None else argv
    # a sweep that runs heeds Ctrl-C itself; this is for before it, or a look at one
    return until_interrupted(lambda: _main(argv, guard))


def _main(argv: Sequence[str], guard: bool) -> int:
    # late: imports are seconds of start-up, in which Ctrl-C is met above. These import nothing that begins threads,
    # with which the guard could not fork
    from selgen_ray.driver.guard import guarded

    word = argv[0] if argv else ""
    if word in COMMANDS and not Path(word).is_file():
        from selgen_ray.sweep import commands  # late: as above

        return commands.main(argv)
    if problem := misspelt(word, COMMANDS):
        sys.stderr.write(problem)
        return 2

    def sweep() -> int:
        # a sixth of the start-up: the collector finds nothing in what imports make
        with without_collection() if guard else nullcontext():  # a program that calls us has garbage of its own
            from selgen_ray.sweep import run  # late: PyTorch is seconds, which a look at a sweep should not cost

        return run.main(argv)

    def lost(why: str, is_recorded: bool, pid: int) -> int:
        from selgen_ray.sweep import run  # late: as above

        return run.after_loss(argv, why, is_recorded, pid)

    return guarded(sweep, lost) if guard and not _HELP & {*argv} else sweep()


@contextmanager
def without_collection() -> Iterator[None]:
    """Switch Python's cycle collector off inside, and exempt what was made there from later collections."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
