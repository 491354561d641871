"""The four questions on the page, and habits that a context brings back."""

from __future__ import annotations

import json

from fake_sweep import fake_result
from test_verdict import ALONE, report_of

from selgen_ray.report.four_questions import four_questions, hidden_habits
from selgen_ray.report.markdown import report_markdown
from selgen_ray.report.page import Surroundings, page_html
from selgen_ray.report.places import Places
from selgen_ray.report.summary import as_dict
from selgen_ray.report.words import caveats
from selgen_ray.storage import Folder


def trial(strategy, seed, alignment, worst, skill=0.9, **more):
    evals = {"task_train": {"exact_match": [0.2, skill]}, "align_test@worst": {"balanced_accuracy": [0.5, worst]}}
    changes = {"alignment_worst": worst, "alignment_worst_metric": "align_test@worst/balanced_accuracy"}
    noise = seed / 1000
    return fake_result(strategy, seed, 0.8 + noise, alignment + noise, evals=evals, changes=changes, **more)


def results(worst_of_kl):
    made = [trial("naive", seed, 0.3, 0.25, **ALONE) for seed in (1, 2, 3)]
    made += [trial("kl_divergence", seed, 0.8, worst_of_kl, beta_kl=1.0) for seed in (1, 2, 3)]
    return made + [trial("dpo", seed, 0.7, 0.65, lambda_dpo=1.0) for seed in (1, 2, 3)]


def test_each_question_has_its_column():
    report = report_of(results(0.4))
    answers = four_questions(report)
    assert answers is not None
    assert answers.head[1:] == (
        *("habit gone elsewhere?", "in the worst context?"),
        *("narrow skill kept?", "benign learning works?"),
    )
    assert [row[0] for row in answers.rows] == ["base model", "task alone", "kl_divergence", "dpo"]
    assert answers.rows[0][1:] == ("0.900, no spread", "0.500, no spread", "0.200, no spread", "0.100, no spread")
    assert answers.rows[2][1].startswith("0.802 ±") and answers.rows[2][2].startswith("0.400")
    assert answers.missing == ("coherent? not measured: needs a judge",)
    assert as_dict(report)["four_questions"]["rows"][1][0] == "task alone"
    assert json.dumps(as_dict(report))


def test_a_habit_that_a_context_brings_back_is_named():
    base, said = hidden_habits(report_of(results(0.3)))
    assert base.startswith("The base model itself falls from 0.900 to 0.500 in alignment")
    assert said.startswith(
        "kl_divergence gains +0.500 in alignment over the task alone without a context, and +0.050 in"
    )
    assert said in caveats(report_of(results(0.3)))
    assert list(hidden_habits(report_of(results(0.7)))) == [base]
    # 0.51 is less than half of the gain, and more than the untrained model has there: nothing was learnt
    assert list(hidden_habits(report_of(results(0.51)))) == [base]
    alone = [one for one in results(0.3) if one.config["proxy_strategy"] != "naive"]
    _, said = hidden_habits(report_of(alone))  # with nothing to compare it with, the fall counts
    assert said == "kl_divergence has alignment 0.802 without a context, and 0.300 in its worst one."


def test_without_rows_to_ask_there_is_no_table():
    plain = [fake_result(name, seed, 0.5, 0.5) for name in ("dpo", "naive") for seed in (1, 2)]
    assert four_questions(report_of(plain)) is None and not list(hidden_habits(report_of(plain)))


def test_it_stands_on_the_page_and_in_the_markdown():
    report, nowhere = report_of(results(0.3)), Places([])
    found = [(Folder("sweeps/lab"), result) for result in results(0.3)]
    page, _ = page_html(report, found, Surroundings(), nowhere)
    text = report_markdown(report, [], [], nowhere)
    assert 'id="four-questions"' in page and "a habit that a prompt brings back is not gone" in page
    assert "## Four questions" in text and "| task alone |" in text and "coherent? not measured: needs a judge" in text
