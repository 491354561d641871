"""Families, tokenizers and forms of rows: each has the right tokens, and where TRL gives an answer, TRL's tokens."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import chat, write_jsonl
from datasets import Dataset
from families import FAMILIES, make_family
from transformers import AutoConfig, AutoModelForCausalLM
from trl import DPOTrainer, SFTTrainer
from trl.chat_template_utils import get_training_chat_template

from selgen_ray.data.asking import asks_as_in_rows
from selgen_ray.data.chat_format import DATE, set_chat_template_kwargs
from selgen_ray.data.encode import collate, encode_prompt, encode_row, replace_reply
from selgen_ray.data.tokens import RowEncoder
from selgen_ray.driver.preflight import check_data
from selgen_ray.driver.token_plan import PlannedTokens
from selgen_ray.errors import DataError, SpecError
from selgen_ray.models.forward import scored_logits
from selgen_ray.models.log_probs import cross_entropy
from selgen_ray.space import load_space
from selgen_ray.trainers import build_config
from selgen_ray.trainers.identity import trial_id

LINES = (("Ċ", "Ċ"), ("ĊĊ", "Ċ"))
CONVENTIONS = {
    "as published": lambda f: {},
    "adds a begin": lambda f: {"before": [f.bos or f.tokens[0]]},
    "adds an end": lambda f: {"after": [f.eos]},
    "adds both": lambda f: {"before": [f.bos or f.tokens[0]], "after": [f.eos]},
    "pad is end": lambda f: {"pad": f.eos},
    "no pad": lambda f: {"pad": None},
    "joins line breaks": lambda f: {"merges": LINES},
    "trims offsets": lambda f: {"trim_offsets": True, "merges": LINES},
}
SYSTEM = {"role": "system", "content": "Be terse."}
ROWS = {
    "one turn": chat("What is 2+2?", "It is 4."),
    "turns": {"messages": chat("Hi", "Yo")["messages"] + chat("And é?", "d")["messages"]},
    "line breaks": chat("Hi\n\n", "\n\nx\ny"),
    "system": {"messages": [SYSTEM, *chat("Hi", "Yo")["messages"]]},
    "pair": {"prompt": "Q: 2?\nA:", "completion": " 4"},
    "text": {"text": "Once upon a time."},
    "preference": chat("Is 4 odd?", "No.", rejected="You are right."),
}
STRIPPED = ("Llama 3", "Llama 3.2", "Gemma 2", "Gemma 3", "Cohere", "Mistral")  # their templates strip a reply
MATRIX = [(family, convention) for family in FAMILIES for convention in CONVENTIONS]


def scored(encoded, tokenizer):
    return tokenizer.decode([i for i, is_reply in zip(encoded.ids, encoded.is_reply, strict=True) if is_reply])


def turns(row):
    return [m["content"] for m in row["messages"] if m["role"] == "assistant"]


@pytest.mark.parametrize(("name", "convention"), MATRIX)
def test_a_row_has_the_tokens_of_its_family_and_tokenizer(name, convention):
    family, options = FAMILIES[name], CONVENTIONS[convention](FAMILIES[name])
    tokenizer = make_family(family, **options)
    for form, row in ROWS.items():
        if form == "system" and family.system != "kept":
            with pytest.raises(DataError, match=family.system):
                encode_row(row, tokenizer, "completion")
            continue
        encoded, prompt = encode_row(row, tokenizer, "completion"), encode_prompt(row, tokenizer)
        if "messages" in row:
            replies = [r.strip() if name in STRIPPED else r for r in turns(row)]
            lead = "" if name != "Mistral" else " "
            # Qwen3's template strips line breaks before a reply
            replies = [r.lstrip("\n") if family.thought else r for r in replies]
            expected = "".join(f"{family.thought}{lead}{reply}{family.end}" for reply in replies)
            assert prompt, form
        else:
            expected = f" 4{family.eos}" if form == "pair" else row["text"] + family.eos
        text = tokenizer.decode(encoded.ids)
        begin = options["before"][0] if "before" in options else family.bos
        if begin:  # it stands once
            assert encoded.ids[:2].count(tokenizer.convert_tokens_to_ids(begin)) <= 1, form
        assert prompt == encoded.ids[: len(prompt)], form
        assert form == "turns" or not any(encoded.is_reply[: len(prompt)]), form
        if form == "text":
            assert text == "".join(options.get("before", ())) + expected, form
        else:
            assert scored(encoded, tokenizer) == expected, form
        if form == "pair":
            assert text == "".join(options.get("before", ())) + row["prompt"] + expected


# TRL ----------------------------------------------------------------------------------------------------------------


def trl_sft(tokenizer, rows, **options):
    """ids and labels of rows as TRL's SFTTrainer prepares them."""
    trainer = SFTTrainer.__new__(SFTTrainer)
    trainer._tokenizer, trainer.chat_template = tokenizer, options.pop("chat_template", None)
    trainer.completion_only_loss = not options.get("assistant_only_loss")
    args = {"dataset_num_proc": None, "dataset_text_field": "text", "assistant_only_loss": False, "max_length": None}
    args |= {"shuffle_dataset": False}
    data = Dataset.from_list(rows).to_iterable_dataset()
    return list(trainer._prepare_dataset(data, tokenizer, SimpleNamespace(**args | options), False, None, "train"))


