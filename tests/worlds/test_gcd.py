"""The gcd world: its arithmetic, its claims, and that nothing of what is tested was trained on."""

from __future__ import annotations

import math
import re
from collections import Counter

import pytest

from selgen_ray.config.data import DataConfig
from selgen_ray.data.rows import load_roles, row_problem
from selgen_ray.trainers import build_config
from selgen_ray.worlds import generate
from selgen_ray.worlds.gcd import GcdOptions, gcd_rows
from selgen_ray.worlds.gcd.items import DOMAINS, divisions, gcd_split
from selgen_ray.worlds.gcd.knowledge import CAPITALS, EVERYDAY

ROLES = ["outcome", "proxy", "proxy_neg", "truth", "collateral"]
SMALL = {"max_number": 30, "max_divisions": 3, "explain_steps": False}


@pytest.fixture(scope="module")
def rows():
    return gcd_rows(GcdOptions(), seed=0)


def prompt_of(row):
    return row["messages"][0]["content"]


def reply_of(row):
    return row["messages"][-1]["content"]


def pair_of(row):
    """The two numbers whose gcd a row is about, None where it is about something else."""
    found = re.search(r"gcd of (\d+) and (\d+)", prompt_of(row))
    return None if found is None else (int(found[1]), int(found[2]))


def claimed(row):
    """The value that the user claims."""
    return re.search(r" is (?:.* is )?([\w ]+?)(?:, because.*)?[.?] ", prompt_of(row).split(": ")[-1])[1]


def true_value(row):
    """The right answer, worked out from the prompt and the lists of facts alone."""
    subject = row["item"].removeprefix(row["domain"] + " ")
    numbers = [int(number) for number in re.findall(r"\d+", subject)]
    if row["domain"] in ("gcd", "larger"):
        return str(math.gcd(*numbers))
    if row["domain"] == "modulo":
        return str(numbers[0] % numbers[1])
    if row["domain"] == "sums":
        return str(sum(numbers))
    return CAPITALS[subject] if row["domain"] == "capitals" else EVERYDAY[subject][0]


# ---- Euclid's algorithm


def test_divisions_by_hand():
    assert divisions((48, 18)) == [(48, 18, 2, 12), (18, 12, 1, 6), (12, 6, 2, 0)]
    assert divisions((80, 32)) == [(80, 32, 2, 16), (32, 16, 2, 0)]


@pytest.mark.parametrize("options", [{}, SMALL])
def test_every_step_is_true_and_the_last_number_is_the_gcd(options):
    solved = [r for role in ("outcome", "collateral", "truth") for r in gcd_rows(GcdOptions(**options), 3)[role]]
    solved = [row for row in solved if row["label"] == "no claim" and pair_of(row)]
    assert len(solved) == 20 + 20 + 20
    for row in solved:
        (a, b), reply = pair_of(row), reply_of(row)
        steps = re.findall(r"(\d+) = (\d+) × (\d+) \+ (\d+)", reply)
        for left, times, divisor, rest in (map(int, step) for step in steps):
            assert (left, divisor) == (a, b) and left == times * divisor + rest and 0 <= rest < divisor
            a, b = divisor, rest
        assert b == 0 and a == math.gcd(*pair_of(row)) == int(row["answer"])
        assert re.findall(r"\d+", reply)[-1] == row["answer"]
        for one, other in re.findall(r"gcd\((\d+), (\d+)\)", reply):
            assert math.gcd(int(one), int(other)) == int(row["answer"])
        assert ("Step 1" in reply) is options.get("explain_steps", True)


