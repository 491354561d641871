"""`python -m selgen_ray.sweep space.yaml` runs a sweep, `python -m selgen_ray.sweep status FOLDER` and others steer it.

Exit status: 0 every trial is done (a diverged one is), 1 trials failed or are left to run, 2 the input is wrong,
130 Ctrl-C before the sweep began.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from selgen_ray.sweep import commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in commands.COMMANDS and not Path(argv[0]).exists():
        return commands.main(argv)
    from selgen_ray.sweep import run  # late: PyTorch takes seconds to import, which a look at a sweep should not cost

    return run.main(argv)
