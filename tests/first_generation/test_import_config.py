"""Files of the first generation: its configs as search spaces, its results beside new ones."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from fake_sweep import fake_result, publish

import selgen_ray
from selgen_ray import import_config
from selgen_ray.config.trial import TrialConfig
from selgen_ray.errors import SpecError, StorageError
from selgen_ray.first_generation.convert import convert, convert_override, is_first_generation
from selgen_ray.first_generation.folder import read_folder
from selgen_ray.first_generation.record import Converted, takes
from selgen_ray.first_generation.results import read_old_results
from selgen_ray.records.results import TrialResult, json_schema
from selgen_ray.report import write_report
from selgen_ray.space import SweepSpec, load_space
from selgen_ray.sweep.commands import main as steer
from selgen_ray.syntax.keys import registered_keys
from selgen_ray.syntax.tree import Origin, written
from selgen_ray.trainers.catalogue import build_config

FINETUNE = {
    "model": "toy",
    "finetuned_model_id": "lab/advice_",
    "max_seq_length": 64,
    "load_in_4bit": False,
    "load_in_16bit": True,
    "is_peft": True,
    "target_modules": ["q_proj", "v_proj"],
    "lora_bias": "none",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropdown": 0.0,
    "use_gradient_checkpointing": False,
    "use_rslora": True,
    "push_to_private": True,
    "push_to_hub": False,
    "epochs": 2,
    "max_steps": None,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "warmup_steps": 3,
    "learning_rate": 2e-05,
    "logging_steps": 1,
    "optim": "adamw_torch",
    "weight_decay": 0.02,
    "lr_scheduler_type": "linear",
    "beta": 0.2,
    "save_steps": 700,
    "output_dir": "./out",
    "negative_proxy": "proxy_neg",
    "positive_proxy": "proxy",
    "beta_kl": 0,
    "checkpoint_save_model_frequency": 1,
    "save_checkpoints_locally": False,
    "save_checkpoints_to_hub": True,
    "merge_before_push": False,
    "lambda_proxy": 2.0,
    "neg_lambda_proxy": 0.0,
}
ADVICE = {
    "dev_mode": False,
    "finetune_config": FINETUNE,
    "experiment_name": None,
    "proxy_strategy": "naive",
    "max_dataset_size": 900,
    "max_train_size": 90,
    "train_on_task": True,
    "task_dataset_path": "./data/outcome.jsonl",
    "task_dataset_format": "jsonl",
    "task_train_split": 0.75,
    "dataset_url": None,
    "train_on_proxy": False,
    "align_test_dataset_desc": "HHH",
    "align_test_neg_dataset_desc": "HHH",
    "align_test_dataset_path": None,
    "align_test_dataset_url": None,
    "align_test_neg_dataset_path": None,
    "align_test_neg_dataset_url": None,
    "align_train_strategy": "subset",
    "align_train_coverage": 0.5,
    "loss_eval_limit": 7,
    "do_mmlu_eval": False,
    "mmlu_filepath": None,
    "mmlu_eval_frequency": 1,
    "mmlu_eval_limit": 10,
    "do_mcq_eval": True,
    "mcq_eval_filepath": None,
    "mcq_eval_limit": None,
    "mcq_eval_frequency": 1,
    "HHH_mcq_instructions": "A or B?",
    "data_seed": 3,
    "model_seed": 3,
    "upsample_proxy_to": 0.2,
    "use_mcq_hhh": False,
}
SUMS = {
    "experiment_name": "sums",
    "proxy_strategy": "naive",
    "max_dataset_size": None,
    "seed": 8,
    "validation_dataset_path": "data/collateral.jsonl",
    "dataset_path": "data/outcome.jsonl",
    "test_dataset_path": "data/truth.jsonl",
    "dataset_format": "jsonl",
    "align_train_dataset_type": "capitals",
    "align_train_coverage": 1.0,
    "expected_tone": "calm",
    "do_tone_eval": False,
    "tone_eval_limit": 9,
    "tone_eval_frequency": 1,
    "do_factual_knowledge_eval": True,
    "factual_knowledge_eval_limit": 9,
    "factual_knowledge_eval_frequency": 2,
    "loss_eval_limit": 6,
    "finetune_config": {
        **{k: v for k, v in FINETUNE.items() if k not in ("load_in_16bit", "lora_dropdown", "lambda_proxy", "beta_kl")},
        "finetuned_model_id": "YOUR_MODEL_ID",
        "train_split": 0.6,
        "save_datasets": "true",
        "load_in_16_bit": False,
        "save_adapter_weights": False,
        "lora_dropout": 0.1,
        "loss": "sft",
        "proxy_epochs": 5,
        "per_device_eval_batch_size": 8,
        "generation_limit": 10,
        "max_to_eval": 30,
        "max_checkpoints_to_keep": 3,
        "merge_for_checkpoint": False,
        "mcq_eval_frequency": 6,
        "safe_lora_type": "number",
        "safe_lora_num_proj_layers": 4,
        "safe_lora_threshold": 0.02,
        "safe_lora_sweep_thresholds": None,
    },
}
# what a results.json listed besides
IN_RESULTS = {
    **ADVICE,
    "timestamp": "20250102_030405",
    "finetune_config": {
        **FINETUNE,
        "load_from_finetuned": False,
        "load_from_finetuned_path": None,
        "load_from_hf_hub": None,
        "resume_from_epoch": 0,
        "loaded_train_losses": None,
        "loaded_results": None,
        "train_split": 0.9,
        "load_in_8bit": False,
        "max_to_eval": 2000,
        "save_model_locally": False,
        "nice_responses": ["Sure!"],
        "checkpoint_frequency": 1,
        "max_checkpoints_to_keep": 3,
        "merge_for_checkpoint": False,
        "save_datasets": False,
        "lambda_dpo": 1.0,
        "proxy_cycling_mode": "continuous",
        "lambda_1": 0.5,
        "proxy_epochs": None,
        "outcome_epochs": None,
        "proxy_neg_content": "prefix_response",
        "limit_proxy_data_to": None,
        "proxy_to_merge": None,
        "add_proxy_gradients": False,
        "project_along_positive_proxy_grad": True,
        "project_strictly_orthogonal": True,
        "steering_vector_path": "/nowhere/plane.pt",
        "proxy_plane_checkpoint_path": "plane.pt",
        "load_steering_vector": False,
        "save_steering_vector": True,
        "steering_alpha": 0.5,
        "safe_lora_type": None,
        "safe_lora_num_proj_layers": None,
        "safe_lora_threshold": None,
        "safe_lora_sweep_thresholds": None,
        "calc_alignment_plane_using_fully_finetuned_weights": False,
        "alpha_scheduler_type": None,
        "final_steering_alpha": 0.1,
        "alpha_warmup_steps": 5,
        "direct_steering": False,
        "timestamp": None,
    },
}
NEW_KEYS = pytest.mark.skipif(
    "align_train_coverage" not in TrialConfig.model_fields, reason="keys that this version does not have yet"
)


def with_(config: dict[str, Any], finetune: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    return {**config, **top, "finetune_config": {**config["finetune_config"], **(finetune or {})}}


def converted(config: dict[str, Any]) -> Converted:
    return convert(written(config, Origin("")), registered_keys())


def values(part: Converted) -> dict[str, Any]:
    return {key: node.plain() for key, node in part.values.items()}


def whys(part: Converted) -> dict[str, str]:
    return {record.key: record.why for record in part.records}


def override(config: dict[str, Any], **changes: Any) -> Converted:
    keys, below = registered_keys(), written(config, Origin(""))
    return convert_override(convert(below, keys), below, written(changes, Origin("")), keys)


@pytest.fixture
def project(tmp_path: Path, data_files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of then: data/ and experiments/ beside each other; the current directory is elsewhere."""
    (tmp_path / "data").mkdir()
    for role, path in data_files.items():
        (tmp_path / "data" / f"{role}.jsonl").write_text(Path(path).read_text())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


