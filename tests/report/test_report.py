"""The report of sweeps whose numbers are known: the table, what is left out, the files, the figure, the command."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from fake_sweep import ALIGNED, TRAINED, fake_result, publish
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from selgen_ray.reading import load_results, read_trials
from selgen_ray.records.results import FILE_NAME
from selgen_ray.report import Report, main, write_report
from selgen_ray.report.build import make_report
from selgen_ray.report.colours import colour_of, marker_of
from selgen_ray.report.figures import DPI, SIZE_INCHES, as_png, footnote, pareto_figure
from selgen_ray.report.knob_names import explained, knob_texts
from selgen_ray.report.labels import Label, place_labels
from selgen_ray.report.plots import figures
from selgen_ray.report.scales import axis_limits, beyond, inside, limits
from selgen_ray.report.settings import STRATEGIES, Axis
from selgen_ray.report.strengths import strengths
from selgen_ray.report.summary import as_dict
from selgen_ray.report.text import report_text
from selgen_ray.report.words import caveats
from selgen_ray.report.writing import read_report
from selgen_ray.storage import Folder

ROOT = Path(__file__).parents[2]
T2 = 4.302652729749462  # Student's t, 0.975, 2 degrees of freedom
TABLES = ["report.md", "results.csv", "results.parquet", "summary.json"]
PICTURES = ["figures/hypervolumes.png", "figures/hypervolumes.svg", "figures/pareto.png", "figures/pareto.svg"]
PICTURES += ["figures/paths.png", "figures/paths.svg", "figures/strengths.png", "figures/strengths.svg"]
FILES = sorted([*TABLES, *PICTURES, "index.html", "version.js"])


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Naive and KL with three seeds; a diverged, a failed and a running trial, all three with tempting numbers."""
    folder = tmp_path / "lab"
    for seed, shift in ((1, -0.02), (2, 0.0), (3, 0.02)):
        publish(folder, fake_result("naive", seed, 0.9 + shift, 0.3 + shift, base=(0.1 + shift, 0.9)))
        publish(folder, fake_result("kl_divergence", seed, 0.8, 0.7 + shift, base=(0.1 + shift, 0.9), beta_kl=10.0))
    publish(
        folder,
        fake_result("kl_divergence", 1, 0.4, 0.6, beta_kl=100.0),
        fake_result("kl_divergence", 2, 1.0, 1.0, "diverged", beta_kl=100.0, changes={"error": "total at step 7"}),
        fake_result("kl_divergence", 3, 1.0, 1.0, "failed", beta_kl=100.0, changes={"error": "Traceback\nKeyError: 1"}),
        fake_result("naive", 4, 1.0, 1.0, "running"),
    )
    return folder


def pareto_png(report: Report) -> bytes:
    return as_png(pareto_figure(report))


def report_of(folder: Path, x: str = "capability", y: str = "alignment") -> Report:
    return make_report(read_trials(Folder(str(folder))), str(folder), folder.name, Axis(x), Axis(y))


def files_of(folder: Path) -> list[str]:
    place = folder / "report"
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())


def row(report: Report, label: str):
    (found,) = [setting for setting in report.settings if setting.label == label]
    return found


# -- numbers ---------------------------------------------------------------------------------------------------------


def test_the_table_is_what_one_computes_by_hand(sweep):
    report = report_of(sweep)
    assert [s.label for s in report.settings] == ["naive", "kl_divergence β=10", "kl_divergence β=100"]
    naive = row(report, "naive")
    assert naive.seeds == (1, 2, 3) and naive.num_trials == 4
    assert (naive.x.n, naive.x.mean, naive.x.sd) == (3, pytest.approx(0.9), pytest.approx(0.02))
    assert naive.x.half_width == pytest.approx(T2 * 0.02 / math.sqrt(3))
    assert naive.y.mean == pytest.approx(0.3)
    # capability rose by 0.8 in every seed, whatever its base; alignment's base is the same in all
    assert naive.change_x.mean == pytest.approx(0.8) and naive.change_x.sd == pytest.approx(0, abs=1e-12)
    assert naive.change_y.mean == pytest.approx(-0.6) and naive.change_y.sd == pytest.approx(0.02)
    strong = row(report, "kl_divergence β=100")
    assert (strong.seeds, strong.x.mean, strong.y.mean, strong.num_trials) == ((1,), 0.4, 0.6, 3)
    assert strong.x.half_width is None and strong.change_x.half_width is None
    assert [s.label for s in report.settings if s.on_front] == ["kl_divergence β=10"]  # a seed of naive runs
    assert report.counts == {"completed": 7, "diverged": 1, "stopped": 0, "running": 1, "failed": 1}


def test_the_base_model_counts_each_seed_once(sweep):
    (base,) = report_of(sweep).bases
    assert base.x.n == 3  # of seven trials
    # seed 1 was evaluated as 0.08 twice and 0.1 once
    values = [(0.08 + 0.08 + 0.1) / 3, 0.1, 0.12]
    assert base.x.mean == pytest.approx(sum(values) / 3)


