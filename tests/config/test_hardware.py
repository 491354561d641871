"""Mixed hardware: each setting works as it says, or is refused where it was written."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.config.hardware import Device, cuda_only, hardware_problems, this_device
from selgen_ray.errors import ModelError, SpecError
from selgen_ray.models import loading
from selgen_ray.space import load_space
from selgen_ray.storage import Folder
from selgen_ray.trainers import build_config, get_trainer
from selgen_ray.trainers.engine.checkpoints import Checkpoints
from selgen_ray.trainers.engine.loop import fit
from selgen_ray.trainers.engine.phases import Phase
from selgen_ray.trainers.identity import trial_id

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def trainer_of(config: dict[str, Any], **more: Any) -> Any:
    return get_trainer(config["proxy_strategy"])(config, **more)


def gradients(trainer: Any, *terms: tuple[float, str]) -> dict[str, dict[str, torch.Tensor]]:
    """Gradients by slot of one step of (weight, slot) terms of the outcome; no weight moves."""
    taken: dict[str, dict[str, torch.Tensor]] = {}

    def take(by_slot, step):
        taken.update({slot: {n: g.clone() for n, g in grads.items()} for slot, grads in by_slot.items()})
        return {}

    of_loop = [trainer.cross_entropy_term("outcome", weight, slot) for weight, slot in terms]
    phase = Phase(trainer.run, trainer.micro_batch, "train", of_loop, epochs=1, max_steps=1, transform_gradients=take)
    fit(phase.job, phase.start(None), lambda _: None)
    return taken


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """|a - b| / |b| of two gradients."""
    assert a.keys() == b.keys()
    difference = sum((a[n].double() - b[n].double()).square().sum() for n in b)
    return float((difference / sum(g.double().square().sum() for g in b.values())).sqrt())  # type: ignore[union-attr]


def fill_lora(trainer: Any) -> None:
    """Give B values, so that A has a gradient too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in trainer.parameters.items():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


# what is refused in the search space ----------------------------------------------------------------------

BASE = "name: x\nbase:\n  finetune_config:\n    "  # the next key is in line 4
REFUSED = [
    ("dtype: auto", 4, "dtype", ["found 'auto'", "float32, bfloat16, float16"]),
    ("dtype: float16\n    is_peft: false", 5, "is_peft", ["would train float16 weights", "dtype float32", "is_peft"]),
    ("is_peft: false\n    dtype: bfloat16", 5, "dtype", ["would train bfloat16 weights", "dtype float32", "is_peft"]),
    ("lora_bias: all\n    dtype: bfloat16", 5, "dtype", ["bfloat16 biases", "lora_bias none"]),
    ("device_map: auto", 4, "device_map", ["one device", "load_in_4bit", "strategy: fsdp"]),
    ("device_map: {model: 0, lm_head: 1}", 4, "device_map", ["a mapping (model, lm_head)", "one device"]),
    ("device_map: true", 4, "device_map", ["found true", "one device"]),
    ("attn_implementation: flash_attn", 4, "attn_implementation", ["eager, sdpa", "flash_attention_2"]),
    ("attn_implementation: flash_attention_2", 4, "attn_implementation", ["needs dtype bfloat16 or float16"]),
    (
        "dtype: bfloat16\n    attn_implementation: flash_attention_2\nresources: {gpus: 0}",
        5,
        "attn_implementation",
        ["needs a CUDA device", "resources.gpus is 0"],
    ),
    ("is_peft: false\n    load_in_8bit: true", 4, "is_peft", ["set is_peft: true"]),
    (
        "load_in_4bit: true\n    safe_lora_base_model: toy\nstrategies: {safe_lora: {}}",
        5,
        "safe_lora_base_model",
        ["load_in_4bit rounds"],
    ),
]


@pytest.mark.parametrize(("text", "line", "key", "says"), REFUSED, ids=[case[0].split("\n")[0] for case in REFUSED])
def test_what_cannot_work_is_refused_where_it_was_written(tmp_path: Path, text, line, key, says):
    path = tmp_path / "space.yaml"
    path.write_text(BASE + text + "\n")
    with pytest.raises(SpecError) as caught:
        load_space(str(path))
    found = {(p.file, p.line, p.key): p.message for p in caught.value.problems}
    message = found[(str(path), line, f"base.finetune_config.{key}")]
    assert len(found) == 1 and all(part in message for part in says), message


