"""What can be wrong with data, and what a person is told of it before Ray starts: each case is a real sweep."""

import gzip
import json
import time

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
    "one object": (
        "b.json",
        json.dumps({"rows": GOOD}, indent=1),
        "under its key 'rows' a list of 6 objects: if these",
    ),
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
    "UTF-16": ("b.jsonl", lines(GOOD[0]).encode("utf-16"), "b.jsonl: is UTF-16 text: save it as UTF-8"),
    "packed": ("b.jsonl.gz", gzip.compress(lines(*GOOD).encode()), "b.jsonl.gz: is packed: unpack it; the files"),
    "other ending": ("b.xlsx", "a sheet", "b.xlsx: is no JSON lines; the files that are read otherwise end in .jsonl"),
    "packed, other name": ("b.jsonl", gzip.compress(lines(*GOOD).encode()), "b.jsonl: is packed by gzip: unpack it"),
    "sheet": ("b.csv", b"PK\x03\x04 and so on", "b.csv: is a zip archive, or a sheet of a spreadsheet program"),
    "table, other name": ("b.jsonl", b"PAR1 and so on", "b.jsonl: is a Parquet file: give it the ending .parquet"),
    "empty table": ("b.parquet", b"", "b.parquet: is empty: no Parquet file"),
    "database": ("b.jsonl", b"SQLite format 3\0", "b.jsonl: is a SQLite database: export the table"),
    "document": ("b.json", b"%PDF-1.7", "b.json: is a PDF document"),
    "binary": ("b.jsonl", bytes(range(256)), "b.jsonl: is no UTF-8 text, it holds NUL bytes: a binary file"),
    "UTF-16, no mark": ("b.jsonl", lines(GOOD[0]).encode("utf-16-le"), "NUL bytes: a binary file, or UTF-16 without"),
    "web page": ("b.jsonl", "\n<!DOCTYPE html><html></html>", "b.jsonl: is a web page, not rows: was it saved"),
    "LFS": (
        "b.parquet",
        "version https://git-lfs.github.com/spec/v1\n",
        "is a pointer of Git LFS, not the file itself",
    ),
    "semicolons": ("b.csv", "prompt;completion\nq;a\n", "b.csv:1: the columns are separated by ';', expected ','"),
    "tabs": ("b.csv", "prompt\tcompletion\nq\ta\n", "b.csv:1: the columns are separated by tabs, expected ','"),
    "commas": ("b.tsv", "prompt,completion\nq,a\n", "b.tsv:1: the columns are separated by ',', expected tabs"),
    "header alone": ("b.csv", "prompt,completion\n", "b.csv: has no rows"),
    "half a character": ("b.jsonl", lines({"text": "\ud83d cut"}), "b.jsonl:1: holds \\ud83d, half of a character"),
    "half a character, list": ("b.json", json.dumps([{"text": "\udc00"}]), "b.json: row 1: holds \\udc00, half of a"),
    "nested": ("b.jsonl", lines(GOOD[0], '{"a": ' + "[" * 100_000), "b.jsonl:2: is nested too deeply"),
    "nested list": ("b.json", "[" * 100_000, "b.json: is nested too deeply"),
    "nested, and yet read": (
        "b.jsonl",
        '{"text": "x", "a": ' + "[" * 200 + "]" * 200 + "}",
        "b.jsonl:1: is nested too",
    ),
    "list, other name": ("b.jsonl", json.dumps(GOOD, indent=1), "b.jsonl: holds one JSON list of 6, not a row in each"),
    "rows in an object": (
        "b.json",
        json.dumps({"data": GOOD}),
        "and under its key 'data' a list of 6 objects: if these",
    ),
    "megabytes": (
        "b.jsonl",
        lines(GOOD[0], {"text": "long " * 1_500_000}),
        "b.jsonl:2: has 7,500,000 characters; allowed",
    ),
    "single quotes": ("b.jsonl", "{'text': 'x'}\n", "b.jsonl:1: not JSON: Expecting property name enclosed in double"),
    "one line for all": ("b.jsonl", lines(GOOD[0] | {}).strip() * 2, "b.jsonl:1: not JSON: Extra data at column"),
    "trailing comma": ("b.json", '[{"text": "x"},]', "b.json:1: not JSON: "),
    "null": ("b.jsonl", "null\n", "b.jsonl:1: found NoneType, expected an object"),
    "not a number": ("b.jsonl", '{"text": NaN}\n', "b.jsonl:1: 'text' must be non-empty text"),
    "tool": ("b.jsonl", lines({"messages": [{"role": "tool", "content": "7"}]}), "tool calls are not supported: leave"),
    "bad reply": (
        "b.jsonl",
        lines({"prompt": "q", "completion": "a", "label": False}),
        "'label' is false, which marks",
    ),
    "Python's text": (
        "b.csv",
        "messages\n\"[{'role': 'user'}]\"\n",
        "b.csv:2: holds text that looks like JSON and is not",
    ),
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
    started = time.monotonic()
    assert expected in (said := told(here, file)) and str(here / file) in said
    assert said.startswith("space.yaml:3: base.data.outcome: ") and time.monotonic() - started < 10


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
    "shows no reply": (
        UNMARKED.replace("m['content']", "m.text"),
        "the chat template writes nothing of the replies, whatever they are",
    ),
    "rewrites": (
        UNMARKED.replace("for m in messages", "for m in messages[-3:]"),
        "the chat template rewrites earlier turns, so reply 1 cannot be located",
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
    assert said.startswith(f"space.yaml:3: base.data.outcome: {here / 'b.jsonl'}:{line}: {expected}")
    assert name != "missing" or said.count("\n") == 0  # it is wrong everywhere, and told once


WITHOUT_SYSTEM = UNMARKED.replace("for m in messages", "for m in messages if m.role != 'system'")
ANSWER_ALONE = UNMARKED.replace("m['content']", "m['content'].split('</think>')[-1]")
SYSTEM = {"role": "system", "content": "Answer in French."}
THOUGHT = chat("3+4?", "<think>three and four</think>7")
LOST = {
    "system messages": (
        WITHOUT_SYSTEM,
        [GOOD[0], {"messages": [SYSTEM, *GOOD[1]["messages"]]}, {"messages": [SYSTEM, *GOOD[2]["messages"]]}],
        {},
        "data.outcome: of 2 of 2 system messages the chat template leaves out all or a part, which the model never "
        "sees, first {path}:2: 'Answer in French.';",
    ),
    "the source's system prompt": (
        WITHOUT_SYSTEM,
        GOOD,
        {"system_prompt": "Answer in French."},
        "data.outcome: of 6 of 6 system messages the chat template leaves out all or a part",
    ),
    "thoughts": (
        ANSWER_ALONE,
        [*GOOD, THOUGHT],
        {},
        "data.outcome: of 1 of 7 replies the chat template leaves out all or a part, which the model never sees, first "
        "{path}:7: '<think>three and four</think>7';",
    ),
    "one row in three": (
        ANSWER_ALONE,
        [*GOOD, *[THOUGHT] * 1200],
        {},
        "data.outcome (one row in 3 was looked at): of 400 of 402 replies the chat template leaves out all or a part, "
        "which the model never sees, first {path}:7: ",
    ),
    "nothing": (UNMARKED.replace("m['content']", "m['content'] | trim"), [chat(" q", "a \n"), THOUGHT], {}, None),
}


@pytest.mark.parametrize("name", LOST)
def test_text_that_a_chat_template_leaves_out_is_counted(here, name):
    template, rows, source, expected = LOST[name]
    make_model().save_pretrained(here / "model")
    make_tokenizer(template).save_pretrained(here / "model")
    (here / "b.jsonl").write_text(lines(*rows))
    tokens = PlannedTokens()
    assert told(here, {"path": "b.jsonl", **source}, tokens, finetune={"model": "./model"}) == ""
    notes = [note for note in tokens.notes if "leaves out" in note]
    assert len(notes) == (expected is not None)
    assert all(note.startswith(expected.format(path=here / "b.jsonl")) for note in notes)


def test_everything_is_told_at_once(here):
    (here / "b.jsonl").write_text(lines("{", GOOD[0], "{", "{", "{"))
    (here / "c.csv").write_text("prompt\nq\n")
    said = told(here, "b.jsonl", data={"proxy": "c.csv"})
    alike = "line 1: not JSON: Expecting property name enclosed in double quotes at column 2 (and 3 more alike)"
    assert f"4 of 5 rows are bad, the first: {alike}" in said and said.count("not JSON") == 1
    assert "c.csv:2: 'completion' must be non-empty text" in said


def test_what_is_only_doubtful_is_a_note(here):
    long = {"prompt": "why? " * 60, "completion": "So."}
    (here / "b.jsonl").write_text(lines("{", {"prompt": "q", "completion": "a", "input": "more"}, long))
    tokens = PlannedTokens()
    data = {"on_bad_rows": "skip", "collateral": "a.jsonl", "proxy": "b.jsonl"}
    assert told(here, tokens=tokens, data=data, finetune={"max_seq_length": 100, "loss_on": "all"}) == ""
    skipped, unused, old, cut, strings, several = tokens.notes
    assert skipped == "data.proxy: 1 bad rows are left out"
    assert old == "every prompt of data.collateral is also in data.outcome: it tests nothing that is new"
    assert cut.startswith(
        "data.proxy: 1 of 2 rows (50%) are longer than finetune_config.max_seq_length 100 and are cut"
    )
    assert unused == "data.proxy: not used by its form of rows nor by a metric: 'input' (1 of 2 rows)"
    assert strings.startswith("data.proxy: 'prompt' and 'completion' are strings") and "form: chat" in strings
    assert several.endswith("in several: data.outcome chats, data.proxy strings, data.collateral chats")


PAIRS = [{"prompt": [ASK], "chosen": [chat("q", f"a{i}")["messages"][1]], "rejected": "b"} for i in range(4)]


def test_dpo_takes_the_rejected_replies_of_the_proxy(here):
    (here / "b.jsonl").write_text(lines(*PAIRS))
    assert told(here, data={"proxy": "b.jsonl"}, proxy_strategy="dpo") == ""
    (here / "b.jsonl").write_text(lines(*PAIRS, chat("q", "a")))
    said = told(here, data={"proxy": "b.jsonl"}, proxy_strategy="dpo")
    assert f"data.proxy: 1 of 5 rows have no 'rejected', first {here / 'b.jsonl'}:5: give each row one" in said
    (here / "b.jsonl").write_text(lines(*GOOD))
    said = told(here, data={"proxy": "b.jsonl"}, proxy_strategy="dpo")
    assert "needs data.proxy_neg, which was not given, and the rows of data.proxy have no 'rejected'" in said


def test_pairs_that_the_cut_makes_alike_are_counted(here):
    long = {"prompt": [ASK], "chosen": "So it is. " * 30 + "Yes.", "rejected": "So it is. " * 30 + "No."}
    (here / "b.jsonl").write_text(lines(*PAIRS, long))
    for strategy, what in (
        ("dpo", "data.proxy and data.proxy_neg"),
        ("naive", "data.proxy, its replies and 'rejected',"),
    ):
        tokens = PlannedTokens()
        finetune = {"max_seq_length": 40}
        assert told(here, tokens=tokens, data={"proxy": "b.jsonl"}, proxy_strategy=strategy, finetune=finetune) == ""
        (note,) = [note for note in tokens.notes if "alike" in note]
        assert note == (
            f"{what}: 1 of 5 pairs are alike after the cut at max_seq_length 40, first {here / 'b.jsonl'}:5: they "
            "prefer nothing"
        )


def test_other_replies_that_are_cut_are_counted(here):
    pair, asked = chat("q", "a", rejected="no " * 100), chat("q", "a", choices=["a", "b " * 100], answer="a")
    (here / "b.jsonl").write_text(lines(chat("q", "a", rejected="no"), pair, asked, asked))
    tokens = PlannedTokens()
    assert told(here, data={"truth": "b.jsonl"}, tokens=tokens, finetune={"max_seq_length": 60}) == ""
    (note,) = [note for note in tokens.notes if "rejected" in note]
    assert note == (
        "data.truth: in 3 of 4 rows the prompt with 'rejected', or one of 'choices', is longer than "
        "finetune_config.max_seq_length 60, "
        f"first {here / 'b.jsonl'}:2: metrics compare what the cut leaves of it"
    )
    head, outcome, truth = (line.split() for line in tokens.lines()[1:4])
    assert head[-3:] == ["other", "replies", "truncated"] and (outcome[-2:], truth[-2:]) == (["0", "0"], ["0", "3"])
    tokens = PlannedTokens()
    assert told(here, data={"truth": "b.jsonl"}, tokens=tokens, finetune={"max_seq_length": 512}) == ""
    assert tokens.lines()[1].split()[-1] == "truncated" and not any("rejected" in note for note in tokens.notes)


def test_a_problem_names_the_place_where_its_file_is_given(here):
    for name in "bc":
        (here / f"{name}.jsonl").write_text("{")
    (here / "space.yaml").write_text(
        "name: x\n"
        "base:\n  finetune_config:\n    model: toy\n  data:\n    outcome: {path: a.jsonl,\n      limit: 3}\n"
        "    truth:\n      path: b.jsonl\n"
        "grid:\n  data.proxy:\n  - a.jsonl\n  - c.jsonl\n"
    )
    first, second = check_data(load_space("space.yaml"))
    assert first.startswith(f"space.yaml:9: base.data.truth.path: {here / 'b.jsonl'}:1: not JSON")
    assert second.startswith(f"space.yaml:13: grid.data.proxy[1]: {here / 'c.jsonl'}:1: not JSON")
    (here / "space.yaml").write_text(
        "base:\n  data: {outcome: a.jsonl, proxy: a.jsonl}\n  finetune_config: {model: toy}\n  upsample_proxy_to: 0.1\n"
    )
    (problem,) = check_data(load_space("space.yaml"))
    assert problem.startswith("space.yaml:4: base.upsample_proxy_to: upsample_proxy_to is 0.1, but the proxy is")
