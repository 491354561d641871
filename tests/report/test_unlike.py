"""Results that do not compare: other base models, other metrics, other rows, two results of one trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_sweep import fake_result, publish

from selgen_ray.config.evals import QUESTIONS
from selgen_ray.records.eval_sets import ROLE_OF_SET
from selgen_ray.records.results import TrialResult
from selgen_ray.report import Report, write_report
from selgen_ray.report.build import make_report
from selgen_ray.report.settings import Axis
from selgen_ray.report.text import report_text
from selgen_ray.report.unlike import ROLES
from selgen_ray.report.verdict import sentence
from selgen_ray.report.words import caveats
from selgen_ray.report.writing import read_report
from selgen_ray.storage import Folder

KINDS = (("naive", {"top": {"train_on_proxy": False}}, 0.5), ("kl_divergence", {"beta_kl": 1.0}, 0.8))
KINDS += (("dpo", {"lambda_dpo": 1.0}, 0.9),)
OLD, NEW = "1" * 64, "2" * 64


def lab(changes: dict[str, dict[str, Any]] | None = None, seeds: int = 3, **more: Any) -> list[TrialResult]:
    """Three settings; `changes` of a strategy are fields of its results, of which a callable is given the seed."""
    results: list[TrialResult] = []
    for strategy, knobs, y in KINDS:
        for seed in range(1, seeds + 1):
            fields = {k: v(seed) if callable(v) else v for k, v in (changes or {}).get(strategy, {}).items()}
            y_of_seed = y + 0.002 * seed
            results.append(fake_result(strategy, seed, 0.9, y_of_seed, changes=fields, **knobs, **more))
    return results


def report_of(results: list[TrialResult], **options: Any) -> Report:
    found = [(Folder("sweeps/lab"), result) for result in results]
    return make_report(found, "lab", "lab", Axis("capability"), Axis("alignment"), **options)


def rows(truth: str, **num_rows: int) -> dict[str, Any]:
    return {"data_hashes": {"truth": truth, "collateral": OLD}, "num_rows": {"train/proxy": 4, **num_rows}}


def test_the_roles_of_sets_are_those_of_the_data():
    assert ROLES == {**ROLE_OF_SET, QUESTIONS: "questions"}


def test_settings_that_were_measured_on_other_rows_are_named():
    same = {strategy: rows(OLD) for strategy, _, _ in KINDS}
    assert report_of(lab(same)).unlike == () and report_of(lab()).unlike == ()
    report = report_of(lab(same | {"dpo": rows(NEW)}))
    told = "alignment was measured on different rows: task alone, kl_divergence / dpo; "
    (note,) = report.unlike
    assert note.startswith(told) and note in caveats(report)
    text = " ".join(report_text(report).split())
    assert text.count(told) == 1 and text.index(told) > text.index(sentence(report))


def test_a_world_draws_other_rows_for_each_seed_and_those_of_one_seed_compare():
    drawn = {"data_hashes": lambda seed: {"truth": f"{seed}" * 64}}
    assert report_of(lab({strategy: drawn for strategy, _, _ in KINDS})).unlike == ()
    other = {"data_hashes": lambda seed: {"truth": f"{seed}" * 64 if seed < 3 else NEW[::-1] + "x"}}
    (note,) = report_of(lab({"naive": drawn, "kl_divergence": other, "dpo": drawn})).unlike
    assert note.startswith("alignment was measured on different rows: task alone, dpo / kl_divergence;")


def test_results_that_do_not_say_differ_from_nothing_and_numbers_of_rows_count_too():
    assert report_of(lab({"naive": rows(OLD)})).unlike == ()
    few = rows(OLD, **{"eval/align_test": 50})
    many = rows(OLD, **{"eval/align_test": 100})
    (note,) = report_of(lab({"naive": few, "kl_divergence": many, "dpo": few})).unlike
    assert note.startswith("alignment was measured on different rows: task alone, dpo / kl_divergence;")


def test_rows_that_no_axis_is_of_matter_where_something_is_required_of_them():
    fields = {"coherence": 0.9, "coherence_metric": "questions/coherent"}
    changes = {s: {**fields, "data_hashes": {"questions": OLD if s == "dpo" else NEW}} for s, _, _ in KINDS}
    results = lab(changes, evals={"questions": {"coherent": [0.9, 0.9]}})
    assert report_of(results).unlike == ()
    (note,) = report_of(results, require="coherence > 0.5").unlike
    assert note.startswith("coherence was measured on different rows: task alone, kl_divergence / dpo;")


def test_other_base_models_are_named_with_their_settings():
    told = "different base models: toy (task alone, kl_divergence) / big (dpo); ranks across them"
    results = [*lab({s: {"model_hash": "a" * 64} for s in ("naive", "kl_divergence")})[:6]]
    results += [
        fake_result("dpo", seed, 0.9, 0.9, model="big", lambda_dpo=1.0, changes={"model_hash": "b" * 64})
        for seed in (1, 2, 3)
    ]
    (note,) = report_of(results).unlike
    assert note.startswith(told)
    # the same weights in another place are the same model
    for result in results:
        result.model_hash = "a" * 64
    assert report_of(results).unlike == ()
    # other weights under one name; a result that does not say which is no third model
    named = lab({"naive": {"model_hash": "a" * 64}, "kl_divergence": {"model_hash": "b" * 64}})
    (note,) = report_of(named[:6]).unlike
    assert note.startswith("different base models: toy aaaaaaaa (task alone) / toy bbbbbbbb (kl_divergence);")
    assert report_of(lab({"naive": {"model_hash": "a" * 64}})).unlike == ()


def test_other_metrics_behind_a_headline_are_named_with_their_settings():
    other = {"alignment_metric": "align_test/token_probability"}
    results = lab(
        {"dpo": other}, evals={"align_test": {"balanced_accuracy": [0.9, 0.5], "token_probability": [0.1, 0.2]}}
    )
    (note,) = report_of(results).unlike
    metrics = "align_test/balanced_accuracy, align_test/token_probability"
    assert note.startswith(f"alignment is not the same everywhere: {metrics} (task alone, kl_divergence / dpo); ")
    assert "averages" not in note


def test_page_and_report_md_say_it_under_the_sentence(tmp_path):
    publish(tmp_path / "lab", *lab({"naive": rows(OLD), "kl_divergence": rows(OLD), "dpo": rows(NEW)}))
    paths = write_report(str(tmp_path / "lab")).paths
    told = "alignment was measured on different rows: task alone, kl_divergence / dpo"
    page, markdown = (Path(paths[name]).read_text() for name in ("index.html", "report.md"))
    assert page.index('id="sentence"') < page.index(told) < page.index('id="top-table"')
    assert markdown.index(told) < markdown.index("| task alone |")
    assert told in " ".join(json.loads(Path(paths["summary.json"]).read_text())["caveats"])


def two(tmp_path: Path, second: float, status: str = "completed") -> list[Folder]:
    folders = [tmp_path / "first", tmp_path / "second"]
    publish(folders[0], *lab())
    publish(folders[1], *lab()[:3], *(fake_result("dpo", seed, 0.9, second, status, lambda_dpo=1.0) for seed in (1, 2)))
    return [Folder(str(folder)) for folder in folders]


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_results_of_a_trial_with_other_numbers_it_is_said_which_counts(tmp_path, turned):
    folders = two(tmp_path, 0.1)[:: -1 if turned else 1]
    (note,) = read_report(*folders).notes
    names = [folder.name for folder in folders]
    assert note == (
        f"2 trials have two results with different numbers: what lies in {names[0]}/ counts, "
        f"what lies in {names[1]}/ does not"
    )


def test_a_better_end_counts_and_a_cut_off_run_is_no_other_result(tmp_path):
    (note,) = read_report(*two(tmp_path, 0.1, "diverged")[::-1]).notes
    assert "what lies in first/ counts, what lies in second/ does not" in note
    assert read_report(*two(tmp_path / "cut", 0.1, "running")).notes == ()


def test_within_a_sweep_the_folders_are_named(tmp_path):
    publish(tmp_path, fake_result("dpo", 1, 0.9, 0.8), stamp="20260101_000000")
    publish(tmp_path, fake_result("dpo", 1, 0.9, 0.7), stamp="20260102_000000")
    (note,) = read_report(Folder(str(tmp_path))).notes
    name = f"{fake_result('dpo', 1).slug}/seed_1"
    assert note.startswith(
        f"{name} has two results with different numbers: what lies in {name}/results/20260101_000000/ "
    )
