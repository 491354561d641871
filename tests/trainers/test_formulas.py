"""Every strategy against a second, naive computation of its formula, in float64."""

import copy

import pytest
import safetensors.torch
import torch
from conftest import make_model, uneven_roles
from peft import PeftModel
from plain_formulas import (
    PREFIX,
    TERMS,
    Safe,
    assert_weights,
    cross_entropy,
    descend,
    drift,
    gradient,
    inner,
    log_softmax,
    margins,
    mean_squares,
    on_role,
    plain_base,
    plane,
    projected,
    row_penalty,
    rows,
    slope,
    throw_away,
    total_norm,
    trainable,
)

from selgen_ray.errors import DataError

PEFT = pytest.mark.parametrize("is_peft", [True, False], ids=["lora", "full"])


ADAMW = {"optim": "adamw_torch", "learning_rate": 2e-3}


ACCUMULATED = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}


LOSSES = [
    ("positive_negative_proxy", {"lambda_proxy": 0.7, "neg_lambda_proxy": 0.2}),
    ("kl_divergence", {"beta_kl": 3.0}),
    ("kl_divergence", {"beta_kl": 3.0, "loss_on": "all"}),
    ("kl_divergence", {"beta_kl": 3.0} | ACCUMULATED),
    ("representation_constraint", {"beta_kl": 2.0} | ACCUMULATED),
    ("representation_constraint", {"beta_rep": 2.0, "representation_layers": [2]}),
    ("dpo", {"lambda_dpo": 2.0, "beta": 0.5}),
    ("dpo", {"lambda_dpo": 2.0, "beta": 1.5, "dpo_average_log_prob": True} | ACCUMULATED),
    ("orth_penalty", {"lambda_1": 1e-3}),
    ("orth_penalty", {"lambda_1": 3.0, "penalty_normalize": False}),
    ("directional_penalty", {"lambda_1": 2e-3, "proxy_epochs": 2}),
    ("directional_penalty", {"lambda_1": -3.0, "penalty_normalize": False}),
]


def check_three_steps(trainer):
    """The weights after three steps, the logged value of every term, and a finite difference."""
    beside = TERMS.get(trainer.proxy_strategy_name) or row_penalty(trainer)
    model, logged = copy.deepcopy(trainer.model), []

    def terms(model, step):
        return {"outcome": (1.0, cross_entropy(model, rows(trainer, "outcome", step))), **beside(trainer, model, step)}

    def total(model, step):
        return sum(weight * value for weight, value in terms(model, step).values())

    def of_step(model, step):
        logged.append({name: float(value.detach()) for name, (_, value) in terms(model, step).items()})
        logged[-1]["total"] = float(total(model, step).detach())
        g = gradient(total(model, step), model)
        if trainer.cfg.is_peft:  # full fine-tuning starts in a kink of the penalties
            difference, product = slope(lambda m: total(m, step), model, g)
            assert product == pytest.approx(difference, rel=1e-5)
        return g

    descend(trainer, model, 3, of_step)
    record = trainer.train()
    assert record.train_losses.keys() == logged[0].keys()
    for name, values in record.train_losses.items():
        assert values == pytest.approx([step[name] for step in logged], rel=1e-8, abs=1e-12), name
    assert_weights(trainer, trainable(model), tolerance=1e-9)


@PEFT
@pytest.mark.parametrize(("strategy", "knobs"), LOSSES)
def test_loss(start, strategy, knobs, is_peft):
    check_three_steps(start(strategy, is_peft=is_peft, **knobs))


@pytest.mark.parametrize("strategy", ["orth_penalty", "directional_penalty"])
def test_penalty_passes_over_rows_of_zeros(start, monkeypatch, strategy):
    monkeypatch.setattr("selgen_ray.models.loading._load_base", lambda *_: make_model(tied=False).double())
    trainer = start(strategy, is_peft=False, lambda_1=1e-5)
    assert not plane(trainer)["model.embed_tokens.weight"].any(-1).all()
    check_three_steps(trainer)