def test_a_null_device_map_says_nothing(tmp_path: Path):
    path = tmp_path / "space.yaml"
    path.write_text(BASE + "device_map: null\n")
    assert len(load_space(str(path)).trials) == 1


# what a device lacks --------------------------------------------------------------------------------------

ALL = {"bitsandbytes": "0.50.2", "flash-attn": "2.8.3", "flash-attn-3": "3.0.0"}
CPU, T4, A100 = Device(False, None, ALL), Device(True, (7, 5), ALL), Device(True, (8, 0), ALL)
FLASH = {"attn_implementation": "flash_attention_2", "dtype": "float16"}
LACKS = [
    ({"dtype": "bfloat16"}, T4, "capability 8.0, this one has 7.5: use float16"),
    ({"dtype": "bfloat16"}, A100, None),
    ({"dtype": "bfloat16"}, CPU, None),
    ({"dtype": "float16"}, T4, None),
    (FLASH, CPU, "CUDA GPU only"),
    (FLASH, T4, "capability 8.0"),
    (FLASH, A100, None),
    (FLASH, Device(True, (8, 0), {}), "pip install flash-attn,"),
    (FLASH | {"attn_implementation": "flash_attention_3"}, Device(True, (9, 0), {}), "pip install flash-attn-3"),
    ({"load_in_4bit": True}, CPU, None),
    ({"load_in_4bit": True}, Device(True, (8, 0), {}), "pip install bitsandbytes"),
    ({"load_in_4bit": True}, Device(False, None, {"bitsandbytes": "0.9.1"}), "bitsandbytes 0.48, found 0.9.1"),
    ({"load_in_8bit": True}, Device(True, (7, 0), ALL), "capability 7.5"),
    ({"optim": "adamw_8bit"}, CPU, None),
    ({"optim": "paged_adamw_8bit"}, CPU, "CUDA GPU only"),
    ({"optim": "paged_adamw_8bit"}, T4, None),
]


@pytest.mark.parametrize(("settings", "device", "says"), LACKS, ids=[f"{i}" for i in range(len(LACKS))])
def test_what_a_device_lacks_is_said_with_its_key(settings, device, says):
    found = hardware_problems(FinetuneConfig(**settings), device)
    if says is None:
        assert found == []
    else:
        (text,) = found
        assert says in text
        assert text.split()[0] in {f"finetune_config.{key}" for key in settings}


def test_what_is_not_known_of_a_device_is_no_problem():
    asks = FinetuneConfig(optim="paged_adamw_8bit", load_in_4bit=True, **FLASH)
    assert hardware_problems(asks, Device(cuda=True)) == []
    assert len(hardware_problems(asks, Device(cuda=False))) == 2
    assert cuda_only(asks) == ["optim", "attn_implementation"]


def test_this_process_knows_its_device():
    device = this_device()
    assert device.cuda == torch.cuda.is_available() == (device.capability is not None)
    assert ("bitsandbytes" in (device.packages or {})) == (importlib.util.find_spec("bitsandbytes") is not None)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_a_worker_refuses_before_it_loads(make_config):
    config = make_config(dtype="bfloat16", attn_implementation="flash_attention_2", model="nobody/nothing")
    context = loading.trainable_model(build_config(config).finetune_config, 1, "cpu")
    with pytest.raises(ModelError, match="flash_attention_2"), context:
        pass


# half precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lora_on_a_half_precision_base_is_float32_and_trains_like_it(make_config, dtype):
    results = {}
    for kind in ("float32", dtype):
        with trainer_of(make_config("kl_divergence", beta_kl=1.0, dtype=kind)) as trainer:
            assert {p.dtype for p in trainer.parameters.values()} == {torch.float32}
            frozen = {p.dtype for p in trainer.model.parameters() if not p.requires_grad}
            assert frozen == {getattr(torch, kind)}
            record = trainer.train()
            results[kind] = record.eval_results["task_test"]["loss"]
    start, end = results["float32"][0], results["float32"][-1]
    assert abs(end - start) > 0.1  # it learnt something
    assert results[dtype] == pytest.approx(results["float32"], abs=0.2 * abs(end - start))


