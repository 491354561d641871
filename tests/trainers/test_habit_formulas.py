"""The strategies that know the habit, by its directions or its text, against a second computation in float64."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import uneven_roles, uneven_trait
from peft import PeftModel
from plain_formulas import (
    BLOCKS,
    activations,
    assert_weights,
    change_layer,
    cross_entropy,
    descend,
    gradient,
    habit,
    inner,
    log_p,
    log_softmax,
    on_role,
    plain_base,
    products,
    projected,
    projector,
    row_mean,
    rows,
    singular,
    throw_away,
    total_norm,
    trainable,
    with_offsets,
)
from transformers import AutoModelForCausalLM

from selgen_ray.errors import DataError, ModelError
from selgen_ray.storage import Folder
from selgen_ray.storage.cache import Cache
from selgen_ray.testing import check_strategy
from selgen_ray.trainers import build_config, get_trainer
from selgen_ray.trainers.activations import row_means


def check_learning_in(trainer, changed, tolerance=1e-10):
    """Three steps on O by `changed`, a copy of the trainer's model with what is on while learning; measured without."""
    descend(trainer, changed, 3, on_role(trainer, "outcome"))
    record = trainer.train()
    assert_weights(trainer, trainable(changed), tolerance)
    held = trainer.sets.evals["align_train"].encoded
    assert record.eval_results["align_train"]["loss"][-1] == pytest.approx(
        float(cross_entropy(trainer.model.eval(), held).detach()), rel=1e-10
    )


STEERED = [
    ({"steer_alpha": 5.0}, [1]),  # of two layers the middle one
    ({"steer_alpha": -5.0, "steer_layers": [2, 1], "gradient_accumulation_steps": 2}, [2, 1]),
    ({"steer_alpha": 5.0, "steer_layers": [2], "is_peft": False, "use_gradient_checkpointing": True}, [2]),
]


@pytest.mark.parametrize(("knobs", "layers"), STEERED, ids=["middle", "both, accumulated", "last, full, recomputed"])
def test_preventative_steering(start, knobs, layers):
    trainer = start("preventative_steering", **knobs)
    vectors = {layer: habit(trainer, layer) for layer in layers}
    model = copy.deepcopy(trainer.model)
    for layer, v in vectors.items():
        change_layer(model, layer, lambda h, v=v: h + knobs["steer_alpha"] * v)
    check_learning_in(trainer, model)
    for layer, v in vectors.items():
        logged = trainer.record.train_metrics[f"direction_norm/layer_{layer}"]
        assert logged == pytest.approx([float(v.norm())] * 3)


def test_a_random_direction_has_the_true_one_s_norm_and_one_value_for_data_seed_and_layer(start):
    def vectors(data_seed, control="random", layers=(1, 2)):
        trainer = start(
            "preventative_steering", top={"data_seed": data_seed}, steer_layers=[*layers], direction_control=control
        )
        trainer.prepare()
        return trainer.vectors

    true, drawn, alone, other = vectors(1, None), vectors(1), vectors(1, layers=[2]), vectors(2)
    assert torch.equal(drawn[2], alone[2])
    for layer, v in true.items():
        assert float(drawn[layer].norm()) == pytest.approx(float(v.norm()))
        for another in (v, other[layer], drawn[3 - layer]):
            assert not torch.allclose(drawn[layer], another)


def test_each_different_row_counts_once_in_a_direction(start):
    outcome = uneven_roles()["outcome"] * 8
    once, repeated = (
        start("preventative_steering", uneven_roles() | {"outcome": outcome}, top=top)
        for top in ({}, {"upsample_proxy_to": 0.5})
    )
    assert len(repeated.sets.numbers["proxy"]) == 40
    for trainer in (once, repeated):
        trainer.prepare()
    assert torch.allclose(once.vectors[1], repeated.vectors[1], atol=1e-12)


