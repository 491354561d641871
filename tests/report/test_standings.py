"""Strategies against each other, in sweeps whose numbers are known; what is said of them in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_sweep import fake_result, publish

from selgen_ray.reading import read_trials
from selgen_ray.report.build import make_report
from selgen_ray.report.model import Report
from selgen_ray.report.settings import Axis
from selgen_ray.report.strengths import scale_of, strengths
from selgen_ray.report.words import answer, caveats
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
    assert reference.why == "capability of the base model, alignment of the outcome-only run"
    kl = standing(report, "kl_divergence")
    assert kl.hypervolume == pytest.approx(0.8 * 0.3 + 0.5 * 0.1)  # the strong setting adds 0.1 of height for 0.5
    assert kl.share == pytest.approx(kl.hypervolume / 0.45)
    assert report.settings[kl.best].label == "kl_divergence β=1"
    assert len(kl.front) == 2 and kl.seeds == (1, 2, 3) and kl.num_resamples == 27
    assert standing(report, "dpo").hypervolume == pytest.approx(0.75 * 0.25)
    assert standing(report, "naive").hypervolume == pytest.approx(0)
    assert [s.strategy for s in report.standings.standings] == ["kl_divergence", "dpo", "naive"]
    assert standing(report_of(sweep, reference=(0.0, 0.0)), "dpo").hypervolume == pytest.approx(0.85 * 0.75)


def test_the_bootstrap_by_enumeration(sweep):
    report = report_of(sweep)
    noises = np.array([-0.02, 0.0, 0.02])
    draws = np.stack(np.meshgrid(*[noises] * 3), -1).reshape(-1, 3).mean(axis=1)
    dpo = (0.75 + draws) * (0.25 + 2 * draws)
    assert standing(report, "dpo").interval == pytest.approx(tuple(np.quantile(dpo, [0.025, 0.975])))
    high = np.clip(0.3 + draws, 0, None)
    kl = (0.5 + draws) * 0.4 + 0.3 * high
    assert report.standings.beats["kl_divergence"]["dpo"] == pytest.approx(np.mean((kl > dpo) + 0.5 * (kl == dpo)))
    ahead, behind = (report.standings.beats[a][b] for a, b in (("naive", "dpo"), ("dpo", "naive")))
    assert ahead + behind == pytest.approx(1)


def test_the_paired_differences(sweep):
    report = report_of(sweep)
    (against,) = [c for c in report.standings.families["naive"] if c.strategy == "kl_divergence"]
    assert against.seeds == (1, 2, 3)
    # the same noise in both: pairing takes it out, and a difference without a spread has no test
    assert against.y.summary.mean == pytest.approx(0.3) and against.y.summary.half_width == pytest.approx(0, abs=1e-12)
    assert against.y.p is None
    (dpo,) = [c for c in report.standings.families["naive"] if c.strategy == "dpo"]
    assert dpo.y.summary.sd == pytest.approx(0.02) and 0 < dpo.y.p < dpo.y.p_holm
    assert dpo.y.simultaneous > dpo.y.summary.half_width


def test_diverged_trials_and_what_misses_the_requirement_count_nowhere(sweep):
    before = report_of(sweep).standings
    tempting = fake_result("dpo", 4, 1.0, 1.0, "diverged", lambda_dpo=1.0)
    publish(sweep, tempting)
    after = report_of(sweep).standings
    assert [(s.strategy, s.hypervolume, s.interval) for s in after.standings] == [
        (s.strategy, s.hypervolume, s.interval) for s in before.standings
    ]
    gated = report_of(sweep, "capability >= 0.7")
    assert standing(gated, "kl_divergence").hypervolume == pytest.approx(0.8 * 0.3)


def test_one_seed_says_no_interval_and_no_probability(tmp_path):
    publish(tmp_path, fake_result("naive", 1, 0.9, 0.5), fake_result("dpo", 1, 0.8, 0.8))
    report = report_of(tmp_path)
    assert all(s.interval is None for s in report.standings.standings)
    assert report.standings.beats["dpo"]["naive"] is None
    told = " ".join(answer(report, report.standings))
    assert "one seed, no interval" in told and "fewer than two seeds" in told and "±" not in told
    assert any("no difference can be believed" in line for line in caveats(report, report.standings))


def test_different_seeds_are_compared_unpaired(tmp_path):
    for seed in (1, 2):
        publish(
            tmp_path,
            fake_result("naive", seed, 0.9, 0.4 + seed / 10),
            fake_result("dpo", seed + 2, 0.9, 0.6 + seed / 100),
        )
    report = report_of(tmp_path, reference=(0.0, 0.0))
    # naive's means over its draws: 0.5, 0.55, 0.55, 0.6; DPO's 0.61 and more
    assert report.standings.beats["dpo"]["naive"] == 1.0
    assert report.standings.families["dpo"][0].seeds == ()
    assert report.standings.families["dpo"][0].x.summary is None


def test_a_loss_is_turned_round(tmp_path):
    for strategy, loss in (("naive", 0.9), ("dpo", 0.3)):
        for seed in (1, 2):
            evals = {"align_test": {"loss": [0.5, loss + seed / 100]}}
            publish(tmp_path, fake_result(strategy, seed, 0.8, 0.5, evals=evals))
    report = report_of(tmp_path, y="align_test/loss")
    assert report.standings.leader.strategy == "dpo"
    assert report.standings.leader.hypervolume == pytest.approx(0.7 * 0.6)  # from the base's x, the worst loss


def test_the_answer_in_words(sweep):
    report = report_of(sweep)
    told = " ".join(answer(report, report.standings))
    assert "kl_divergence β=1 keeps alignment 0.800 ± 0.050 at capability 0.900 ± 0.050" in told
    assert "largest hypervolume of the 3 strategies" in told and "0.500 ± 0.050" in told and "3 seeds are few" in told
    publish(sweep, fake_result("dpo", 9, None, None, "diverged"))
    doubts = " ".join(caveats(report_of(sweep), report_of(sweep).standings))
    assert "1 diverged" in doubts and "chosen on the same seeds" in doubts


def test_nothing_completed_has_no_answer(tmp_path):
    publish(tmp_path, fake_result("naive", 1, status="running"))
    report = report_of(tmp_path)
    assert report.standings.leader is None
    assert "no answer yet" in " ".join(answer(report, report.standings))


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
