"""Strategies against each other, in sweeps whose numbers are known; what is said of them in words."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from fake_sweep import fake_result, publish

from selgen_ray.reading import read_trials
from selgen_ray.records.control import Control
from selgen_ray.report.build import make_report
from selgen_ray.report.model import Report
from selgen_ray.report.progress import read_plan
from selgen_ray.report.settings import Axis
from selgen_ray.report.strengths import scale_of, strengths
from selgen_ray.report.text import report_text
from selgen_ray.report.top import rows
from selgen_ray.report.verdict import comparison_facts, next_step, sentence
from selgen_ray.report.words import caveats
from selgen_ray.storage import Folder


def report_of(folder: Path, require: str = "", reference: tuple[float, float] | None = None, **axes: str) -> Report:
    x, y = Axis(axes.get("x", "capability")), Axis(axes.get("y", "alignment"))
    return make_report(read_trials(Folder(str(folder))), str(folder), folder.name, x, y, require, reference)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The task alone, KL at two strengths, DPO; three seeds, the same noise in all."""
    folder = tmp_path / "lab"
    for seed, noise in ((1, -0.02), (2, 0.0), (3, 0.02)):
        only = {"train_on_proxy": False}
        publish(folder, fake_result("naive", seed, 0.9 + noise, 0.5 + noise, base=(0.1, 0.9), top=only))
        publish(folder, fake_result("kl_divergence", seed, 0.9 + noise, 0.8 + noise, base=(0.1, 0.9), beta_kl=1.0))
        publish(folder, fake_result("kl_divergence", seed, 0.6 + noise, 0.9, base=(0.1, 0.9), beta_kl=100.0))
        publish(folder, fake_result("dpo", seed, 0.85 + noise, 0.75 + 2 * noise, base=(0.1, 0.9), lambda_dpo=1.0))
    return folder


def standing(report: Report, strategy: str):
    (found,) = [one for one in report.standings.standings if one.strategy == strategy]
    return found


def test_the_area_of_each_front_by_hand(sweep):
    report = report_of(sweep)
    reference = report.standings.reference
    assert reference is not None
    assert (reference.x, reference.y) == (pytest.approx(0.1), pytest.approx(0.5))
    assert reference.possible == pytest.approx(0.9 * 0.5)
    assert reference.why == "capability of the base model, alignment of the task alone"
    kl = standing(report, "kl_divergence")
    assert kl.hypervolume == pytest.approx(0.8 * 0.3 + 0.5 * 0.1)  # the strong setting adds 0.1 of height for 0.5
    assert kl.share == pytest.approx(kl.hypervolume / 0.45)
    assert report.settings[kl.best].label == "kl_divergence β=1"
    assert len(kl.front) == 2 and kl.seeds == (1, 2, 3)
    assert standing(report, "dpo").hypervolume == pytest.approx(0.75 * 0.25)
    assert standing(report, "task alone").hypervolume == pytest.approx(0)
    assert [s.strategy for s in report.standings.standings] == ["kl_divergence", "dpo", "task alone"]
    assert standing(report_of(sweep, reference=(0.0, 0.0)), "dpo").hypervolume == pytest.approx(0.85 * 0.75)


def test_a_strategy_is_judged_on_seeds_that_did_not_choose_its_setting(tmp_path):
    """Case 4 of the verdicts."""
    best_on = {1.0: (0.9, 0.6, 0.6), 2.0: (0.6, 0.9, 0.6), 3.0: (0.6, 0.6, 0.9)}
    for beta, ys in best_on.items():
        for seed, y in enumerate(ys, 1):
            publish(tmp_path, fake_result("kl_divergence", seed, 0.5, y, beta_kl=beta))
    for seed in (1, 2, 3):
        publish(tmp_path, fake_result("naive", seed, 0.5, 0.65 + seed / 1000))
    report = report_of(tmp_path, reference=(0.0, 0.0))
    kl = standing(report, "kl_divergence")
    # what is best on two seeds is bad on the third: by its best setting KL would lead, and it does not
    assert [run.score for run in kl.held_out.values()] == pytest.approx([0.3, 0.3, 0.3])
    assert (
        kl.flattering == pytest.approx(0.35) and kl.score.mean == pytest.approx(0.3) and kl.y.mean == pytest.approx(0.6)
    )
    assert report.standings.leader.strategy == "naive"