def test_float16_keeps_the_gradient_of_a_small_weight(make_config):
    with trainer_of(make_config()) as trainer:
        fill_lora(trainer)
        exact = gradients(trainer, (1.0, "main"))["main"]
    with trainer_of(make_config(dtype="float16")) as trainer:
        fill_lora(trainer)
        # terms of different scales share a slot, and the last one alone must not decide it
        found = gradients(trainer, (1.0, "main"), (1e-8, "main"), (1e-8, "small"), (-2e-8, "negative"))
    assert distance(found["main"], exact) < 0.02
    assert distance({n: g * 1e8 for n, g in found["small"].items()}, exact) < 0.02
    assert distance({n: g * -5e7 for n, g in found["negative"].items()}, exact) < 0.02


def unbroken_and_resumed(config: dict[str, Any], place: Path) -> list[dict[str, torch.Tensor]]:
    """The weights of a run, and of one that goes on from the checkpoint it left in the middle."""
    ends = []
    for _ in range(2):  # the second one finds the first one's checkpoint
        with trainer_of(config, checkpoints=Checkpoints(Folder(str(place)), keep=1)) as trainer:
            trainer.train()
            assert trainer.run.num_resumes == len(ends)
            ends.append({n: p.detach().clone() for n, p in trainer.parameters.items()})
    return ends


def test_a_resumed_float16_run_is_the_same(make_config, tmp_path):
    first, second = unbroken_and_resumed(make_config(dtype="float16", save_steps=4, max_steps=6), tmp_path)
    assert all(torch.equal(first[n], second[n]) for n in first)


# attention ------------------------------------------------------------------------------------------------


def test_attention_is_as_asked_for_and_part_of_the_identity(make_config):
    found = {}
    for attention in (None, "sdpa", "eager"):
        config = make_config(**({"attn_implementation": attention} if attention else {}))
        with trainer_of(config) as trainer:  # one base a process: another attention loads another
            fill_lora(trainer)
            name = trainer.model.config._attn_implementation
            found[attention] = (name, gradients(trainer, (1.0, "main"))["main"], id_of(config))
    assert [name for name, *_ in found.values()] == ["sdpa", "sdpa", "eager"]
    assert distance(found["eager"][1], found["sdpa"][1]) < 1e-5
    assert len({identity for *_, identity in found.values()}) == 3


def id_of(config: dict[str, Any]) -> str:
    return trial_id(build_config(config), dict.fromkeys(config["data"], "hash"), "model")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"attn_implementation": "sdpa"}, "does not support an attention implementation"),
        ({"use_gradient_checkpointing": True}, "use_gradient_checkpointing: OpenAIGPTLMHeadModel does not support"),
        ({"use_gradient_checkpointing": True, "is_peft": False}, "use_gradient_checkpointing: OpenAIGPTLMHeadModel"),
    ],
)
def test_what_the_model_lacks_is_named(tmp_path, setting, says):
    OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=9, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    cfg = FinetuneConfig(model=str(tmp_path), **setting)
    with pytest.raises(ModelError, match=says), loading.trainable_model(cfg, 1, "cpu"):
        pass


# gradient checkpointing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "finetune"),
    [
        ("naive", {}),
        ("naive", {"is_peft": False}),
        ("naive", {"dtype": "bfloat16", "lora_dropout": 0.2}),
        ("representation_constraint", {}),
        ("dpo", {}),
    ],
    ids=["lora", "full", "bfloat16 and dropout", "hidden states", "dpo"],
)
def test_checkpointing_keeps_the_gradients_and_less_memory(make_config, strategy, finetune):
    ends, kept = [], []
    for on in (False, True):
        config = make_config(strategy, use_gradient_checkpointing=on, max_steps=3, **finetune)
        with trainer_of(config) as trainer:
            trainer.prepare()
            batch = trainer.micro_batch("outcome", [0, 1, 2, 3])
            trainer.model.train()
            kept.append(kept_bytes(lambda t=trainer, b=batch: t.scored_logits(b).sum()))
            trainer.train()
            ends.append({n: p.detach().clone() for n, p in trainer.parameters.items()})
    assert all(torch.allclose(ends[0][n], ends[1][n], atol=1e-5) for n in ends[0])
    assert kept[1] < kept[0] / 2


