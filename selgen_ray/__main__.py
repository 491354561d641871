"""`selgen`, or `python -m selgen_ray`: every command of the package under one name.

`selgen space.yaml` runs a sweep, `selgen status FOLDER` and others steer it, `selgen report FOLDER` draws it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selgen_ray import __version__
from selgen_ray.errors import misspelt, nearest, until_interrupted

if TYPE_CHECKING:  # start-up: the overview needs no parser
    from selgen_ray.sweep.command_line import CommandParser


@dataclass(frozen=True)
class Command:
    """A command as its help shows it.

    Attributes:
        sentence: what it does.
        example: the words after `selgen` of a command line that works.
    """

    sentence: str
    example: str


COMMANDS = {
    "sweep": Command(
        "Run a sweep, or what is left of it; the word `sweep` may be left out.", "sweep space.yaml --dry-run"
    ),
    "status": Command("Say what is done, what runs, what failed and why, and the time left.", "status sweeps/my_sweep"),
    "stop": Command(
        "Let trials finish their step, save a checkpoint and end; a retry lets them go on.",
        'stop sweeps/my_sweep "dpo_*" --why "too slow"',
    ),
    "retry": Command(
        "Let trials run again that failed, diverged, were stopped or removed.", "retry sweeps/my_sweep --failed"
    ),
    "add": Command("Add trials to a sweep, also while it runs.", "add sweeps/my_sweep --seeds 4 5 6"),
    "rm": Command(
        "Delete trials and their results; they do not run again until a retry.", 'rm sweeps/my_sweep "dpo_*"'
    ),
    "report": Command("Write page, tables and pictures of one or more sweeps.", "report sweeps/my_sweep --watch"),
    "strategies": Command("Say what the strategies do, and their knobs.", "strategies show kl_divergence"),
    "data": Command("Show rows as the model sees them.", "data show space.yaml --role proxy --rows 3"),
    "import": Command(
        "Read configs and results of the older project.", "import experiments/my_exp --seeds 1 5 42 -o space.yaml"
    ),
    "init": Command(
        "Look at your rows and write a first search space for them.",
        "init my_exp --outcome task.jsonl --proxy honest.jsonl --truth honest_test.jsonl --model toy",
    ),
    "doctor": Command("Look at this machine, the cluster and the storage, and say what to do.", "doctor space.yaml"),
    "completion": Command(
        "Print what lets a shell complete commands, options, strategies, trials and files.",
        'completion bash    # in ~/.bashrc: eval "$(selgen completion bash)"',
    ),
}
_OF_SWEEP = ("sweep", "status", "stop", "retry", "add", "rm")  # `python -m selgen_ray.sweep` has them too


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    Args:
        argv: the command and its arguments; default: those of the process.
    """
    is_command = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    word = argv[0] if argv else "--help"
    if word in ("-h", "--help"):
        sys.stdout.write(_overview())
        return 0
    if word == "--version":
        sys.stdout.write(f"selgen {__version__}\n")
        return 0
    return until_interrupted(lambda: _run(word, argv, is_command))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = [f"  {name:{width}}  {command.sentence}" for name, command in COMMANDS.items()]
    options = ["  -h, --help  show this help message and exit", "  --version   say which version this is"]
    lines = ["usage: selgen COMMAND ...", "", "Compare fine-tuning strategies; each command has --help.", ""]
    lines += ["commands:", *commands, "", "options:", *options, "", "example:", "  selgen sweep space.yaml --dry-run"]
    return "".join(f"{line}\n" for line in lines)


def _run(word: str, argv: list[str], is_command: bool) -> int:
    # late, here and below: imports are seconds of start-up, in which Ctrl-C is met above, and a command, its help, and
    # what is said of a wrong option import no more than they need
    if word == "__complete":
        from selgen_ray.sweep.completion import candidates

        sys.stdout.write("".join(f"{one}\n" for one in candidates(argv[1:], COMMANDS, _parser)))
        return 0
    is_file = Path(word).is_file()
    if word not in COMMANDS and (problem := misspelt(word, COMMANDS)):
        sys.stderr.write(problem)
        return 2
    if word.startswith("-") and (hint := nearest(word, ("--help", "--version"))):
        sys.stderr.write(f"there is no option {word}.{hint}\n")
        return 2
    name = word if word in COMMANDS and not is_file else "sweep"
    words = argv[1:] if word == name and not is_file else argv
    if name == "sweep" and not words:
        words = ["--help"]
    parser = _parser(name)
    parser.check_options(words)
    parser.parse_args(words)  # ends the process after --help, or if something is wrong
    if name not in _OF_SWEEP:
        return _run_own(name, words)
    from selgen_ray import sweep

    return sweep.main(words if name == "sweep" else [name, *words], guard=is_command)


def _run_own(name: str, words: list[str]) -> int:
    # late, as above: each command imports its own room alone
    if name == "report":
        from selgen_ray import report

        return report.main(words)
    if name == "strategies":
        from selgen_ray import strategies

        return strategies.main(words)
    if name == "data":
        from selgen_ray.sweep import show_data

        return show_data.main(words)
    if name == "init":
        from selgen_ray.sweep import new_space

        return new_space.main(words)
    if name == "doctor":
        from selgen_ray.sweep import doctor

        return doctor.main(words)
    if name == "completion":
        from selgen_ray.sweep import completion

        return completion.main(words)
    from selgen_ray import import_config

    return import_config.main(words, prog="selgen import")


def _parser(name: str) -> CommandParser:
    """Return the parser of a command; to make it imports no PyTorch."""
    # late, as above
    from selgen_ray.sweep import arguments
    from selgen_ray.sweep.command_line import CommandParser

    command = COMMANDS[name]
    parser = CommandParser(f"selgen {name}", command.sentence, f"selgen {command.example}")
    if name in arguments.STEERING:
        arguments.add_steering(parser, name)
    elif name == "sweep":
        arguments.add_sweep(parser)
    elif name == "data":
        arguments.add_data(parser)
    elif name == "init":
        arguments.add_init(parser)
    elif name == "doctor":
        arguments.add_doctor(parser)
    elif name == "report":
        from selgen_ray.report.arguments import add_report

        add_report(parser)
    elif name == "completion":
        from selgen_ray.sweep import completion

        completion.add_arguments(parser)
    elif name == "strategies":
        from selgen_ray import strategies

        strategies.add_arguments(parser)
    else:
        from selgen_ray import import_config

        import_config.add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
