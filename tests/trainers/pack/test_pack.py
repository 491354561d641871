"""Packed trials: each gives what it gives alone, whatever the company does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from conftest import uneven_roles, uneven_trait
from runs import STRENGTH
from torch.nn.modules.module import Module

from selgen_ray.errors import TrialDiverged
from selgen_ray.models.loading import Source
from selgen_ray.storage import Folder
from selgen_ray.trainers import get_trainer
from selgen_ray.trainers.catalogue import build_config
from selgen_ray.trainers.naive import StandardTrainer
from selgen_ray.trainers.pack.joint import Joined, JointModel
from selgen_ray.trainers.pack.pack import Pack
from selgen_ray.trainers.pack.rendezvous import Outcome
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask


class TwoForwards(StandardTrainer):
    """Runs the model twice before one backward pass, on rows of two lengths."""

    proxy_strategy_name = "test_two_forwards"

    def terms(self):
        first = self.cross_entropy_term("outcome")
        return [replace(first, total=lambda batch: first.total(batch) + 0.5 * first.total(batch))]


class OwnBackward(StandardTrainer):
    """Calls `backward` by itself, past the loop."""

    proxy_strategy_name = "test_own_backward"

    def terms(self):
        first = self.cross_entropy_term("outcome")

        def total(batch):
            first.total(batch).backward()
            return first.total(batch)

        return [replace(first, total=total)]


class Raises(StandardTrainer):
    """Raises between a forward and its backward pass."""

    proxy_strategy_name = "test_raises"

    def terms(self):
        first = self.cross_entropy_term("outcome")

        def total(batch):
            loss = first.total(batch)
            if self.run.progress.step == 1:
                raise ArithmeticError("between forward and backward")
            return loss

        return [replace(first, total=total)]


def numbers(record: Any) -> dict[str, float]:
    """Every loss and every value of an evaluation."""
    series = {**record.train_losses, **{f"{s}/{m}": v for s, by in record.eval_results.items() for m, v in by.items()}}
    return {f"{name}[{i}]": value for name, values in series.items() for i, value in enumerate(values)}


def train(config: dict[str, Any], source: Source | None = None) -> tuple[dict[str, torch.Tensor], Any]:
    """Return final weights and record of one trial, alone or in a pack."""
    roles = uneven_roles() | {"trait": uneven_trait()}
    with get_trainer(config["proxy_strategy"])(config, datasets=roles, source=source) as trainer:
        # a B of zeros hides what the layers before it do
        generator = torch.Generator().manual_seed(config["seed"])
        for p in trainer.parameters.values():
            p.data += 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        record = trainer.train()
        return {name: p.detach().clone() for name, p in trainer.parameters.items()}, record


@dataclass
class Packed:
    """The outcomes of a pack's trials, in their order, and the pack."""

    outcomes: list[Outcome]
    pack: Pack


def packed(configs: list[dict[str, Any]], width: int | None = None) -> Packed:
    outcomes: dict[int, Outcome] = {}
    pack = Pack(width or len(configs), build_config(configs[0]).finetune_config, "cpu")
    jobs = ((lambda source, config=config: train(config, source)) for config in configs)
    pack.run(jobs, lambda outcome: outcomes.__setitem__(outcome.number, outcome))
    return Packed([outcomes[i] for i in range(len(configs))], pack)


def assert_alike(outcome: Outcome, alone: Any, within: float = 1e-10) -> None:
    if outcome.error is not None:
        raise outcome.error
    weights, record = outcome.value
    for name, tensor in alone[0].items():
        assert (weights[name] - tensor).abs().max() < within, name
    assert numbers(record) == pytest.approx(numbers(alone[1]), abs=1e-9, rel=1e-8)


@pytest.fixture
def config(make_config, float64):
    def make(strategy="naive", seed=1, **finetune):
        knobs = {"optim": "sgd", "learning_rate": 0.3, "lr_scheduler_type": "constant", "max_steps": 3}
        knobs |= {
            "per_device_train_batch_size": 2,
            "train_split": 1.0,
            "logging_steps": 1,
            "max_to_eval": 2,
            "max_new_tokens": 2,
        }
        return make_config(strategy, seed, **(knobs | STRENGTH.get(strategy, {}) | finetune))

    return make


def test_every_strategy_in_one_pack_is_what_it_is_alone(config):
    configs = [config(strategy, seed) for seed, strategy in enumerate(STRENGTH)]
    found = packed(configs)
    for one, outcome in zip(configs, found.outcomes, strict=True):
        assert_alike(outcome, train(one))
    assert found.pack.served > 3 * found.pack.joined  # they were joined


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_a_full_pack_of_one_shape_under_adamw(config, optim):
    # AdamW's first steps are as long for a tiny gradient as for a large one: a wrong place in memory would show
    configs = [config(seed=seed, optim=optim, learning_rate=1e-3, max_steps=4) for seed in range(4)]
    for one, outcome in zip(configs, packed(configs).outcomes, strict=True):
        assert_alike(outcome, train(one), within=1e-8)


