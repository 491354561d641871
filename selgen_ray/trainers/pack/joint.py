"""One forward pass of the base for several slots: their rows under each other, each slot's adapters on its own rows."""

from __future__ import annotations

import contextlib
import functools
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from selgen_ray.trainers.pack.rendezvous import Request, Rng
from selgen_ray.trainers.pack.stacks import Adapters, Stack, products
from selgen_ray.trainers.pack.sums import Layout, Sums, filling


@dataclass(frozen=True)
class Kind:
    """The forward passes that can be joined agree in this.

    Attributes:
        grad: a gradient will be asked for.
        checkpointing: activations are computed again in the backward pass.
        mask: form of the attention mask: '2d', '4d', or the names of its parts, each 4d.
        positions: positions are given.
        hidden_states: the outputs of all layers are asked for.
    """

    grad: bool
    checkpointing: bool
    mask: str | tuple[str, ...]
    positions: bool
    hidden_states: bool


class Forward(Request):
    """A slot's call of its decoder.

    Attributes:
        embeds: [rows, tokens, features], detached.
        mask: attention mask, [rows, tokens], or what `Kind.mask` says.
        positions: [rows, tokens], or None.
        adapters: those that are on.
        leaves: weak references to the outputs that the slot got, through which its gradient comes back.
        seeds: the gradients of those, once it has posted them.
        is_open: the slot may still ask for a gradient.
    """

    def __init__(self, kind: Kind, embeds: Tensor, mask: Any, positions: Tensor | None, adapters: Adapters):
        super().__init__()
        self.kind, self.embeds, self.mask, self.positions, self.adapters = kind, embeds, mask, positions, adapters
        self.rows, self.tokens = embeds.shape[0], embeds.shape[1]
        self.leaves: list[weakref.ref[Tensor]] = []
        self.seeds: list[Tensor | None] | None = None
        self.is_open = kind.grad
        self._streams: dict[str, Rng] = {}
        self._rng: Rng | None = None

    def begin(self, rng: Rng) -> None:
        """Start with a state of the random streams; dropout masks are drawn from it."""
        self._streams, self._rng = {}, rng

    @property
    def rng(self) -> Rng:
        """The state of the random streams after the pass, with which the slot goes on."""
        assert self._rng is not None
        return self._rng

    def dropped(self, layer: str, x: Tensor) -> Tensor:
        """Return this slot's rows after dropout: the mask is drawn as it would be if the slot ran alone.

        When a layer is computed again, for its gradient or after an out-of-memory error, its mask is drawn again.

        Args:
            x: [rows, tokens of the joined pass, features].
        """
        p = self.adapters.dropout
        own = x[:, : self.tokens].contiguous()
        is_new = layer not in self._streams
        if is_new:
            self._streams[layer] = self.rng
        self._streams[layer].restore()
        own = F.dropout(own, p, training=True)
        if is_new:
            self._rng = Rng()
        return F.pad(own, (0, 0, 0, x.shape[1] - self.tokens)) if x.shape[1] > self.tokens else own

    def is_abandoned(self) -> bool:
        """Return whether nobody can ask for a gradient any more."""
        return self.is_open and self.seeds is None and all(leaf() is None for leaf in self.leaves)


@dataclass
class Part:
    """Rows of the joined pass that are computed alike: those of one stack, or those of one slot."""

    start: int
    end: int
    members: list[Forward]
    stack: Stack | None


