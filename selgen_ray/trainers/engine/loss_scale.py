"""Loss scaling for a float16 base: gradients on their way through its activations must not leave float16's range."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LossScale:
    """Sends the gradient of a term's sum, not of its weighted mean, through the model, and takes the factor out again.

    The gradient of a mean shrinks with the number of tokens, and with it below what float16 can hold (6e-8); that of
    the sum is of order 1 at a token, whatever batch size and weight are. The factor is a power of two, so nothing is
    rounded, and follows from the batch alone, so a resumed run is the same. Only a model with float16 weights is
    scaled. A gradient that is too large even so makes the next loss infinite, and the trial ends as diverged.

    Args:
        model: what is trained.
        parameters: the trainable tensors by name; their gradients are float32.
    """

    def __init__(self, model: nn.Module, parameters: dict[str, nn.Parameter]):
        self._parameters = parameters
        self._active = any(p.dtype == torch.float16 for p in model.parameters())
        self._scale: Tensor | float = 1.0

    def factor(self, weight: float, count: Tensor) -> Tensor | float:
        """What to multiply weight * sum / count by before its backward pass; earlier gradients are multiplied too."""
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
