"""Tokens in Arrow files: what is read back, who shares them, and what becomes of a damaged one."""

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple

import pytest
from conftest import MARKED, chat, make_model, make_roles, make_tokenizer, write_jsonl
from running import dry_run, write_space

from selgen_ray.data.encode import encode_rows
from selgen_ray.data.lengths import length_report, table
from selgen_ray.data.tokens import RowEncoder, TokenRows, tokenizer_hash
from selgen_ray.driver.preflight import check_data
from selgen_ray.driver.token_plan import PlannedTokens
from selgen_ray.space import load_space
from selgen_ray.storage import Folder, node_cache
from selgen_ray.storage.cache import Cache
from selgen_ray.trainers import get_trainer

ROWS = make_roles()["outcome"]


def alone(kind, key, compute):
    return compute()


def encode(rows, tokenizer, length=256, file=alone):
    return RowEncoder(tokenizer, length, "completion").encode(rows, "data.outcome", lambda n: f"row {n}", file)


@pytest.fixture
def cache(tmp_path):
    return Cache(Folder(str(tmp_path / "cache")), poll_s=0.05)


@pytest.fixture
def node(tmp_path, monkeypatch):
    monkeypatch.setenv("SELGEN_RAY_NODE_CACHE", str(tmp_path / "node"))
    return tmp_path / "node"


def test_what_is_read_back_is_what_was_made(tokenizer):
    expected = encode_rows(ROWS, tokenizer, 40, "completion", "x")
    found = encode(ROWS, tokenizer, 40)
    assert list(found) == expected and [found[i] for i in range(-1, 20)] == [expected[-1], *expected[:20]]
    assert found.lengths == [len(e) for e in expected] and found.num_scored == [sum(e.is_reply) for e in expected]
    assert found.uncut == [len(e) for e in encode_rows(ROWS, tokenizer, 256, "completion", "x")]
    assert {type(v) for e in found for part in astuple(e) for v in part} == {int, bool}
    numbers = [3, 3, 0, 20]
    taken, joined = found.take(numbers), TokenRows.joined([found, found.take([5, 1])])
    assert list(taken) == [expected[i] for i in numbers] and list(taken.take([3, 1])) == [expected[20], expected[3]]
    assert list(joined[20:]) == [expected[20], expected[5], expected[1]] and len(joined) == 23
    assert list(joined.take([22, 0, 21])) == [expected[1], expected[0], expected[5]] and joined.lengths[-1] == len(
        expected[1]
    )
    with pytest.raises(IndexError):
        joined[23]


def test_the_report_counts_before_the_cut_and_scores_after_it():
    tokenizer = make_tokenizer(None)
    rows = [{"prompt": "ab", "completion": "c" * n} for n in (1, 2, 9)]  # and the end token
    report = length_report(encode(rows, tokenizer, 6), 6)
    assert report == {
        "rows": 3,
        "tokens": 4 + 5 + 12,
        "tokens_min": 4,
        "tokens_median": 5.0,
        "tokens_mean": 7.0,
        "tokens_max": 12,
        "scored": 2 + 3 + 4,
        "truncated": 1,
        "truncated_share": 0.333333,
    }
    assert [line.split() for line in table({"outcome": report})] == [
        ["rows", "tokens", "min", "median", "mean", "max", "scored", "truncated"],
        ["outcome", "3", "21", "4", "5", "7", "12", "9", "1", "(33.3%)"],
    ]


def made(cache):
    return sorted((cache.folder / "tokens").folders())


def test_the_key_is_all_that_decides_the_tokens_and_no_more(cache, tokenizer):
    file = lambda kind, key, compute: cache.file(kind, key, lambda _: compute())  # noqa: E731
    encode(ROWS, tokenizer, file=file)
    encode([row | {"answer": "7", "rejected": "no"} for row in ROWS], make_tokenizer(), file=file)
    assert len(made(cache)) == 1
    tokenizer(["a", "b c"], padding=True)  # leaves its mark on the tokenizer
    assert tokenizer_hash(make_tokenizer()) == tokenizer_hash(tokenizer)
    encode(ROWS[1:], tokenizer, file=file)
    encode(ROWS, tokenizer, 200, file=file)
    encode(ROWS, make_tokenizer(MARKED.replace("<|end|>", "<|end|> ")), file=file)
    other = make_tokenizer()
    other.add_tokens(["number"])
    encode(ROWS, other, file=file)
    assert len(made(cache)) == 5


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "emptied": lambda path: path.write_bytes(b""),
    "one byte": lambda path: path.write_bytes(path.read_bytes().replace(b"\x01\x01\x01\x01", b"\x01\x01\x00\x01", 1)),
    "missing": lambda path: path.unlink(),
    "of others": lambda path: path.write_bytes(b"ARROW1" + bytes(1000) + b"ARROW1"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_made_again_and_never_read(cache, tokenizer, damage, caplog):
    file = lambda kind, key, compute: cache.file(kind, key, lambda _: compute())  # noqa: E731
    expected = list(encode(ROWS, tokenizer, file=file))
    path = cache.folder.local_path / "tokens" / made(cache)[0] / "value.arrow"
    before = path.read_bytes()
    DAMAGE[damage](path)
    assert not path.exists() or path.read_bytes() != before
    assert list(encode(ROWS, tokenizer, file=file)) == expected
    assert path.read_bytes() == before and "value.arrow is missing, truncated or damaged" in caplog.text


def test_a_node_fetches_a_file_of_an_object_store_once(s3_uri, tokenizer, node, monkeypatch):
    reads = []
    read = Folder.read
    monkeypatch.setattr(Folder, "read", lambda self, name: reads.append(name) or read(self, name))
    far = Cache(Folder(s3_uri) / f"sweep_{time.time_ns()}", poll_s=0.05)
    file = lambda kind, key, compute: far.file(kind, key, lambda _: compute())  # noqa: E731
    expected = list(encode(ROWS, tokenizer, file=file))
    (path,) = (p for p in node.iterdir() if not p.name.startswith("."))
    for damage in ("truncated", "missing"):
        DAMAGE[damage](path)
        reads.clear()
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: list(encode(ROWS, tokenizer, file=file)), range(4)))
        assert found == [expected] * 4
        assert reads.count("value.arrow") == 1


