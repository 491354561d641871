"""The blocks of a model, numbered 1 to L: reading and changing what each of them gives to the next.

Layer l is the output of block l, before the final norm: for l = L that is not transformers' `hidden_states[L]`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from selgen_ray.errors import ModelError
from selgen_ray.models.loading import Model, base_of
from selgen_ray.models.log_probs import upcast

LAYER_KEYS = ("representation_layers", "steer_layers", "ablate_layers", "penalty_layers")
"""Keys of `finetune_config` that list layers."""


def num_layers(model: Any) -> int:
    """Return L, the number of blocks."""
    return int(model.config.get_text_config().num_hidden_layers)


def check_layers(key: str, layers: Sequence[int], count: int) -> None:
    """Check the layers that a key names.

    Raises:
        ModelError: one is not a number from 1 to `count`, or is given twice.
    """
    wrong = [layer for layer in layers if not 1 <= layer <= count]
    twice = [layer for layer in layers if layers.count(layer) > 1]
    if found := [*wrong, *twice]:
        how = "" if wrong else " twice"
        raise ModelError(
            f"finetune_config.{key}: found {found[0]}{how}; this model has the layers 1 to {count}, each of which can "
            "be named once"
        )


def blocks_of(model: Model) -> nn.ModuleList:
    """Return the blocks of a model, with or without an adapter; layer l is number l - 1.

    Raises:
        ModelError: the model keeps its blocks in no list.
    """
    inner: Any = base_of(model)
    count = num_layers(inner)
    # the decoder first: a model that reads images may have as many blocks for these, before those of the text
    modules = itertools.chain(inner.get_decoder().modules(), inner.modules())
    lists = (module for module in modules if isinstance(module, nn.ModuleList) and len(module) == count)
    blocks = next(lists, None)
    if blocks is None:
        raise ModelError(f"{type(inner).__name__} keeps its {count} blocks in no list: its layers cannot be reached")
    return blocks


@contextlib.contextmanager
def reading(model: Model, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Give a dict that holds, after each forward pass inside the context, the output of each of the layers.

    Each is [batch, tokens, features], differentiable.
    """
    blocks, outputs = blocks_of(model), dict[int, Tensor]()

    def keep(layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.callback(blocks[layer - 1].register_forward_hook(keep(layer)).remove)
        yield outputs


@contextlib.contextmanager
def changing(model: Model, changes: Mapping[int, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Replace the output of layers inside the context, at every position of every forward pass.

    With an adapter, passes in which it is switched off (`adapter_off`) are those of the start model: nothing is
    replaced in them.

    Args:
        changes: layer -> function of its output, [batch, tokens, features], that returns a tensor of its shape.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer  # late: start-up, a plan runs no model

    blocks = blocks_of(model)
    adapted = next((module for module in model.modules() if isinstance(module, BaseTunerLayer)), None)

    def apply(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            if adapted is not None and adapted.disable_adapters:
                return output
            return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

        return hook

    with contextlib.ExitStack() as stack:
        for layer, change in changes.items():
            stack.callback(blocks[layer - 1].register_forward_hook(apply(change)).remove)
        yield


def adding(vector: Tensor) -> Callable[[Tensor], Tensor]:
    """Return h -> h + vector, at every position; `vector`, [features], is cast to the type of h."""
    return lambda hidden: hidden + vector.to(hidden)


def ablating(basis: Tensor) -> Callable[[Tensor], Tensor]:
    """Return h -> h - Q Q^T h, at every position, computed in float32 where h is of half precision.

    Args:
        basis: Q, [features, k], with orthonormal columns.
    """

    def change(hidden: Tensor) -> Tensor:
        wide = upcast(hidden)
        q = basis.to(wide)
        return (wide - (wide @ q) @ q.T).to(hidden.dtype)

    return change


def own_positions(scored: Tensor) -> Tensor:
    """Return the mask of the scored tokens, from that of the positions that predict them; both [batch, tokens]."""
    own = scored.roll(1, dims=1)
    own[:, 0] = False
    return own


def means_of_rows(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the masked tokens of each row, in float32 at least; [batch, features].

    Args:
        hidden: [batch, tokens, features].
        mask: [batch, tokens]; True at least once in each row.
    """
    return torch.stack([upcast(h)[where].mean(0) for h, where in zip(hidden, mask, strict=True)])
