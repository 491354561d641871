"""Reading rows: what is accepted, and what the message says when it is not."""

import json

import pytest
from conftest import chat, write_jsonl
from reading import read_rows

from selgen_ray.data.forms import prompt_of, row_problem
from selgen_ray.data.rows import load_roles, overlaps, rows_hash
from selgen_ray.errors import DataError
from selgen_ray.trainers import build_config

GOOD = [
    chat("q", "a"),
    chat("q", "a", answer=7, _id=3, mod=None),
    {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a"},
        ]
    },
    {"prompt": "p", "completion": "c"},
    {"text": "t"},
    {"text": "t", "messages": None},
    chat("q", "a", choices=["a", "b"], answer="b"),
]
BAD = [
    ([], "found list"),
    ({"mesages": []}, "Did you mean 'messages'"),
    ({"prompt": "p"}, "'completion' must be non-empty text"),
    ({"prompt": "p", "text": "t"}, "exactly one of"),
    ({"messages": []}, "non-empty list"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0] must be"),
    ({"messages": [{"role": "human", "content": "x"}]}, "role is 'human', allowed: system, user, assistant"),
    ({"messages": [{"role": "user", "content": "x"}]}, "last message must be the assistant's"),
    (chat("q", "a", choices=["a"], answer="a"), "at least two"),
    (chat("q", "a", choices=["a", "b"], answer="c"), "'c' is not one of"),
    ({"text": "t", "answer": "x"}, "'text' row has no reply"),
]


@pytest.mark.parametrize("row", GOOD)
def test_good_rows(row):
    assert row_problem(row) is None


@pytest.mark.parametrize(("row", "message"), BAD)
def test_bad_rows_say_what_is_wrong(row, message):
    assert message in row_problem(row)


def test_a_bad_line_is_named_by_file_and_number(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(chat("q", "a")) + "\n\n{'single': 'quotes'}\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:3: not JSON: .* at column 2"):
        read_rows(str(path))
    with pytest.raises(DataError, match=r"rows2\.jsonl:2: 'completion'"):
        read_rows(write_jsonl(tmp_path / "rows2.jsonl", [chat("q", "a"), {"prompt": "x"}]))


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_rows(str(tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="has no rows"):
        read_rows(str(tmp_path / "empty.jsonl"))


def test_a_line_separator_inside_a_text_does_not_cut_the_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "one\u2028two\x85three"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_rows(str(path)) == [{"text": "one\u2028two\x85three"}]


def test_pairs_must_match_in_number(tmp_path):
    data = {
        "outcome": write_jsonl(tmp_path / "o.jsonl", [chat("q", "a")]),
        "proxy": write_jsonl(tmp_path / "p.jsonl", [chat("q", "a")] * 3),
        "proxy_neg": write_jsonl(tmp_path / "n.jsonl", [chat("q", "a")] * 2),
    }
    with pytest.raises(DataError, match=r"proxy_neg has 2 rows but data\.proxy has 3"):
        load_roles(build_config({"data": data, "finetune_config": {"model": "x"}}))


def test_no_outcome_is_said():
    with pytest.raises(DataError, match="no outcome data"):
        load_roles(build_config({"finetune_config": {"model": "some/model"}}))


def test_rows_hash_sees_content_and_order_but_not_key_order():
    a, b = chat("q", "a"), chat("q", "b")
    assert rows_hash([a, b]) != rows_hash([b, a])
    assert rows_hash([{"x": 1, "y": 2}]) == rows_hash([{"y": 2, "x": 1}])


def test_prompt_of_ignores_the_reply():
    assert prompt_of(chat("q", "a")) == prompt_of(chat("q", "b"))
    assert prompt_of(chat("q", "a")) != prompt_of(chat("r", "a"))


def test_prompts_that_differ_in_a_system_message_alone_are_shared_ones():
    system = {"role": "system", "content": "s"}
    plain = [chat(f"q{i}", "a") for i in range(3)]
    under = [{"messages": [system, *row["messages"]]} for row in plain]
    new = [chat("r", "a")]
    said = "prompts of data.truth are also in data.proxy, which trains on them"
    assert overlaps({"proxy": plain, "truth": plain[:2] + new}) == [
        f"2 of 3 {said}: there it tests nothing that is new"
    ]
    assert overlaps({"proxy": plain, "truth": under[:2] + new}) == [
        f"2 of 3 {said}, system messages aside: there it tests nothing that is new"
    ]
    assert overlaps({"proxy": under, "collateral": plain}) == [
        "every prompt of data.collateral is also in data.proxy, system messages aside: it tests nothing that is new"
    ]
    assert overlaps({"proxy": plain, "truth": new}) == []
