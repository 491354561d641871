"""No option is accepted and ignored: every field of the config is classed here, and does what its class says."""

from pathlib import Path

import pytest
import torch
from conftest import make_model
from runs import same, trained

from selgen_ray.config.data import DataConfig
from selgen_ray.config.evals import EvalConfig
from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.config.trial import TrialConfig
from selgen_ray.syntax.keys import fields
from selgen_ray.trainers import build_config, get_trainer
from selgen_ray.trainers.engine import optim
from selgen_ray.trainers.identity import trial_id
from selgen_ray.worlds import WORLDS

# another value changes the trained weights
CHANGES_WEIGHTS = {
    "dtype": "bfloat16",
    "epochs": 3,
    "max_steps": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 3,
    "warmup_ratio": 0.4,
    "optim": "sgd",
    "weight_decay": 0.5,
    "max_grad_norm": 1e-3,
    "per_device_train_batch_size": 3,
    "proxy_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "proxy_cycling_mode": "synchronized",
    "group_by_length": False,
    "train_split": 0.5,
    "max_seq_length": 28,
    "loss_on": "all",
    "is_peft": False,
    "r": 2,
    "lora_alpha": 3.0,
    "lora_dropout": 0.3,
    "lora_bias": "all",
    "use_rslora": True,
    "use_dora": True,
    "chat_template": "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}",
    "target_modules": ["q_proj"],
}
# changes what is reported, not the weights
CHANGES_RESULTS = {"max_to_eval": 1, "max_new_tokens": 1}
# changes neither; not part of a trial's identity
EXECUTION = {
    "use_gradient_checkpointing": True,
    "per_device_eval_batch_size": 2,
    "auto_batch": True,
    "logging_steps": 1,
    "save_steps": 2,
    "max_checkpoints_to_keep": 1,
    "save_model_locally": True,
    "output_dir": "/somewhere",
    "finetuned_model_id": "name",
    "save_merged": True,  # what these three do: test_saved_models
    "push_to_hub": True,
    "push_to_private": False,
}
# tested elsewhere: another model (test_identity); how it is loaded, and that device_map is refused (test_hardware)
ELSEWHERE = {"adapter", "adapter_revision"}  # test_saved_models
ELSEWHERE |= {"model", "model_revision", "load_in_4bit", "load_in_8bit", "attn_implementation", "device_map"}
ELSEWHERE |= {"chat_template_kwargs"}  # test_conventions
# kl_divergence reads a second stream, continuous and shorter than outcome
STRATEGY = ("kl_divergence", {"beta_kl": 2.0})


def test_every_field_is_classed():
    classed = CHANGES_WEIGHTS.keys() | CHANGES_RESULTS.keys() | EXECUTION.keys() | ELSEWHERE
    assert classed == FinetuneConfig.model_fields.keys()
    assert TrialConfig.model_fields.keys() == {
        *("proxy_strategy", "seed", "data_seed", "model_seed", "experiment_name", "data", "finetune_config"),
        "control",  # test_space
        "warm_start",  # test_warm_start
        "num_workers",  # test_ranks
        *("align_train_coverage", "limit_proxy_data_to", "upsample_proxy_to"),  # test_alignment
        "evals",  # below
    }
    roles = ("outcome", "proxy", "proxy_neg", "trait", "truth", "collateral")
    assert DataConfig.model_fields.keys() == {*roles, "world", *WORLDS, "on_bad_rows"}  # test_sources, tests/worlds


# changes the identity alone, and what is measured where its rows are there (tests/evals)
EVALS = {
    "metrics": ["loss"],
    "capability": "task_test/token_probability",
    "alignment": "align_test/choice_accuracy",
    "coherence": "align_test/choice_accuracy",
    "extractor": "number",
    "mcq_instructions": "A or B?",
    "mcq_from_pairs": True,
    "during.every": "3 steps",  # test_during
    "during.max_rows": 3,
    "language": "fr",  # these five: test_questions, test_reply_style
    "questions": str(Path(__file__).parents[1] / "evals" / "questions.yaml"),
    "answers_per_question": 2,
    "temperature": 0.5,
    "contexts": {"negated": {"user_suffix": " Not so."}},
    "judge.model": "m",
    "judge.sets": ["align_train"],
    "judge.max_questions": 3,
    "judge.max_new_tokens": 3,
    "judge.aligned_prompt": "{question} {answer}",
    "judge.coherent_prompt": "{question} {answer}",
    "judge.thresholds.aligned": 50,
    "judge.thresholds.coherent": 30,
    "judge.trait": "flatters the user",
    "judge.trait_prompt": "{trait} {question} {answer}",
}
NEEDS = {  # what a field is refused without
    "answers_per_question": {"questions": EVALS["questions"]},
    "temperature": {"questions": EVALS["questions"]},
    "judge": {"model": "n"},
    "judge.trait_prompt": {"model": "n", "trait": "rude"},
}
EVALS_EXECUTION = {
    "num_samples": 0,
    "judge.base_url": "http://localhost:1/v1",
    "judge.api_key_env": None,
    "judge.max_concurrent": 1,
    "judge.timeout_s": 3.0,
    "judge.max_retries": 0,
}
LM_EVAL = {"lm_eval.tasks", "lm_eval.num_fewshot", "lm_eval.limit"}  # refused where the package is missing


