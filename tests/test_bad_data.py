"""What can be wrong with data, and what a person is told of it before Ray starts: each case is a real sweep."""

import gzip
import json

import pytest
import yaml
from conftest import UNMARKED, chat, make_model, make_tokenizer

from selgen_ray.driver.preflight import check_data
from selgen_ray.driver.token_plan import PlannedTokens
from selgen_ray.errors import SpecError
from selgen_ray.space import load_space

GOOD = [chat(f"sum of {i} and 1?", f"It is {i + 1}.") for i in range(6)]
ASK = {"role": "user", "content": "q"}


def lines(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def told(folder, outcome="a.jsonl", tokens=None, finetune=None, data=None, **rest):
    """What the command says of a sweep in `folder`, a line for each thing wrong."""
    base = {"finetune_config": {"model": "toy"} | (finetune or {}), "data": {"outcome": outcome} | (data or {})} | rest
    (folder / "space.yaml").write_text(yaml.safe_dump({"name": "x", "base": base}))
    try:
        return "\n".join(map(str, check_data(load_space("space.yaml"), tokens)))
    except SpecError as error:
        return str(error)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text(lines(*GOOD))
    return tmp_path


FILES = {
    "broken JSON": ("b.jsonl", lines(GOOD[0], '{"messages": ['), "b.jsonl:2: not JSON: Expecting value at column 15"),
    "merge marker": ("b.jsonl", lines("<<<<<<< HEAD", GOOD[0]), "b.jsonl:1: not JSON"),
    "not a row": ("b.jsonl", lines(GOOD[0], "[1]"), "b.jsonl:2: found list, expected an object"),
    "one object": ("b.json", json.dumps({"rows": GOOD}, indent=1), "b.json: holds one object (rows), expected a list"),
    "broken list": ("b.json", "[{]", "b.json:1: not JSON"),
    "empty": ("b.jsonl", "", "b.jsonl: has no rows"),
    "blank lines": ("b.jsonl", "\n\n", "b.jsonl: has no rows"),
    "no table": ("b.parquet", "PAR0", "b.parquet: cannot be read as parquet"),
    "no header": ("b.csv", "what is 1+1?,2\nwhat is 2+2?,4\n", "expected exactly one of 'messages', 'prompt' with"),
    "ragged": ("b.csv", "prompt,completion\nq,a\nq\n", "b.csv:3: has not the 2 columns of the header"),
    "open quote": ("b.csv", 'prompt,completion\nq,"a\n', "b.csv: cannot be read as csv: unexpected end of data"),
    "column twice": ("b.csv", "prompt,prompt\nq,a\n", "b.csv:1: has the column 'prompt' twice"),
    "key twice": ("b.jsonl", '{"prompt": "q", "prompt": "r", "completion": "a"}\n', "1: has the key 'prompt' twice"),
    "Latin-1": ("b.jsonl", lines(GOOD[0]).encode() + b'{"text": "\xe9"}', "b.jsonl:2: is not UTF-8 text: byte 0xe9"),
    "UTF-16": ("b.jsonl", lines(GOOD[0]).encode("utf-16"), "b.jsonl:1: is not UTF-8 text: byte 0xff"),
    "packed": ("b.jsonl.gz", gzip.compress(lines(*GOOD).encode()), "b.jsonl.gz: is packed: unpack it; the files"),
    "other ending": ("b.xlsx", "a sheet", "b.xlsx: is no JSON lines; the files that are read otherwise end in .jsonl"),
    "no form": (
        "b.jsonl",
        lines({"instruction": "q"}),
        "found keys ['instruction'], expected exactly one of 'messages'",
    ),
    "typo": ("b.jsonl", lines({"message": [ASK]}), "Did you mean 'messages'?"),
    "two forms": ("b.jsonl", lines({"text": "x", "prompt": "q", "completion": "a"}), "expected exactly one of"),
    "content": ("b.jsonl", lines({"messages": [{"role": "user", "content": 5}]}), "'role' and a text 'content'"),
    "role": ("b.jsonl", lines({"messages": [{"role": "bot", "content": "a"}]}), "messages[0].role is 'bot', allowed:"),
    "no reply": ("b.jsonl", lines({"messages": [ASK]}), "b.jsonl:1: the last message must be the assistant's"),
    "empty reply": ("b.jsonl", lines({"prompt": "q", "completion": ""}), "'completion' must be non-empty text"),
    "choices": ("b.jsonl", lines(chat("q", "a", choices=["a"], answer="a")), "a list of at least two texts"),
    "answer": (
        "b.jsonl",
        lines(chat("q", "a", choices=["a", "b"], answer="c")),
        "'answer' 'c' is not one of 'choices'",
    ),
    "rejected": (
        "b.jsonl",
        lines({"prompt": "q", "chosen": "a", "rejected": "a"}),
        "'rejected' is the row's own reply",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_named_with_the_line_and_the_cause(here, name):
    file, content, expected = FILES[name]
    (here / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert expected in (said := told(here, file)) and str(here / file) in said


SOURCES = {
    "missing": ("aa.jsonl", "there is no such file; tried"),
    "missing, near": ("b/../a.json", "Did you mean 'a.jsonl'?"),
    "folder": ("empty", "empty: holds no file that ends in .jsonl, .json, .parquet, .csv, .tsv"),
    "hub id": ("lab/no_such_rows", "lab/no_such_rows: no such local file or folder, and the hub's data set cannot be"),
    "split of a file": ({"path": "a.jsonl", "split": "test"}, "one file has no split 'test': leave split out"),
    "split of a folder": ({"path": "parts", "split": "tets"}, "has no split 'tets'; found: test, train. Did you mean"),
    "no split": ("parts", "parts: has the splits test, train: say which, {path: ..., split: train}"),
    "column": (
        {"path": "a.jsonl", "columns": {"messages": "mesages"}},
        "has no column 'mesages'; found messages. Did you mean 'messages'?",
    ),
    "filter": ({"path": "a.jsonl", "filter": {"knid": "x"}}, "has no column 'knid'; found messages"),
    "filter's form": ({"path": "a.jsonl", "filter": "kind == x"}, "found 'kind == x'; allowed: a mapping"),
    "filter keeps nothing": ({"path": "k.jsonl", "filter": {"kind": "z"}}, "k.jsonl: the filter keeps no row"),
    "limit 0": ({"path": "a.jsonl", "limit": 0}, "found 0; allowed: a whole number >= 1"),
    "limit -1": ({"path": "a.jsonl", "limit": -1}, "found -1; allowed: a whole number >= 1"),
    "unknown key": ({"path": "a.jsonl", "limt": 5}, "unknown key 'limt'. Allowed: path, split"),
    "no path": ({"limit": 5}, "has no path: name a file, a folder or a hub id"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_bad_source_is_told_with_what_is_allowed(here, name):
    (here / "empty").mkdir()
    (here / "b").mkdir()
    (here / "parts").mkdir()
    (here / "k.jsonl").write_text(lines(*(row | {"kind": "x"} for row in GOOD)))
    for split in ("train", "test"):
        (here / "parts" / f"{split}.jsonl").write_text(lines(*GOOD))
    source, expected = SOURCES[name]
    assert expected in told(here, source)


OTHER = "b.jsonl"
TOGETHER = {
    "coverage, no data": (
        {"align_train_coverage": 0.5},
        "align_train_coverage 0.5 takes the proxy out of the alignment",
    ),
    "coverage 0": ({"align_train_coverage": 0}, "found 0; allowed: a finite number > 0 and <= 1"),
    "coverage 2": ({"align_train_coverage": 2}, "found 2; allowed: a finite number > 0 and <= 1"),
    "upsampling": ({"upsample_proxy_to": 0.1, "data": {"proxy": OTHER}}, "upsample_proxy_to is 0.1, but the proxy is"),
    "pairs": ({"data": {"proxy": OTHER, "proxy_neg": "few.jsonl"}}, "data.proxy_neg has 2 rows but data.proxy has 6"),
    "no contrast": ({"data": {"proxy": OTHER, "proxy_neg": OTHER}}, "data.proxy_neg has the very rows of data.proxy"),
    "no proxy": ({"proxy_strategy": "dpo"}, "proxy_strategy dpo needs data.proxy, which was not given"),
    "world": ({"data": {"outcome": None, "world": "toy", "toy": {"num_outcome": 10**6}}}, "data.toy"),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_what_does_not_go_together_is_told(here, name):
    (here / OTHER).write_text(lines(*GOOD))
    (here / "few.jsonl").write_text(lines(*GOOD[:2]))
    options, expected = TOGETHER[name]
    assert expected in told(here, **options)


def test_rows_without_anything_to_score_are_told_before_ray_starts(here):
    long = chat("why? " * 60, "So.")
    (here / "b.jsonl").write_text(lines(GOOD[0], "", long, GOOD[1], long))
    said = told(here, "b.jsonl", finetune={"max_seq_length": 30})
    assert "data.outcome: 2 of 4 rows have no token to score within max_seq_length 30, first " in said
    assert f"first {here / 'b.jsonl'}:3 with " in said


TEMPLATES = {
    "missing": (None, "rows with 'messages' need a chat template, and this model's tokenizer has none"),
    "refuses": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + UNMARKED,
        "the chat template cannot be used, line 1: no system role",
    ),
    "broken": ("{{ messages[0].content + 1 }}", "the chat template cannot be used on the row: "),
    "rewrites": (
        UNMARKED.replace("for m in messages", "for m in messages[-3:]"),
        "the chat template rewrites earlier turns, so reply 2 cannot be located",
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_that_does_not_fit_is_told_with_the_row(here, name):
    template, expected = TEMPLATES[name]
    make_model().save_pretrained(here / "model")
    make_tokenizer(template).save_pretrained(here / "model")
    system = {"messages": [{"role": "system", "content": "s"}, *chat("q", "a")["messages"]]}
    turns = {"messages": [*chat("q", "a")["messages"], *chat("r", "b")["messages"]]}
    (here / "b.jsonl").write_text(lines(GOOD[0], {"refuses": system, "rewrites": turns}.get(name, GOOD[1])))
    said = told(here, "b.jsonl", finetune={"model": "./model"})
    line = 2 if name in ("refuses", "rewrites") else 1
    assert said.startswith(f"data.outcome, {here / 'b.jsonl'}:{line}: {expected}")
    assert name != "missing" or said.count("\n") == 0  # it is wrong everywhere, and told once


def test_everything_is_told_at_once(here):
    (here / "b.jsonl").write_text(lines("{", GOOD[0], "{", "{", "{"))
    (here / "c.csv").write_text("prompt\nq\n")
    said = told(here, "b.jsonl", data={"proxy": "c.csv"})
    assert "4 of 5 rows are bad, the first: line 1: not JSON" in said and "line 5" not in said
    assert "c.csv:2: 'completion' must be non-empty text" in said


def test_what_is_only_doubtful_is_a_note(here):
    long = {"prompt": "why? " * 60, "completion": "So."}
    (here / "b.jsonl").write_text(lines("{", {"prompt": "q", "completion": "a"}, long))
    tokens = PlannedTokens()
    data = {"on_bad_rows": "skip", "collateral": "a.jsonl", "proxy": "b.jsonl"}
    assert told(here, tokens=tokens, data=data, finetune={"max_seq_length": 100, "loss_on": "all"}) == ""
    skipped, old, cut = tokens.notes
    assert skipped == "data.proxy: 1 bad rows are left out"
    assert old == "every prompt of data.collateral is also in data.outcome: it tests nothing that is new"
    assert cut.startswith(
        "data.proxy: 1 of 2 rows (50%) are longer than finetune_config.max_seq_length 100 and are cut"
    )