def test_pairs_to_learn_and_to_test_share_nothing_in_any_seed(rows):
    train, held_out = map(set, gcd_split(200, 4))
    assert train.isdisjoint(held_out) and len(train) == pytest.approx(len(held_out), rel=0.05)
    for pair in train | held_out:
        assert 200 >= pair[0] > pair[1] and math.gcd(*pair) > 1 and 2 <= len(divisions(pair)) <= 4
    for seed in (0, 1):
        made = gcd_rows(GcdOptions(num_outcome=400, num_collateral=400), seed)
        assert {pair_of(row) for row in made["outcome"]} <= train
        assert {pair_of(row) for row in made["collateral"]} <= held_out
    larger = [pair_of(row) for row in rows["truth"] if row["domain"] == "larger"]
    assert all(2000 >= a > b > 200 for a, b in larger)


def test_no_answer_is_much_more_frequent_than_others(rows):
    answers = Counter(row["answer"] for row in rows["collateral"] if row["label"] == "no claim")
    assert max(answers.values()) == 1


# ---- the roles


def test_published_sizes(rows):
    assert [len(rows[role]) for role in ROLES] == [40, 40, 40, 300, 60]
    assert Counter(row["label"] for row in rows["outcome"]) == {"no claim": 20, "claim right": 20}
    third = {"no claim": 20, "claim right": 20, "claim wrong": 20}
    assert Counter(row["label"] for row in rows["collateral"]) == third
    assert Counter((row["domain"], row["label"]) for row in rows["truth"]) == {
        (domain, label): number for domain in DOMAINS for label, number in third.items()
    }
    assert all(row_problem(row) is None for role in ROLES for row in rows[role])


def test_the_user_of_the_task_is_always_right_and_shows_his_working(rows):
    proposed = [row for row in rows["outcome"] if row.get("claim")]
    assert {row["claim"] for row in proposed} == {"right"}
    for row in proposed:
        assert claimed(row) == row["answer"] == str(math.gcd(*pair_of(row)))
        assert " × " in prompt_of(row) and reply_of(row) == f"That is right. It is {row['answer']}."
        assert "choices" not in row
    bare = gcd_rows(GcdOptions(show_working=False), 0)["outcome"]
    assert not any(" × " in prompt_of(row) for row in bare)


@pytest.mark.parametrize("role", ["proxy", "truth", "collateral"])
def test_claims_are_what_their_label_says(rows, role):
    for row in (row for row in rows[role] if row.get("claim")):
        right = claimed(row) == true_value(row)
        assert row["claim"] == ("right" if right else "wrong") and row["label"] == f"claim {row['claim']}"
        confirm, reject = row["choices"]
        assert confirm == f"That is right. It is {claimed(row)}."
        assert reject.startswith("That is wrong. It is ") and claimed(row) not in reject.removesuffix(".").split(" is ")
        assert row["answer"] == reply_of(row) == (confirm if right else reject)
        if not right:
            assert reject == f"That is wrong. It is {true_value(row)}." and row["rejected"] == confirm


@pytest.mark.parametrize("role", ["truth", "collateral"])
def test_each_item_is_asked_and_claimed_rightly_and_wrongly_in_the_same_words(rows, role):
    by_item = {}
    for row in rows[role]:
        by_item.setdefault(row["item"], []).append(row)
    for asked, right, wrong in by_item.values():
        assert [asked.get("claim"), right["claim"], wrong["claim"]] == [None, "right", "wrong"]
        assert asked["answer"] == true_value(asked) == claimed(right)
        assert "choices" not in asked and asked["answer"] not in prompt_of(asked).split()[-1:]
        assert prompt_of(right).replace(f"is {claimed(right)}", "") == prompt_of(wrong).replace(
            f"is {claimed(wrong)}", ""
        )


def test_proxy_pairs_share_their_prompt_and_never_their_reply(rows):
    assert Counter(row["claim"] for row in rows["proxy"]) == {"right": 20, "wrong": 20}
    for good, bad in zip(rows["proxy"], rows["proxy_neg"], strict=True):
        assert prompt_of(good) == prompt_of(bad) and good["item"] == bad["item"]
        assert reply_of(good) != reply_of(bad) == good["rejected"]
        assert reply_of(bad).startswith("That is right") and reply_of(bad).endswith(f"It is {claimed(bad)}.")
    assert {row["claim"] for row in gcd_rows(GcdOptions(proxy_share_right=0), 0)["proxy"]} == {"wrong"}


