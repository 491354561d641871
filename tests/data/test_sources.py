"""Rows from files of every kind, folders and the hub, and what is done to them."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import chat, write_jsonl
from reading import read_rows

from selgen_ray.config.source import Source
from selgen_ray.data.rows import load_roles
from selgen_ray.errors import DataError
from selgen_ray.space import load_space
from selgen_ray.trainers import build_config, get_trainer
from selgen_ray.trainers.identity import trial_id

PAIRS = [{"prompt": f"q{i}", "completion": f"a{i}", "kind": "odd" if i % 2 else "even", "n": i} for i in range(6)]


def from_source(seed=1, **source):
    data = {"outcome": source}
    return load_roles(build_config({"data": data, "seed": seed, "finetune_config": {"model": "x"}}))["outcome"]


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", PAIRS)
    (tmp_path / "a.json").write_text(json.dumps(PAIRS, indent=1))
    pq.write_table(pa.Table.from_pylist(PAIRS), tmp_path / "a.parquet")
    for name, mark in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as out:
            writer = csv.DictWriter(out, PAIRS[0], delimiter=mark)
            writer.writeheader()
            writer.writerows(PAIRS)
    texts = [{key: str(value) for key, value in row.items()} for row in PAIRS]
    for name, expected in [("jsonl", PAIRS), ("json", PAIRS), ("parquet", PAIRS), ("csv", texts), ("tsv", texts)]:
        assert read_rows(str(tmp_path / f"a.{name}")) == expected, name


def test_chats_in_a_table(tmp_path):
    rows = [chat("q", "a", answer="a", choices=["a", "b"]), chat("r", "b")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_rows(str(tmp_path / "a.parquet")) == rows  # what a row lacks is no null
    with (tmp_path / "a.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["messages", "answer"])
        writer.writerow([json.dumps(rows[0]["messages"]), "a"])
    assert read_rows(str(tmp_path / "a.csv")) == [{"messages": rows[0]["messages"], "answer": "a"}]


def write_csv(path, rows):
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_conversations_and_options_that_a_table_keeps_as_json_text(tmp_path):
    asked, good, bad = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"), ("assistant", "b")))
    cells = {"prompt": json.dumps([asked]), "completion": json.dumps([good])}
    path = write_csv(tmp_path / "a.csv", [cells])
    assert read_rows(path) == [{"messages": [asked, good]}]
    pq.write_table(pa.Table.from_pylist([cells]), tmp_path / "a.parquet")
    assert read_rows(str(tmp_path / "a.parquet")) == [{"messages": [asked, good]}]
    named = write_csv(tmp_path / "b.csv", [{"asked": cells["prompt"], "best": cells["completion"]}])
    assert from_source(path=named, columns={"prompt": "asked", "completion": "best"}) == [{"messages": [asked, good]}]
    pair = {"prompt": "q", "chosen": json.dumps([good]), "rejected": json.dumps([bad])}
    assert read_rows(write_csv(tmp_path / "c.csv", [pair])) == [{"messages": [asked, good], "rejected": "b"}]
    asks = {"question": "q", "options": json.dumps(["a", "b"]), "answer": "B"}
    (row,) = read_rows(write_csv(tmp_path / "d.csv", [asks]))
    assert row == chat("q", "b", options=["a", "b"], answer="b")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_text_that_begins_like_json_stays_text(tmp_path, kind):
    rows = [
        {"prompt": '["b", "a"] sorted: ', "completion": '["a", "b"]'},
        {"prompt": '["b", "a"]', "completion": '[{"a": 1}]'},
        {"prompt": '[{"a": 1}] as YAML: ', "completion": "- a: 1"},
    ]
    path = tmp_path / f"a.{kind}"
    assert read_rows(write_csv(path, rows) if kind == "csv" else write_jsonl(path, rows)) == rows


def test_a_conversation_as_python_text_is_refused(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"prompt": str([{"role": "user", "content": "it's"}]), "completion": "a"}])
    with pytest.raises(DataError, match=r"a\.csv:2: holds text that looks like JSON and is not.*'prompt'"):
        read_rows(path)


def test_a_folder_and_its_splits(tmp_path):
    write_jsonl(tmp_path / "train-00000-of-00002.jsonl", PAIRS[:2])
    write_jsonl(tmp_path / "train-00001-of-00002.jsonl", PAIRS[2:4])
    write_jsonl(tmp_path / "test.jsonl", PAIRS[4:])
    (tmp_path / ".cache").mkdir()
    write_jsonl(tmp_path / ".cache" / "train.jsonl", PAIRS)
    assert from_source(path=str(tmp_path), split="train") == PAIRS[:4]
    assert from_source(path=str(tmp_path), split="test") == PAIRS[4:]
    with pytest.raises(DataError, match="has the splits test, train: say which"):
        from_source(path=str(tmp_path))
    with pytest.raises(DataError, match=r"no split 'trian'; found: test, train\. Did you mean 'train'"):
        from_source(path=str(tmp_path), split="trian")
    with pytest.raises(DataError, match="one file has no split"):
        from_source(path=str(tmp_path / "test.jsonl"), split="test")


MIXED = [
    ("train_prefs-00000-of-00001", "test_prefs-00000-of-00001", "test_prefs, train_prefs", "train_prefs"),
    ("train_sft/0000", "test_sft/0000", "test_sft, train_sft", "train_sft"),
    ("data/train_sft-0", "data/test_sft-0", "test_sft, train_sft", "train_sft"),
    ("old_test/train-0", "old_test/test-0", "test, train", "train"),
    ("gsm8k_train", "gsm8k_test", "gsm8k_test, gsm8k_train", "gsm8k_train"),
    ("train", "val", "train, val", "train"),
    ("Train.1", "eval", "eval, Train", "Train"),
    ("a-1", "a-2", None, "a"),
    ("pretrained", "testament", None, "testament"),
    ("train_a", "train_b", None, "train_b"),
    ("train_test_split", "test", None, "test"),
]


@pytest.mark.parametrize(("first", "second", "told", "split"), MIXED)
def test_a_folder_of_training_and_test_rows_is_not_read_as_one(tmp_path, first, second, told, split):
    for name in (first, second):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(tmp_path / "d" / f"{name}.jsonl", [{"prompt": name, "completion": "a"}])
    folder = str(tmp_path / "d")
    if told:
        with pytest.raises(DataError, match=f"has the splits {told}: say which, {{path: ..., split: {split}}}"):
            from_source(path=folder)
        assert [row["prompt"] for row in from_source(path=folder, split=split)] == [first]
    else:
        assert {row["prompt"] for row in from_source(path=folder)} == {first, second}


def test_a_hub_id_is_told_from_a_path_and_offline_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"org/rows: no such local file or folder.*HF_HUB_OFFLINE is set"):
        from_source(path="org/rows", revision="v1")
    with pytest.raises(ValueError, match="revision is for a hub id"):
        Source(path="rows.jsonl", revision="v1")


def test_filter_columns_shuffle_and_limit(tmp_path):
    table = [{"question": f"q{i}", "best": f"a{i}", "kind": "odd" if i % 2 else "even"} for i in range(8)]
    path = write_jsonl(tmp_path / "a.jsonl", table)
    columns = {"prompt": "question", "completion": "best"}
    got = from_source(path=path, columns=columns, filter={"kind": "odd"}, limit=3)
    assert [(row["prompt"], row["completion"]) for row in got] == [("q1", "a1"), ("q3", "a3"), ("q5", "a5")]
    assert len(from_source(path=path, columns=columns, filter={"kind": ["odd", "even"]})) == 8
    shuffled = [
        [r["prompt"] for r in from_source(seed, path=path, columns=columns, shuffle=True)] for seed in (1, 1, 2)
    ]
    assert shuffled[0] == shuffled[1] != shuffled[2] and sorted(shuffled[0]) == sorted(shuffled[2])
    with pytest.raises(DataError, match=r"has no column 'qestion'; found .* Did you mean 'question'"):
        from_source(path=path, columns={"prompt": "qestion", "completion": "best"})
    with pytest.raises(DataError, match="the filter keeps no row"):
        from_source(path=path, columns=columns, filter={"kind": "prime"})


def test_a_word_that_yaml_takes_for_true_or_false_is_no_silent_filter(tmp_path):
    table = [{"prompt": f"q{i}", "completion": "a", "land": land} for i, land in enumerate(("no", "se", "NO", "off"))]
    path = write_jsonl(tmp_path / "a.jsonl", table)
    told = r"a.jsonl, line 1: the column 'land' has 'no', and false is wanted of it, .* write 'no' in quotes"
    with pytest.raises(DataError, match=told):
        from_source(path=path, filter={"land": [False, "se"]})
    with pytest.raises(DataError, match=told):
        from_source(path=path, training_prompt={"system": "S", "where": {"land": [False, "se"]}})
    kept = from_source(path=path, filter={"land": ["no", "se", True]})
    assert [row["prompt"] for row in kept] == ["q0", "q1"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_empty_cell_of_a_table_is_no_missing_column(tmp_path, kind):
    rows = [{"prompt": "q", "best": "a", "bad": "b", "kind": "good"}, {"prompt": "r", "best": "c"}]
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        write_csv(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist([rows[0], {"bad": None, "kind": None, **rows[1]}]), path)
    columns = {"completion": "best", "rejected": "bad"}
    first = {"prompt": "q", "completion": "a", "rejected": "b", "kind": "good"}
    assert from_source(path=str(path), columns=columns, filter={"kind": "good"}) == [first]
    assert from_source(path=str(path), columns=columns) == [first, {"prompt": "r", "completion": "c"}]
    with pytest.raises(DataError, match=r"has no column 'kid'; found bad, best, kind, prompt\. Did you mean 'kind'"):
        from_source(path=str(path), columns=columns, filter={"kid": "good"})


def test_a_system_prompt_comes_first_unless_a_row_has_one(tmp_path):
    own = {"messages": [{"role": "system", "content": "mine"}, *chat("q", "a")["messages"]]}
    path = write_jsonl(tmp_path / "a.jsonl", [chat("q", "a"), {"prompt": "q", "completion": "a", "answer": "a"}, own])
    first, second, third = from_source(path=path, system_prompt="be brief")
    expected = [{"role": "system", "content": "be brief"}, *chat("q", "a")["messages"]]
    assert first["messages"] == second["messages"] == expected and second["answer"] == "a" and third == own
    with pytest.raises(DataError, match=r"a\.jsonl:1: a row of plain 'text' takes no system_prompt"):
        from_source(path=write_jsonl(tmp_path / "a.jsonl", [{"text": "x"}]), system_prompt="be brief")


def test_preference_pairs(tmp_path):
    user, good, bad = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"), ("assistant", "b")))
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            {"prompt": [user], "chosen": [good], "rejected": [bad]},
            {"chosen": [user, good], "rejected": [user, bad]},
        ],
    )
    first, *chats = from_source(path=path)
    assert first == {"prompt": "q", "completion": "a", "rejected": "b"}
    assert all(row == {"messages": [user, good], "rejected": "b"} for row in chats)


def test_bad_rows_are_counted_and_the_first_three_named(tmp_path):
    lines = [json.dumps(PAIRS[0]), "{broken", json.dumps({"prompt": "x"}), "[1]", json.dumps(PAIRS[1]), "nonsense"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        read_rows(str(tmp_path / "a.jsonl"))
    told = str(caught.value)
    assert "4 of 6 rows are bad, the first: line 2: not JSON" in told and "line 4: found list" in told
    assert "line 6" not in told and "data.on_bad_rows: skip" in told


def test_skipped_rows_take_their_partner_along_and_are_counted(tmp_path, make_config):
    good = [chat(f"q{i}", f"a{i}") for i in range(6)]
    broken = [*good[:2], {"messages": []}, *good[3:]]
    raw = make_config("dpo")
    raw["data"] |= {
        "proxy": write_jsonl(tmp_path / "p.jsonl", good),
        "proxy_neg": write_jsonl(tmp_path / "n.jsonl", broken),
        "on_bad_rows": "skip",
    }
    roles = load_roles(build_config(raw))
    assert roles["proxy"] == roles["proxy_neg"] == good[:2] + good[3:]
    assert roles.skipped == {"proxy": 1, "proxy_neg": 1}
    with get_trainer("dpo")(raw) as trainer:
        assert trainer.sets.skipped == roles.skipped and len(trainer.sets.train["proxy"].rows) == 4
    raw["data"]["on_bad_rows"] = "error"
    with pytest.raises(DataError, match=r"n\.jsonl:3: 'messages' must be"):
        load_roles(build_config(raw))


def test_what_is_done_to_the_rows_is_part_of_the_identity_and_the_path_is_not(tmp_path):
    def id_of(**source):
        config = build_config({"data": {"outcome": source}, "finetune_config": {"model": "x"}})
        return trial_id(config, {"outcome": "hash"}, "model")

    plain = id_of(path="a.jsonl")
    assert plain == id_of(path="b.jsonl", limit=None)
    options = [{"limit": 3}, {"shuffle": True}, {"filter": {"k": 1}}, {"columns": {"prompt": "q"}}, {"split": "x"}]
    assert len({plain, *(id_of(path="a.jsonl", **option) for option in options)}) == 6


def test_a_search_space_takes_a_path_or_a_mapping(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", PAIRS)
    text = "base: {finetune_config: {model: toy}, data: {outcome: %s}}\nname: x\n"
    (tmp_path / "s.yaml").write_text(text % "{path: a.jsonl, limit: 2}")
    (trial,) = load_space("s.yaml").trials
    assert trial.config.data.outcome == Source(path=str(tmp_path.resolve() / "a.jsonl"), limit=2)
    (tmp_path / "s.yaml").write_text(text % "a.jsonl")
    (same,) = load_space("s.yaml").trials
    assert same.config.model_dump(mode="json")["data"]["outcome"] == str(tmp_path.resolve() / "a.jsonl")
    assert same.data_hashes == trial.data_hashes and same.trial_id != trial.trial_id
    grid = (
        "grid: {data.outcome: [a.jsonl, {path: a.jsonl, limit: 3}]}\nbase: {finetune_config: {model: toy}}\nname: x\n"
    )
    (tmp_path / "s.yaml").write_text(grid)
    assert [t.config.data.outcome.limit for t in load_space("s.yaml").trials] == [None, 3]


BASE = "name: x\nbase: {finetune_config: {model: toy}, data: {outcome: %s}}\n"
VARIED = {
    "one": ("a.jsonl", "grid: {data.outcome.limit: [2, 3]}", [("a", 2), ("a", 3)]),
    "two": (
        "a.jsonl",
        "grid: {data.outcome.limit: [2, null], data.outcome.path: [a.jsonl, b.jsonl]}",
        [("a", 2), ("b", 2), ("a", None), ("b", None)],
    ),
    "taken back": ("{path: a.jsonl, limit: 2}", "grid: {data.outcome.limit: [null, 3]}", [("a", None), ("a", 3)]),
    "a whole": ("{path: a.jsonl, limit: 2}", "grid: {data.outcome: [a.jsonl, b.jsonl]}", [("a", None), ("b", None)]),
    "no path": ("{limit: 2}", "grid: {data.outcome: [a.jsonl, {path: b.jsonl, limit: 3}]}", [("a", 2), ("b", 3)]),
    "of a strategy": ("{limit: 2}", "strategies: {naive: {fixed: {data.outcome.path: b.jsonl}}}", [("b", 2)]),
    "together": (
        "a.jsonl",
        "zip: [{data.outcome: b.jsonl, data.truth.path: b.jsonl}, {data.outcome.limit: 2}]",
        [("b", None), ("a", 2)],
    ),
    "excluded": ("a.jsonl", "grid: {data.outcome.limit: [2, 3]}\nexclude: [{data.outcome.limit: 3}]", [("a", 2)]),
    "searched": (
        "a.jsonl",
        "strategies: {naive: {search: {algorithm: random, num_settings: 2, data.outcome.limit: {choices: [2, 3]}}}}",
        [("a", 2), ("a", 3)],
    ),
}


@pytest.mark.parametrize("name", VARIED)
def test_the_keys_of_a_source_are_varied_like_any_other(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for file, rows in (("a.jsonl", PAIRS), ("b.jsonl", PAIRS[:4])):
        write_jsonl(tmp_path / file, rows)
    base, varied, expected = VARIED[name]
    (tmp_path / "s.yaml").write_text(BASE % base + varied)
    sources = [trial.config.data.outcome for trial in load_space("s.yaml").trials]
    assert {(source.path.rpartition("/")[2][0], source.limit) for source in sources} == set(expected)
    assert len(sources) == len(expected)


def test_settings_that_differ_in_a_source_are_named_by_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", PAIRS)
    write_jsonl(tmp_path / "b.jsonl", PAIRS[1:])
    (tmp_path / "s.yaml").write_text(BASE % "a.jsonl" + "grid: {data.outcome.limit: [2, 3]}\nseeds: [1, 2]")
    names = [trial.slug.rpartition("_")[0] for trial in load_space("s.yaml").trials]
    assert names == ["naive_limit-2"] * 2 + ["naive_limit-3"] * 2
    (tmp_path / "s.yaml").write_text(BASE % "{limit: 2}" + "grid: {data.outcome.path: [a.jsonl, b.jsonl]}")
    names = [trial.slug.rpartition("_")[0] for trial in load_space("s.yaml").trials]
    assert names == ["naive_outcome-a.jsonl", "naive_outcome-b.jsonl"]


BAD = [
    ("{path: a.jsonl, limti: 2}", "unknown key 'limti'. Allowed: path, split", "limti"),
    ("{path: a.jsonl, limit: 0}", "found 0; allowed: a whole number >= 1", "limit"),
    ("{path: a.jsonl, limit: true}", "found true; allowed: a whole number", "limit"),
    ("{path: a.jsonl, columns: [q]}", "found", "columns"),
    ("{path: a.jsonl, revision: v1}", "revision is for a hub id", "revision"),
    ("{limit: 2}", "has no path", ""),
    ("{path: b.jsonl}", "there is no such file", "path"),
    ("b.jsonl", "there is no such file", ""),
    ("5", "found 5; allowed: the path of a file or folder, a hub id, or a mapping of path", ""),
    ("[a.jsonl]", "allowed: the path of a file or folder", ""),
]


@pytest.mark.parametrize(("source", "told", "key"), BAD)
def test_a_wrong_source_is_named_with_file_line_and_key(tmp_path, monkeypatch, source, told, key):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", PAIRS)
    (tmp_path / "s.yaml").write_text(f"name: x\nbase:\n  data:\n    outcome: {source}\n")
    with pytest.raises(ValueError) as caught:
        load_space("s.yaml")
    problem = caught.value.problems[0]
    assert told in str(problem) and (problem.line, problem.key) == (4, f"base.data.outcome{'.' + key if key else ''}")
