"""results.json: its schema, what goes into it and comes out, and that no reader sees half of one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pandas as pd
import pydantic
import pytest
from fake_sweep import fake_result, publish

import selgen_ray
from selgen_ray.reading import Unreadable, load_results, read_heads, read_sweep, read_trials
from selgen_ray.records.results import FILE_NAME, ResultHead, TrainingRecord, TrialResult, flatten, json_schema
from selgen_ray.storage import Folder

ROOT = Path(__file__).parents[2]


def test_the_schema_is_a_schema_and_tells_good_from_bad(tmp_path):
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    fake_result().publish(Folder(str(tmp_path)))
    good = json.loads((tmp_path / FILE_NAME).read_text())
    validator.validate(good)
    validator.validate(json.loads(fake_result(x=None, status="running", base=None).model_dump_json()))
    for change in (
        {"status": "done"},
        {"capability": 1.2},
        {"alignment": -0.1},
        {"schema_version": 2},
        {"seed": "one"},
        {"eval_results": {"task_test": [0.5]}},
        {"surprise": 1},
    ):
        assert not validator.is_valid(good | change), change
        with pytest.raises(pydantic.ValidationError):
            TrialResult.model_validate(good | change)
    for missing in ("trial_id", "slug", "seed", "status", "config"):
        assert not validator.is_valid({k: v for k, v in good.items() if k != missing}), missing


def test_round_trip(tmp_path):
    result = fake_result("kl_divergence", seed=3, beta_kl=10.0)
    result.add_reading(10, {"outcome": 1.25, "kl": 0.5, "total": 6.25}, {})
    result.data_hashes, result.hardware, result.git_commit = {"outcome": "ab"}, {"num_cpus": 2}, "c0ffee"
    result.error = "line 1\nline 2 with 'quotes', Ω and \\"
    folder = Folder(str(tmp_path))
    result.publish(folder)
    assert TrialResult.model_validate_json(folder.read(FILE_NAME)) == result
    text = folder.read(FILE_NAME).decode()
    assert text.index('"status"') < text.index('"capability"') < text.index('"config"') < text.index('"versions"')


def test_publish_stamps_the_time(tmp_path):
    result = fake_result(changes={"updated_at": "2020-01-01T00:00:00+00:00"})
    result.publish(Folder(str(tmp_path)))
    assert json.loads((tmp_path / FILE_NAME).read_text())["updated_at"] == result.updated_at > "2026"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_becomes_null(tmp_path, bad):
    result = fake_result(changes={"capability": bad})
    assert result.capability is None
    result.alignment = bad
    assert result.alignment is None
    result.add_reading(1, {"outcome": bad, "total": 2.0}, {})
    result.add_evaluation(20, 2.0, "", {"task_test": {"exact_match": bad}})
    result.publish(Folder(str(tmp_path)))

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads((tmp_path / FILE_NAME).read_text(), parse_constant=refuse)
    assert (found["capability"], found["alignment"]) == (None, None)
    assert found["train_losses"] == {"outcome": [None], "total": [2.0]}
    assert found["eval_results"]["task_test"]["exact_match"][-1] is None


def test_a_metric_keeps_its_place_when_an_evaluation_lacks_it():
    record = TrainingRecord()
    record.add_evaluation(0, 0.0, "", {"task_test": {"loss": 2.0}})
    record.add_evaluation(5, 1.0, "", {"task_test": {"loss": 1.5, "exact_match": 0.4}})
    record.add_evaluation(5, 1.0, "edited", {"align_test": {"loss": 3.0}})
    assert record.eval_results == {
        "task_test": {"loss": [2.0, 1.5, None], "exact_match": [None, 0.4, None]},
        "align_test": {"loss": [None, None, 3.0]},
    }
    assert record.metric("task_test/exact_match", 0) is None
    assert record.metric("task_test/exact_match", 1) == 0.4
    assert record.metric("align_test/loss") == 3.0
    assert record.metric("task_test/loss", 7) is None
    for nothing in (None, "loss", "task_test/none", "none/loss"):
        assert record.metric(nothing) is None


def test_one_row_a_trial(tmp_path):
    publish(tmp_path, fake_result(seed=1, x=0.7, y=0.6, base=(0.1, 0.9)))
    publish(tmp_path, fake_result("kl_divergence", seed=2, x=None, y=0.4, status="running", beta_kl=10.0))
    publish(tmp_path, fake_result("dpo", status="failed", base=None, changes={"eval_epochs": [], "eval_steps": []}))
    table = load_results(tmp_path, status="all").set_index("proxy_strategy")
    assert len(table) == 3
    naive, kl, dpo = table.loc["naive"], table.loc["kl_divergence"], table.loc["dpo"]
    assert (naive["capability"], naive["alignment"]) == (0.7, 0.6)
    assert (naive["base_capability"], naive["base_alignment"]) == (0.1, 0.9)
    assert naive["eval.task_test.exact_match"] == 0.7
    assert naive["config.finetune_config.target_modules"] == '["q", "v"]'
    assert naive["timings.total_s"] == 2.5 and naive["tokens.scored"] == 40
    assert pd.isna(naive["config.finetune_config.beta_kl"]) and kl["config.finetune_config.beta_kl"] == 10.0
    assert kl["status"] == "running" and pd.isna(kl["capability"]) and kl["alignment"] == 0.4
    assert pd.isna(dpo["eval.task_test.exact_match"]) and pd.isna(dpo["base_capability"])
    assert Folder(naive["folder"]).exists(FILE_NAME)


def test_completed_trials_are_given_unless_others_are_asked_for(tmp_path):
    statuses = ["completed", "diverged", "running", "failed", "stopped"]
    publish(tmp_path, *(fake_result(seed=n, status=status) for n, status in enumerate(statuses)))

    def given(**options) -> list[str]:
        return sorted(set(load_results(tmp_path, **options)["status"]))

    assert given() == given(per="epoch") == ["completed"]
    assert given(status="diverged") == ["diverged"] and given(status="all") == sorted(statuses)
    assert given(status=["completed", "failed"], per="epoch") == ["completed", "failed"]
    assert list(load_results(tmp_path, status="failed").columns) == list(load_results(tmp_path).columns)
    with pytest.raises(ValueError, match=r"status 'complete'; allowed: running, .* Did you mean 'completed'"):
        load_results(tmp_path, status="complete")


def test_a_table_has_short_knobs_and_the_labels_of_settings(tmp_path):
    publish(tmp_path, *(fake_result("kl_divergence", seed, beta_kl=beta) for beta in (1.0, 10.0) for seed in (1, 2)))
    publish(tmp_path, fake_result("mine", top={"strength": 3}, error="loud"))  # knobs of a plugin
    publish(tmp_path, fake_result("kl_divergence", 3, status="failed", beta_kl=99.0))
    table = load_results(tmp_path)
    kl = table[table["proxy_strategy"] == "kl_divergence"]
    assert kl["beta_kl"].tolist() == kl["config.finetune_config.beta_kl"].tolist() == [1.0, 1.0, 10.0, 10.0]
    assert set(kl["label"]) == {"kl_divergence beta_kl=1", "kl_divergence beta_kl=10"}
    (mine,) = table[table["proxy_strategy"] == "mine"].to_dict("records")
    assert (mine["label"], mine["error"], mine["strength"]) == (
        "mine",
        None,
        3,
    )  # no column is overwritten
    assert mine["config.finetune_config.error"] == "loud" and "epochs" not in table.columns


def test_one_row_an_epoch(tmp_path):
    record = fake_result(seed=1, x=0.7, y=0.6, base=(0.1, 0.9))
    record.add_evaluation(
        10, 1.0, "edited", {"task_test": {"exact_match": 0.65}, "align_test": {"balanced_accuracy": 0.8}}
    )
    publish(tmp_path, record, fake_result(seed=2))
    table = load_results(tmp_path, per="epoch")
    assert len(table) == 5
    one = table[table["seed"] == 1]
    assert one["epoch"].tolist() == [0.0, 1.0, 1.0]
    assert one["step"].tolist() == [0, 10, 10]
    assert one["version"].tolist() == ["", "", "edited"]
    assert one["capability"].tolist() == one["eval.task_test.exact_match"].tolist() == [0.1, 0.7, 0.65]
    assert one["alignment"].tolist() == [0.9, 0.6, 0.8]


def test_an_empty_sweep_is_an_empty_table_with_its_columns(tmp_path):
    table = load_results(tmp_path)
    assert table.empty
    publish(tmp_path, fake_result())
    assert list(load_results(tmp_path).columns[: len(table.columns)]) == list(table.columns)
    assert {"trial_id", "slug", "seed", "status", "proxy_strategy", "capability", "alignment"} <= set(table.columns)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_results(tmp_path / "nowhere")


def test_of_two_results_of_one_trial_one_counts(tmp_path):
    publish(tmp_path, fake_result(x=0.1, status="failed"), stamp="20260101_000000")
    publish(tmp_path, fake_result(x=0.8), stamp="20260102_000000")
    publish(tmp_path, fake_result(x=0.3, status="running"), stamp="20260103_000000")
    assert len(list(read_sweep(Folder(str(tmp_path))))) == 3
    ((_, result),) = read_trials(Folder(str(tmp_path)))
    assert (result.status, result.capability) == ("completed", 0.8)
    assert load_results(tmp_path)["capability"].tolist() == [0.8]
    ((place, head),) = read_heads(Folder(str(tmp_path)))
    assert (head.status, place.name) == ("completed", "20260102_000000")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "completed"}', '{"schema_version": 2}'])
def test_a_file_that_is_no_result_is_named_and_left_out(tmp_path, content, caplog):
    publish(tmp_path, fake_result())
    place = tmp_path / "other" / "seed_1"
    place.mkdir(parents=True)
    (place / FILE_NAME).write_text(content)
    assert len(load_results(tmp_path)) == 1 and "other/seed_1/results.json cannot be read: " in caplog.text
    damaged: list[Unreadable] = []
    assert len(read_heads(Folder(str(tmp_path)), damaged)) == 1
    (one,) = damaged
    assert (one.name, str(one.folder)) == ("other/seed_1", str(place)) and "it is not a trial's result" in one.why


@pytest.mark.parametrize("store", ["local", "s3"])
def test_many_results_are_read_in_path_order(tmp_path, request, store):
    folder = Folder(str(tmp_path)) if store == "local" else Folder(request.getfixturevalue("s3_uri")) / "many"
    results = [fake_result(lr=i, x=i / 100, status="failed" if i % 7 == 0 else "completed") for i in range(40)]
    publish(folder, *results)
    for elsewhere in (
        "cache/base/1",
        f"{results[0].slug}/seed_1/results/20260101_000000/checkpoints/step_1",
        "control",
    ):
        (folder / elsewhere).write(FILE_NAME, b"of another kind")
    expected = sorted(results, key=lambda result: result.slug)
    assert [result for _, result in read_sweep(folder)] == expected
    heads = [head.model_dump() for _, head in read_heads(folder)]
    names = ResultHead.model_fields.keys() - {"config"}  # of which a head has the types alone
    assert heads == [{name: getattr(result, name) for name in names} for result in expected]


def test_flatten():
    assert flatten({"a": 1, "b": {"c": [1, 2], "d": {"e": None}}}) == {"a": 1, "b.c": [1, 2], "b.d.e": None}


def test_what_a_reading_lacks_is_none():
    result = fake_result().model_copy(update={"train_steps": [], "train_losses": {}, "train_metrics": {}})
    result.add_reading(5, {"total": 1.0}, {"cosine": 0.5})
    result.add_reading(10, {"total": 2.0, "kl": 3.0}, {"margin": float("nan")})
    result.add_metrics({"plane_norm": 4.0})
    assert result.train_losses == {"total": [1.0, 2.0], "kl": [None, 3.0]}
    assert result.train_metrics == {"cosine": [0.5, None], "margin": [None, None], "plane_norm": [None, 4.0]}


READER = """
import sys, time
from selgen_ray.records.results import FILE_NAME, TrialResult
from selgen_ray.storage import Folder
folder, seen, reads = Folder(sys.argv[1]), set(), 0
print("ready", flush=True)
while 300 not in seen:
    result = TrialResult.model_validate_json(folder.read(FILE_NAME))  # half a file would not be valid
    assert len(result.train_steps) == result.num_resumes, "parts of two versions"
    seen.add(result.num_resumes)
    reads += 1
