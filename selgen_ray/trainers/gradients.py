"""Arithmetic on gradients: maps from parameter name to tensor. A missing name stands for zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from selgen_ray.models.log_probs import upcast
from selgen_ray.trainers.engine.loop import GradMap


def dot(a: GradMap, b: GradMap) -> Tensor:
    """Return the inner product of the concatenated tensors, a scalar; half precision is summed in float32."""
    parts = [(upcast(a[name]) * upcast(b[name])).sum() for name in a if name in b]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def norm(a: GradMap) -> Tensor:
    """Return the Euclidean norm of the concatenated tensors, a scalar."""
    return dot(a, a).sqrt()


def scaled(a: GradMap, factor: float) -> GradMap:
    """Return factor * a."""
    return {name: factor * tensor for name, tensor in a.items()}


def added(a: GradMap, b: GradMap) -> GradMap:
    """Return a + b."""
    return a | {name: a[name] + tensor if name in a else tensor for name, tensor in b.items()}


def cosine(a: GradMap, b: GradMap) -> Tensor:
    """Return the cosine between the concatenated tensors, a scalar in [-1, 1]; 0 if one of them is zero."""
    size = norm(a) * norm(b)
    return torch.where(size > 0, dot(a, b) / size, 0.0).clamp(-1, 1)


def project_out(gradient: GradMap, direction: GradMap, *, strict: bool, scope: str) -> tuple[GradMap, Tensor]:
    """Return g - (<g, d> / ||d||^2) d: project the direction d out of the gradient g.

    Args:
        gradient: g.
        direction: d; a zero d changes nothing (the A of a new LoRA has no gradient at first).
        strict: project always; else only if <g, d> < 0, where the two conflict.
        scope: 'per_tensor': each tensor by itself; 'global': all as one vector.

    Returns:
        The projected gradient, and the share of the tensors of `direction` that were projected, a scalar.

    Source: Yu et al. 2020 (PCGrad), algorithm 1; Chaudhry et al. 2019 (A-GEM), equation 11.
    """
    names = [name for name in gradient if name in direction]
    groups = [names] if scope == "global" else [[name] for name in names]
    projected, applied = dict(gradient), list[Tensor]()
    for group in groups:
        g, d = ({name: a_map[name] for name in group} for a_map in (gradient, direction))
        size = dot(d, d)
        share = torch.where(size > 0, dot(g, d) / size, 0.0)
        if not strict:
            share = share.clamp(max=0)
        projected |= {name: g[name] - (share * d[name]).to(g[name].dtype) for name in group}
        applied.append((share != 0).float())
    return projected, torch.stack(applied).mean() if applied else torch.zeros(())
