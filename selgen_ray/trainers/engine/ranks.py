"""What the ranks of one trial do together: sums, agreements, what rank 0 has. With one rank all of it is the identity.

A rank is one of the processes that train a trial. Whoever starts them sets up torch.distributed; where nobody did, this
process is the only rank. Every function but the first three is to be called by all ranks, in the same order.
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
BUCKET_BYTES = 2**28  # so much is copied at a time for a reduction
ALIKE = (TrialDiverged, TrialStopped)
"""Errors that all ranks meet at the same place."""


def world_size() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this is rank 0, the one that writes files."""
    return rank() == 0


def check_number(num_workers: int) -> None:
    """Raises ValueError: a trial's `num_workers` is not the number of ranks."""
    if num_workers != world_size():
        raise ValueError(
            f"num_workers is {num_workers}, but {world_size()} process(es) train this trial: start it with `sweep` and "
            "resources.workers, or with torchrun and torch.distributed set up"
        )


def summed(numbers: Tensor) -> Tensor:
    """Numbers of every rank, added up."""
    if world_size() > 1:
        numbers = numbers.clone()
        dist.all_reduce(numbers)
    return numbers


def summed_gradients(own: dict[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of every rank, added up in a few large pieces; a name that no rank has stays without one.

    Args:
        own: this rank's; emptied on the way, so that the memory is not taken twice.
        parameters: the trainable tensors by name, in the same order on every rank.
    """
    if world_size() == 1:
        return own
    found: dict[str, Tensor] = {}
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
                found[name] = part.view_as(parameters[name])
    return {name: found[name] for name in parameters if name in found}


def _buckets(parameters: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Names of tensors of one type that together are not too large; a larger one is alone."""
    names: list[str] = []
    size, kind = 0, None
    for name, tensor in parameters.items():
        more = tensor.numel() * tensor.element_size()
        if names and (size + more > BUCKET_BYTES or kind != (tensor.dtype, tensor.device)):
            yield names
            names, size = [], 0
        names.append(name)
        size, kind = size + more, (tensor.dtype, tensor.device)
    if names:
        yield names


def gathered(value: T) -> list[T]:
    """The picklable value of every rank, by rank."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def broadcast(value: T) -> T:
    """The picklable value of rank 0."""
    if world_size() == 1:
        return value
    box = [value if is_main() else None]
    dist.broadcast_object_list(box, src=0)
    return cast(T, box[0])


def any_rank(flag: bool) -> bool:
    """Whether it is true of a rank."""
    return bool(summed(torch.tensor(float(flag)))) if world_size() > 1 else flag


def from_main(compute: Callable[[], T]) -> T:
    """What `compute` gives to rank 0, or raises there, on every rank; it must need none of the others."""
    if world_size() == 1:
        return compute()
    found: Any = None
    if is_main():
        try:
            found = (True, compute())
        except Exception as error:
            found = (False, error)
    done, value = broadcast(found)
    if done:
        return value
    raise value


def with_help(ask: Callable[[Callable[..., Any]], T], compute: Callable[..., Any]) -> T:
    """What rank 0 gets by `ask`, on every rank, where `compute` needs all ranks.

    Args:
        ask: called by rank 0 alone, with a function to be called at most once at a time instead of `compute`. It may
            wait for others, look the value up, or have it computed.
        compute: the same on every rank; its picklable arguments are those that rank 0 is given.
    """
    if world_size() == 1:
        return ask(compute)
    return _lead(ask, compute) if is_main() else _follow(compute)


def _lead(ask: Callable[[Callable[..., Any]], T], compute: Callable[..., Any]) -> T:
    alone: list[Exception] = []

    def together(*args: Any) -> Any:
        broadcast(("compute", args))
        try:
            return compute(*args)
        except ALIKE:
            raise
        except Exception as error:
            alone.append(error)  # the others are in the middle of it, and hear nothing: this process has to end
            raise

    try:
        value = ask(together)
    except Exception as error:
        if not alone:
            broadcast(("error", error))
        raise
    if alone:
        raise alone[0]
    broadcast(("value", value))
    return value


def _follow(compute: Callable[..., Any]) -> Any:
    while True:
        message: Any = broadcast(None)
        what, value = message
        if what == "value":
            return value
        if what == "error":
            raise value
        with contextlib.suppress(*ALIKE):  # rank 0 met it too, and says what follows from it
            compute(*value)


def agreeing(stop: StopSignal) -> StopSignal:
    """A signal that is set on all ranks at once; with one rank the very same one."""
    return stop if world_size() == 1 else _AgreedStop(stop)


def agree(stop: StopSignal) -> None:
    """Let a signal from `agreeing` be set if that of any rank is; nothing else sets it."""
    if isinstance(stop, _AgreedStop):
        stop.agree()


class _AgreedStop(StopSignal):
    """Follows the ranks' own signals, but changes only where all ranks meet: else some would wait for those that left.

    Args:
        own: what others set in this process, at any time.
    """

    def __init__(self, own: StopSignal):
        super().__init__()
        self._own = own

    def agree(self) -> None:
        asked = self._own.requested  # once: it may be set at any time
        if any_rank(asked is not None):
            super().request(*next(found for found in gathered(asked) if found))

    def request(self, reason: Reason, why: str) -> None:
        self._own.request(reason, why)

    @contextlib.contextmanager
    def ends_passes(self, model: Model, step: int) -> Iterator[None]:
        """Raises TrialStopped before the first pass, not between two: the ranks need not be in the same one."""
        self.agree()
        self.check(step)
        yield
