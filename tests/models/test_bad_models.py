"""Bad models, tokenizers, templates and adapters: each is told in words by the plan of a sweep, before Ray starts."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model, make_tokenizer, write_jsonl
from peft import LoraConfig, get_peft_model
from running import in_process, write_space
from transformers import BertConfig, LlamaConfig, T5Config

TEXT_ROW = [{"text": f"number {i} is a number"} for i in range(6)]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and an adapter of it, which nobody changes."""
    folder = tmp_path_factory.mktemp("good")
    make_model().save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    save_adapter(folder / "adapter", r=4)
    return folder


def save_adapter(folder: Path, hidden: bool = False, **options: Any) -> None:
    lora = LoraConfig(task_type="CAUSAL_LM", lora_alpha=8, target_modules=["q_proj", "v_proj"], **options)
    base = make_model()
    base.name_or_path = "lab/model"
    get_peft_model(base, lora).save_pretrained(folder)


def edit(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


# what is done to the folder of a model, and what the plan says -----------------------------------------------------


def no_config(model: Path) -> None:
    (model / "config.json").unlink()


def broken_config(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "llama",\n')


def unknown_architecture(model: Path) -> None:
    edit(model / "config.json", model_type="lama")


def remote_code(model: Path) -> None:
    edit(model / "config.json", model_type="ours", auto_map={"AutoModelForCausalLM": "modeling.Ours"})


def encoder_decoder(model: Path) -> None:
    T5Config().save_pretrained(model)


def no_causal_model(model: Path) -> None:
    BertConfig(architectures=["BertForMaskedLM"]).save_pretrained(model)
    edit(model / "config.json", model_type="clip")


def impossible_config(model: Path) -> None:
    edit(model / "config.json", num_attention_heads=0)


def is_an_adapter(model: Path) -> None:
    (model / "config.json").rename(model / "adapter_config.json")


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def only_pickled(model: Path) -> None:
    no_weights(model)
    torch.save({}, model / "pytorch_model.bin")


def cut_off(model: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[: len(content) // 2])


def no_safetensors(model: Path) -> None:
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 10) + b"not a json" + b"x" * 20)


def lfs_pointer(model: Path) -> None:
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")


def missing_shard(model: Path) -> None:
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def broken_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text("{}")


def large_vocabulary(model: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"<added_{i}>" for i in range(30)])
    tokenizer.save_pretrained(model)


def no_pad_and_end(model: Path) -> None:
    edit(model / "tokenizer_config.json", pad_token=None, eos_token=None)


def no_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink()


def broken_template(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{% for m in messages %}\n{{ m['content'] }}\n{% endfro %}")


def template_that_refuses(model: Path) -> None:
    text = (
        "{% if messages[0]['role'] == 'user' %}\n{{ raise_exception('a system message must come first') }}{% endif %}"
    )
    (model / "chat_template.jinja").write_text(text)


MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config.json": (no_config, r"finetune_config\.model '.*bad': has no config\.json"),
    "config.json is not JSON": (broken_config, r"config\.json is not JSON at line 2"),
    "unknown architecture": (
        unknown_architecture,
        r"model_type 'lama', which .* does not know\. Did you mean 'llama'\?",
    ),
    "code of its own": (remote_code, r"auto_map: the model 'ours' needs trust_remote_code, which would run code"),
    "encoder-decoder": (encoder_decoder, r"is an encoder-decoder \(t5\); allowed: causal language models"),
    "no causal model": (no_causal_model, r"is no causal language model: .* model_type 'clip' \(BertForMaskedLM\)"),
    "impossible config": (impossible_config, r"config\.json makes no model: integer modulo"),
    "an adapter in the place of a model": (is_an_adapter, r"is an adapter: name it finetune_config\.adapter"),
    "no weights": (no_weights, r"has no weights: no model\.safetensors"),
    "pickled weights alone": (only_pickled, r"pytorch_model\.bin alone, and pickled weights are not read: save"),
    "weights cut off": (cut_off, r"model\.safetensors was cut off: it has [\d,]+ bytes, its header says [\d,]+"),
    "weights are something else": (no_safetensors, r"model\.safetensors is no safetensors file: its header"),
    "pointer of Git LFS": (lfs_pointer, r"is a pointer of Git LFS, the file itself is missing: run `git lfs pull`"),
    "a shard is missing": (missing_shard, r"names 2 files, of which are missing: model-00002-of-00002\.safetensors"),
    "no tokenizer": (no_tokenizer, r"bad': has no tokenizer \(tokenizer\.json, "),
    "broken tokenizer": (broken_tokenizer, r"cannot load the tokenizer of '.*bad'"),
    "tokenizer larger than the embedding": (large_vocabulary, r"tokenizer has ids up to 326, its embedding 300 rows"),
    "neither pad nor end token": (no_pad_and_end, r"has neither a pad nor an end token: add pad_token and eos_token"),
    "no chat template": (
        no_template,
        r"outcome\.jsonl:1: .*has none: give finetune_config\.chat_template",
    ),
    "chat template is no Jinja": (broken_template, r"the chat template cannot be used, line 3: .*endfro"),
    "chat template refuses the rows": (template_that_refuses, r"line 2: a system message must come first"),
}

# settings that the good model does not go with
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "no such directory": ({"model": "./modle"}, r"finetune_config\.model: found './modle'.*no such folder.*'model'\?"),
    "not on the hub, offline": ({"model": "lab/nothing"}, r"'lab/nothing': .*HF_HUB_OFFLINE is set and nothing of it"),
    "target_modules: a typo": (
        {"target_modules": ["q_proj", "v_prj"]},
        r"target_modules: found 'v_prj', which no module .* down_proj, .*Did you mean 'v_proj'\?",
    ),
    "target_modules: a layer of layers": ({"target_modules": ["mlp"]}, r"mlp is a LlamaMLP, .* act_fn, down_proj"),
    "target_modules: no regex": ({"target_modules": ".*(q"}, r"'\.\*\(q': is no regular expression"),
    "rank 0": ({"r": 0}, r"finetune_config\.r: found 0; allowed: a whole number >= 1"),
    "no such layer": ({"representation_layers": [1, 3]}, r"representation_layers: found 3; .* layers 1 to 2"),
    "template: no such file": ({"chat_template": "chatt.jinja"}, r"chat_template: .*no such file.*'chat\.jinja'\?"),
    "template: no Jinja in it": ({"chat_template": "plain.jinja"}, r"plain\.jinja holds no Jinja"),
    "template: a typo": ({"chat_template": "{{ messages[0]['content' }}"}, r"finetune_config\.chat_template: .*line 1"),
    "DoRA and a penalty on A": ({"use_dora": True, "strategy": "orth_penalty"}, r"use_dora also learns magnitudes"),
    "DoRA and Safe LoRA": ({"use_dora": True, "strategy": "safe_lora"}, r"use_dora rescales their sum: leave it out"),
    "DoRA without LoRA": ({"use_dora": True, "is_peft": False}, r"use_dora belongs to LoRA, and is_peft is false"),
    "another model without weights": (
        {"strategy": "safe_lora", "safe_lora_base_model": "./empty"},
        r"finetune_config\.safe_lora_base_model '.*empty': has no config\.json",
    ),
    "DoRA on 8 bits": ({"use_dora": True, "load_in_8bit": True}, r"use_dora does not work with load_in_8bit"),
    "merging 4 bits": ({"load_in_4bit": True, "save_merged": True}, r"save_merged would round the merged weights"),
    "merging tied embeddings": (
        {"target_modules": ["embed_tokens"], "save_merged": True},
        r"save_merged: model\.embed_tokens, of target_modules, is embedding and head in one",
    ),
    "a token in the file": ({"finetuned_model_id": "lab/hf_" + "a" * 30}, r"finetuned_model_id holds a token: take it"),
    "a key for a token": ({"hub_token": "hf_" + "a" * 30}, r"unknown key 'hub_token': .*HF_TOKEN.*environment alone"),
    "no token": ({"push_to_hub": True}, r"finetune_config\.push_to_hub: HF_TOKEN is not set"),
    "no repository's name": (
        {"push_to_hub": True, "finetuned_model_id": "a/b/c"},
        r"'name' or 'owner/name', of letters",
    ),
    "no folder's name": ({"finetuned_model_id": "../elsewhere"}, r"'name' or 'owner/name', of letters"),
}