def test_what_else_is_logged(start):
    trainer = start("representation_constraint", max_steps=1)
    found = mean_squares(trainer, trainer.model, 0)
    expected = {f"mse/layer_{n}": float(found[n].detach()) for n in (1, 2)}
    assert {n: v[0] for n, v in trainer.train().train_metrics.items()} == pytest.approx(expected, rel=1e-9)
    trainer = start("dpo", beta=0.5, max_steps=1)
    found = margins(trainer, trainer.model, 0).detach()
    expected = {"dpo_margin": float(found.mean()), "dpo_accuracy": float((found > 0).double().mean())}
    assert {n: v[0] for n, v in trainer.train().train_metrics.items()} == pytest.approx(expected, rel=1e-9)


def test_growing_beta_never_raises_the_final_mse(start):
    final = []
    for beta in (0.1, 1.0, 10.0, 100.0):
        trainer = start("representation_constraint", fresh=True, beta_kl=beta, **ADAMW | {"max_steps": 15})
        trainer.train()
        with torch.no_grad():  # five rows in batches of two: the first five batches hold each row twice
            final.append(sum(float(drift(trainer, trainer.model, step)["drift"][1]) for step in range(5)))
    assert final == sorted(final, reverse=True)
    assert final[-1] < final[0] / 2


@PEFT
@pytest.mark.parametrize("scope", ["per_tensor", "global"])
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "conflicts"])
@pytest.mark.parametrize("last", ["proxy", "proxy_neg"])
def test_grad_project(start, last, strict, scope, is_peft):
    datasets = {role: x for role, x in uneven_roles().items() if last == "proxy_neg" or role != "proxy_neg"}
    knobs = {"project_strictly_orthogonal": strict, "projection_scope": scope, "max_grad_norm": 0.1} | ACCUMULATED
    trainer = start("grad_project", datasets, fresh=True, is_peft=is_peft, **knobs)  # d = 0 in the first step of A
    model, cosines = copy.deepcopy(trainer.model), {"proxy": [], "proxy_neg": []}

    def of_step(model, step):
        g = on_role(trainer, "outcome")(model, step)
        for role, sign in {"proxy": 1, last: 1 if last == "proxy" else -1}.items():
            d = gradient(sign * cross_entropy(model, rows(trainer, role, step)), model)
            cosines[role].append(inner(g, d) / (total_norm(g) * total_norm(d)))
            g = projected(g, d, strict, scope)
        return g

    assert max(total_norm(g) for g in descend(trainer, model, 3, of_step)) > 0.1
    record = trainer.train()
    assert_weights(trainer, trainable(model))
    for role in ("proxy", last):
        assert record.train_metrics[f"cosine/{role}"] == pytest.approx(cosines[role], abs=1e-9)


@PEFT
@pytest.mark.parametrize("optim", [{}, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("role", ["proxy", "proxy_neg"])
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "conflicts"])
def test_grad_project_precomputed_proxy_grad(start, strict, role, optim, is_peft):
    knobs = {"proxy_epochs": 2, "max_grad_norm": 0.4, **optim, "is_peft": is_peft}
    knobs |= {"project_along_positive_proxy_grad": role == "proxy", "project_strictly_orthogonal": strict}
    trainer = start("grad_project_precomputed_proxy_grad", **knobs)
    average, model = throw_away(trainer, role)[0], copy.deepcopy(trainer.model)
    d = {n: t if role == "proxy" else -t for n, t in average.items()}
    of_outcome = on_role(trainer, "outcome")
    descend(trainer, model, 3, lambda m, step: projected(of_outcome(m, step), d, strict, "per_tensor"))
    trainer.train()
    assert_weights(trainer, trainable(model), tolerance=1e-8)


def check_steering(trainer, v, alphas):
    model, of_outcome, cfg = copy.deepcopy(trainer.model), on_role(trainer, "outcome"), trainer.cfg

    def steered(model, step):
        g = of_outcome(model, step)
        return g if cfg.direct_steering else {n: g[n] + alphas[step] * v[n] for n in g}

    def after(parameters, step):
        for name, p in parameters.items():
            p -= cfg.learning_rate * alphas[step] * v[name] if cfg.direct_steering else 0.0

    descend(trainer, model, len(alphas), steered, after)
    record = trainer.train()
    assert_weights(trainer, trainable(model), tolerance=1e-8)
    assert record.train_metrics["alpha"] == pytest.approx(alphas)
    assert record.train_metrics["plane_norm"] == pytest.approx([total_norm(v)] * len(alphas))