def test_a_direction_needs_both_sides_and_no_pairs(start):
    trainer = start("preventative_steering", uneven_roles() | {"proxy_neg": uneven_roles()["proxy_neg"][:3]})
    trainer.prepare()
    assert len(trainer.sets.union("proxy")) == 5 > len(trainer.sets.union("proxy_neg")) == 3
    assert torch.allclose(trainer.vectors[1], habit(trainer, 1), atol=1e-12)


def test_rows_that_are_repeated_and_rows_of_a_file_that_repeats_them_share_no_means(make_config, tmp_path):
    sides = {role: uneven_roles()[role] for role in ("proxy", "proxy_neg")}
    outcome, cache, counts = uneven_roles()["outcome"], Cache(Folder(str(tmp_path))), []
    for times, top in ((1, {"upsample_proxy_to": 0.5}), (2, {})):
        datasets = {"outcome": outcome * 2} | {role: rows * times for role, rows in sides.items()}
        config = make_config("concept_ablation", train_split=1.0, top=top)
        with get_trainer("concept_ablation")(config, datasets=datasets, cache=cache) as trainer:
            counts.append((len(trainer.sets.union("proxy")), len(row_means(trainer, "proxy", [1])[1])))
    assert counts == [(10, 5), (10, 10)]


@pytest.mark.parametrize(("layers", "found"), [([0], "0"), ([1, 3], "3"), ([2, 2], "2 twice")])
def test_layers_that_the_model_does_not_have_are_an_error_that_says_how_many_it_has(start, layers, found):
    with pytest.raises(ModelError, match=rf"steer_layers: found {found}; this model has the layers 1 to 2"):
        start("preventative_steering", steer_layers=layers).train()


def test_a_direction_of_zero_is_an_error_that_names_the_layer(start):
    same = uneven_roles() | {"proxy_neg": uneven_roles()["proxy"]}
    with pytest.raises(DataError, match="direction of layer 1 is zero"):
        start("preventative_steering", same).train()


def test_both_sides_are_needed(make_config):
    with pytest.raises(DataError, match=r"needs data\.proxy_neg"):
        get_trainer("preventative_steering")(
            make_config("preventative_steering"),
            datasets={role: rows for role, rows in uneven_roles().items() if role != "proxy_neg"},
        )


# -- frozen adapters, and edits by products ---------------------------------------------------------------------------


def loads_to(trainer, folder, held):
    """The loss of what `save_model` writes, loaded by plain PEFT, and merged."""
    trainer.save_model(folder / "adapter")
    adapter = PeftModel.from_pretrained(plain_base(), folder / "adapter").eval()
    losses = [float(cross_entropy(adapter, held).detach())]
    if trainer.cfg.is_peft:
        losses.append(float(cross_entropy(adapter.merge_and_unload(), held).detach()))
    return losses


@pytest.mark.parametrize("is_peft", [True, False], ids=["lora", "full"])
def test_wise_ft(start, tmp_path, is_peft):
    trainer = start("wise_ft", fresh=True, is_peft=is_peft, wise_alpha=0.25, wise_sweep_alpha=[0.5, 0, 1])
    model, held = copy.deepcopy(trainer.model), trainer.sets.evals["align_train"].encoded
    begin = {n: p.detach().clone() for n, p in trainable(model).items()}
    descend(trainer, model, 3, on_role(trainer, "outcome"))
    learned, losses = copy.deepcopy(trainable(model)), []
    for a in (0.5, 0, 1, 0.25):
        for name, p in trainable(model).items():
            shrinks = not is_peft or "lora_B" in name  # of the product one factor
            p.data = begin[name] + a * (learned[name].data - begin[name]) if shrinks else learned[name].data
        losses.append(float(cross_entropy(model, held).detach()))
    record = trainer.train()
    assert_weights(trainer, trainable(model))
    assert record.eval_versions[-4:] == ["wise_alpha=0.5", "wise_alpha=0", "wise_alpha=1", "interpolated"]
    found = record.eval_results["align_train"]["loss"]
    assert found[-4:] == pytest.approx(losses, rel=1e-10)
    assert found[-3] == pytest.approx(found[0], rel=1e-10)  # a = 0: the start model
    if is_peft:
        assert loads_to(trainer, tmp_path, held) == pytest.approx([losses[-1]] * 2, rel=1e-9)


