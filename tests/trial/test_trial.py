"""One trial in this process: what it publishes, and when."""

import json

import pytest
import safetensors.torch
import torch
from conftest import write_jsonl
from peft import PeftModel
from reading import read_rows
from transformers import AutoModelForCausalLM

from selgen_ray.data.forms import reply_of
from selgen_ray.data.rows import load_roles
from selgen_ray.errors import ModelError
from selgen_ray.records.results import TrialResult
from selgen_ray.storage import Folder
from selgen_ray.trainers import build_config
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask


@pytest.fixture
def run(make_config, tmp_path):
    def run(strategy="naive", on_progress=lambda _: None, top=None, **finetune):
        config = build_config(make_config(strategy, top=top, **finetune))
        task = TrialTask(config.model_dump(mode="json"), "0123456789abcdef", "slug_abc123", Folder(str(tmp_path / "t")))
        return run_trial(task, on_progress)

    return run


def published(tmp_path):
    return TrialResult.model_validate_json((tmp_path / "t" / "results.json").read_bytes())


def test_results_are_published_after_every_evaluation(run, tmp_path):
    seen, readings = [], []

    def on_progress(metrics):
        found = published(tmp_path)
        seen.append((found.status, len(found.eval_epochs)))
        if "evaluated" in metrics:
            readings.append(metrics["evaluated"])
            assert found.readings()[-1] == readings[-1]  # published first

    result = run(on_progress=on_progress, logging_steps=2)
    assert all(status == "running" for status, _ in seen)
    assert (seen[0][1], seen[1][1], seen[-1][1]) == (1, 1, 3)
    assert readings == result.readings() and [r["epoch"] for r in readings] == [0, 1, 2]
    assert published(tmp_path) == result
    assert result.status == "completed" and len(result.eval_epochs) == 3
    assert json.loads((tmp_path / "t" / "config.json").read_text()) == result.config


def test_progress_tells_step_loss_and_speed(run):
    lines = []
    run("kl_divergence", on_progress=lines.append, beta_kl=1.0)
    seen = [line for line in lines if "evaluated" not in line]
    assert {"step", "num_steps", "loss", "tokens_per_s", "loss/outcome", "loss/kl"} <= seen[0].keys()
    assert seen[-1]["step"] == seen[-1]["num_steps"]
    assert all(m["tokens_per_s"] > 0 for m in seen)


def test_a_diverged_trial_is_no_error_and_holds_no_nan(run, tmp_path):
    result = run(learning_rate=1e30, optim="sgd")
    assert result.status == "diverged" and "not finite" in result.error
    text = (tmp_path / "t" / "results.json").read_text()
    assert "NaN" not in text and "Infinity" not in text


def test_a_failure_is_published_and_raised(run, tmp_path):
    with pytest.raises(ModelError, match="no_such_layer"):
        run(target_modules=["no_such_layer"])
    found = published(tmp_path)
    assert found.status == "failed"
    assert "no_such_layer" in found.error and "Traceback" not in found.error.splitlines()[-1]


@pytest.mark.parametrize("missing", ["truth", "collateral"])
def test_without_a_set_the_nearest_one_stands_in(run, make_config, missing):
    data = {k: v for k, v in make_config()["data"].items() if k != missing}
    result = run(top={"data": data})
    if missing == "truth":
        assert result.alignment_metric == "align_train/preference_accuracy"
    else:
        assert result.capability_metric == "task_train/exact_match"
    assert 0 <= result.capability <= 1 and 0 <= result.alignment <= 1


def test_the_saved_adapter_is_an_ordinary_one(run, tiny_model_dir, tmp_path):
    result = run("kl_divergence", beta_kl=1.0, save_model_locally=True)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    adapted = PeftModel.from_pretrained(base, result.model_path)
    saved = safetensors.torch.load_file(f"{result.model_path}/adapter_model.safetensors")
    assert any(tensor.abs().sum() > 0 for name, tensor in saved.items() if "lora_B" in name)
    assert sum("lora_B" in name for name, _ in adapted.named_parameters()) == sum("lora_B" in n for n in saved)