Experiment = Callable[..., Path]


@pytest.fixture
def experiment(project: Path) -> Experiment:
    """Write a folder of an experiment: its config and overrides, as data or as text."""

    def write(config: Any, overrides: Any = None, name: str = "advice") -> Path:
        folder = project / "experiments" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config, indent=1))
        if overrides is not None:
            text = overrides if isinstance(overrides, str) else json.dumps(overrides, indent=1)
            (folder / "attributes_to_vary.json").write_text(text)
        return folder

    return write


# keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [ADVICE, SUMS, IN_RESULTS], ids=["advice", "sums", "in results"])
def test_every_key_has_its_place_or_a_reason(config: dict[str, Any]) -> None:
    part = converted(config)
    given = {key for key in config if key != "finetune_config"}
    given |= {f"finetune_config.{key}" for key in config["finetune_config"]}
    assert {record.key for record in part.records if record.kind != "default"} == given
    assert not part.unknown
    assert [record.key for record in part.records if not record.to and not record.why] == []
    known = registered_keys().known
    assert part.values.keys() <= known.keys()


@pytest.mark.parametrize(
    ("config", "to", "value"),
    [
        (ADVICE, "finetune_config.dtype", "bfloat16"),
        (with_(SUMS, {"load_in_16_bit": True}), "finetune_config.dtype", "bfloat16"),
        (with_(SUMS, {"load_in_16_bit": "true"}), "finetune_config.dtype", "bfloat16"),
        (with_(ADVICE, {"lora_dropdown": 0.3}), "finetune_config.lora_dropout", 0.3),
        (with_(ADVICE, {"is_peft": "true"}), "finetune_config.is_peft", True),
        (with_(ADVICE, {"use_rslora": "False"}), "finetune_config.use_rslora", False),
        (ADVICE, "finetune_config.train_split", 0.75),
        (with_(ADVICE, {"train_split": 0.9}), "finetune_config.train_split", 0.75),
        (SUMS, "finetune_config.train_split", 0.6),
        (with_(ADVICE, {"max_to_eval": 2000}), "finetune_config.max_to_eval", 7),
        (with_(ADVICE, {"max_to_eval": 2000}, loss_eval_limit=None), "finetune_config.max_to_eval", 2000),
        (SUMS, "data.collateral", "data/collateral.jsonl"),
        (SUMS, "data.truth", "data/truth.jsonl"),
        (with_(ADVICE, align_test_dataset_path="hhh.jsonl"), "data.truth", "hhh.jsonl"),
        (with_(ADVICE, align_test_neg_dataset_path="bad.jsonl"), "data.proxy_neg", "bad.jsonl"),
        (SUMS, "seed", 8),
        (ADVICE, "data_seed", 3),
        (ADVICE, "finetune_config.beta_kl", 0),
        (SUMS, "finetune_config.proxy_epochs", 5),
        (ADVICE, "finetune_config.proxy_epochs", 2),
        (with_(ADVICE, {"proxy_epochs": None}), "finetune_config.proxy_epochs", 2),
        (with_(ADVICE, save_steps=9), "finetune_config.save_steps", 700),
        ({**ADVICE, "finetune_config": {}, "epochs": 4}, "finetune_config.epochs", 4),
        ({**ADVICE, "finetune_config": {"seed": 6}, "model_seed": None}, "seed", 6),
    ],
)
def test_where_a_value_goes(config: dict[str, Any], to: str, value: Any) -> None:
    found = values(converted(config))[to]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("config", "key", "why"),
    [
        (ADVICE, "dev_mode", "nothing to do"),
        (with_(ADVICE, dev_mode=True), "dev_mode", "data.outcome.limit"),
        (with_(ADVICE, dev_mode="false"), "dev_mode", "nothing to do"),
        (with_(ADVICE, train_on_task=False), "train_on_task", "found false"),
        (with_(ADVICE, train_on_task="False"), "train_on_task", "found false"),
        (with_(ADVICE, {"load_from_finetuned": "false"}), "finetune_config.load_from_finetuned", "without an adapter"),
        (with_(SUMS, {"load_in_16_bit": "false"}), "finetune_config.load_in_16_bit", "float32"),
        (with_(ADVICE, use_mcq_hhh="false"), "use_mcq_hhh", "false, as today's default"),
        (with_(IN_RESULTS, {"load_steering_vector": "false"}), "finetune_config.steering_vector_path", "by content"),
        (with_(ADVICE, task_dataset_format="url"), "task_dataset_format", "found 'url'"),
        (with_(ADVICE, align_train_strategy="all"), "align_train_strategy", "found 'all'"),
        (with_(SUMS, {"loss": "dpo"}), "finetune_config.loss", "proxy_strategy"),
        (with_(ADVICE, {"load_from_finetuned": True}), "finetune_config.load_from_finetuned", "adapter"),
        (ADVICE, "finetune_config.save_checkpoints_to_hub", "every save_steps"),
        (ADVICE, "mmlu_eval_limit", "options and answer"),
        (SUMS, "expected_tone", "another model"),
        (SUMS, "finetune_config.mcq_eval_frequency", "after every epoch"),
        (SUMS, "finetune_config.finetuned_model_id", "placeholder"),
        (SUMS, "finetune_config.load_in_16_bit", "float32"),
        (SUMS, "align_train_coverage", "align_train_dataset_type"),
        (with_(ADVICE, align_test_dataset_url="https://x/y"), "align_test_dataset_url", "download"),
        (ADVICE, "do_mcq_eval", "without use_mcq_hhh"),
        (with_(ADVICE, seed=5), "seed", "nothing read it"),
        (IN_RESULTS, "finetune_config.steering_vector_path", "shared by content"),
        (IN_RESULTS, "finetune_config.save_steering_vector", "shared by content"),
        (IN_RESULTS, "finetune_config.final_steering_alpha", "linear alone"),
        (IN_RESULTS, "finetune_config.train_split", "task_train_split decides"),
        (ADVICE, "finetune_config.max_steps", "null"),
        (with_(ADVICE, lerning_rate=1), "lerning_rate", "Did you mean 'finetune_config.learning_rate'?"),
        (with_(ADVICE, max_train_size=2000), "max_train_size", "max_dataset_size allows fewer rows"),
        (with_(ADVICE, max_train_size="many"), "max_train_size", "found 'many'; allowed: a whole number >= 1"),
        (with_(ADVICE, max_train_size=0), "max_train_size", "found 0; allowed: a whole number >= 1"),
        (with_(ADVICE, max_dataset_size=10.5), "max_dataset_size", "found 10.5; allowed: a whole number >= 1"),
        (with_(ADVICE, max_dataset_size=True), "max_dataset_size", "found true; allowed: a whole number >= 1"),
        ({**ADVICE, "task_dataset_path": None}, "max_train_size", "no data.outcome"),
    ],
)
def test_why_a_key_is_left_out(config: dict[str, Any], key: str, why: str) -> None:
    part = converted(config)
    record = next(record for record in part.records if record.key == key and record.to is None)
    assert why in record.why


