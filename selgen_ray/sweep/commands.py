"""`python -m selgen_ray.sweep status|stop|retry|rm|add`: look at a sweep and steer it.

They work on any machine that sees the sweep's folder. Exit status: 0 done, 2 the request is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selgen_ray.driver.display import clock, running_line
from selgen_ray.driver.selection import SelectionError, find_trials
from selgen_ray.driver.trust import OPTION, SHORTEST, Trust, digest_of
from selgen_ray.errors import INPUT_ERRORS, StorageError, TrialSuperseded
from selgen_ray.reading import Unreadable, every_head, one_each
from selgen_ray.records.attempts import Fence, attempt_of
from selgen_ray.records.control import ALL, LIVE, PLAN, Control
from selgen_ray.records.liveness import LEASE_S, is_driven
from selgen_ray.records.names import is_trial_name, trial_name
from selgen_ray.records.results import FILE_NAME, TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.records.text import first_line, last_line, printable
from selgen_ray.storage import Folder
from selgen_ray.sweep import arguments

DONE, WRONG = 0, 2


@dataclass
class Sweep:
    """A sweep as its folder shows it.

    Attributes:
        names: trial id -> '<setting>/seed_<N>', of every known trial.
        status: trial id -> 'completed', 'running', 'waiting' and so on.
        errors: trial id -> cause in one line, of trials whose result has an error.
        places: trial id -> folder of its result.
        copies: trial id -> folder and seed of every result of it that lies in the sweep's folder.
        unreadable: the results.json that are damaged.
        live: the state that the driver wrote last, {} if none ever did.
        is_driven: whether a process runs the sweep now.
    """

    folder: Folder
    control: Control
    names: dict[str, str] = field(default_factory=dict)
    status: dict[str, TrialStatus] = field(default_factory=dict[str, TrialStatus])
    errors: dict[str, str] = field(default_factory=dict)
    places: dict[str, Folder] = field(default_factory=dict)
    copies: dict[str, list[tuple[Folder, int]]] = field(default_factory=dict[str, list[tuple[Folder, int]]])
    unreadable: list[Unreadable] = field(default_factory=list[Unreadable])
    live: dict[str, Any] = field(default_factory=dict)
    is_driven: bool = False


def read_state(folder: Folder) -> Sweep:
    """Read the state of a sweep from its folder. Raises StorageError: there is no sweep, or it cannot be read."""
    control = Control(folder)
    live = control.read(LIVE)
    sweep = Sweep(folder, control, live=live, is_driven=is_driven(control, live, on_wait=_wait))
    sweep.names |= control.read(PLAN).get("trials", {})
    added = control.added.names()
    heads = every_head(folder, sweep.unreadable)
    for place, result in heads:
        sweep.copies.setdefault(result.trial_id, []).append((place, result.seed))
    for place, result in one_each(heads):
        trial_id = result.trial_id
        sweep.names[trial_id] = trial_name(result.slug, result.seed)
        sweep.status[trial_id], sweep.places[trial_id] = result.status, place
        if result.error:
            sweep.errors[trial_id] = last_line(result.error)
    sweep.names |= control.names_of_added(added - sweep.names.keys())
    for one in sweep.unreadable:
        if one.trial_id and one.name:
            sweep.names.setdefault(one.trial_id, one.name)
    if not sweep.names and not sweep.live and not sweep.unreadable:
        raise StorageError(f"no sweep at {folder}: name its folder, or the YAML file of its search space")
    running = set(sweep.live.get("running", {})) if sweep.is_driven else set()
    ids = {name: trial_id for trial_id, name in sweep.names.items()}
    damaged = {one.trial_id or ids.get(one.name, ""): one for one in sweep.unreadable}
    stopped, removed = control.stop.names(), control.removed.names()
    for trial_id, name in sweep.names.items():
        missing = TrialStatus.UNREADABLE if trial_id in damaged else TrialStatus.PENDING
        if missing is TrialStatus.UNREADABLE and trial_id not in sweep.status:
            sweep.errors[trial_id] = str(damaged[trial_id])
        status = sweep.status.get(trial_id, missing)
        if status is TrialStatus.RUNNING and name not in running:
            status = status.after_run
        elif status in (missing, TrialStatus.FAILED) and name in running:  # it is tried again
            status = TrialStatus.RUNNING
        if status in (missing, TrialStatus.PREEMPTED, TrialStatus.FAILED):
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
        sys.stderr.write(printable(f"{error}\n"))
        return WRONG
    sys.stdout.write(printable("".join(line + "\n" for line in lines)))
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m selgen_ray.sweep", description="Look at a sweep and steer it.")
    commands = parser.add_subparsers(dest="command", required=True)

    for name, sentence in arguments.STEERING.items():
        arguments.add_steering(commands.add_parser(name, help=sentence, description=sentence), name)
    return parser


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
    shown = set(sweep.errors.values())
    return lines + [f"  damaged   {one}" for one in map(str, sweep.unreadable) if one not in shown]


_ILL = (TrialStatus.FAILED, TrialStatus.DIVERGED, TrialStatus.STOPPED, TrialStatus.UNREADABLE)
_ENDED = (TrialStatus.COMPLETED, TrialStatus.DIVERGED, TrialStatus.FAILED, TrialStatus.STOPPED, TrialStatus.REMOVED)
_ORDER = (*map(str, _ENDED), "unreadable", "cut off", str(TrialStatus.RUNNING), "waiting")
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
    ending += f", paused ({sweep.live['paused']})" if sweep.live.get("paused") else ""
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
        try:
            damage = _reopen(sweep.places[trial_id]) if trial_id in sweep.places else None
        except TrialSuperseded as why:
            lines.append(f"{name} has changed meanwhile: {why}. Nothing to retry")
            continue
        lines += [damage] if damage else []
        sweep.control.stop.clear(trial_id)
        sweep.control.removed.clear(trial_id)
        sweep.control.retry.set(trial_id)
        lines.append(f"{name} is to run again: {_hint(sweep)}")
    return lines


def _reopen(place: Folder) -> str | None:
    """Mark a trial that ended for good as cut off: it continues from its last checkpoint, if it has one.

    Returns:
        What was wrong with its results.json, if that was damaged: it is removed then, and the trial begins anew.

    Raises:
        TrialSuperseded: somebody else has had it run again meanwhile; its result is left alone.
    """
    try:
        result = TrialResult.model_validate_json(place.read(FILE_NAME))
    except ValueError as error:
        place.remove(FILE_NAME)
        return f"{place / FILE_NAME} was damaged and is removed: {first_line(error)}"
    if result.status in _ILL:
        # in the name of the attempt that ended so: a newer one takes its mark away, and this write is refused then
        fence = Fence(place, attempt_of(result))
        stored = fence.begin()
        try:
            if stored is not None and stored.status is TrialStatus.COMPLETED:
                raise TrialSuperseded("it is completed")
            if stored is not None and stored.status in _ILL:
                stored.status, stored.error = TrialStatus.RUNNING, None
                fence.publish(stored)
        finally:
            fence.end()
    return None


def _rm(args: argparse.Namespace, folder: Folder) -> list[str]:
    sweep = read_state(folder)
    wanted = _wanted(args.trials, sweep, "TRIAL")
    busy = [name for trial_id, name in wanted.items() if sweep.status[trial_id] is TrialStatus.RUNNING]
    if busy:
        raise SelectionError(f"{', '.join(busy)}: running; stop it first, or let it end")
    doomed = {trial_id: _doomed(sweep, trial_id, wanted) for trial_id in wanted}
    _refuse_outside(folder, wanted, doomed)
    if not args.yes:
        lines: list[str] = []
        for trial_id, name in wanted.items():
            lines.append(f"{name}  ({_word(sweep.status[trial_id])})")
            lines += [f"  {path}{'' if path.endswith(FILE_NAME) else '/'}" for path in doomed[trial_id]]
        listed = "\n".join(lines)
        if not sys.stdin.isatty():
            raise SelectionError(f"this deletes {len(wanted)} trials: say --yes\n{listed}")
        sys.stdout.write(printable(f"{listed}\n"))
        if not _agreed(f"delete these {len(wanted)} trials and their results? [y/N] "):
            return ["nothing was deleted"]
        _refuse_changed(sweep, read_state(folder), wanted, doomed)
    for trial_id, paths in doomed.items():
        sweep.control.removed.set(trial_id)  # first: a running sweep must not start it in between
        for path in paths:
            if path.endswith(f"/{FILE_NAME}") or path == FILE_NAME:
                folder.remove(path)
            else:
                (folder / path).delete()
    return [f"{name} is removed" for name in wanted.values()]


def _refuse_outside(folder: Folder, wanted: dict[str, str], doomed: dict[str, list[str]]) -> None:
    """Raise SelectionError if something to be deleted lies outside of the sweep's folder, by way of a link."""
    if (root := folder.local_path) is None:
        return
    for trial_id, name in wanted.items():
        for path in doomed[trial_id]:
            place = (root / path).parent.resolve()  # of what is a link itself, the link alone is deleted
            if not place.is_relative_to(root.resolve()):
                raise SelectionError(
                    f"{name}: {folder / path} leads out of the sweep by a link, to {place / Path(path).name}; nothing "
                    "was deleted. Remove the link, or delete the trial where it lies"
                )


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        sys.stdout.write("\n")
        return False


