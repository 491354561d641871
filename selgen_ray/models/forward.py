"""Forward passes of a model: without its adapter, or with the head computed at scored tokens only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import PeftModel

from selgen_ray.data.encode import Batch
from selgen_ray.errors import ModelError
from selgen_ray.models.loading import Model


@contextlib.contextmanager
def adapter_off(model: Model) -> Iterator[None]:
    """Switch the adapter off inside the context, so that the base model predicts; no effect without an adapter."""
    with model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _head_gets(model: Model, part: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Give the head only `part` of the last hidden states inside the context."""
    head: Any = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (part(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def scored_logits(model: Model, batch: Batch) -> torch.Tensor:
    """Return the logits of the scored tokens only, row after row; differentiable.

    The head, often the largest matrix, is not computed at prompts and pads, which saves time and memory.

    Returns:
        [scored tokens of the batch, vocab]

    Raises:
        ModelError: the model does not compute its logits token by token from its output embeddings.
    """
    return scored_output(model, batch)[0]


def scored_output(model: Model, batch: Batch, **options: Any) -> tuple[torch.Tensor, Any]:
    """Return the logits of `scored_logits`, and the model's output.

    Args:
        **options: for the model's forward, such as `output_hidden_states=True`.
    """
    with _head_gets(model, lambda hidden: hidden[batch.scored]):
        output = model(**batch.inputs, use_cache=False, **options)
    if output.logits.shape[:-1] != (batch.num_scored,):
        raise ModelError(f"{type(model).__name__} does not compute its logits by its output embeddings token by token")
    return output.logits, output


def hidden_states(model: Model, batch: Batch, **options: Any) -> tuple[torch.Tensor, Any]:
    """Run a forward pass that computes the head at the first token of each row only.

    Args:
        **options: for the model's forward, such as `output_hidden_states=True`.

    Returns:
        The last hidden states, which are the head's input, [batch, tokens, features], and the model's output, whose
        logits are [batch, 1, vocab].
    """
    seen: list[torch.Tensor] = []

    def first(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden)
        return hidden[:, :1]

    with _head_gets(model, first):
        output = model(**batch.inputs, use_cache=False, **options)
    return seen[0], output