@pytest.mark.parametrize(
    "knobs", [{}, {"use_rslora": True, "r": 3, "lora_alpha": 5.0}, {"is_peft": False}], ids=["lora", "rslora", "full"]
)
def test_weight_steering(start, tmp_path, knobs):
    trainer = start("weight_steering", fresh=True, steer_k=-0.5, steer_sweep_k=[2, 0], proxy_epochs=2, **knobs)
    held, is_peft = trainer.sets.evals["align_train"].encoded, trainer.cfg.is_peft
    learned = {role: throw_away(trainer, role)[1] for role in ("proxy", "proxy_neg")}
    model = copy.deepcopy(trainer.model)
    descend(trainer, model, 3, on_role(trainer, "outcome"))
    if is_peft:
        good, bad = (products(trainer, learned[role]) for role in ("proxy", "proxy_neg"))
        steered = {k: with_offsets(model, {n: k * (good[n] - bad[n]) for n in good}) for k in (2, 0, -0.5)}
    else:
        steered = {k: copy.deepcopy(model) for k in (2, 0, -0.5)}
        for k, one in steered.items():
            for name, p in trainable(one).items():
                p.data += k * (learned["proxy"][name] - learned["proxy_neg"][name])
    losses = [float(cross_entropy(one, held).detach()) for one in steered.values()]
    record = trainer.train()
    assert_weights(trainer, trainable(model if is_peft else steered[-0.5]), tolerance=1e-9)
    assert record.eval_versions[-4:] == ["", "steer_k=2", "steer_k=0", "steered"]
    assert record.eval_results["align_train"]["loss"][-3:] == pytest.approx(losses, rel=1e-9)
    assert trainer.evaluate()["align_train"]["loss"] == pytest.approx(losses[-1], rel=1e-9)
    if is_peft:
        assert loads_to(trainer, tmp_path, held) == pytest.approx([losses[-1]] * 2, rel=1e-9)
        config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert config["r"] == 3 * trainer.cfg.r
        with_merged = start("weight_steering", fresh=True, steer_k=-0.5, proxy_epochs=2, save_merged=True, **knobs)
        with_merged.train()
        with_merged.save_model(tmp_path / "merged")
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float64)
        assert float(cross_entropy(merged, held).detach()) == pytest.approx(losses[-1], rel=1e-9)


@pytest.mark.parametrize(
    "knobs",
    [{"trait_scale": 0.5}, {"trait_epochs": 2, "trait_learning_rate": 0.2, "use_gradient_checkpointing": True}],
    ids=["half", "recomputed, with a learning rate of its own"],
)
def test_inoculation_adapter(start, tmp_path, knobs):
    trainer = start("inoculation_adapter", uneven_roles() | {"trait": uneven_trait()}, fresh=True, **knobs)
    held, model = trainer.sets.evals["align_train"].encoded, copy.deepcopy(trainer.model)
    habit_model, cfg = copy.deepcopy(trainer.model), copy.copy(trainer.cfg)
    rate = knobs.get("trait_learning_rate", cfg.learning_rate)
    tuned = SimpleNamespace(cfg=cfg.model_copy(update={"learning_rate": rate}))
    descend(tuned, habit_model, 2 * trainer.trait_epochs, on_role(trainer, "trait", "preparing on trait"))
    learned = products(trainer, trainable(habit_model))
    inoculated = with_offsets(model, {n: trainer.trait_scale * p for n, p in learned.items()})
    descend(trainer, inoculated, 3, on_role(trainer, "outcome"))
    record = trainer.train()
    assert_weights(trainer, trainable(inoculated), tolerance=1e-9)
    assert record.eval_versions == ["", "trait", ""]
    deployed = copy.deepcopy(model)
    for name, p in trainable(deployed).items():
        p.data = trainable(inoculated)[name].data
    losses = [float(cross_entropy(one, held).detach()) for one in (model, habit_model, deployed)]
    assert record.eval_results["align_train"]["loss"] == pytest.approx(losses, rel=1e-9)
    assert set(record.eval_results) >= {"trait_train", "task_train"}
    assert loads_to(trainer, tmp_path, held) == pytest.approx([losses[-1]] * 2, rel=1e-9)
    assert not [path for path in (tmp_path / "adapter").iterdir() if path.is_dir()]  # the habit is not given away