class Rows:
    """Which rows of a joined pass are whose.

    Args:
        members: in the order of their rows; those of one stack, and of equally many rows, beside each other.
        counts: rows of each.
    """

    def __init__(self, members: Sequence[Forward], counts: Sequence[int]):
        self.members, self.counts = list(members), list(counts)
        self.ends = list(itertools.accumulate(counts))
        self.parts: list[Part] = []
        start = 0
        for member, count, end in zip(members, counts, self.ends, strict=True):
            if count:
                stack = member.adapters.stack if not member.adapters.frozen else None
                last = self.parts[-1] if self.parts else None
                if last and stack is not None and last.stack is stack:
                    last.members.append(member)
                    last.end = end
                else:
                    self.parts.append(Part(start, end, [member], stack))
            start = end
        self._index: dict[int, tuple[Tensor, Tensor]] = {}
        self._places: dict[int, Tensor] = {}
        self._count_of = {id(m): c for m, c in zip(members, counts, strict=True)}
        self._layout: Layout | None = None

    def layout(self, device: torch.device) -> Layout:
        """The rows by the places of the slots."""
        if self._layout is None:
            self._layout = Layout.of([member.adapters.place for member in self.members], self.counts, device)
        return self._layout

    def add(self, layer: str, x: Tensor, result: Tensor) -> Tensor:
        """Return the output of a layer with each slot's adapters added to its rows.

        Args:
            x: the layer's input, [all rows, tokens, in].
            result: its output without adapters, [all rows, tokens, out].

        Raises:
            ValueError: the layer does not get the rows as they are, as one that mixes them.
        """
        if x.ndim != 3 or len(x) != self.ends[-1]:
            raise ValueError(f"{layer} gets {tuple(x.shape)}, which are not the rows of the pass")
        whole = len(self.parts) == 1
        pieces = [
            self._added(part, layer, *(t if whole else t[part.start : part.end] for t in (x, result)))
            for part in self.parts
        ]
        return pieces[0] if whole else torch.cat(pieces)

    def _added(self, part: Part, layer: str, x: Tensor, result: Tensor) -> Tensor:
        if part.stack is None or layer not in part.stack.a:
            return self._of_one(part.members[0], layer, x, result)
        stack, counts = part.stack, [self._count_of[id(member)] for member in part.members]
        if any(member.adapters.dropout for member in part.members):
            starts = [0, *itertools.accumulate(counts)]
            x = x.to(stack.a[layer].dtype)
            own = [
                member.dropped(layer, x[a:b]) if member.adapters.dropout else x[a:b]
                for member, (a, b) in zip(part.members, itertools.pairwise(starts), strict=True)
            ]
            x = torch.cat(own) if len(own) > 1 else own[0]
        places = [member.adapters.place for member in part.members]
        a, b = stack.a[layer], stack.b[layer]
        if places != list(range(len(a))):
            if id(part) not in self._places:
                self._places[id(part)] = torch.tensor(places, device=x.device)
            chosen = self._places[id(part)]
            a, b = a.index_select(0, chosen), b.index_select(0, chosen)
        if len(set(counts)) == 1:
            return products(x, result, a, b, stack.scale[layer])
        filled, back = self._even(part, counts, x.device)
        return products(x[filled], result[filled], a, b, stack.scale[layer])[back]

    def _even(self, part: Part, counts: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return numbers of rows that give each slot equally many, some twice, and where each row is among them."""
        if id(part) not in self._index:
            self._index[id(part)] = filling(counts, device)
        return self._index[id(part)]

    @staticmethod
    def _of_one(member: Forward, layer: str, x: Tensor, result: Tensor) -> Tensor:
        """Return the rows of a slot with several adapters on, or none."""
        adapters = member.adapters
        if adapters.stack is not None and layer in adapters.stack.a:
            factors = adapters.stack.factors(layer, adapters.place)
            wide = x.to(factors.a.dtype)
            wide = member.dropped(layer, wide) if adapters.dropout else wide
            result = (result + F.linear(F.linear(wide, factors.a), factors.b) * factors.scale).to(result.dtype)
        for factors in (adapters.frozen or {}).get(layer, ()):
            product = F.linear(F.linear(x.to(factors.a.dtype), factors.a), factors.b) * factors.scale
            result = (result + product).to(result.dtype)
        return result


class JointModel:
    """The base, whose layers add the adapters of the slots in a joined pass; the frozen tensors are shared.

    Args:
        model: a copy of the base's modules with its tensors; nobody else may use it.
        width: number of slots.
    """

    def __init__(self, model: Any, width: int):
        self.model = model.eval()
        self.sums = Sums(model, width)
        self.decoder: Any = getattr(model, model.base_model_prefix)
        self._modules = dict(self.decoder.named_modules())
        self._is_checkpointing = False
        self.rows: Rows | None = None
        self._has_sums = False

    def adapt(self, layers: Sequence[str]) -> None:
        """Let these layers of the decoder add adapters from now on."""
        for name in layers:
            module = self._modules[name]
            if "forward" not in vars(module):
                vars(module)["forward"] = functools.partial(self._layer, name, module.forward)
                self.sums.adapt(name, module)

    def _layer(self, name: str, forward: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.rows is not None and self._has_sums:
            return self.sums.product(name, x, self.rows.layout(x.device))
        result = forward(x, *args, **kwargs)
        return result if self.rows is None else self.rows.add(name, x, result)

    @contextlib.contextmanager
    def serving(self, rows: Rows) -> Iterator[None]:
        """Add the adapters of these rows inside the context: to the weights while these are steady, else to outputs."""
        adapters = {member.adapters.place: member.adapters for member in rows.members}
        is_steady = all(each.steady is not None and not each.dropout for each in adapters.values())
        self.rows, self._has_sums = rows, is_steady and self.sums.hold(adapters)
        try:
            yield
        finally:
            self.rows, self._has_sums = None, False

    def prepare(self, kind: Kind) -> None:
        """Set the mode for a pass; a walk over all modules only where it changes."""
        if kind.checkpointing != self._is_checkpointing:
            if kind.checkpointing:
                self.model.activation_checkpointing_enable({"use_reentrant": False})
            else:
                self.model.activation_checkpointing_disable()
            self.model.train(kind.checkpointing)  # layers are computed again in training alone
            self._is_checkpointing = kind.checkpointing

    def outputs(self, members: Sequence[Forward], rows: Rows) -> list[Tensor]:
        """Return the last hidden states of a joined pass, [all rows, tokens, features], or those of all layers.

        Where all are asked for, the last hidden states come first.
        """
        kind, tokens = members[0].kind, max(member.tokens for member in members)
        inputs: dict[str, Any] = {"inputs_embeds": _joined([_padded(m.embeds, tokens) for m in members])}
        inputs["attention_mask"] = _joined_masks([m.mask for m in members], tokens)
        if kind.positions:
            inputs["position_ids"] = _joined([_padded(m.positions, tokens) for m in members])
        if kind.hidden_states:
            inputs["output_hidden_states"] = True
        self.prepare(kind)
        with self.serving(rows), torch.set_grad_enabled(kind.grad):
            output = self.decoder(**inputs, use_cache=False)
        if not kind.hidden_states:
            return [output.last_hidden_state]
        return [output.last_hidden_state, *output.hidden_states]


class Joined:
    """A joined forward pass of slots that will ask for gradients; its graph ends at the hidden states that they got.

    Attributes:
        members: whose rows it holds, in their order.
    """

    def __init__(self, joint: JointModel, members: Sequence[Forward]):
        self.members = list(members)
        self._joint = joint
        self._rows = Rows(members, [member.rows for member in members])
        self.outputs: list[Tensor] | None = joint.outputs(members, self._rows)

    def hand_out(self) -> list[list[Tensor]]:
        """Return for each member its rows of each output; of a pass with gradients they are leaves of its own graph."""
        assert self.outputs is not None
        parts: list[list[Tensor]] = []
        for member, end in zip(self.members, self._rows.ends, strict=True):
            own = [output[end - member.rows : end, : member.tokens].detach() for output in self.outputs]
            if member.kind.grad:
                own = [part.requires_grad_() for part in own]
                member.leaves = [weakref.ref(part) for part in own]
            parts.append(own)
        return parts

    @property
    def waiting(self) -> list[Forward]:
        """The members that may still post a gradient, and have not."""
        return [m for m in self.members if m.is_open and m.seeds is None and not m.is_abandoned()]

    @property
    def posted(self) -> list[Forward]:
        """The members whose gradient waits to be computed."""
        return [m for m in self.members if m.is_open and m.seeds is not None]

    def gradients(self) -> dict[int, dict[tuple[str, str], Tensor]]:
        """Compute the gradients of all members that have posted: id of the member -> (side, layer) -> gradient.

        The graph stays for the others, if there are some.

        Raises:
            torch.OutOfMemoryError: it did not fit; the graph is gone.
        """
        posted, keep = self.posted, bool(self.waiting)
        if self.outputs is None:  # it went to make room: compute the pass again for these alone
            again = Joined(self._joint, posted)
            return again.gradients()
        outputs, seeds = list[Tensor](), list[Tensor]()
        for number, output in enumerate(self.outputs):
            own = [m.seeds[number] if m.is_open and m.seeds is not None else None for m in self.members]
            if any(seed is not None for seed in own):
                outputs.append(output)
                seeds.append(self._seed(output, own))
        stacks = {id(m.adapters.stack): m.adapters.stack for m in posted if m.adapters.stack is not None}
        leaves = [leaf for stack in stacks.values() for leaf in stack.leaves]
        try:
            with self._joint.serving(self._rows):
                found: Any = torch.autograd.grad(outputs, leaves, seeds, retain_graph=keep, allow_unused=True)
        except torch.OutOfMemoryError:
            self.outputs = None
            raise
        by_leaf = {id(leaf): None if g is None else g.unbind() for leaf, g in zip(leaves, found, strict=True)}
        gradients: dict[int, dict[tuple[str, str], Tensor]] = {}
        for member in posted:
            stack, of_member = member.adapters.stack, dict[tuple[str, str], Tensor]()
            for side, rows in (("a", stack.a), ("b", stack.b)) if stack is not None else ():
                for layer, leaf in rows.items():
                    if (by_place := by_leaf[id(leaf)]) is not None:
                        of_member[side, layer] = by_place[member.adapters.place]
            gradients[id(member)] = of_member
        return gradients

    def _seed(self, output: Tensor, own: list[Tensor | None]) -> Tensor:
        parts = list[Tensor]()
        for member, seed in zip(self.members, own, strict=True):
            if seed is None:
                parts.append(output.new_zeros(member.rows, *output.shape[1:]))
            else:
                parts.append(_padded(seed, output.shape[1]))
        return _joined(parts)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _padded(tensor: Any, tokens: int) -> Tensor:
    """Return [rows, n, ...] with zeros after the n tokens, [rows, tokens, ...]."""
    more = tokens - tensor.shape[1]
    return tensor if not more else F.pad(tensor, (*(0, 0) * (tensor.ndim - 2), 0, more))


def _joined_masks(masks: list[Any], tokens: int) -> Any:
    if isinstance(masks[0], dict):
        return {name: _joined_masks([mask[name] for mask in masks], tokens) for name in masks[0]}
    if masks[0].ndim == 2:
        return _joined([_padded(mask, tokens) for mask in masks])
    return _joined([_padded_square(mask, tokens) for mask in masks])


def _padded_square(mask: Tensor, tokens: int) -> Tensor:
    """Pad a mask of who sees whom, [rows, 1, n, n]; a pad sees itself alone, since a softmax needs something."""
    n = mask.shape[-1]
    if n == tokens:
        return mask
    sees, hidden = (True, False) if mask.dtype == torch.bool else (0.0, torch.finfo(mask.dtype).min)
    padded = mask.new_full((len(mask), 1, tokens, tokens), hidden)
    padded[:, :, :n, :n] = mask
    pads = torch.arange(n, tokens, device=mask.device)
    padded[:, :, pads, pads] = sees
    return padded


def order(members: Sequence[Forward]) -> list[Forward]:
    """Return the members in the order of their rows: by stack, then by number of rows, then by place.

    Where the weights are steady, by place: stacks do not matter.
    """
    if all(member.adapters.steady is not None for member in members):
        return sorted(members, key=lambda m: m.adapters.place)
    key: Callable[[Forward], Any] = lambda m: (  # noqa: E731
        id(m.adapters.stack) if m.adapters.stack is not None and not m.adapters.frozen else 0,
        m.rows,
        m.adapters.place,
    )
    return sorted(members, key=key)
