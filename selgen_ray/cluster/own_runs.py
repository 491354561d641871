"""Our trials in a Tuner or a TorchTrainer that is the user's own: `selgen_ray.tune` and `selgen_ray.train` show it.

Results go to a folder as those of a sweep do; what Ray gets are the evaluations, each with a checkpoint from which any
trial can go on.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
from pydantic.fields import FieldInfo
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory

from selgen_ray.cluster.cluster import nodes, resolve_resources, worker_environment
from selgen_ray.errors import Problem, SpecError, TrialError
from selgen_ray.records.status import TrialStatus
from selgen_ray.space import Resources
from selgen_ray.space.open_settings import OpenSetting, OpenSpace
from selgen_ray.space.ranges import Range
from selgen_ray.storage import Folder
from selgen_ray.storage.folder import json_object
from selgen_ray.syntax.keys import SOURCES, coerce, registered_keys
from selgen_ray.trial.of_values import SECTION, TOGETHER, Change, TrialSource, flat_values
from selgen_ray.trial.task import CHECKPOINTS, TrialTask

_BUNDLE, _LINEAGE, _PLACES = "bundle", "lineage.json", "own_runs"
_STOPPED = "ended by the Tuner: by its scheduler, its stopping rule or its end"


# -- the search space of a Tuner ---------------------------------------------------------------------------------------


def param_space_of(space: OpenSpace, strategy: str | None = None) -> dict[str, Any]:
    """Return a search space of Ray Tune; see `selgen_ray.tune.param_space`."""
    settings = [one for one in space.settings if strategy is None or (one.is_listed and one.strategy == strategy)]
    if space.excluded:
        raise SpecError(list(space.excluded))
    if not settings:
        listed = ", ".join(dict.fromkeys(one.strategy for one in space.settings if one.is_listed))
        raise SpecError([Problem("", None, "strategies", f"found no {strategy!r}; there are: {listed}.")])
    if len(settings) == 1:
        return _parameters(settings[0], space)
    return {"setting": tune.grid_search([_parameters(one, space) for one in settings])}


def _parameters(setting: OpenSetting, space: OpenSpace) -> dict[str, Any]:
    name = {"proxy_strategy": setting.strategy} if setting.is_listed else {SECTION: setting.section}
    parameters: dict[str, Any] = dict(name)
    known = registered_keys().by_strategy[setting.strategy]
    for number, axis in enumerate(setting.axes):
        # as the config holds them: of a whole number a scheduler, which multiplies it, makes whole numbers
        choices = [{key: _held(known, key, node.plain()) for key, node in flat.items()} for flat in axis]
        if all(choice.keys() == choices[0].keys() and len(choice) == 1 for choice in choices):
            (key,) = choices[0]
            values = [choice[key] for choice in choices]
            parameters[key] = values[0] if len(values) == 1 else tune.grid_search(values)
        else:  # of `zip`: values that belong together
            parameters[f"{TOGETHER} {number + 1}"] = tune.grid_search(choices)
    parameters |= {key: _domain(one) for key, one in setting.ranges.items()}
    if "seed" not in setting.fixed and space.seeds:
        seeds = list(space.seeds)
        parameters["seed"] = seeds[0] if len(seeds) == 1 else tune.grid_search(seeds)
    return parameters


def _held(known: Mapping[str, FieldInfo], key: str, value: Any) -> Any:
    return coerce(known[key], value) if key in known and key not in SOURCES else value


def _domain(one: Range) -> Any:
    if one.choices:
        return tune.choice(list(one.choices))
    if one.is_whole:  # Ray leaves the upper end out
        make = tune.lograndint if one.log else tune.randint
        return make(int(one.low), int(one.high) + 1)
    return (tune.loguniform if one.log else tune.uniform)(one.low, one.high)


# -- a trial of a Tuner ------------------------------------------------------------------------------------------------


def trainable_of(source: TrialSource, resources: Resources) -> Callable[[dict[str, Any]], None]:
    """Return a function trainable with the resources of a trial; see `selgen_ray.tune.trainable`."""
    if resources.workers is not None:
        message = "is given, but a trial of a Tuner has one process: leave it out, or use selgen_ray.train.loop."
        raise SpecError([Problem("", None, "resources.workers", message)])
    env, torch_threads = worker_environment(resources), resources.torch_threads

    def selgen_trial(config: dict[str, Any]) -> None:
        for name, value in env.items():
            os.environ.setdefault(name, value)
        _run_tune_trial(source, config, torch_threads)

    def place(config: dict[str, Any]) -> PlacementGroupFactory:
        return PlacementGroupFactory([resolve_resources(resources, nodes()).bundle])

    return tune.with_resources(selgen_trial, place)


def _run_tune_trial(source: TrialSource, config: dict[str, Any], torch_threads: int) -> None:
    name = tune.get_context().get_trial_id()
    _run(
        source,
        config,
        f"tune-{name}",
        tune.get_checkpoint(),
        tune.report,
        tune.Checkpoint.from_directory,
        torch_threads,
    )


# -- a loop of a TorchTrainer ------------------------------------------------------------------------------------------


def run_train_loop(source: TrialSource, values: Mapping[str, Any], resources: Resources) -> None:
    """Run a trial on all workers of a TorchTrainer together; see `selgen_ray.train.loop`."""
    context = ray.train.get_context()
    _run(
        source,
        values,
        f"train-{context.get_experiment_name()}",
        ray.train.get_checkpoint(),
        ray.train.report,
        ray.train.Checkpoint.from_directory,
        resources.torch_threads,
        num_workers=context.get_world_size(),
        fsdp=resources.strategy == "fsdp",
        keep_last=True,
    )


# -- both --------------------------------------------------------------------------------------------------------------


def _run(
    source: TrialSource,
    config: Mapping[str, Any],
    place: str,
    checkpoint: Any,
    report: Callable[..., None],
    as_checkpoint: Callable[[str], Any],
    torch_threads: int,
    num_workers: int = 1,
    fsdp: bool = False,
    keep_last: bool = False,
) -> None:
    # late: the driver, which makes the search space alone, is to start without PyTorch
    import torch

    from selgen_ray.trainers.engine import ranks
    from selgen_ray.trainers.engine.checkpoints import Checkpoint, files_of, snapshot
    from selgen_ray.trial.run import run_trial
    from selgen_ray.trial.worker import quiet_worker, watched

    quiet_worker()
    torch.set_num_threads(torch_threads)
    values = flat_values(config)
    with _opened(checkpoint) as files:
        lineage = json_object(files.get(_LINEAGE))
        first, changes = _course(source, values, lineage, num_workers)
        task = source.task(values, place, changes, first, num_workers)
        if ranks.is_main():
            _settle(source.folder, task, place, files, lineage)
    ranks.any_rank(False)  # the others wait until the checkpoint is there
    pending: dict[str, Any] = {}
    ends: list[SystemExit] = []

    def progress(line: dict[str, Any]) -> None:
        if "evaluated" in line and line["evaluated"]["step"]:
            pending.update(line["evaluated"])

    with watched(source.folder, task) as stop:

        def after_step(capture: Callable[[], Checkpoint]) -> None:
            if not pending:
                return
            captured = capture()  # on all ranks
            numbers = _numbers(pending, task)
            pending.clear()
            with tempfile.TemporaryDirectory() as folder:
                kept = None
                if ranks.is_main():
                    saved = snapshot(captured)
                    came_from: dict[str, Any] = {"first": dict(first), "now": values, "step": saved.step}
                    came_from["changes"] = [change.plain() for change in changes]
                    _write(Path(folder), files_of(saved), came_from)
                    kept = as_checkpoint(folder)
                try:
                    report(numbers, checkpoint=kept)
                except SystemExit as end:  # so Tune ends a trial, which would leave no result
                    ends.append(end)
                    stop.request("stopped", _STOPPED)

        result = run_trial(task, progress, stop=stop, fsdp=fsdp, on_step=after_step)
    if ends:
        raise ends[0]
    if result.status is TrialStatus.DIVERGED:
        raise TrialError(f"diverged: {result.error}")
    if result.status is TrialStatus.COMPLETED:
        # 'done': else a scheduler might let a finished trial go on with other strengths, from before its end
        numbers = _numbers(result.readings()[-1], task) | {"status": str(result.status), "done": True}
        if not keep_last:
            report(numbers)
            return
        with tempfile.TemporaryDirectory() as folder:  # Ray Train forgets metrics that come without a checkpoint
            (Path(folder) / "results.json").write_bytes(result.content())
            report(numbers, checkpoint=as_checkpoint(folder) if ranks.is_main() else None)


def _course(
    source: TrialSource, values: Mapping[str, Any], lineage: Mapping[str, Any], num_workers: int
) -> tuple[dict[str, Any], list[Change]]:
    """Return the values that a trial began with, and the changes since, of which one may be due to this start."""
    if not lineage:
        return dict(values), []
    changes = [Change(int(one["step"]), one["values"]) for one in lineage["changes"]]
    if new := source.changed(lineage["now"], values, num_workers):
        changes.append(Change(int(lineage["step"]), new))
    return dict(lineage["first"]), changes


def _settle(
    folder: Folder, task: TrialTask, place: str, files: Mapping[str, bytes], lineage: Mapping[str, Any]
) -> None:
    """Put the checkpoint to go on from into the trial's folder; remove what this run of Ray's had under another id."""
    places, inside = folder / _PLACES, task.folder.inside.removeprefix(folder.inside).strip("/")
    try:
        before = json_object(places.read(f"{place}.json")).get("results")
    except FileNotFoundError:
        before = None
    if before and before != inside:
        (folder / before).delete()
    places.write_json(f"{place}.json", {"results": inside, "trial_id": task.trial_id})
    bundle = {name.partition("/")[2]: content for name, content in files.items() if name.startswith(f"{_BUNDLE}/")}
    if not bundle:
        return
    checkpoints = task.folder / CHECKPOINTS
    name = f"step_{int(lineage['step']):08d}"
    if not any(there >= name for there in checkpoints.folders()):  # its own are of the same course
        (checkpoints / name).publish(bundle)


def _write(folder: Path, bundle: Mapping[str, bytes], lineage: Mapping[str, Any]) -> None:
    (folder / _BUNDLE).mkdir()
    for name, content in bundle.items():
        (folder / _BUNDLE / name).write_bytes(content)
    (folder / _LINEAGE).write_text(json.dumps(lineage), encoding="utf-8")


@contextmanager
def _opened(checkpoint: Any) -> Iterator[dict[str, bytes]]:
    """Yield the files of a checkpoint, path -> content; {} where there is none."""
    if checkpoint is None:
        yield {}
        return
    with checkpoint.as_directory() as folder:
        root = Path(folder)
        yield {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _numbers(reading: Mapping[str, float | None], task: TrialTask) -> dict[str, Any]:
    """Return what Ray gets of an evaluation: its metrics, and which trial's they are."""
    numbers: dict[str, Any] = {name: value for name, value in reading.items() if value is not None}
    return numbers | {"trial": task.name, "selgen_id": task.trial_id, "results": str(task.folder)}