print(reads, len(seen), flush=True)
"""


def test_a_reader_in_another_process_never_sees_half_a_file(tmp_path):
    folder, result = Folder(str(tmp_path)), fake_result()
    result.publish(folder)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", READER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as reader:
        try:
            assert reader.stdout and reader.stdout.readline() == "ready\n"
            for i in range(1, 301):
                result.add_reading(i, {"total": 1.0 / i}, {})
                result.num_resumes = i
                result.publish(folder)
                time.sleep(0.002)
            out, errors = reader.communicate(timeout=60)
        finally:
            reader.kill()  # without the last version it would wait for ever
    assert reader.returncode == 0, errors
    reads, versions = map(int, out.split())
    assert reads > 20 and versions > 5, "the reader was too slow to prove anything"
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_readings_are_the_evaluations_of_the_weights_in_training():
    result = TrialResult(
        trial_id="t",
        slug="s",
        seed=1,
        status="running",
        config={},
        alignment_metric="align_test/balanced_accuracy",
    )
    versions = [(0, 0.0, "", 0.9), (0, 0.0, "aligned", 1.0), (10, 1.0, "", 0.6), (15, 1.5, "", None)]
    for step, epoch, version, value in [*versions, (15, 1.5, "projected", 0.8)]:
        measured = {"loss": 2.0} | ({"balanced_accuracy": value} if value is not None else {})
        result.add_evaluation(step, epoch, version, {"align_test": measured})
    readings = result.readings()
    assert [(r["epoch"], r["step"], r["alignment"]) for r in readings] == [(0, 0, 0.9), (1, 10, 0.6), (1.5, 15, None)]
    assert readings[1] == {
        "epoch": 1.0,
        "step": 10,
        "capability": None,
        "alignment": 0.6,
        "coherence": None,
        "align_test/loss": 2.0,
        "align_test/balanced_accuracy": 0.6,
    }


def test_the_shipped_schema_file_is_the_schema():
    # made anew by writing json.dumps(json_schema(), indent=1) into it
    shipped = json.loads((Path(selgen_ray.__file__).parent / "records" / "results.schema.json").read_text())
    assert shipped == json_schema()