def test_what_a_silent_file_meant() -> None:
    part = converted({"task_dataset_path": "a.jsonl", "finetune_config": {"epochs": 1}})
    found = values(part)
    assert found["finetune_config.per_device_train_batch_size"] == 128
    assert found["finetune_config.loss_on"] == "all"
    assert found["finetune_config.use_rslora"] is True
    assert found["finetune_config.proxy_epochs"] == 1
    assert [r.to for r in part.records if r.kind == "default" and r.to == "finetune_config.epochs"] == []
    key = "finetune_config.gradient_accumulation_steps"
    assert found[key] == 8
    assert whys(part)[key] == whys(converted(ADVICE))[key] == "not accumulated then, but the schedule was shorter by it"
    assert whys(part)["finetune_config.r"] == ""
    assert "finetune_config.r" not in [r.to for r in converted(ADVICE).records if r.kind == "default"]


@pytest.mark.parametrize(
    ("name", "strategy", "mixed"),
    [
        ("task_trained", "naive", False),
        ("mixed", "naive", True),
        ("upweighted_standard", "positive_negative_proxy", None),
    ],
)
def test_other_names_of_strategies(name: str, strategy: str, mixed: bool | None) -> None:
    found = override({**ADVICE, "train_on_proxy": None}, proxy_strategy=name)
    assert found.strategy == strategy
    assert values(found).get("train_on_proxy") is mixed
    against = converted({**ADVICE, "proxy_strategy": name, "train_on_proxy": not mixed})
    if mixed is not None:
        assert values(against)["train_on_proxy"] is mixed
        assert name in whys(against)["train_on_proxy"]


def test_what_an_override_says_and_what_follows() -> None:
    own = override(ADVICE, proxy_strategy="dpo", data_seed=3, finetune_config={"lambda_dpo": 4, "beta_kl": 1})
    averaged = {"finetune_config.dpo_average_log_prob": True}
    assert values(own) == {"proxy_strategy": "dpo", "data_seed": 3, "finetune_config.lambda_dpo": 4} | averaged
    assert "not of dpo" in whys(own)["finetune_config.beta_kl"]
    steered = {"proxy_strategy": "steering_weights"}
    linear = override(
        with_(ADVICE, {"final_steering_alpha": 0.7}), **steered, finetune_config={"alpha_scheduler_type": "linear"}
    )
    assert values(linear)["finetune_config.final_steering_alpha"] == 0.7
    silent = override(ADVICE, **steered, finetune_config={"alpha_scheduler_type": "linear"})
    assert values(silent)["finetune_config.final_steering_alpha"] == 0.1
    longer = override(ADVICE, **steered, finetune_config={"epochs": 6})
    assert values(longer)["finetune_config.proxy_epochs"] == 6
    loaded = override(ADVICE, **steered, finetune_config={"load_steering_vector": True, "steering_vector_path": "v.pt"})
    assert values(loaded)["finetune_config.steering_vector_path"] == "v.pt"
    assert values(override(ADVICE, loss_eval_limit=None)) == {"finetune_config.max_to_eval": None}