def _refuse_changed(before: Sweep, now: Sweep, wanted: dict[str, str], doomed: dict[str, list[str]]) -> None:
    """Raise SelectionError if a trial is not what it was when its deletion was agreed to."""
    changed: list[str] = []
    for trial_id, name in wanted.items():
        was, status = (_word(state.status[trial_id]) if trial_id in state.names else "gone" for state in (before, now))
        if status != was:
            changed.append(f"{name} was {was} and is {status} now")
        elif _doomed(now, trial_id, wanted) != doomed[trial_id]:
            changed.append(f"{name} has other files now")
    if changed:
        raise SelectionError(
            f"nothing was deleted, since the sweep has changed meanwhile: {'; '.join(changed)}. "
            "If these trials are to go nevertheless, give the command again"
        )


def _doomed(sweep: Sweep, trial_id: str, wanted: Collection[str]) -> list[str]:
    """Return what of a trial is to be deleted, as sorted paths in the sweep's folder.

    That is '<slug>/seed_<N>', the folder of its results, unless results of trials that stay lie in it too: then it is
    the folder of each of its own there. Elsewhere, where somebody has put a copy, it is the results.json alone.
    """
    root = sweep.folder.inside

    def inner(place: Folder) -> list[str]:
        return place.inside[len(root) :].strip("/").split("/")

    kept = [inner(place)[:2] for other, places in sweep.copies.items() if other not in wanted for place, _ in places]
    found = [(inner(place), seed) for place, seed in sweep.copies.get(trial_id, ())]
    name = sweep.names[trial_id]
    for one in sweep.unreadable:
        if trial_id == one.trial_id or (not one.trial_id and one.name == name):
            seed = (one.name or name).rpartition("_")[2]
            found.append((inner(one.folder), int(seed)))
    paths: set[str] = set()
    if name.split("/") not in kept and (sweep.folder / name).exists():  # a trial may have begun and left no result
        paths.add(name)
    for parts, seed in found:
        at_home = is_trial_name("/".join(parts[:2])) and parts[1] == f"seed_{seed}"
        is_run = at_home and len(parts) == 4 and parts[2] == "results"
        if at_home and parts[:2] not in kept:
            paths.add("/".join(parts[:2]))
        else:
            paths.add("/".join(parts if is_run else [*filter(None, parts), FILE_NAME]))
    return sorted(paths)


