"""A run stopped and resumed equals the uninterrupted one, bit for bit (each strategy: test_contract.py)."""

import pytest
from runs import OF_A_KIND_EACH, STRENGTH, Stop, assert_resumed_twice_is_whole, comparable, run, same

from selgen_ray.storage import Folder
from selgen_ray.storage.cache import Cache


def test_resumed_twice_and_in_full_fine_tuning(make_config, tmp_path):
    config = make_config("kl_divergence", beta_kl=2.0, is_peft=False, save_steps=3, proxy_cycling_mode="synchronized")
    assert_resumed_twice_is_whole(config, tmp_path, lambda _: (4, 8))


PREPARING = [s for s in OF_A_KIND_EACH if "proxy_epochs" in STRENGTH[s] or s == "safe_lora"]


@pytest.mark.parametrize("is_peft", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("strategy", PREPARING)
def test_a_preparation_cut_off_goes_on_and_ends_as_if_it_had_not_been(make_config, tmp_path, strategy, is_peft):
    knobs = STRENGTH[strategy] | {"proxy_epochs": 3, "is_peft": is_peft, "save_steps": 2, "logging_steps": 1}
    if strategy in ("safe_lora", "weight_steering", "interleaving") and not is_peft:
        return
    config = make_config(strategy, lora_dropout=0.1, **knobs)
    whole, record, _ = run(config)
    cache = Cache(Folder(str(tmp_path / "cache")))
    seen = []

    def stop(line):
        seen.append((line["phase"], line["step"]))
        if line["phase"].startswith("preparing") and line["step"] == 5:
            raise Stop

    with pytest.raises(Stop):
        run(config, cache=cache, on_progress=stop)
    phase = seen[0][0]
    assert seen == [(phase, step) for step in range(1, 6)]
    seen.clear()
    resumed, resumed_record, _ = run(config, cache=cache, on_progress=lambda m: seen.append((m["phase"], m["step"])))
    assert seen[0] == (phase, 5)  # from the checkpoint of step 4
    assert same(whole, resumed)
    assert comparable(record) == comparable(resumed_record)
