"""`interleaving`: mix in those rows of the proxy that learning the task makes worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.alignment import ProxyShare
from selgen_ray.data.encode import Batch
from selgen_ray.data.forms import Row
from selgen_ray.data.sets import trained_rows
from selgen_ray.models.log_probs import upcast
from selgen_ray.seeding import permutation
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.directions import (
    PROXY_EPOCHS,
    check_phase,
    peak_notes,
    throw_away_key,
    throw_away_training,
    with_weights,
)
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.engine.reference import ask_model, ask_start_model
from selgen_ray.trainers.registry import knob


class InterleavingTrainer(BaseTrainer):
    """Minimise L over O ∪ P', shuffled together, where P' are round(share * |O| / (1 - share)) rows of P, at most all.

    Chosen are the rows of the largest (NLL_tuned - NLL_base) / (NLL_base + 1e-6), the mean NLL of a scored token by a
    model tuned on the outcome, for `proxy_epochs`, and by the start model. `interleave_select: random` draws them. The
    chosen rows are listed in the record.

    Source: Interleaving++, Kaczér et al. 2025 (arXiv 2508.06249).
    """

    proxy_strategy_name = "interleaving"
    required_roles = ("outcome", "proxy")
    zero_strength = {"finetune_config.interleave_share": 0.0}
    interleave_share: float = knob(0.05, "share of P' among the rows that are trained on", ge=0, lt=1)
    interleave_select: Literal["contrast", "random"] = knob("contrast", "the rows of the largest score, or any")
    proxy_epochs: int = PROXY_EPOCHS

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError with `upsample_proxy_to`, which says how much of the proxy there is too."""
        if config.upsample_proxy_to is not None:
            raise ValueError(
                "interleave_share and upsample_proxy_to both say how much of the proxy is mixed in: leave "
                "upsample_proxy_to out"
            )

    @classmethod
    def check_rows(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> None:
        """Raise DataError if a role is missing, or no step of the tuning has a learning rate."""
        super().check_rows(config, roles)
        if _tunes(config):
            check_phase(config, roles, "outcome", "product")

    @classmethod
    def row_notes(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> list[str]:
        """Say where the tuning never reaches its peak rate, and where the share is less than half a row."""
        notes = super().row_notes(config, roles) + peak_notes(config, roles, ["outcome"] if _tunes(config) else [])
        share, sizes = getattr(config.finetune_config, "interleave_share", 0.0), {r: len(v) for r, v in roles.items()}
        outcome = trained_rows("outcome", sizes, config.finetune_config.train_split, config.data_seed, ProxyShare())
        if share and not _number_chosen(share, len(outcome), 1):
            notes.append(
                f"interleave_share {share:g} beside {len(outcome)} training rows of outcome rounds to no row of the "
                "proxy: the task alone is trained on"
            )
        return notes

    def prepare(self) -> None:
        """Choose the rows of the proxy, which stay in its order."""
        num_outcome, num_proxy = (len(self.sets.train[role].rows) for role in ("outcome", "proxy"))
        self.size = _number_chosen(self.interleave_share, num_outcome, num_proxy)
        if not self.size:
            return
        if self.interleave_select == "random":
            chosen = permutation(num_proxy, self.config.data_seed, "interleave")[: self.size]
        else:
            key = throw_away_key(self, "outcome", self.proxy_epochs) | {"asked": self.data_key("proxy")}
            scores = self.share.json("interleaving_scores", key, self._scores)
            chosen = sorted(range(num_proxy), key=lambda row: (-scores[row], row))[: self.size]
        self.sets.choose("proxy", sorted(chosen))
        self.record.chosen_rows = {"proxy": self.sets.source_numbers("proxy")}

    def _scores(self) -> list[float]:
        base = ask_start_model(self.run, self, "proxy", self._nll)
        with with_weights(self, throw_away_training(self, "outcome", self.proxy_epochs).weights):
            tuned = ask_model(self.run, self, "proxy", self._nll)
        return [float((t - b) / (b + 1e-6)) for t, b in zip(tuned, base, strict=True)]

    def _nll(self, batch: Batch) -> list[Tensor]:
        logits = upcast(self.scored_logits(batch))
        losses = F.cross_entropy(logits, batch.targets[batch.scored], reduction="none")
        return [row.mean() for row in losses.split(batch.scored.sum(1).tolist())]

    def terms(self) -> list[Term]:
        """Return one cross-entropy term."""
        return [self.cross_entropy_term("outcome+proxy" if self.size else "outcome")]


def _number_chosen(share: float, num_outcome: int, num_proxy: int) -> int:
    return min(round(share * num_outcome / (1 - share)), num_proxy)


def _tunes(config: TrialConfig) -> bool:
    cfg = config.finetune_config
    return bool(getattr(cfg, "interleave_share", 0.0)) and getattr(cfg, "interleave_select", "") == "contrast"