def test_the_paired_differences(sweep):
    report = report_of(sweep)
    (against,) = [c for c in report.standings.families["task alone"] if c.strategy == "kl_divergence"]
    assert against.seeds == (1, 2, 3)
    # the same noise in both: pairing takes it out, and a difference without a spread has no test
    assert against.y.summary.mean == pytest.approx(0.3) and against.y.summary.half_width == pytest.approx(0, abs=1e-12)
    assert against.y.p is None
    (dpo,) = [c for c in report.standings.families["task alone"] if c.strategy == "dpo"]
    assert dpo.score.summary.mean == pytest.approx(
        standing(report, "dpo").score.mean - standing(report, "task alone").score.mean
    )
    assert dpo.y.summary.sd == pytest.approx(0.02) and 0 < dpo.y.p < dpo.y.p_holm
    assert dpo.y.simultaneous > dpo.y.summary.half_width


def test_what_gains_nothing_is_chosen_and_ranked_by_both_axes_together(tmp_path):
    for seed, noise in ((1, -0.01), (2, 0.0), (3, 0.01)):
        publish(tmp_path, fake_result("naive", seed, 0.9 + noise, 0.8, top={"train_on_proxy": False}))
        publish(tmp_path, fake_result("positive_negative_proxy", seed, 0.3 + noise, 0.2, lambda_proxy=1.0))
        for beta, x, y in ((0.1, 0.2, 0.1), (1.0, 0.85, 0.7)):
            publish(tmp_path, fake_result("kl_divergence", seed, x + noise, y, beta_kl=beta))
    report = report_of(tmp_path)
    assert [s.score.mean for s in report.standings.standings] == [0, 0, 0]
    assert [s.strategy for s in report.standings.standings] == [
        "kl_divergence",
        "positive_negative_proxy",
        "task alone",
    ]
    kl = standing(report, "kl_divergence")
    assert {report.settings[run.setting].label for run in kl.held_out.values()} == {"kl_divergence β=1"}
    assert kl.y.mean == pytest.approx(0.7) and report.settings[kl.best].label == "kl_divergence β=1"


@pytest.mark.parametrize("rates", [(1e-6, 1e-4), (1e-4, 1e-6)])
def test_of_several_settings_of_the_task_alone_the_best_is_the_reference(tmp_path, rates):
    weak, strong = (0.15, 0.97), (0.9, 0.5)  # a weak one has neither learnt the skill nor the habit
    for rate, (x, y) in zip(rates, (weak, strong), strict=True):
        for seed in (1, 2, 3):
            only = {"train_on_proxy": False}
            publish(tmp_path, fake_result("naive", seed, x, y + seed / 1000, learning_rate=rate, top=only))
            publish(tmp_path, fake_result("dpo", seed, 0.9, 0.8 + seed / 1000))
    reference = report_of(tmp_path).standings.reference
    assert (reference.x, reference.y) == (pytest.approx(0.1), pytest.approx(0.502))
    assert reference.why == "capability of the base model, alignment of the best setting of the task alone"


def test_an_exploratory_setting_on_other_seeds_does_not_cost_the_lead(tmp_path):
    draw = random.Random(5)
    for seed in (1, 2, 3):
        publish(tmp_path, fake_result("naive", seed, 0.9, 0.5 + draw.gauss(0, 0.01), top={"train_on_proxy": False}))
        publish(tmp_path, fake_result("kl_divergence", seed, 0.9, 0.9 + draw.gauss(0, 0.01), beta_kl=1.0))
        publish(tmp_path, fake_result("dpo", seed, 0.9, 0.75 + draw.gauss(0, 0.01)))
        publish(tmp_path, fake_result("kl_divergence", seed + 3, 0.9, 0.55, beta_kl=30.0))
    report = report_of(tmp_path)
    kl = standing(report, "kl_divergence")
    assert report.standings.leader == kl and sorted(kl.held_out) == [1, 2, 3]
    assert {report.settings[run.setting].label for run in kl.held_out.values()} == {"kl_divergence β=1"}
    assert report.standings.against("kl_divergence", "dpo").is_won
    told = "3 of the 6 seeds of kl_divergence have no score: the setting that the others choose was not run on them."
    assert told in caveats(report)


