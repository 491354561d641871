"""Log-probabilities of scored tokens, in nats. They are summed: only the caller knows the token count of a step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def upcast(logits: Tensor) -> Tensor:
    """Return half-precision logits as float32, which a softmax over a large vocabulary needs; others unchanged."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum over scored tokens of -log p_theta(target), in nats.

    Args:
        logits: logits at the scored tokens, [scored, vocab], differentiable.
        targets: the tokens to predict there, [scored], int.

    Returns:
        Scalar sum; the training loop divides it by the number of scored tokens of the step.
    """
    return F.cross_entropy(upcast(logits), targets, reduction="sum")


def reply_log_probs(logits: Tensor, targets: Tensor, scored: Tensor) -> Tensor:
    """Return log pi_theta(y | x) of each row, the sum over its scored tokens, in nats.

    Args:
        logits: logits at the scored tokens, row after row, [scored, vocab], differentiable.
        targets: the token to predict at each position, [batch, tokens], int.
        scored: mask of the scored positions, [batch, tokens], bool.

    Returns:
        [batch]; 0 for a row without scored tokens.
    """
    log_p = -F.cross_entropy(upcast(logits), targets[scored], reduction="none")
    row = scored.nonzero()[:, 0]
    return log_p.new_zeros(len(scored)).index_add(0, row, log_p)
