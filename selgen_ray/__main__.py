"""`selgen`, or `python -m selgen_ray`: every command of the package under one name.

`selgen space.yaml` runs a sweep, `selgen status FOLDER` and others steer it, `selgen report FOLDER` draws it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from selgen_ray.errors import misspelt, until_interrupted

_COMMANDS = {
    "sweep": "run a sweep, or what is left of it: selgen sweep space.yaml; the word may be left out",
    "status": "how far a sweep is, trial by trial",
    "stop": "end a sweep, or some of its trials, with checkpoints",
    "retry": "let trials run again",
    "add": "add trials to a sweep, also while it runs",
    "rm": "delete trials and their results",
    "report": "page, tables and pictures of one or more sweeps",
    "strategies": "what the strategies do, and their knobs",
    "data": "show rows as the model sees them",
    "import": "read configs and results of the older project",
}
_OWN = ("report", "strategies", "data", "import")  # the others are commands of `python -m selgen_ray.sweep`


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    Args:
        argv: the command and its arguments; default: those of the process.
    """
    is_command = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    word = argv[0] if argv else "--help"
    if word in ("-h", "--help"):
        width = max(map(len, _COMMANDS))
        lines = [f"  {name:{width}}  {what}" for name, what in _COMMANDS.items()]
        sys.stdout.write("\n".join(["usage: selgen COMMAND ...; each command has --help", "", *lines, ""]))
        return 0
    return until_interrupted(lambda: _run(word, argv, is_command))


def _run(word: str, argv: list[str], is_command: bool) -> int:
    if not Path(word).exists():
        if word in _OWN:
            return _run_own(word, argv[1:])
        if word == "sweep":
            argv = argv[1:] or ["--help"]
        elif word not in _COMMANDS and (problem := misspelt(word, _COMMANDS)):
            sys.stderr.write(problem)
            return 2
    from selgen_ray import sweep  # late: imports are seconds of start-up, in which Ctrl-C is met above

    return sweep.main(argv, guard=is_command)


def _run_own(word: str, argv: list[str]) -> int:
    # late, as above: each command imports its own room alone
    if word == "report":
        from selgen_ray import report

        return report.main(argv)
    if word == "strategies":
        from selgen_ray import strategies

        return strategies.main(argv)
    if word == "data":
        from selgen_ray.sweep import show_data

        return show_data.main(argv)
    from selgen_ray import import_config

    return import_config.main(argv)


if __name__ == "__main__":
    sys.exit(main())
