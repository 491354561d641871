"""`grad_project_precomputed_proxy_grad`: projection against a direction computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.forms import Row
from selgen_ray.trainers.directions import PROXY_EPOCHS, check_phase, throw_away_training
from selgen_ray.trainers.engine.loop import MAIN, GradMap, Term
from selgen_ray.trainers.grad_project import GradientProjectionTrainer
from selgen_ray.trainers.gradients import scaled
from selgen_ray.trainers.registry import knob


class GradientProjectionPrecomputedProxyGradTrainer(GradientProjectionTrainer):
    """Step along g_O - (<g_O, d> / ||d||^2) d, where d is the average gradient of a throw-away training on the proxy.

    It trains a copy on proxy for `proxy_epochs` and averages the gradients it meets, before clipping. With
    `project_along_positive_proxy_grad: false` it trains on proxy_neg, and d is minus that average.

    Source: as grad_project; Azarbal et al. 2025, "Selective Generalization".
    """

    proxy_strategy_name = "grad_project_precomputed_proxy_grad"
    required_roles = ("outcome",)
    project_along_positive_proxy_grad: bool = knob(True, "d from proxy; false: minus the average on proxy_neg")
    proxy_epochs: int = PROXY_EPOCHS

    @classmethod
    def check_rows(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> None:
        """Raise DataError if a role is missing, or too small for a direction."""
        super().check_rows(config, roles)
        along_positive = getattr(config.finetune_config, "project_along_positive_proxy_grad", True)
        check_phase(config, roles, "proxy" if along_positive else "proxy_neg")

    def prepare(self) -> None:
        """Average the gradient over a throw-away training."""
        role, sign = ("proxy", 1) if self.project_along_positive_proxy_grad else ("proxy_neg", -1)
        average = throw_away_training(self, role, self.proxy_epochs).gradient
        self.role, self.direction = role, scaled(average, sign)

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy."""
        return [self.cross_entropy_term("outcome")]

    def transform_gradients(self, by_slot: dict[str, GradMap], step: int) -> GradMap:
        """Return the outcome's gradient, projected."""
        return self.project(by_slot[MAIN], self.direction, self.role)