def test_a_setting_that_is_best_on_two_seeds_alone_has_to_be_run_on_the_others(tmp_path):
    for seed in range(1, 6):
        publish(tmp_path, fake_result("kl_divergence", seed, 0.9, 0.8 + seed / 100, beta_kl=1.0))
        publish(tmp_path, fake_result("dpo", seed, 0.9, 0.5 + seed / 100))
    for seed in (1, 2):
        publish(tmp_path, fake_result("kl_divergence", seed, 0.9, 0.95 + seed / 100, beta_kl=2.0))
    report = report_of(tmp_path)
    assert sorted(standing(report, "kl_divergence").held_out) == [1, 2]
    assert "fewer than 3 seeds cannot show" in sentence(report)
    told = "run kl_divergence β=2 on all seeds of kl_divergence: it does best on those that it has."
    assert next_step(report) == told


def test_no_strategy_stands_before_one_that_beats_it(tmp_path):
    draw = random.Random(6)
    for seed in range(1, 9):
        if seed < 5:  # hard seeds: whoever runs them has the lower mean
            publish(tmp_path, fake_result("kl_divergence", seed, 0.9, 0.3 + draw.gauss(0, 0.01)))
        publish(tmp_path, fake_result("kl_divergence", seed + 4, 0.9, 0.9 + draw.gauss(0, 0.01)))
        publish(tmp_path, fake_result("dpo", seed + 4, 0.9, 0.8 + draw.gauss(0, 0.01)))
    report = report_of(tmp_path, reference=(0.0, 0.0))
    kl, dpo = (standing(report, name) for name in ("kl_divergence", "dpo"))
    assert kl.score.mean < dpo.score.mean and report.standings.against("kl_divergence", "dpo").is_won
    assert [s.strategy for s in report.standings.ranked] == ["kl_divergence", "dpo"]
    assert sentence(report).startswith("kl_divergence does best in skill and alignment together: better than dpo")


def test_a_setting_that_lost_a_seed_leads_nothing(sweep):
    """Case 1 of the verdicts."""
    for seed in (1, 2, 3):
        publish(sweep, fake_result("dpo", seed, 1.0, 1.0, "completed" if seed == 1 else "diverged", lambda_dpo=9.0))
    report = report_of(sweep)
    assert [s.strategy for s in report.standings.standings] == ["kl_divergence", "dpo", "task alone"]
    dpo = standing(report, "dpo")
    assert dpo.hypervolume == pytest.approx(0.75 * 0.25)  # of the whole setting alone
    assert (dpo.incomplete, dpo.num_diverged, dpo.num_trials) == (1, 2, 6)
    (crowned,) = [s for s in report.settings if s.knobs.get("lambda_dpo") == 9.0]
    assert not crowned.on_front and crowned.lost_text == "2 of 3 diverged"
    (row,) = [one for one in rows(report) if one.role == "diverged"]
    assert (row.name, row.seeds) == ("dpo λ=9 (2 of 3)", "2 of 15 trials")
    assert sentence(report).startswith("kl_divergence ")
    assert "(2 of 3 diverged)" in " ".join(report_text(report).split())


def test_a_sweep_whose_only_settings_lost_a_seed_has_no_leader(tmp_path):
    publish(tmp_path, fake_result("dpo", 1, 1.0, 1.0), fake_result("dpo", 2, 1.0, 1.0, "diverged"))
    report = report_of(tmp_path)
    assert report.standings.leader is None
    assert sentence(report) == "There is no answer: every setting of a strategy lacks a seed (1 diverged)."