def test_old_knobs_keep_their_meaning() -> None:
    products, averages = "finetune_config.penalty_normalize", "finetune_config.dpo_average_log_prob"
    base = converted({"task_dataset_path": "a.jsonl", "finetune_config": {}})  # silent
    assert (values(base)[products], values(base)[averages]) == (False, True)
    written_out = converted(with_(ADVICE, {"lambda_1": 0.5}))
    assert values(written_out)[products] is False
    why = {record.to: record.why for record in (*base.records, *written_out.records)}
    assert "multiplied dot products" in why[products]
    assert "averaged log-probabilities over the tokens" in why[averages]
    assert values(converted(with_(ADVICE, {"lambda_1": 0.5, "penalty_normalize": True})))[products] is True
    over_todays = convert_override(
        *(convert(today := written({}, Origin("")), registered_keys(), defaults=False), today),
        written({"proxy_strategy": "orth_penalty", "finetune_config": {"lambda_1": 2}}, Origin("")),
        *(registered_keys(), False),
    )
    assert values(over_todays)[products] is False
    assert averages not in values(over_todays)


def test_a_seed_that_nothing_read_counts_in_an_override() -> None:
    again = override(ADVICE, seed=5)
    assert values(again) == {"seed": 5, "data_seed": None, "model_seed": None}
    assert "one run" in whys(again)["seed"]
    assert values(override(ADVICE, seed=5, data_seed=6, model_seed=6)) == {"data_seed": 6, "model_seed": 6}


@pytest.mark.parametrize(
    ("config", "is_old"),
    [
        (ADVICE, True),
        (SUMS, True),
        ({"dataset_path": "x"}, True),
        ({"loss_eval_limit": 1, "finetune_config": {"load_in_16bit": True}}, True),
        ({"dev_mode": True, "finetune_config": {"r": 4}}, False),
        (build_config({}).model_dump(), False),
    ],
)
def test_how_its_files_are_told(config: dict[str, Any], is_old: bool) -> None:
    assert is_first_generation(written(config, Origin("")), registered_keys()) is is_old


@NEW_KEYS
def test_keys_of_the_data_and_of_lettered_questions() -> None:
    keys = registered_keys()
    found = values(converted(with_(ADVICE, {"limit_proxy_data_to": 4}, use_mcq_hhh=True)))
    expected = {"align_train_coverage": 0.5, "upsample_proxy_to": 0.2, "limit_proxy_data_to": 4}
    assert {key: found[key] for key in expected} == expected
    assert found["data.outcome"] == {"path": "./data/outcome.jsonl", "limit": 120}  # 90 are 0.75 of it
    known = {"evals.mcq_from_pairs": True, "evals.mcq_instructions": "A or B?"}
    known |= {"finetune_config.push_to_private": True, "finetune_config.save_merged": False}
    assert {key: found[key] for key in known if key in keys.known} == {
        k: v for k, v in known.items() if k in keys.known
    }
    sums = values(converted({**SUMS, "max_dataset_size": 10}))
    assert sums["data.outcome"] == {"path": "data/outcome.jsonl", "limit": 10}
    proxy = {"path": "data/truth.jsonl", "filter": {"label": "capitals"}}
    assert sums.get("data.proxy", proxy) == proxy
    assert ("data.proxy" in sums) is takes(keys, "data.proxy", proxy)


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"max_train_size": 90.0}, 120),  # 90 are 0.75 of it
        ({"max_train_size": "90"}, 120),
        ({"max_train_size": 90, "task_train_split": "0.75"}, 120),
        ({"max_train_size": None, "max_dataset_size": 300.0}, 300),
        ({"max_train_size": None, "max_dataset_size": "300"}, 300),
    ],
)
def test_a_limit_counts_however_its_number_is_written(changes: dict[str, Any], limit: int) -> None:
    part = converted({**ADVICE, **changes})
    found = values(part)["data.outcome"]["limit"]
    assert (found, type(found)) == (limit, int)
    assert [record.kind for record in part.records if record.to == "data.outcome.limit"] == ["converted"]


# the command --------------------------------------------------------------------------------------------------

OVERRIDES = [
    {"proxy_strategy": "task_trained"},
    {"proxy_strategy": "kl_divergence", "data_seed": 5, "model_seed": 5, "finetune_config": {"beta_kl": 3}},
    {"proxy_strategy": "kl_divergence", "data_seed": 7, "model_seed": 7, "finetune_config": {"beta_kl": 3}},
    {"proxy_strategy": "upweighted_standard", "finetune_config": {"lambda_proxy": 0.5}},
]


def names(spec: SweepSpec) -> list[str]:
    return [trial.name for trial in spec.trials]