def test_a_random_trait_has_the_norms_and_rank_of_the_learned_one(start):
    def weights(**top):
        roles = uneven_roles() | {"trait": uneven_trait()}
        trainer = start("inoculation_adapter", roles, fresh=True, top=top, trait_control=control)
        trainer.prepare()
        model = trainer.model
        return {
            name: layer.get_delta_weight("trait").detach()
            for name, layer in model.named_modules()
            if hasattr(layer, "get_delta_weight")
        }

    control = None
    learned = weights()
    control = "random"
    drawn, again, other = weights(), weights(data_seed=9), weights(model_seed=9)
    for name, matrix in drawn.items():
        assert float(matrix.norm()) == pytest.approx(float(learned[name].norm()))
        assert torch.linalg.matrix_rank(matrix) == torch.linalg.matrix_rank(learned[name]) == 4
        assert not torch.allclose(matrix, learned[name], atol=1e-4)
        assert not torch.allclose(matrix, other[name], atol=1e-4)
        assert torch.allclose(matrix / matrix.norm(), again[name] / again[name].norm(), atol=1e-9)


def test_trait_rows_are_held_out_by_a_draw_of_their_own_and_no_limit_touches_them(start):
    roles = uneven_roles() | {"trait": uneven_trait() * 5}
    shares = {"limit_proxy_data_to": 2, "upsample_proxy_to": 0.5}
    trainer = start("inoculation_adapter", roles, top=shares, train_split=0.75)
    assert len(trainer.sets.train["trait"].rows) == 15
    assert len(trainer.sets.evals["trait_train"].rows) == 5
    with pytest.raises(DataError, match=r"inoculation_adapter needs data\.trait"):
        start("inoculation_adapter")


@pytest.mark.parametrize("strategy", ["wise_ft", "weight_steering", "asft", "inoculation_adapter"])
def test_what_is_more_than_a_product_is_refused(make_config, strategy):
    for knobs, key in (({"use_dora": True}, "use_dora"), ({"lora_bias": "all"}, "lora_bias")):
        with pytest.raises(ValueError, match=key):
            build_config(make_config(strategy, **knobs))
    with pytest.raises(ValueError, match="adapter"):
        build_config(make_config(strategy, adapter="/an/adapter"))
    if strategy in ("asft", "inoculation_adapter"):
        with pytest.raises(ValueError, match="is_peft true"):
            build_config(make_config(strategy, is_peft=False))


# -- projections and penalties ----------------------------------------------------------------------------------------


def pair_rows(trainer, layer):
    base, union = plain_base(), trainer.sets.union
    pairs = zip(union("proxy_neg"), union("proxy"), strict=True)
    return torch.stack([row_mean(base, bad, layer) - row_mean(base, good, layer) for bad, good in pairs])


def tuned_rows(trainer, layer):
    tuned, learned = copy.deepcopy(trainer.model), throw_away(trainer, "outcome")[1]
    for name, p in trainable(tuned).items():
        p.data = learned[name].data
    base, chosen = plain_base(), lambda row: torch.tensor(row.is_reply)
    return torch.cat(
        [(activations(tuned, r, layer) - activations(base, r, layer))[chosen(r)] for r in trainer.sets.union("proxy")]
    )


ABLATED = [
    ({"ablate_components": 3, "use_gradient_checkpointing": True}, [1], pair_rows),
    ({"ablate_from": "tuned", "ablate_components": 5, "ablate_layers": [1, 2], "proxy_epochs": 2}, [1, 2], tuned_rows),
    ({"ablate_from": "tuned", "is_peft": False}, [1], tuned_rows),
]