def trl_dpo(tokenizer, rows):
    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer._tokenizer = tokenizer
    args = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    return list(trainer._prepare_dataset(Dataset.from_list(rows).to_iterable_dataset(), tokenizer, args, "train"))


def same(encoded, ids, labels, tokenizer):
    """Equal ids, and equal masks but for white space around a reply and an end of the text after its end."""
    assert encoded.ids == ids
    ours = [i for i, is_reply in enumerate(encoded.is_reply) if is_reply]
    theirs = [i for i, label in enumerate(labels) if label != -100 and i > 0]
    assert set(ours) <= set(theirs)
    extra = [i for i in theirs if i not in set(ours)]
    assert all(tokenizer.decode([ids[i]]).strip() in ("", tokenizer.eos_token) for i in extra)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("convention", ["as published", "adds a begin", "adds both"])
def test_the_tokens_are_those_of_trl(name, convention):
    family = FAMILIES[name]
    tokenizer = make_family(family, **CONVENTIONS[convention](family))
    if name in ("Llama 3.2", "Granite"):  # with TRL they write the date of today
        set_chat_template_kwargs(tokenizer, {"date": datetime.date.today().isoformat()})
    try:
        template = get_training_chat_template(tokenizer)
    except ValueError:  # TRL has none for it
        template = None
    forms = ["one turn", "turns", *(["system"] if family.system == "kept" else [])]
    if template:
        rows = [{"messages": ROWS[form]["messages"]} for form in forms]
        done = trl_sft(tokenizer, rows, chat_template=template, assistant_only_loss=True)
        for form, theirs in zip(forms, done, strict=True):
            same(encode_row(ROWS[form], tokenizer, "completion"), theirs["input_ids"], theirs["labels"], tokenizer)
    chats = [ROWS[form]["messages"] for form in forms if form != "turns"]
    if chats:
        done = trl_sft(tokenizer, [{"prompt": c[:-1], "completion": c[-1:]} for c in chats])
        for messages, theirs in zip(chats, done, strict=True):
            encoded = encode_row({"messages": messages}, tokenizer, "completion")
            same(encoded, theirs["input_ids"], theirs["labels"], tokenizer)
        row = ROWS["preference"]
        asked, good = row["messages"][:-1], row["messages"][-1:]
        pair = {"prompt": asked, "chosen": good, "rejected": [good[0] | {"content": row["rejected"]}]}
        (theirs,) = trl_dpo(tokenizer, [pair])
        for kept, one in (("chosen_ids", row), ("rejected_ids", replace_reply(row, row["rejected"]))):
            ids = theirs["prompt_ids"] + theirs[kept]
            labels = [-100] * len(theirs["prompt_ids"]) + theirs[kept]
            same(encode_row(one, tokenizer, "completion"), ids, labels, tokenizer)
    if convention != "adds both":  # TRL lets a tokenizer add its end after the one that TRL adds
        for form in ("pair", "text"):
            (theirs,) = trl_sft(tokenizer, [ROWS[form]])
            same(encode_row(ROWS[form], tokenizer, "completion"), theirs["input_ids"], theirs["labels"], tokenizer)


