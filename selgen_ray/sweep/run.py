"""`python -m selgen_ray.sweep space.yaml`: load, plan, launch, report."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from selgen_ray.cluster import job
from selgen_ray.driver import guard
from selgen_ray.driver.display import make_display
from selgen_ray.driver.driver import claim, record_end
from selgen_ray.driver.packing import packing_lines
from selgen_ray.driver.plan import Plan, make_plan, sweep_folder
from selgen_ray.driver.preflight import check_data
from selgen_ray.driver.selection import parse_only
from selgen_ray.driver.token_plan import PlannedTokens
from selgen_ray.driver.trust import OPTION
from selgen_ray.errors import (
    INPUT_ERRORS,
    SelectionError,
    SpecError,
    StorageError,
    SweepBusyError,
    SweepError,
    SweepLostError,
)
from selgen_ray.evals.foresight import Foresight
from selgen_ray.records.control import Control
from selgen_ray.records.results import FILE_NAME
from selgen_ray.records.status import TrialStatus
from selgen_ray.records.text import first_line, last_line, printable
from selgen_ray.space import SweepSpec, kept, load_space
from selgen_ray.storage.leases import Lease
from selgen_ray.sweep import arguments
from selgen_ray.sweep.command_names import COMMANDS
from selgen_ray.sweep.launching import launch_sweep

DONE, UNFINISHED, BAD_INPUT = 0, 1, 2
logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    args = _parser().parse_args(argv)
    if problem := _misused(args):
        return _refuse(problem)
    try:
        spec = load_space(args.space)
        if lost := job.lost_storage(spec.storage_path):
            return _refuse(f"{args.space}: {lost}")
        tokens = PlannedTokens(sweep_folder(spec) / "cache", keep=not (args.dry_run or args.estimate))
        foresight = Foresight()
        if problems := check_data(spec, tokens, foresight):
            return _refuse("\n".join(problems))
        if args.max_concurrent:
            spec = spec.model_copy(
                update={"resources": spec.resources.model_copy(update={"max_concurrent": args.max_concurrent})}
            )
        plan = _plan(spec, args.only, args.trust_plugin)
    except (*INPUT_ERRORS, StorageError, SelectionError) as error:
        return _refuse(str(error))
    _say(
        *plan.lines(),
        *_resource_lines(spec),
        *(packing_lines(plan.to_run, spec.resources.trials_of_a_pack) if spec.resources.pack else []),
        *foresight.lines(),
        *tokens.lines(),
        *(f"  note: {note}" for note in spec.notes),
    )
    if args.dry_run:
        return DONE
    try:
        if args.estimate:
            from selgen_ray.sweep.estimate import run_estimate  # late: it needs Ray, which is seconds of start-up

            return run_estimate(spec, plan, args.price_per_gpu_hour, _say if args.progress != "none" else _quiet)
        return _run(spec, plan, args, tokens)
    except (SpecError, StorageError, SweepBusyError) as error:
        return _refuse(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m selgen_ray.sweep",
        description="Run a sweep, or what is left of it.",
        epilog=f"To look at a sweep and steer it while it runs: {', '.join(COMMANDS)}; each has --help.",
    )
    arguments.add_sweep(parser)
    return parser


def _misused(args: argparse.Namespace) -> str | None:
    """Return what is wrong with options that do not go together; None if nothing is."""
    if args.price_per_gpu_hour is not None and not args.estimate:
        return "--price-per-gpu-hour is given, but --estimate is not: only an estimate has a price"
    if args.estimate and args.dry_run:
        return "--estimate and --dry-run are both given: an estimate prints the plan too, so leave --dry-run out"
    if args.estimate and args.time_budget is not None:
        return "--estimate and --time-budget are both given: an estimate runs no trial to its end, so leave one out"
    return None


def _plan(spec: SweepSpec, only: list[str], trusted: list[str]) -> Plan:
    plan = make_plan(spec, trusted)
    return plan.selected(parse_only(only, [p.task for p in plan.planned])) if only else plan


def after_loss(argv: Sequence[str], why: str, is_recorded: bool, pid: int) -> int:
    """Say what is left and how to go on after the process that ran the sweep has disappeared; return the exit status.

    Args:
        argv: the arguments of that process.
        why: what became of it.
        is_recorded: it has said so itself, and has written the end of the sweep to events.jsonl.
        pid: of that process.
    """
    args = _parser().parse_args(argv)
    try:
        spec = load_space(args.space)
        plan = _plan(spec, args.only, args.trust_plugin)
        if not is_recorded:
            record_end(plan.folder, why, pid)
            _say(*_rest(plan, resume_command(args), why))
        return _write_up(spec, plan)
    except SweepLostError as error:
        _say(str(error))
        return UNFINISHED
    except (*INPUT_ERRORS, StorageError, SelectionError) as error:
        _say(f"ended early ({why}); to go on: {resume_command(args)}", str(error))
        return UNFINISHED


def _run(spec: SweepSpec, plan: Plan, args: argparse.Namespace, tokens: PlannedTokens) -> int:
    """Run what is left, if anything, and report."""
    why = None
    if plan.is_open:
        with claim(Control(plan.folder), plan.generation) as lease:
            plan.folder.write(kept.FILE, kept.kept_text(Path(args.space)))
            tokens.publish()
            guard.note("launched")
            try:
                problem, why = _launch(spec, _plan(spec, args.only, args.trust_plugin), args, lease)
            finally:  # which is not reached if Ray ends this process
                guard.note("over")
        if lease.lost is not None:
            return _end_lost(lease.lost)
        if problem:
            return _refuse(problem)
        plan = _plan(spec, args.only, args.trust_plugin)
    return _finish(spec, plan, resume_command(args), why)


def _end_lost(who: str) -> int:
    """Say that the sweep is another process's now, which also writes its report; return the exit status."""
    sys.stderr.write(f"{SweepLostError(who)}\n")
    return UNFINISHED


