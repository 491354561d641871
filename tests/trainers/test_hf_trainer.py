"""`hf_trainer`: Trainers of Transformers, TRL and a plugin as strategies, held against ours and against themselves."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from running import dry_run, results, sweep_on, write_space
from runs import assert_resumed_twice_is_whole, close, trained

from selgen_ray.driver.packing import packing_lines
from selgen_ray.driver.plan import make_plan
from selgen_ray.errors import ModelError, SpecError
from selgen_ray.models.checks import adapted_skeleton
from selgen_ray.models.loading import load_base
from selgen_ray.space import load_space
from selgen_ray.storage import Folder
from selgen_ray.testing import check_strategy
from selgen_ray.trainers import build_config, get_trainer, plugins
from selgen_ray.trainers.engine.stop_signal import StopSignal
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask

SHORT = {"max_to_eval": 2, "max_new_tokens": 1}  # of the evaluations, which are not looked at
DPO = {"trainer_class": "trl.DPOTrainer", "train": "proxy", "trainer_args": {"beta": 0.5}}
MINE = """\
import torch
from transformers import Trainer


class Mine(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        logits = model(**{k: v for k, v in inputs.items() if k != "labels"}).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs["labels"][:, 1:].flatten())
        self.log({"twice": 2.0})
        return (loss, None) if return_outputs else loss
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A plugin with a Trainer, in use for one test."""
    file = tmp_path / "my_file.py"
    file.write_text(MINE)
    plugins.register_exactly((plugins.Plugin.read(file),))
    yield file
    plugins.register_exactly(())


@pytest.mark.parametrize(
    "how",
    [
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3, "warmup_steps": 2, "weight_decay": 0.1},
        {"is_peft": False, "max_steps": 5, "max_grad_norm": 0.5, "loss_on": "all", "optim": "sgd"},
    ],
    ids=["lora", "full"],
)
def test_sft_of_trl_and_naive_agree(make_config, how):
    ours, record = trained(make_config("naive", **SHORT, **how))
    theirs, other = trained(make_config("hf_trainer", **SHORT, **how))
    assert close(ours, theirs, 1e-5)
    assert record.eval_steps == other.eval_steps
    assert record.tokens == other.tokens
    assert other.train_losses["total"] == pytest.approx(record.train_losses["total"], rel=1e-5)
    assert other.train_metrics["entropy"]  # TRL's own


def test_it_trains_on_the_roles_that_train_names(make_config):
    short = SHORT | {"epochs": 1}
    plain, _ = trained(make_config("naive", **short, top={"train_on_proxy": False}))
    outcome, _ = trained(make_config("hf_trainer", **short, train="outcome"))
    assert close(plain, outcome, 1e-5)


@pytest.mark.parametrize("knobs", [DPO | {"is_peft": False}, DPO], ids=["dpo_full", "dpo"])
def test_resumed_in_mid_epoch_and_at_its_end_it_goes_on_to_the_same_weights(make_config, tmp_path, knobs):
    dropout = {"lora_dropout": 0.1} if knobs.get("is_peft", True) else {}
    config = make_config("hf_trainer", save_steps=1, **SHORT, **knobs, **dropout)
    assert_resumed_twice_is_whole(config, tmp_path, lambda steps: (2, steps // 2 + 1))


@pytest.mark.parametrize(
    ("name", "train"),
    [("trl.KTOTrainer", "proxy"), ("trl.experimental.orpo.ORPOTrainer", "proxy")],
    ids=["kto", "orpo"],
)
def test_other_trainers_of_trl_learn_the_preference(make_config, name, train):
    config = make_config("hf_trainer", **SHORT, trainer_class=name, train=train, epochs=3)
    _, record = trained(config)
    margins = record.eval_results["align_train"]["preference_margin"]
    assert margins[-1] > margins[0]


def test_dpo_learns_the_preference_and_logs_what_trl_measures(make_config):
    weights, record = trained(make_config("hf_trainer", **SHORT, **DPO, epochs=3))
    margins = record.eval_results["align_train"]["preference_margin"]
    assert margins[-1] > margins[0]
    rewards = record.train_metrics["rewards/margins"]
    assert rewards[-1] > rewards[0]
    assert not any("ref" in name.split(".") for name in weights)


def test_a_trainer_of_a_plugin_runs_and_its_text_is_in_the_id(make_config, mine):
    knobs = {"trainer_class": "my_file.Mine", "train": "outcome", **SHORT, "per_device_train_batch_size": 32}
    config = make_config("hf_trainer", **knobs)
    weights, _ = trained(config)
    plain, _ = trained(make_config("naive", **SHORT, per_device_train_batch_size=32, top={"train_on_proxy": False}))
    assert close(weights, plain, 1e-5)
    code = plugins.code_of(get_trainer("hf_trainer"), build_config(config))
    assert code == [f"plugin:{plugins.Plugin.read(mine).sha256}"]
    assert plugins.code_of(get_trainer("hf_trainer"), build_config(make_config("hf_trainer"))) == []


def test_it_keeps_the_promises_that_it_can_keep():
    knobs = {"finetune_config.trainer_class": "trl.SFTTrainer", "finetune_config.lora_bias": "all"}
    assert check_strategy(get_trainer("hf_trainer"), knobs).keys() == {"accumulation", "workers"}


class StopAtLook(StopSignal):
    """Asks for a stop at the n-th look, in a step or inside an evaluation."""

    def __init__(self, looks):
        super().__init__()
        self.left = looks

    def check(self, step):
        self.left -= 1
        if self.left <= 0:
            self.request("preempted", "enough looks")
        super().check(step)


def test_stopped_again_and_again_also_inside_evaluations_it_ends_as_if_it_had_not_been(make_config, tmp_path):
    knobs = {"logging_steps": 1, "save_steps": 100, "max_steps": 3, "lora_dropout": 0.1}
    config = build_config(make_config("hf_trainer", **SHORT, **knobs, top={"evals": {"during": {"every": "1 step"}}}))
    task = TrialTask(config.model_dump(mode="json"), "0123456789abcdef", "slug_abc123", Folder(str(tmp_path / "whole")))
    base = load_base(config.finetune_config, "cpu")
    whole = run_trial(task)
    assert load_base(config.finetune_config, "cpu") is not base  # a Trainer may have changed it
    task = replace(task, folder=Folder(str(tmp_path / "stopped")))
    result = next(result for _ in range(9) if (result := run_trial(task, stop=StopAtLook(9))).status != "running")
    assert result.num_resumes >= 2
    assert result.eval_results == whole.eval_results
    assert (result.train_losses, result.train_metrics) == (whole.train_losses, whole.train_metrics)


def test_who_stops_it_finds_it_stopped_and_goes_on(make_config, tmp_path):
    config = build_config(make_config("hf_trainer", **SHORT, logging_steps=1, max_steps=3))
    task = TrialTask(config.model_dump(mode="json"), "0123456789abcdef", "slug_abc123", Folder(str(tmp_path)))
    stop = StopSignal()
    result = run_trial(task, lambda line: line.get("step") == 2 and stop.request("stopped", "a test asks"), stop=stop)
    assert (result.status, result.train_steps, result.error) == ("stopped", [1, 2], "a test asks")
    assert run_trial(task).num_resumes == 1


# -- wrong inputs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            {"trainer_args": {"bta": 0.1}},
            "space.yaml:10: .*unknown key, DPOConfig has no 'bta'. Did you mean 'beta'",
        ),
        (
            {"trainer_args": {"learning_rate": 1}},
            "space.yaml:10: .*learning_rate is not decided here: write fin",
        ),
        ({"trainer_args": {"beta": "much"}}, "space.yaml:10: .*trainer_args.beta: found 'much'; allowed: float"),
        ({"trainer_class": "trl.DPOTrainr"}, "space.yaml:8: .*DPOTrainr.*Did you mean 'trl.DPOTrainer'"),
        ({"trainer_class": "os.path"}, "no plugin is a file os.py.*Allowed: trl.SFTTrainer"),
        ({"trainer_class": "trl.GRPOTrainer"}, "GRPOTrainer needs more than rows"),
        ({"trainer_class": "trl.DPOConfig"}, "is no subclass of transformers.Trainer"),
        ({"train": "outcome"}, "space.yaml:9: .*proxy_neg make: found train_roles 'outcome', allowed: 'proxy'"),
        ({"train": "proxi"}, "found 'proxi'; allowed: outcome, outcome\\+proxy, proxy. Did you mean 'proxy'"),
        ({"auto_batch": True}, "auto_batch true: only the package's own loop"),
        ({"dtype": "float16"}, "float16 needs loss scaling"),
        ({"lora_bias": "all"}, "space.yaml:10: .*lora_bias all: trl.DPOTrainer puts an adapter for its reference"),
        ({"trainer_args": {"loss_type": ["no"], "packing": True}}, "packing"),
    ],
)
def test_wrong_inputs_are_said_in_words(tmp_path, knobs, message):
    lines = {"trainer_class": "trl.DPOTrainer", "train": "proxy", "trainer_args": {}} | knobs
    arguments = lines.pop("trainer_args")
    written = [
        "name: x",
        "base:",
        "  data.world: toy",
        "strategies:",
        "  hf_trainer:",
        "    fixed:",
        "      finetune_config:",
    ]
    written += [f"        {key}: {value}" for key, value in lines.items()]
    written += [f"        trainer_args: {{{', '.join(f'{k}: {v}' for k, v in arguments.items())}}}"]
    space = tmp_path / "space.yaml"
    space.write_text("\n".join(written) + "\n")
    with pytest.raises(SpecError, match=message):
        load_space(space)


def test_an_adapter_on_the_head_is_refused_where_trl_would_not_train_it(make_config):
    for name, refused in (("trl.SFTTrainer", True), ("transformers.Trainer", False)):
        config = build_config(make_config("hf_trainer", trainer_class=name, target_modules=["lm_head"]))
        with pytest.raises(ModelError, match="leave it out") if refused else contextlib.nullcontext():
            get_trainer("hf_trainer").check_model(config, adapted_skeleton(config.finetune_config))


def test_the_plan_says_that_it_runs_unpacked(make_config):
    config = build_config(make_config("hf_trainer")).model_dump(mode="json")
    task = TrialTask(config, "0123456789abcdef", "slug_abc123", Folder("/nowhere"))
    (line,) = packing_lines([task], 4)
    assert "not packed: 1 trial, hf_trainer: a Trainer runs its own passes" in line


@pytest.mark.ray
def test_a_sweep_of_trl_s_dpo_beside_ours_goes_on_where_it_was_stopped(tmp_path, tiny_model_dir, data_files, joined):
    strategies = {"dpo": {}, "hf_trainer": {"fixed": {f"finetune_config.{key}": value for key, value in DPO.items()}}}
    short = SHORT | {"epochs": 1, "logging_steps": 1, "lora_dropout": 0.1}
    options = {"strategies": strategies, "seeds": [1, 2, 3], "resources": {"pack": 2}}
    space = write_space(tmp_path, tiny_model_dir, data_files, short, **options)
    assert "not packed: 3 trials, hf_trainer: a Trainer runs its own passes" in dry_run(space)
    with contextlib.chdir(tmp_path):
        tasks = [planned.task for planned in make_plan(load_space(space)).planned]
    task = next(task for task in tasks if task.config["proxy_strategy"] == "hf_trainer")
    whole = run_trial(replace(task, folder=Folder(str(tmp_path / "whole"))))
    stop = StopSignal()
    run_trial(task, lambda line: line.get("step") == 2 and stop.request("preempted", "a test asks"), stop=stop)
    done = sweep_on(joined, space)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path)
    assert [result["status"] for result in found.values()] == ["completed"] * 6
    (resumed,) = (result for result in found.values() if result["num_resumes"])
    assert resumed["trial_id"] == task.trial_id
    assert resumed["eval_results"] == whole.eval_results
    assert resumed["train_metrics"] == whole.train_metrics
    page = (tmp_path / "sweeps" / "tiny" / "report" / "index.html").read_text()
    assert "hf_trainer" in page and "dpo" in page
