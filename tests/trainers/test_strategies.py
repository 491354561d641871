"""What must hold for every strategy and between them, on a tiny real model."""

import copy
import math

import pytest
import torch
from conftest import make_roles
from runs import STRENGTH, close, same, trained

from selgen_ray.errors import DataError, TrialDiverged
from selgen_ray.models.forward import adapter_off
from selgen_ray.schema import setting
from selgen_ray.trainers import get_trainer, knob, registry, strategies
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import Term


def test_every_strategy_is_covered_here():
    shipped = {n for n, t in strategies().items() if t.__module__.startswith("selgen_ray.")}
    assert {*STRENGTH, "hf_trainer"} == shipped  # that one: test_hf_trainer


def test_strength_zero_equals_the_plain_sibling_in_full_fine_tuning_too(make_config):
    shared = {"is_peft": False, "lora_dropout": 0.2}  # for adapters: test_contract.py
    plain, record = trained(make_config("naive", top={"train_on_proxy": False}, **shared))
    without_proxy = {k: v for k, v in make_roles().items() if k != "proxy"}
    assert same(plain, trained(make_config("naive", **shared), without_proxy)[0])
    declared = {name: cls.zero_strength for name, cls in strategies().items() if name in STRENGTH and cls.zero_strength}
    assert len(declared) == 17
    adapters_alone = {"asft", "inoculation_adapter"}
    like_others = {
        "inoculation_prompting",
        "concept_ablation",
        "activation_penalty",
    }  # a term or a hook that is left out
    for strategy, zero in declared.items():
        if strategy in adapters_alone | like_others:
            continue
        knobs = {key.removeprefix("finetune_config."): value for key, value in zero.items()}
        weights, other = trained(make_config(strategy, **knobs, **shared))
        assert same(plain, weights), strategy
        assert other.eval_results == record.eval_results, strategy


@pytest.fixture(scope="module")
def plain(make_config):
    return trained(make_config("naive", top={"train_on_proxy": False}))


@pytest.mark.parametrize("strategy", STRENGTH)
def test_a_strategy_with_strength_differs_from_the_plain_one_and_between_seeds(make_config, plain, strategy):
    first, record = trained(make_config(strategy, **STRENGTH[strategy]))
    other, _ = trained(make_config(strategy, seed=2, **STRENGTH[strategy]))
    assert not close(first, other, 1e-6)
    if strategy == "weight_steering":  # what it adds is an adapter of its own beside the trained one
        assert record.eval_results["task_train"]["loss"][-1] != plain[1].eval_results["task_train"]["loss"][-1]
        return
    assert not close(plain[0], first, 1e-6)


@pytest.mark.parametrize("stream", ["data_seed", "model_seed"])
def test_each_seed_alone_changes_the_run(make_config, stream):
    first, _ = trained(make_config(top={stream: 7}, lora_dropout=0.1))
    other, _ = trained(make_config(top={stream: 8}, lora_dropout=0.1))
    assert not close(first, other, 1e-6)


def test_naive_mixes_the_proxy_into_the_union(make_config):
    trainer = get_trainer("naive")(make_config())
    terms = trainer.terms()
    assert [t.stream for t in terms] == ["outcome+proxy"]
    assert len(trainer.sets.union("outcome+proxy")) == len(trainer.sets.union("outcome")) + len(
        trainer.sets.union("proxy")
    )
    trainer.close()


def test_positive_negative_proxy_gradient_is_the_weighted_sum_of_three_losses(make_config):
    config = make_config(
        "positive_negative_proxy", max_steps=1, optim="sgd", learning_rate=1.0, **STRENGTH["positive_negative_proxy"]
    )
    trainer = get_trainer("positive_negative_proxy")(config)
    before = {n: p.detach().clone() for n, p in trainer.parameters.items()}
    reference = copy.deepcopy(trainer.model)
    streams = trainer.sets.streams(["outcome", "proxy", "proxy_neg"], "train")
    loss = 0.0
    for role, weight in {"outcome": 1.0, "proxy": 0.7, "proxy_neg": -0.2}.items():
        encoded = trainer.sets.union(role)
        rows = [i for micro in streams[role].step(0) for i in micro]
        # independent of the package's losses: transformers' own loss, one row at a time, no padding
        total = torch.zeros(())
        count = 0
        for i in rows:
            ids = torch.tensor([encoded[i].ids])
            labels = torch.tensor(
                [[t if r else -100 for t, r in zip(encoded[i].ids, encoded[i].is_reply, strict=True)]]
            )
            num = sum(encoded[i].is_reply)
            total = total + reference(input_ids=ids, labels=labels).loss * num
            count += num
        loss = loss + weight * total / count
    loss.backward()
    expected = {n: p.grad for n, p in reference.named_parameters() if p.requires_grad}
    trainer.train()
    for name, parameter in trainer.parameters.items():
        assert torch.allclose(before[name] - parameter, expected[name], atol=1e-6), name
    trainer.close()