def resume_command(args: argparse.Namespace) -> str:
    """Return the command that continues the sweep, quoted for a shell."""
    parts = ["python", "-m", "selgen_ray.sweep", args.space]
    parts += [part for only in args.only for part in ("--only", only)]
    parts += [part for digits in args.trust_plugin for part in (OPTION, digits)]
    parts += ["--max-concurrent", str(args.max_concurrent)] if args.max_concurrent else []
    parts += ["--progress", args.progress] if args.progress != "auto" else []
    return shlex.join(parts)


def _launch(spec: SweepSpec, plan: Plan, args: argparse.Namespace, lease: Lease) -> tuple[str | None, str | None]:
    """Run what is left; return what is wrong with the request, if anything, and why the sweep ended early."""

    def abandon(why: str) -> NoReturn:
        if lease.lost is not None:
            guard.note("over")
            _end_lost(lease.lost)
            os._exit(UNFINISHED)
        if guard.is_guarded():  # Ray may end this process before the report is written: the guard writes it
            try:
                left = _plan(spec, args.only, args.trust_plugin)
                _say(*_rest(left, resume_command(args), why))
                guard.note(f"why {why}" if left.with_status(TrialStatus.COMPLETED) else "over")
            finally:
                os._exit(UNFINISHED)
        try:
            _finish(spec, _plan(spec, args.only, args.trust_plugin), resume_command(args), why, hurried=True)
        finally:
            os._exit(UNFINISHED)  # Ray's own threads would keep the process, or end it with a wrong status

    try:
        display = make_display(args.progress)
        return None, launch_sweep(spec, plan, display, abandon, lease, args.time_budget, _say)
    except KeyboardInterrupt:
        return None, "interrupted"
    except SweepError as error:  # the cluster, a tracker, or another process that has the sweep now
        return str(error), None