def test_the_text(sweep):
    text = report_text(write_report(sweep_folder := Folder(str(sweep))))
    lines = text.splitlines()
    assert lines[0] == "9 of 10 trials are done; 1 began and is not run by anybody now; not yet run: naive (1 of 4)."
    assert lines[2] == "lab: 7 completed, 1 diverged, 1 running, 1 failed"
    (naive,) = [line for line in lines if line.startswith("  naive ")]
    assert " ".join(naive.split()[1:]) == "3/4 0.900 ± 0.050 +0.800, no spread 0.300 ± 0.050 -0.600 ± 0.050"
    (single,) = [line for line in lines if line.startswith("  kl_divergence β=100 ")]
    assert " ".join(single.split()).endswith("1/3, no interval 0.400 +0.300 0.600 -0.300")
    words = " ".join(text.split())
    assert "(1 of 3 diverged," in words and "1 of 3 failed)" in words
    assert "kl_divergence β=100, seed 2: total at step 7" in text
    assert "kl_divergence β=100, seed 3: KeyError: 1" in text
    assert "naive, seed 4" in text
    assert "\x1b" not in text
    assert all(len(line) <= 112 for line in lines if str(sweep) not in line)
    assert str(sweep_folder / "report" / "figures" / "pareto.png") in lines


@pytest.mark.parametrize("status", ["diverged", "failed", "running", "stopped"])
def test_only_completed_trials_are_averaged_and_drawn(sweep, status):
    before = report_of(sweep)
    tempting = fake_result("kl_divergence", 9, 1.0, 1.0, status, beta_kl=10.0, base=(0.9, 0.1))
    publish(sweep, tempting)
    after = report_of(sweep)
    assert [(s.x, s.y, s.change_x, s.points, s.seeds) for s in after.settings] == [
        (s.x, s.y, s.change_x, s.points, s.seeds) for s in before.settings
    ]
    assert row(before, "kl_divergence β=10").on_front and not row(after, "kl_divergence β=10").on_front
    assert after.bases == before.bases
    assert after.counts[status] == before.counts[status] + 1
    # whatever the lost trial scored, the picture is the same to the last bit
    modest = fake_result("kl_divergence", 9, 0.0, 0.0, status, beta_kl=10.0, base=(0.9, 0.1))
    picture = pareto_png(after)
    publish(sweep, modest)
    assert pareto_png(report_of(sweep)) == picture
    lost = [(t.setting, t.seed, t.status) for t in after.left_out]
    assert ("kl_divergence β=10", 9, status) in lost


def test_a_trial_without_alignment_is_listed_and_not_drawn(sweep):
    before = report_of(sweep)
    publish(sweep, fake_result("naive", 5, 0.1, None), fake_result("dpo", 1, 0.6, None, lambda_dpo=4.0))
    after = report_of(sweep)
    assert row(after, "naive").points == row(before, "naive").points
    assert row(after, "naive").x == row(before, "naive").x  # the same seeds stand behind both numbers
    lost = {(t.setting, t.seed): t.cause for t in after.left_out if t.status == "no point"}
    assert lost == {("naive", 5): "no value of alignment", ("dpo", 1): "no value of alignment"}
    dpo = row(after, "dpo")
    assert dpo.points == () and dpo not in after.drawn
    assert dpo.x.mean == 0.6 and dpo.y is None  # nothing has both: the table tells what there is
    assert "2 without a value" in footnote(after)


def test_nan_is_a_missing_value(sweep):
    publish(sweep, evil := fake_result("naive", 5))
    path = next(sweep.glob(f"{evil.slug}/seed_5/**/{FILE_NAME}"))
    content = json.loads(path.read_text())
    content["capability"] = content["eval_results"]["task_test"]["exact_match"][1] = math.nan
    path.write_text(json.dumps(content))
    for x in ("capability", "task_test/exact_match"):
        report = report_of(sweep, x=x)
        assert row(report, "naive").seeds == (1, 2, 3)
        assert [(t.seed, t.cause) for t in report.left_out if t.status == "no point"] == [(5, f"no value of {x}")]
        assert pareto_png(report)
    assert write_report(Folder(str(sweep))).paths.keys() == set(FILES)


def test_any_metric_can_be_an_axis_and_of_a_loss_less_is_better(tmp_path):
    for strategy, loss in (("naive", 0.5), ("dpo", 0.9), ("kl_divergence", 0.7)):
        for seed in (1, 2):
            losses = {"task_train": {"loss": [2.0, loss + seed / 100]}}
            publish(tmp_path, fake_result(strategy, seed, 0.5, 0.7 if strategy == "dpo" else 0.4, evals=losses))
    report = write_report(str(tmp_path), x="task_train/loss", y="align_test/balanced_accuracy")
    assert row(report, "naive").x.mean == pytest.approx(0.515)
    assert row(report, "naive").change_x.mean == pytest.approx(-1.485)
    assert [s.strategy for s in report.settings if s.on_front] == ["naive", "dpo"]  # kl: a higher loss for no more
    assert "task_train/loss: less is better" in report_text(report)
    assert report.bases[0].x.mean == 2.0
    left, right = limits(report.x, [0.5, 2.0], [])
    assert left > 2.0 > 0.5 > right


# -- settings and their names ----------------------------------------------------------------------------------------


def test_labels_name_what_varies_within_the_strategy(tmp_path):
    for seed in (1, 2):
        publish(tmp_path, *(fake_result("naive", seed, top={"train_on_proxy": flag}) for flag in (True, False)))
        for beta in (10.0, 1e-05, 2.0):
            publish(tmp_path, fake_result("kl_divergence", seed, beta_kl=beta, constant=7))
        for r, path in ((8, "data/a.jsonl"), (16, None)):
            publish(tmp_path, fake_result("dpo", seed, r=r, lora_alpha=2 * r, file=path))
        publish(tmp_path, fake_result("mine", seed, anything=3))
    assert [s.label for s in report_of(tmp_path).settings] == [
        "task alone",
        "naive proxy mixed in",
        "kl_divergence β=1e-05",
        "kl_divergence β=2",
        "kl_divergence β=10",
        "dpo r=8 lora_α=16 file=a.jsonl",
        "dpo r=16 lora_α=32 file=none",
        "mine",
    ]


