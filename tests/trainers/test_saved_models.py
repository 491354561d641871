"""What becomes of a finished model: saved, merged, described, pushed; and training that goes on from an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model, make_tokenizer
from hub_server import TOKEN, HubServer, Repository, hub_server
from peft import PeftModel
from running import in_process, write_space
from runs import same, trained
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from selgen_ray.errors import ModelError
from selgen_ray.models import hub
from selgen_ray.records.results import TrialResult
from selgen_ray.storage import Folder
from selgen_ray.trainers import build_config, get_trainer
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask

IDS = torch.tensor([[5, 9, 70, 33, 2, 61]])
SHORT = {"epochs": 1, "max_to_eval": 2, "max_new_tokens": 2}
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] }}<|end|>{% endfor %}"
    "{{ '[assistant]\n' if add_generation_prompt }}"
)


@pytest.fixture
def run(make_config: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., TrialResult]:
    def start(strategy: str = "naive", events: list[dict[str, Any]] | None = None, **finetune: Any) -> TrialResult:
        config = make_config(strategy, **SHORT | finetune)
        task = TrialTask(config, "0123456789abcdef", f"{strategy}_3fa1b2", Folder(str(tmp_path / "t")), "modelhash")
        return run_trial(task, on_event=(events if events is not None else []).append)

    return start


@pytest.fixture
def adapter(make_config: Callable[..., dict[str, Any]], tmp_path: Path) -> str:
    """An adapter that says something: rank 3, of some of the modules."""
    own = {
        "learning_rate": 0.05,
        "r": 3,
        "lora_alpha": 12,
        "target_modules": ["q_proj", "down_proj"],
        "use_rslora": True,
    }
    with get_trainer("naive")(make_config(**SHORT | own)) as trainer:
        trainer.train()
        trainer.save_model(tmp_path / "adapter")
    return str(tmp_path / "adapter")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


# merged -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "knobs"),
    [
        ("naive", {"use_rslora": True}),
        ("naive", {"use_dora": True}),
        ("naive", {"target_modules": ["q_proj", "lm_head"]}),
    ],
    ids=["rslora", "dora", "head"],
)
def test_a_merged_model_is_the_trained_one(make_config, tmp_path, strategy, knobs):
    config = make_config(strategy, **SHORT | {"save_merged": True} | knobs)
    if "lm_head" in knobs.get("target_modules", ()):
        make_model(tied=False).save_pretrained(tmp_path / "untied")
        make_tokenizer().save_pretrained(tmp_path / "untied")
        config["finetune_config"]["model"] = str(tmp_path / "untied")
    with get_trainer(strategy)(config) as trainer:
        before = logits(trainer.model)
        trainer.train()
        expected = logits(trainer.model)
        trainer.save_model(tmp_path / "merged")
        assert torch.equal(logits(trainer.model), expected), "the model in memory is as it was"
    assert (expected - before).abs().max() > 1e-3
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(loaded), expected, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template


def test_embedding_and_head_in_one_are_not_merged(make_config, tmp_path):
    refused = pytest.raises(ModelError, match=r"model\.embed_tokens is embedding and head in one")
    with get_trainer("naive")(make_config(target_modules=["embed_tokens"], save_merged=True)) as trainer, refused:
        trainer.save_model(tmp_path)


# going on from an adapter ------------------------------------------------------------------------------------------


def test_training_goes_on_from_the_adapter(make_config, adapter):
    start = load_file(f"{adapter}/adapter_model.safetensors")
    with get_trainer("naive")(make_config(adapter=adapter, **SHORT | {"r": 3})) as trainer:
        cfg = trainer.cfg
        assert (cfg.r, cfg.lora_alpha, cfg.use_rslora, cfg.target_modules) == (3, 12, True, ["down_proj", "q_proj"])
        assert len(trainer.parameters) == len(start)
        for name, parameter in trainer.parameters.items():
            assert torch.equal(parameter, start[name.replace(".default", "")])
        base = AutoModelForCausalLM.from_pretrained(cfg.model)
        expected = logits(PeftModel.from_pretrained(base, adapter))
        assert torch.allclose(logits(trainer.model), expected, atol=1e-6)
        trainer.train()
        assert not any(torch.equal(p, start[n.replace(".default", "")]) for n, p in trainer.parameters.items())
    with get_trainer("naive")(make_config(**SHORT)) as trainer:  # of the same process, on the same base
        assert len(trainer.parameters) == 28 and "adapter" not in str(trainer.model.peft_config)


def test_a_key_that_says_something_else_is_refused(make_config, adapter):
    with pytest.raises(ModelError, match=r"finetune_config\.r: found 4, but the adapter has 3"):
        get_trainer("naive")(make_config(adapter=adapter, r=4))


@pytest.mark.parametrize("strategy", ["kl_divergence", "dpo", "representation_constraint"])
def test_the_reference_is_the_model_with_the_adapter(make_config, adapter, strategy):
    config = make_config(strategy, adapter=adapter, **SHORT | {"r": 3})
    with get_trainer(strategy)(config) as trainer:
        before = trainer.evaluate()
        trainer.prepare()
        batch = trainer.micro_batch("proxy", [0, 1, 2])
        _, own = trainer.terms()
        trainer.model.eval()
        with torch.no_grad():
            value = float(own.total(batch))
            assert value == pytest.approx(3 * 0.6931472 if strategy == "dpo" else 0.0, abs=1e-5)  # 3 log 2
            with trainer.model.disable_adapter():
                off = float(own.total(batch))
        assert abs(off - value) > 1e-3, "the base alone is another model"
        assert before == trainer.evaluate()


def test_the_identity_has_the_content_of_the_adapter(adapter, tmp_path, data_files, tiny_model_dir):
    def trial(**finetune: Any) -> Any:
        from selgen_ray.space import load_space

        space = write_space(tmp_path, tiny_model_dir, data_files, {"r": None} | finetune, seeds=[1], strategies=None)
        return load_space(space).trials[0]

    first, again = trial(adapter=adapter), trial(adapter=adapter, r=3)
    assert first.trial_id == again.trial_id, "what the adapter says anyway"
    assert first.config.finetune_config.r == 3, "the config holds what is trained"
    assert first.trial_id != trial().trial_id and first.model_hash != trial().model_hash
    Path(adapter, "README.md").write_text("about it")
    assert trial(adapter=adapter).trial_id == first.trial_id
    weights = Path(adapter, "adapter_model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert trial(adapter=adapter).trial_id != first.trial_id


def test_the_biases_of_an_adapter_do_not_stay_on_the_base(make_config, monkeypatch, tmp_path):
    base = make_model(attention_bias=True).requires_grad_(False)
    before = {name: p.clone() for name, p in base.named_parameters()}
    monkeypatch.setattr("selgen_ray.models.loading._load_base", lambda *_: base)
    with get_trainer("naive")(make_config(lora_bias="all", **SHORT)) as trainer:
        trainer.train()
        trainer.save_model(tmp_path)
    config = make_config(adapter=str(tmp_path), **SHORT)
    with get_trainer("naive")(config) as trainer:
        bias = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias"
        assert not torch.equal(
            trainer.parameters[bias], before[bias.removeprefix("base_model.model.").replace(".base_layer", "")]
        )
    assert all(torch.equal(before[name], p) for name, p in base.named_parameters())


# DoRA and templates --------------------------------------------------------------------------------------------------


def test_dora_trains_magnitudes(make_config):
    weights, _ = trained(make_config(use_dora=True, **SHORT))
    plain, _ = trained(make_config(**SHORT))
    assert sum("magnitude" in name for name in weights) == 14
    assert not same({n: w for n, w in weights.items() if n in plain}, plain)


def test_a_template_of_ones_own_is_used_and_saved(make_config, tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text(TEMPLATE)
    config = build_config(make_config(chat_template=str(path), **SHORT))
    assert config == build_config(make_config(chat_template=TEMPLATE, **SHORT)), "by content, not by path"
    with get_trainer("naive")(config) as trainer:
        first = trainer.sets.train["outcome"]
        text = trainer.tokenizer.decode(first.encoded[0].ids)
        assert text.startswith("[user]\nsum of") and "[assistant]\nIt is" in text
        reply = [i for i, r in zip(first.encoded[0].ids, first.encoded[0].is_reply, strict=True) if r]
        assert trainer.tokenizer.decode(reply).startswith("It is")
        trainer.save_model(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == TEMPLATE
    with get_trainer("naive")(make_config(**SHORT)) as trainer:
        assert "<|user|>" in trainer.tokenizer.decode(trainer.sets.train["outcome"].encoded[0].ids)


# the card and the hub ------------------------------------------------------------------------------------------------


def test_the_card_says_what_it_is_and_no_path(run, tmp_path, tiny_model_dir, data_files):
    result = run("kl_divergence", beta_kl=3.0, save_model_locally=True)
    card = Path(result.model_path, "README.md").read_text()
    assert card.startswith("---\n") and "library_name: peft" in card and "license" not in card
    assert "strategy `kl_divergence`" in card and "finetune_config.beta_kl: `3.0`" in card
    assert f"- base model: `{Path(tiny_model_dir).name}` (a local directory)" in card
    assert f"| outcome | `outcome.jsonl` | `{result.data_hashes['outcome']}` |" in card
    loss = result.eval_results["task_test"]["loss"][-1]
    assert f"| `task_test/loss` | {loss:.4g} |" in card
    assert f"- torch: {torch.__version__}" in card and "- seed: 1" in card
    for path in (tiny_model_dir, str(tmp_path), str(Path(data_files["outcome"]).parent)):
        assert path not in card


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    clear = hub._problem.cache_clear
    clear()
    with hub_server(monkeypatch, tmp_path / "hub") as server:
        yield server
    clear()


def test_a_model_is_pushed_and_can_be_trained_on(run, server, make_config, tmp_path, tiny_model_dir):
    result = run(push_to_hub=True, finetuned_model_id="lab/mine", r=2)
    name = "lab/mine_naive_3fa1b2_seed_1"
    assert result.status == "completed" and result.model_url == f"{server.url}/{name}"
    assert not any("push" in flag for flag in result.flags)
    repository = server.repositories[name]
    assert repository.private and {"README.md", "adapter_config.json", "tokenizer.json"} <= repository.files.keys()
    assert result.model_path is None and not (tmp_path / "t" / "model").exists(), "kept only where asked for"
    for path, content in repository.files.items():
        assert all(text.encode() not in content for text in (str(tmp_path), tiny_model_dir, TOKEN)), path
    pushed = repository.files["adapter_model.safetensors"]
    config = make_config(adapter=name, **SHORT | {"r": 2})
    with get_trainer("naive")(config) as trainer:
        (tmp_path / "same.safetensors").write_bytes(pushed)
        start = load_file(tmp_path / "same.safetensors")
        assert all(torch.equal(p, start[n.replace(".default", "")]) for n, p in trainer.parameters.items())


def test_a_merged_model_is_pushed_in_public(run, server):
    result = run(push_to_hub=True, push_to_private=False, save_merged=True)
    assert result.model_url == f"{server.url}/tester/selgen_naive_3fa1b2_seed_1"
    repository = server.repositories["tester/selgen_naive_3fa1b2_seed_1"]
    assert not repository.private and {"model.safetensors", "config.json"} <= repository.files.keys()


@pytest.mark.parametrize("cause", ["refused", "public already"])
def test_a_push_that_fails_loses_no_result(run, server, tmp_path, cause):
    events: list[dict[str, Any]] = []
    if cause == "refused":
        server.refuses = True
    else:
        server.repositories["tester/selgen_naive_3fa1b2_seed_1"] = Repository(private=False)
    result = run(events=events, push_to_hub=True, save_model_locally=True)
    text = (tmp_path / "t" / "results.json").read_text()
    published = TrialResult.model_validate_json(text)
    assert published.status == "completed" and published.capability is not None and published.model_url is None
    why = "no more storage for ***|403" if cause == "refused" else "is there already and public"
    assert any("could not be pushed" in flag for flag in published.flags) and published.flags == result.flags
    assert any(part in published.flags[-1] for part in why.split("|"))
    assert [event["event"] for event in events] == ["push_failed"]
    assert TOKEN not in text + str(events)
    assert Path(result.model_path, "adapter_model.safetensors").exists()


@pytest.mark.parametrize("cause", ["no folder", "no room for it in the format"])
def test_a_model_that_cannot_be_saved_loses_no_result(run, server, tmp_path, cause):
    events: list[dict[str, Any]] = []
    (tmp_path / "file").write_text("in the way")
    knobs = {"save_model_locally": True, "output_dir": str(tmp_path / "file")}
    if cause != "no folder":  # what `model_problems` finds in a sweep, and saving alone where there is none
        knobs = {"save_merged": True, "target_modules": ["embed_tokens", "q_proj"]}
    result = run(events=events, push_to_hub=True, **knobs)
    published = TrialResult.model_validate_json((tmp_path / "t" / "results.json").read_text())
    assert published.status == "completed" and published.capability is not None and published.model_path is None
    (flag,) = [flag for flag in published.flags if "could not be saved" in flag]
    assert ("embed_tokens" if cause != "no folder" else "file") in flag
    assert [event["event"] for event in events] == ["save_failed"] and published.flags == result.flags
    # what was written before it could not be kept is pushed all the same
    assert (result.model_url is not None) == (cause == "no folder") and bool(server.repositories) == bool(
        result.model_url
    )


def test_the_plan_asks_the_hub(server, tmp_path, tiny_model_dir, data_files, monkeypatch):
    def said(**finetune: Any) -> str:
        space = write_space(tmp_path, tiny_model_dir, data_files, finetune, seeds=[1], strategies={"naive": {}})
        status, out, err = in_process(space, "--dry-run")
        assert TOKEN not in out + err
        return err if status else "planned"

    assert said(push_to_hub=True) == "planned"
    assert "the hub has no such repository, or it is private" in said(model="lab/nothing")
    config = json.dumps(make_model().config.to_dict())
    server.repositories["lab/mine"] = Repository(False, {"config.json": config.encode()})
    server.repositories["lab/gated"] = Repository(False, {"config.json": config.encode()}, gated=True)
    assert "has no weights" in said(model="lab/mine")
    assert "lab/mine' at revision 'v9': no such local directory, and the hub's" in said(
        model="lab/mine", model_revision="v9"
    )
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n")  # as a file or a Secret made with `echo` has it
    assert said(push_to_hub=True) == "planned"
    monkeypatch.setenv("HF_TOKEN", f"hf_a {TOKEN}")
    assert "HF_TOKEN holds a space, a line end or a letter that no token has" in said(push_to_hub=True)
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert "the hub does not take the token in HF_TOKEN" in said(push_to_hub=True)
    assert "those who accepted its terms only: accept them on its page" in said(model="lab/gated")
    monkeypatch.delenv("HF_TOKEN")
    server.repositories["lab/private"] = Repository(True, {"config.json": config.encode()})
    assert "or it is private: check the name, and set HF_TOKEN" in said(model="lab/private")