def _finish(spec: SweepSpec, plan: Plan, resume: str, why: str | None, *, hurried: bool = False) -> int:
    """Print which trials failed and which are left, write the report, and return the exit status.

    Args:
        hurried: print the lines before the report is written, since Ray soon ends the process of a lost cluster.
    """
    lines = _rest(plan, resume, why)
    if hurried:
        _say(*lines)
        return _write_up(spec, plan)
    return _write_up(spec, plan, lines)


def _rest(plan: Plan, resume: str, why: str | None) -> list[str]:
    """Return the lines that say which trials failed, how many are left, and how to go on; [] if all are done."""
    failed, left = plan.with_status(TrialStatus.FAILED), plan.with_status(*_LEFT)
    lines: list[str] = []
    for p in failed:
        cause = last_line(p.error, "no cause is known")
        lines += [f"failed: {p.task.name}: {cause}", f"  see {p.task.folder}/{FILE_NAME}"]
    if failed or left:
        early = f"ended early ({why}): " if why else ""
        lines.append(f"{early}{len(failed)} failed, {len(left)} left to run; to go on: {resume}")
    return lines


_LEFT = (TrialStatus.RUNNING, TrialStatus.UNREADABLE, TrialStatus.PENDING)


def _write_up(spec: SweepSpec, plan: Plan, lines: Sequence[str] = ()) -> int:
    """Write the report, say `lines` after its table, clear up, and return the exit status."""
    page = _report(spec, plan) if plan.with_status(TrialStatus.COMPLETED) else None
    _say(*lines, *([page] if page else []))
    try:
        plan.remove_leftovers()
    except StorageError as error:  # they only take room
        logger.warning("%s", error)
    return UNFINISHED if plan.with_status(TrialStatus.FAILED, *_LEFT) else DONE


def _report(spec: SweepSpec, plan: Plan) -> str:
    """Write the report and show its table; return the line that says where it is, or why there is none.

    Nothing that goes wrong here is raised: the trials are done, with or without a picture of them.
    """
    pareto = spec.pareto
    try:
        from selgen_ray.report import report_text, write_report  # late: start-up, a dry run draws nothing

        report = write_report(plan.folder, pareto.x, pareto.y, title=spec.name, require=pareto.require or "")
        *text, page = report_text(report).splitlines()
        _say("", *text)
        return page
    except Exception as error:
        again = ["python", "-m", "selgen_ray.report", str(plan.folder), "--x", pareto.x, "--y", pareto.y]
        again += ["--require", pareto.require] if pareto.require else []
        cause = f"{type(error).__name__}: {first_line(error) if str(error).strip() else 'no cause is known'}"
        return f"the report could not be written ({cause}); the results are safe. To try again: {shlex.join(again)}"


def _resource_lines(spec: SweepSpec) -> list[str]:
    resources = spec.resources
    limit = f", at most {resources.max_concurrent} at a time" if resources.max_concurrent else ""
    limit += ", on nodes that come when they are needed" if resources.autoscaling else ""
    limits = f"{limit}; retries: up to {resources.max_failures}"
    if resources.workers:
        gpus = (
            "1 where the cluster has any, else 0"
            if resources.gpus_per_worker is None
            else f"{resources.gpus_per_worker:g}"
        )
        each = f"CPUs: {resources.cpus_per_worker or 1:g}, GPUs: {gpus}"
        return [f"  each trial: {resources.workers} workers ({resources.strategy or 'ddp'}), each {each}{limits}"]
    gpus = "1 where the cluster has any, else 0" if resources.gpus is None else f"{resources.gpus:g}"
    return [f"  each trial: CPUs: {resources.cpus:g}, GPUs: {gpus}{limits}"]


def _say(*lines: str) -> None:
    sys.stdout.write(printable("".join(line + "\n" for line in lines)))
    sys.stdout.flush()


def _quiet(*lines: str) -> None: ...


def _refuse(message: str) -> int:
    sys.stderr.write(printable(message + "\n"))
    return BAD_INPUT