# -- versions: one trial evaluated with several values of a knob -------------------------------------------------------

SWEPT = {"safe_lora_threshold": 0.5, "safe_lora_sweep_thresholds": [0.1, 0.3, 0.5]}


def swept(seed, x=0.5, **scores):
    versions = {f"safe_lora_threshold={t}": scores.get(f"t{n}") or (0.1 * n, 0.2 * n) for n, t in ((1, 0.1), (3, 0.3))}
    versions["safe_lora_threshold=0.5"] = (x, 0.6)  # the configured one: the same weights as the trial's own
    return fake_result("safe_lora", seed, x, 0.6, versions=versions, **SWEPT)


def test_each_swept_value_is_a_setting_over_seeds(tmp_path):
    publish(tmp_path, swept(1), swept(2, 0.7), swept(3, t3=(0.35, None)), fake_result("naive", 1, 0.9, 0.1))
    report = report_of(tmp_path)
    found = {s.label: (s.x.mean, s.x.n) for s in report.settings if s.strategy == "safe_lora"}
    assert found == {
        "safe_lora τ=0.1": (pytest.approx(0.1), 3),
        "safe_lora τ=0.3": (pytest.approx(0.3), 2),  # the third has no alignment there, so no point
        "safe_lora τ=0.5": (pytest.approx((0.5 + 0.7 + 0.5) / 3), 3),
    }
    assert {(t.setting, t.seed, t.status) for t in report.left_out} == {("safe_lora τ=0.3", 3, "no point")}
    assert row(report, "naive").x.mean == pytest.approx(0.9)


def test_a_swept_value_and_a_trial_of_its_own_are_one_setting(tmp_path):
    publish(tmp_path, swept(1), swept(2))
    publish(tmp_path, fake_result("safe_lora", 3, 0.4, 0.6, safe_lora_threshold=0.3))
    report = report_of(tmp_path)
    joined = row(report, "safe_lora τ=0.3")
    assert joined.seeds == (1, 2, 3)
    assert joined.x.mean == pytest.approx((0.3 + 0.3 + 0.4) / 3)


def test_a_diverged_trial_has_no_version_in_any_average(tmp_path):
    publish(tmp_path, swept(1), swept(2).model_copy(update={"status": "diverged", "error": "loss at step 3"}))
    report = report_of(tmp_path)
    assert {s.label: s.seeds for s in report.settings} == {f"safe_lora τ={t}": (1,) for t in (0.1, 0.3, 0.5)}
    assert [(t.setting, t.seed, t.status) for t in report.left_out] == [("safe_lora τ=0.5", 2, "diverged")]


def test_models_on_the_way_are_neither_base_nor_setting(tmp_path):
    publish(tmp_path, swept(1), swept(2))
    report = report_of(tmp_path)
    (base,) = report.bases
    assert (base.x.mean, base.y.mean) == (pytest.approx(0.1), pytest.approx(0.9))
    shown = [s.x.mean for s in report.settings]
    assert max(shown) < min(ALIGNED[0], TRAINED[0])
    assert pareto_png(report).startswith(b"\x89PNG")


def test_a_seed_without_the_version_is_missing_there_and_does_not_break_it(tmp_path):
    failed = fake_result("safe_lora", 2, None, None, "failed", base=None, changes={"error": "KeyError: 1"}, **SWEPT)
    old = fake_result("safe_lora", 3, 0.9, 0.9, **SWEPT)  # as results before the knob: no such key, no such evaluation
    del old.config["finetune_config"]["safe_lora_threshold"]
    publish(tmp_path, swept(1), failed, old)
    report = report_of(tmp_path)
    found = {s.knobs["safe_lora_threshold"]: (s.seeds, s.num_trials) for s in report.settings}
    assert found == {0.1: ((1,), 2), 0.3: ((1,), 2), 0.5: ((1, 3), 3)}
    assert [(t.setting, t.seed, t.status) for t in report.left_out] == [("safe_lora τ=0.5", 2, "failed")]


@pytest.mark.parametrize(
    "axes", [("capability", "alignment"), ("task_test/exact_match", "align_test/balanced_accuracy")]
)
def test_a_trial_that_did_not_evaluate_a_version_has_no_value_there(tmp_path, axes):
    publish(tmp_path, swept(1), fake_result("safe_lora", 2, 0.9, 0.9, base=(0.2, 0.8), **SWEPT))
    report = report_of(tmp_path, *axes)
    assert {s.label: s.seeds for s in report.settings} == {
        "safe_lora τ=0.1": (1,),
        "safe_lora τ=0.3": (1,),
        "safe_lora τ=0.5": (1, 2),
    }
    assert {(t.setting, t.seed) for t in report.left_out} == {("safe_lora τ=0.1", 2), ("safe_lora τ=0.3", 2)}


def test_what_else_was_swept_is_in_no_label(tmp_path):
    other = {"safe_lora_threshold": 0.7, "safe_lora_sweep_thresholds": None}
    publish(tmp_path, swept(1), fake_result("safe_lora", 1, 0.4, 0.6, **other))
    assert [s.label for s in report_of(tmp_path).settings] == [f"safe_lora τ={t}" for t in (0.1, 0.3, 0.5, 0.7)]