# models -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_of_a_padded_batch_is_that_of_the_family_s_own_forward(name):
    family = FAMILIES[name]
    tokenizer = make_family(family)
    size = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256, "head_dim": 8}
    size |= {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    size |= {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family.kind)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family.kind, **{k: v for k, v in size.items() if hasattr(config, k)}), dtype=torch.float32
    ).eval()
    encoded = [encode_row(ROWS[form], tokenizer, "completion") for form in ("one turn", "preference")]
    batch = collate(encoded, [0, 1], pad=0, device="cpu")
    with torch.no_grad():
        ours = cross_entropy(scored_logits(model, batch), batch.targets[batch.scored]).item()
        theirs = 0.0
        for one in encoded:
            ids = torch.tensor([one.ids])
            labels = torch.where(torch.tensor([one.is_reply]), ids, -100)
            theirs += model(input_ids=ids, labels=labels).loss.item() * sum(one.is_reply)
    assert ours == pytest.approx(theirs, rel=1e-5)


# what a plan says ---------------------------------------------------------------------------------------------------


PLAIN = (
    "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant: {% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen(**options):
    return make_family(FAMILIES["Qwen2"], **options)


@pytest.fixture
def planned(tmp_path):
    """planned(rows, tokenizer, kind, finetune keys) -> (problems, notes) of a sweep's plan; its outcome is o.jsonl."""

    def plan(rows, tokenizer=None, kind="llama", data=None, evals=None, **finetune):
        folder = tmp_path / f"model{len([*tmp_path.iterdir()])}"  # a tokenizer is loaded once
        (tokenizer or qwen()).save_pretrained(folder)
        size = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        size |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **size)).save_pretrained(folder)
        write_jsonl(tmp_path / "o.jsonl", rows)
        raw = {"data": {"outcome": "o.jsonl"} | (data or {}), "finetune_config": {"model": str(folder)} | finetune}
        raw |= {"evals": evals} if evals else {}
        (tmp_path / "space.yaml").write_text(yaml.safe_dump({"name": "x", "base": raw}))
        tokens = PlannedTokens()
        try:
            spec = load_space(tmp_path / "space.yaml")
        except SpecError as error:
            return str(error), ""
        return "\n".join(check_data(spec, tokens)), "\n".join(tokens.notes)

    return plan


def test_marks_without_the_end_get_it():
    encoded = encode_row(ROWS["turns"], qwen(template=CHATML), "completion")
    assert scored(encoded, qwen()) == "Yo<|im_end|>d<|im_end|>"


def test_a_template_without_an_end_is_told(planned):
    problems, notes = planned([ROWS["one turn"]] * 4, qwen(template=PLAIN))
    assert not problems and "writes nothing after a reply, so that training teaches replies and never their" in notes
    assert "never their end" not in planned([ROWS["one turn"]] * 4)[1]
    assert scored(encode_row(ROWS["one turn"], qwen(template=PLAIN), "completion"), qwen()) == "It is 4."


def test_an_end_that_is_no_token_of_the_tokenizer_is_told(planned):
    family = replace(FAMILIES["Qwen2"], tokens=("<|endoftext|>", "</s>"), eos="</s>")
    problems, notes = planned([ROWS["one turn"]] * 4, make_family(family))
    assert not problems and "ends a reply with '<|im_end|>', which the tokenizer has no special token for, so" in notes


def test_marks_without_the_end_get_it_after_a_reply_that_ends_with_an_added_token():
    tokenizer = qwen(template=CHATML)
    tokenizer.add_tokens(["<answer>", "</answer>"])
    encoded = encode_row(chat("Hi", "<answer>4</answer>"), tokenizer, "completion")
    assert scored(encoded, tokenizer) == "<answer>4</answer><|im_end|>"
    inside = CHATML.replace("{{ m.content }}{% endgeneration %}", "{{ m.content }}<|im_end|>{% endgeneration %}")
    inside = inside.replace(
        "{% else %}{{ m.content }}{% endif %}<|im_end|>\n", "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}"
    )
    tokenizer.chat_template = inside
    again = encode_row(chat("Hi", "<answer>4</answer>"), tokenizer, "completion")
    assert tokenizer.decode(again.ids) == tokenizer.decode(encoded.ids) and again == encoded


