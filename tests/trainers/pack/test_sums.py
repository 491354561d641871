"""Weights with adapters added: each slot's rows get its own, however the rows lie."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from selgen_ray.trainers.pack import sums as module
from selgen_ray.trainers.pack.stacks import Adapters, Factors, Stack
from selgen_ray.trainers.pack.sums import Layout, Sums

CPU = torch.device("cpu")
WIDTH, IN, OUT = 4, 5, 3


def stack_of(rank: int, scale: float) -> Stack:
    stack = Stack()
    stack.a["layer"], stack.b["layer"] = torch.randn(WIDTH, rank, IN).double(), torch.randn(WIDTH, OUT, rank).double()
    stack.scale["layer"] = scale
    return stack


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(IN, OUT).double()


@pytest.fixture
def summed(linear):
    sums = Sums(linear.to(CPU), WIDTH)
    sums.adapt("layer", linear)
    return sums


@pytest.fixture(autouse=True)
def room(monkeypatch):
    monkeypatch.setattr(module, "room_for_sums", lambda model: 2**20)


@pytest.mark.parametrize(
    ("places", "counts"),
    [([0, 1, 2], [2, 2, 2]), ([0, 1, 2, 3], [3, 2, 2, 2]), ([0, 1, 3], [1, 5, 2]), ([2], [4]), ([1, 2, 3], [2, 0, 2])],
)
def test_each_slot_is_multiplied_by_its_own_weights(linear, summed, places, counts):
    stacks = [stack_of(rank, 0.5 + rank) for rank in (1, 2)]
    extra = Factors(torch.randn(2, IN).double(), torch.randn(OUT, 2).double(), 0.25)
    adapters = {
        0: Adapters(stacks[0], 0, steady="a"),
        1: Adapters(stacks[1], 1, {"layer": [extra]}, steady="b"),
        2: Adapters(place=2, steady="c"),
        3: Adapters(stacks[1], 3, steady="d"),
    }
    assert summed.hold({place: adapters[place] for place in places})
    x = torch.randn(sum(counts), 2, IN).double()
    found = summed.product("layer", x, Layout.of(places, counts, CPU))
    start = 0
    for place, count in zip(places, counts, strict=True):
        own, rows = adapters[place], x[start : start + count]
        wanted = rows @ linear.weight.T + linear.bias
        if own.stack:
            a, b = own.stack.a["layer"][place], own.stack.b["layer"][place]
            wanted = wanted + own.stack.scale["layer"] * (rows @ a.T) @ b.T
        if own.frozen:
            wanted = wanted + 0.25 * (rows @ extra.a.T) @ extra.b.T
        assert torch.allclose(found[start : start + count], wanted, atol=1e-12)
        start += count


def test_what_changed_is_summed_anew_and_what_did_not_is_kept(linear, summed):
    stack, layout, x = stack_of(2, 1.0), Layout.of([1], [3], CPU), torch.randn(3, 1, IN).double()
    summed.hold({1: Adapters(stack, 1, steady="an evaluation")})
    before = summed.product("layer", x, layout)
    stack.a["layer"] += 1
    summed.hold({1: Adapters(stack, 1, steady="an evaluation")})  # says that no weight has changed
    assert torch.equal(summed.product("layer", x, layout), before)
    summed.hold({1: Adapters(stack, 1, steady="the next")})
    assert not torch.allclose(summed.product("layer", x, layout), before)
    summed.hold({1: Adapters(place=1, steady="the next")})  # switched off in between
    assert torch.allclose(summed.product("layer", x, layout), x @ linear.weight.T + linear.bias, atol=1e-12)


def test_frozen_adapters_are_known_again_from_pass_to_pass():
    a, b = torch.randn(2, IN).double(), torch.randn(OUT, 2).double()
    first, again, other = (
        Adapters(place=1, frozen={"layer": [Factors(part.detach(), b.detach(), 0.5)]}, steady="an evaluation")
        for part in (a, a, a.clone())
    )
    assert first.state == again.state != other.state


def test_what_is_not_exact_or_too_large_is_not_summed(linear, monkeypatch):
    half = Sums(linear, WIDTH)
    half.adapt("layer", nn.Linear(IN, OUT).to(torch.bfloat16))
    assert not half.hold({0: Adapters(place=0, steady="a")})
    large = Sums(linear, WIDTH)
    large.adapt("layer", linear)
    monkeypatch.setattr(module, "room_for_sums", lambda model: WIDTH * linear.weight.nbytes - 1)
    assert not large.hold({0: Adapters(place=0, steady="a")})