def test_of_a_seed_that_was_swept_and_run_one_trial_counts(tmp_path):
    publish(tmp_path, swept(1), swept(2), fake_result("safe_lora", 1, 0.4, 0.6, safe_lora_threshold=0.3))
    joined = row(report_of(tmp_path), "safe_lora τ=0.3")
    assert (joined.seeds, joined.num_trials) == ((1, 2), 2)
    assert joined.x.mean == pytest.approx((0.4 + 0.3) / 2)  # its own trial rather than the one beside
    # other data for the same seed: not the same weights, so not one setting
    other = fake_result("safe_lora", 1, 0.8, 0.6, safe_lora_threshold=0.3, changes={"data_hashes": {"outcome": "ff"}})
    publish(tmp_path, other, stamp="20250101_000000")
    labels = [s.label for s in report_of(tmp_path).settings if s.knobs["safe_lora_threshold"] == 0.3]
    assert len(labels) == len(set(labels)) == 2


def test_only_a_knob_of_the_trial_makes_a_version_a_setting(tmp_path):
    versions = {"nonsense=1": (0.99, 0.99), "steered": (0.98, 0.98), "beta_kl=2": (0.3, 0.4), "beta_kl=1": (0.97, 0.97)}
    publish(tmp_path, fake_result("kl_divergence", 1, 0.5, 0.5, versions=versions, beta_kl=1.0))
    report = report_of(tmp_path, "task_test/exact_match", "align_test/balanced_accuracy")
    assert [(s.label, s.x.mean, s.y.mean) for s in report.settings] == [
        ("kl_divergence β=1", 0.5, 0.5),
        ("kl_divergence β=2", 0.3, 0.4),
    ]
    assert report.settings[1].change_x.mean == pytest.approx(0.3 - 0.1)  # against the base, not the aligned model
    assert "β: beta_kl" in report_text(report)
    assert {s["label"] for s in as_dict(report)["settings"]} == {"kl_divergence β=1", "kl_divergence β=2"}
    assert report.drawn == list(report.settings)


def test_signs_are_short_and_never_ambiguous():
    assert knob_texts({"lambda_1": -0.01}) == ["λ=-0.01"]
    texts = [knob_texts({"inoculation_prompt": text}) for text in ("", "Agree/nod. ", " ")]
    assert texts == [['prompt=""'], ['prompt="Agree/nod. "'], ['prompt=" "']]  # a sentence is no path
    assert knob_texts({"lambda_dpo": 3.0, "beta": 0.1}) == ["λ=3", "β=0.1"]
    assert knob_texts({"beta_kl": 3.0, "beta": 0.1}) == ["beta_kl=3", "beta=0.1"]
    assert knob_texts({"project_strictly_orthogonal": True, "projection_scope": "per_tensor"}) == [
        "strict",
        "per tensor",
    ]
    assert knob_texts({"positive_proxy": "proxy", "negative_proxy": None}) == ["pos=proxy", "neg=none"]
    assert explained(["beta_kl", "projection_scope"]) == ["β: beta_kl", "projection_scope"]


def test_negative_strengths_are_in_order(tmp_path):
    for strength in (0.01, -0.01, 0.0001, -1.0):
        publish(tmp_path, fake_result("directional_penalty", 1, lambda_1=strength))
    assert [s.knobs["lambda_1"] for s in report_of(tmp_path).settings] == [-1.0, -0.01, 0.0001, 0.01]


def test_plain_training_on_the_outcome_alone_is_known(tmp_path):
    rows = {"num_rows": {"train/outcome": 9, "eval/task_test": 3}}
    mixed = {"num_rows": {"train/outcome": 9, "train/proxy": 3}}
    publish(tmp_path / "a", fake_result("naive", 1, top={"train_on_proxy": False}), fake_result("dpo", 1, changes=rows))
    publish(tmp_path / "b", fake_result("naive", 1, changes=rows))
    publish(tmp_path / "c", fake_result("naive", 1, changes=mixed))
    found = {name: [s.outcome_only for s in report_of(tmp_path / name).settings] for name in "abc"}
    assert found == {"a": [True, False], "b": [True], "c": [False]}


def test_seeds_are_no_knobs_even_when_each_setting_has_its_own(tmp_path):
    publish(tmp_path, fake_result("naive", 1, epochs=1), fake_result("naive", 2, epochs=2))
    assert [s.label for s in report_of(tmp_path).settings] == ["naive epochs=1", "naive epochs=2"]


def test_settings_that_look_the_same_are_told_apart(tmp_path):
    slugs = ("naive_aaaaaa", "naive_bbbbbb")  # the file behind a path had another content
    for slug, number in zip(slugs, (0.2, 0.6), strict=True):
        changes = {"slug": slug, "trial_id": slug[-1] * 16}
        publish(tmp_path, fake_result("naive", 1, x=number, changes=changes))
    report = report_of(tmp_path)
    assert [(s.label, s.x.mean) for s in report.settings] == [
        ("naive setting=aaaaaa", 0.2),
        ("naive setting=bbbbbb", 0.6),
    ]


def test_a_setting_stays_one_when_its_folder_got_a_longer_name(tmp_path):
    slugs = {1: "naive_abc123", 2: "naive_abc123", 3: "naive_learning_rate-1e-05_abc123"}
    for seed, slug in slugs.items():
        publish(tmp_path, fake_result("naive", seed, changes={"slug": slug}))
    (setting,) = report_of(tmp_path).settings
    assert setting.seeds == (1, 2, 3)
    # a hash that two settings happen to share: the seeds give it away
    publish(tmp_path, fake_result("naive", 1, epochs=9, changes={"slug": "naive_epochs-9_abc123"}))
    assert sorted(s.num_trials for s in report_of(tmp_path).settings) == [1, 1, 2]


