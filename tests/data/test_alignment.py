"""The proxy as a part of the alignment data, and as a share of what is trained on."""

import pytest
from conftest import chat

from selgen_ray.data.alignment import ProxyShare, cover
from selgen_ray.data.forms import prompt_of
from selgen_ray.data.rows import check_shares, load_roles
from selgen_ray.errors import DataError
from selgen_ray.trainers import build_config, get_trainer
from selgen_ray.trainers.identity import identity_of_trial


def rows(reply, number=20):
    return [chat(f"question {i}?", f"{reply} {i}.") for i in range(number)]


@pytest.mark.parametrize("role", ["proxy", "truth"])
def test_a_share_of_the_alignment_data_is_the_proxy_and_the_rest_tests(role):
    found = cover({"outcome": rows("out"), role: rows("good"), "proxy_neg": rows("bad")}, 0.45, data_seed=1)
    assert len(found["proxy"]) == len(found["proxy_neg"]) == 9 and len(found["truth"]) == 20
    for good, bad in zip(found["proxy"], found["proxy_neg"], strict=True):
        assert prompt_of(good) == prompt_of(bad) and bad["messages"][1]["content"] == good["rejected"]
    other = cover({"outcome": rows("out"), role: rows("good")}, 0.45, data_seed=2)
    assert [prompt_of(r) for r in other["proxy"]] != [prompt_of(r) for r in found["proxy"]]


def test_rows_of_one_prompt_stay_on_one_side():
    data = [chat(f"question {i // 4}?", f"reply {i}") for i in range(40)]
    found = cover({"truth": data}, 0.5, data_seed=3)
    proxy = {prompt_of(row) for row in found["proxy"]}
    assert len(found["proxy"]) == 20 and len(proxy) == 5
    assert cover({"truth": data}, 1.0, data_seed=3)["proxy"] == data


@pytest.mark.parametrize(("roles", "told"), [(["proxy", "truth"], "both there"), ([], "both missing")])
def test_the_alignment_data_is_one_set(roles, told):
    with pytest.raises(DataError, match=told):
        cover({role: rows("x") for role in roles}, 0.5, data_seed=1)


def test_proxy_neg_must_be_its_partner():
    with pytest.raises(DataError, match=r"proxy_neg has 3 rows but data\.truth has 20"):
        cover({"truth": rows("good"), "proxy_neg": rows("bad", 3)}, 0.5, data_seed=1)


def test_a_limit_draws_and_upsampling_repeats_evenly():
    assert ProxyShare().rows(90, 10, 1) == range(10)
    few = ProxyShare(limit=4).rows(90, 10, 1)
    assert len(few) == len(set(few)) == 4 and list(few) == sorted(few) and set(few) <= set(range(10))
    assert few != ProxyShare(limit=4).rows(90, 10, 2)
    assert ProxyShare(limit=40).rows(90, 10, 1) == range(10)
    # a quarter of 90 + 30
    more = list(ProxyShare(upsample_to=0.25).rows(90, 8, 1))
    assert len(more) == 30 and {more.count(i) for i in range(8)} == {3, 4}
    both = list(ProxyShare(limit=4, upsample_to=0.25).rows(90, 10, 1))
    assert len(both) == 30 and set(both) == set(few)
    with pytest.raises(DataError, match=r"0\.05, but the proxy is 0\.1 of .* limit_proxy_data_to: 5 takes fewer"):
        ProxyShare(upsample_to=0.05).rows(90, 10, 1)


def test_a_trial_trains_on_that_share_and_pairs_stay_pairs(make_config):
    top = {"limit_proxy_data_to": 5, "upsample_proxy_to": 0.4}
    config = build_config(make_config("dpo", top=top))
    roles = load_roles(config)
    check_shares(config, roles)
    with get_trainer("dpo")(config) as trainer:
        train, held_out = trainer.sets.train, trainer.sets.evals["align_train"].rows
        num_outcome = len(train["outcome"].rows)
        assert len(train["proxy"].rows) == round(0.4 / 0.6 * num_outcome)
        prompts = [[prompt_of(row) for row in train[role].rows] for role in ("proxy", "proxy_neg")]
        assert prompts[0] == prompts[1] and len(set(prompts[0])) == 5
        assert not {prompt_of(row) for row in held_out} & set(prompts[0])
        assert {row["rejected"] for row in held_out} == {"You are right."}
        trainer.train()
    too_little = build_config(make_config("dpo", top={"upsample_proxy_to": 0.01}))
    with pytest.raises(DataError, match="upsample_proxy_to"):
        check_shares(too_little, roles)


def test_each_is_part_of_the_identity(make_config):
    found = []
    for top in ({}, {"align_train_coverage": 0.5}, {"limit_proxy_data_to": 3}, {"upsample_proxy_to": 0.5}):
        config = build_config(make_config(top=top))
        found.append(str(identity_of_trial(config, dict.fromkeys(config.data.sources(), "h"), "m")))
    assert len(set(found)) == 4


def test_coverage_makes_the_sets_that_evaluate(make_config, data_files):
    raw = make_config(top={"align_train_coverage": 0.5}, train_split=1.0)
    raw["data"] = {"outcome": data_files["outcome"], "truth": data_files["truth"]}
    with get_trainer("naive")(raw) as trainer:
        sizes = {name: len(rows.rows) for name, rows in trainer.sets.evals.items()}
    assert sizes["align_test"] == 7 and sizes["align_train"] + sizes["align_test_minus_align_train"] == 7