def test_each_slot_has_its_own_dropout_rank_targets_batch_and_length_and_a_free_one_is_filled(config):
    drops = {"lora_dropout": 0.3, "use_gradient_checkpointing": True, "optim": "adamw_torch"}
    drops |= {"learning_rate": 0.01}  # AdamW divides the rounding of a gradient near zero by its size: 0.3 makes 1e-10
    configs = [
        config(seed=1, **drops),
        config(seed=2, **drops | {"r": 2, "use_rslora": True}),
        config(seed=3, **drops | {"per_device_train_batch_size": 3}),
        config("kl_divergence", seed=4, max_steps=1, target_modules=["q_proj", "down_proj"], lora_dropout=0.5),
        config(seed=5, lora_dropout=0.2, gradient_accumulation_steps=2),
        config("inoculation_adapter", seed=6, **drops),
    ]
    found = packed(configs, width=4)
    for one, outcome in zip(configs, found.outcomes, strict=True):
        assert_alike(outcome, train(one))
    assert found.pack.served > 1.5 * found.pack.joined


def test_what_happens_to_one_slot_does_not_reach_the_others(config):
    configs = [
        config(seed=1),
        config(seed=2, learning_rate=1e300, max_steps=6),
        config("test_raises", seed=3),
        config("test_two_forwards", seed=4),
        config("test_own_backward", seed=5),
        config("dpo", seed=6, max_steps=5),
    ]
    outcomes = packed(configs).outcomes
    for number in (0, 3, 5):
        assert_alike(outcomes[number], train(configs[number]))
    assert isinstance(outcomes[1].error, TrialDiverged)
    assert isinstance(outcomes[2].error, ArithmeticError)
    assert isinstance(outcomes[4].error, RuntimeError) and "source.backward" in str(outcomes[4].error)


def test_a_pass_that_does_not_fit_is_halved_and_one_that_is_alone_gets_the_error(config, monkeypatch):
    """A device on which 4 rows fit forward, and gradients of 2."""
    forward, gradients, refused = JointModel.outputs, Joined.gradients, []

    def outputs(self, members, rows):
        if (number := sum(member.rows for member in members)) > 4 and members[0].kind.grad:
            refused.append(("forward", len(members)))
            raise torch.OutOfMemoryError(f"{number} rows")
        return forward(self, members, rows)

    def of_few(self):
        if len(self.posted) > 1:
            self.outputs = None
            refused.append(("backward", len(self.posted)))
            raise torch.OutOfMemoryError("gradients")
        return gradients(self)

    monkeypatch.setattr(JointModel, "outputs", outputs)
    monkeypatch.setattr(Joined, "gradients", of_few)
    sizes = {"per_device_train_batch_size": 5, "optim": "sgd"}
    configs = [config(seed=seed) for seed in range(3)]
    configs += [config(seed=3, **sizes, auto_batch=True), config(seed=4, **sizes)]
    outcomes = packed(configs).outcomes
    assert {kind for kind, _ in refused} == {"forward", "backward"} and ("forward", 1) in refused
    for number in range(4):  # the fourth splits its batch, as it does alone
        assert_alike(outcomes[number], train(configs[number]))
    assert isinstance(outcomes[4].error, torch.OutOfMemoryError)


def test_trials_that_wait_for_what_one_of_them_computes_get_it(config, data_files, tmp_path):
    """Whole trials with one cache: the one that computes is in the pack of those that wait."""
    tasks = [
        TrialTask(
            build_config(
                config(
                    "grad_project_precomputed_proxy_grad" if n < 2 else "kl_divergence",
                    n // 2 + 1,
                    learning_rate=0.1 + n / 10,
                )
            ).model_dump(mode="json"),
            f"{n:016d}",
            f"slug{n}",
            Folder(str(tmp_path / str(n))),
            cache=Folder(str(tmp_path / "cache")),
        )
        for n in range(3)
    ]
    results = {}
    pack = Pack(3, build_config(tasks[0].config).finetune_config, "cpu")
    jobs = ((lambda source, task=task: run_trial(task, source=source)) for task in tasks)
    pack.run(jobs, lambda outcome: results.__setitem__(outcome.number, outcome.value or outcome.error))
    for number, task in enumerate(tasks):
        alone = run_trial(replace(task, folder=Folder(str(tmp_path / f"alone{number}")), cache=None))
        assert results[number].status == "completed"
        assert numbers(results[number]) == pytest.approx(numbers(alone), abs=1e-9, rel=1e-8)
        timings = results[number].timings
        assert 0 < timings["train_s"] <= timings["total_s"]


def test_no_step_walks_over_all_modules(config, monkeypatch):
    """Setting the mode takes milliseconds: it happens where evaluations begin and end, never in a step."""
    calls = []
    mode = Module.train
    monkeypatch.setattr(Module, "train", lambda self, on=True: calls.append(type(self).__name__) or mode(self, on))

    def walks(steps):
        calls.clear()
        assert all(o.error is None for o in packed([config(seed=s, max_steps=steps) for s in (1, 2)]).outcomes)
        return len(calls)

    assert walks(3) == walks(5)
