"""Every shipped strategy keeps the promises of `selgen_ray.testing`, which finds out those that do not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from runs import STRENGTH

from selgen_ray.testing import check_strategy
from selgen_ray.trainers import get_trainer, knob
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.kl_divergence import KLDivergenceTrainer
from selgen_ray.trainers.naive import StandardTrainer


@pytest.mark.parametrize("strategy", STRENGTH)
def test_a_strategy_keeps_its_promises(strategy):
    knobs = {f"finetune_config.{key}": value for key, value in STRENGTH[strategy].items()}
    check_strategy(get_trainer(strategy), knobs)


def test_full_fine_tuning_keeps_them_and_several_workers_do():
    check_strategy(KLDivergenceTrainer, {"finetune_config.beta_kl": 2.0}, lora=False, workers=True)


# -- strategies that break a promise -----------------------------------------------------------------------------


class UnsavedState(StandardTrainer):
    """Remembers a running mean of its gradients, which no checkpoint holds."""

    proxy_strategy_name = "test_unsaved_state"

    def transform_gradients(self, by_slot, step):
        before = getattr(self, "mean", {})
        self.mean = {name: 0.5 * g + 0.5 * before.get(name, g) for name, g in by_slot["main"].items()}
        return self.mean


class MeanOfMeans(StandardTrainer):
    """Averages each micro-batch by itself."""

    proxy_strategy_name = "test_mean_of_means"

    def terms(self):
        term = self.cross_entropy_term("outcome")
        return [replace(term, total=lambda batch: term.total(batch) / batch.num_scored, count=lambda batch: 1)]


class GlobalStream(StandardTrainer):
    """Draws from a random stream that belongs to nobody."""

    proxy_strategy_name = "test_global_stream"

    def transform_gradients(self, by_slot, step):
        return {name: g * (1 + random.random()) for name, g in by_slot["main"].items()}


class UnsavedEdit(StandardTrainer):
    """Edits a frozen tensor of the base, which an adapter does not hold."""

    proxy_strategy_name = "test_unsaved_edit"

    def edits(self):
        def scale(parameters):
            self.model.get_base_model().model.norm.weight.mul_(1.5)

        yield "scaled", scale


class NeverZero(StandardTrainer):
    """Computes a little of its term at weight zero too."""

    proxy_strategy_name = "test_never_zero"
    zero_strength = {"finetune_config.push": 0.0}
    push: float = knob(1.0, "weight of the proxy")

    def terms(self):
        return [self.cross_entropy_term("outcome"), self.cross_entropy_term("proxy", self.push + 1e-3)]


class OwnRowsAlone(StandardTrainer):
    """Lets each process take its own gradient for that of all."""

    proxy_strategy_name = "test_own_rows_alone"
    factor: float = knob(0.1, "of what a rank adds")

    def transform_gradients(self, by_slot, step):
        return {name: g * (1 + self.factor * ranks.rank()) for name, g in by_slot["main"].items()}


@pytest.mark.parametrize(
    ("strategy", "promise", "hint"),
    [
        (UnsavedState, "resume", "killed in step 3 and resumed from the checkpoint of step 2"),
        (MeanOfMeans, "accumulation", "`total` must be a sum"),
        (GlobalStream, "repetition", "derive_seed"),
        (UnsavedEdit, "saving", "the saved adapter"),
        (NeverZero, "zero strength", "with finetune_config.push: 0.0"),
    ],
    ids=["resume", "accumulation", "repetition", "saving", "zero strength"],
)
def test_a_broken_strategy_is_found_out(strategy, promise, hint):
    with pytest.raises(AssertionError) as raised:
        check_strategy(strategy)
    message = str(raised.value)
    assert message.startswith(f"{strategy.__name__} ({strategy.proxy_strategy_name}) breaks {promise}: "), message
    assert hint in message


def test_a_strategy_that_several_workers_break_is_found_out():
    with pytest.raises(AssertionError, match=r"breaks workers: two processes give other weights .*ranks\.summed"):
        check_strategy(OwnRowsAlone, workers=True)