def test_a_trial_found_twice_counts_once(sweep):
    before = report_of(sweep)
    publish(sweep, fake_result("naive", 2, 0.0, 0.0, "failed"), stamp="20250101_000000")
    assert report_of(sweep) == before


def test_two_metrics_under_one_name_are_pointed_out(sweep):
    assert report_of(sweep).notes == ()
    changes = {"capability_metric": "task_test/token_probability"}
    publish(sweep, fake_result("naive", 6, evals={"task_test": {"token_probability": [0.1, 0.5]}}, changes=changes))
    (note,) = report_of(sweep).notes
    assert "task_test/exact_match, task_test/token_probability" in note


def test_two_base_models_are_two_stars(sweep):
    publish(sweep, fake_result("naive", 1, 0.9, 0.3, base=(0.4, 0.6), model="org/Other-1B"))
    report = report_of(sweep)
    assert [(b.model, b.x.n) for b in report.bases] == [("toy", 3), ("org/Other-1B", 1)]
    assert "base model toy" in report_text(report) and "org/Other-1B" in report_text(report)


# -- files -----------------------------------------------------------------------------------------------------------


def test_the_files_hold_what_load_results_says(sweep):
    mixed = fake_result("naive", 7, target_modules="all-linear", odd={"deep": [1, {"a": None}]}, mixed=1)
    publish(sweep, mixed, fake_result("naive", 8, mixed="one"))
    report = write_report(str(sweep))
    assert sorted(report.paths) == FILES
    assert files_of(sweep) == FILES
    table = load_results(sweep, status="all")
    parquet = pd.read_parquet(sweep / "report" / "results.parquet")
    csv = pd.read_csv(sweep / "report" / "results.csv")
    assert list(parquet.columns) == list(csv.columns) == list(table.columns)
    assert len(table) == len(parquet) == len(csv) == 12
    for name in ("trial_id", "slug", "seed", "status", "folder"):
        assert parquet[name].tolist() == csv[name].tolist() == table[name].tolist()
    numbers = ["capability", "alignment", "base_capability", "config.finetune_config.beta_kl", "timings.total_s"]
    for name in numbers:
        pd.testing.assert_series_equal(parquet[name], table[name])
        pd.testing.assert_series_equal(csv[name], table[name])


def test_a_sweep_behind_a_uri(sweep, capsys):
    report = write_report(sweep.as_uri())
    assert report.title == "lab" and report.counts["completed"] == 7
    assert report.paths["figures/pareto.png"] == f"{sweep.as_uri()}/report/figures/pareto.png"
    assert files_of(sweep) == FILES
    assert main([sweep.with_name("laab").as_uri()]) == 2
    assert f"Did you mean {sweep.as_uri()!r}?" in capsys.readouterr().err


def test_the_summary_holds_the_table(sweep):
    write_report(str(sweep), title="A title")
    summary = json.loads((sweep / "report" / "summary.json").read_text())
    assert summary["title"] == "A title"
    assert summary["counts"]["diverged"] == 1
    naive = summary["settings"][0]
    assert (naive["label"], naive["x"]["n"]) == ("naive", 3)
    assert naive["x"]["half_width"] == pytest.approx(T2 * 0.02 / math.sqrt(3))
    assert {t["status"] for t in summary["left_out"]} == {"diverged", "failed", "running"}


def test_an_empty_sweep_gets_no_files(tmp_path):
    report = write_report(str(tmp_path))
    assert report.settings == () and report.paths == {} and list(tmp_path.iterdir()) == []
    assert "no results.json below" in report_text(report)
    with pytest.raises(FileNotFoundError):
        write_report(str(tmp_path / "none"))


def test_only_diverged_trials(tmp_path):
    for seed in (1, 2):
        publish(tmp_path, fake_result("naive", seed, 1.0, 1.0, "diverged", changes={"error": "outcome at step 3"}))
    report = write_report(str(tmp_path))
    assert report.drawn == [] and report.bases == ()
    assert sorted(report.paths) == sorted([*TABLES, "index.html", "version.js"])
    text = report_text(report)
    assert "2 diverged" in text and "Nothing is completed yet" in text and "outcome at step 3" in text
    assert "1.000" not in text


# -- the figure ------------------------------------------------------------------------------------------------------


