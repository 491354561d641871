"""Log-probabilities of scored tokens, in nats; sums, since the caller knows the step-wide count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def upcast(logits: Tensor) -> Tensor:
    """Half precision to float32 (a softmax over a large vocabulary needs it); anything wider stays."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over scored tokens of -log p_theta(target), in nats.

    Args:
        logits: [scored, vocab], at the scored tokens, differentiable.
        targets: [scored] int, the tokens to be predicted there.

    Returns:
        Scalar sum; the loop divides by the step's count of scored tokens.
    """
    return F.cross_entropy(upcast(logits), targets, reduction="sum")


def reply_log_probs(logits: Tensor, targets: Tensor, scored: Tensor) -> Tensor:
    """log pi_theta(y | x), summed over the scored tokens of each row, in nats.

    Args:
        logits: [scored tokens, vocab], row after row.
        targets, scored: [batch, tokens].

    Returns:
        [batch]
    """
    log_p = -F.cross_entropy(upcast(logits), targets[scored], reduction="none")
    row = scored.nonzero()[:, 0]
    return log_p.new_zeros(len(scored)).index_add(0, row, log_p)