def test_output_dir_and_name_are_used_and_a_whole_model_can_be_saved(run, tmp_path):
    finetune = {"save_model_locally": True, "output_dir": str(tmp_path / "models"), "finetuned_model_id": "mine"}
    result = run(is_peft=False, **finetune)
    assert result.model_path == str(tmp_path / "models" / "mine-0123456789abcdef")
    model = AutoModelForCausalLM.from_pretrained(result.model_path)
    assert model.num_parameters() > 0


@pytest.mark.parametrize("elsewhere", [True, False], ids=["output_dir", "model"])
def test_what_a_killed_run_left_of_its_model_goes_when_the_next_one_saves(run, tmp_path, elsewhere):
    place = tmp_path / "models" / "model-0123456789abcdef" if elsewhere else tmp_path / "t" / "model"
    place.mkdir(parents=True)
    for left in (".adapter_model.safetensors.c0ffee.tmp", "model-00001-of-00002.safetensors"):
        (place / left).write_bytes(b"half a model")
    result = run(save_model_locally=True, output_dir=str(tmp_path / "models") if elsewhere else None)
    assert result.model_path == str(place)
    assert [path.name for path in place.iterdir() if "safetensors" in path.name] == ["adapter_model.safetensors"]


def test_train_split_holds_out_a_tenth_or_nothing(make_config, run):
    rows = {role: len(r) for role, r in load_roles(build_config(make_config())).items()}
    held = run(train_split=0.9).num_rows
    assert held["train/outcome"] + held["eval/task_train"] == rows["outcome"]
    assert held["train/proxy"] + held["eval/align_train"] == rows["proxy"]
    assert held["train/proxy_neg"] == held["train/proxy"]
    assert held["eval/task_train"] == round(rows["outcome"] * 0.1)
    whole = run(train_split=1.0).num_rows
    assert whole["train/outcome"] == whole["eval/task_train"] == rows["outcome"]


def test_dpo_trains_alike_on_rejected_replies_and_on_a_second_file(make_config, tmp_path, data_files):
    good, bad = (read_rows(data_files[role]) for role in ("proxy", "proxy_neg"))
    pairs = [row | {"rejected": reply_of(other)} for row, other in zip(good, bad, strict=True)]
    one_file = write_jsonl(tmp_path / "pairs.jsonl", pairs)
    results = []
    for name, given in (("two", {}), ("one", {"proxy": one_file, "proxy_neg": None})):
        raw = make_config("dpo", max_steps=2, logging_steps=1)
        config = build_config(raw | {"data": raw["data"] | given}).model_dump(mode="json")
        results.append(run_trial(TrialTask(config, "0" * 16, name, Folder(str(tmp_path / name))), lambda _: None))
    assert results[0].train_losses == results[1].train_losses and results[0].train_losses["dpo"]
    assert results[0].num_rows == results[1].num_rows


def test_max_to_eval_and_max_steps_are_respected(run):
    result = run(max_to_eval=2, max_steps=3)
    assert all(n <= 2 for name, n in result.num_rows.items() if name.startswith("eval/"))
    assert result.train_steps[-1] == 3 and result.eval_steps == [0, 3]


def test_what_the_device_lacks_is_named(run, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ModelError, match=r"^finetune_config\.optim paged_adamw_8bit: works on a CUDA GPU only"):
        run(optim="paged_adamw_8bit")
    assert "use adamw_8bit" in published(tmp_path).error


def test_bfloat16_base_trains(run):
    result = run("kl_divergence", dtype="bfloat16", beta_kl=1.0)
    assert result.status == "completed"


def test_an_unreachable_hub_model_is_named(run):
    with pytest.raises(ModelError, match=r"'nobody/nothing' \(HF_HUB_OFFLINE is set"):
        run(model="nobody/nothing")
