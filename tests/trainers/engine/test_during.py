"""`evals.during`: what is measured between the start and the end of training."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from runs import Stop, comparable, run, same, trained

from selgen_ray.config.evals import DuringConfig
from selgen_ray.storage import Folder
from selgen_ray.storage.cache import Cache
from selgen_ray.trainers import get_trainer
from selgen_ray.trainers.engine.checkpoints import Checkpoints


@pytest.fixture
def during(make_config):
    def make(**section):
        return make_config(top={"evals": {"during": section}}, train_split=1.0, epochs=2, per_device_train_batch_size=4)

    return make


def test_it_changes_what_is_measured_between_and_nothing_else(during):
    whole = trained(during())
    epoch, end = whole[1].eval_steps[1:]
    assert end == 2 * epoch and epoch > 2
    for section, steps in (
        ({"every": "epoch"}, [0, epoch, end]),
        ({"every": "2 steps"}, [*range(0, end, 2), end]),
        ({"every": "never"}, [0, end]),
        ({"max_rows": 1}, [0, epoch, end]),
    ):
        weights, record = trained(during(**section))
        assert record.eval_steps == steps and same(weights, whole[0])
        for name, by_metric in whole[1].eval_results.items():
            for metric, values in by_metric.items():
                now = record.eval_results[name][metric]
                assert (now[0], now[-1]) == (values[0], values[-1])
    assert record.metric("task_test/loss", 1) != whole[1].metric("task_test/loss", 1)


def test_the_first_rows_are_measured(during):
    with get_trainer("naive")(during(max_rows=2)) as trainer:
        few, whole = trainer.evaluations.now(2), trainer.evaluations.now()
    assert {name: set(one["replies"]) for name, one in few.items()} == {
        name: {number for number in one["replies"] if int(number) < 2} for name, one in whole.items()
    }


def test_a_resumed_run_measures_the_same(during, tmp_path):
    config = during(every="2 steps", max_rows=1)
    config["finetune_config"]["save_steps"] = 3
    whole = run(config)
    checkpoints = Checkpoints(Folder(str(tmp_path)), keep=1)
    with pytest.raises(Stop):
        run(config, checkpoints, stop_at=5)
    checkpoints.flush()
    again = run(config, checkpoints)
    assert comparable(again[1]) == comparable(whole[1]) and same(again[0], whole[0])


def test_the_start_model_is_asked_once_whatever_it_says(during, tmp_path, monkeypatch):
    cache = Cache(Folder(str(tmp_path)))
    with get_trainer("naive")(during(), cache=cache) as trainer:
        before = trainer.evaluations.base()
    with get_trainer("naive")(during(every="never"), cache=cache) as trainer:
        monkeypatch.setattr(trainer.evaluations, "now", lambda: pytest.fail("asked again"))
        assert trainer.evaluations.base() == before


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"every": 50}, "found 50, without its unit: write '50 steps'"),
        ({"every": "50"}, "write '50 steps'"),
        ({"every": "0 steps"}, "a number of optimizer steps such as '50 steps'"),
        ({"every": "epochs"}, "Did you mean 'epoch'"),
        ({"every": "never", "max_rows": 3}, "max_rows is given, but during.every is never"),
        ({"max_rows": 0}, "greater than or equal to 1"),
    ],
)
def test_what_is_no_time_is_refused(section, message):
    with pytest.raises(ValidationError, match=message):
        DuringConfig.model_validate(section)


def test_steps_may_be_written_in_two_ways():
    assert DuringConfig(every="1 step").every == "1 steps" and DuringConfig(every="1 step").is_due(7, 100)
    assert DuringConfig(every="7  steps").is_due(14, 4) and not DuringConfig(every="7 steps").is_due(8, 4)