@pytest.mark.parametrize("is_peft", [True, False], ids=["lora", "full"])
def test_kl_reference_is_the_model_before_the_run(make_config, is_peft):
    config = make_config("kl_divergence", beta_kl=5.0, is_peft=is_peft)
    trainer = get_trainer("kl_divergence")(config)
    before = copy.deepcopy(trainer.model)
    trainer.train()
    batch = next(trainer.batches("proxy"))
    with torch.no_grad(), adapter_off(before):
        expected = before(**batch.inputs).logits[batch.scored].log_softmax(-1)
    assert torch.allclose(trainer.base_log_probs(batch), expected, atol=1e-5)
    trainer.base_log_probs.rows = []  # as for a vocabulary too large to keep
    assert torch.allclose(trainer.base_log_probs(batch), expected, atol=1e-5)
    trainer.close()


def test_growing_beta_never_raises_the_final_kl(make_config):
    final = []
    for beta in (0.1, 1.0, 10.0, 100.0):
        config = make_config("kl_divergence", beta_kl=beta, epochs=6, learning_rate=2e-3)
        trainer = get_trainer("kl_divergence")(config)
        trainer.train()
        with torch.no_grad():
            batches = list(trainer.batches("proxy"))
            total = sum(float(trainer._kl(b)) for b in batches)
        final.append(total / sum(b.num_scored for b in batches))
        trainer.close()
    assert final == sorted(final, reverse=True)
    assert final[-1] < final[0] / 2


def test_a_trial_leaves_the_shared_base_as_it_found_it(make_config):
    alone, _ = trained(make_config("naive"))
    trained(make_config("kl_divergence", beta_kl=3.0, lora_bias="all", seed=9))
    after_another, _ = trained(make_config("naive"))
    assert same(alone, after_another)


def test_two_trainers_at_once_do_not_share_a_base(make_config):
    first = get_trainer("naive")(make_config())
    second = get_trainer("naive")(make_config(seed=2))
    first.train()
    alone, _ = trained(make_config(seed=2))
    second.train()
    assert same(alone, {n: p.detach() for n, p in second.parameters.items()})
    first.close()
    second.close()


def test_gradient_checkpointing_and_grouping_work_and_do_not_change_the_result(make_config):
    plain, _ = trained(make_config("kl_divergence", beta_kl=1.0))
    saving, _ = trained(make_config("kl_divergence", beta_kl=1.0, use_gradient_checkpointing=True))
    assert close(plain, saving, 1e-6)


def test_max_grad_norm_bounds_the_step_and_is_off_by_default(make_config):
    def moved(**finetune):
        trainer = get_trainer("naive")(make_config(max_steps=1, optim="sgd", learning_rate=1.0, **finetune))
        before = {n: p.detach().clone() for n, p in trainer.parameters.items()}
        record = trainer.train()
        norm = math.sqrt(sum(float((p - before[n]).detach().pow(2).sum()) for n, p in trainer.parameters.items()))
        trainer.close()
        return norm, record

    free, record = moved()
    assert "grad_norm" not in record.train_metrics
    clipped, record = moved(max_grad_norm=free / 10)
    assert math.isclose(clipped, free / 10, rel_tol=1e-3)
    assert math.isclose(record.train_metrics["grad_norm"][0], free, rel_tol=1e-3)


def test_weight_decay_is_applied(make_config):
    without, _ = trained(make_config())
    decayed, _ = trained(make_config(weight_decay=0.5))
    norm = {k: sum(float(p.norm()) for p in w.values()) for k, w in {"without": without, "with": decayed}.items()}
    assert norm["with"] < norm["without"]


def test_schedule_reaches_zero_at_the_last_step_whatever_the_accumulation(make_config):
    seen = []
    config = make_config(gradient_accumulation_steps=2, per_device_train_batch_size=2, logging_steps=1)
    trainer = get_trainer("naive")(config, on_progress=lambda m: seen.append(m["learning_rate"]))
    trainer.train()
    trainer.close()
    steps = len(seen)
    assert seen == pytest.approx([5e-3 * (steps - 1 - i) / steps for i in range(steps)])


def test_a_nan_stops_the_run_as_diverged(make_config):
    with pytest.raises(TrialDiverged, match="not finite at step"):
        trained(make_config(learning_rate=1e30, optim="sgd", epochs=5))


def test_a_strategy_without_its_role_says_which(make_config):
    with pytest.raises(DataError, match=r"kl_divergence needs data\.proxy"):
        get_trainer("kl_divergence")(make_config("kl_divergence"), datasets={"outcome": make_roles()["outcome"]})


# -- the hooks, through strategies a newcomer might write --------------------------------------------------------


class Doubled(BaseTrainer):
    """The simplest hook: twice the mean loss."""

    proxy_strategy_name = "test_doubled"
    factor: float = knob(2.0, "factor", gt=0)

    def _compute_loss(self, batch):
        return self.factor * super()._compute_loss(batch)