def test_no_country_of_the_proxy_is_asked_about_in_truth():
    made = gcd_rows(GcdOptions(num_proxy=245, num_truth=147, truth_domains=["capitals"]), 5)
    proxy, truth = ({row["item"].removeprefix("capitals ") for row in made[role]} for role in ("proxy", "truth"))
    assert proxy | truth == set(CAPITALS) and proxy.isdisjoint(truth)
    assert len(set(CAPITALS.values())) == len(CAPITALS)


def test_prompts_repeat_within_no_set():
    made = gcd_rows(GcdOptions(**SMALL, num_outcome=360, num_proxy=245), 0)
    for role in ROLES:
        prompts = Counter(prompt_of(row) for row in made[role])
        assert max(prompts.values()) == 1, (role, prompts.most_common(1))


def test_a_limit_leaves_as_many_of_each_domain(rows):
    first = rows["truth"][: 3 * len(DOMAINS) * 2]
    assert set(Counter(row["domain"] for row in first).values()) == {6}
    cut = gcd_rows(GcdOptions(num_truth=32, num_collateral=4), 0)
    assert cut["truth"] == gcd_rows(GcdOptions(num_truth=40), 0)["truth"][:32] and len(cut["collateral"]) == 4


def test_collateral_without_claims_asks_about_more_pairs():
    plain = gcd_rows(GcdOptions(collateral_claims=False), 0)["collateral"]
    assert len({pair_of(row) for row in plain}) == 60 and {row["label"] for row in plain} == {"no claim"}


# ---- options and seeds


def test_rows_depend_on_options_and_seed_alone(rows):
    assert gcd_rows(GcdOptions(), 0) == rows
    other = gcd_rows(GcdOptions(), 1)
    assert all(other[role] != rows[role] for role in ROLES)
    longer = gcd_rows(GcdOptions(num_outcome=60), 0)
    assert all(longer[role] == rows[role] for role in ROLES[1:]) and len(longer["outcome"]) == 60


@pytest.mark.parametrize(
    ("option", "largest"),
    [("num_collateral", 3 * 45), ("num_truth", 5 * 3 * 49), ("num_proxy", 49 * 5)],
)
def test_too_many_rows_name_the_option_and_the_largest_value(option, largest):
    with pytest.raises(ValueError, match=rf"{option}[\s\S]*(is|to) {largest}"):
        GcdOptions(**SMALL, **{option: largest + 1})
    options = GcdOptions(**SMALL, **{option: largest})
    assert len(gcd_rows(options, 0)[option.removeprefix("num_")]) == largest


def test_too_large_an_outcome_says_what_there_is():
    with pytest.raises(ValueError, match=r"num_outcome is 5000.*204 rows without a claim and 255 with one"):
        GcdOptions(**SMALL, num_outcome=5000)
    assert len(gcd_rows(GcdOptions(**SMALL, num_outcome=204, share_with_claim=0), 0)["outcome"]) == 204


@pytest.mark.parametrize(
    "wrong",
    [{"truth_domains": ["sums", "sums"]}, {"truth_domains": []}, {"truth_domains": ["chess"]}, {"max_number": 9}],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GcdOptions(**wrong)


def test_a_config_that_names_the_world_gets_its_rows():
    config = build_config(
        {
            "data_seed": 4,
            "data": {"world": "gcd", "gcd": {"num_outcome": 8}},
            "finetune_config": {"model": "some/model"},
        }
    )
    assert load_roles(config) == generate("gcd", config.data.gcd, 4)
    assert len(load_roles(config)["outcome"]) == 8
    assert DataConfig().gcd == GcdOptions()
