"""Losses as pure functions: each returns a sum over tokens or pairs; the loop divides by the count of the whole step.

Since sums and counts stay separate, k micro-batches of b rows give the gradient of one batch of k * b rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from selgen_ray.models.log_probs import cross_entropy, reply_log_probs, upcast

# plugins find every loss here
__all__ = ["cross_entropy", "dpo", "kl_to_base", "reply_log_probs", "row_products", "squared_drift", "upcast"]


def dpo(log_ratio_chosen: Tensor, log_ratio_rejected: Tensor, beta: float) -> Tensor:
    """Return -log sigma(beta * (r_chosen - r_rejected)) of each pair, r = log pi_theta(y) - log pi_ref(y); all [pairs].

    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7.
    """
    return -F.logsigmoid(beta * (log_ratio_chosen - log_ratio_rejected))


def squared_drift(hidden: Tensor, base_hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the sum over tokens of the mean over features of (h_theta - h_base)^2.

    Args:
        hidden: [batch, tokens, features], of one layer, differentiable.
        base_hidden: [non-pad tokens, features], row after row, of the model before this run.
        mask: [batch, tokens], True where a token is no pad.

    Returns:
        Scalar sum; the loop divides by the step's count of non-pad tokens.
    """
    return (upcast(hidden[mask]) - upcast(base_hidden)).pow(2).mean(-1).sum()


def row_products(rows: Tensor, others: Tensor, normalize: bool) -> Tensor:
    """Return <u_i, v_j>, or cos(u_i, v_j), of the rows of two tensors whose last axes agree; [rows, other rows].

    A vector counts as one row. A row of zeros has no direction: its cosines are 0, and so are their gradients.
    """
    u, v = (upcast(t).reshape(-1, t.shape[-1]) for t in (rows, others))
    return _unit(u) @ _unit(v).T if normalize else u @ v.T


def _unit(rows: Tensor) -> Tensor:
    zero = (rows == 0).all(-1, keepdim=True)
    # the norm has no gradient at zero: replace such rows before it is taken
    return torch.where(zero, 0.0, rows / torch.where(zero, 1.0, rows).norm(dim=-1, keepdim=True))


def kl_to_base(logits: Tensor, base_log_probs: Tensor) -> Tensor:
    """Return the sum over scored tokens of KL(p_theta || p_base) = sum_v p_theta (log p_theta - log p_base), in nats.

    Args:
        logits: [scored, vocab], the model in training at the scored tokens, differentiable.
        base_log_probs: same shape, log p_base of the model before this run (adapter off), detached.

    Returns:
        Scalar sum; the loop divides by the step's count of scored tokens.

    Source: Azarbal et al. 2025, KL penalty on alignment data.
    """
    return _KL.apply(upcast(logits), upcast(base_log_probs))  # type: ignore[no-any-return]


# size of the intermediate tensors of `_KL`: on a CPU they fit into its cache, elsewhere the limit only saves memory
_CHUNK_BYTES = {"cpu": 2**21}
_CHUNK_BYTES_ELSEWHERE = 2**28


class _KL(torch.autograd.Function):
    """Saves one tensor of the logits' size, the gradient p_v (log p_v - log q_v - KL); autograd would save four."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, base_log_probs: Tensor) -> Tensor:
        gradient, total = torch.empty_like(logits), logits.new_zeros(())
        size = _CHUNK_BYTES.get(logits.device.type, _CHUNK_BYTES_ELSEWHERE)
        tokens = max(1, size // (logits.shape[-1] * logits.element_size()))
        chunks = (tensor.split(tokens) for tensor in (logits, base_log_probs, gradient))
        for z, log_q, out in zip(*chunks, strict=True):
            log_p = F.log_softmax(z, dim=-1)
            log_ratio = log_p - log_q
            p = log_p.exp_()
            kl = (p * log_ratio).sum(-1, keepdim=True)
            torch.mul(p, log_ratio.sub_(kl), out=out)
            total += kl.sum()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * upstream[0], None