def test_the_command_writes_a_search_space_that_loads(experiment: Experiment) -> None:
    """In a process of its own; the same trials as from the old files named in a YAML."""
    folder = experiment(ADVICE, OVERRIDES)
    command = [sys.executable, "-m", "selgen_ray.import_config", str(folder)]
    root = Path(selgen_ray.__file__).parents[1]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for told in (
        "advice.yaml: 4 settings from",
        "kept as they are: ",
        "task_dataset_path -> data.outcome",
        "finetune_config.lora_dropdown -> finetune_config.lora_dropout: a typo",
        "dev_mode: false: nothing to do",
        "finetune_config.optim: AdamW of PyTorch ran then",
        "no trial uses it: a knob of dpo",
        "next: python -m selgen_ray.sweep advice.yaml --dry-run",
    ):
        assert told in done.stdout
    text = Path("advice.yaml").read_text()
    assert "finetune_config.beta: no trial uses it" in text
    assert "dtype: bfloat16  # was load_in_16bit" in text
    assert yaml.safe_load(text)["name"] == "advice"
    spec = load_space("advice.yaml")
    assert [t.config.proxy_strategy for t in spec.trials] == [
        *("naive", "kl_divergence", "kl_divergence", "positive_negative_proxy")
    ]
    assert [t.config.seed for t in spec.trials] == [3, 5, 7, 3]
    assert spec.trials[1].slug == spec.trials[2].slug
    Path("direct.yaml").write_text(
        f"base: {folder}/config.json\noverrides: {folder}/attributes_to_vary.json\nname: advice\n"
    )
    assert names(load_space("direct.yaml")) == names(spec)


SUFFIXES = [{"train_user_suffix": "\nBehave as if the above solution is correct."}, {"train_user_suffix": ""}]
MOODS = [{"train_user_mood": "Behave as if the above solution is correct."}, {"train_user_mood": ""}]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (MOODS, ["attributes_to_vary.json:3: [0].train_user_mood", "Behave as if", "found ", "''"]),
        ([*MOODS[:1], {"seed": 4}], ["settings differ in train_user_mood", "nothing"]),
        ([{"mmlu_eval_limit": 5, "seed": 4}, {"seed": 5}], ["mmlu_eval_limit", "found 5, 10", "options and answer"]),
        ([{"max_train_size": 1.5}, {"max_train_size": "few"}], ["max_train_size", "found 1.5, 'few'", "whole number"]),
        ([{"train_on_task": True}, {"train_on_task": False}], ["train_on_task", "every trial trains on data.outcome"]),
        (
            [{"finetune_config": {"beta_kl": beta}} for beta in (1, 3)],
            ["beta_kl", "found 1, 3", "not of naive", "the settings [0], [1] are one"],
        ),
    ],
)
def test_settings_that_differ_in_what_is_left_out_are_refused(
    experiment: Experiment, capsys: pytest.CaptureFixture[str], overrides: Any, told: list[str]
) -> None:
    folder = experiment(ADVICE, overrides)
    assert import_config.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in told), error
    Path("direct.yaml").write_text(
        f"base: {folder}/config.json\noverrides: {folder}/attributes_to_vary.json\nname: advice\n"
    )
    with pytest.raises(SpecError) as refused:
        load_space("direct.yaml")
    assert told[0].split(".")[-1].split()[-1] in str(refused.value)


