"""Forward passes of a model: without its adapter, or with the head computed at scored tokens only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from selgen_ray.data.encode import Batch
from selgen_ray.data.trees import TreeBatch
from selgen_ray.errors import ModelError
from selgen_ray.models.loading import Model, has_adapter

# model_type of the models whose layers take a mask and positions as they are given, as it is in transformers 5:
_CAUSAL = {"llama", "gemma", "cohere", "olmo2", "granite", "gpt_neox", "gpt2"}  # one causal mask
_WINDOWED = {"mistral", "mixtral", "phi3", "qwen3_moe"}  # one mask, with the config's sliding window if it has one
_BY_LAYER = {"qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3"}  # a mask for each kind of layer


@contextlib.contextmanager
def adapter_off(model: Model) -> Iterator[None]:
    """Switch the adapters off inside the context, so that the base model predicts; no effect without an adapter."""
    if not has_adapter(model):
        yield
        return
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter in frozen:  # PEFT makes every adapter trainable that it switches on again
            parameter.requires_grad_(False)


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
    output = _output_at(model, batch.scored, **batch.inputs, **options)
    return output.logits, output


def _output_at(model: Model, scored: torch.Tensor, **inputs: Any) -> Any:
    with _head_gets(model, lambda hidden: hidden[scored]):
        output = model(**inputs, use_cache=False)
    if output.logits.ndim != 2 or len(output.logits) != int(scored.sum()):
        raise ModelError(f"{type(model).__name__} does not compute its logits by its output embeddings token by token")
    return output


def takes_trees(model: Model) -> bool:
    """Return whether `tree_logits` can run rows that hold several sequences: the model must obey mask and positions."""
    config: Any = model.config
    known = config.model_type in _CAUSAL | _WINDOWED | _BY_LAYER
    both_ways = getattr(config, "use_bidirectional_attention", False)
    return known and not both_ways and config._attn_implementation in ("eager", "sdpa")


def tree_logits(model: Model, batch: TreeBatch) -> torch.Tensor:
    """Return the logits of the scored nodes of trees, tree after tree.

    Returns:
        [scored nodes of the batch, vocab]

    Raises:
        ModelError: the model does not compute its logits token by token from its output embeddings.
    """
    if batch.sees is None:  # no tree branches: ordinary rows, for any model
        return _output_at(model, batch.scored, input_ids=batch.input_ids, attention_mask=batch.is_node).logits
    inputs = {"input_ids": batch.input_ids, "position_ids": batch.positions, "attention_mask": _masks(model, batch)}
    return _output_at(model, batch.scored, **inputs).logits


def _masks(model: Model, batch: TreeBatch) -> Any:
    """Return the attention mask of a batch of trees in the form that the model's layers take."""
    config: Any = model.config
    sees: Any = batch.sees
    window = None if config.model_type in _CAUSAL else getattr(config, "sliding_window", None)
    near = sees
    if window is not None:  # a distance is that in the sequence, not that in the row
        near = sees & (batch.positions[:, :, None] - batch.positions[:, None, :] < window)
    if config.model_type in _BY_LAYER:
        return {"full_attention": _as_mask(model, sees), "sliding_attention": _as_mask(model, near)}
    return _as_mask(model, near)


def _as_mask(model: Model, sees: torch.Tensor) -> torch.Tensor:
    """Return [batch, 1, nodes, nodes]: for sdpa as it is, for eager attention as numbers to add to the scores."""
    config: Any = model.config
    if config._attn_implementation == "sdpa":
        return sees[:, None]
    lowest = torch.finfo(model.dtype).min
    return torch.zeros(sees.shape, dtype=model.dtype, device=sees.device).masked_fill(~sees, lowest)[:, None]


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