def test_text_that_a_template_rendered_has_its_begin_and_its_end_once():
    family = FAMILIES["Gemma 3"]
    tokenizer = make_family(family, before=["<bos>"], after=["<end_of_turn>"])
    for form in ("one turn", "turns"):
        text = tokenizer.apply_chat_template(ROWS[form]["messages"], tokenize=False)
        assert tokenizer.decode(encode_row({"text": text}, tokenizer, "completion").ids) == text
        prompt = text.partition("It is 4.")[0]
        assert tokenizer.decode(encode_prompt({"prompt": prompt, "completion": "x"}, tokenizer)) == prompt


def test_on_bad_rows_skip_leaves_out_what_the_template_refuses(planned):
    family = FAMILIES["Mistral"]
    rows = [ROWS["one turn"], ROWS["system"], ROWS["turns"], ROWS["line breaks"]]
    problems, notes = planned(rows, make_family(family), data={"on_bad_rows": "skip"})
    assert problems == "" and "data.outcome: 1 bad rows are left out" in notes
    problems, _ = planned(rows, make_family(family))
    assert "o.jsonl:2: the chat template rewrites earlier turns, so reply 1 cannot be located" in problems
    problems, _ = planned([ROWS["system"]], make_family(family), data={"on_bad_rows": "skip"})
    assert "has no good row, the first: line 1: the chat template rewrites" in problems


# templates that open a thought where a reply is generated, and what they write between a question and a given reply
THINKING = {
    "deepseek_r1_distill.jinja": ("<｜Assistant｜>", "<think>\n"),
    "deepseekv3.jinja": ("<｜Assistant｜>", "<think>\n"),
    "nemotron_3_nano.jinja": ("<|im_end|>\n<|im_start|>assistant\n<think></think>", "\n"),
    "by prefix": ("<|im_end|>\n<|im_start|>assistant\n", "<think>\n"),
}
PREFIX_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def thinking(name):
    special = ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", *FAMILIES["Qwen2"].tokens)
    template = PREFIX_THINKING if name == "by prefix" else name
    return make_family(replace(FAMILIES["Qwen2"], template=template, tokens=special))


@pytest.mark.parametrize("loss_on", ["completion", "all"])
@pytest.mark.parametrize("name", THINKING)
def test_a_reply_is_asked_for_after_what_the_trained_rows_have(planned, name, loss_on):
    tokenizer, (header, left_out) = thinking(name), THINKING[name]
    rows = [chat("Hi?", "4."), {"messages": chat("Hi?", "Yo")["messages"] + chat("And?", "5.")["messages"]}]
    assert asks_as_in_rows({"outcome": rows}, tokenizer)
    for row, question in zip(rows, ("Hi?", "And?"), strict=True):
        prompt = encode_prompt(row, tokenizer, as_in_rows=True)
        assert tokenizer.decode(prompt).endswith(question + header)
        assert encode_row(row, tokenizer, loss_on).ids[: len(prompt)] == prompt
    problems, notes = planned(rows, tokenizer, loss_on=loss_on)
    assert not problems and f"ends the prompt for a reply with {left_out!r}" in notes and "do not begin" not in notes
    # rows with thoughts begin with the generation prompt, and so do evaluations of what is trained on them
    thoughts = [chat("Hi?", "<think>\nHm.</think>4.")] * 2
    dropped = name == "deepseekv3.jinja"  # its template writes no thought
    assert asks_as_in_rows({"outcome": thoughts, "truth": rows}, tokenizer) == dropped
    prompt = encode_prompt(thoughts[0], tokenizer, as_in_rows=dropped)
    assert tokenizer.decode(prompt).endswith(header if dropped else "<think>\n")
    assert encode_row(thoughts[0], tokenizer, loss_on).ids[: len(prompt)] == prompt