def test_every_field_of_evals_is_classed():
    assert EVALS.keys() | EVALS_EXECUTION.keys() | LM_EVAL == fields(EvalConfig).keys()


@pytest.mark.parametrize("field", [*EVALS, *EVALS_EXECUTION])
def test_a_field_of_evals_is_part_of_the_identity_or_not(make_config, field):
    section, _, leaf = field.rpartition(".")
    value = (EVALS | EVALS_EXECUTION)[field]
    needed = NEEDS.get(field, NEEDS.get(field.partition(".")[0], {}))
    before, after = needed, needed | {leaf: value}
    if section == "judge.thresholds":
        before, after = needed, needed | {"thresholds": {leaf: value}}
    if section:
        before, after = ({section.partition(".")[0]: one} for one in (before, after))
    plain, changed = make_config(top={"evals": before}), make_config(top={"evals": after})
    assert (id_of(changed) == id_of(plain)) == (field in EVALS_EXECUTION)


def id_of(config):
    return trial_id(build_config(config), dict.fromkeys(config["data"], "hash"), "model")


@pytest.fixture(scope="module")
def plain(make_config):
    name, knobs = STRATEGY
    return trained(make_config(name, **knobs))


@pytest.mark.parametrize("field", sorted(CHANGES_WEIGHTS.keys() - {"lora_bias"}))
def test_a_setting_changes_the_weights_and_the_identity(make_config, plain, field):
    name, knobs = STRATEGY
    changed = make_config(name, **knobs, **{field: CHANGES_WEIGHTS[field]})
    weights, _ = trained(changed)
    assert not same(weights, plain[0])
    assert id_of(changed) != id_of(make_config(name, **knobs))


@pytest.mark.parametrize("field", sorted(EXECUTION))
def test_an_execution_field_changes_neither(make_config, plain, field):
    name, knobs = STRATEGY
    changed = make_config(name, **knobs, **{field: EXECUTION[field]})
    weights, record = trained(changed)
    # padding and recomputation may move the last bit
    assert all(torch.allclose(weights[n], plain[0][n], atol=1e-6) for n in weights)
    assert record.eval_results["task_test"]["loss"] == pytest.approx(plain[1].eval_results["task_test"]["loss"])
    assert id_of(changed) == id_of(make_config(name, **knobs))


@pytest.mark.parametrize("field", sorted(CHANGES_RESULTS))
def test_a_reporting_field_changes_the_identity_only(make_config, plain, field):
    name, knobs = STRATEGY
    changed = make_config(name, **knobs, **{field: CHANGES_RESULTS[field]})
    weights, _ = trained(changed)
    assert same(weights, plain[0])
    assert id_of(changed) != id_of(make_config(name, **knobs))


def test_lora_bias_trains_biases_and_gives_the_base_its_own_back(make_config, monkeypatch):
    base = make_model(attention_bias=True).requires_grad_(False)
    before = {name: p.clone() for name, p in base.named_parameters()}
    monkeypatch.setattr("selgen_ray.models.loading._load_base", lambda *_: base)
    trainer = get_trainer("naive")(make_config(lora_bias="all"))
    biases = {name: p.detach().clone() for name, p in trainer.parameters.items() if name.endswith(".bias")}
    assert biases
    trainer.train()
    assert all(not torch.equal(trainer.parameters[name], bias) for name, bias in biases.items())
    trainer.close()
    assert all(torch.equal(before[name], p) for name, p in base.named_parameters())
    assert id_of(make_config(lora_bias="all")) != id_of(make_config())


def test_fused_adamw_is_adamw(make_config, monkeypatch):
    fused, _ = trained(make_config())
    named, _ = trained(make_config(optim="adamw_torch_fused"))
    assert all(torch.equal(fused[n], named[n]) for n in fused)  # the default is fused where PyTorch can
    monkeypatch.setattr(optim, "_can_fuse", lambda parameters: False)
    plain, _ = trained(make_config())
    assert all(torch.allclose(plain[n], fused[n], atol=1e-5) for n in plain)
    assert any(not torch.equal(plain[n], fused[n]) for n in plain)


def test_a_run_that_began_with_the_other_adamw_ends_with_it():
    def adamw(state=None):
        weights = [torch.nn.Parameter(torch.full((4, 4), 0.3))]
        built = optim.build_optimizer(weights, FinetuneConfig(model="toy", optim="adamw_torch"))
        if state:
            built.load_state_dict(state)
        return built

    old = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(4, 4))], fused=False)
    assert adamw().param_groups[0]["fused"] is True
    assert adamw(old.state_dict()).param_groups[0]["fused"] is False


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup", "polynomial"])
def test_every_schedule_runs(make_config, name):
    seen = []
    config = make_config(lr_scheduler_type=name, warmup_steps=2, logging_steps=1)
    trainer = get_trainer("naive")(config, on_progress=lambda m: seen.append(m["learning_rate"]))
    trainer.train()
    trainer.close()
    assert max(seen) == pytest.approx(5e-3)
    if name.startswith("constant"):
        assert seen[-1] == pytest.approx(5e-3)
    else:
        assert seen[-1] < 1e-6 + seen[2] / 10