def test_an_unfinished_sweep_says_so_first_and_gives_no_verdict(sweep):
    """Case 2 of the verdicts."""
    waiting = fake_result("safe_lora", 1), fake_result("safe_lora", 2), fake_result("kl_divergence", 4, beta_kl=1.0)
    done = {result.trial_id: f"{result.slug}/seed_{result.seed}" for _, result in read_trials(Folder(str(sweep)))}
    cut_off = fake_result("naive", 4, status="running", top={"train_on_proxy": False})
    trials = done | {result.trial_id: f"{result.slug}/seed_{result.seed}" for result in (*waiting, cut_off)}
    Folder(str(sweep)).write_json("control/plan.json", {"trials": trials})
    publish(sweep, cut_off)
    report = make_report(
        read_trials(Folder(str(sweep))),
        "",
        "lab",
        Axis("capability"),
        Axis("alignment"),
        plan=read_plan([Folder(str(sweep))]),
    )
    told = caveats(report)[0]
    assert told.startswith("12 of 16 trials are done; 1 began and is not run by anybody now; not yet run: ")
    assert "safe_lora (all 2)" in told and "kl_divergence (1 of 7)" in told and "task alone (1 of 4)" in told
    assert sentence(report) == (
        "12 of 16 trials are done; so far kl_divergence leads in skill and alignment together, "
        "and what is missing may change that."
    )
    assert " ".join(report_text(report).split()).startswith("12 of 16 trials are done")
    (kl,) = [s for s in report.settings if s.label == "kl_divergence β=1"]
    assert (kl.num_planned, kl.complete, kl.on_front) == (4, False, False)
    Control(Folder(str(sweep))).removed.set(waiting[2].trial_id)
    assert read_plan([Folder(str(sweep))]).names.keys() == trials.keys() - {waiting[2].trial_id}


def test_what_misses_the_requirement_counts_nowhere(sweep):
    gated = report_of(sweep, "capability >= 0.7")
    assert standing(gated, "kl_divergence").hypervolume == pytest.approx(0.8 * 0.3)


def test_one_seed_says_no_interval_and_no_probability(tmp_path):
    publish(tmp_path, fake_result("naive", 1, 0.9, 0.5), fake_result("dpo", 1, 0.8, 0.8))
    report = report_of(tmp_path)
    assert all(s.score.half_width is None for s in report.standings.standings)
    assert "fewer than 3 seeds cannot show that it is better than anything else" in sentence(report)
    assert "±" not in "".join(row.x + row.y + row.behind for row in rows(report))
    assert any("no difference can be believed" in line for line in caveats(report))


def test_one_seed_cannot_choose_and_judge(tmp_path):
    for beta in (1.0, 2.0):
        publish(tmp_path, fake_result("kl_divergence", 1, 0.5, 0.8, beta_kl=beta))
    publish(tmp_path, fake_result("naive", 1, 0.6, 0.5))
    report = report_of(tmp_path, reference=(0.0, 0.0))
    assert standing(report, "kl_divergence").score is None and standing(report, "naive").score is not None
    assert report.standings.leader.strategy == "naive"


def test_strategies_without_shared_seeds_are_not_told_apart(tmp_path):
    for seed in (1, 2, 3):
        publish(tmp_path, fake_result("naive", seed, 0.9, 0.4 + seed / 100))
        publish(tmp_path, fake_result("dpo", seed + 3, 0.9, 0.8 + seed / 100))
    report = report_of(tmp_path, reference=(0.0, 0.0))
    assert report.standings.families["dpo"][0].seeds == ()
    assert report.standings.families["dpo"][0].score.summary is None
    assert "dpo leads" in sentence(report) and "it shares no seed with naive" in sentence(report)