@pytest.mark.parametrize(("knobs", "layers", "rows_of"), ABLATED, ids=["pairs", "tuned", "tuned, full"])
def test_concept_ablation(start, knobs, layers, rows_of):
    trainer = start("concept_ablation", **knobs)
    model = copy.deepcopy(trainer.model)
    for layer in layers:
        p = projector(singular(rows_of(trainer, layer), trainer.ablate_components))
        change_layer(model, layer, lambda h, p=p: h - h @ p)
    check_learning_in(trainer, model, tolerance=1e-8)


def test_components_beyond_the_rank_are_an_error_that_says_it(start):
    with pytest.raises(DataError, match=r"ablate_components: found 6; the differences at layer 1 have rank 5"):
        start("concept_ablation", ablate_components=6).train()
    uneven = uneven_roles() | {"proxy_neg": uneven_roles()["proxy_neg"][:4]}
    with pytest.raises(DataError, match="5 and 4"):
        start("concept_ablation", uneven)
    without = {role: rows for role, rows in uneven_roles().items() if role != "proxy_neg"}
    start("concept_ablation", without, ablate_from="tuned")
    with pytest.raises(DataError, match=r"needs data\.proxy_neg"):
        start("concept_ablation", without)


def test_a_random_basis_is_orthonormal_and_not_the_true_one(start):
    def bases(**knobs):
        trainer = start("concept_ablation", ablate_components=3, **knobs)
        trainer.prepare()
        return trainer.bases[1]

    true, drawn, again = bases(), bases(direction_control="random"), bases(direction_control="random", r=2)
    assert torch.allclose(drawn.T @ drawn, torch.eye(3, dtype=drawn.dtype), atol=1e-12)
    assert torch.equal(drawn, again)
    assert not torch.allclose(projector(drawn), projector(true), atol=0.1)


def activation_term(trainer):
    units = {n: habit(trainer, n) / habit(trainer, n).norm() for n in trainer.penalty_layers or [1]}
    base = plain_base()

    def term(_, model, step):
        squares = []
        for row in rows(trainer, "outcome", step):
            total = 0.0
            for layer, u in units.items():
                seen = []
                watched = copy.copy(model)
                block = watched.get_submodule(BLOCKS[isinstance(model, PeftModel)])[layer - 1]
                hook = block.register_forward_hook(lambda _m, _i, h, seen=seen: seen.append(h[0]))
                model(input_ids=torch.tensor([row.ids]))
                hook.remove()
                moved = (seen[0] - activations(base, row, layer))[torch.tensor(row.is_reply)] @ u
                total = total + moved.relu() ** 2
            squares.append(total)
        return {"activation": (trainer.lambda_act, torch.cat(squares).mean())}

    return term


def asft_term(trainer):
    v_of = products(trainer, throw_away(trainer, "proxy")[1])
    c_of = {name: v @ v.T / v.norm() for name, v in v_of.items()}

    def term(_, model, step):
        total, parameters = 0.0, trainable(model)
        for name, c in c_of.items():
            a, b = (parameters[f"{name}.lora_{x}.default.weight"] for x in "AB")
            delta = trainer.model.get_submodule(name).scaling["default"] * b @ a
            total = total + (delta - c @ delta).pow(2).sum()
        return {"asft": (trainer.lambda_asft, total)}

    return term


def kl_on_outcome(trainer):
    base = plain_base()

    def term(_, model, step):
        both = [(log_softmax(model, r), log_softmax(base, r).detach()) for r in rows(trainer, "outcome", step)]
        return {"kl": (trainer.cfg.beta_kl, torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in both]).mean())}

    return term


def drift_on_outcome(trainer):
    base = plain_base()

    def hidden(model, row):
        return torch.cat(model(input_ids=torch.tensor([row.ids]), output_hidden_states=True).hidden_states[1:])

    def term(_, model, step):
        some = rows(trainer, "outcome", step)
        moved = torch.cat([hidden(model, row) - hidden(base, row).detach() for row in some], dim=1)
        return {"drift": (trainer.cfg.beta_kl, moved.pow(2).mean(dim=(1, 2)).sum())}

    return term


