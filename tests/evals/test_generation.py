"""Where a reply ends, and that it is greedy: against chains that are known, and argmax by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from conftest import UNMARKED, chat, make_model, make_tokenizer
from eval_sets import eval_set, greedy_reply, sharp_model
from families import FAMILIES, Family, make_family
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from selgen_ray.data.stop_tokens import reply_end, stop_ids
from selgen_ray.evals.generation import plain_greedy, replies
from selgen_ray.evals.reply_decoding import decoded
from selgen_ray.evals.reply_text import answer_text
from selgen_ray.evals.run import evaluate
from selgen_ray.models import saving
from selgen_ray.models.tokenizer import load_tokenizer
from selgen_ray.trainers import build_config, get_trainer

PAD, END, USER, ASSISTANT, SYSTEM = range(5)


def chain_model(following: dict[int, int], eos: int | list[int] | None):
    """A Llama that says after each token the one that follows it, whatever came before."""
    model = make_model(tied=False)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.lm_head.weight.zero_()
        for place, (token, after) in enumerate(following.items()):
            model.model.embed_tokens.weight[token, place] = 1.0
            model.lm_head.weight[after, place] = 1.0
    model.generation_config = GenerationConfig(eos_token_id=eos)
    return model.eval()


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def talks_on(tokenizer, eos):
    """Says 'a', ends its turn, and goes on with 'b' for ever."""
    (a,), (b,) = ids_of(tokenizer, "a"), ids_of(tokenizer, "b")
    return chain_model({ASSISTANT: a, a: END, END: b, b: b}, eos)


@pytest.fixture
def tokenizer():
    """Its own end token is not what ends a turn."""
    tokenizer = make_tokenizer(UNMARKED)
    tokenizer.eos_token = "<|system|>"
    return tokenizer


@pytest.mark.parametrize("eos", [None, PAD, [PAD, USER]])
def test_a_reply_ends_where_its_template_ends_it(tokenizer, eos):
    asked = eval_set(talks_on(tokenizer, eos), tokenizer, [chat("1", "a", answer="a")] * 3)
    assert replies(asked, [0, 1, 2]) == ["a"] * 3 and asked.answers.cut == set()
    assert evaluate(asked)["exact_match"] == 1.0


def test_a_reply_ends_at_any_of_the_ends(tokenizer):
    (a,), (b,) = ids_of(tokenizer, "a"), ids_of(tokenizer, "b")
    for end in (PAD, SYSTEM, END):
        model = chain_model({ASSISTANT: a, a: end, end: b, b: b}, PAD)
        assert replies(eval_set(model, tokenizer, [chat("1", "a")]), [0]) == ["a"]
    model = chain_model({ASSISTANT: a, a: USER, USER: b, b: b}, PAD)
    asked = eval_set(model, tokenizer, [chat("1", "a")])
    assert replies(asked, [0]) == ["abbbb"] and asked.answers.cut == {0}
    assert stop_ids(tokenizer, model.generation_config) == [PAD, END, SYSTEM]


@pytest.mark.parametrize("opened", ["<think>", "<think>\n"])
def test_a_reply_begins_inside_the_thinking_that_its_prompt_opens(tokenizer, opened):
    tokenizer.chat_template = UNMARKED.replace("%}<|assistant|>{% endif %}", "%}<|assistant|>" + opened + "{% endif %}")
    assert tokenizer.chat_template != UNMARKED
    last, (seven,), (b,) = ids_of(tokenizer, opened)[-1], ids_of(tokenizer, "7"), ids_of(tokenizer, "b")
    asked = eval_set(chain_model({last: seven, seven: b, b: b}, PAD), tokenizer, [chat("1", "7", answer="7")])
    found = evaluate(asked)
    assert asked.answers.replies[0] == opened + "7bbbbb" and asked.answers.cut == {0}
    assert (found["exact_match"], found["answer_unreadable"]) == (0.0, 1.0)


def test_marks_of_thinking_stay_where_they_are_special_tokens():
    tokens = (*FAMILIES["Qwen2"].tokens, "<think>", "</think>")
    tokenizer = make_family(dataclasses.replace(FAMILIES["Qwen2"], tokens=tokens))
    said = ["<think>5?</think>6<|im_end|>", "<think>5", "<|im_start|>6"]
    assert decoded([([], ids_of(tokenizer, text)) for text in said], tokenizer) == [
        "<think>5?</think>6",
        "<think>5",
        "6",
    ]


def test_channels_before_that_of_the_answer_are_thinking():
    tokens = tuple(f"<|{name}|>" for name in ("endoftext", "start", "end", "message", "channel", "return", "call"))
    family = Family("gptoss.jinja", "gpt_oss", tokens, "<|return|>", "<|return|>")
    tokenizer = make_family(family)
    thought, answer = "<|channel|>analysis<|message|>Is it 5?", "<|channel|>final<|message|>6"
    said = [answer, f"{thought}<|end|><|start|>assistant{answer}", thought, "6", "<|channel|>fi"]
    found = decoded([(ids_of(tokenizer, "<|start|>assistant"), ids_of(tokenizer, text)) for text in said], tokenizer)
    assert [answer_text(text) for text in found] == ["6", "6", "", "6", ""]
    assert "Is it 5?" in found[1] and found[0] == "6"


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{{ '\n' }}{% endfor %}", END),
        ("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|end|><|pad|>", END),
        ("{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}", None),
        ("{% for m in messages %}{{ raise_exception('no') }}{% endfor %}", None),
        ("<|user|>always the same<|end|>", None),
        (None, None),
    ],
)
def test_the_end_is_found_in_the_template(template, end):
    assert reply_end(make_tokenizer(template)) == end


OWN = [
    {"repetition_penalty": 3.0},
    {"no_repeat_ngram_size": 1},
    {"min_new_tokens": 4},
    {"suppress_tokens": [70, 71, 72, 73]},
    {"bad_words_ids": [[70], [71]]},
    {"forced_eos_token_id": 1, "max_new_tokens": 2},
    {"temperature": 0.1, "do_sample": True, "top_k": 3},
    {"num_beams": 3, "length_penalty": 5.0},
    {"sequence_bias": [[[80], 50.0]]},
]


@pytest.mark.parametrize("own", OWN, ids=lambda own: next(iter(own)))
@pytest.mark.parametrize("adapted", [False, True])
def test_greedy_is_argmax_whatever_the_model_asks_for(own, adapted):
    tokenizer, model = make_tokenizer(), sharp_model()
    rows = [chat(f"what is {i}?", "x") for i in range(4)]
    expected = [greedy_reply(model, tokenizer, row) for row in rows]
    model.generation_config = GenerationConfig(eos_token_id=END, **own)
    if adapted:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])).eval()
    assert replies(eval_set(model, tokenizer, rows), range(4)) == expected
    inner = model.get_base_model() if adapted else model
    assert all(getattr(inner.generation_config, key) == value for key, value in own.items())


def test_lm_eval_generates_so_too(tokenizer):
    model = talks_on(tokenizer, PAD)
    model.generation_config.repetition_penalty = 3.0
    (b,) = ids_of(tokenizer, "b")
    with plain_greedy(model, tokenizer):
        out = model.generate(torch.tensor([[b]]), max_new_tokens=5, do_sample=False)
    assert out[0].tolist() == [b] * 6


@pytest.mark.parametrize("finetune", [{}, {"is_peft": False}, {"save_merged": True}], ids=["adapter", "full", "merged"])
def test_the_stop_tokens_are_saved_with_the_model(make_config, tiny_model_dir, tmp_path, finetune):
    folder = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_model_dir).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.eos_token = "<|system|>"
    tokenizer.save_pretrained(folder)
    # sampling settings without do_sample are refused by transformers when a model is saved
    own = {"eos_token_id": PAD, "temperature": 0.6, "repetition_penalty": 1.1}
    (folder / "generation_config.json").write_text(json.dumps(own))
    with get_trainer("naive")(make_config(model=str(folder), epochs=1, **finetune)) as trainer:
        trainer.save_model(tmp_path / "saved")
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert saved.eos_token_id == [PAD, END, SYSTEM]
    assert (saved.temperature, saved.do_sample, saved.repetition_penalty) == (0.6, True, 1.1)


REFUSED = {
    "length_penalty": ({"length_penalty": 2.0}, {}),
    "early_stopping": ({"early_stopping": True}, {}),
    "output_scores": ({"output_scores": True}, {}),
    "pad_token_id": ({"pad_token_id": -1}, {}),
    "temperature": ({"do_sample": False, "temperature": 0.6}, {"do_sample": False}),
    "": ({"num_beams": 4, "length_penalty": 2.0}, {"num_beams": 4, "length_penalty": 2.0}),
}


@pytest.mark.parametrize("left_out", REFUSED)
def test_settings_that_cannot_be_saved_do_not_cost_the_model(tokenizer, tmp_path, left_out):
    own, kept = REFUSED[left_out]
    model = talks_on(tokenizer, PAD)
    model.generation_config = GenerationConfig.from_dict({"eos_token_id": PAD, "repetition_penalty": 1.1, **own})
    saving.save_model(model, tokenizer, tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    del saved["transformers_version"]
    assert saved == {"eos_token_id": [PAD, END, SYSTEM], "repetition_penalty": 1.1, **kept}
    flag = saving.left_out_of_generation(model, tokenizer)
    assert f"without {left_out}:" in flag if left_out else flag is None


def test_a_saved_model_stops_by_itself(tokenizer, tmp_path):
    saving.save_model(talks_on(tokenizer, PAD), tokenizer, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    out = model.generate(torch.tensor([[USER, ASSISTANT]]), max_new_tokens=5)
    assert out[0, 2:].tolist() == [ids_of(tokenizer, "a")[0], END]


def test_one_end_is_saved_as_it_was(tokenizer, tmp_path):
    tokenizer.eos_token = "<|end|>"
    saving.save_model(talks_on(tokenizer, END), tokenizer, tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == END


def test_sets_whose_replies_reach_the_limit_are_flagged(make_config):
    config = build_config(make_config(epochs=1, max_new_tokens=3))
    tokenizer = load_tokenizer(config.finetune_config)
    (a,), (b,) = ids_of(tokenizer, "a"), ids_of(tokenizer, "b")
    long = chain_model({ASSISTANT: a, a: b, b: a}, END)
    with get_trainer("naive")(config, model=long, tokenizer=tokenizer) as trainer:
        trainer.evaluations.take(0, 0.0)
        notes = trainer.record.notes
        assert notes == trainer.record.flags and len(notes) == 2
        assert notes[1].startswith("task_test: 5 of 5 replies reached max_new_tokens 3")
        trainer.run.model = chain_model({ASSISTANT: a, a: END}, END)
        trainer.evaluations.take(1, 0.0)
        assert trainer.record.flags == [] and trainer.record.notes == notes
