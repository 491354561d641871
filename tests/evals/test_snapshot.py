"""Log-probabilities and replies of a snapshot, against one sequence at a time, without padding, joining or cache."""

from __future__ import annotations

import random

import pytest
import torch
from conftest import chat, make_model, make_tokenizer
from eval_sets import eval_set
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from selgen_ray.data.encode import Encoded
from selgen_ray.data.streams import BatchLimits
from selgen_ray.data.trees import grow
from selgen_ray.evals import decoding
from selgen_ray.evals.run import evaluate
from selgen_ray.evals.snapshot import Snapshot
from selgen_ray.models import forward

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 128,
}
MODELS = {
    "llama": {},
    "qwen2": {},
    "qwen2 window": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gemma": {},
    "gemma2": {"sliding_window": 5},
    "gemma3_text": {"sliding_window": 5, "sliding_window_pattern": 2},
    "mistral": {"sliding_window": 5},
    "mixtral": {"sliding_window": 5, "num_local_experts": 4},
    "phi3": {"sliding_window": 5},
    "cohere": {},
    "olmo2": {},
    "granite": {},
    "smollm3": {"use_sliding_window": True, "sliding_window": 5, "no_rope_layers": [0, 1, 0]},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": True},  # not known: nothing is joined
}


def random_model(name: str, attention: str = "sdpa"):
    """A random model in float64, sure enough of itself that a wrong mask or position shows."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.split()[0], **(SIZES | MODELS[name]))
    config._attn_implementation = "eager" if name == "gemma2" else attention
    config._experts_implementation = "eager"  # the others have no float64
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return model.requires_grad_(False)


def adapted(model):
    """The same with a LoRA adapter that changes it."""
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, target_modules="all-linear"))
    model.double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    return model.eval()


def rounding(model) -> float:
    """Of a sum of log-probabilities: eager attention has its softmax in float32, whatever the model has."""
    return 1e-10 if model.config._attn_implementation == "sdpa" else 1e-6


def sequences() -> list[Encoded]:
    """Prompts of several lengths with several replies each, some of which begin alike; and texts scored as a whole."""
    draw = random.Random(3)
    made = []
    for length in (1, 9, 14):
        prompt = [draw.randrange(3, 60) for _ in range(length)]
        begin = [draw.randrange(3, 60), draw.randrange(3, 60)]
        replies = [[*begin, 7], [*begin, 8, 9, 10], begin, [11], [12, 13]]
        made += [Encoded(prompt + reply, [False] * length + [True] * len(reply)) for reply in replies]
    made += [Encoded(made[-1].ids, [False] + [True] * (len(made[-1]) - 1)), made[3]]
    return made


def one_by_one(model, rows: list[Encoded]) -> list[float]:
    """Plain torch: the log-probability of each scored token, of one sequence at a time."""
    sums = []
    for row in rows:
        with torch.no_grad():
            log_p = torch.log_softmax(model(input_ids=torch.tensor([row.ids])).logits[0].double(), dim=-1)
        sums.append(sum(float(log_p[t - 1, row.ids[t]]) for t in range(len(row)) if row.is_reply[t]))
    return sums


def continuation(model, prompt: list[int], length: int) -> list[int]:
    """Plain torch: the most likely token, one by one, without a cache."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(length):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_single_sequences(name):
    model, rows = random_model(name), sequences()
    joined = grow(rows, join=forward.takes_trees(model))
    assert (len(joined) < len(rows) / 2) == (name != "opt")
    plain = pytest.approx(one_by_one(model, rows), rel=rounding(model))
    for limits in (BatchLimits(), BatchLimits(rows=2, tokens=60)):
        assert Snapshot(model).log_probs(rows, 0, limits) == plain


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_moe", "gpt2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_scores_of_an_adapted_model(name, attention):
    model, rows = adapted(random_model(name, attention)), sequences()
    plain = one_by_one(model, rows)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert Snapshot(model).log_probs(rows, 0, BatchLimits()) == pytest.approx(plain, rel=rounding(model))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert one_by_one(model, rows) == plain
    with forward.adapter_off(model):
        base = one_by_one(model, rows)
        assert Snapshot(model).log_probs(rows, 0, BatchLimits()) == pytest.approx(base, rel=rounding(model))
    assert base != pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_replies_are_greedy_while_others_end(name):
    model = random_model(name)
    assert decoding.is_plain(model) == (name not in ("opt", "phi3"))
    if not decoding.is_plain(model):
        return
    if name == "gemma2":  # in float64 the lowest number is -inf for its softmax in float32, and a padded row NaN
        model.float()
    prompts = [sequences()[number].ids[:length] for number, length in ((0, 1), (6, 9), (7, 4), (12, 11), (13, 15))]
    whole = [continuation(model, prompt, 7) for prompt in prompts]
    stops = {whole[0][0], whole[1][1], whole[2][3]}  # so that replies end here and there
    cut = [next((reply[: i + 1] for i, token in enumerate(reply) if token in stops), reply) for reply in whole]
    assert len({*map(len, cut)}) > 1 or name == "gpt2"  # it repeats one token
    assert decoding.generated_ids(model, prompts, 0, stops, 7, decoding.Choice([None] * len(prompts), 7)) == cut


def tokens_run(model, monkeypatch) -> list[int]:
    """Gets the number of tokens of each pass of the model."""
    sizes = []
    hook = lambda _, inputs: sizes.append(inputs[0].numel())  # noqa: E731
    monkeypatch.setattr(model.model.embed_tokens, "_forward_pre_hooks", {0: hook})
    return sizes


def test_a_sequence_is_scored_once_whoever_asks(monkeypatch):
    tokenizer, model = make_tokenizer(), make_model().eval()
    prompt = "which of the two is it, in one word please?"
    rows = [chat(f"{prompt} {i}", "yes", choices=["yes", "no"], answer="yes", rejected="no") for i in range(3)]
    asked = eval_set(model, tokenizer, rows)
    sizes = tokens_run(model, monkeypatch)
    values = evaluate(asked)
    assert {"loss", "choice_accuracy", "preference_margin"} <= values.keys() and len(sizes) == 1
    assert sum(sizes) < 1.3 * sum(len(row) for row in asked.encoded)
    again = eval_set(model, tokenizer, rows[:2])
    object.__setattr__(again, "snapshot", asked.snapshot)
    assert evaluate(again)["choice_accuracy"] == values["choice_accuracy"] and len(sizes) == 1


def test_half_precision_keeps_base_and_adapter_apart():
    model = adapted(random_model("llama")).to(torch.bfloat16)
    snapshot = Snapshot(model)
    assert snapshot._merged._layers == []
    plain = one_by_one(model, sequences())
    assert snapshot.log_probs(sequences(), 0, BatchLimits()) == pytest.approx(plain, rel=0.05, abs=0.5)


def test_batches_hold_as_many_tokens_as_they_may():
    lengths = [5, 1, 9, 3, 3]
    assert BatchLimits(tokens=10).batches(lengths) == [[2], [0, 3], [4, 1]]
    assert BatchLimits(rows=1, tokens=10).batches(lengths) == [[2], [0], [3], [4], [1]]
    assert BatchLimits(tokens=2).batches(lengths) == [[2], [0], [3], [4], [1]]
    assert BatchLimits(cached_tokens=45).batches(lengths, cached=True) == [[2, 0, 3, 4, 1]]
    assert BatchLimits().batches([]) == []
