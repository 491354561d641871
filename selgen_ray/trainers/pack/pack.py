"""The pack: one frozen base, the slots that share it, and how their requests are served together."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.evals.decoding import Choice, generated_ids, is_plain
from selgen_ray.models.loading import Model, Source, load_base, put_adapter
from selgen_ray.trainers.pack.joint import Forward, Joined, JointModel, Kind, Rows, order
from selgen_ray.trainers.pack.rendezvous import Outcome, Rendezvous, Request, Slot, State
from selgen_ray.trainers.pack.room import CudaMemory, DeviceMemory, Room
from selgen_ray.trainers.pack.shell import OWN, Generate, Shell, bare_copy
from selgen_ray.trainers.pack.stacks import Stacks

logger = logging.getLogger(__name__)
_MOST_WASTE = 0.25
"""Share of a joined pass's tokens that may be pads."""


class Backward(Request):
    """A slot's request for the gradients of its adapter.

    Attributes:
        forwards: its passes that have got a gradient; those that are left to compute.
    """

    def __init__(self, forwards: list[Forward]):
        super().__init__()
        self.forwards = forwards


class Pack:
    """Trains several LoRA trials over one frozen base, at most `width` at a time.

    Args:
        width: number of slots; None: the first trial trains alone, until the memory that it takes says how many fit.
        config: names the base, and says how it is loaded.
        device: where it lies.
        memory: of the device, where `width` is None; default: that of the CUDA device.
        share: of the device's memory that the pack may use, in (0, 1].
        on_width: called with a job's number, the width that its training led to, and the reason in words.

    Raises:
        ModelError: the base cannot be loaded, or there is no CUDA device whose memory decides.
    """

    def __init__(
        self,
        width: int | None,
        config: FinetuneConfig,
        device: str,
        *,
        memory: DeviceMemory | None = None,
        share: float = 1.0,
        on_width: Callable[[int, int, str], None] = lambda number, width, why: None,
    ):
        self._base: Any = load_base(config, device)
        self._room = None if width else Room(memory or CudaMemory(), share)
        self._on_width = on_width
        width = width or 1
        self._joint = JointModel(bare_copy(self._base), width)
        self._stacks = Stacks(width)
        self._rendezvous = Rendezvous(width, self)
        self._shells: dict[int, Shell] = {}
        self._open: list[Joined] = []
        self._can_drop = not _drops(self._base)
        self._generates = is_plain(self._joint.model)
        self.joined, self.served = 0, 0  # joined passes, and the slots' passes in them

    def run(
        self,
        jobs: Iterator[Callable[[PackedSource], Any]],
        on_end: Callable[[Outcome], None] = lambda _: None,
        on_round: Callable[[], None] = lambda: None,
    ) -> None:
        """Run jobs, each with a source of its own for its model; see `Rendezvous.run`."""
        self._rendezvous.run((lambda slot, job=job: job(PackedSource(self, slot)) for job in jobs), on_end, on_round)

    # -- called by the slots' threads -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def model(self, slot: Slot, config: FinetuneConfig, model_seed: int) -> Iterator[Model]:
        """Provide the model of a slot; an exception inside leaves the base as it is, since others use it."""
        model = put_adapter(bare_copy(self._base), config, model_seed)
        shell = Shell(model, slot, self._stacks, self, can_drop=self._can_drop)
        self._joint.adapt(list(shell.layers))
        self._shells[slot.place] = shell
        try:
            yield model
        finally:
            self._leave(slot)

    def forward(self, slot: Slot, request: Forward) -> Any:
        """Return the outputs of a slot's pass, or `OWN`.

        Raises:
            RuntimeError: somebody has called `backward` of a loss without the pack.
            torch.OutOfMemoryError: it does not fit, even alone.
        """
        self._check_leaves(slot)
        return slot.post(request)

    def backward(self, slot: Slot, loss: Tensor) -> None:
        """Add the gradient of a scalar to the `grad` of a slot's parameters.

        Raises:
            RuntimeError, torch.OutOfMemoryError: as in `forward`.
        """
        self._check_leaves(slot)
        loss.backward()
        forwards = list[Forward]()
        for forward in self._forwards(slot):
            leaves = [leaf() for leaf in forward.leaves]
            if any(leaf is not None and leaf.grad is not None for leaf in leaves):
                forward.seeds = [None if leaf is None else leaf.grad for leaf in leaves]
                for leaf in leaves:
                    if leaf is not None:
                        leaf.grad = None
                forwards.append(forward)
        if forwards:
            slot.post(Backward(forwards))

    def _forwards(self, slot: Slot) -> list[Forward]:
        return [m for joined in self._open for m in joined.members if m.slot is slot and m.is_open]

    def _check_leaves(self, slot: Slot) -> None:
        for forward in self._forwards(slot):
            if any((leaf := ref()) is not None and leaf.grad is not None for ref in forward.leaves):
                raise RuntimeError(
                    "backward() was called on a loss directly: in a pack the parameters get no gradient from it. "
                    "Return the loss as a term, or use self.run.source.backward(loss)"
                )

    # -- called while all slots stand still -------------------------------------------------------------------------

    def serve(self, slots: list[Slot]) -> bool:
        """Serve the most urgent requests: complete backward passes, forward passes, replies, other backward passes."""
        self._open = [joined for joined in self._open if joined.posted or joined.waiting]
        if self._room and self._room.is_known and not self._open and slots[0].state is State.POSTED:
            self._widen(self._room, slots[0])
            self._room = None
        if complete := [joined for joined in self._open if joined.posted and not joined.waiting]:
            return self._backwards(complete)
        requests = [slot.request for slot in slots if slot.state is State.POSTED]
        if forwards := [request for request in requests if isinstance(request, Forward)]:
            if all(forward.adapters.steady is None for forward in forwards):
                self._joint.sums.forget()  # training needs the memory
            for group in _groups(forwards):
                self._forwards_of(group)
            return True
        if generates := [request for request in requests if isinstance(request, Generate)]:
            self._replies(generates)
            return True
        # somebody holds outputs of these passes without asking for a gradient: the graph is kept for that slot
        return self._backwards([joined for joined in self._open if joined.posted])

    def _widen(self, room: Room, slot: Slot) -> None:
        """Make as many slots as there is room for, beside the one there is."""
        shell = self._shells[slot.place]
        width, why = room.width(sum(p.nbytes for p in shell.model.parameters() if p.requires_grad))
        self._stacks.widen(width)
        self._joint.sums.widen(width)
        self._stacks.admit(slot.place, shell.layers)
        self._rendezvous.width = width
        self._on_width(slot.number, width, why)

    def ended(self, slot: Slot) -> None:
        """Forget a slot; its rows in open passes get no gradient."""
        self._leave(slot)

    def _leave(self, slot: Slot) -> None:
        for forward in self._forwards(slot):
            forward.is_open = False
        self._shells.pop(slot.place, None)
        self._stacks.leave(slot.place)

    def _forwards_of(self, members: list[Forward]) -> None:
        start = time.monotonic()
        if self._room and members[0].kind.grad:
            self._room.forward()
        for member in members:
            assert member.slot is not None
            member.begin(member.slot.rng)
        try:
            joined = Joined(self._joint, members)
            outputs = joined.hand_out()
        except torch.OutOfMemoryError as error:
            why = error.with_traceback(None)
        except Exception as error:
            logger.warning("a joined forward pass failed, each trial runs its own: %s", error)
            for member in members:
                member.is_open = False
                member.done(OWN)
            return
        else:
            self.joined, self.served = self.joined + 1, self.served + len(members)
            if members[0].kind.grad:
                self._open.append(joined)
            for member, own in zip(members, outputs, strict=True):
                _slot(member).rng = member.rng
                member.done(own)
            _share(members, time.monotonic() - start)
            return
        self._halved(members, why, self._forwards_of)

    def _halved(self, members: list[Forward], why: Exception, serve: Callable[[list[Forward]], None]) -> None:
        """After an out-of-memory error, serve each half by itself; one that is alone gets the error."""
        _free()
        if len(members) == 1:
            members[0].is_open = False
            members[0].done(error=why)
            return
        for half in (members[: len(members) // 2], members[len(members) // 2 :]):
            serve(half)

    def _backwards(self, passes: Sequence[Joined]) -> bool:
        for joined in passes:
            self._gradients(joined, joined.posted)
        return bool(passes)

    def _gradients(self, joined: Joined, members: list[Forward]) -> None:
        start = time.monotonic()
        try:
            gradients = joined.gradients()
        except torch.OutOfMemoryError as error:
            why = error.with_traceback(None)
        else:
            for member in members:
                self._assign(member, gradients[id(member)])
            if self._room:
                self._room.backward()
            _share(members, time.monotonic() - start)
            return
        _free()
        if len(members) == 1:
            member = members[0]
            member.is_open = False
            request = _slot(member).request
            if isinstance(request, Backward):
                for forward in request.forwards:
                    forward.is_open = False
                request.done(error=why)
            return
        for half in (members[: len(members) // 2], members[len(members) // 2 :]):
            again = _Again(self._joint, half)
            self._gradients(again, half)

    def _assign(self, member: Forward, gradients: dict[tuple[str, str], Tensor]) -> None:
        """Add a pass's gradients to the slot's parameters; the slot goes on when all its passes are done."""
        slot = _slot(member)
        member.is_open = False
        for (side, name), gradient in gradients.items():
            layer = self._shells[slot.place].layers[name]
            parameter = (layer.lora_A if side == "a" else layer.lora_B)["default"].weight
            if parameter.requires_grad:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        request = slot.request
        if isinstance(request, Backward) and not any(forward.is_open for forward in request.forwards):
            request.done()

    def _replies(self, requests: list[Generate]) -> None:
        first = requests[0]
        alike = [r for r in requests if (r.pad, r.stops, r.limit) == (first.pad, first.stops, first.limit)]
        self._replies_of(alike)

    def _replies_of(self, requests: list[Generate]) -> None:
        if not self._generates:
            for request in requests:
                request.done(OWN)
            return
        start = time.monotonic()
        forwards = order([_stand_in(request) for request in requests])
        of_forward = {id(forward): forward.slot for forward in forwards}
        by_slot = {id(request.slot): request for request in requests}
        ordered = [by_slot[id(of_forward[id(forward)])] for forward in forwards]
        counts = [len(request.prompts) for request in ordered]
        whose = [number for number, count in enumerate(counts) for _ in range(count)]

        def keep(rows: list[int]) -> None:
            nonlocal whose
            whose = [whose[row] for row in rows]
            self._joint.rows = Rows(forwards, [whose.count(number) for number in range(len(forwards))])

        first = requests[0]
        try:
            with self._joint.serving(Rows(forwards, counts)), torch.no_grad():
                self._joint.prepare(forwards[0].kind)
                prompts = [prompt for request in ordered for prompt in request.prompts]
                choose = Choice([None] * len(prompts), first.limit)
                replies = generated_ids(self._joint.model, prompts, first.pad, first.stops, first.limit, choose, keep)
        except torch.OutOfMemoryError as error:
            why = error.with_traceback(None)
        except Exception as error:
            logger.warning("joined replies failed, each trial generates its own: %s", error)
            for request in requests:
                request.done(OWN)
            return
        else:
            for request, count in zip(ordered, counts, strict=True):
                own, replies = replies[:count], replies[count:]
                request.done(own)
            _share(forwards, time.monotonic() - start)
            return
        _free()
        if len(requests) == 1:
            requests[0].done(error=why)
            return
        self._replies_of(requests[: len(requests) // 2])
        self._replies_of(requests[len(requests) // 2 :])


class _Again(Joined):
    """Passes whose graph went for lack of memory; it is made again for the gradient."""

    def __init__(self, joint: JointModel, members: Sequence[Forward]):
        self.members, self._joint, self.outputs = list(members), joint, None


class PackedSource(Source):
    """Supplies one slot's model, and runs its backward passes."""

    def __init__(self, pack: Pack, slot: Slot):
        self._pack, self._slot = pack, slot

    def model(
        self, config: FinetuneConfig, model_seed: int, device: str, *, fsdp: bool = False
    ) -> contextlib.AbstractContextManager[Model]:
        """Provide the slot's model."""
        return self._pack.model(self._slot, config, model_seed)

    def backward(self, loss: Tensor) -> None:
        """Compute gradients together with those of the other slots."""
        self._pack.backward(self._slot, loss)


def _slot(request: Request) -> Slot:
    assert request.slot is not None
    return request.slot


def _stand_in(request: Generate) -> Forward:
    forward = Forward(
        Kind(False, False, "2d", True, False), torch.zeros(len(request.prompts), 1, 1), None, None, request.adapters
    )
    forward.slot = request.slot
    return forward


def _groups(forwards: Sequence[Forward]) -> Iterator[list[Forward]]:
    """Yield passes of one kind and of similar length: no more than a quarter of a group's tokens are pads."""
    by_kind: dict[Any, list[Forward]] = {}
    for forward in forwards:
        by_kind.setdefault(forward.kind, []).append(forward)
    for alike in by_kind.values():
        group = list[Forward]()
        for forward in sorted(alike, key=lambda f: f.tokens, reverse=True):
            longest = group[0].tokens if group else forward.tokens
            together = [*group, forward]
            used, size = sum(f.rows * f.tokens for f in together), longest * sum(f.rows for f in together)
            if group and size - used > _MOST_WASTE * size:
                yield order(group)
                group = []
            group.append(forward)
        yield order(group)


def _share(members: Sequence[Forward], seconds: float) -> None:
    """Add to each slot its share of the seconds of joint work, by tokens."""
    total = sum(member.rows * member.tokens for member in members)
    for member in members:
        _slot(member).seconds += seconds * member.rows * member.tokens / max(1, total)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _drops(base: Any) -> bool:
    """Return whether a model itself drops activations in training, whose masks would be those of nobody."""
    config = base.config.get_text_config()
    names = ("attention_dropout", "hidden_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "dropout", "layerdrop")
    modules = (m for m in base.modules() if isinstance(m, nn.Dropout))
    return any(getattr(config, name, 0) or 0 for name in names) or any(m.p > 0 for m in modules)
