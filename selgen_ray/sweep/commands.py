"""`python -m selgen_ray.sweep status|stop|retry|rm|add`: look at a sweep and steer it.

They work on any machine that sees the sweep's folder. Exit status: 0 done, 2 the request is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selgen_ray.driver.display import clock, running_line
from selgen_ray.driver.selection import SelectionError, find_trials
from selgen_ray.errors import INPUT_ERRORS, StorageError
from selgen_ray.reading import read_heads
from selgen_ray.records.control import ALL, LIVE, PLAN, Control
from selgen_ray.records.liveness import LEASE_S, is_driven
from selgen_ray.records.names import trial_name
from selgen_ray.records.results import FILE_NAME, TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.records.text import last_line
from selgen_ray.storage import Folder

COMMANDS = ("status", "stop", "retry", "rm", "add")
DONE, WRONG = 0, 2


@dataclass
class Sweep:
    """A sweep as its folder shows it.

    Attributes:
        names: trial id -> '<setting>/seed_<N>', of every known trial.
        status: trial id -> 'completed', 'running', 'waiting' and so on.
        errors: trial id -> cause in one line, of trials whose result has an error.
        places: trial id -> folder of its result.
        live: the state that the driver wrote last, {} if none ever did.
        is_driven: whether a process runs the sweep now.
    """

    folder: Folder
    control: Control
    names: dict[str, str] = field(default_factory=dict)
    status: dict[str, TrialStatus] = field(default_factory=dict[str, TrialStatus])
    errors: dict[str, str] = field(default_factory=dict)
    places: dict[str, Folder] = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)
    is_driven: bool = False


def read_state(folder: Folder) -> Sweep:
    """Read the state of a sweep from its folder. Raises StorageError: there is no sweep, or it cannot be read."""
    control = Control(folder)
    live = control.read(LIVE)
    sweep = Sweep(folder, control, live=live, is_driven=is_driven(control, live, on_wait=_wait))
    sweep.names |= control.read(PLAN).get("trials", {})
    added = control.added.names()
    for place, result in read_heads(folder):
        trial_id = result.trial_id
        sweep.names[trial_id] = trial_name(result.slug, result.seed)
        sweep.status[trial_id], sweep.places[trial_id] = result.status, place
        if result.error:
            sweep.errors[trial_id] = last_line(result.error)
    sweep.names |= control.names_of_added(added - sweep.names.keys())
    if not sweep.names and not sweep.live:
        raise StorageError(f"no sweep at {folder}: name its folder, or the YAML file of its search space")
    running = set(sweep.live.get("running", {})) if sweep.is_driven else set()
    stopped, removed = control.stop.names(), control.removed.names()
    for trial_id, name in sweep.names.items():
        status = sweep.status.get(trial_id, TrialStatus.PENDING)
        if status is TrialStatus.RUNNING and name not in running:
            status = status.after_run
        elif status is TrialStatus.PENDING and name in running:
            status = TrialStatus.RUNNING
        if status in (TrialStatus.PENDING, TrialStatus.PREEMPTED, TrialStatus.FAILED):
            if trial_id in removed:
                status = TrialStatus.REMOVED
            elif trial_id in stopped:
                status = TrialStatus.STOPPED
        sweep.status[trial_id] = status
    return sweep


def _wait(driver: str) -> None:
    sys.stderr.write(f"{driver} may be running this sweep: waiting up to {LEASE_S:.0f} s for a sign of it\n")


def main(argv: Sequence[str]) -> int:
    """Run one of the commands; return its exit status."""
    args = _parser().parse_args(argv)
    try:
        folder = _folder(args.sweep)
        commands: dict[str, Callable[[argparse.Namespace, Folder], list[str]]] = {
            "status": _status,
            "stop": _stop,
            "retry": _retry,
            "rm": _rm,
            "add": _add,
        }
        lines = commands[args.command](args, folder)
    except (*INPUT_ERRORS, StorageError, SelectionError) as error:
        sys.stderr.write(f"{error}\n")
        return WRONG
    sys.stdout.write("".join(line + "\n" for line in lines))
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m selgen_ray.sweep", description="Look at a sweep and steer it.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("sweep", help="the sweep's folder, a path or URI, or the YAML file of its search space")
        return made

    def trials(made: argparse.ArgumentParser) -> None:
        help_text = "'<setting>/seed_<N>', a setting, an id, or a pattern with *"
        made.add_argument("trials", metavar="TRIAL", nargs="*", help=help_text)

    status = command("status", "what is done, what runs, what failed and why, and the time left")
    status.add_argument("--json", action="store_true", help="for programs")
    stop = command("stop", "let trials finish their step, save a checkpoint and end; a retry lets them go on")
    trials(stop)
    stop.add_argument("--all", action="store_true", help="end the whole sweep, as Ctrl-C does")
    stop.add_argument("--why", help="a reason, kept with the trial")
    retry = command("retry", "let trials run again that failed, diverged, were stopped or removed")
    trials(retry)
    for name in ("failed", "diverged", "stopped"):
        retry.add_argument(f"--{name}", action="append_const", dest="kinds", const=name, help=f"all that {name}")
    rm = command("rm", "delete trials and their results; they do not run again until a retry")
    trials(rm)
    rm.add_argument("--yes", action="store_true", help="do not ask")
    add = command("add", "let the sweep have further trials, now or when it is run again")
    told = "their search space, laid over base, seeds and plugins of the sweep; its name and storage_path do not count"
    add.add_argument("space", metavar="more.yaml", nargs="?", help=told)
    add.add_argument("--seeds", metavar="N", nargs="+", type=_seed, help="or: the sweep's settings with these seeds")
    add.add_argument("--strategies", metavar="NAME,...", help="of these strategies or settings alone, with --seeds")
    add.add_argument("--different", action="store_true", help="add them even if they do not compare with the others")
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed is a whole number from 0")
    return int(text)


def _folder(text: str) -> Folder:
    if text.endswith((".yaml", ".yml")) and Path(text).is_file():
        # late: planning imports PyTorch, seconds of start-up that a look at a folder should not cost
        from selgen_ray.driver.plan import sweep_folder
        from selgen_ray.space import load_space

        return sweep_folder(load_space(text))
    return Folder(text)


def _status(args: argparse.Namespace, folder: Folder) -> list[str]:
    sweep = read_state(folder)
    counts: dict[str, int] = {}
    for status in sweep.status.values():
        counts[_word(status)] = counts.get(_word(status), 0) + 1
    left = sweep.live.get("seconds_left") if sweep.is_driven else None
    running = sweep.live.get("running", {}) if sweep.is_driven else {}
    ill: dict[str, dict[str, str]] = {
        kind: {sweep.names[i]: sweep.errors.get(i, "") for i, status in sweep.status.items() if status is kind}
        for kind in _ILL
    }
    if args.json:
        content = {"folder": str(folder), "is_driven": sweep.is_driven, "counts": counts, "seconds_left": left}
        return [json.dumps(content | {"running": running, **{s: names for s, names in ill.items() if names}}, indent=1)]
    listed = ", ".join(f"{counts[status]} {status}" for status in _ORDER if status in counts)
    lines = [f"{folder}: {_driver(sweep)}", f"  {len(sweep.names)} trials: {listed}"]
    lines += [f"  {clock(left)} left"] if left is not None else []
    lines += [f"  running   {running_line(name, metrics)}" for name, metrics in sorted(running.items())]
    lines += [f"  {status:9s} {name}  {why}".rstrip() for status in _ILL for name, why in sorted(ill[status].items())]
    return lines


_ILL = (TrialStatus.FAILED, TrialStatus.DIVERGED, TrialStatus.STOPPED)
_ORDER = ("completed", "diverged", "failed", "stopped", "removed", "cut off", "running", "waiting")
_WORDS = {TrialStatus.PENDING: "waiting", TrialStatus.PREEMPTED: "cut off"}


def _word(status: TrialStatus) -> str:
    return _WORDS.get(status, str(status))


def _driver(sweep: Sweep) -> str:
    if not sweep.live or sweep.live.get("over"):
        return "not running"
    where = f"by process {sweep.live.get('pid')} on {sweep.live.get('host')}"
    if not sweep.is_driven:
        when = sweep.live.get("updated_at", "an unknown time")
        return f"not running; it was run {where}, whose last sign of life is of {when} by its clock"
    ending = f", ending ({sweep.live['ending']})" if sweep.live.get("ending") else ""
    return f"run {where}{ending}"


def _hint(sweep: Sweep) -> str:
    if sweep.is_driven:
        return "the running sweep takes it up within seconds"
    return "no process runs the sweep: it counts when the sweep is run again"


def _stop(args: argparse.Namespace, folder: Folder) -> list[str]:
    sweep = read_state(folder)
    why = {"why": args.why} if args.why else {}
    if args.all:
        if not sweep.is_driven:
            raise SelectionError(f"{folder}: no process runs this sweep, so there is nothing to stop")
        sweep.control.stop.set(ALL, **({"why": "stopped by 'sweep stop --all'"} | why))
        return ["asked the sweep to end: it finishes steps, saves checkpoints, and can be run again"]
    lines = []
    for trial_id, name in _wanted(args.trials, sweep, "TRIAL or --all").items():
        if sweep.status[trial_id].is_finished:
            lines.append(f"{name} is {sweep.status[trial_id]} already")
        else:
            sweep.control.stop.set(trial_id, **why)
            lines.append(f"{name} is to stop: {_hint(sweep)}")
    return lines


def _wanted(texts: list[str], sweep: Sweep, needed: str) -> dict[str, str]:
    if not texts:
        raise SelectionError(f"name at least one {needed}")
    return find_trials(texts, sweep.names)


def _retry(args: argparse.Namespace, folder: Folder) -> list[str]:
    sweep = read_state(folder)
    kinds = args.kinds or []
    wanted = {i: name for i, name in sweep.names.items() if sweep.status[i] in kinds}
    if args.trials or not kinds:
        wanted |= _wanted(args.trials, sweep, "TRIAL, --failed, --diverged or --stopped")
    lines = [] if wanted else [f"none {' or '.join(kinds)}"]
    for trial_id, name in wanted.items():
        if sweep.status[trial_id] in (TrialStatus.COMPLETED, TrialStatus.RUNNING):
            lines.append(f"{name} is {sweep.status[trial_id]}: nothing to retry")
            continue
        if trial_id in sweep.places:
            _reopen(sweep.places[trial_id])
        sweep.control.stop.clear(trial_id)
        sweep.control.removed.clear(trial_id)
        sweep.control.retry.set(trial_id)
        lines.append(f"{name} is to run again: {_hint(sweep)}")
    return lines


def _reopen(place: Folder) -> None:
    """Mark a trial that ended for good as cut off: it continues from its last checkpoint, if it has one."""
    result = TrialResult.model_validate_json(place.read(FILE_NAME))
    if result.status in _ILL:
        result.status, result.error = TrialStatus.RUNNING, None
        result.publish(place)


def _rm(args: argparse.Namespace, folder: Folder) -> list[str]:
    sweep = read_state(folder)
    wanted = _wanted(args.trials, sweep, "TRIAL")
    busy = [name for trial_id, name in wanted.items() if sweep.status[trial_id] is TrialStatus.RUNNING]
    if busy:
        raise SelectionError(f"{', '.join(busy)}: running; stop it first, or let it end")
    if not args.yes:
        if not sys.stdin.isatty():
            raise SelectionError(f"this deletes {len(wanted)} trials: say --yes")
        sys.stdout.write("".join(f"{name}  ({_word(sweep.status[i])})\n" for i, name in wanted.items()))
        if input(f"delete these {len(wanted)} trials and their results? [y/N] ").strip().lower() not in ("y", "yes"):
            return ["nothing was deleted"]
    for trial_id in wanted:
        sweep.control.removed.set(trial_id)  # first: a running sweep must not start it in between
        if trial_id in sweep.places:
            sweep.places[trial_id].delete()
    return [f"{name} is removed" for name in wanted.values()]


def _add(args: argparse.Namespace, folder: Folder) -> list[str]:
    # late: start-up, as above
    from selgen_ray.driver.added import AddedTrial, write_added
    from selgen_ray.sweep.adding import more_seeds, more_trials

    if (args.space is None) == (args.seeds is None):
        raise SelectionError("give either a search space, more.yaml, or --seeds: further seeds of the sweep's settings")
    if args.strategies and not args.seeds:
        raise SelectionError("--strategies belongs to --seeds: it says which settings get them")
    sweep = read_state(folder)
    if args.seeds:
        wanted = [name for name in args.strategies.split(",") if name] if args.strategies else []
        members, others = more_seeds(folder, sweep.names, list(dict.fromkeys(args.seeds)), wanted, args.different)
        notes = []
    else:
        members, others, notes = more_trials(folder, args.space, args.different)
    new = [member for member in members if member.trial.trial_id not in sweep.names]
    for member in new:
        write_added(sweep.control, AddedTrial.of(member.trial, member.plugins))
    there = len(members) - len(new)
    lines = [f"added {len(new)} trial{'s' if len(new) > 1 else ''}: {_hint(sweep)}"] if new else ["nothing to add"]
    lines += [f"  {others.line(member) if others else member.trial.name}" for member in new]
    return notes + lines + ([f"{there} are in the sweep already"] if there else [])