SIDES = [
    (None, {}, {}),
    (None, {"add_proxy_gradients": True}, {"sign": 1.0}),
    (None, {"negative_proxy": None}, {"negative": None}),
    (None, {"positive_proxy": None, "negative_proxy": "proxy"}, {"positive": None, "negative": "proxy"}),
    (None, {"positive_proxy": "outcome", "negative_proxy": "proxy"}, {"positive": "outcome", "negative": "proxy"}),
    ("proxy_neg", {}, {"negative": None}),
    ("proxy", {}, {"positive": None}),
    (None, {"direct_steering": True} | ADAMW, {}),  # round clipping and the optimizer
]


@PEFT
@pytest.mark.parametrize(("absent", "knobs", "sides"), SIDES)
def test_steering_weights(start, absent, knobs, sides, is_peft):
    datasets = {role: x for role, x in uneven_roles().items() if role != absent}
    trainer = start("steering_weights", datasets, steering_alpha=1.5, max_grad_norm=0.2, is_peft=is_peft, **knobs)
    check_steering(trainer, plane(trainer, **sides), [1.5] * 3)


@pytest.mark.parametrize(("warmup", "alphas"), [(0, [2, 1.5, 1, 0.5, 0]), (2, [1, 2, 2, 1, 0])])
@pytest.mark.parametrize("direct", [True, False])
def test_alpha_warms_up_and_ends_at_its_final_value(start, warmup, alphas, direct):
    knobs = {"alpha_scheduler_type": "linear", "final_steering_alpha": 0.0, "alpha_warmup_steps": warmup}
    trainer = start("steering_weights", steering_alpha=2.0, max_steps=5, direct_steering=direct, **knobs)
    check_steering(trainer, plane(trainer), alphas)


@PEFT
def test_plane_of_finetuned_weights_has_their_direction_and_the_gradients_length(start, is_peft):
    knobs = {"calc_alignment_plane_using_fully_finetuned_weights": True, "is_peft": is_peft, "proxy_epochs": 2}
    trainer = start("steering_weights", **ADAMW, **knobs)
    (g_pos, pos), (g_neg, neg) = (throw_away(trainer, role) for role in ("proxy", "proxy_neg"))
    v = {n: (neg[n] - pos[n]) * (g_pos[n] - g_neg[n]).norm() / (neg[n] - pos[n]).norm() for n in pos}
    check_steering(trainer, v, [1.0] * 3)


@PEFT
def test_steering_weights_add_alignment_plane(start, is_peft):
    trainer = start("steering_weights_add_alignment_plane", steering_alpha=0.8, is_peft=is_peft)
    v, model, held = plane(trainer), copy.deepcopy(trainer.model), trainer.sets.evals["align_train"].encoded
    descend(trainer, model, 3, on_role(trainer, "outcome"))
    losses = [float(cross_entropy(model, held).detach())]
    for name, p in trainable(model).items():
        p.data -= 0.8 * v[name]
    losses.append(float(cross_entropy(model, held).detach()))
    record = trainer.train()
    assert_weights(trainer, trainable(model))
    assert record.eval_versions[-2:] == ["", "steered"]
    assert record.eval_results["align_train"]["loss"][-2:] == pytest.approx(losses)
    assert record.train_metrics["plane_norm"][-1] == pytest.approx(total_norm(v))


def test_a_saved_plane_is_read_again(start, tmp_path):
    trainer = start("steering_weights", save_steering_vector=True, steering_vector_path=str(tmp_path / "v.safetensors"))
    v = plane(trainer)
    trainer.train()
    (path,) = tmp_path.iterdir()
    found = safetensors.torch.load_file(path)
    assert found.keys() == v.keys()
    assert all(torch.allclose(found[name], v[name], atol=1e-10) for name in v)
    torch.save(found, tmp_path / "v.pt")
    for file in (path, tmp_path / "v.pt"):
        again = start("steering_weights", load_steering_vector=True, steering_vector_path=str(file))
        again.train()
        assert all(torch.equal(p, again.parameters[n]) for n, p in trainer.parameters.items())


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "not tensors"])
def test_a_plane_that_does_not_fit_names_the_tensor(start, tmp_path, fault, kind):
    path = tmp_path / f"v.{kind}"
    trainer = start("orth_penalty", load_steering_vector=True, steering_vector_path=str(path))
    wrong = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    name = "something.else" if fault == "extra" else list(wrong)[3]
    whole = wrong.pop(name, torch.zeros(3))
    if fault != "missing":
        wrong[name] = whole if fault == "extra" else whole[:-1].clone()
    (safetensors.torch.save_file if kind == "safetensors" else torch.save)(wrong, path)
    if fault == "not tensors":
        path.write_text("no tensors")
    with pytest.raises(DataError, match="cannot be read" if fault == "not tensors" else name):
        trainer.train()


