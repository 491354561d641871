"""A place for trials: clusters that grow, and what the user is told while nothing runs."""

import time
from types import SimpleNamespace

import pytest

from selgen_ray.cluster.cluster import InfeasibleError, TrialResources, resolve_resources
from selgen_ray.cluster.train_group import GroupResources, resolve_group
from selgen_ray.cluster.tune_sweep import _fits
from selgen_ray.cluster.wait_notice import WaitNotice
from selgen_ray.space import Resources

NOTHING = [{"CPU": 0.0}]
GROUP = {"workers": 2, "gpus_per_worker": 1}


def test_a_cluster_that_adds_nodes_is_asked_for_what_no_node_has():
    with pytest.raises(InfeasibleError, match=r"0 CPUs and 0 GPUs\. A cluster that adds .*autoscaling: true"):
        resolve_resources(Resources(gpus=1), NOTHING)
    assert resolve_resources(Resources(gpus=1, autoscaling=True), NOTHING) == TrialResources(1.0, 1.0)
    with pytest.raises(InfeasibleError, match=r"pack auto asks what fits into a GPU's memory, but .* 2 to 64"):
        resolve_resources(Resources(pack="auto"), NOTHING)


def test_so_is_it_for_a_group():
    with pytest.raises(InfeasibleError, match="autoscaling: true"):
        resolve_group(Resources(**GROUP), NOTHING)
    assert resolve_group(Resources(**GROUP, autoscaling=True), NOTHING) == GroupResources(2, 1.0, 1)


@pytest.mark.parametrize("given, key", [({}, "gpus"), ({"workers": 2}, "gpus_per_worker")])
def test_nodes_that_are_yet_to_come_cannot_be_asked_for_gpus(given, key):
    with pytest.raises(ValueError, match=f"autoscaling is given, but {key} is not"):
        Resources(**given, autoscaling=True)


@pytest.mark.parametrize("granted", [TrialResources(1.0, 1.0), GroupResources(2, 1.0, 1)])
def test_enough_trials_wait_to_be_seen_by_an_autoscaler(granted):
    eight = [{"CPU": 64.0, "GPU": 8.0}]
    few, many = _fits(granted, False), _fits(granted, True)
    assert many(NOTHING) >= 8 and many(eight) - few(eight) >= 6
    assert few(NOTHING) <= 1


@pytest.fixture
def told():
    return []


@pytest.fixture
def waiting(told):
    return WaitNotice(TrialResources(2.0, 1.0), told.append, 0.05, lambda: [{"CPU": 8.0}, {"CPU": 8.0}])


def step(waiting, *statuses):
    waiting.on_step_end(1, [SimpleNamespace(status=status) for status in statuses])


def test_nobody_is_told_before_a_while_has_passed_or_while_something_runs(waiting, told):
    step(waiting, "PENDING")
    time.sleep(0.1)
    step(waiting, "PENDING", "RUNNING")
    step(waiting, "PENDING")  # the while begins anew
    step(waiting, "TERMINATED")
    assert told == []


def test_what_is_waited_for_is_told_once_in_a_while(waiting, told):
    time.sleep(0.1)
    for _ in range(5):
        step(waiting, "PENDING", "TERMINATED")
    (text,) = told
    assert "a place with 2 CPUs and 1 GPUs" in text and "the nodes have 8 CPUs and 0 GPUs in all" in text
    time.sleep(0.5)
    step(waiting, "PENDING")
    assert len(told) == 2


def test_a_ray_of_the_sweeps_own_is_starting_and_nobody_else_takes_its_places(told):
    private = WaitNotice(TrialResources(2.0, 1.0), told.append, 0.05, is_private=True)
    time.sleep(0.1)
    step(private, "PENDING")
    (text,) = told
    assert "still starting on this machine" in text and "taken by others" not in text
