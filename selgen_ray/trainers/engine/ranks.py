"""Collective operations of the ranks of one trial: sums, agreements, values of rank 0. With one rank they do nothing.

A rank is one of the processes that train a trial. The code that starts them sets up torch.distributed; without it, this
process is the only rank. All ranks must call every function from `summed` on, in the same order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from selgen_ray.errors import TrialDiverged, TrialStopped
from selgen_ray.trainers.engine.stop_signal import Reason, StopSignal

if TYPE_CHECKING:
    from selgen_ray.models.loading import Model

T = TypeVar("T")
BUCKET_BYTES = 2**28  # of gradients that are copied together for one reduction
ALIKE = (TrialDiverged, TrialStopped)
"""Errors that all ranks raise at the same place."""


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among the ranks, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Return whether this is rank 0, the one that writes files."""
    return rank() == 0


def check_number(num_workers: int) -> None:
    """Raise ValueError if a trial's `num_workers` is not the number of ranks."""
    if num_workers != world_size():
        raise ValueError(
            f"num_workers is {num_workers}, but {world_size()} process(es) train this trial: start it with `sweep` and "
            "resources.workers, or with torchrun and torch.distributed set up"
        )


def summed(numbers: Tensor) -> Tensor:
    """Return a tensor summed over all ranks, as a new tensor if there are several."""
    if world_size() > 1:
        numbers = numbers.clone()
        dist.all_reduce(numbers)
    return numbers


def summed_gradients(own: dict[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradients summed over all ranks, in a few large reductions; omit names that no rank has.

    Args:
        own: this rank's gradients; emptied on the way, so that the memory is not taken twice.
        parameters: the trainable tensors by name, in the same order on every rank.
    """
    if world_size() == 1:
        return own
    sums: dict[str, Tensor] = {}
    for names in _buckets(parameters):
        like = parameters[names[0]]
        has = torch.tensor([name in own for name in names]).to(like)
        pieces = [own.pop(name, None) for name in names]
        parts = [torch.zeros_like(parameters[n]) if p is None else p for n, p in zip(names, pieces, strict=True)]
        flat = torch.cat([*(part.detach().reshape(-1) for part in parts), has])
        dist.all_reduce(flat)
        *parts, has = flat.split([*(parameters[name].numel() for name in names), len(names)])
        for name, part, ranks_that_have in zip(names, parts, has.tolist(), strict=True):
            if ranks_that_have:
                sums[name] = part.view_as(parameters[name])
    return {name: sums[name] for name in parameters if name in sums}


def _buckets(parameters: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Yield names of tensors of one type and device, together at most BUCKET_BYTES; a larger tensor comes alone."""
    names: list[str] = []
    num_bytes, kind = 0, None
    for name, tensor in parameters.items():
        tensor_bytes = tensor.numel() * tensor.element_size()
        if names and (num_bytes + tensor_bytes > BUCKET_BYTES or kind != (tensor.dtype, tensor.device)):
            yield names
            names, num_bytes = [], 0
        names.append(name)
        num_bytes, kind = num_bytes + tensor_bytes, (tensor.dtype, tensor.device)
    if names:
        yield names


def gathered(value: T) -> list[T]:
    """Return the values of all ranks, in the order of the ranks; a value must be picklable."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: T) -> T:
    """Return the value of rank 0, which must be picklable, on every rank."""
    if world_size() == 1:
        return value
    box = [value if is_main() else None]
    dist.broadcast_object_list(box, src=0)
    return cast(T, box[0])


def any_rank(flag: bool) -> bool:
    """Return whether the flag is true on any rank."""
    return bool(summed(torch.tensor(float(flag)))) if world_size() > 1 else flag


def from_main(compute: Callable[[], T]) -> T:
    """Call `compute` on rank 0 alone; return its value, or raise its error, on every rank.

    `compute` must not need the other ranks.
    """
    if world_size() == 1:
        return compute()
    outcome: Any = None
    if is_main():
        try:
            outcome = (True, compute())
        except Exception as error:
            outcome = (False, error)
    done, value = broadcast(outcome)
    if done:
        return value
    raise value


def with_help(ask: Callable[[Callable[..., Any]], T], compute: Callable[..., Any]) -> T:
    """Rank 0 looks a value up; if it must be computed, all ranks run `compute` together. Return it on every rank.

    Args:
        ask: called on rank 0 alone, with a function that runs `compute` on all ranks. It looks the value up, waits for
            another trial to compute it, or calls the function, which must not run twice at the same time.
        compute: computes the value on all ranks together; all get the arguments that rank 0 gave, which must be
            picklable.
    """
    if world_size() == 1:
        return ask(compute)
    return _lead(ask, compute) if is_main() else _follow(compute)


def _lead(ask: Callable[[Callable[..., Any]], T], compute: Callable[..., Any]) -> T:
    errors: list[Exception] = []

    def together(*args: Any) -> Any:
        broadcast(("compute", args))
        try:
            return compute(*args)
        except ALIKE:
            raise
        except Exception as error:
            errors.append(error)  # the others still compute and listen to no message: this process has to end
            raise

    try:
        value = ask(together)
    except Exception as error:
        if not errors:
            broadcast(("error", error))
        raise
    if errors:
        raise errors[0]
    broadcast(("value", value))
    return value


def _follow(compute: Callable[..., Any]) -> Any:
    while True:
        message: Any = broadcast(None)
        kind, value = message
        if kind == "value":
            return value
        if kind == "error":
            raise value
        with contextlib.suppress(*ALIKE):  # rank 0 raised it too, and sends what follows from it
            compute(*value)


def agreeing(stop: StopSignal) -> StopSignal:
    """Return a stop signal that is set on all ranks at once; with one rank, `stop` itself."""
    return stop if world_size() == 1 else _AgreedStop(stop)


def agree(stop: StopSignal) -> None:
    """Set a signal from `agreeing` on all ranks if any rank was asked to stop; nothing else sets it."""
    if isinstance(stop, _AgreedStop):
        stop.agree()


class _AgreedStop(StopSignal):
    """Follows the signals of all ranks, but changes only in `agree`, which all ranks call at the same step.

    If each rank obeyed its own signal, some would wait for ever for one that has left.

    Args:
        local: the signal of this process, set by other threads at any time.
    """

    def __init__(self, local: StopSignal):
        super().__init__()
        self._local = local

    def agree(self) -> None:
        asked = self._local.requested  # read once: it may be set at any time
        if any_rank(asked is not None):
            super().request(*next(request for request in gathered(asked) if request))

    def request(self, reason: Reason, why: str) -> None:
        self._local.request(reason, why)

    @contextlib.contextmanager
    def ends_passes(self, model: Model, step: int) -> Iterator[None]:
        """Raise TrialStopped before the first pass, not between two: the ranks need not be in the same one."""
        self.agree()
        self.check(step)
        yield