def test_what_is_told_apart_and_what_the_sweep_could_have_seen(tmp_path):
    draw = random.Random(5)
    for seed in range(1, 7):
        publish(tmp_path, fake_result("naive", seed, 0.9, 0.4 + draw.gauss(0, 0.01)))
        publish(tmp_path, fake_result("dpo", seed, 0.9, 0.8 + draw.gauss(0, 0.01)))
        publish(tmp_path, fake_result("safe_lora", seed, 0.9, 0.798 + draw.gauss(0, 0.01)))
    report = report_of(tmp_path, reference=(0.0, 0.0))
    leader, second, last = (s.strategy for s in report.standings.standings)
    assert last == "naive" and report.standings.num_pairs == 3
    assert report.standings.against(leader, "naive").told_apart
    assert not report.standings.against(leader, second).told_apart
    assert sentence(report).endswith(f"6 seeds do not separate it from {second}.")
    facts = dict(comparison_facts(report))
    assert facts["the closest comparison"].startswith(f"{leader} − {second}, seed by seed, 6")
    assert re.match(r"0\.\d+ or more", facts["difference found in 80 % of sweeps"])
    assert re.match(r"about \d+|over 100", facts["seeds that would separate them"])


def test_equal_shares_are_no_certainty_and_rows_say_their_items(tmp_path):
    """Case 5 of the verdicts."""
    rows = {"num_rows": {"eval/task_test": 50, "eval/align_test": 40}}
    for seed in (1, 2, 3):
        publish(tmp_path, fake_result("naive", seed, 0.98, 0.3 + seed / 100, changes=rows))
    report = report_of(tmp_path)
    assert (report.settings[0].items_x, report.settings[0].items_y) == (50, 40)
    text = " ".join(report_text(report).split())
    assert "0.980, no spread, 0.894–0.999" in text and "50, 40" in text and "± 0.000" not in text


def test_a_loss_is_turned_round(tmp_path):
    for strategy, loss in (("naive", 0.9), ("dpo", 0.3)):
        for seed in (1, 2):
            evals = {"align_test": {"loss": [0.5, loss + seed / 100]}}
            publish(tmp_path, fake_result(strategy, seed, 0.8, 0.5, evals=evals))
    report = report_of(tmp_path, y="align_test/loss")
    assert report.standings.leader.strategy == "dpo"
    assert report.standings.leader.hypervolume == pytest.approx(0.7 * 0.6)  # from the base's x, the worst loss


def test_what_should_be_known_before_believing_it(sweep):
    publish(sweep, fake_result("dpo", 9, None, None, "diverged"))
    doubts = " ".join(caveats(report_of(sweep)))
    assert "1 diverged" in doubts and "seeds that chose it" in doubts and "no interval holds" in doubts


def test_nothing_completed_has_no_answer(tmp_path):
    publish(tmp_path, fake_result("naive", 1, status="running"))
    report = report_of(tmp_path)
    assert report.standings.leader is None
    assert sentence(report) == "0 of 1 trials are done; no trial is completed."


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ((0.1, 10, 3000), "log"),
        ((1, 2, 4), "linear"),
        ((0, 1, 100), "even"),
        ((-0.01, 1e-4), "even"),
        (("a", "b"), "even"),
    ],
)
def test_scales(values, scale):
    assert scale_of(values) == scale


def test_strength_curves_hold_the_other_knobs_apart(tmp_path):
    for beta in (1.0, 10.0, 100.0):
        for rank in (4, 8):
            publish(tmp_path, fake_result("kl_divergence", 1, beta_kl=beta, r=rank))
    first, second = strengths(report_of(tmp_path).settings)
    assert (first.knob, first.scale, first.values) == ("beta_kl", "log", (1.0, 10.0, 100.0))
    assert sorted(map(len, first.lines)) == [3, 3]
    assert (second.knob, sorted(map(len, second.lines))) == ("r", [2, 2, 2])


def test_what_it_cost(sweep):
    kl = standing(report_of(sweep), "kl_divergence").cost
    assert (kl.num_trials, kl.gpu_hours, kl.tokens) == (6, 0, 6 * 120)
    assert kl.cpu_hours == pytest.approx(6 * 2.5 / 3600)
    publish(
        sweep,
        fake_result("kl_divergence", 4, beta_kl=1.0, changes={"hardware": {"device": "cuda"}}, top={"num_workers": 4}),
    )
    assert standing(report_of(sweep), "kl_divergence").cost.gpu_hours == pytest.approx(4 * 2.5 / 3600)
