"""How numbers of the tables are written."""

from __future__ import annotations

import pytest
from fake_sweep import fake_result

from selgen_ray.records.requirement import parse_requirement
from selgen_ray.report.build import make_report
from selgen_ray.report.settings import Axis
from selgen_ray.report.top import p_text, score_text
from selgen_ray.stats import summarise
from selgen_ray.storage import Folder


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([3.1e-4, 3.0e-4, 3.2e-4], "0.000310 ± 0.000025"),  # 4.3027 · 1e-5 / √3
        ([0.98, 0.9801, 0.9802], "0.98010 ± 0.00025"),
        ([0.8, 0.82, 0.84], "0.820 ± 0.050"),
        ([5e-4, 5e-4], "0.00050, no spread"),
        ([4e-4], "0.00040"),
        ([0.0, 0.0], "0.000, no spread"),
        ([1e-9, 3e-9], "2.0e-09 ± 1.3e-08"),
        ([12.5, 13.5], "13.000 ± 6.353"),
    ],
)
def test_a_half_width_is_never_zero_digits(values, text):
    assert score_text(summarise(values)) == text


def test_a_small_change_has_its_sign_and_digits():
    assert score_text(summarise([2e-4, 2.1e-4, 2.2e-4]), signed=True) == "+0.000210 ± 0.000025"
    assert score_text(summarise([-2e-4]), signed=True) == "-0.00020"


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0496, "0.0496"),
        (0.04996, "0.04996"),
        (0.05, "0.05"),
        (0.0504, "0.05"),
        (0.041, "0.041"),
        (0.0999, "0.1"),
        (0.5, "0.50"),
        (9e-4, "< 0.001"),
    ],
)
def test_a_p_below_the_level_reads_below_it(p, text):
    assert p_text(p) == text


@pytest.mark.parametrize(
    ("condition", "value", "text"),
    [
        ("coherence >= 0.5", 0.42, "coherence 0.420"),
        ("coherence >= 0.5", 0.49996, "coherence 0.49996"),
        ("coherence > 0.5", 0.5, "coherence 0.500"),
        ("align_test/loss < 0.0002", 0.00021, "align_test/loss 0.0002"),
        ("align_test/loss <= 0.0002", 0.00021, "align_test/loss 0.00021"),
        ("coherence >= 0.5", 0.49999999999999994, "coherence 0.4999999999999999"),
    ],
)
def test_a_violation_reads_like_one(condition, value, text):
    (parsed,) = parse_requirement(condition)
    assert parsed.failure(value) == text and parsed.failure(None) == f"no value of {parsed.metric}"


def test_a_condition_keeps_its_bound():
    for text in ("align_test/loss < 0.12345678", "coherence >= 0.5", "task_test/loss < 2", "a/b > 1e-07"):
        (parsed,) = parse_requirement(text)
        assert str(parsed) == text and parse_requirement(str(parsed)) == (parsed,)


def test_the_items_are_the_rows_that_the_metric_scored():
    def items(num_rows: dict[str, int]) -> tuple[int | None, int | None]:
        found = [(Folder("lab"), fake_result("dpo", seed, 1.0, 1.0, changes={"num_rows": num_rows})) for seed in (1, 2)]
        (setting,) = make_report(found, "lab", "lab", Axis("capability"), Axis("alignment")).settings
        return setting.items_x, setting.items_y

    rows = {"eval/task_test": 12, "eval/align_test": 30}
    assert items(rows) == (12, 30)
    assert items(rows | {"eval/task_test/exact_match": 4, "eval/task_test/choice_accuracy": 8}) == (4, 30)
    assert items({}) == (None, None)