def test_a_node_keeps_what_is_used_and_does_without_a_disk(node, monkeypatch):
    contents = [bytes([i]) * 1000 for i in range(4)]
    names = [hashlib.sha256(content).hexdigest() for content in contents]
    monkeypatch.setenv("SELGEN_RAY_NODE_CACHE_GB", "3.5e-6")
    for i in range(3):
        assert node_cache.fetch(names[i], lambda i=i: contents[i]).read_bytes() == contents[i]
    for i, age_s in enumerate((500, 900, 10)):
        os.utime(node / names[i], (time.time() - age_s,) * 2)
    node_cache.fetch(names[0], lambda: pytest.fail("it is there"))  # used just now
    node_cache.fetch(names[3], lambda: contents[3])
    assert sorted(p.name for p in node.iterdir() if p.name in names) == sorted(names[i] for i in (0, 2, 3))
    monkeypatch.setenv("SELGEN_RAY_NODE_CACHE", "/dev/null/x")
    assert node_cache.fetch(names[1], lambda: contents[1]) == contents[1]


def test_a_trial_finds_what_the_plan_made(tmp_path, tiny_model_dir, data_files, monkeypatch):
    space = write_space(tmp_path, tiny_model_dir, data_files, storage_path=str(tmp_path / "out"))
    printed = dry_run(space)
    assert "rows in tokens of" in printed and "collateral" in printed and not (tmp_path / "out").exists()
    spec, folder = load_space(space), Folder(str(tmp_path / "cache"))
    tokens = PlannedTokens(folder, keep=True)
    assert check_data(spec, tokens) == []
    assert not folder.exists()  # a plan that is refused leaves nothing
    tokens.publish()
    before = set(folder.files(recursive=True))
    for trial in spec.trials[:3:2]:
        with get_trainer(trial.config.proxy_strategy)(trial.config, cache=Cache(folder)) as trainer:
            assert trainer.sets.lengths["outcome"]["rows"] == 21
    assert set(folder.files(recursive=True)) == before
    monkeypatch.setattr("selgen_ray.data.encode.encode_row", lambda *_: pytest.fail("they are made"))
    again = PlannedTokens(folder)
    assert check_data(spec, again) == [] and again.lines() == tokens.lines()


def test_a_large_set_is_looked_at_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr("selgen_ray.driver.token_plan._LARGEST_LOOKED_AT", 15)
    monkeypatch.setattr("selgen_ray.driver.token_plan._SAMPLE", 10)
    write_jsonl(tmp_path / "a.jsonl", [chat(f"q{i}", "a" * (i + 1)) for i in range(20)])
    (tmp_path / "s.yaml").write_text("base: {finetune_config: {model: toy}, data: {outcome: a.jsonl}}")
    tokens = PlannedTokens()
    assert check_data(load_space(tmp_path / "s.yaml"), tokens) == []
    (note,) = tokens.notes
    assert note == "data.outcome has 20 rows: its first 10 were looked at, and are what the table counts"
    assert tokens.lines()[2].split()[:2] == ["outcome", "10"]


def test_strategies_and_data_types_share_the_tokens(make_config, cache):
    with get_trainer("naive")(make_config("naive"), cache=cache):
        first = made(cache)
    with get_trainer("dpo")(make_config("dpo", dtype="bfloat16"), cache=cache):
        assert made(cache) == first
    keys = [json.loads((cache.folder / "tokens" / one).read("key.json")) for one in first]
    assert {key["max_seq_length"] for key in keys} == {1024} and len(keys) == 5


def test_two_models_with_one_tokenizer_share_the_tokens(make_config, cache, tmp_path):
    with get_trainer("naive")(make_config(), cache=cache):
        first = made(cache)
    make_model(seed=3).save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    with get_trainer("naive")(make_config(model=str(tmp_path / "other")), cache=cache):
        assert made(cache) == first
