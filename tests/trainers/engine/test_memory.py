"""When memory runs out: what is then made smaller gives the same training, and what is said without auto_batch."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from runs import close

from selgen_ray.evals import registry as evals_registry
from selgen_ray.trainers import get_trainer, knob
from selgen_ray.trainers.dpo import DPOTrainer
from selgen_ray.trainers.kl_divergence import KLDivergenceTrainer
from selgen_ray.trainers.naive import StandardTrainer

MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB."


class SmallDevice:
    """Runs out of memory in a micro-batch of too many rows, unless it is one of the first `good` of a term and step."""

    rows_that_fit: int = knob(99, "rows of a micro-batch that fit")
    good: int = knob(0, "micro-batches of a step that always fit")

    def terms(self):
        return [replace(term, total=self.limited(term.total)) for term in super().terms()]

    def limited(self, total):
        seen = Counter()

        def checked(batch):
            seen[self.run.progress.step] += 1
            loss = total(batch)  # logs what it logs before memory is exhausted
            if len(batch.rows) > self.rows_that_fit and seen[self.run.progress.step] > self.good:
                raise torch.OutOfMemoryError(MESSAGE)
            return loss

        return checked


class SmallNaive(SmallDevice, StandardTrainer):
    proxy_strategy_name = "test_small_naive"


class SmallKL(SmallDevice, KLDivergenceTrainer):
    proxy_strategy_name = "test_small_kl"


class SmallDPO(SmallDevice, DPOTrainer):
    proxy_strategy_name = "test_small_dpo"


SMALL = {"naive": ("test_small_naive", {}), "kl": ("test_small_kl", {"beta_kl": 2.0}), "dpo": ("test_small_dpo", {})}
PLAIN = {"naive": "naive", "kl": "kl_divergence", "dpo": "dpo"}


def trained(config):
    events = []
    with get_trainer(config["proxy_strategy"])(config, on_event=events.append) as trainer:
        record = trainer.train()
        return {name: p.detach().clone() for name, p in trainer.parameters.items()}, record, events


def assert_same_training(a, b):
    assert close(a[0], b[0], 1e-6)
    for table in ("train_losses", "train_metrics"):
        found, expected = (getattr(record, table) for record in (a[1], b[1]))
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name] == pytest.approx(values, rel=1e-5, abs=1e-6), name
    assert a[1].tokens["scored"] == b[1].tokens["scored"]
    assert a[1].train_steps == b[1].train_steps


@pytest.mark.parametrize("good", [0, 1], ids=["first_micro_batch", "second_micro_batch"])
@pytest.mark.parametrize("kind", SMALL)
def test_smaller_micro_batches_are_the_same_training_as_more_accumulation(make_config, kind, good):
    name, knobs = SMALL[kind]
    sgd = {"optim": "sgd", "learning_rate": 0.1, "logging_steps": 1}
    fits = 4 if kind == "dpo" else 2  # a pair is two rows
    micro = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    small = trained(make_config(name, auto_batch=True, rows_that_fit=fits, good=good, **micro, **sgd, **knobs))
    halved = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    assert_same_training(small, trained(make_config(PLAIN[kind], **halved, **sgd, **knobs)))
    assert [(e["event"], e["step"]) for e in small[2]] == [("auto_batch", 0)]  # the split stays
    assert "micro-batches of 4 rows are split into 2 parts" in small[2][0]["why"]


def test_it_goes_on_halving_down_to_one_row(make_config):
    sgd = {"optim": "sgd", "learning_rate": 0.1}
    small = trained(make_config("test_small_naive", auto_batch=True, rows_that_fit=1, **sgd))
    one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    assert_same_training(small, trained(make_config("naive", **one, **sgd)))
    assert [e["step"] for e in small[2]] == [0, 0]


def test_one_row_that_does_not_fit_fails_with_what_cuda_said(make_config):
    with pytest.raises(torch.OutOfMemoryError) as caught:
        trained(make_config("test_small_naive", auto_batch=True, rows_that_fit=0))
    assert str(caught.value) == MESSAGE


def test_without_auto_batch_the_error_says_what_to_do(make_config):
    with pytest.raises(torch.OutOfMemoryError) as caught:
        trained(make_config("test_small_naive", rows_that_fit=3))
    first, last = str(caught.value).splitlines()
    assert first == MESSAGE
    assert "finetune_config.auto_batch: true" in last and "per_device_train_batch_size" in last


@pytest.fixture
def small_evaluations(monkeypatch):
    """Evaluations run out of memory with more than 4 rows a batch."""
    sizes = []

    def a_first_metric(eval_set):
        sizes.append(eval_set.batch_size)
        if eval_set.batch_size > 4:
            raise torch.OutOfMemoryError(MESSAGE)
        return {}

    evals_registry.all_metrics()
    first = evals_registry.Metric("a_first_metric", a_first_metric, (), ())
    monkeypatch.setitem(evals_registry._METRICS, "a_first_metric", first)
    return sizes


def test_evaluation_batches_are_halved_and_stay_so(make_config, small_evaluations):
    small = trained(make_config(auto_batch=True, per_device_eval_batch_size=16))
    assert small_evaluations[:4] == [16, 8, 4, 4] and set(small_evaluations[3:]) == {4}
    said = [event["why"].rpartition(" now on ")[2] for event in small[2]]
    assert said == ["evaluation batches have 8 rows", "evaluation batches have 4 rows"]
    plain = trained(make_config(per_device_eval_batch_size=4))
    assert small[1].eval_results["task_test"] == plain[1].eval_results["task_test"]


def test_an_evaluation_that_does_not_fit_names_its_own_key(make_config, small_evaluations):
    with pytest.raises(torch.OutOfMemoryError, match=r"auto_batch: true.*per_device_eval_batch_size"):
        trained(make_config())


def test_a_pass_over_the_base_is_done_again_with_smaller_batches(make_config, monkeypatch):
    hidden, sizes = KLDivergenceTrainer.micro_batch, []

    def micro_batch(self, stream, rows):
        if not torch.is_grad_enabled():
            sizes.append(len(rows))
            if len(rows) > 3:
                raise torch.OutOfMemoryError(MESSAGE)
        return hidden(self, stream, rows)

    plain = trained(make_config("kl_divergence", beta_kl=2.0))
    monkeypatch.setattr(KLDivergenceTrainer, "micro_batch", micro_batch)
    small = trained(make_config("kl_divergence", beta_kl=2.0, auto_batch=True, per_device_eval_batch_size=6))
    assert sizes == [6, 3, 3, 3]
    assert close(plain[0], small[0], 1e-5)
