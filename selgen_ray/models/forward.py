"""Forward passes of a model: with or without its adapter, the head at scored tokens only."""

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
    """The base model's own predictions, for as long as the context lasts; full fine-tuning has no adapter."""
    with model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _head_gets(model: Model, part: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """The head is given `part` of the last hidden states instead of all, for as long as the context lasts."""
    head: Any = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (part(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def scored_logits(model: Model, batch: Batch) -> torch.Tensor:
    """The logits of the scored tokens alone, [scored, vocab], in the order of the rows; differentiable.

    The head, often the largest matrix, skips prompts and pads.

    Raises:
        ModelError: the model reshapes its logits, so that the scored ones cannot be told apart.
    """
    with _head_gets(model, lambda hidden: hidden[batch.scored]):
        logits = model(**batch.inputs, use_cache=False).logits
    if logits.shape[:-1] != (batch.num_scored,):
        raise ModelError(f"{type(model).__name__} does not compute its logits by its output embeddings token by token")
    return logits


def hidden_states(model: Model, batch: Batch, **options: Any) -> tuple[torch.Tensor, Any]:
    """A forward pass without the head, but for the first token of each row.

    Args:
        **options: of the model's forward, such as `output_hidden_states`.

    Returns:
        What the head would have been given, [batch, tokens, features], and the model's output, its logits
        [batch, 1, vocab].
    """
    seen: list[torch.Tensor] = []

    def first(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden)
        return hidden[:, :1]

    with _head_gets(model, first):
        output = model(**batch.inputs, use_cache=False, **options)
    return seen[0], output
