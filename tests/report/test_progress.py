"""How far a sweep is: trials that were removed, left alone, abandoned, or whose result is damaged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fake_sweep import fake_result, publish

from selgen_ray.records.control import Control
from selgen_ray.records.results import TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.report.text import report_text
from selgen_ray.report.verdict import next_step, sentence
from selgen_ray.report.words import caveats
from selgen_ray.report.writing import read_report
from selgen_ray.storage import Folder


def of_lab(tmp_path: Path, seeds: int = 5, **ends: dict[int, str]) -> dict[str, TrialResult]:
    """The task alone, and three strategies of which dpo is best, each later one worse; name -> result.

    `ends` says of a strategy which of its seeds ended otherwise, such as dpo={4: "running"}.
    """
    kinds = [("naive", {"top": {"train_on_proxy": False}}, 0.5), ("dpo", {"lambda_dpo": 1.0}, 0.9)]
    kinds += [("kl_divergence", {"beta_kl": 1.0}, 0.8), ("safe_lora", {"safe_lora_threshold": 0.4}, 0.6)]
    results: dict[str, TrialResult] = {}
    for strategy, knobs, y in kinds:
        for seed in range(1, seeds + 1):
            status = ends.get(strategy, {}).get(seed, "completed")
            result = fake_result(strategy, seed, 0.9 + 0.001 * seed, y + 0.002 * seed, status, **knobs)
            results[f"{strategy} {seed}"] = result
    return results


def named(results: Iterable[TrialResult]) -> dict[str, str]:
    return {result.trial_id: f"{result.slug}/seed_{result.seed}" for result in results}


def written(sweep: Path, results: dict[str, TrialResult], plan: dict[str, Any] | None = None) -> Path:
    for result in results.values():
        publish(sweep, result, stamp=result.trial_id)
    if plan is not None:
        Folder(str(sweep)).write_json("control/plan.json", plan)
    return sweep


def test_seeds_that_were_removed_are_lost_and_crown_nobody(tmp_path):
    results = of_lab(tmp_path)
    bad = [results["dpo 4"], results["dpo 5"], *(results[f"safe_lora {seed}"] for seed in range(1, 6))]
    for result in bad:
        results = {name: one for name, one in results.items() if one is not result}
    sweep = written(tmp_path / "lab", results, {"trials": named([*results.values(), *bad])})
    control = Control(Folder(str(sweep)))
    for result in bad:
        control.removed.set(result.trial_id)
    report = read_report(Folder(str(sweep)))
    assert (report.progress.planned, report.progress.done, report.progress.is_over) == (13, 13, True)
    (dpo,) = [s for s in report.settings if s.strategy == "dpo"]
    assert (dpo.num_planned, dpo.complete, dpo.lost_text) == (5, False, "2 of 5 removed")
    assert report.standings.leader.strategy == "kl_divergence"
    assert sentence(report).startswith("kl_divergence, the only strategy with all its seeds, ")
    assert caveats(report)[0].startswith("7 trials were removed: safe_lora (all 5), dpo (2 of 5).")
    assert "dpo (2 of 5 removed)" in report_text(report).replace("\u00a0", " ")
    control.removed.clear(bad[0].trial_id)
    assert read_report(Folder(str(sweep))).progress.planned == 14


def test_what_the_last_run_left_alone_is_named(tmp_path):
    results = of_lab(tmp_path)
    run = {name: one for name, one in results.items() if one.seed < 4 and name[:3] in ("nai", "kl_")}
    rest = [one for name, one in results.items() if name not in run]
    sweep = written(tmp_path / "lab", run, {"trials": named(run.values()), "left_out": named(rest)})
    report = read_report(Folder(str(sweep)))
    assert (report.progress.planned, report.progress.is_over) == (6, True)
    told = (
        "14 trials were left alone when the sweep last ran (--only), without a result: dpo (all 5), safe_lora (all 5)"
    )
    assert caveats(report)[0].startswith(f"{told}, kl_divergence (2 of 5), task alone (2 of 5).")
    assert told in " ".join(report_text(report).split())
    # another sweep of the same trials may have run them
    written(tmp_path / "other", dict(list(results.items())), {"trials": named(results.values())})
    both = read_report(Folder(str(sweep)), Folder(str(tmp_path / "other")))
    assert both.progress.is_over and "left alone" not in caveats(both)[0]


def test_a_trial_that_began_and_is_in_no_plan_any_more_is_counted_apart(tmp_path):
    results = of_lab(tmp_path, dpo={4: "running", 5: "running"})
    plan = {"trials": named(one for name, one in results.items() if name != "dpo 5")}
    sweep = written(tmp_path / "lab", results, plan)
    report = read_report(Folder(str(sweep)))
    assert (report.progress.planned, report.progress.done, report.progress.cut_off) == (19, 18, 1)
    results["dpo 4"].status = TrialStatus.COMPLETED
    written(sweep, {"dpo 4": results["dpo 4"]})
    report = read_report(Folder(str(sweep)))
    assert (report.progress.planned, report.progress.done, report.progress.is_over) == (19, 19, True)
    assert report.standings.leader.strategy == "kl_divergence" and "run the sweep's command" not in next_step(report)
    assert caveats(report)[0].startswith("1 trial was begun and never ended, and no plan of the sweep names them")
    (sweep / "control" / "plan.json").unlink()  # without a plan nobody knows, and the sweep may go on with it
    assert read_report(Folder(str(sweep))).progress.cut_off == 1


def test_without_a_plan_a_damaged_result_is_a_trial_that_is_missing(tmp_path):
    results = of_lab(tmp_path)
    sweep = written(tmp_path / "lab", results)
    four, five = (sweep / results[name].slug / f"seed_{results[name].seed}" for name in ("dpo 4", "dpo 5"))
    for place, content in ((four, "{"), (five, f'{{"trial_id": "{results["dpo 5"].trial_id}", "slug')):
        next(place.rglob("results.json")).write_text(content)
    report = read_report(Folder(str(sweep)))
    assert (report.progress.planned, report.progress.done) == (20, 18)
    (dpo,) = [s for s in report.settings if s.strategy == "dpo"]
    assert (dpo.num_planned, dpo.complete) == (5, False) and report.standings.leader.strategy == "kl_divergence"
    results["dpo 4"].publish(Folder(str(four / "results" / "again")))  # another copy can be read
    assert read_report(Folder(str(sweep))).progress.done == 19
    assert read_report(Folder(str(sweep))).progress.planned == 20