STEERED = ["steering_weights", "steering_weights_add_alignment_plane", "orth_penalty", "directional_penalty"]


@pytest.mark.parametrize("strategy", [*STEERED, "grad_project_precomputed_proxy_grad"])
def test_one_step_of_lora_gives_no_direction(start, strategy):
    with pytest.raises(DataError, match="one step"):
        start(strategy, proxy_batch_size=5)
    start(strategy, proxy_batch_size=5, is_peft=False)


SAFE = [
    ("threshold", 0, {}),
    ("threshold", 5, {"proxy_epochs": 2}),
    ("threshold", 14, {"use_rslora": True, "r": 2}),
    ("threshold", 6, {"lora_alpha": 3.0, "safe_lora_base_model": "another"}),
    ("number", 3, {"use_rslora": True}),
    ("number", 99, {}),
]


@pytest.mark.parametrize(("kind", "number", "knobs"), SAFE)
def test_safe_lora(start, tmp_path, kind, number, knobs):
    unaligned, tolerance = plain_base(), 1e-9
    if "safe_lora_base_model" in knobs:
        make_model(seed=5).save_pretrained(tmp_path / "another")
        unaligned, tolerance = make_model(seed=5).double(), 1e-6  # it is read in float32
        knobs = knobs | {"safe_lora_base_model": str(tmp_path / "another")}
    safe = Safe(start("safe_lora", fresh=True, **knobs), unaligned)
    ranked, counts = sorted(safe.cosines.values()), []
    if kind == "threshold":
        below = {n: (ranked[n - 1] + ranked[n]) / 2 for n in range(1, 14)} | {0: -1.0, 14: 1.0}
        counts = [0, 14, 9]
        knobs = knobs | {"safe_lora_threshold": below[number], "safe_lora_sweep_thresholds": [below[n] for n in counts]}
    else:
        knobs = knobs | {"safe_lora_type": "number", "safe_lora_num_proj_layers": number}
    trainer, unprojected = start("safe_lora", fresh=True, **knobs), {}
    edits, held = trainer.edits, trainer.sets.evals["align_train"].encoded

    def seen():
        unprojected.update({n: p.detach().clone() for n, p in trainer.parameters.items()})
        return edits()

    trainer.edits = seen
    record = trainer.train()
    assert_weights(trainer, safe.edited(number), tolerance)
    same = [n for n, p in trainer.parameters.items() if torch.equal(p, unprojected[n])]
    assert len(same) == 28 - min(number, 14)
    logged = {n.split("/")[1]: v[-1] for n, v in record.train_metrics.items() if n.startswith("safe_lora_cosine/")}
    assert logged == pytest.approx({n.removeprefix(PREFIX): c for n, c in safe.cosines.items()}, abs=tolerance)
    assert (record.eval_versions[1], record.eval_versions[-1]) == ("aligned", "projected")
    losses = [float(cross_entropy(safe.aligned, held).detach()), *(safe.loss(held, n) for n in (0, *counts, number))]
    found = record.eval_results["align_train"]["loss"]
    assert [found[1], *found[-2 - len(counts) :]] == pytest.approx(losses, rel=tolerance)

    trainer.save_model(tmp_path)
    loaded = PeftModel.from_pretrained(plain_base(), tmp_path).eval()
    assert float(cross_entropy(loaded, held).detach()) == pytest.approx(found[-1], rel=1e-10)
    for row in held:
        assert torch.allclose(log_softmax(loaded, row), log_softmax(trainer.model.eval(), row), atol=1e-10)
