"""Loss scaling for a float16 base: gradients that pass through its activations must stay within float16's range."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LossScale:
    """Scales a term's weighted mean to the size of its sum before the backward pass, and the gradients back after it.

    The gradient of a mean shrinks with the number of tokens, possibly below the smallest float16 (6e-8); that of the
    sum is of order 1 at each token, whatever batch size and weight are. The factor is a power of two, so scaling rounds
    nothing, and depends on the batch alone, so a resumed run gives the same result. Only a model with float16 weights
    is scaled. A gradient that overflows nevertheless makes the next loss infinite: the trial ends as diverged.

    Args:
        model: the model in training.
        parameters: the trainable tensors by name; their gradients are float32.
    """

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter]):
        self._parameters = parameters
        self._active = any(p.dtype == torch.float16 for p in model.parameters())
        self._scale: Tensor | float = 1.0

    def factor(self, weight: float, count: Tensor) -> Tensor | float:
        """Return the factor for weight * sum / count in its backward pass; rescale earlier gradients to it."""
        if self._active:
            self._set(torch.exp2(torch.log2(count / abs(weight)).round()))
        return self._scale

    def undo(self) -> None:
        """Divide the gradients by the factor."""
        if self._active:
            self._set(1.0)

    def _set(self, scale: Tensor | float) -> None:
        for parameter in self._parameters.values():
            if parameter.grad is not None:
                parameter.grad *= scale / self._scale
        self._scale = scale
