"""`grad_project`: take from the outcome's gradient what lies along the proxy's."""

from __future__ import annotations

from typing import Literal

from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import MAIN, GradMap, Term
from selgen_ray.trainers.gradients import cosine, project_out, scaled
from selgen_ray.trainers.registry import knob


class GradientProjectionTrainer(BaseTrainer):
    """Step along g_O - (<g_O, d> / ||d||^2) d with d = g_P, then the same with d = -g_N where there is a proxy_neg.

    g_O, g_P and g_N are the gradients of the mean cross-entropy on one step's batch of outcome, proxy and proxy_neg.
    Logs the cosine between g and d before each projection, and the share of the tensors that were projected.

    Source: Yu et al. 2020 (PCGrad, arXiv 2001.06782); Chaudhry et al. 2019 (A-GEM, arXiv 1812.00420).
    """

    proxy_strategy_name = "grad_project"
    required_roles = ("outcome", "proxy")
    project_strictly_orthogonal: bool = knob(True, "project always; false: only where <g, d> < 0")
    projection_scope: Literal["per_tensor", "global"] = knob("per_tensor", "each tensor alone, or all as one vector")

    def terms(self) -> list[Term]:
        """Return the cross-entropies, each with a gradient slot of its own."""
        slots = {"outcome": MAIN, "proxy": "proxy", "proxy_neg": "proxy_neg"}
        return [self.cross_entropy_term(role, slot=slot) for role, slot in slots.items() if self.has(role)]

    def transform_gradients(self, by_slot: dict[str, GradMap], step: int) -> GradMap:
        """Return the outcome's gradient, projected."""
        gradient = self.project(by_slot[MAIN], by_slot["proxy"], "proxy")
        if "proxy_neg" in by_slot:
            gradient = self.project(gradient, scaled(by_slot["proxy_neg"], -1), "proxy_neg")
        return gradient

    def project(self, gradient: GradMap, direction: GradMap, name: str) -> GradMap:
        """Return `gradient` without its part along `direction`; log cosine and share of tensors projected."""
        self.log(f"cosine/{name}", cosine(gradient, direction))
        strict, scope = self.project_strictly_orthogonal, self.projection_scope
        projected, share = project_out(gradient, direction, strict=strict, scope=scope)
        self.log(f"projected/{name}", share)
        return projected
