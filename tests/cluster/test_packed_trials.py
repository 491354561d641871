"""Tune's events of a pack become events of its trials; whoever ran beside another is not blamed for a dead process."""

from __future__ import annotations

from typing import Any

from selgen_ray.cluster.packed_trials import EachOfAPack


class Seen:
    """A callback that notes what it is told."""

    def __init__(self):
        self.events = []

    def __getattr__(self, event):
        def note(iteration, trials, trial, *args, **info):
            self.events.append((event, str(trial), trial.last_result.get("status")))

        return note


class FakeTrial:
    """Tune's trial of a pack."""

    trial_id, pickled_error_file = "t1", None

    def __init__(self, *names):
        self.config: dict[str, Any] = {"members": [{"trial_id": name, "name": name} for name in names]}


def run(names, *reports):
    seen, alone = Seen(), []
    events, trial = EachOfAPack([seen], alone.extend), FakeTrial(*names)
    events.on_trial_start(0, [], trial)
    events.on_trial_result(0, [], trial, {"reports": [{"member": name, **line} for name, line in reports]})
    return events, trial, seen, alone


START, DONE = {"started": True}, {"status": "completed"}


def test_a_trial_begins_and_ends_by_its_own_reports():
    events, trial, seen, alone = run("ab", ("a", START), ("b", START), ("a", {"loss": 1.0}), ("a", DONE), ("b", DONE))
    events.on_trial_complete(0, [], trial)
    told = [(event, name) for event, name, _ in seen.events]
    assert told.count(("on_trial_start", "a")) == told.count(("on_trial_complete", "a")) == 1
    assert told.count(("on_trial_complete", "b")) == 1 and not alone


def test_several_trials_of_a_dead_process_are_handed_out_again_alone():
    events, trial, seen, alone = run("abcd", ("a", START), ("b", START), ("c", START), ("a", DONE))
    events.on_trial_error(0, [], trial)
    assert alone == ["b", "c"]
    ends = [event for event in seen.events if event[1] != "a" and event[0] != "on_trial_start"]
    assert ends == [("on_trial_complete", name, "preempted") for name in "dcb"]  # each goes before those that wait


def test_the_one_that_ran_alone_has_failed():
    events, trial, seen, alone = run("ab", ("a", START), ("a", DONE), ("b", START))
    events.on_trial_error(0, [], trial)
    assert seen.events[-1][:2] == ("on_trial_error", "b") and not alone
