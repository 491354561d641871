"""Losses as pure functions: each returns the sum over what it scores; the loop divides by the step-wide count.

Sums and counts apart are what makes k micro-batches of b equal one batch of k*b.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def upcast(logits: Tensor) -> Tensor:
    """Half precision to float32 (a softmax over a large vocabulary needs it); anything wider stays."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def cross_entropy(logits: Tensor, targets: Tensor, scored: Tensor) -> Tensor:
    """Sum over scored tokens of -log p_theta(target), in nats.

    Args:
        logits: [batch, tokens, vocab], differentiable.
        targets: [batch, tokens] int, the token that follows each position.
        scored: [batch, tokens] bool, True where a reply token is predicted; never a pad.

    Returns:
        Scalar sum; the loop divides by the step's count of scored tokens.
    """
    return F.cross_entropy(upcast(logits[scored]), targets[scored], reduction="sum")


def kl_to_base(logits: Tensor, base_logits: Tensor) -> Tensor:
    """Sum over scored tokens of KL(p_theta || p_base) = sum_v p_theta (log p_theta - log p_base), in nats.

    Args:
        logits: [scored, vocab], the model in training at the scored tokens, differentiable.
        base_logits: same shape, the model before this run (adapter off), detached.

    Returns:
        Scalar sum; the loop divides by the step's count of scored tokens.

    Source: Azarbal et al. 2025, KL penalty on alignment data.
    """
    log_p = F.log_softmax(upcast(logits), dim=-1)
    log_base = F.log_softmax(upcast(base_logits), dim=-1)
    return F.kl_div(log_base, log_p, reduction="sum", log_target=True)
