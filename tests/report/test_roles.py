"""The role of a setting where `controls` was edited beside its results."""

from __future__ import annotations

from typing import Any

from fake_sweep import fake_result

from selgen_ray.records.names import trial_name
from selgen_ray.records.results import TrialResult
from selgen_ray.report import Report
from selgen_ray.report.build import make_report
from selgen_ray.report.progress import Plan
from selgen_ray.report.roles import Kind
from selgen_ray.report.settings import Axis
from selgen_ray.storage import Folder

SEEDS = (1, 2, 3)


def ran(strategy: str, digits: str, y: float, slug: str = "", **options: Any) -> list[TrialResult]:
    """The results of a setting, as they were when it ran; each has an id of its own."""
    results = [fake_result(strategy, seed, 0.9, y + 0.002 * seed, **options) for seed in SEEDS]
    for result in results:
        result.slug = f"{slug or strategy}_{digits}"
        result.trial_id = f"{digits}{result.seed:010x}"
    return results


def report_of(results: list[TrialResult], names: dict[str, str], left_out: dict[str, str] | None = None) -> Report:
    found = [(Folder("sweeps/lab"), result) for result in results]
    plan = Plan(names, left_out=left_out or {})
    return make_report(found, "lab", "lab", Axis("capability"), Axis("alignment"), plan=plan)


def planned(results: list[TrialResult], **heads: str) -> dict[str, str]:
    """The names in the plan: those that the trials ran under, but for the settings whose hash is given."""
    names: dict[str, str] = {}
    for result in results:
        digits = result.slug.rpartition("_")[2]
        head = heads.get(f"of_{digits}")
        names[result.trial_id] = trial_name(f"{head}_{digits}" if head else result.slug, result.seed)
    return names


def roles(report: Report) -> dict[str, Kind]:
    return {s.slug.rpartition("_")[2]: s.role.kind for s in report.settings}


PLAIN = ran("naive", "0a0a0a", 0.5, top={"train_on_proxy": False})
GOOD, BEST = ran("kl_divergence", "1a1a1a", 0.7, beta_kl=1.0), ran("kl_divergence", "2a2a2a", 0.9, beta_kl=2.0)


def test_a_setting_that_became_a_control_leads_no_more():
    results = [*PLAIN, *GOOD, *BEST]
    before = report_of(results, planned(results))
    assert before.settings[before.standings.leader.best].slug == "kl_divergence_2a2a2a"
    report = report_of(results, planned(results, of_2a2a2a="control_placebo"))
    assert roles(report)["2a2a2a"] is Kind.CONTROL
    assert report.settings[report.standings.leader.best].slug == "kl_divergence_1a1a1a"
    assert [s.label for s in report.settings] == ["task alone", "placebo", "kl_divergence"]
    assert all("control" not in result.config for result in BEST)  # the results themselves are as they were
    # so it is where the last run left the control alone
    names = planned(results, of_2a2a2a="control_placebo")
    out = {trial_id: name for trial_id, name in names.items() if "placebo" in name}
    names = {trial_id: name for trial_id, name in names.items() if trial_id not in out}
    assert roles(report_of(results, names, out))["2a2a2a"] is Kind.CONTROL


def test_a_control_that_became_a_setting_is_compared():
    old = ran("kl_divergence", "2a2a2a", 0.9, "control_clean-data", top={"control": "clean data"}, beta_kl=2.0)
    results = [*PLAIN, *GOOD, *old]
    report = report_of(results, planned(results))
    assert [s.label for s in report.settings] == ["task alone", "clean data", "kl_divergence"]  # as it was spelled
    report = report_of(results, planned(results, of_2a2a2a="kl_divergence_beta_kl-2"))
    assert roles(report)["2a2a2a"] is Kind.STRATEGY and report.standings.leader.score.n == 3
    assert report.settings[report.standings.leader.best].label == "kl_divergence β=2"
    # a plan that has two of its seeds speaks for the third, and one that does not have the setting for none
    names = planned(results, of_2a2a2a="kl_divergence_beta_kl-2")
    assert (
        roles(report_of(results, {i: n for i, n in names.items() if i != old[0].trial_id}))["2a2a2a"] is Kind.STRATEGY
    )
    assert roles(report_of(results, planned([*PLAIN, *GOOD])))["2a2a2a"] is Kind.CONTROL


def test_new_and_old_results_of_a_control_have_one_name():
    new = ran("dpo", "3a3a3a", 0.6, "control_clean-data", top={"control": "clean data"}, lambda_dpo=1.0)
    results = [*PLAIN, *GOOD, *ran("dpo", "3a3a3a", 0.6, lambda_dpo=1.0)[:2], new[2]]
    report = report_of(results, planned(results, of_3a3a3a="control_clean-data"))
    assert [s.label for s in report.settings] == ["task alone", "clean data", "kl_divergence"]
    assert report.progress.is_over and report.settings[1].num_trials == 3


def test_a_renamed_control_and_the_task_alone_have_their_new_names():
    old = ran("kl_divergence", "2a2a2a", 0.9, "control_oracle", top={"control": "oracle"}, beta_kl=2.0)
    results = [*PLAIN, *GOOD, *old]
    names = planned(results, of_2a2a2a="control_helper", of_0a0a0a="control_task-alone")
    report = report_of(results, names)
    assert [s.label for s in report.settings] == ["task alone", "helper", "kl_divergence"]
    assert [s.role.kind for s in report.settings[:2]] == [Kind.TASK_ALONE, Kind.CONTROL]