# what is done to an adapter, further settings, and what the plan says
ADAPTERS: dict[str, tuple[Callable[[Path], None], dict[str, Any], str]] = {
    "not there": (shutil.rmtree, {}, r"finetune_config\.adapter: found '\./adapter'.*no such folder"),
    "no adapter_config.json": (lambda a: (a / "adapter_config.json").unlink(), {}, r"has no adapter_config\.json"),
    "pickled": (
        lambda a: (a / "adapter_model.safetensors").rename(a / "adapter_model.bin"),
        {},
        r"found adapter_model\.bin, and pickled weights are not read",
    ),
    "another kind": (
        lambda a: edit(a / "adapter_config.json", peft_type="IA3"),
        {},
        r"peft_type 'IA3'; allowed: 'LORA'",
    ),
    "with whole layers": (
        lambda a: edit(a / "adapter_config.json", modules_to_save=["lm_head"]),
        {},
        r"has modules_to_save \['lm_head'\], .*merge it into its model",
    ),
    "of a larger model": (
        lambda a: larger(a),
        {},
        r"is not of this model: .*q_proj has 32 inputs, and 64 in the adapter",
    ),
    "of other modules": (lambda a: other(a), {}, r"is not of this model, which has no module '.*c_attn'"),
    "another rank": (lambda a: None, {"r": 8}, r"finetune_config\.r: found 8, but the adapter has 4, and keeps it"),
    "without LoRA": (lambda a: None, {"is_peft": False}, r"adapter belongs to LoRA, and is_peft is false"),
    "with Safe LoRA": (lambda a: None, {"strategy": "safe_lora"}, r"safe_lora trains two of them .*: merge it"),
    "cut off": (lambda a: halve(a / "adapter_model.safetensors"), {}, r"adapter_model\.safetensors was cut off"),
}


