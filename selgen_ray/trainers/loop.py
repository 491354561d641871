"""The one training loop.

Its law: fetch all micro-batches of the step; per gradient slot, backward of the sum of weight * total / step-wide
count, so that accumulation changes nothing; reduce across workers; transform; clip; optimizer; after-step edits.
A term of weight zero is dropped before its forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from selgen_ray.data.encode import Batch
from selgen_ray.errors import TrialDiverged
from selgen_ray.seeding import derive_seed

GradMap = dict[str, Tensor]
MAIN = "main"


@dataclass(frozen=True)
class Term:
    """One weighted term of the loss of a step.

    Attributes:
        name: what its value is logged under.
        weight: its factor; a term of weight 0 is never computed.
        stream: the data it reads, a role or a union such as 'outcome+proxy'; None: a penalty on the parameters.
        total: micro-batch (None for a penalty) -> differentiable scalar sum.
        count: micro-batch -> how many things `total` sums over, as an int or a scalar tensor.
        slot: the gradient it adds to; `transform_gradients` sees one gradient per slot. 'total' is the main one's loss.
    """

    name: str
    weight: float
    stream: str | None
    total: Callable[[Any], Tensor]
    count: Callable[[Any], Tensor | int] = lambda batch: batch.num_scored if batch else 1
    slot: str = MAIN


def weighted(terms: list[Term]) -> list[Term]:
    """The terms that have a weight: of the others neither the data nor a forward pass is needed."""
    return [term for term in terms if term.weight != 0]


@dataclass
class Job:
    """What one call of `fit` trains.

    Attributes:
        phase: name of the phase, part of the key of its randomness.
        model: in training mode inside a step.
        parameters: the trainable tensors by name.
        terms: of every step, as `weighted` leaves them.
        micro_batches: (stream, step) -> the micro-batches of that step, on the device.
        num_steps: optimizer steps in total.
        optimizer, scheduler: torch objects over `parameters`.
        accelerator: device placement, backward, reduction across workers.
        seed: of dropout.
        transform_gradients: (gradients by slot, step) -> the gradient to apply; None: the main slot's.
        after_optimizer_step: (parameters, learning rate of the step, step) edits after the optimizer.
        max_grad_norm: clip the total norm of the applied gradient; None: off.
        state: tensors that the hooks change from step to step, saved and restored with the weights.
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
    state: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Progress:
    """Where a phase stands. The sums stay on the device until somebody reads them.

    Attributes:
        step: optimizer steps finished.
        tokens_processed, tokens_scored: with and without padding and prompts, so far.
        sums: term -> sum over steps since the last reading.
        steps_summed: how many steps that are.
        metrics: name -> [sum, count] of what else was logged since then.
    """

    step: int = 0
    tokens_processed: int = 0
    tokens_scored: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    steps_summed: int = 0
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, value: Tensor) -> None:
        """Add a detached scalar to a sum that `read` will average over steps."""
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def log(self, name: str, total: Tensor | float, count: Tensor | float = 1) -> None:
        """Log a metric, the mean of which is wanted: a sum over `count` things."""
        device = total.device if isinstance(total, Tensor) else None
        pair = torch.stack([torch.as_tensor(x, device=device).detach().double() for x in (total, count)])
        self.metrics[name] = self.metrics[name] + pair if name in self.metrics else pair

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Mean loss of every term per step, and mean of every metric, since the last call; waits for the device."""
        losses = {name: float(total) / self.steps_summed for name, total in self.sums.items()}
        metrics = {name: float(total / count) for name, (total, count) in self.metrics.items() if count}
        self.sums, self.steps_summed, self.metrics = {}, 0, {}
        return losses, metrics


def fit(job: Job, progress: Progress, after_step: Callable[[Progress], None]) -> None:
    """Train from `progress.step` to `job.num_steps`, calling `after_step` after each optimizer step."""
    while progress.step < job.num_steps:
        job.model.train()
        _step(job, progress)
        progress.step += 1
        progress.steps_summed += 1
        after_step(progress)


def _step(job: Job, progress: Progress) -> None:
    step = progress.step
    streams = dict.fromkeys(term.stream for term in job.terms if term.stream)
    batches = {stream: job.micro_batches(stream, step) for stream in streams}
    for batch in (b for micro in batches.values() for b in micro):
        progress.tokens_processed += batch.input_ids.numel()
        progress.tokens_scored += batch.num_scored

    by_slot: dict[str, GradMap] = {}
    for slot in dict.fromkeys(term.slot for term in job.terms):
        for term in (t for t in job.terms if t.slot == slot):
            _backward(job, term, batches[term.stream] if term.stream else [None], progress)
        by_slot[slot] = _take_gradients(job)

    gradients = job.transform_gradients(by_slot, step) if job.transform_gradients else by_slot.get(MAIN, {})
    for name, parameter in job.parameters.items():
        parameter.grad = gradients.get(name)
    if job.max_grad_norm is not None:
        norm = torch.nn.utils.clip_grad_norm_(list(job.parameters.values()), job.max_grad_norm)
        progress.log("grad_norm", norm)

    learning_rate = float(job.scheduler.get_last_lr()[0])
    job.optimizer.step()
    job.scheduler.step()
    job.optimizer.zero_grad(set_to_none=True)
    if job.after_optimizer_step:
        job.after_optimizer_step(job.parameters, learning_rate, step)


def _backward(job: Job, term: Term, micro_batches: list[Batch] | list[None], progress: Progress) -> None:
    """Add the gradient of weight * sum of totals / step-wide count, one micro-batch at a time."""
    device = job.accelerator.device
    local = sum((term.count(batch) for batch in micro_batches), torch.zeros((), device=device))
    count: Any = job.accelerator.reduce(local, reduction="sum")
    for i, batch in enumerate(micro_batches):
        # dropout draws from the global stream: key it, so that neither other terms nor a resume shift it
        torch.manual_seed(derive_seed(job.seed, job.phase, term.stream or term.name, progress.step, i))
        value = term.total(batch) / count
        job.accelerator.backward(term.weight * value)
        progress.add(term.name, value.detach())
        if term.slot == MAIN:
            progress.add("total", term.weight * value.detach())


def _take_gradients(job: Job) -> GradMap:
    gradients: dict[str, Any] = {name: p.grad for name, p in job.parameters.items() if p.grad is not None}
    for name, parameter in job.parameters.items():
        if name in gradients and job.accelerator.num_processes > 1:
            gradients[name] = job.accelerator.reduce(gradients[name], reduction="sum")
        parameter.grad = None
    return gradients


def check_finite(values: dict[str, float], step: int) -> None:
    """Stop a run whose loss is no longer a number.

    Raises:
        TrialDiverged: a value is NaN or infinite; names it and the step.
    """
    for name, value in values.items():
        if not torch.isfinite(torch.tensor(value)):
            raise TrialDiverged(f"the loss {name!r}", step)


@functools.cache
def accelerator() -> Accelerator:
    """The process's Accelerator: its device, backward and reduction across workers."""
    return Accelerator(cpu=not torch.cuda.is_available())