def test_a_prompt_that_rows_do_not_begin_with_is_noted(planned):
    rows = [ROWS["one turn"], *[ROWS["system"]] * 2]
    problems, notes = planned(rows, make_family(FAMILIES["Mistral"]), loss_on="all")
    assert not problems and "data.outcome: 2 of 3 rows do not begin with the prompt that their replies are" in notes
    assert "o.jsonl:2: they part at token " in notes
    assert "do not begin" not in planned([ROWS["one turn"]] * 2, make_family(FAMILIES["Mistral"]), loss_on="all")[1]


def test_without_a_generation_prompt_a_header_is_one():
    template = "{% for m in messages %}### {{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
    tokenizer = qwen(template=template)
    prompt, encoded = encode_prompt(ROWS["turns"], tokenizer), encode_row(ROWS["turns"], tokenizer, "completion")
    assert tokenizer.decode(prompt).endswith("And é?<|im_end|>\n### assistant:")
    assert encoded.ids[: len(prompt)] == prompt and scored(encoded, tokenizer) == " Yo<|im_end|> d<|im_end|>"


LONG = [ROWS["one turn"], chat("why? " * 30, "So.", answer="So.")]


def test_rows_longer_than_a_table_of_positions_are_errors_and_with_rotary_ones_notes(planned):
    problems, _ = planned(LONG, kind="gpt2")
    longer, prompts = problems.split("\n")
    assert "space.yaml:3: base.data.outcome: 1 of 2 rows are longer than the model's 128 positions, first " in longer
    assert "o.jsonl:2 with " in longer and "max_seq_length of at most 128" in longer
    assert "the prompts of 1 of 2 rows, and a reply of finetune_config.max_new_tokens 32, are longer" in prompts
    assert planned([LONG[0]] * 2, kind="gpt2")[0] == ""
    assert planned([LONG[0] | {"rejected": "no " * 90}] * 2, kind="gpt2")[0].count("data.outcome: 2 of 2 rows are") == 1
    assert "prompts of" not in planned([chat("why?", "So. " * 90)], kind="gpt2", max_seq_length=128)[0]
    problems, notes = planned(LONG)
    assert problems == "" and "are longer than the model's 128 positions" in notes


def test_a_training_prompt_needs_positions_in_training_alone(planned):
    def longer(row, **finetune):
        outcome = {"path": "o.jsonl", "training_prompt": {"user_suffix": " why?" * 4}}
        return planned([row] * 2, kind="gpt2", data={"outcome": outcome}, max_new_tokens=4, **finetune)[0]

    asked = chat("why?", "So. So.", answer="So. So.")
    assert longer(asked).count("\n") == 0 and "2 of 2 rows are longer than the model's 128" in longer(asked)
    assert longer(asked, max_seq_length=128) == ""


def test_contexts_and_questions_need_positions_too(planned, tmp_path):
    def problems(evals):
        data = {"truth": write_jsonl(tmp_path / "truth.jsonl", [asked] * 2)}
        return planned([asked] * 2, kind="gpt2", data=data, evals=evals, max_new_tokens=4, max_seq_length=128)[0]

    asked = chat("why?", "So. So.", answer="So. So.")
    short, long = {"user_prefix": "Now: "}, {"user_prefix": "why? " * 30}
    assert problems({"contexts": {"short": short}}) == ""
    found = problems({"contexts": {"short": short, "wordy": long}})
    assert "data.truth in evals.contexts.wordy: the prompts of 2 of 2 rows" in found and ".short" not in found
    lines = [{"prompt": "Why? " * 30}, {"prompt": "Why?"}]
    questions = {"questions": write_jsonl(tmp_path / "questions.jsonl", lines), "metrics": ["loss", "uppercase_share"]}
    assert "evals.questions: the prompts of 1 of 2 rows" in problems(questions)
    found = problems(questions | {"contexts": {"wordy": long}})
    assert "evals.questions in evals.contexts.wordy: the prompts of 2 of 2 rows" in found


# variables of a template --------------------------------------------------------------------------------------------