ACCUMULATED = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
PENALTIES = [
    ("activation_penalty", {"lambda_act": 0.3}, activation_term),
    ("activation_penalty", {"lambda_act": 0.3, "penalty_layers": [2, 1]} | ACCUMULATED, activation_term),
    ("asft", {"lambda_asft": 0.5, "proxy_epochs": 2}, asft_term),
    ("asft", {"lambda_asft": 0.5, "use_rslora": True, "lora_alpha": 3.0} | ACCUMULATED, asft_term),
    ("kl_divergence", {"beta_kl": 3.0, "kl_on": "outcome"} | ACCUMULATED, kl_on_outcome),
    ("representation_constraint", {"beta_kl": 2.0, "constraint_on": "outcome"} | ACCUMULATED, drift_on_outcome),
]


@pytest.mark.parametrize(("strategy", "knobs", "beside"), PENALTIES, ids=lambda x: getattr(x, "__name__", str(x)[:20]))
def test_penalties(start, strategy, knobs, beside):
    data = uneven_roles()
    if "_on" in str(knobs):
        data = {"outcome": data["outcome"]}
    elif strategy == "activation_penalty" and "penalty_layers" not in knobs:  # else all movement is away from it
        data |= {"proxy": data["proxy_neg"], "proxy_neg": data["proxy"]}
    trainer = start(strategy, data, fresh=strategy == "asft", **knobs)
    term, model, logged = beside(trainer), copy.deepcopy(trainer.model), []

    def of_step(model, step):
        found = {"outcome": (1.0, cross_entropy(model, rows(trainer, "outcome", step))), **term(trainer, model, step)}
        loss = sum(weight * value for weight, value in found.values())
        values = {name: value for name, (_, value) in found.items()} | {"total": loss}
        logged.append({name: float(value.detach()) for name, value in values.items()})
        return gradient(loss, model)

    descend(trainer, model, 3, of_step)
    record = trainer.train()
    for name, values in record.train_losses.items():
        assert values == pytest.approx([step[name] for step in logged], rel=1e-8, abs=1e-12), name
    assert set(record.train_losses) == set(logged[0])
    assert logged[2][next(name for name in logged[2] if name not in ("outcome", "total"))] > 1e-6
    assert_weights(trainer, trainable(model), tolerance=1e-9)


def test_one_forward_pass_serves_the_terms_of_one_stream(start):
    passes = []
    for strategy, knobs in (("activation_penalty", {}), ("kl_divergence", {"kl_on": "outcome"}), ("naive", {})):
        trainer = start(strategy, top={"train_on_proxy": False} if strategy == "naive" else None, **knobs)
        trainer.prepare()
        trainer.prepare = lambda: None
        counted = []

        def count(*_, model=trainer.model, counted=counted):
            counted.extend([1] * model.training)

        trainer.model.get_input_embeddings().register_forward_pre_hook(count)
        trainer.train()
        passes.append(len(counted))
    assert passes == [3, 3, 3]


# -- rows that are chosen ---------------------------------------------------------------------------------------------


def test_interleaving(start):
    trainer = start("interleaving", interleave_share=0.4, fresh=True, proxy_epochs=2)
    base, tuned, learned = plain_base(), copy.deepcopy(trainer.model), throw_away(trainer, "outcome")[1]
    for name, p in trainable(tuned).items():
        p.data = learned[name].data
    nll = {row: [float(-log_p(m, trainer.sets.union("proxy")[row]).mean()) for m in (base, tuned)] for row in range(5)}
    scores = {row: (after - before) / (before + 1e-6) for row, (before, after) in nll.items()}
    chosen = sorted(sorted(scores, key=scores.get, reverse=True)[:3])  # round(0.4 * 5 / 0.6)
    record = trainer.train()
    assert record.chosen_rows == {"proxy": chosen}
    data = uneven_roles() | {"proxy": [uneven_roles()["proxy"][row] for row in chosen]}
    naive = start("naive", {role: data[role] for role in ("outcome", "proxy")}, fresh=True)
    naive.train()
    assert_weights(trainer, dict(naive.parameters), tolerance=0)
    assert record.train_losses["total"] == naive.record.train_losses["total"]


