"""The slots' weights with their adapters added, while an evaluation lasts: a layer is one product for all slots."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selgen_ray.models.merged import EXACT, room_for_sums
from selgen_ray.trainers.pack.stacks import Adapters

_MOST_FILLING = 1.5
"""Rows that one product for all slots may have, as a multiple of those that are asked for: it needs as many of each."""


class Sums:
    """W + scale B A of each slot and layer, [K, out, in].

    Only plain linear layers in float32 or float64 are summed, where a sum is exact to rounding, and only where the
    memory does: see `models.merged`.

    Args:
        model: the base.
        width: number of slots.
    """

    def __init__(self, model: Any, width: int):
        self._model, self._width = model, width
        self._linears: dict[str, nn.Linear] = {}
        self._is_plain = True
        self._weights: dict[str, Tensor] = {}
        self._states: dict[int, Any] = {}  # place -> what its rows hold

    def adapt(self, layer: str, module: nn.Module) -> None:
        """Let a layer of the base be summed too."""
        if type(module) is nn.Linear and module.weight.dtype in EXACT:
            self._linears[layer] = module
        else:
            self._is_plain = False
        self.forget()

    def widen(self, width: int) -> None:
        """Make room for so many slots."""
        self._width = width
        self.forget()

    def forget(self) -> None:
        """Free the memory."""
        self._weights, self._states = {}, {}

    def hold(self, adapters: Mapping[int, Adapters]) -> bool:
        """Sum the weights of some slots, unless their rows hold them; return whether that can be done.

        Args:
            adapters: place -> those that are on.
        """
        if not self._is_plain or not self._has_room():
            return False
        with torch.no_grad():
            for place, own in adapters.items():
                if self._states.get(place) != own.state:
                    self._states.pop(place, None)
                    for layer, linear in self._linears.items():
                        self._sum(layer, linear, own)
                    self._states[place] = own.state
        return True

    def _has_room(self) -> bool:
        if not self._weights:
            needed = self._width * sum(linear.weight.nbytes for linear in self._linears.values())
            if needed > room_for_sums(self._model):
                return False
            self._weights = {
                layer: linear.weight.new_empty(self._width, *linear.weight.shape)
                for layer, linear in self._linears.items()
            }
        return True

    def _sum(self, layer: str, linear: nn.Linear, adapters: Adapters) -> None:
        row, stack = self._weights[layer][adapters.place].copy_(linear.weight), adapters.stack
        own = [stack.factors(layer, adapters.place)] if stack is not None and layer in stack.a else []
        for factors in (*own, *(adapters.frozen or {}).get(layer, ())):
            row.addmm_(factors.b.to(row.dtype), factors.a.to(row.dtype), alpha=factors.scale)

    def product(self, layer: str, x: Tensor, layout: Layout) -> Tensor:
        """Return a layer's output for the rows of some slots, [all rows, tokens, out].

        Args:
            layer: one that was adapted.
            x: its input, [all rows, tokens, in].
            layout: whose rows they are.
        """
        weights = self._weights[layer]
        bias: Any = self._linears[layer].bias  # None where the layer has none, which PyTorch's annotation forgets
        if not layout.is_joined:
            parts = x.split(layout.counts)
            own = [F.linear(part, weights[place], bias) for part, place in zip(parts, layout.places, strict=True)]
            return own[0] if len(own) == 1 else torch.cat(own)
        wide = x if layout.filled is None else x[layout.filled]
        first, slots = layout.places[0], len(layout.places)
        flat, chosen = wide.reshape(slots, -1, x.shape[-1]), weights[first : first + slots].transpose(1, 2)
        result = torch.bmm(flat, chosen) if bias is None else torch.baddbmm(bias, flat, chosen)
        result = result.view(*wide.shape[:-1], -1)
        return result if layout.back is None else result[layout.back]


@dataclass
class Layout:
    """Which rows of a joined pass are whose, where each slot has its own weights.

    Attributes:
        places, counts: of the slots that have rows, in the order of these, and the number of rows of each.
        is_joined: one product computes all; else each slot has its own.
        filled, back: as `filling` returns them; None: all have equally many rows.
    """

    places: list[int]
    counts: list[int]
    is_joined: bool
    filled: Tensor | None = None
    back: Tensor | None = None

    @classmethod
    def of(cls, places: Sequence[int], counts: Sequence[int], device: torch.device) -> Layout:
        """Lay out the rows of slots at these places; those without rows are left out."""
        present = [(place, count) for place, count in zip(places, counts, strict=True) if count]
        layout = cls([place for place, _ in present], [count for _, count in present], False)
        first, most, total = layout.places[0], len(present) * max(layout.counts), sum(layout.counts)
        are_neighbours = layout.places == list(range(first, first + len(present)))
        if len(present) > 1 and are_neighbours and most <= _MOST_FILLING * total:
            layout.is_joined = True
            if most > total:
                layout.filled, layout.back = filling(layout.counts, device)
        return layout


def filling(counts: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return numbers of rows that give each slot equally many, some twice, and where each row is among them."""
    most, starts = max(counts), [0, *itertools.accumulate(counts)]
    filled = [start + min(i, count - 1) for start, count in zip(starts, counts, strict=False) for i in range(most)]
    back = [slot * most + i for slot, count in enumerate(counts) for i in range(count)]
    return torch.tensor(filled, device=device), torch.tensor(back, device=device)