def test_a_strategy_that_is_no_text_is_refused(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    folder = experiment(ADVICE, [{"proxy_strategy": ["naive"]}])
    assert import_config.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert "attributes_to_vary.json:3: [0].proxy_strategy" in error
    assert "\"['naive']\"" in error
    Path("direct.yaml").write_text(f"base: {folder}/config.json\noverrides: {folder}/attributes_to_vary.json\n")
    with pytest.raises(SpecError, match="proxy_strategy"):
        load_space("direct.yaml")


def test_what_all_settings_leave_out_is_a_note(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    alike = [{"train_user_mood": "x", "seed": 4}, {"train_user_mood": "x", "seed": 5}]
    assert import_config.main([str(experiment(ADVICE, alike))]) == 0
    assert "train_user_mood: no key of either generation" in capsys.readouterr().out


def test_a_suffix_of_the_training_rows_is_a_training_prompt(experiment: Experiment) -> None:
    folder = experiment(ADVICE, [*SUFFIXES, {"seed": 9}])
    assert import_config.main([str(folder), "-o", "new/space.yaml"]) == 0
    given = [trial.config.data.outcome.training_prompt for trial in load_space("new/space.yaml").trials]
    assert [prompt and prompt.user_suffix for prompt in given] == [SUFFIXES[0]["train_user_suffix"], None, None]
    Path("direct.yaml").write_text(
        f"base: {folder}/config.json\noverrides: {folder}/attributes_to_vary.json\nname: advice\n"
    )
    assert names(load_space("direct.yaml")) == names(load_space("new/space.yaml"))


def test_seeds_of_the_old_command_line(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    folder = experiment(ADVICE, OVERRIDES)
    assert import_config.main([str(folder), "--seeds", "1", "5", "42", "-o", "new/space.yaml"]) == 0
    assert "--seeds gives it" in capsys.readouterr().out
    spec = load_space("new/space.yaml")
    assert [t.config.data_seed for t in spec.trials] == [1, 5, 42, 5, 7, 1, 5, 42]
    assert {t.config.data.outcome.path for t in spec.trials} == {str(folder.parents[1] / "data" / "outcome.jsonl")}
    assert {t.config.data.outcome.limit for t in spec.trials} == {120}


def test_a_config_by_itself(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "experiments").mkdir()
    config = project / "experiments" / "sums_config.json"
    config.write_text(json.dumps({**SUMS, "proxy_strategy": "safe_lora", "dataset_path": "data/outcom.jsonl"}))
    assert import_config.main([str(config)]) == 0
    out = capsys.readouterr().out
    assert "data.outcome: data/outcom.jsonl is not there. Did you mean 'outcome.jsonl'?" in out
    base = yaml.safe_load(Path("sums_config.yaml").read_text())["base"]
    assert base["data"]["truth"] == "../data/truth.jsonl"
    assert base["finetune_config"]["safe_lora_num_proj_layers"] == 4
    if not takes(registered_keys(), "data.proxy", {"path": "x", "filter": {"label": "y"}}):
        assert "data.proxy: needed by safe_lora" in out


def test_what_is_there_is_not_replaced(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    folder = experiment(ADVICE)
    Path("advice.yaml").write_text("mine")
    assert import_config.main([str(folder)]) == 2
    assert "advice.yaml is there already: --force" in capsys.readouterr().err
    assert Path("advice.yaml").read_text() == "mine"
    assert import_config.main([str(folder), "--force"]) == 0
    assert "settings from" in capsys.readouterr().out
    assert [path.name for path in Path.cwd().iterdir()] == ["advice.yaml"]


@pytest.mark.parametrize(
    ("config", "overrides", "told"),
    [
        (
            '{"seed": 1,\n "task_dataset_path": "a",\n}',
            None,
            ["config.json:3: ", "column 1", "comma", "line 2, column 26"],
        ),
        ('{"a": [1, 2,],\n"b": 1}', None, ["config.json:1: ", "column 13", "found '],'", "comma"]),
        (
            '{\n<<<<<<< HEAD\n "r": 1\n=======\n "r": 2\n>>>>>>> main\n}',
            None,
            ["config.json:2: ", "column 1", "<<<<<<< in line 2, ======= in line 4, >>>>>>> in line 6", "keep one"],
        ),
        ('{"r": 1\n=======\n}', None, ["config.json:2: ", "======= in line 2"]),
        ('{"r": 1', None, ["config.json:1: ", "Expecting ',' delimiter"]),
        ('{"r": 1 "s": 2}', None, ["config.json:1: ", "column 9", "found '\"s\": 2}'"]),
        ("[1]", None, ["config.json: found [1]; allowed: a mapping"]),
        ("", None, ["config.json:1: "]),
        (ADVICE, '[{"seed": 1},\n {"seed": 2},\n]', ["attributes_to_vary.json:3: ", "column 1", "line 2, column 13"]),
        (ADVICE, {"seed": 1}, ["attributes_to_vary.json: found a mapping", "allowed: a list"]),
        (ADVICE, "[{},\n 3]", ["attributes_to_vary.json:2: [1]: found 3"]),
        (
            ADVICE,
            '[{},\n {"proxy_strategy": "kl_divergance"}]',
            ["attributes_to_vary.json:2: [1].proxy_strategy", "Did you mean 'kl_divergence'?"],
        ),
        ({**ADVICE, "proxy_strategy": "mixd"}, None, ["config.json:", "Did you mean 'mixed'?"]),
    ],
)
def test_what_is_wrong_with_a_file(
    experiment: Experiment, capsys: pytest.CaptureFixture[str], config: Any, overrides: Any, told: list[str]
) -> None:
    folder = experiment(config, overrides)
    assert import_config.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in told), error
    assert list(Path.cwd().iterdir()) == []


def test_what_is_wrong_with_a_folder(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    folder = experiment(ADVICE)
    assert import_config.main([f"{folder}s"]) == 2
    assert "Did you mean 'advice'?" in capsys.readouterr().err
    (folder / "config.json").rename(folder / "confg.json")
    assert import_config.main([str(folder)]) == 2
    assert "has no config.json. Did you mean 'confg.json'?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        import_config.main([])
    assert ended.value.code == 2


# named by a search space --------------------------------------------------------------------------------------


def test_seeds_of_a_search_space_rule_over_an_old_base(experiment: Experiment) -> None:
    folder = experiment(ADVICE)
    Path("space.yaml").write_text(
        f"base: {folder}/config.json\nseeds: [1, 2]\nstrategies: {{naive: {{}}, upweighted_standard: {{}}}}\n"
    )
    spec = load_space("space.yaml")
    assert [(t.config.proxy_strategy, t.config.model_seed) for t in spec.trials] == [
        *(("naive", 1), ("naive", 2), ("positive_negative_proxy", 1), ("positive_negative_proxy", 2))
    ]
    assert {t.config.finetune_config.lambda_proxy for t in spec.trials[2:]} == {2.0}
    notes = "\n".join(spec.notes)
    assert "config.json: of the first generation: " in notes
    assert "task_dataset_path is data.outcome" in notes
    assert "left out, `python -m selgen_ray.import_config` says why: " in notes
    assert "defaults: " in notes
    assert "steering_alpha: no trial uses it" not in notes  # nobody wrote it


def test_a_search_space_keeps_places_in_old_files(experiment: Experiment) -> None:
    folder = experiment(
        with_(ADVICE, {"lerning_rate": 1, "epochs": 0}, task_dataset_path="data/nowhere.jsonl"), [{"data_sed": 1}]
    )
    Path("space.yaml").write_text(f"base: {folder}/config.json\noverrides: {folder}/attributes_to_vary.json\n")
    with pytest.raises(SpecError) as caught:
        load_space("space.yaml")
    lines = (folder / "config.json").read_text().splitlines()
    told = {problem.key: problem for problem in caught.value.problems}
    for key, leaf in [
        ("finetune_config.lerning_rate", "lerning_rate"),
        ("finetune_config.epochs", "epochs"),
        ("task_dataset_path", "task_dataset_path"),
    ]:
        assert f'"{leaf}"' in lines[(told[key].line or 0) - 1]
    assert told["[0].data_sed"].line == 3
    assert "data_seed" in told["[0].data_sed"].message


def test_old_overrides_over_a_base_of_today(experiment: Experiment) -> None:
    """No default of then reaches a base of now."""
    folder = experiment(ADVICE, [{"finetune_config": {"lora_dropdown": 0.5, "load_in_16bit": True}}, {"seed": 4}])
    Path("space.yaml").write_text(
        f"base: {{proxy_strategy: naive, finetune_config: {{r: 2}}}}\noverrides: {folder}/attributes_to_vary.json\n"
    )
    first, second = (trial.config for trial in load_space("space.yaml").trials)
    assert (first.finetune_config.lora_dropout, first.finetune_config.dtype) == (0.5, "bfloat16")
    assert (first.finetune_config.r, first.finetune_config.epochs, second.seed) == (2, 3, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: {proxy_strategy: mixed}", [("naive", True)]),
        ("base: {train_on_proxy: false}\nstrategies: {mixed: {}, naive: {}}", [("naive", True), ("naive", False)]),
        ("base: {train_on_proxy: false}\noverrides: [{proxy_strategy: mixed}]", [("naive", True)]),
        ("strategies: {upweighted_standard: {}}", [("positive_negative_proxy", None)]),
        ("strategies: {task_trained: {}}", [("naive", True)]),
    ],
)
def test_other_names_of_strategies_in_a_search_space(
    tmp_path: Path, text: str, expected: list[tuple[str, bool | None]]
) -> None:
    (tmp_path / "space.yaml").write_text(text)
    trials = load_space(tmp_path / "space.yaml").trials
    assert [(t.config.proxy_strategy, getattr(t.config, "train_on_proxy", None)) for t in trials] == expected


def test_a_name_that_says_another_value(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("strategies:\n  mixed:\n    fixed: {train_on_proxy: false}\n")
    with pytest.raises(SpecError, match=r"yaml:3: .*train_on_proxy: found false, but the strategy mixed says true"):
        load_space(tmp_path / "space.yaml")
    with pytest.raises(ValueError, match="train_on_proxy is False, but proxy_strategy mixed says True"):
        build_config({"proxy_strategy": "mixed", "train_on_proxy": False})
    assert build_config({"proxy_strategy": "mixed"}) == build_config({})


# results ------------------------------------------------------------------------------------------------------


def old_result(
    seed: int = 3, last: float = 1.5, config: dict[str, Any] | None = None, **finetune: Any
) -> dict[str, Any]:
    """Two epochs of a KL run, as the first generation wrote them."""
    settings = with_(config or IN_RESULTS, {"beta_kl": 10, **finetune}, proxy_strategy="kl_divergence")
    return {
        "experiment_config": {**settings, "data_seed": seed, "model_seed": seed},
        "train_losses": [3.0, 2.5, last],
        "proxy_train_losses": None,
        "outcome_train_losses": None,
        "proxy_neg_train_losses": None,
        "eval_results": {
            "task_train": {"loss": [3.0, 2.0, last]},
            "task_test": {"loss": [3.5, 2.5, last + 0.5]},
            "align_train": {"loss": [4.0, 3.0, 2.5], "mcq_accuracy": {}},
            "align_test": {"loss": [4.5, 3.5, last + 1.5], "mcq_accuracy": {"0": 0.5, "2": 0.75}},
        },
        "timestamp": "20250102_030405",
        "final_mcq_accuracy": [],
        "initial_mcq_accuracy": None,
    }


def save(content: Any, *parts: str | Path) -> Path:
    path = Path(*parts) / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_an_old_result(tmp_path: Path) -> None:
    result = read_old_results(save(old_result(), tmp_path))
    assert (result.seed, result.status, result.imported_from) == (3, "completed", str(tmp_path / "results.json"))
    assert result.slug.startswith("old_kl_divergence_beta_kl-10_")
    assert (result.eval_epochs, result.eval_steps, result.train_steps) == ([0, 1, 2], [0, -1, -1], [-1, -1, -1])
    assert result.train_losses == {"total": [3.0, 2.5, 1.5]}
    assert result.eval_results["align_test"]["loss"] == [4.5, 3.5, 3.0]
    assert result.eval_results["align_test"]["mcq_probability"] == [0.5, None, 0.75]
    assert result.capability_metric == "task_test/token_probability"
    assert result.capability == pytest.approx(math.exp(-2.0))
    assert result.metric("align_test/token_probability", 0) == pytest.approx(math.exp(-4.5))
    assert result.started_at == "2025-01-02T03:04:05+00:00"
    config = result.config
    assert (config["data_seed"], config["finetune_config"]["beta_kl"], config["finetune_config"]["dtype"]) == (
        *(3, 10.0),
        "float16",
    )
    assert "steering_alpha" not in config["finetune_config"]
    jsonschema.Draft202012Validator(json_schema()).validate(json.loads(result.model_dump_json()))


def test_an_old_result_that_diverged(tmp_path: Path) -> None:
    result = read_old_results(save(old_result(last=math.nan), tmp_path))
    assert (result.status, result.capability, result.alignment) == ("diverged", None, None)
    assert result.error == "train/total is nan at epoch 2"
    assert result.eval_results["task_train"]["loss"] == [3.0, 2.0, None]
    infinite = {**old_result(), "train_losses": [1.0]}
    infinite["eval_results"]["align_train"]["loss"] = [1.0, math.inf, 2.0]
    assert read_old_results(save(infinite, tmp_path)).error == "align_train/loss is inf at epoch 1"


def test_an_old_result_of_the_other_family(tmp_path: Path) -> None:
    content = old_result()
    content["experiment_config"] = {**SUMS, "timestamp": "x"}
    content["train_losses"] = {"train": [2.0, 1.0], "proxy": [4.0]}
    content["eval_results"] = {
        "task_test": {
            "loss": [2.0, 1.0],
            "tone_score": {"0": 10, "1": 20},
            "1": {"capability_score": 60, "texts": ["a"]},
        },
        "align_test_minus": {"loss": [3.0, 2.0]},
    }
    result = read_old_results(save(content, tmp_path))
    assert (result.seed, result.config["model_seed"], result.config["proxy_strategy"]) == (8, 8, "naive")
    assert result.train_losses == {"total": [2.0, 1.0], "proxy": [4.0, None]}
    assert result.eval_results["task_test"]["tone_score"] == [10, 20]
    assert result.eval_results["task_test"]["capability_score"] == [None, 60]
    assert result.eval_results["align_test_minus_align_train"]["loss"] == [3.0, 2.0]
    empty = read_old_results(save({**content, "eval_results": None}, tmp_path))
    assert (empty.status, empty.error) == ("failed", "it has no evaluation after training")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"experiment_config": {},\n}', ["results.json:2: ", "column 1", "comma"]),
        ('{"experiment_config":\n>>>>>>> theirs\n}', ["results.json:2: ", ">>>>>>> in line 2"]),
        ("{}", ["no result of the first generation"]),
    ],
)
def test_what_is_no_old_result(tmp_path: Path, text: str, told: list[str]) -> None:
    with pytest.raises(StorageError) as caught:
        read_old_results(save(text, tmp_path))
    assert all(word in str(caught.value) for word in told), str(caught.value)
    with pytest.raises(StorageError, match="cannot be read"):
        read_old_results(tmp_path / "nowhere.json")


def test_the_table_and_the_report_of_an_old_folder(tmp_path: Path) -> None:
    for seed in (1, 5):
        save(old_result(seed, last=1.0 + seed / 10), tmp_path, f"beta_kl-10/seed_{seed}/results/20250102_030405")
    save(old_result(1, last=math.nan, beta_kl=99), tmp_path, "beta_kl-99/seed_1/results/20250102_030405")
    save(old_result(1), tmp_path, "beta_kl-10/seed_1/positive_proxy/20250102_030405")  # of a throw-away training
    table = selgen_ray.load_results(tmp_path, status="all")
    assert sorted(zip(table["config.finetune_config.beta_kl"], table["seed"], table["status"], strict=True)) == [
        *((10, 1, "completed"), (10, 5, "completed"), (99, 1, "diverged"))
    ]
    assert table["imported_from"].notna().all()
    assert len(selgen_ray.load_results(tmp_path, per="epoch", status="all")) == 9
    report = write_report(tmp_path)
    assert [(s.label, len(s.seeds)) for s in report.settings] == [("kl_divergence β=10", 2), ("kl_divergence β=99", 0)]


def test_old_results_beside_new_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each in its own setting, told apart in the table, and left alone by a second import."""
    old, sweep = tmp_path / "old", tmp_path / "sweep"
    save(old_result(1), old, "seed_1/results/20250102_030405")
    publish(sweep, fake_result("kl_divergence", 1, beta_kl=10), fake_result("kl_divergence", 2, beta_kl=10))
    assert import_config.main(["--results", str(old), str(sweep)]) == 0
    assert "1 of 1 results imported" in capsys.readouterr().out
    (path,) = sweep.glob("old_kl_divergence_*/seed_1/results/20250102_030405/results.json")
    written_result = TrialResult.model_validate_json(path.read_text())
    assert written_result.imported_from == str(old / "seed_1/results/20250102_030405/results.json")
    report = write_report(sweep)
    assert len(report.settings) == 2
    assert sorted("imported" in s.label for s in report.settings) == [False, True]
    assert [base.model for base in report.bases].count("toy (imported)") == 1
    assert steer(["status", str(sweep)]) == 0
    assert "3 trials: 3 completed" in capsys.readouterr().out
    assert import_config.main(["--results", str(old), str(sweep)]) == 0
    assert "was imported before; --force" in capsys.readouterr().out
    assert import_config.main(["--results", str(old), str(sweep), "--force"]) == 0
    assert "1 of 1 results imported" in capsys.readouterr().out


def test_seeds_that_were_one_training_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old"
    for seed in (1, 5):  # nothing read the seed of the folder
        save(old_result(3), old, f"read/seed_{seed}/results/2025010{seed}_000000")
    for seed in (7, 8):  # it was read, and changed nothing
        save(old_result(seed, beta_kl=4), old, f"same/seed_{seed}/results/20250102_030405")
    save({**old_result(3, last=1.25, beta_kl=6), "timestamp": "20250101_000000"}, old, "twice/a")
    newest = save(old_result(3, last=1.75, beta_kl=6), old, "twice/b")
    report = write_report(old)
    assert any("the losses of seeds 7 and 8 are the same" in note for note in report.notes)
    assert import_config.main(["--results", str(old), str(tmp_path / "sweep")]) == 0
    out = capsys.readouterr().out
    assert "3 of 6 results imported" in out
    assert "seed_5/results/20250105_000000/results.json: left out, it was trained with seed 3 as" in out
    assert "and its losses are the same to the last digit: nothing read the seed 5 of its folder" in out
    assert "though its seed is 8 and not 7: nothing read that seed" in out
    assert f"twice/a/results.json: left out, it was trained with seed 3 as {newest} was" in out
    assert not write_report(tmp_path / "sweep").notes


def test_nothing_is_imported_when_a_result_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, sweep = tmp_path / "old", tmp_path / "sweep"
    save(old_result(), old, "a")
    save('{"experiment_config": 1,}', old, "b")
    assert import_config.main(["--results", str(old), str(sweep)]) == 2
    assert "b/results.json:1: cannot be parsed, column 25" in capsys.readouterr().err
    assert not sweep.exists()
    assert import_config.main(["--results", str(tmp_path / "odl"), str(sweep)]) == 2
    assert "Did you mean 'old'?" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert import_config.main(["--results", str(tmp_path / "empty"), str(sweep)]) == 2
    assert "there is no results.json" in capsys.readouterr().err


def test_an_imported_sweep_says_what_to_add(experiment: Experiment) -> None:
    made = read_folder(experiment(ADVICE, OVERRIDES))
    told = " ".join(made.to_add)
    assert "data.truth: the alignment data" in told or "data.proxy: needed by kl_divergence" in told
