"""`python -m selgen_ray.sweep space.yaml`: load, plan, launch, report.

Exit status: 0 every trial is done (a diverged one is), 1 trials failed or are left to run, 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from selgen_ray.errors import SpecError, StorageError
from selgen_ray.plan import Plan, check_data, make_plan
from selgen_ray.results import FILE_NAME
from selgen_ray.space import SweepSpec, load_space

DONE, UNFINISHED, BAD_INPUT = 0, 1, 2


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m selgen_ray.sweep", description="Run a sweep, or what is left of it."
    )
    parser.add_argument("space", metavar="space.yaml", help="the search space")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop; Ray is not started")
    args = parser.parse_args(argv)
    try:
        spec = load_space(args.space)
        if problems := check_data(spec):
            return _refuse("\n".join(f"{args.space}: {problem}" for problem in problems))
        plan = make_plan(spec)
    except (SpecError, StorageError) as error:
        return _refuse(str(error))
    _say(*plan.lines(), *_resource_lines(spec), *(f"  note: {note}" for note in spec.notes))
    if args.dry_run:
        return DONE
    try:
        plan.folder.write("space.yaml", Path(args.space).read_bytes())  # the very file, beside its results
        if plan.to_run:
            if problem := _launch(spec, plan):
                return _refuse(problem)
            plan = make_plan(spec)
        return _finish(spec, plan, args.space)
    except StorageError as error:
        return _refuse(str(error))


def _launch(spec: SweepSpec, plan: Plan) -> str | None:
    """Run what is left; returns what is wrong with the request, if anything."""
    from selgen_ray import launch  # late: a dry run, or a finished sweep, needs no Ray
    from selgen_ray.progress import make_display

    cuda_only = sorted({key for p in plan.planned for key in p.trial.config.finetune_config.cuda_only})
    try:
        dashboard = launch.connect(spec.resources)
        granted = launch.resolve_resources(spec.resources)
        launch.check_cuda(cuda_only, granted)
        if dashboard:
            _say(f"dashboard: {dashboard}")
        launch.launch(spec.name, plan.to_run, spec.resources, granted, make_display())
    except ConnectionError as error:
        hint = "Is it running? One with token authentication needs RAY_AUTH_MODE=token."
        return f"RAY_ADDRESS {os.environ.get('RAY_ADDRESS')!r}: {error}. {hint}"
    except launch.InfeasibleError as error:
        return str(error)
    finally:
        launch.disconnect()
    return None


def _finish(spec: SweepSpec, plan: Plan, space: str) -> int:
    """Report what the results on storage say, and what is left."""
    from selgen_ray.report import write_report

    if plan.with_status("completed"):
        report = write_report(plan.folder, x=spec.pareto.x, y=spec.pareto.y, title=spec.name)
        _say("", report.to_text())
    failed, left = plan.with_status("failed"), plan.with_status("running", None)
    for p in failed:
        cause = (p.error or "no cause is known").strip().splitlines()[-1]
        _say(f"failed: {p.trial.name}: {cause}", f"  see {p.task.folder}/{FILE_NAME}")
    if failed or left:
        _say(f"{len(failed)} failed, {len(left)} left to run; to go on: python -m selgen_ray.sweep {space}")
    return UNFINISHED if failed or left else DONE


def _resource_lines(spec: SweepSpec) -> list[str]:
    asked = spec.resources
    gpus = "1 where the cluster has any, else 0" if asked.gpus is None else f"{asked.gpus:g}"
    limit = f", at most {asked.max_concurrent} at a time" if asked.max_concurrent else ""
    return [f"  each trial: CPUs: {asked.cpus:g}, GPUs: {gpus}{limit}; retries: up to {asked.max_failures}"]


def _say(*lines: str) -> None:
    sys.stdout.write("".join(line + "\n" for line in lines))
    sys.stdout.flush()


def _refuse(message: str) -> int:
    sys.stderr.write(message + "\n")
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
