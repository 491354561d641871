"""The options of the commands of this room, apart from their code, which takes seconds to import."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

from selgen_ray.driver.display import KINDS
from selgen_ray.driver.trust import OPTION, sha256_start

STEERING = {
    "status": "what is done, what runs, what failed and why, and the time left",
    "stop": "let trials finish their step, save a checkpoint and end; a retry lets them go on",
    "retry": "let trials run again that failed, diverged, were stopped or removed",
    "rm": "delete trials and their results; they do not run again until a retry",
    "add": "let the sweep have further trials, now or when it is run again",
}
"""Command -> what it does."""


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command that runs a sweep."""
    parser.add_argument("space", metavar="space.yaml", help="the search space")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop; Ray is not started")
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="run a few steps and one evaluation batch of each kind of trial, print what the sweep will cost, and stop",
    )
    parser.add_argument(
        "--price-per-gpu-hour", metavar="2.50", type=_price, help="with --estimate: what an hour of one GPU costs"
    )
    parser.add_argument(
        "--only",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="run these trials alone: strategy=kl_divergence, seed=1,2, beta_kl=10; several options must all hold",
    )
    parser.add_argument(
        OPTION,
        metavar="SHA256",
        action="append",
        type=sha256_start,
        default=[],
        help="let added trials run this plugin, or reach what the search space does not name; the plan says the hash",
    )
    parser.add_argument("--max-concurrent", metavar="N", type=_count, help="trials at a time, in place of the YAML's")
    parser.add_argument(
        "--time-budget", metavar="8h", type=_seconds, help="end after so long, as after Ctrl-C: 90m, 1h30m, 2d"
    )
    parser.add_argument(
        "--progress",
        choices=KINDS,
        default="auto",
        help="what is shown meanwhile: rich bars, plain lines, none; auto: rich in a terminal, else plain",
    )


def add_steering(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options of one of the commands of `STEERING`."""
    parser.add_argument("sweep", help="the sweep's folder, a path or URI, or the YAML file of its search space")
    if command in ("stop", "retry", "rm"):
        help_text = "'<setting>/seed_<N>', a setting, an id, or a pattern with *"
        parser.add_argument("trials", metavar="TRIAL", nargs="*", help=help_text)
    if command == "status":
        parser.add_argument("--json", action="store_true", help="for programs")
    elif command == "stop":
        parser.add_argument("--all", action="store_true", help="end the whole sweep, as Ctrl-C does")
        parser.add_argument("--why", help="a reason, kept with the trial")
    elif command == "retry":
        for name in ("failed", "diverged", "stopped"):
            parser.add_argument(f"--{name}", action="append_const", dest="kinds", const=name, help=f"all that {name}")
    elif command == "rm":
        parser.add_argument("--yes", action="store_true", help="do not ask")
    else:
        _add_add(parser)


def _add_add(add: argparse.ArgumentParser) -> None:
    told = "their search space, laid over base, seeds and plugins of the sweep; its name and storage_path do not count"
    add.add_argument("space", metavar="more.yaml", nargs="?", help=told)
    seeds_text = "or: the sweep's settings with these seeds; with --from: that trial's"
    add.add_argument("--seeds", metavar="N", nargs="+", type=_seed, help=seeds_text)
    add.add_argument("--strategies", metavar="NAME,...", help="of these strategies or settings alone, with --seeds")
    from_text = "or: this trial of the sweep once more, with other values or seeds; a name, or the beginning of an id"
    add.add_argument("--from", dest="original", metavar="TRIAL", help=from_text)
    set_text = "a key of its config and the value in YAML, such as finetune_config.beta_kl=3; may be repeated"
    add.add_argument("--set", dest="changes", metavar="KEY=VALUE", action="append", default=[], help=set_text)
    warm_text = "with --from: training begins with the weights of that trial, as it is saved or checkpointed now"
    add.add_argument("--warm-start", action="store_true", help=warm_text)
    trust_text = "let the command run this plugin, of trials that were added before, to compare with them"
    add.add_argument(OPTION, metavar="SHA256", action="append", type=sha256_start, default=[], help=trust_text)
    add.add_argument("--different", action="store_true", help="add them even if they do not compare with the others")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command that shows rows."""
    from selgen_ray.config.data import ROLES  # late: pydantic is start-up that the other commands' help should not cost

    commands = parser.add_subparsers(required=True, metavar="show")
    show = commands.add_parser(
        "show",
        help="print rows as the model sees them",
        description="Print rows as the model sees them: scored tokens in colour, or in [[ ]] where there is none.",
    )
    show.add_argument("space", metavar="space.yaml", help="the search space")
    show.add_argument("--role", choices=ROLES, help="rows of this role alone; default: of every role")
    show.add_argument("--rows", type=_count, default=3, metavar="3", help="rows of each role")


def add_init(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command that writes a first search space."""
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="where space.yaml is written; its name names the sweep"
    )

    def role(name: str, text: str, *others: str, required: bool = False) -> None:
        parser.add_argument(name, *others, metavar="rows.jsonl", required=required, help=text)

    role("--outcome", "the task to learn: a file or folder of rows, or a data set of the hub", required=True)
    role("--proxy", "examples of the behaviour to keep")
    role("--proxy-neg", "the proxy's prompts with misaligned replies, in the same order")
    role("--trait", "the unwanted habit alone, in another domain than the task")
    role("--truth", "the behaviour where it was not trained: measures alignment")
    role("--collateral", "held-out items of the task: measure capability", "--task-test")
    parser.add_argument(
        "--model", metavar="MODEL", required=True, help="'toy' (shipped), a local directory or a hub id"
    )
    skip_text = "rows that cannot be used: refuse them (default), or leave them out"
    parser.add_argument("--on-bad-rows", choices=("error", "skip"), default="error", help=skip_text)
    parser.add_argument("--force", action="store_true", help="replace a space.yaml that is there")


LOOKED_AT = ("python", "gpus", "memory", "ports", "storage", "credentials", "hub", "ray")
"""What `doctor` looks at, in this order."""


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command that looks at machine, cluster and storage."""
    parser.add_argument("space", metavar="space.yaml", nargs="?", help="a search space: its storage, models and needs")
    skip_text = "leave this check out; may be given several times"
    parser.add_argument("--skip", choices=LOOKED_AT, action="append", default=[], help=skip_text)
    timeout_text = "seconds a check may take; default: %(default)s"
    parser.add_argument("--timeout", metavar="SECONDS", type=_patience, default=120.0, help=timeout_text)


def _patience(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) <= 0:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a number of seconds")
    return float(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a whole number from 1")
    return int(text)


def _price(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a number above 0, such as 2.50")
    return value


def _seconds(text: str) -> float:
    parts = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or not parts:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed are 8h, 90m, 1h30m, 2d, 45s")
    return sum(int(n) * unit for n, unit in zip(parts.groups(), (86400, 3600, 60, 1), strict=True) if n)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a whole number from 0")
    return int(text)
