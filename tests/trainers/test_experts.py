"""Mixtures of experts, whose matrices PEFT adapts packed in one parameter: each expert is one matrix."""

from __future__ import annotations

import pytest
import torch
from conftest import make_tokenizer
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.models.checks import adapted_skeleton, model_problems
from selgen_ray.models.saving import save_merged
from selgen_ray.trainers import build_config, get_trainer

IDS = torch.tensor([[5, 9, 70, 33, 2, 61]])
SHORT = {"epochs": 1, "max_to_eval": 1, "max_new_tokens": 1, "learning_rate": 0.05}
EXPERTS = {
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "decoder_sparse_step": 1, "head_dim": 8},
    "mixtral": {"num_local_experts": 3},
}


@pytest.fixture(scope="module", params=EXPERTS)
def experts(request, tmp_path_factory) -> str:
    """The folder of a model, float32."""
    folder = tmp_path_factory.mktemp(request.param)
    size = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2, "eos_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(request.param, **size, **heads, **EXPERTS[request.param])
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def test_what_is_saved_is_what_was_trained(make_config, experts, tmp_path):
    with get_trainer("naive")(make_config(model=experts, **SHORT)) as trainer:
        trainer.train()
        trainer.save_model(tmp_path / "adapter")
        trained = logits(trainer.model)
        save_merged(trainer.model, trainer.tokenizer, tmp_path / "merged")
        assert torch.equal(logits(trainer.model), trained)
    base = AutoModelForCausalLM.from_pretrained(experts)
    assert (logits(base) - trained).abs().max() > 0.01
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(merged), trained, atol=1e-5)
    assert torch.allclose(logits(PeftModel.from_pretrained(base, tmp_path / "adapter")), trained, atol=1e-6)
    config = make_config(model=experts, adapter=str(tmp_path / "adapter"), **SHORT)
    assert model_problems(build_config(config)) == []
    with get_trainer("naive")(config) as trainer:
        assert torch.allclose(logits(trainer.model), trained, atol=1e-6)
        assert {p.shape[1] for n, p in trainer.parameters.items() if "experts" in n and "lora_A" in n} >= {32}


def test_an_adapter_of_other_experts_is_refused_before_the_training(make_config, experts, tmp_path):
    with get_trainer("naive")(make_config(model=experts, **SHORT)) as trainer:
        trainer.save_model(tmp_path / "adapter")
    config = AutoConfig.from_pretrained(experts)
    config.num_local_experts = config.num_experts = 2
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    (problem,) = model_problems(
        build_config(make_config(model=str(tmp_path / "other"), adapter=str(tmp_path / "adapter")))
    )
    assert "is not of this model" in problem and "experts" in problem


@pytest.mark.parametrize("key", ["use_dora", "lora_dropout"])
def test_what_experts_cannot_have_is_found_before_the_training(make_config, experts, key):
    value = {"use_dora": True, "lora_dropout": 0.1}[key]
    (problem,) = model_problems(build_config(make_config(model=experts, **{key: value})))
    assert problem.startswith(f"finetune_config.{key} {value}: experts") and "target_modules" in problem
    attention = make_config(model=experts, target_modules=["q_proj", "v_proj"], **{key: value})
    assert model_problems(build_config(attention)) == []


def test_safe_lora_compares_each_expert(make_config, experts, tmp_path):
    knobs = {"safe_lora_threshold": 0.5, "proxy_epochs": 1, **SHORT}
    with get_trainer("safe_lora")(make_config("safe_lora", model=experts, **knobs)) as trainer:
        before: dict[str, torch.Tensor] = {}
        projection = trainer._projection

        def keep(name, matrix):  # the trained adapter, before its B is replaced
            before.setdefault(name, delta(matrix, "default"))
            return projection(name, matrix)

        trainer._projection = keep
        record = trainer.train()
        logged = {n.split("/")[1]: v[-1] for n, v in record.train_metrics.items() if n.startswith("safe_lora_cosine/")}
        num_experts = trainer.matrices[next(n for n in logged if "experts" in n)].layer.num_experts
        assert len([name for name in logged if ".experts." in name]) == 2 * 2 * num_experts
        replaced = 0
        for name, matrix in trainer.matrices.items():
            v, ba = delta(matrix, "aligned"), before[name]
            cba = v @ v.T / v.norm() @ ba
            cosine = float((cba * ba).sum() / cba.norm() / ba.norm())
            assert logged[name] == pytest.approx(cosine, abs=1e-4), name
            replaced += cosine <= 0.5
            assert torch.allclose(delta(matrix, "default"), cba if cosine <= 0.5 else ba, atol=1e-5), name
        assert 0 < replaced < len(logged)
        trained = logits(trainer.model)
        trainer.save_model(tmp_path / "saved")
        assert torch.equal(logits(trainer.model), trained)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(experts), tmp_path / "saved")
    assert torch.allclose(logits(loaded), trained, atol=1e-5)


def delta(matrix, adapter: str) -> torch.Tensor:
    """What PEFT adds to the weight, [out, in]."""
    whole = matrix.layer.get_delta_weight(adapter).detach().double()
    return whole if matrix.expert is None else whole[matrix.expert]


def test_a_name_of_the_skeleton_has_its_adapter(experts):
    model = adapted_skeleton(FinetuneConfig(model=experts))
    assert {p.device.type for p in model.parameters()} == {"meta"}