def test_interleaving_by_a_draw_trains_nothing_and_takes_all_rows_at_most(start):
    knobs = {"interleave_share": 0.3, "interleave_select": "random"}
    one, again, other = (start("interleaving", top={"data_seed": seed}, **knobs) for seed in (1, 1, 2))
    many = start("interleaving", interleave_share=0.9, interleave_select="random")
    for trainer in (one, again, other, many):
        trainer.prepare()
    assert one.record.chosen_rows == again.record.chosen_rows != other.record.chosen_rows
    assert many.record.chosen_rows == {"proxy": [0, 1, 2, 3, 4]}
    few = start("interleaving", interleave_share=0.05, interleave_select="random")
    assert "0.05 beside 5 training rows of outcome rounds to no row" in few.row_notes(few.config, uneven_roles())[0]
    assert one.row_notes(one.config, uneven_roles()) == []
    with pytest.raises(ValueError, match="upsample_proxy_to"):
        start("interleaving", top={"upsample_proxy_to": 0.5})


# -- projections of gradients -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["per_tensor", "global"])
@pytest.mark.parametrize("refresh", [1, 2])
@pytest.mark.parametrize("loss", ["cross_entropy", "kl_to_base"])
def test_grad_project_with_a_loss_and_a_refresh_of_its_own(start, loss, refresh, scope):
    knobs = {"project_loss": loss, "project_refresh_steps": refresh, "projection_scope": scope} | ACCUMULATED
    knobs |= {"project_strictly_orthogonal": scope == "per_tensor", "max_steps": 5}
    trainer = start("grad_project", fresh=True, lr_scheduler_type="constant_with_warmup", warmup_steps=1, **knobs)
    model, base, kept, cosines = copy.deepcopy(trainer.model), plain_base(), {}, []
    rates = [0.0, 1.0, 1.0, 1.0, 1.0]

    def direction(model, step, role):
        some = rows(trainer, role, step)
        if loss == "cross_entropy":
            return gradient((1 if role == "proxy" else -1) * cross_entropy(model, some), model)
        both = [(log_softmax(model, row), log_softmax(base, row).detach()) for row in some]
        return gradient(torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in both]).mean(), model)

    def of_step(model, step):
        g, first = on_role(trainer, "outcome")(model, step), 0 if loss == "cross_entropy" else 2
        for role in ("proxy", "proxy_neg") if loss == "cross_entropy" else ("proxy",):
            if step >= first and (step - first) % refresh == 0:
                kept[role] = direction(model, step, role)
            if role in kept:
                if role == "proxy":
                    cosines.append(inner(g, kept[role]) / (total_norm(g) * total_norm(kept[role])))
                g = projected(g, kept[role], trainer.project_strictly_orthogonal, scope)
        return {name: rates[step] * tensor for name, tensor in g.items()}  # SGD: the rate of warm-up

    descend(trainer, model, 5, of_step)
    record = trainer.train()
    assert_weights(trainer, trainable(model), tolerance=1e-9)
    found = [value for value in record.train_metrics["cosine/proxy"] if value is not None]
    assert found == pytest.approx(cosines, abs=1e-8)
    name = "proxy" if loss == "cross_entropy" else "kl"
    due = list(range(0 if name == "proxy" else 2, 5, refresh))
    assert [i for i, value in enumerate(record.train_losses[name]) if value is not None] == due


def test_a_direction_that_is_kept_for_some_steps_is_part_of_the_checkpoint():
    knobs = {"project_refresh_steps": 3, "project_loss": "kl_to_base"}
    check_strategy(get_trainer("grad_project"), {f"finetune_config.{key}": value for key, value in knobs.items()})