def larger(folder: Path) -> None:
    base = make_model()
    config = LlamaConfig(**{**base.config.to_dict(), "hidden_size": 64})
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    get_peft_model(type(base)(config), lora).save_pretrained(folder)


def other(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    save_file({key.replace("q_proj", "c_attn"): value for key, value in load_file(path).items()}, path)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def plan(folder: Path, data: dict[str, str], finetune: dict[str, Any]) -> tuple[int, str]:
    """Exit status and errors of `--dry-run`: no Ray, no weights."""
    finetune = dict(finetune)
    strategy = finetune.pop("strategy", "naive")
    if "representation_layers" in finetune:
        strategy = "representation_constraint"
    remove_rank = {} if "r" in finetune else {"r": None}
    space = write_space(folder, "./model", data, remove_rank | finetune, strategies={strategy: {}}, seeds=[1])
    status, out, err = in_process(space, "--dry-run")
    return status, out + err


@pytest.fixture
def folder(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain.jinja").write_text("hello")
    return tmp_path


def test_the_good_ones_are_planned(folder: Path, data_files: dict[str, str]) -> None:
    for finetune in ({}, {"adapter": "./adapter"}):
        status, said = plan(folder, data_files, finetune)
        notes = [line for line in said.splitlines() if "note: " in line]
        assert status == 0 and not any("model" in note or "adapter" in note for note in notes), said


@pytest.mark.parametrize("kind", MODELS)
def test_bad_model(folder: Path, data_files: dict[str, str], kind: str) -> None:
    spoil, expected = MODELS[kind]
    (folder / "model").rename(folder / "bad")
    spoil(folder / "bad")
    refused(plan(folder, data_files, {"model": "./bad"}), expected)


@pytest.mark.parametrize("kind", SETTINGS)
def test_bad_setting(folder: Path, data_files: dict[str, str], kind: str) -> None:
    finetune, expected = SETTINGS[kind]
    said = refused(plan(folder, data_files, finetune), expected)
    assert "a" * 30 not in said, "a token is not repeated"


@pytest.mark.parametrize("kind", ADAPTERS)
def test_bad_adapter(folder: Path, data_files: dict[str, str], kind: str) -> None:
    spoil, finetune, expected = ADAPTERS[kind]
    spoil(folder / "adapter")
    refused(plan(folder, data_files, {"adapter": "./adapter"} | finetune), expected)


def refused(planned: tuple[int, str], expected: str) -> str:
    status, said = planned
    assert status == 2, said
    assert re.search(expected, said), said
    assert "Traceback" not in said
    return said


def test_rows_without_messages_need_no_template(folder: Path) -> None:
    (folder / "model" / "chat_template.jinja").unlink()
    data = {"outcome": write_jsonl(folder / "outcome.jsonl", TEXT_ROW)}
    status, said = plan(folder, data, {"train_split": 1.0})
    assert status == 0, said


def test_an_adapter_of_a_model_with_another_name_is_told(folder: Path, data_files: dict[str, str]) -> None:
    edit(folder / "adapter" / "adapter_config.json", base_model_name_or_path="lab/other-7B")
    status, said = plan(folder, data_files, {"adapter": "./adapter"})
    assert status == 0
    assert "note: finetune_config.adapter" in said and "says it is of 'lab/other-7B'" in said
