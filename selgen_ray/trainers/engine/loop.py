"""The one training loop.

A step fetches this rank's micro-batches; computes for each gradient slot the gradient of the sum over its terms of
weight * total / count; sums gradients over the ranks; calls `transform_gradients`; clips; calls the optimizer, then
`after_optimizer_step`. `count` is that of the whole step over all ranks, so neither gradient accumulation nor the
number of workers changes the gradient. A term of weight zero is dropped before its forward pass.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selgen_ray.data.encode import Batch
from selgen_ray.errors import TrialDiverged
from selgen_ray.seeding import derive_seed, seed_global_rng
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.loss_scale import LossScale

if TYPE_CHECKING:
    from accelerate import Accelerator

GradMap = dict[str, Tensor]
MAIN = "main"
_Batches = dict[str | None, list[Any]]


@dataclass(frozen=True)
class Term:
    """One weighted term of the loss of a step.

    Attributes:
        name: the name its value is logged under.
        weight: its factor in the loss; a term of weight 0 is never computed.
        stream: the data it reads, a role or a union such as 'outcome+proxy'; None: a penalty on the parameters.
        total: micro-batch (None for a penalty) -> differentiable scalar sum.
        count: micro-batch -> how many things `total` sums over, as an int or a scalar tensor.
        slot: the gradient it adds to; `transform_gradients` gets one gradient for each slot. The logged loss 'total' is
            the weighted sum of the terms of slot 'main'.
        beside: further terms of the same stream and slot, which share this one's forward pass: `total` then returns a
            list, its own sum first, and theirs is not called.
        due: step -> whether the term is computed in that step; its stream is read only then.
    """

    name: str
    weight: float
    stream: str | None
    total: Callable[[Any], Any]
    count: Callable[[Any], Tensor | int] = lambda batch: batch.num_scored if batch else 1
    slot: str = MAIN
    beside: tuple[Term, ...] = ()
    due: Callable[[int], bool] = lambda step: True

    @property
    def parts(self) -> tuple[Term, ...]:
        """This term and those beside it."""
        return (self, *self.beside)

    def totals(self, batch: Any) -> list[Tensor]:
        """Return the sum of each part."""
        total = self.total(batch)
        return total if isinstance(total, list) else [total]


def weighted(terms: list[Term]) -> list[Term]:
    """Return the terms whose weight is not 0; the others need neither data nor a forward pass."""
    return [term for term in terms if term.weight != 0]


@dataclass
class Job:
    """The input of `fit`: a model with its terms, data, optimizer and hooks.

    Attributes:
        phase: name of the phase; its random numbers are keyed by it.
        model: in training mode inside a step.
        parameters: the trainable tensors by name.
        terms: the terms of every step, without those that `weighted` drops.
        micro_batches: (stream, step) -> this rank's micro-batches of that step, on the device.
        idle_batch: (stream, step) -> a micro-batch to run with zero weight, so that this rank makes as many passes as
            the others (FSDP needs that); None: no such pass.
        num_steps: optimizer steps in total.
        optimizer, scheduler: torch objects over `parameters`.
        accelerator: device placement.
        seed: the seed of dropout.
        transform_gradients: (gradients by slot, step) -> the gradient to apply; None: the main slot's.
        after_optimizer_step: (parameters, learning rate of the step, step) edits after the optimizer.
        max_grad_norm: clip the total norm of the applied gradient; None: off.
        attempt: (function that computes a step's gradients, progress) -> the gradients; it may call the function again
            when memory runs out.
        state: tensors that the hooks change from step to step, saved and restored with the weights.
        scope: makes a context manager that is open around the forward and backward passes of each attempt at a step.
        backward: adds the gradient of a scalar to the parameters' `grad`; the loop's only way to do so.
    """

    phase: str
    model: torch.nn.Module
    parameters: dict[str, torch.nn.Parameter]
    terms: list[Term]
    micro_batches: Callable[[str, int], list[Batch]]
    num_steps: int
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    accelerator: Accelerator
    seed: int
    transform_gradients: Callable[[dict[str, GradMap], int], GradMap] | None = None
    after_optimizer_step: Callable[[dict[str, torch.nn.Parameter], float, int], None] | None = None
    max_grad_norm: float | None = None
    idle_batch: Callable[[str, int], Batch | None] = lambda stream, step: None
    attempt: Callable[[Callable[[], dict[str, GradMap]], Progress], dict[str, GradMap]] = lambda compute, _: compute()
    state: dict[str, Tensor] = field(default_factory=dict)
    scope: Callable[[], AbstractContextManager[None]] = nullcontext
    backward: Callable[[Tensor], None] = Tensor.backward

    def __post_init__(self) -> None:
        self.loss_scale = LossScale(self.model, self.parameters)


@dataclass
class Progress:
    """Progress of a phase, and the sums of what was logged; they stay on the device until `read`.

    Attributes:
        step: optimizer steps finished.
        tokens_processed, tokens_scored: tokens so far, of all ranks, with and without padding and prompts.
        sums: term -> sum of its values since the last reading, over the steps and micro-batches of this rank.
        steps_summed: number of steps since the last reading.
        steps_skipped: term -> number of them in which it was not due.
        metrics: name -> [sum, count] of every other metric that this rank logged since then.
    """

    step: int = 0
    tokens_processed: int = 0
    tokens_scored: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    steps_summed: int = 0
    steps_skipped: dict[str, int] = field(default_factory=dict[str, int])
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, value: Tensor) -> None:
        """Add a detached scalar to the sum of a term, which `read` averages over steps."""
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def log(self, name: str, total: Tensor | float, count: Tensor | float = 1) -> None:
        """Add a sum over `count` things to a metric, of which `read` gives the mean."""
        device = total.device if isinstance(total, Tensor) else None
        pair = torch.stack([torch.as_tensor(x, device=device).detach().double() for x in (total, count)])
        self.metrics[name] = self.metrics[name] + pair if name in self.metrics else pair

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the loss of every term, averaged over steps, and the mean of every metric, since the last call.

        Both are over all ranks, which must all call it. Waits for the device.
        """
        local_sums = {name: float(total) for name, total in self.sums.items()}
        local_pairs = {name: pair.tolist() for name, pair in self.metrics.items()}
        sums: dict[str, float] = {}
        pairs: dict[str, list[float]] = {}
        # a rank lacks the terms that it had no micro-batch for
        for rank_sums, rank_pairs in ranks.gathered((local_sums, local_pairs)):
            sums |= {name: sums.get(name, 0.0) + value for name, value in rank_sums.items()}
            for name, (total, count) in rank_pairs.items():
                before = pairs.get(name, [0.0, 0.0])
                pairs[name] = [before[0] + total, before[1] + count]
        losses = {name: total / (self.steps_summed - self.steps_skipped.get(name, 0)) for name, total in sums.items()}
        metrics = {name: total / count for name, (total, count) in pairs.items() if count}
        self.sums, self.steps_summed, self.steps_skipped, self.metrics = {}, 0, {}, {}
        return losses, metrics


def fit(job: Job, progress: Progress, after_step: Callable[[Progress], None]) -> None:
    """Train from `progress.step` to `job.num_steps`, calling `after_step` after each optimizer step."""
    while progress.step < job.num_steps:
        if not job.model.training:  # an evaluation puts the mode of all modules back as it was
            job.model.train()
        take_step(job, progress)
        progress.step += 1
        progress.steps_summed += 1
        after_step(progress)


def take_step(job: Job, progress: Progress) -> None:
    """Do the optimizer step of number `progress.step`, with the rows and the randomness of that number."""
    step = progress.step
    fetched: list[_Batches] = [_fetch(job, step)]
    counts = _counts(job, fetched[0], progress)

    def compute() -> dict[str, GradMap]:  # a second call, after memory ran out, fetches smaller micro-batches
        micro_batches = fetched.pop() if fetched else _fetch(job, step)
        with job.scope():
            return _gradients(job, micro_batches, counts, progress)

    rank_gradients = job.attempt(compute, progress)
    for part in [part for term in job.terms if not term.due(step) for part in term.parts]:
        progress.steps_skipped[part.name] = progress.steps_skipped.get(part.name, 0) + 1
    by_slot = {slot: ranks.summed_gradients(gradients, job.parameters) for slot, gradients in rank_gradients.items()}
    gradients = job.transform_gradients(by_slot, step) if job.transform_gradients else by_slot.get(MAIN, {})
    for name, parameter in job.parameters.items():
        parameter.grad = _laid_out(gradients.get(name), parameter)
    if job.max_grad_norm is not None:
        norm = torch.nn.utils.clip_grad_norm_(list(job.parameters.values()), job.max_grad_norm)
        progress.log("grad_norm", norm)

    learning_rate = float(job.scheduler.get_last_lr()[0])
    job.optimizer.step()
    job.scheduler.step()
    job.optimizer.zero_grad(set_to_none=True)
    if job.after_optimizer_step:
        job.after_optimizer_step(job.parameters, learning_rate, step)


def _laid_out(gradient: Tensor | None, parameter: torch.nn.Parameter) -> Tensor | None:
    """Return the gradient with the parameter's strides: PyTorch's fused optimizers read both in the order of memory."""
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _fetch(job: Job, step: int) -> _Batches:
    """Return stream -> its micro-batches; a penalty, of stream None, has one without data on every rank."""
    streams = dict.fromkeys(term.stream for term in job.terms if term.due(step))
    return {stream: job.micro_batches(stream, step) if stream else [None] for stream in streams}


def _counts(job: Job, batches: _Batches, progress: Progress) -> dict[int, Tensor]:
    """Return the divisor of each part's total, by the part's id: its count over all ranks.

    Add the tokens of all ranks to `progress`.

    Every rank computes a penalty, with count 1: its divisor is the number of ranks, so their sum has it once.
    """
    device = job.accelerator.device
    zero = torch.zeros((), device=device, dtype=torch.float64)
    parts = [part for term in job.terms if term.due(progress.step) for part in term.parts]
    counts: list[Tensor] = [zero + sum(part.count(batch) for batch in batches[part.stream]) for part in parts]
    data = [batch for micro in batches.values() for batch in micro if batch]
    tokens = [sum(batch.input_ids.numel() for batch in data), sum(batch.num_scored for batch in data)]
    if ranks.world_size() > 1:
        numbers = ranks.summed(torch.stack([*counts, *(zero + number for number in tokens)]))
        *counts, processed, scored = numbers.unbind()
        tokens = [int(processed), int(scored)]
    progress.tokens_processed += tokens[0]
    progress.tokens_scored += tokens[1]
    return {id(part): count.float() for part, count in zip(parts, counts, strict=True)}


def _gradients(job: Job, batches: _Batches, counts: dict[int, Tensor], progress: Progress) -> dict[str, GradMap]:
    """Return this rank's gradient of each slot; change nothing but `progress` and the parameters' `grad`."""
    by_slot: dict[str, GradMap] = {}
    terms = [term for term in job.terms if term.due(progress.step)]
    for slot in dict.fromkeys(term.slot for term in terms):
        for term in terms:
            if term.slot == slot:
                _backward(job, term, batches[term.stream], counts, progress)
                if term.stream and (batch := job.idle_batch(term.stream, progress.step)):
                    _idle_pass(job, term, batch, progress)
        by_slot[slot] = _take_gradients(job)
    return by_slot


def _backward(job: Job, term: Term, micro_batches: list[Any], counts: dict[int, Tensor], progress: Progress) -> None:
    """Add the gradient of weight * sum of totals / count, of each part, to the parameters, by micro-batches."""
    factor = job.loss_scale.factor(term.weight, counts[id(term)])
    for i, batch in enumerate(micro_batches):
        number = i * ranks.world_size() + ranks.rank() if term.stream else 0
        # dropout draws from the global stream: key it, so that neither other terms nor a resume shift it
        seed_global_rng(derive_seed(job.seed, job.phase, term.stream or term.name, progress.step, number))
        totals = zip(term.parts, term.totals(batch), strict=True)
        losses = [(part, total / counts[id(part)]) for part, total in totals]
        loss = functools.reduce(operator.add, (part.weight * value for part, value in losses))
        job.backward(loss * factor)
        for part, value in losses:
            progress.add(part.name, value.detach())
            if term.slot == MAIN:
                progress.add("total", part.weight * value.detach())


def _idle_pass(job: Job, term: Term, batch: Batch, progress: Progress) -> None:
    """Run a forward and backward pass with zero weight, for the other ranks' sake; log nothing."""
    logged = dict(progress.metrics)
    job.backward(0.0 * functools.reduce(operator.add, term.totals(batch)))
    progress.metrics = logged


def _take_gradients(job: Job) -> GradMap:
    job.loss_scale.undo()
    gradients: dict[str, Any] = {name: p.grad for name, p in job.parameters.items() if p.grad is not None}
    for parameter in job.parameters.values():
        parameter.grad = None
    return gradients


def check_finite(values: dict[str, float], step: int) -> None:
    """End a run whose loss is no longer a number.

    Raises:
        TrialDiverged: a value is NaN or infinite; the message names it and the step.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrialDiverged(f"the loss {name!r}", step)


_accelerator: Accelerator | None = None


def accelerator() -> Accelerator:
    """Return the process's Accelerator, for its device and backward; make one if there is none in working order.

    All Accelerators of a process share one state, which other code may reset: `transformers.TrainingArguments` does.
    A new Accelerator sets the state up again, also for those that were made before.
    """
    # late: start-up, a plan trains nothing
    from accelerate import Accelerator
    from accelerate.state import is_initialized

    global _accelerator
    if _accelerator is None or not is_initialized():
        _accelerator = Accelerator(cpu=not torch.cuda.is_available())
    return _accelerator
