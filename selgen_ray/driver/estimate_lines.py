"""The words of `--estimate`: a table of the kinds of trial, the whole sweep, its price, and what is not in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from selgen_ray.driver.estimating import Kind, Measured
from selgen_ray.records.estimate import Estimate, KindEstimate, Span
from selgen_ray.records.text import duration, gibibytes
from selgen_ray.space import SweepSpec

_HEAD = ("kind of trial", "trials", "s/step", "steps", "evaluations", "seconds a trial", "memory")


def estimate_lines(
    found: Estimate, kinds: Sequence[Kind], measured: Sequence[Measured], spec: SweepSpec
) -> Iterator[str]:
    """Describe an estimate in lines."""
    count = sum(one.num_trials for one in found.kinds)
    yield f"estimate of {_number(count, 'trial')}, from a few steps and one evaluation batch of each kind of trial:"
    rows = [
        _row(one, kind, values)
        for one, kind, values in zip(found.kinds, kinds, measured, strict=True)
        if not one.problem
    ]
    if rows:
        widths = [max(len(row[i]) for row in [_HEAD, *rows]) for i in range(len(_HEAD))]
        for row in [_HEAD, *rows]:
            first, *others = zip(row, widths, strict=True)
            yield "  " + "  ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)])
    for one in found.kinds:
        if one.problem:
            what = "could not be measured" if one.fits else "would not fit"
            yield f"  {what}: {one.label} ({_number(one.num_trials, 'trial')}, not counted below): {one.problem}"
    if not rows:
        return
    yield from _whole(found)
    yield from (f"  note: {note}" for note in _notes(found, kinds, measured, spec))


def _row(one: KindEstimate, kind: Kind, values: Measured) -> tuple[str, ...]:
    configs = [task.config for task in kind.tasks]
    steps = sorted({values.num_steps(config) for config in configs})
    evaluations = sorted({sum(values.evaluations(config)) for config in configs})
    rows = sum(entry["rows"] for entry in values.found["evaluation"])
    memory = "?" if one.memory is None else gibibytes(one.memory)
    counts = (_range(steps), f"{_range(evaluations)} of {rows:,} rows")
    return one.label, str(one.num_trials), f"{values.step.value:.3g}", *counts, _span(one.seconds), memory


def _whole(found: Estimate) -> Iterator[str]:
    if found.once:
        parts = [f"{times} {name} of {seconds:.3g} s" for name, (times, seconds) in sorted(found.once.items())]
        yield f"computed by the first trial that needs it: {', '.join(parts)}"
    hours = f"{_span(found.gpu_hours)} GPU-hours" if found.gpus else f"{_span(found.cpu_hours)} CPU-hours"
    wall, trials = found.wall_seconds, sum(len(one.trials) for one in found.kinds)
    yield f"{_number(trials, 'trial')}, {found.places} at a time: {hours}"
    between = f"{duration(wall.low)} to {duration(wall.high)}"
    started = duration(found.start_seconds)
    yield f"wall time: {duration(wall.value)} ({between}), and {started} before in which Ray and its workers start"
    if (price := found.price) is None:
        return
    if not found.gpus:
        yield f"price: 0: these trials use no GPU, and --price-per-gpu-hour {found.price_per_gpu_hour:g} is a GPU's"
        return
    everything = found.price_of_all_places
    assert everything is not None
    yield (
        f"price: {_span(price)} at {found.price_per_gpu_hour:g} a GPU-hour; {_span(everything)} if the "
        f"{found.gpus * found.places:g} GPUs are paid for until the last trial ends"
    )


def _notes(found: Estimate, kinds: Sequence[Kind], measured: Sequence[Measured], spec: SweepSpec) -> Iterator[str]:
    known = [(kind, one) for kind, one in zip(kinds, measured, strict=True) if not one.problem]
    replies = [one.replies for _, one in known if one.replies]
    if replies:
        mean, limit = sum(tokens for tokens, _ in replies) / len(replies), max(most for _, most in replies)
        yield (
            f"a reply of the start model has {mean:.0f} tokens here, and may have {limit}: evaluations take longer if "
            "training makes replies longer"
        )
    configs = [task.config for kind, _ in known for task in kind.tasks]
    if any(config["evals"]["judge"]["model"] for config in configs):
        yield "the judge was not asked: its seconds and its price are not in it"
    if any(config["evals"]["lm_eval"]["tasks"] for config in configs):
        yield "evals.lm_eval was not run: its tasks are not in it"
    if spec.early_stopping.scheduler:
        yield f"early_stopping {spec.early_stopping.scheduler} may end trials sooner: each is counted to its end"
    if spec.resources.pack:
        yield f"resources.pack {spec.resources.pack}: each trial was measured, and is counted, in a process of its own"
    if spec.resources.autoscaling:
        yield "resources.autoscaling: the wall time is that of the nodes there are now"
    yield from _together(found, [one.found for _, one in known])
    events = dict.fromkeys(f"{kind.label}: {event}" for kind, one in known for event in one.found["events"])
    yield from events


def _together(found: Estimate, measured: Iterable[dict[str, Any] | Any]) -> Iterator[str]:
    """Yield a warning where one trial fits on a GPU, and as many as share it do not."""
    of_gpus = [(one["memory"], one["device_memory"]) for one in measured if one.get("device_memory")]
    if of_gpus and 0 < found.gpus < 1:
        memory, device = max(of_gpus)
        sharing = int(1 / found.gpus + 1e-9)
        if sharing * memory > device:
            yield (
                f"would not fit: {sharing} trials share a GPU (resources.gpus {found.gpus:g}) and take "
                f"{gibibytes(sharing * memory)} of its {gibibytes(device)}"
            )


def _span(span: Span) -> str:
    return f"{span.value:.3g} ({span.low:.3g} to {span.high:.3g})"


def _range(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"


def _number(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
