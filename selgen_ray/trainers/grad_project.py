"""`grad_project`: take from the outcome's gradient what lies along the proxy's."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

from selgen_ray.data.encode import Batch
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import MAIN, GradMap, Term
from selgen_ray.trainers.engine.optim import schedule
from selgen_ray.trainers.engine.reference import BaseLogProbs
from selgen_ray.trainers.gradients import cosine, project_out, scaled
from selgen_ray.trainers.losses import kl_to_base
from selgen_ray.trainers.registry import knob


class ProjectionTrainer(BaseTrainer):
    """Base class of the strategies that take from the outcome's gradient what lies along a direction."""

    project_strictly_orthogonal: bool = knob(True, "project always; false: only where <g, d> < 0")
    projection_scope: Literal["per_tensor", "global"] = knob("per_tensor", "each tensor alone, or all as one vector")

    def project(self, gradient: GradMap, direction: GradMap, name: str) -> GradMap:
        """Return `gradient` without its part along `direction`; log cosine and share of tensors projected."""
        self.log(f"cosine/{name}", cosine(gradient, direction))
        strict, scope = self.project_strictly_orthogonal, self.projection_scope
        projected, share = project_out(gradient, direction, strict=strict, scope=scope)
        self.log(f"projected/{name}", share)
        return projected


class GradientProjectionTrainer(ProjectionTrainer):
    """Step along g_O - (<g_O, d> / ||d||^2) d with d = g_P, then the same with d = -g_N where there is a proxy_neg.

    g_O, g_P and g_N are the gradients of the mean cross-entropy on one step's batch of outcome, proxy and proxy_neg.
    With `project_loss: kl_to_base` there is one d, the gradient of mean KL(p_theta || p_base) over the proxy's scored
    tokens; the model must have moved first, so g_O is applied as it is until the step after the first one with a
    learning rate. With `project_refresh_steps: k` d is computed in every k-th step, and used until the next one.
    Logs the cosine between g and d before each projection, and the share of the tensors that were projected.
    SafeGrad: project_loss kl_to_base, project_strictly_orthogonal false, projection_scope global. OGPSA:
    project_refresh_steps 30, projection_scope global.

    Source: Yu et al. 2020 (PCGrad, arXiv 2001.06782); Chaudhry et al. 2019 (A-GEM, arXiv 1812.00420); SafeGrad (arXiv
    2508.07172); OGPSA (arXiv 2602.07892).
    """

    proxy_strategy_name = "grad_project"
    required_roles = ("outcome", "proxy")
    project_loss: Literal["cross_entropy", "kl_to_base"] = knob("cross_entropy", "the loss whose gradient is d")
    project_refresh_steps: int = knob(1, "optimizer steps for which one d is used", ge=1)

    def prepare(self) -> None:
        """Compute the start model's log-probabilities on the proxy, if the KL to it is used."""
        if self.project_loss == "kl_to_base":
            self.base_log_probs = BaseLogProbs(self.run, self)
        keeps = self.project_refresh_steps > 1
        self.directions: dict[str, GradMap] = {
            role: {name: torch.zeros_like(p, requires_grad=False) for name, p in self.parameters.items()}
            for role in (self._roles() if keeps else ())
        }

    def _roles(self) -> list[str]:
        roles = ["proxy"] if self.project_loss == "kl_to_base" else ["proxy", "proxy_neg"]
        return [role for role in roles if self.has(role)]

    def checkpoint_state(self) -> dict[str, Tensor]:
        """Return the directions that are used until the next refresh."""
        return {f"{role}:{n}": t for role, direction in self.directions.items() for n, t in direction.items()}

    def terms(self) -> list[Term]:
        """Return the losses, each with a gradient slot of its own."""
        first, loss = self.cross_entropy_term("outcome"), self.project_loss
        total = self._kl if loss == "kl_to_base" else self.cross_entropy_term("proxy").total
        name = {"kl_to_base": "kl"}
        others = [Term(name.get(loss, role), 1.0, role, total, slot=role, due=self._is_due) for role in self._roles()]
        return [first, *others]

    def _kl(self, batch: Batch) -> Tensor:
        return kl_to_base(self.scored_logits(batch), self.base_log_probs(batch))

    @functools.cached_property
    def first_step(self) -> int:
        """The first step that has a direction: at the start p_theta is p_base, and the KL's gradient rounding."""
        if self.project_loss == "cross_entropy":
            return 0
        rates = schedule(self.cfg, self.run.num_steps)
        return 1 + next((step for step, rate in enumerate(rates) if rate > 0), len(rates))

    def _is_due(self, step: int) -> bool:
        return step >= self.first_step and (step - self.first_step) % self.project_refresh_steps == 0

    def transform_gradients(self, by_slot: dict[str, GradMap], step: int) -> GradMap:
        """Return the outcome's gradient, projected."""
        gradient = by_slot[MAIN]
        for role in self._roles() if step >= self.first_step else ():
            direction = by_slot.get(role, {})
            if kept := self.directions.get(role):
                for name, tensor in kept.items() if role in by_slot else ():
                    tensor.copy_(direction[name]) if name in direction else tensor.zero_()
                direction = kept
            gradient = self.project(gradient, scaled(direction, -1) if role == "proxy_neg" else direction, role)
        return gradient