def picture(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    assert image.format == "PNG"
    return image.convert("RGB")


def has_colour(image: Image.Image, colour: str) -> bool:
    """Inside the axes: the legend shows every colour anyway."""
    image = image.crop((0, 0, round(0.675 * image.width), image.height))
    wanted = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return any(found == wanted for _, found in image.getcolors(maxcolors=2**24) or [])


def test_the_picture_shows_the_data(sweep):
    before = (report := write_report(str(sweep))).paths["figures/pareto.png"]
    content = Path(before).read_bytes()
    image = picture(content)
    assert image.size == tuple(round(DPI * inches) for inches in SIZE_INCHES)
    assert has_colour(image, colour_of("naive")) and has_colour(image, colour_of("kl_divergence"))
    assert not has_colour(image, colour_of("dpo"))
    assert pareto_png(report) == content  # the same data, the same picture
    publish(sweep, fake_result("dpo", 1, 0.5, 0.5), fake_result("dpo", 2, 0.5, 0.6))
    write_report(str(sweep))
    changed = picture(Path(before).read_bytes())
    assert has_colour(changed, colour_of("dpo"))


def test_the_footnote_tells_what_the_bars_are(sweep, tmp_path):
    text = footnote(report_of(sweep))
    assert "1–3 seeds per setting" in text and "95 % t-interval over seeds" in text
    assert "1 diverged" in text and "hollow: one seed, no interval" in text
    publish(tmp_path / "one", fake_result("naive", 1), fake_result("dpo", 1))
    text = footnote(report_of(tmp_path / "one"))
    assert "1 seed per setting" in text and "no interval" in text and "bars" not in text and "not drawn" not in text


def test_a_single_seed_has_no_bar_and_two_have(tmp_path):
    from selgen_ray.report.figures import _setting

    def num_bars(folder: Path) -> int:
        axes = Figure().add_subplot()
        report = report_of(folder)
        _setting(axes, report.settings[0], report)
        return len(axes.collections)

    publish(tmp_path, fake_result("naive", 1, 0.4, 0.4))
    assert num_bars(tmp_path) == 0
    publish(tmp_path, fake_result("naive", 2, 0.5, 0.5))
    assert num_bars(tmp_path) == 2


def test_all_points_are_inside_the_axes_and_long_bars_do_not_squeeze_them():
    share, loss = Axis("capability"), Axis("task_test/loss")
    low, high = limits(share, [0.4, 0.6], [(-1.5, 2.5)])
    assert -0.05 < low < 0.4 and 0.6 < high < 1.05 and high - low < 0.6
    assert limits(share, [0.0, 1.0], []) == (-0.03, 1.03)
    low, high = limits(share, [0.5], [])
    assert low < 0.5 < high and high - low > 0.02
    left, right = limits(loss, [2.0, 4.0], [(1.5, 2.5)])
    assert left > 4.0 and right < 1.5


def test_colours_and_markers_are_stable_and_distinct():
    assert len({colour_of(name) for name in STRATEGIES}) == len({marker_of(name) for name in STRATEGIES}) == 12
    assert len({(colour_of(name), marker_of(name)) for name in STRATEGIES}) == len(STRATEGIES)
    assert colour_of("kl_divergence") == "#D55E00"
    assert colour_of("my_own") == colour_of("my_own") != colour_of("another")
    assert len(colour_of("my_own")) == 7


def test_the_picture_survives_odd_names_and_many_settings(tmp_path):
    for i, strategy in enumerate((*STRATEGIES, "$x_1", "ein_sehr_langer_name_" * 4)):
        for knob in (1.0, 2.0, 4.0):
            publish(tmp_path, fake_result(strategy, 1, i / 25, knob / 4, note="$" + "long " * 20, strength=knob))
    assert picture(pareto_png(report_of(tmp_path))).size == (1600, 960)


def crowd(folder: Path, num: int, base: tuple[float, float] = (0.1, 0.9)) -> Report:
    for i in range(num):
        place = 0.9 + i / 1000, 0.8 + (7 * i % num) / 1000
        publish(folder, fake_result("dpo", 1, *place, base=base, lambda_dpo=1.0 + i))
    return report_of(folder)


@pytest.mark.parametrize("num", [4, 12])
def test_a_far_base_model_squeezes_nobody_and_stands_at_the_edge(tmp_path, num):
    """Case 15 of the verdicts."""
    report = crowd(tmp_path, num)
    ends = axis_limits(report, 0), axis_limits(report, 1)
    assert 0.8 < ends[0][0] < 0.9 < 0.9 + (num - 1) / 1000 < ends[0][1]
    assert beyond(report.bases[0], report, ends)[0] == "← capability 0.10"
    assert ends[0][0] < inside(0.1, ends[0]) < 0.9
    near = crowd(tmp_path / "near", num, base=(0.9, 0.802))
    assert beyond(near.bases[0], near, (axis_limits(near, 0), axis_limits(near, 1))) == []


def test_an_arrow_points_to_the_side_where_the_base_model_is(tmp_path):
    publish(tmp_path, fake_result("naive", 1, base=(0.9, 0.1)))
    report = report_of(tmp_path)
    assert beyond(report.bases[0], report, ((0.2, 0.5), (0.2, 0.5))) == ["→ capability 0.90", "↓ alignment 0.10"]
    assert beyond(report.bases[0], report, ((0.5, 0.2), (0.0, 0.5))) == ["← capability 0.90"]  # less is better


def test_labels_of_twelve_strategies_lie_apart_and_on_no_mark():
    rng = random.Random(5)
    figure = Figure(figsize=(6, 4.3), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    points = [(rng.gauss(0.5, 0.07), rng.gauss(0.5, 0.07)) for _ in range(36)]
    canvas.draw()
    place_labels(axes, [Label("λ=0.001", point, "black") for point in points], points)
    boxes = [text.get_window_extent() for text in axes.texts]
    marks = axes.transData.transform(points)
    assert len(boxes) == 36 and all(axes.bbox.contains(*end) for box in boxes for end in (box.min, box.max))
    assert not [1 for a, b in itertools.combinations(boxes, 2) if a.shrunk(0.9, 0.8).overlaps(b.shrunk(0.9, 0.8))]
    assert not [1 for box in boxes for mark in marks if box.contains(*mark)]


def test_every_figure_has_a_legend_and_no_line_joins_a_boolean(tmp_path):
    """Case 15 of the verdicts."""
    for strict, y in ((False, 0.6), (True, 0.8)):
        trials = (fake_result("grad_project", s, 0.9, y, project_strictly_orthogonal=strict) for s in (1, 2))
        publish(tmp_path, *trials)
    publish(tmp_path, *(fake_result("dpo", s, 0.9, 0.7, lambda_dpo=k) for s in (1, 2) for k in (1.0, 2.0)))
    report = report_of(tmp_path)
    drawn = {name: make() for name, make in figures(report, report.standings)}
    assert drawn.keys() == {"pareto", "strengths", "hypervolumes", "paths"}
    for name, figure in drawn.items():
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
        assert any(legend and len(legend.get_texts()) > 1 for legend in legends), name
    styles = {axes.get_title(): {line.get_linestyle() for line in axes.lines} for axes in drawn["strengths"].axes}
    assert styles == {"grad_project": {"None"}, "dpo": {"-", ":", "None"}}
    ticks = [text.get_text() for text in drawn["strengths"].axes[1].get_xticklabels()]
    assert ["if opposed", "strict"] in (ticks, [t.get_text() for t in drawn["strengths"].axes[0].get_xticklabels()])
    by_name = {curve.strategy: curve.joined for curve in strengths(report.settings)}
    assert by_name == {"grad_project": False, "dpo": True}


def test_threads_may_draw_at_once(sweep):
    report = report_of(sweep)
    alone = pareto_png(report)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(pareto_png, [report] * 8)) == {alone}


# -- the command -----------------------------------------------------------------------------------------------------


def command(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "selgen_ray.report", *map(str, args)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(line, capture_output=True, text=True, env=env, cwd=cwd, timeout=120)


def test_the_command(sweep):
    done = command(sweep)
    assert (done.returncode, done.stderr) == (0, "")
    assert "7 completed" in done.stdout and "naive" in done.stdout
    for name in (*TABLES, "figures/pareto.png", "index.html"):
        assert str(sweep / "report" / name) in done.stdout
    assert files_of(sweep) == FILES


def test_nothing_completed_is_said_and_is_1(tmp_path):
    publish(tmp_path / "lab", fake_result("naive", 1, status="running"))
    done = command("lab", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "Nothing is completed yet" in done.stdout and "1 running" in done.stdout


def test_bad_input_is_2_and_helps(sweep, tmp_path, capsys):
    done = command("labb", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert "labb" in done.stderr and "Did you mean 'lab'?" in done.stderr
    assert main([str(tmp_path / "zzzzzz")]) == 2
    assert "There are: lab" in capsys.readouterr().err
    assert main([str(sweep), "--x", "capabilty"]) == 2
    assert "Did you mean 'capability'?" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file")]) == 2
    assert main(["nonsense://bucket/lab"]) == 2
    assert main([str(sweep), "--y", "align_test/balanced_acuracy"]) == 2
    assert "Did you mean 'align_test/balanced_accuracy'?" in capsys.readouterr().err
    assert not (sweep / "report").exists()
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2


def test_a_broken_result_is_named(sweep, caplog, capsys):
    path = next(sweep.rglob(FILE_NAME))
    path.write_text("{")
    assert main([str(sweep)]) == 0  # the others are reported
    assert str(path) in caplog.text
    name = "/".join(path.relative_to(sweep).parts[:2])
    told = f"{name}: its results.json cannot be read"
    assert told in " ".join(capsys.readouterr().out.split())
    assert told in (sweep / "report" / "index.html").read_text()


def test_tables_need_no_matplotlib(sweep):
    program = (
        "import sys\nfrom selgen_ray.report import report_text\nfrom selgen_ray.report.build import make_report\n"
        "from selgen_ray.reading import read_trials\nfrom selgen_ray.report.settings import Axis\n"
        "from selgen_ray.storage import Folder\nfound = read_trials(Folder(sys.argv[1]))\n"
        "print(report_text(make_report(found, '', 't', Axis('capability'), Axis('alignment')))[:10])\n"
        "assert not {'matplotlib', 'torch', 'ray', 'selgen_ray.config'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(sweep)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


# -- what the front requires -----------------------------------------------------------------------------------------


def coherent(value: float | None, *args, **kwargs):
    shown = {"coherent": [0.9, value], "balanced_accuracy": [0.9, args[3]], "sycophancy": [0.1, 1 - args[3]]}
    evals = {"align_test": shown}
    changes = {"coherence": value, "coherence_metric": "align_test/coherent", **kwargs.pop("changes", {})}
    return fake_result(*args, evals=evals, changes=changes, **kwargs)


@pytest.fixture
def gated(tmp_path: Path) -> Path:
    folder = tmp_path / "gated"
    for seed, shift in ((1, -0.1), (2, 0.1)):
        # dominates all others, and says nothing that can be read: 0.4 on average, though one seed passes
        publish(folder, coherent(0.4 + 1.5 * shift, "kl_divergence", seed, 0.95, 0.99, beta_kl=100.0))
        publish(folder, coherent(0.8 + shift, "kl_divergence", seed, 0.8, 0.7, beta_kl=1.0))
        publish(folder, coherent(0.8, "naive", seed, 0.9, 0.3))
        publish(folder, coherent(None if seed == 1 else 0.9, "dpo", seed, 0.97, 0.8))
    return folder


def test_what_misses_the_requirement_is_shown_and_never_on_the_front(gated):
    plain = write_report(str(gated))
    assert [s.label for s in plain.settings if s.on_front] == ["kl_divergence β=100", "dpo"]
    report = write_report(str(gated), require="coherence >= 0.5 and capability>0.1")
    assert [s.label for s in report.settings if s.on_front] == ["naive", "kl_divergence β=1"]
    assert row(report, "kl_divergence β=100").failures == ("coherence 0.400",)
    assert row(report, "dpo").failures == ("no value of coherence",)
    assert row(report, "kl_divergence β=100") in report.drawn
    text = report_text(report)
    assert "x kl_divergence β=100" in text and "kl_divergence β=100: coherence 0.400" in text
    assert "which requires coherence >= 0.5 and capability > 0.1 (2)" in text
    summary = json.loads((gated / "report" / "summary.json").read_text())
    assert summary["require"] == "coherence >= 0.5 and capability > 0.1"
    assert Image.open(gated / "report" / "figures" / "pareto.png").size == tuple(
        round(DPI * side) for side in SIZE_INCHES
    )


def test_a_front_that_nothing_reaches_is_drawn_empty(gated):
    report = write_report(str(gated), require="align_test/coherent > 0.99")
    assert not any(s.on_front for s in report.settings) and len(report.drawn) == 4
    assert "figures/pareto.png" in report.paths


def test_of_sycophancy_less_is_better(gated):
    report = report_of(gated, y="align_test/sycophancy")
    assert report.y.sign == -1
    assert [s.label for s in report.settings if s.on_front] == ["kl_divergence β=100", "dpo"]


def test_the_command_reads_a_requirement(gated, capsys):
    assert main([str(gated), "--require", "coherence >= 0.5"]) == 0
    assert "kept off the front" in capsys.readouterr().out
    assert main([str(gated), "--require", "coherence => 0.5"]) == 2
    assert "column 11" in capsys.readouterr().err
    assert main([str(gated), "--require", "align_test/coherence > 1"]) == 2
    assert "'align_test/coherent'" in capsys.readouterr().err


def judged_by(sweep: Path, pareto: str) -> None:
    (sweep / "space.yaml").write_text(f"name: lab\npareto: {pareto}\n")


def test_what_nobody_asks_for_is_as_the_sweep_says(gated, tmp_path, capsys):
    judged_by(gated, "{x: task_test/exact_match, y: coherence, require: coherence >= 0.5}")
    at_its_end = write_report(str(gated), "task_test/exact_match", "coherence", require="coherence >= 0.5")
    summary = gated / "report" / "summary.json"
    before = json.loads(summary.read_text())
    assert main([str(gated)]) == 0
    assert json.loads(summary.read_text()) == before and before["require"] == "coherence >= 0.5"
    assert [s.on_front for s in at_its_end.settings] != [
        s.on_front for s in read_report(Folder(str(gated)), require="").settings
    ]
    # each key alone
    report = read_report(Folder(str(gated)), y="alignment")
    assert (report.x.name, report.y.name, report.require) == ("task_test/exact_match", "alignment", "coherence >= 0.5")
    assert main([str(gated), "--require", "", "--x", "capability"]) == 0
    summed = json.loads(summary.read_text())
    assert (summed["x"], summed["y"], summed["require"]) == ("capability", "coherence", None)
    (gated / "space.yaml").unlink()
    report = read_report(Folder(str(gated)))
    assert (report.x.name, report.y.name, report.require, report.notes) == ("capability", "alignment", "", ())


def test_a_metric_that_the_sweep_names_and_nobody_has_is_said_and_refuses_no_report(gated, capsys):
    judged_by(gated, "{y: align_test/nothing}")
    assert main([str(gated)]) == 0
    assert "no completed trial has 'align_test/nothing'" in capsys.readouterr().out
    assert main([str(gated), "--y", "align_test/nothing"]) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pareto: {require: coherence is fine}", "pareto.require: column 11: found 'is'"),
        ("pareto: {x: [capability]}", "pareto.x: found ['capability'], where a text belongs"),
        ("pareto: {y: alignmnt}", "Did you mean 'alignment'?"),
        ("pareto: coherence", "found 'coherence', where a mapping belongs"),
        ("pareto: {", "it is no search space"),
    ],
)
def test_a_section_that_somebody_broke_is_said(gated, text, told):
    (gated / "space.yaml").write_text(text)
    report = read_report(Folder(str(gated)))
    assert (report.x.name, report.y.name, report.require) == ("capability", "alignment", "")
    assert told in report.notes[0] and "this report is of capability and alignment" in report.notes[0]
    assert read_report(Folder(str(gated)), x="capability", y="alignment", require="").notes == ()


def test_of_sweeps_that_are_judged_differently_the_first_counts_and_it_is_said(gated, sweep):
    judged_by(gated, "{require: coherence >= 0.5}")
    judged_by(sweep, "{}")
    for sweeps, require in (([gated, sweep], "coherence >= 0.5"), ([sweep, gated], "")):
        report = read_report(*(Folder(str(one)) for one in sweeps))
        assert report.require == require
        assert "judged by different things" in report.notes[0] and f"what {sweeps[0].name} says" in report.notes[0]
    judged_by(sweep, "{require: coherence >= 0.5}")
    notes = read_report(Folder(str(gated)), Folder(str(sweep))).notes
    assert not any("judged by" in note for note in notes)


def test_flags_are_shown_and_the_trial_is_averaged(gated):
    publish(
        gated, coherent(0.8, "naive", 3, 0.9, 0.3, changes={"flags": ["every answer is the base model's", "cut off"]})
    )
    report = write_report(str(gated))
    assert row(report, "naive").seeds == (1, 2, 3)
    assert "naive, seed 3: every answer is the base model's" in report_text(report)
    assert [one["seed"] for one in as_dict(report)["flagged"]] == [3, 3]
    assert "1 completed trial is doubtful (2 flags), averaged all the same: see below." in caveats(report)


def test_of_very_many_points_on_the_front_the_first_hundred_have_a_label(tmp_path):
    publish(tmp_path, *[fake_result("kl_divergence", 1, 0.5, 0.5, beta_kl=1.0 + i) for i in range(130)])
    (axes,) = pareto_figure(write_report(str(tmp_path))).axes
    assert len([text for text in axes.texts if re.fullmatch(r"β=\d+", text.get_text())]) == 100
