"""Random and Bayesian search: what a search space with one expands to, and what is asked for next."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from selgen_ray.driver.search import Asked, Search, misses, num_random, outcome
from selgen_ray.errors import SpecError
from selgen_ray.records.requirement import parse_requirement
from selgen_ray.records.results import TrialResult
from selgen_ray.space import SweepSpec, load_space
from selgen_ray.space.ranges import Range
from selgen_ray.space.spec import Objective
from selgen_ray.syntax.tree import Node, Origin

Load = Callable[..., SweepSpec]
BETA, RATE = "finetune_config.beta_kl", "finetune_config.learning_rate"
RANGES = {BETA: "{min: 0.01, max: 1000, log: true}", RATE: "{min: 1e-6, max: 1e-2, log: true}"}
Results = dict[str, TrialResult]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """load('optuna', 'num_settings: 5', ranges, 'seeds: [1]') -> the search space of one strategy with a search."""

    def write_and_load(
        algorithm: str, options: str, ranges: Mapping[str, str] = RANGES, top: str = "seeds: [1]", beside: str = ""
    ) -> SweepSpec:
        listed = ", ".join(f"{key}: {value}" for key, value in ranges.items())
        search = f"{{algorithm: {algorithm}, {options}, {listed}}}"
        path = tmp_path / "space.yaml"
        path.write_text(f"{top}\nstrategies:\n  kl_divergence:\n    search: {search}\n{beside}")
        return load_space(path)

    return write_and_load


def betas(spec: SweepSpec) -> list[float]:
    return [getattr(trial.config.finetune_config, "beta_kl") for trial in spec.trials]  # noqa: B009  # a knob


def ids(spec: SweepSpec) -> list[str]:
    return [trial.trial_id for trial in spec.trials]


def result_of(trial: Any, y: float | None, x: float | None = 0.5, status: Any = "completed") -> TrialResult:
    """What a finished trial leaves."""
    return TrialResult(
        trial_id=trial.trial_id,
        slug=trial.slug,
        seed=trial.config.seed,
        status=status,
        config=trial.config.model_dump(mode="json"),
        capability=x,
        alignment=y,
    )


def hill(values: Mapping[str, Any]) -> float:
    """Highest, 1, at beta 15.8 and learning rate 2e-4; a tenth of the searched plane is above a half."""
    return math.exp(-((math.log10(values[BETA]) - 1.2) ** 2) / 0.5 - (math.log10(values[RATE]) + 3.7) ** 2 / 0.2)


def run(search: Search, results: Results, num: int | None = None) -> list[Asked]:
    """Ask for settings one after the other, each with its result before the next."""
    asked: list[Asked] = []
    while (num is None or len(asked) < num) and (one := search.ask(results)):
        asked.append(one)
        results |= {trial.trial_id: result_of(trial, hill(one.values)) for trial in one.trials}
    return asked


# random -------------------------------------------------------------------------------------------------------------


def test_a_random_search_is_a_list_of_ordinary_trials(load: Load) -> None:
    spec = load("random", "num_settings: 20", top="seeds: [1, 2]")
    assert spec.searches == () and len(spec.trials) == len(set(ids(spec))) == 40
    assert Counter(trial.slug for trial in spec.trials).most_common()[-1][1] == 2, "every setting with both seeds"
    assert ids(spec) == ids(load("random", "num_settings: 20", top="seeds: [1, 2]"))
    for trial in spec.trials:
        config = trial.config.finetune_config.model_dump()
        assert 0.01 <= config["beta_kl"] <= 1000 and 1e-6 <= config["learning_rate"] <= 1e-2
        assert config["beta_kl"] == float(f"{config['beta_kl']:.4g}")
    assert re.fullmatch(r"kl_divergence_learning_rate-[0-9.e-]+_beta_kl-[0-9.e-]+_[0-9a-f]{6}", spec.trials[0].slug)


def test_more_settings_are_added_to_those_that_are_there(load: Load) -> None:
    few, many = load("random", "num_settings: 5"), load("random", "num_settings: 9")
    assert ids(many)[:5] == ids(few)
    more_seeds = load("random", "num_settings: 5", top="seeds: [1, 2]")
    assert set(ids(few)) < set(ids(more_seeds))
    beside = load("random", "num_settings: 5", beside="  naive: {}\n  dpo: {}\n")
    assert set(ids(few)) < set(ids(beside))


def test_seeds_of_a_search_give_other_settings(load: Load) -> None:
    assert betas(load("random", "num_settings: 5")) == betas(load("random", "num_settings: 5, seed: 0"))
    assert not set(betas(load("random", "num_settings: 5"))) & set(betas(load("random", "num_settings: 5, seed: 1")))


def test_a_search_covers_its_range(load: Load) -> None:
    for seed in range(5):
        spec = load("random", f"num_settings: 20, seed: {seed}", {BETA: "{min: 0.01, max: 100, log: true}"})
        quarters = Counter(int(math.log10(beta) + 2) for beta in betas(spec))
        assert all(4 <= quarters[i] <= 6 for i in range(4)), "log: each factor of ten alike"
        spec = load("random", f"num_settings: 20, seed: {seed}", {BETA: "{min: 0, max: 100}"})
        quarters = Counter(int(beta // 25) for beta in betas(spec))
        assert all(4 <= quarters[i] <= 6 for i in range(4))


def test_whole_numbers_and_choices(load: Load) -> None:
    ranges = {"finetune_config.r": "{min: 1, max: 4}", "finetune_config.optim": "{choices: [sgd, adamw_torch]}"}
    spec = load("random", "num_settings: 40", ranges)
    found = Counter((t.config.finetune_config.r, t.config.finetune_config.optim) for t in spec.trials)
    assert set(found) == {(r, optim) for r in (1, 2, 3, 4) for optim in ("sgd", "adamw_torch")}
    assert all(type(r) is int for r, _ in found)
    assert any("is given" in note for note in spec.notes), "drawn again, and run once"
    spec = load("random", "num_settings: 20", {"finetune_config.r": "{min: 10, max: 100000, log: true}"})
    assert 9 <= sum(trial.config.finetune_config.r < 1000 for trial in spec.trials) <= 11


def test_values_are_short_and_inside_their_range() -> None:
    node = Node(None, Origin("space.yaml"))
    shares = (0.0, 0.24, 0.26, 0.49, 0.51, 0.74, 0.76, math.nextafter(1, 0))
    whole = Range(node, 1, 4, is_whole=True)
    assert [whole.at(share) for share in shares] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [Range(node, choices=("a", "b", "c", "d")).at(share) for share in shares] == list("aabbccdd")
    narrow = Range(node, 1.23444, 1.23446)  # both would be rounded to numbers outside
    assert [narrow.at(share) for share in (0.0, 0.9)] == [1.23444, 1.23444]
    assert Range(node, 0, 0.123456).at(math.nextafter(1, 0)) == 0.123456
    assert Range(node, 0.001, 1000, log=True).at(0.5) == 1 and Range(node, 0.001, 1000).at(1 / 3) == 333.3
    held = [Range(node, 1, 10, is_whole=True).holds(value) for value in (1, 10, 2.0, 0, 11, 2.5, "2", None, True)]
    assert held == [True, True, True, *[False] * 6]


def test_a_choice_may_be_null_or_a_list(load: Load) -> None:
    ranges = {
        "finetune_config.max_grad_norm": "{choices: [null, 1.0]}",
        "finetune_config.target_modules": "{choices: [[q_proj], [q_proj, v_proj], all-linear]}",
    }
    spec = load("random", "num_settings: 40", ranges)
    configs = [t.config.finetune_config for t in spec.trials]
    assert {config.max_grad_norm for config in configs} == {None, 1.0}
    assert {str(config.target_modules) for config in configs} == {"['q_proj']", "['q_proj', 'v_proj']", "all-linear"}
    asked = run_blindly(Search(load("optuna", "num_settings: 6", ranges).searches[0]))
    assert len({json.dumps(one.entry["values"]) for one in asked}) == 6


def run_blindly(search: Search) -> list[Asked]:
    """All of a search whose settings have no results."""
    asked = []
    while one := search.ask({}):
        asked.append(one)
    return asked


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_a_search_stands_beside_a_grid(load: Load, algorithm: str) -> None:
    """Each combination of the grid is searched, with the same draws at first."""
    grid = "    grid: {finetune_config.r: [4, 8]}\n  naive: {}\n"
    spec = load(algorithm, "num_settings: 4", {BETA: RANGES[BETA]}, "seeds: [1, 2]", grid)
    if algorithm == "random":
        trials = [t for t in spec.trials if t.config.proxy_strategy != "naive"]
    else:
        assert [t.config.proxy_strategy for t in spec.trials] == ["naive"] * 2
        assert len({one.key for one in spec.searches}) == 2
        trials = [t for one in spec.searches for asked in run_blindly(Search(one))[:3] for t in asked.trials]
    by_rank: dict[int, set[float]] = {}
    for trial in trials:
        config = trial.config.finetune_config.model_dump()
        by_rank.setdefault(config["r"], set()).add(config["beta_kl"])
        assert f"_r-{config['r']}_beta_kl-{config['beta_kl']:g}_" in trial.slug
    assert by_rank.keys() == {4, 8} and by_rank[4] == by_rank[8]
    assert len(trials) == (16 if algorithm == "random" else 12)


# optuna: what is asked for ------------------------------------------------------------------------------------------


def test_a_search_that_goes_on_asks_for_what_it_would_have_asked(load: Load) -> None:
    """After every number of settings: all it needs is in the entries and results, which have been plain JSON."""
    spec = load("optuna", "num_settings: 12", top="seeds: [1, 2]")
    results: Results = {}
    whole = run(Search(spec.searches[0]), results)
    assert [asked.number for asked in whole] == list(range(12))
    for done in range(12):
        entries = [json.loads(json.dumps(one.entry)) for one in whole[:done] for _ in one.trials]
        known = {trial.trial_id for one in whole[:done] for trial in one.trials}
        read = [TrialResult.model_validate_json(results[key].model_dump_json()) for key in sorted(known)]
        again = Search(load("optuna", "num_settings: 12", top="seeds: [1, 2]").searches[0], reversed(entries))
        asked = again.ask({result.trial_id: result for result in read})
        assert asked and asked.entry == whole[done].entry
        assert [trial.name for trial in asked.trials] == [trial.name for trial in whole[done].trials]
    full = Search(spec.searches[0], [one.entry for one in whole])
    assert full.is_done and full.ask(results) is None


def test_results_guide_the_search(load: Load) -> None:
    spec = load("optuna", "num_settings: 12, metric: alignment")
    first, second = {}, {}
    start = run(Search(spec.searches[0]), first, 3)
    entries = [one.entry for one in start]
    for i, one in enumerate(start):  # another of them is the best
        second |= {trial.trial_id: result_of(trial, float(i == 2) * 0.9) for trial in one.trials}
        first |= {trial.trial_id: result_of(trial, float(i == 0) * 0.9) for trial in one.trials}
    one, other = (Search(spec.searches[0], entries).ask(results) for results in (first, second))
    assert one and other and one.values != other.values


def test_optuna_finds_the_top_where_random_settings_do_not(load: Load) -> None:
    """25 settings each, the same five seeds."""
    best: dict[str, list[float]] = {"random": [], "optuna": []}
    for seed in range(5):
        guided = load("optuna", f"num_settings: 25, seed: {seed}, metric: alignment")
        best["optuna"].append(max(hill(asked.values) for asked in run(Search(guided.searches[0]), {})))
        drawn = load("random", f"num_settings: 25, seed: {seed}").trials
        values = [trial.config.finetune_config.model_dump() for trial in drawn]
        best["random"].append(max(hill({BETA: v["beta_kl"], RATE: v["learning_rate"]}) for v in values))
    assert min(best["optuna"]) > 0.6
    assert sum(best["optuna"]) / 5 > sum(best["random"]) / 5 + 0.1


def test_two_objectives_are_both_followed(load: Load) -> None:
    """More beta: more alignment, less capability. The front is everywhere, and what is worse in both is left."""
    spec = load("optuna", "num_settings: 40", {**RANGES, RATE: "{min: 0.1, max: 1}"})
    search, results = Search(spec.searches[0]), {}
    assert search.spec.objectives == (Objective("capability", "max"), Objective("alignment", "max"))
    while asked := search.ask(results):
        share = (math.log10(asked.values[BETA]) + 2) / 5
        waste = asked.values[RATE] - 0.1
        for trial in asked.trials:
            results[trial.trial_id] = result_of(trial, max(0.0, share - waste), max(0.0, 1 - share - waste))
    late = [asked.values for asked in search.asked[20:]]
    assert sum(values[RATE] < 0.4 for values in late) >= 13, "of 20; by chance it would be 7"
    assert max(values[BETA] for values in late) > 10 > 1 > min(values[BETA] for values in late)


def test_a_search_looks_where_the_requirement_is_met(load: Load) -> None:
    """More beta: more alignment, less capability, which must be 0.7 at least."""

    def late_shares(top: str) -> list[float]:
        search, results = Search(load("optuna", "num_settings: 30", top=top).searches[0]), {}
        shares = []
        while asked := search.ask(results):
            shares.append((math.log10(asked.values[BETA]) + 2) / 5)
            results |= {trial.trial_id: result_of(trial, shares[-1], 1 - shares[-1]) for trial in asked.trials}
        return shares[10:]

    free, bound = late_shares("seeds: [1]"), late_shares("seeds: [1]\npareto: {require: capability >= 0.7}")
    assert sum(share <= 0.3 for share in bound) > 1.5 * sum(share <= 0.3 for share in free), (bound, free)


def test_how_far_a_setting_misses_the_requirement(load: Load) -> None:
    search = Search(load("optuna", "num_settings: 5", top="seeds: [1, 2]").searches[0])
    asked = search.ask({})
    assert asked
    results = {t.trial_id: result_of(t, y, 0.5) for t, y in zip(asked.trials, (0.2, 0.4), strict=True)}
    conditions = parse_requirement("alignment >= 0.5 and capability < 0.75")
    assert misses(asked, results, conditions) == pytest.approx([0.2, -0.25])
    results[asked.trials[0].trial_id] = result_of(asked.trials[0], None, 0.5)
    assert misses(asked, results, conditions) is None


def test_the_objectives_of_the_file(load: Load) -> None:
    def goals(options: str, top: str = "") -> list[tuple[str, str]]:
        (search,) = load("optuna", f"num_settings: 5{options}", top=top).searches
        return [(one.metric, one.mode) for one in search.objectives]

    assert goals("", "pareto: {x: task_test/loss}") == [("task_test/loss", "min"), ("alignment", "max")]
    assert goals("", "pareto: {x: alignment}") == [("alignment", "max")]
    assert goals(", metric: align_test/loss") == [("align_test/loss", "min")]
    assert goals(", metric: align_test/loss, mode: max") == [("align_test/loss", "max")]


def test_what_runs_is_not_asked_for_again(load: Load) -> None:
    """Eight settings at a time, and only the first ones have ended."""
    search, results = Search(load("optuna", "num_settings: 24").searches[0]), {}
    run(search, results, 6)
    asked = [search.ask(results) for _ in range(8)]
    values = [one.values for one in asked if one]
    assert len({json.dumps(one) for one in values}) == 8
    rates = sorted(math.log10(one[RATE]) for one in values)
    assert rates[-1] - rates[0] > 0.3


def test_a_small_space_is_asked_for_once(load: Load) -> None:
    ranges = {"finetune_config.r": "{min: 3, max: 22}", "finetune_config.optim": "{choices: [sgd, adamw_torch]}"}
    search, results = Search(load("optuna", "num_settings: 50", ranges).searches[0]), {}
    asked = []
    while one := search.ask(results):
        asked.append(tuple(one.values.values()))
        results |= {trial.trial_id: result_of(trial, 0.5) for trial in one.trials}
    assert sorted(asked) == [(r, optim) for r in range(3, 23) for optim in ("adamw_torch", "sgd")]
    assert search.is_done and search.ask(results) is None


def test_excluded_settings_are_not_asked_for(load: Load) -> None:
    top = "exclude: [{finetune_config.r: 4}, {finetune_config.r: 8, seed: 2}]\nseeds: [1, 2]"
    spec = load("optuna", "num_settings: 50", {"finetune_config.r": "{choices: [4, 8, 16]}"}, top)
    asked = run_blindly(Search(spec.searches[0]))
    found = [(one.values["finetune_config.r"], [t.config.seed for t in one.trials]) for one in asked]
    assert sorted(found) == [(8, [1]), (16, [1, 2])]
    assert all("what a search would ask for" in note for note in spec.notes)


# optuna: what results mean ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ([], ("RUNNING", None)),
        (["completed", "completed"], ("RUNNING", None)),
        (["completed", "completed", "running"], ("RUNNING", None)),
        (["completed", "completed", "completed"], ("COMPLETE", [0.2, 2.0])),
        (["completed", "completed", "failed"], ("COMPLETE", [0.15, 1.5])),
        (["completed", "stopped", "stopped"], ("COMPLETE", [0.1, 1.0])),
        (["stopped", "stopped", "failed"], ("PRUNED", None)),
        (["failed", "failed", "failed"], ("FAIL", None)),
        (["completed", "completed", "diverged"], ("FAIL", None)),
        (["diverged"], ("FAIL", None)),
    ],
)
def test_a_setting_is_what_its_seeds_are(load: Load, statuses: list[str], told: tuple[str, Any]) -> None:
    spec = load("optuna", "num_settings: 5", top="seeds: [1, 2, 3]")
    asked = Search(spec.searches[0]).ask({})
    assert asked and len(asked.trials) == 3
    results: Results = {}
    for i, (trial, status) in enumerate(zip(asked.trials, statuses, strict=False), 1):
        result = result_of(trial, i / 10, status=status)
        result.add_evaluation(10, 1.0, "", {"align_test": {"loss": float(i)}})
        results[trial.trial_id] = result
    state, values = outcome(asked, results, [Objective.of("alignment"), Objective.of("align_test/loss")])
    assert (state, values and pytest.approx(values)) == told
    if state == "COMPLETE":
        assert outcome(asked, results, [Objective.of("align_test/nothing")]) == ("FAIL", None)


@pytest.mark.parametrize("status", ["diverged", "stopped", "failed"])
def test_a_search_goes_on_where_settings_came_to_nothing(load: Load, status: str) -> None:
    for options in ("", ", metric: alignment"):
        search, results = Search(load("optuna", f"num_settings: 10{options}").searches[0]), {}
        while asked := search.ask(results):
            is_lost = asked.number in (1, 4, 5, 8)
            for trial in asked.trials:
                results[trial.trial_id] = result_of(
                    trial, None if is_lost else 0.5, status=status if is_lost else "completed"
                )
        assert len({json.dumps(one.values) for one in search.asked}) == 10


# optuna: the file changes -------------------------------------------------------------------------------------------


def test_a_changed_file_keeps_what_still_belongs_to_its_search(load: Load) -> None:
    spec = load("optuna", "num_settings: 8")
    results: Results = {}
    entries = [one.entry for one in run(Search(spec.searches[0]), results)]

    def again(options: str = "num_settings: 12", ranges: Mapping[str, str] = RANGES, top: str = "seeds: [1]") -> Search:
        return Search(load("optuna", options, ranges, top).searches[0], entries)

    longer = again()
    assert len(longer.asked) == 8 and (asked := longer.ask(results)) and asked.number == 8
    with_seeds = again(top="seeds: [1, 2]")
    assert [len(one.trials) for one in with_seeds.asked] == [2] * 8
    assert {t.trial_id for one in with_seeds.asked for t in one.trials} > set(results)
    assert again(top="seeds: [3]").spec.key == with_seeds.spec.key == spec.searches[0].key
    narrow = again(ranges={**RANGES, BETA: "{min: 1, max: 10, log: true}"})
    assert len(narrow.asked) == 8 and (asked := narrow.ask(results)) and 1 <= asked.values[BETA] <= 10
    shorter = again("num_settings: 4")
    assert shorter.is_done and shorter.ask(results) is None
    other = again(top="seeds: [1]\nbase: {finetune_config.epochs: 7}")
    assert other.asked == [] and other.spec.key != spec.searches[0].key


def test_a_setting_that_the_file_names_as_well_is_the_same_trial(load: Load) -> None:
    ranges = {"finetune_config.r": "{choices: [4, 8]}"}
    spec = load(
        "optuna", "num_settings: 2", ranges, beside="overrides: [{proxy_strategy: kl_divergence, finetune_config.r: 4}]"
    )
    asked = run_blindly(Search(spec.searches[0]))
    assert spec.trials[0].trial_id in {trial.trial_id for one in asked for trial in one.trials}


def test_a_search_may_be_all_there_is(load: Load) -> None:
    spec = load("optuna", "num_settings: 20", top="seeds: [1, 2, 3]")
    assert spec.trials == []
    (search,) = spec.searches
    assert search.line == (
        f"{search.key}: up to 20 settings x 3 seeds by optuna (max capability and max alignment), "
        "of finetune_config.beta_kl, finetune_config.learning_rate"
    )
    assert {trial.config.seed for trial in search.samples} == {1, 2, 3}
    sampled = {trial.config.finetune_config.learning_rate for trial in search.samples}
    assert min(sampled) == 1e-6 and max(sampled) == 1e-2, "what is checked before the start has the ends"


def test_without_optuna_the_file_is_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # as Python has it where it is not installed
    with pytest.raises(SpecError, match=r"space\.yaml:4: .*algorithm: .*pip install \"selgen-ray\[search\]\""):
        load("optuna", "num_settings: 5")
    assert len(load("random", "num_settings: 5").trials) == 5


def test_the_first_settings_are_random(load: Load) -> None:
    assert [num_random(n) for n in (1, 12, 20, 25, 40, 400)] == [3, 3, 5, 6, 10, 10]
    drawn = load("random", "num_settings: 5")
    asked = run(Search(load("optuna", "num_settings: 20").searches[0]), {}, 5)
    assert [one.values[BETA] for one in asked] == betas(drawn)
