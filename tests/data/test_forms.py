"""Rows in the forms of other tools: what they become, and that TRL's own trainers make the same tokens of them."""

import json

import pytest
from conftest import chat, make_model, write_jsonl
from reading import read_rows

from selgen_ray.config.source import Source
from selgen_ray.data.conversions import IN_PROMPT, OTHER_PROMPT
from selgen_ray.data.encode import encode_row
from selgen_ray.data.rows import load_roles
from selgen_ray.errors import DataError
from selgen_ray.trainers import build_config

Q, A, B = ({"role": r, "content": c} for r, c in (("user", "Is 7 odd?"), ("assistant", "Yes."), ("assistant", "No.")))
MORE, LAST = {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "I am."}
SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = "\n\nHuman: Is 7 odd?\n\nAssistant:"
PAIR = {"messages": [Q, A], "rejected": "No."}
CHOICES = ["4", "5"]

FORMS = {
    "content parts": (
        {"messages": [Q | {"content": [{"type": "text", "text": "Is 7 "}, {"type": "text", "text": "odd?"}]}, A]},
        {"messages": [Q, A]},
    ),
    "developer": (
        {"messages": [{"role": "developer", "content": "s"}, Q, A]},
        {"messages": [{"role": "system", "content": "s"}, Q, A]},
    ),
    "messages and their first question": ({"prompt": "Is 7 odd?", "messages": [Q, A]}, {"messages": [Q, A]}),
    "alpaca": (
        {"instruction": "Is it odd?", "input": "7", "output": "Yes."},
        chat("Is it odd?\n\n7", "Yes."),
    ),
    "alpaca, no input": ({"instruction": "Is 7 odd?", "input": "", "output": "Yes."}, {"messages": [Q, A]}),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "Is 7 odd?"}, {"from": "gpt", "value": "Yes."}]},
        {"messages": [Q, A]},
    ),
    "conversations": ({"conversations": [Q, A]}, {"messages": [Q, A]}),
    "conversational prompt": ({"prompt": [Q], "completion": [A]}, {"messages": [Q, A]}),
    "text after messages": ({"prompt": [Q], "completion": "Yes."}, {"messages": [Q, A]}),
    "pair": ({"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "completion": "a", "rejected": "b"}),
    "conversational pair": ({"prompt": [Q], "chosen": [A], "rejected": [B]}, PAIR),
    "implicit prompt": ({"chosen": [Q, A], "rejected": [Q, B]}, PAIR),
    "implicit prompt, strings": (
        {"chosen": "7 is odd.", "rejected": "7 is even."},
        {"prompt": "7 is", "completion": " odd.", "rejected": " even."},
    ),
    "implicit prompt, one goes on": (
        {"chosen": "7 is odd.", "rejected": "7 is"},
        None,
    ),
    "UltraFeedback": ({"prompt": "Is 7 odd?", "messages": [Q, A], "chosen": [Q, A], "rejected": [Q, B]}, PAIR),
    "whole conversations, and a system message in the prompt": (
        {"prompt": [SYSTEM, Q], "chosen": [Q, A], "rejected": [Q, B]},
        {"messages": [SYSTEM, Q, A], "rejected": "No."},
    ),
    "hh-rlhf": ({"chosen": f"{ASKED} Yes.", "rejected": f"{ASKED} No."}, PAIR),
    "hh-rlhf, chosen alone": (
        {"chosen": f"{ASKED} Yes.\n\nHuman: Sure?\n\nAssistant: I am."},
        {"messages": [Q, A, MORE, LAST]},
    ),
    "question": ({"question": "Is 7 odd?", "answer": "Yes."}, {"messages": [Q, A], "answer": "Yes."}),
    "question, number": ({"question": "2+2?", "answer": 4}, chat("2+2?", "4", answer=4)),
    "GSM8K": (
        {"question": "2+2?", "answer": "Two and two.\n#### 4"},
        chat("2+2?", "Two and two.\n#### 4", answer="4"),
    ),
    "question, long": ({"question": "2+2?", "answer": "It is\n4"}, chat("2+2?", "It is\n4")),
    "MMLU": (
        {"question": "2+3?", "choices": CHOICES, "answer": 1},
        chat("2+3?", "5", choices=CHOICES, answer="5"),
    ),
    "MMLU, a number that is a text too": (
        {"question": "1+1?", "choices": ["1", "2", "3"], "answer": 1},
        chat("1+1?", "2", choices=["1", "2", "3"], answer="2"),
    ),
    "letter": (
        {"question": "2+3?", "options": CHOICES, "answer": "B"},
        chat("2+3?", "5", options=CHOICES, answer="5"),
    ),
    "choices of a chat": (chat("2+3?", "5", choices=CHOICES, answer=1), chat("2+3?", "5", choices=CHOICES, answer="5")),
    "MedQA": (
        {"question": "Scurvy?", "options": {"A": "Iron", "B": "Zinc", "C": "B"}, "answer": "B"},
        chat("Scurvy?", "Zinc", options=["Iron", "Zinc", "B"], answer="Zinc"),
    ),
    "options by letter, in any order, of a chat": (
        chat("2+3?", "5", choices={"B": "5", "A": "4", "C": None}, answer="5"),
        chat("2+3?", "5", choices=CHOICES, answer="5"),
    ),
    "a number of a chat is a place too": (
        chat("1+2?", "3", options=["1", "2", "3"], answer=2),
        chat("1+2?", "3", options=["1", "2", "3"], answer="3"),
    ),
    "a text that is an option": (
        chat("1+1?", "2", options=["1", "2", "3"], answer="2"),
        chat("1+1?", "2", options=["1", "2", "3"], answer="2"),
    ),
    "no answer": (chat("q", "a", answer=" "), chat("q", "a")),
    "KTO, wanted": (
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": "q", "completion": "a", "label": True},
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_becomes_one_of_ours(tmp_path, name):
    row, expected = FORMS[name]
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    if expected is None:
        with pytest.raises(DataError, match="'rejected' must be non-empty text"):
            read_rows(path)
    else:
        assert read_rows(path) == [expected]


def of_sft(rows, tokenizer, folder, **options):
    """The input ids of TRL's SFT trainer, and which of them are scored."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    args = SFTConfig(output_dir=str(folder), max_length=None, report_to=[], use_cpu=True, bf16=False, **options)
    made = SFTTrainer(make_model(), args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer)
    return [(row["input_ids"], [label != -100 for label in row["labels"]]) for row in made.train_dataset]


# TRL puts whole conversations, a prompt and its reply, or texts into one data set, not several of them
SFT = {
    "messages": ([{"messages": [Q, A, MORE, LAST]}, {"messages": [Q, A]}], {"assistant_only_loss": True}),
    "ShareGPT": ([FORMS["ShareGPT"][0]], {"assistant_only_loss": True}),
    "conversational prompt": ([{"prompt": [Q], "completion": [A]}], {}),
    "strings": ([{"prompt": "Is 7 odd? ", "completion": "Yes."}], {}),
    "text": ([{"text": "7 is odd."}], {}),
    # read by us alone: TRL gets the conversation that the row is said to become
    **{name: ([FORMS[name][1]], {"assistant_only_loss": True}) for name in ("alpaca", "question", "content parts")},
}


@pytest.mark.parametrize("name", SFT)
def test_the_tokens_are_those_of_trl(tmp_path, tokenizer, name):
    rows, options = SFT[name]
    if name == "ShareGPT":  # TRL renames the keys and leaves the speakers, which the template has to know
        rows = [{"messages": [Q, A]}]
    given = [FORMS[name][0]] if name in FORMS else rows
    encoded = [encode_row(row, tokenizer, "completion") for row in read_rows(write_jsonl(tmp_path / "a.jsonl", given))]
    expected = of_sft(rows, tokenizer, tmp_path, **options)
    # the first token is never scored here: nothing predicts it
    assert [(e.ids, e.is_reply) for e in encoded] == [(ids, [False, *scored[1:]]) for ids, scored in expected]


PAIRS = ("conversational pair", "implicit prompt", "implicit prompt, strings", "hh-rlhf", "UltraFeedback")


@pytest.mark.parametrize("name", PAIRS)
def test_the_tokens_of_pairs_are_those_of_trl(tmp_path, tokenizer, tiny_model_dir, name):
    import datasets
    from trl import DPOConfig, DPOTrainer

    given, ours = FORMS[name]
    raw = {"prompt": [Q], "chosen": [A], "rejected": [B]} if name in ("hh-rlhf", "UltraFeedback") else given
    args = DPOConfig(output_dir=str(tmp_path), max_length=None, report_to=[], use_cpu=True, bf16=False)
    rows = datasets.Dataset.from_list([raw])
    made = DPOTrainer(tiny_model_dir, None, args, train_dataset=rows, processing_class=tokenizer)
    (expected,) = made.train_dataset
    source = Source(path=write_jsonl(tmp_path / "a.jsonl", [given]))
    config = build_config({"data": {"outcome": source, "proxy": source}, "finetune_config": {"model": "x"}})
    roles = load_roles(config, ("outcome", "proxy", "proxy_neg"))
    assert roles["proxy"] == [ours]
    for role, key in (("proxy", "chosen_ids"), ("proxy_neg", "rejected_ids")):
        encoded = encode_row(roles[role][0], tokenizer, "completion")
        assert encoded.ids == expected["prompt_ids"] + expected[key]
        assert sum(encoded.is_reply) == len(expected[key])


TOOL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
REFUSED = {
    "tool call": (
        {"messages": [Q, TOOL, A]},
        "messages[1] holds a tool call or its result: tool calls are not supported",
    ),
    "tool": ({"messages": [Q, {"role": "tool", "content": "7"}, A]}, "messages[1] holds a tool call"),
    "tools": ({"messages": [Q, A], "tools": [{"name": "f"}]}, "'tools' is given: tool calls are not supported"),
    "ShareGPT's tool": ({"conversations": [{"from": "function_call", "value": "f"}]}, "holds a tool call"),
    "image": (
        {"messages": [Q | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, A]},
        "messages[0].content has a part of type 'image_url'; allowed: parts of type 'text'",
    ),
    "weight 0": ({"messages": [Q, A | {"weight": 0}]}, "messages[1].weight is 0"),
    "KTO": ({"prompt": "q", "completion": "a", "label": False}, "'label' is false, which marks a reply that is not"),
    "KTO, number": ({"prompt": "q", "completion": "a", "label": 0}, "'label' is 0, which marks a reply that is not"),
    "KTO, cell": ({"prompt": "q", "completion": "a", "label": "0"}, "filter: {label: 1} keeps the good ones"),
    "not to train on": ({"messages": [Q, A | {"train": False}, MORE, LAST]}, "messages[1].train is false"),
    "empty reply": (chat("q", ""), "messages[1] is an empty reply"),
    "blank reply, earlier": ({"messages": [Q, A | {"content": " "}, MORE, LAST]}, "messages[1] is an empty reply"),
    "blank completion": ({"prompt": "q", "completion": " \n"}, "'completion' must be non-empty text"),
    "blank rejected": ({"prompt": "q", "completion": "a", "rejected": " "}, "'rejected' must be non-empty text"),
    "Orca's pairs": (
        {"system": "s", "question": "q", "chosen": "The cat", "rejected": "The dog"},
        "'chosen' and 'rejected' stand beside 'question', and there is no 'prompt': if it is the prompt, columns: {p",
    ),
    "KTO of chats": ({"prompt": [Q], "completion": [A], "label": False}, "filter: {label: true} keeps the good ones"),
    "another prompt": (
        {"chosen": [Q, A, MORE, LAST], "rejected": [Q, B, MORE, LAST]},
        "'chosen' and 'rejected' part before the last reply",
    ),
    "no prompt": ({"chosen": "Yes.", "rejected": "No."}, "'chosen' and 'rejected' have no common beginning"),
    "no contrast": ({"chosen": "Yes.", "rejected": "Yes."}, "'chosen' and 'rejected' are alike"),
    "replies without a prompt": ({"chosen": [A], "rejected": [B]}, "'chosen' is a reply without a prompt"),
    "prompt alone": ({"prompt": [Q]}, "'prompt' is there, and no 'completion'"),
    "prefix": ({"prompt": [Q, A], "completion": [LAST]}, "'prompt' ends with a reply that 'completion' goes on with"),
    "speaker": ({"conversations": [{"from": "narrator", "value": "x"}]}, "messages[0].role is 'narrator', allowed:"),
    "no output": ({"instruction": "q", "output": ""}, "'output' must be non-empty text"),
    "answers": ({"question": "q", "answer": ["a", "b"]}, "'answer' must be text or a number, found ['a', 'b']"),
    "fifth of two": ({"question": "q", "choices": CHOICES, "answer": 7}, "'answer' 7 is not one of 'choices'"),
    "fifth of two, chat": (chat("q", "4", options=CHOICES, answer=5), "not one of 'options': a number is the place of"),
    "options in one text": (chat("q", "a", options="a, b", answer="a"), "'options' must be 2 to 26 different texts"),
    "options by name": (
        {"question": "q", "options": {"first": "a", "second": "b"}, "answer": "a"},
        "{'A': ..., 'B': ...}, found {'first': 'a', 'second': 'b'}",
    ),
    "options twice": (chat("q", "a", options=["a", "a", "b"], answer="a"), "'options' must be 2 to 26 different texts"),
    "options without an answer": (chat("q", "a", options=["a", "b"]), "'answer' None is not one of 'options'"),
    "options with another answer": (chat("q", "a", options=["a", "b"], answer="c"), "'answer' 'c' is not one of 'opt"),
    "options of no question": (
        {"messages": [{"role": "system", "content": "s"}, A], "options": ["Yes.", "No."], "answer": "Yes."},
        "'options' need a user's message before the reply",
    ),
    "options of a text": ({"text": "x", "options": ["a", "b"], "answer": "a"}, "'answer' needs 'messages' or 'prompt'"),
    "choices alike": (chat("q", "a", choices=["a", "a"], answer="a"), "'choices' are all alike, 'a'"),
    "several answers": (chat("q", "a", answer=["a", "b"]), "'answer' must be text or a number, found ['a', 'b']"),
    "answer with parts": (chat("q", "a", answer={"text": "a"}), "'answer' must be text or a number, found {'text'"),
    "no number": (chat("q", "a", answer=float("nan")), "'answer' must be text or a number, found nan"),
    "claim, capital": (chat("q", "a", claim="Wrong", item="1"), "'claim' must be 'right' or 'wrong', found 'Wrong'"),
    "claim, boolean": (chat("q", "a", claim=False, item="1"), "'claim' must be 'right' or 'wrong', found False"),
    "claim about nothing": (chat("q", "a", claim="wrong"), "'claim' needs an 'item'"),
    "transcript": ({"chosen": f"{ASKED} Yes.\n\nHuman: Sure?"}, "'chosen' does not end with a reply of the assistant"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_on_as_it_is_meant_is_refused_or_skipped(tmp_path, name):
    row, message = REFUSED[name]
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "completion": "a"}, row])
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}:2: ") and message in str(caught.value)
    skipping = {"data": {"outcome": path, "on_bad_rows": "skip"}, "finetune_config": {"model": "x"}}
    roles = load_roles(build_config(skipping))
    assert roles["outcome"] == [{"prompt": "q", "completion": "a"}] and roles.skipped == {"outcome": 1}


def roles_of(folder, rows, required=(), **source):
    path = write_jsonl(folder / "a.jsonl", rows)
    outcome = {"path": path} | source
    return load_roles(build_config({"data": {"outcome": outcome}, "finetune_config": {"model": "x"}}), required)


def test_kto_rows_can_be_chosen_by_their_label(tmp_path):
    rows = [{"prompt": "q", "completion": c, "label": c == "good", "idx": 7} for c in ("good", "bad")]
    for label, completion in ((True, "good"), (False, "bad")):
        roles = roles_of(tmp_path, rows, filter={"label": label})
        assert [row["completion"] for row in roles["outcome"]] == [completion]
    judged = chat("q", "a", choices=["a", "b"], answer="a", label=False)  # a category, for balanced_accuracy
    assert roles_of(tmp_path, [judged])["outcome"] == [judged]


def test_columns_that_nothing_uses_are_named(tmp_path):
    rows = [{"instruction": "q", "input": text, "output": "a", "kind": "x", "text_id": 5} for text in ("more", "")]
    columns = {"prompt": "instruction", "completion": "output"}
    (note,) = roles_of(tmp_path, rows, columns=columns, filter={"kind": "x"}).notes
    assert note.startswith(
        "data.outcome: not used by its form of rows nor by a metric: 'input' (1 of 2 rows), 'text_id'"
    )
    assert note.endswith(
        "; without `columns`, instruction, input and output are read as Alpaca's form, the input included"
    )
    (note,) = roles_of(tmp_path, rows, filter={"kind": "x"}).notes
    assert note == "data.outcome: not used by its form of rows nor by a metric: 'text_id' (2 of 2 rows)"
    assert roles_of(tmp_path, [chat("q", "a", answer="a", label="x", mod=None)]).notes == []


def test_replies_inside_a_prompt_are_told(tmp_path):
    turns = {"prompt": [Q, A, MORE], "completion": [LAST]}
    assert roles_of(tmp_path, [turns, {"prompt": [Q], "completion": [A]}]).notes == [
        f"data.outcome: 1 of 2 rows: {IN_PROMPT}"
    ]


def test_a_conversation_that_does_not_begin_with_its_prompt_is_told(tmp_path):
    rows = [{"prompt": p, "chosen": [Q, A], "rejected": [Q, B]} for p in ([Q], [SYSTEM, Q], [MORE])]
    assert roles_of(tmp_path, rows).notes == [f"data.outcome: 1 of 3 rows: {OTHER_PROMPT}"]


def test_strings_become_chats_where_the_source_says_so(tmp_path):
    rows = [
        {"prompt": "q", "completion": "a", "answer": "a"},
        chat("q", "a"),
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ]
    got = roles_of(tmp_path, rows, form="chat")["outcome"]
    assert got == [chat("q", "a", answer="a"), chat("q", "a"), chat("q", "a", rejected="b")]
    assert Source(path="a", form=None).options == {} and Source(path="a", form="chat").options == {"form": "chat"}
    with pytest.raises(DataError, match="form: chat needs 'prompt' and 'completion'"):
        roles_of(tmp_path, [{"text": "x"}], form="chat")


def test_what_stands_beside_messages_may_be_anything(tmp_path):
    (row,) = roles_of(tmp_path, [chat("q", "a", completion=5)])["outcome"]
    assert row["messages"] == chat("q", "a")["messages"]


def test_a_row_of_megabytes_is_refused_at_once(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "long " * 1_500_000}))
    with pytest.raises(DataError, match=r"a\.jsonl:1: has 7,500,000 characters; allowed: 500,000"):
        read_rows(str(tmp_path / "a.jsonl"))
