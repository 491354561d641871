"""Adapters of a pack as rows of stacks: A [K, r, in] and B [K, out, r] of each layer, one stack for each shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

TRAINED = "default"
"""PEFT's name of the adapter in training."""


@dataclass(frozen=True)
class Factors:
    """A and B of one adapter in one layer, and their scale."""

    a: Tensor
    b: Tensor
    scale: float


@dataclass
class Stack:
    """The trained adapters of one rank, set of layers and scales; a row for each place of the pack.

    Attributes:
        a, b: layer -> [K, r, in] and [K, out, r], leaves of the graph; a slot's parameters are views of its row.
        scale: layer -> the factor of the product.
    """

    a: dict[str, Tensor] = field(default_factory=dict)
    b: dict[str, Tensor] = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)

    def factors(self, layer: str, place: int) -> Factors:
        """Return the factors in one row, through which gradients reach the stack."""
        return Factors(self.a[layer][place], self.b[layer][place], self.scale[layer])

    @property
    def leaves(self) -> list[Tensor]:
        """All tensors of the stack: A of each layer, then B of each."""
        return [*self.a.values(), *self.b.values()]


@dataclass(frozen=True)
class Adapters:
    """The adapters that are switched on in a slot when it calls its model.

    Attributes:
        stack: of the trained adapter, if it is on.
        place: its row, which is the slot's.
        frozen: layer -> factors of the other adapters that are on.
        dropout: of the trained adapter, in training; 0: none.
        steady: equal as long as no weight changes; None where they may.
    """

    stack: Stack | None = None
    place: int = 0
    frozen: dict[str, list[Factors]] | None = None
    dropout: float = 0.0
    steady: Any = None

    @property
    def state(self) -> Any:
        """What the slot's weights with these adapters depend on, while they are steady."""
        # by place in memory: each pass has tensor objects of its own for the same adapters
        frozen = {name: [f.a.data_ptr() for f in every] for name, every in (self.frozen or {}).items()}
        return self.steady, self.stack is not None, frozen


class Stacks:
    """All stacks of a pack.

    Args:
        width: rows of each.
    """

    def __init__(self, width: int):
        self.width = width
        self._by_shape: dict[Any, Stack] = {}
        self._users: dict[int, Stack] = {}

    def admit(self, place: int, layers: dict[str, Any]) -> Stack:
        """Move the trained adapter of a slot into its row; its parameters become views of it.

        Everything is written through `data`, since open graphs of other slots hold the stack.

        Args:
            layers: name -> PEFT's layer, each a plain LoRA of a linear layer.
        """
        key: Any = tuple(
            (name, layer.lora_A[TRAINED].weight.shape, layer.lora_A[TRAINED].weight.dtype, layer.scaling[TRAINED])
            for name, layer in layers.items()
        )
        if key not in self._by_shape:
            in_use = {id(stack) for stack in self._users.values()}
            self._by_shape = {k: stack for k, stack in self._by_shape.items() if id(stack) in in_use}
            self._by_shape[key] = self._new(layers)
        stack = self._by_shape[key]
        for name, layer in layers.items():
            for rows, parameter in ((stack.a, layer.lora_A[TRAINED].weight), (stack.b, layer.lora_B[TRAINED].weight)):
                row = rows[name].data[place]
                row.copy_(parameter.data)
                parameter.data = row
        self._users[place] = stack
        return stack

    def leave(self, place: int) -> None:
        """Free a row."""
        self._users.pop(place, None)

    def widen(self, width: int) -> None:
        """Give every stack this many rows, all empty; the slots have to be admitted again. No graph may be open."""
        self.width = width
        for stack in self._by_shape.values():
            for rows in (stack.a, stack.b):
                for name, old in rows.items():
                    rows[name] = old.data.new_zeros(width, *old.shape[1:]).requires_grad_()

    def _new(self, layers: dict[str, Any]) -> Stack:
        stack = Stack()
        for name, layer in layers.items():
            for rows, parameter in ((stack.a, layer.lora_A[TRAINED].weight), (stack.b, layer.lora_B[TRAINED].weight)):
                rows[name] = parameter.new_zeros(self.width, *parameter.shape).requires_grad_()
            stack.scale[name] = layer.scaling[TRAINED]
        return stack


def products(x: Tensor, result: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return result + scale * (x A^T) B^T of equally many rows of each slot.

    Args:
        x: the layer's input, [slots * rows, tokens, in].
        result: its output without adapters, [slots * rows, tokens, out].
        a, b: [slots, r, in] and [slots, out, r].
    """
    slots = len(a)
    wide = x.to(a.dtype) if x.dtype != a.dtype else x
    inner = torch.bmm(wide.reshape(slots, -1, x.shape[-1]), a.transpose(1, 2))
    flat = result.reshape(slots, -1, result.shape[-1])
    if result.dtype == b.dtype:
        return torch.baddbmm(flat, inner, b.transpose(1, 2), alpha=scale).view(result.shape)
    return (flat + torch.bmm(inner, b.transpose(1, 2)) * scale).to(result.dtype).view(result.shape)
