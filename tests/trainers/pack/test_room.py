"""A pack whose width the memory decides: it is measured on the first trial, and the others change nothing of it."""

from __future__ import annotations

import pytest
import torch
from test_pack import assert_alike, config, train  # noqa: F401  (config is a fixture)

from selgen_ray.errors import ModelError
from selgen_ray.trainers.catalogue import build_config
from selgen_ray.trainers.pack.pack import Pack
from selgen_ray.trainers.pack.room import MOST, Room

GIB = 2**30


class Memory:
    """A device of a given size, on which a base takes 10 GiB and each watched pass so much more."""

    def __init__(self, total, *more, others=0):
        self.total, self.more, self.others, self.passes = total * GIB, list(more), others * GIB, 0

    def held(self):
        return 10 * GIB

    def watch(self):
        self.passes += 1

    def peak(self):
        return int((10 + self.more[(self.passes - 1) % len(self.more)]) * GIB)

    def sizes(self):
        return self.total, self.total - self.others


def width_of(memory, share=1.0, trainable=0.0):
    room = Room(memory, share)
    while not room.is_known:
        room.forward()
        room.backward()
    return room.width(int(trainable * GIB))


def test_the_width_is_what_fits_beside_the_base_into_four_fifths_of_the_device():
    assert width_of(Memory(100, 5, 7, 6))[0] == 10  # (80 - 10) / 7, by the largest pass
    assert width_of(Memory(100, 5), trainable=1)[0] == 10  # 5, and AdamW's two moments
    assert width_of(Memory(100, 5), share=0.5)[0] == 6  # (40 - 10) / 5
    assert width_of(Memory(100, 5, others=70))[0] == 4  # 30 are within reach
    assert width_of(Memory(1000, 0.001))[0] == MOST
    assert width_of(Memory(20, 50))[0] == 1  # it trains, so it fits
    assert width_of(Memory(100, 7))[1] == (
        "10 trials at a time: a trial takes 7.00 GiB beside the base's 10.00, and 80.0 of the device's 100.0 GiB are "
        "planned with"
    )


def grown(configs, memory):
    outcomes, widths = {}, []
    pack = Pack(
        None,
        build_config(configs[0]).finetune_config,
        "cpu",
        memory=memory,
        on_width=lambda number, width, why: widths.append((number, width)),
    )
    jobs = ((lambda source, one=one: train(one, source)) for one in configs)
    pack.run(jobs, lambda outcome: outcomes.__setitem__(outcome.number, outcome))
    return [outcomes[i] for i in range(len(configs))], pack, widths


@pytest.mark.parametrize("strategy", ["naive", "kl_divergence", "orth_penalty"])
def test_a_pack_that_grows_in_the_middle_of_a_trial_changes_nothing_of_it(config, strategy):  # noqa: F811
    configs = [config(strategy, 1, max_steps=8, optim="adamw_torch", learning_rate=1e-3)]
    configs += [config("naive", seed, r=2 + seed % 2, max_steps=4 + seed) for seed in range(2, 6)]
    memory = Memory(60, 12)  # (48 - 10) / 12: three at a time, and the places are filled again
    outcomes, pack, widths = grown(configs, memory)
    assert widths == [(0, 3)] and memory.passes == 4
    assert pack.served > pack.joined  # they were joined
    for one, outcome in zip(configs, outcomes, strict=True):
        assert_alike(outcome, train(one))


def test_a_trial_too_short_to_be_measured_leaves_it_to_the_next(config):  # noqa: F811
    configs = [config(seed=seed, max_steps=steps) for seed, steps in ((1, 3), (2, 3), (3, 9), (4, 3))]
    outcomes, _, widths = grown(configs, Memory(60, 12))
    assert not any(outcome.error for outcome in outcomes)
    assert [number for number, _ in widths] == [1]


def test_without_a_cuda_device_nothing_is_guessed(config):  # noqa: F811
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ModelError, match=r"resources\.pack auto: this process has no CUDA device"):
        Pack(None, build_config(config()).finetune_config, "cpu")