def kept_bytes(compute: Any) -> int:
    """Bytes that autograd keeps for the backward pass, each storage counted once; weights do not count."""
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute()
    return sum(sizes.values())


@pytest.mark.parametrize("is_peft", [True, False])
def test_checkpointing_leaves_generation_its_cache_and_the_base_as_it_was(make_config, tmp_path, monkeypatch, is_peft):
    base = make_model().requires_grad_(False)
    monkeypatch.setattr("selgen_ray.models.loading._load_base", lambda _: base)
    widths = []
    with trainer_of(make_config(use_gradient_checkpointing=True, is_peft=is_peft, max_steps=1)) as trainer:
        trainer.train()
        hook = trainer.model.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: widths.append(output.shape[1])
        )
        trainer.evaluate()
        hook.remove()
        trainer.save_model(tmp_path)
    assert 1 in widths  # a token at a time, the rest of the row is in the cache
    if not is_peft:
        assert json.loads((tmp_path / "config.json").read_text())["use_cache"] is True
    assert base.config.use_cache
    assert not base.is_activation_checkpointing and not base.get_input_embeddings()._forward_hooks


# bitsandbytes ---------------------------------------------------------------------------------------------


@needs_bitsandbytes
@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_lora_on_a_quantised_base_has_the_gradient_of_what_it_stands_for(make_config, bits):
    """Also after an evaluation, which may repack the weights, and on the base as the next trial gets it."""
    from peft.utils.integrations import dequantize_module_weight

    config = make_config("naive", **{bits: True}, model="toy")
    with trainer_of(config) as trainer:
        trainer.evaluate()
    with trainer_of(config) as trainer:
        fill_lora(trainer)
        assert {p.dtype for p in trainer.parameters.values()} == {torch.float32}
        trainer.evaluate()
        found = gradients(trainer, (1.0, "main"))["main"]
        modules = {n: m.base_layer for n, m in trainer.model.named_modules() if hasattr(m, "lora_A")}
        assert all(not module.weight.is_floating_point() for module in modules.values())
        dense = {name: dequantize_module_weight(module).float() for name, module in modules.items()}
    with trainer_of(make_config("naive", model="toy")) as trainer, torch.no_grad():
        fill_lora(trainer)
        for name, weight in dense.items():
            trainer.model.get_submodule(name).base_layer.weight.copy_(weight)
        with torch.enable_grad():
            exact = gradients(trainer, (1.0, "main"))["main"]
    loading._load_base.cache_clear()  # its weights were changed
    assert distance(found, exact) < (1e-4 if bits == "load_in_4bit" else 0.05)  # the 8-bit one rounds activations too


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_a_trial_on_a_quantised_base_runs(make_config, tmp_path, bits, dtype):
    quantised = {bits: True, "dtype": dtype, "use_gradient_checkpointing": True, "max_steps": 4}
    with trainer_of(make_config("kl_divergence", beta_kl=1.0, **quantised)) as trainer:
        record = trainer.train()
        trainer.save_model(tmp_path)
    losses = record.eval_results["task_test"]["loss"]
    assert losses[-1] < losses[0]
    assert (tmp_path / "adapter_model.safetensors").exists()


@needs_bitsandbytes
def test_safe_lora_projects_on_a_quantised_base(make_config, tmp_path):
    config = make_config("safe_lora", load_in_4bit=True, dtype="bfloat16", safe_lora_threshold=1.0, max_steps=3)
    with trainer_of(config) as trainer:
        record = trainer.train()
        trainer.save_model(tmp_path)
    assert record.eval_versions[-1] == "projected"
    assert (tmp_path / "adapter_model.safetensors").exists()


@needs_bitsandbytes
def test_eight_bit_adamw_trains_and_resumes(make_config, tmp_path):
    # states of less than 4096 numbers are not quantised: the MLP's matrices need a rank of 64
    settings = {"r": 64, "save_steps": 4, "max_steps": 6}
    first, second = unbroken_and_resumed(make_config(optim="adamw_8bit", **settings), tmp_path / "8bit")
    assert all(torch.equal(first[n], second[n]) for n in first)
    plain, _ = unbroken_and_resumed(make_config(**settings), tmp_path / "32bit")
    assert any(not torch.equal(plain[n], first[n]) for n in plain)
    assert all(torch.allclose(plain[n], first[n], atol=5e-3) for n in plain)