class TwoSlots(BaseTrainer):
    """Two gradients, of which the transform applies the difference."""

    proxy_strategy_name = "test_two_slots"

    def terms(self):
        first = self.cross_entropy_term("outcome")
        return [first, Term("second", 1.0, "proxy", first.total, slot="proxy")]

    def transform_gradients(self, by_slot, step):
        return {name: g - by_slot["proxy"][name] for name, g in by_slot["main"].items()}


class Transposed(BaseTrainer):
    """Gives each gradient column by column in memory, as a product of transposed matrices is."""

    proxy_strategy_name = "test_transposed"

    def transform_gradients(self, by_slot, step):
        return {name: g.t().contiguous().t() for name, g in by_slot["main"].items()}


class Edited(BaseTrainer):
    """An edit after training, and one after each step."""

    proxy_strategy_name = "test_edited"

    def after_optimizer_step(self, parameters, learning_rate, step):
        self.seen = [*getattr(self, "seen", []), (learning_rate, step)]

    def edits(self):
        def zero(parameters):
            for parameter in parameters.values():
                parameter.zero_()

        return [("zeroed", zero)]


def test_compute_loss_is_enough_for_a_newcomer(make_config):
    sgd = {"optim": "sgd", "learning_rate": 0.1}
    plain, _ = trained(make_config("naive", top={"train_on_proxy": False}, **sgd))
    half, _ = trained(make_config("test_doubled", factor=0.5, optim="sgd", learning_rate=0.2))
    assert close(plain, half, 1e-6)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_how_a_gradient_lies_in_memory_does_not_matter(make_config, optim):
    plain, _ = trained(make_config("naive", top={"train_on_proxy": False}, optim=optim))
    assert close(plain, trained(make_config("test_transposed", optim=optim))[0], 1e-6)


def test_slots_reach_the_transform_apart(make_config):
    sgd = {"optim": "sgd", "learning_rate": 0.1}
    minus, _ = trained(
        make_config("positive_negative_proxy", lambda_proxy=0, neg_lambda_proxy=1.0, **sgd),
        {**make_roles(), "proxy_neg": make_roles()["proxy"]},
    )
    slots, _ = trained(make_config("test_two_slots", **sgd))
    # the streams are named differently ('proxy', 'proxy_neg'), so compare over whole passes only
    assert minus.keys() == slots.keys()
    plain, _ = trained(make_config("naive", top={"train_on_proxy": False}, **sgd))
    assert not close(plain, slots, 1e-6)


def test_an_edit_is_evaluated_beside_the_trained_weights(make_config):
    trainer = get_trainer("test_edited")(make_config("test_edited"))
    record = trainer.train()
    assert record.eval_versions == ["", "", "", "zeroed"]
    losses = record.eval_results["task_train"]["loss"]
    assert losses[3] == pytest.approx(losses[0], abs=1e-6)  # a LoRA of zeros is the base
    assert losses[2] != pytest.approx(losses[0], abs=1e-3)
    assert [step for _, step in trainer.seen] == list(range(len(trainer.seen)))
    assert trainer.seen[0][0] == pytest.approx(5e-3)
    trainer.close()


def test_a_knob_needs_a_type():
    with pytest.raises(TypeError, match="write its type"):

        class Bad(BaseTrainer):
            proxy_strategy_name = "test_bad"
            strength = knob(1.0, "no annotation")


def test_a_name_can_be_taken_only_once():
    with pytest.raises(ValueError, match="already taken"):
        type("Other", (BaseTrainer,), {"proxy_strategy_name": "naive", "__module__": "elsewhere"})


def test_knobs_are_settings():
    assert setting(1, "x").json_schema_extra == {"identity": True}
    outputs = {"steering_vector_path", "save_steering_vector"}  # where V is written; what is read counts by content
    for trainer in strategies().values():
        for name, (_, info) in trainer.knobs().items():
            assert info.description
            assert info.json_schema_extra["identity"] is (name not in outputs)


@pytest.mark.parametrize("name", ["run", "log", "config", "share", "evaluations", "train"])
def test_a_knob_by_a_name_of_the_trainer_s_own_is_refused(name):
    """Its value would be overwritten, and still be part of the trial's identity."""
    with pytest.raises(TypeError, match=f"'{name}' is a name of BaseTrainer's own: rename the knob"):
        body = {"proxy_strategy_name": "taken", "__annotations__": {name: float}, name: knob(1.0, "...")}
        type("Taken", (BaseTrainer,), {**body, "__module__": __name__})
    assert "taken" not in strategies()


@pytest.mark.parametrize("name", ["memory", "progress", "stop", "num_steps"])
def test_what_the_engine_keeps_to_itself_is_free_for_knobs(name, make_config):
    body = {"proxy_strategy_name": f"own_{name}", "__annotations__": {name: float}, name: knob(1.0, "...")}
    trainer_class = type("Own", (BaseTrainer,), {**body, "__module__": __name__})
    try:
        with trainer_class(make_config(f"own_{name}", **{name: 3.0})) as trainer:
            trainer.train()
            assert getattr(trainer, name) == 3.0
    finally:
        registry.forget(__name__)