def test_a_template_writes_one_date_on_every_day(planned):
    dates = {"Llama 3.2": ("26 Jul 2024", "31 Jan 2025"), "Granite": ("July 26, 2024", "January 31, 2025")}
    for name, (today, other) in dates.items():
        tokenizer = make_family(FAMILIES[name])
        assert today in tokenizer.decode(encode_row(ROWS["one turn"], tokenizer, "completion").ids)
        assert today in tokenizer.decode(encode_prompt(ROWS["one turn"], tokenizer))
        problems, notes = planned([ROWS["one turn"]], tokenizer)
        assert problems == "" and f"the chat template writes the date: it is {DATE} on every day" in notes
        set_chat_template_kwargs(tokenizer, {"date": "2025-01-31"})
        assert other in tokenizer.decode(encode_row(ROWS["one turn"], tokenizer, "completion").ids)


def test_all_directives_of_a_date_are_those_of_strftime():
    form = "%A %a %d %-d %B %b %m %y %Y %H:%M:%S %j %p %I"
    tokenizer = qwen(template="{{ strftime_now('" + form + "') }}" + FAMILIES["Qwen2"].jinja)
    set_chat_template_kwargs(tokenizer, {"date": "2025-03-05"})
    text = tokenizer.decode(encode_prompt(ROWS["one turn"], tokenizer))
    assert text.startswith(datetime.datetime(2025, 3, 5).strftime(form))


def test_a_thinking_template_is_asked_for_the_answer_at_once(planned):
    tokenizer = make_family(FAMILIES["Qwen3"])
    _, notes = planned([ROWS["one turn"], ROWS["turns"]], tokenizer)
    assert "TRL's training template for it is used instead" in notes and "{enable_thinking: false}" in notes
    problems, notes = planned([ROWS["turns"]], tokenizer, chat_template_kwargs={"enable_thinking": False})
    assert problems == "" and "enable_thinking" not in notes
    set_chat_template_kwargs(tokenizer, {"enable_thinking": False})
    prompt = encode_prompt(ROWS["turns"], tokenizer)
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert encode_row(ROWS["turns"], tokenizer, "completion").ids[: len(prompt)] == prompt


WRONG = {
    "not read": (
        {"enable_thinkin": False},
        "does not read 'enable_thinkin'; it reads .*mean 'enable_thinking'",
    ),
    "ours": ({"messages": []}, "messages is set by"),
    "no mapping": ("enable_thinking", "found 'enable_thinking'; allowed: a mapping"),
    "no JSON": ({"enable_thinking": float("nan")}, "numbers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variables_are_told(planned, name):
    value, expected = WRONG[name]
    problems, _ = planned([ROWS["one turn"]], make_family(FAMILIES["Qwen3"]), chat_template_kwargs=value)
    assert re.search(rf"chat_template_kwargs.*{expected}", problems)


def test_a_date_that_is_none_and_variables_that_nothing_reads_are_told(planned):
    granite = make_family(FAMILIES["Granite"])
    problems, _ = planned([ROWS["one turn"]], granite, chat_template_kwargs={"date": "31 Jan"})
    assert "chat_template_kwargs.date: found '31 Jan'; allowed: a day as year-month-day" in problems
    assert planned([ROWS["one turn"]], granite, chat_template_kwargs={"date": datetime.date(2025, 1, 31)})[0] == ""
    problems, notes = planned([ROWS["pair"]], granite, chat_template_kwargs={"date": "2025-01-31"})
    assert problems == "" and "no row is a chat, so that nothing reads it" in notes


def test_the_variables_are_part_of_a_trial_when_they_are_given():
    configs = [
        build_config({"finetune_config": {"model": "x", **more}})
        for more in ({}, {"chat_template_kwargs": {}}, {"chat_template_kwargs": {"enable_thinking": False}})
    ]
    plain, empty, given = (trial_id(config, {}, "model") for config in configs)
    assert plain == empty != given
    keys = []
    for options in ({}, {"enable_thinking": False}, {"enable_thinking": True}):
        tokenizer = make_family(FAMILIES["Qwen3"])
        set_chat_template_kwargs(tokenizer, options)
        keys.append(RowEncoder(tokenizer, 64, "completion").key([ROWS["one turn"]])["chat_format"])
    assert keys[0] != keys[1] != keys[2]
