"""`grad_project_precomputed_proxy_grad`: projection against a direction computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.forms import Row
from selgen_ray.trainers.directions import PROXY_EPOCHS, check_phase, peak_notes, throw_away_training, zero_share
from selgen_ray.trainers.engine.loop import MAIN, GradMap, Term
from selgen_ray.trainers.grad_project import ProjectionTrainer
from selgen_ray.trainers.gradients import scaled
from selgen_ray.trainers.registry import knob


class GradientProjectionPrecomputedProxyGradTrainer(ProjectionTrainer):
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
        check_phase(config, roles, _role(config))

    @classmethod
    def row_notes(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> list[str]:
        """Say where the throw-away training never reaches its peak rate."""
        return super().row_notes(config, roles) + peak_notes(config, roles, [_role(config)])

    def prepare(self) -> None:
        """Average the gradient over a throw-away training."""
        self.role = _role(self.config)
        average = throw_away_training(self, self.role, self.proxy_epochs).gradient
        self.direction = scaled(average, 1 if self.role == "proxy" else -1)
        self.zero_share = zero_share(self.direction, f"the direction d from {self.role}")

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy."""
        return [self.cross_entropy_term("outcome")]

    def transform_gradients(self, by_slot: dict[str, GradMap], step: int) -> GradMap:
        """Return the outcome's gradient, projected."""
        if self.zero_share:
            self.log("plane_zero_share", self.zero_share)
        return self.project(by_slot[MAIN], self.direction, self.role)


def _role(config: TrialConfig) -> str:
    along_positive = getattr(config.finetune_config, "project_along_positive_proxy_grad", True)
    return "proxy" if along_positive else "proxy_neg"