def _add(args: argparse.Namespace, folder: Folder) -> list[str]:
    # late: start-up, as above
    from selgen_ray.driver.added import AddedTrial, write_added
    from selgen_ray.sweep.adding import more_seeds, more_trials
    from selgen_ray.sweep.cloning import changed_trials, find_original

    if (args.space is None) == (args.seeds is None and args.original is None):
        raise SelectionError(
            "give either a search space, more.yaml, or --from TRIAL: one of the sweep's with other values, or --seeds: "
            "further seeds of the sweep's settings"
        )
    if args.strategies and (args.original or not args.seeds):
        raise SelectionError("--strategies belongs to --seeds: it says which settings get them; --from names a trial")
    if args.changes and not args.original:
        raise SelectionError("--set belongs to --from: it says what is changed in that trial")
    if args.warm_start and not args.original:
        raise SelectionError("--warm-start belongs to --from: it says whose weights training begins with")
    if args.original and not (args.changes or args.seeds or args.warm_start):
        raise SelectionError(
            "--from alone would change nothing: say what with --set KEY=VALUE, or give --seeds, or --warm-start"
        )
    sweep = read_state(folder)
    confirmed: list[str] = args.trust_plugin
    seeds: list[int] = list(dict.fromkeys(args.seeds or []))
    if args.original:
        original = find_original(args.original, sweep.names, sweep.places)
        members, others, notes = changed_trials(
            folder, original, args.changes, seeds, args.different, confirmed, args.warm_start
        )
    elif seeds:
        wanted = [name for name in args.strategies.split(",") if name] if args.strategies else []
        members, others = more_seeds(folder, sweep.names, seeds, wanted, args.different, confirmed)
        notes = []
    else:
        members, others, notes = more_trials(folder, args.space, args.different, confirmed)
    new = [member for member in members if member.trial.trial_id not in sweep.names]
    for member in new:
        write_added(sweep.control, AddedTrial.of(member.trial, member.plugins))
    there = len(members) - len(new)
    lines = [f"added {len(new)} trial{'s' if len(new) > 1 else ''}: {_hint(sweep)}"] if new else ["nothing to add"]
    lines += [f"  {others.line(member) if others else member.trial.name}" for member in new]
    own = others.spec.plugin_sources if others else ()
    foreign = dict.fromkeys(p for member in new for p in member.plugins if p.sha256 not in {one.sha256 for one in own})
    lines += [
        f"  {p.name} is no plugin of the sweep: whoever runs it must confirm it with {OPTION} {p.sha256[:SHORTEST]}"
        for p in foreign
    ]
    trusted = Trust.of(others.spec, folder) if others else Trust()
    reach = {
        digest_of(found): found
        for member in new
        if (found := trusted.other_reach(member.trial.config.model_dump(mode="json")))
    }
    lines += [
        f"  {', '.join(map(str, found))} is not what the sweep names: whoever runs it must confirm it with {OPTION} "
        f"{digest[:SHORTEST]}"
        for digest, found in reach.items()
    ]
    return notes + lines + ([f"{there} are in the sweep already"] if there else [])
