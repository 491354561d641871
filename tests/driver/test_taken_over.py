"""A driver whose sweep another process took over while it was frozen, without Ray."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace

import pytest
from running import next_trial, wait_for

from selgen_ray.driver.added import AddedTrial
from selgen_ray.driver.display import Board
from selgen_ray.driver.driver import Driver, SweepLostError, claim, record_end
from selgen_ray.driver.plan import TaskMaker
from selgen_ray.driver.trial_queue import TrialQueue
from selgen_ray.records.attempts import Attempt
from selgen_ray.records.control import ALL, LIVE, PLAN, Control
from selgen_ray.records.events import EventLog, read_events
from selgen_ray.records.results import now
from selgen_ray.storage import Folder
from selgen_ray.trial.task import TrialTask
from selgen_ray.trial.worker import watched

ID = "c" * 16


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    if request.param == "s3":
        return Folder(request.getfixturevalue("s3_uri")) / "taken_over" / request.node.originalname
    return Folder(str(tmp_path / "tiny"))


def driver_of(place: Folder, lease) -> Driver:
    queue = TrialQueue([TrialTask({"seed": 9}, ID, "naive_beef", place, git_commit=None)], 0, lambda: 9, generation=1)
    driver = Driver(place, queue, Board(1), queue.known, lambda trial: None, lease)
    driver.feedback = SimpleNamespace(add=lambda tasks: None, ended=lambda *_: None)  # pyright: ignore
    return driver


def take_over(control: Control, number: int = 2) -> None:
    """Another process takes the sweep over, as far as its lease goes."""
    content = {"host": "lab2 boot ns", "pid": 7, "id": "b", "beat": 0, "released": False}
    control.driver.write_json(f"{number:06d}.json", content)


def test_it_ends_and_touches_nothing_of_the_other(place):
    control, theirs_live = Control(place), {"pid": 7}
    with claim(control) as lease, driver_of(place, lease) as driver:
        wait_for(lambda: control.folder.exists(LIVE), 20)
        take_over(control)
        driver.look_now()
        wait_for(lambda: driver.is_lost, 20)
        theirs = EventLog(place, 2)
        theirs.add("sweep_started", trials=1)
        theirs.flush()
        control.folder.write_json(LIVE, theirs_live)
        control.folder.write_json(PLAN, {"trials": {}})
        control.retry.set(ID)
        control.stop.set(ALL, why="by the other's user")
        driver.events.add("superseded", "naive_beef/seed_9")
        driver.later(lambda: control.folder.write_json(LIVE, {"pid": "ours"}))
        driver.end("Ctrl-C")
        assert next_trial(driver.queue) is None and driver.queue.is_over
    assert driver.why_ending == "taken over by process 7 on lab2: it runs the sweep now, and this process ends"
    assert control.folder.read_json(LIVE) == theirs_live and control.folder.read_json(PLAN) == {"trials": {}}
    assert control.retry.names() == {ID} and control.stop.names() == {ALL}
    assert control.driver.read_json("000002.json")["pid"] == 7
    assert control.driver.read_json("000001.json")["released"] is False
    happened = [e["event"] for e in read_events(place)]
    assert sorted(happened) == ["superseded", "sweep_started", "sweep_started", "taken_over"]


def test_one_that_lost_the_sweep_before_it_began_does_not_begin(tmp_path):
    place = Folder(str(tmp_path))
    with claim(Control(place)) as lease:
        take_over(Control(place))
        with pytest.raises(SweepLostError, match="taken over by process 7 on lab2"), driver_of(place, lease):
            pass
    assert not Control(place).folder.exists(PLAN) and read_events(place) == []


def test_the_next_to_claim_a_sweep_has_a_higher_number_than_any_result(place):
    control = Control(place)
    with claim(control) as first:
        pass
    with claim(control, after=4) as second:
        pass
    with claim(control) as third:
        pass
    assert (first.number, second.number, third.number) == (1, 5, 6)


def test_its_workers_are_told_to_stop_and_those_of_the_other_are_not(tmp_path):
    place = Folder(str(tmp_path))
    take_over(Control(place))

    def task(generation: int) -> TrialTask:
        return TrialTask({"seed": 1}, ID, "slug", place, git_commit=None, attempt=Attempt(generation, 1))

    with watched(place, task(1)) as lost, watched(place, task(2)) as kept:
        wait_for(lambda: lost.requested, 20)
    assert lost.requested == ("superseded", "the sweep was taken over by process 7 on lab2")
    assert kept.requested is None


def test_the_late_end_of_a_driver_that_lost_the_sweep_ends_nothing_of_the_other(tmp_path):
    """Its write hung since before it lost the sweep, so it cannot know."""
    place = Folder(str(tmp_path))
    control = Control(place)
    task = TrialTask({"seed": 1}, ID, "slug", place, git_commit=None, attempt=Attempt(2, 1))
    with claim(control) as first, driver_of(place, first) as lost:
        lost.end("Ctrl-C")
        wait_for(lambda: control.stop.names() == {ALL}, 20)
        late = control.stop.read(ALL)
    with claim(control) as second, driver_of(place, second) as driver:
        control.folder.write_json("stop/all.json", late)
        with watched(place, task) as stop:
            driver.look_now()
            time.sleep(2.5)  # both look every second
            assert driver.why_ending is None and not driver.queue.is_ending and stop.requested is None
            control.stop.set(ALL, why="by eve")  # people's
            wait_for(lambda: driver.why_ending and stop.requested, 20)
    assert driver.why_ending == "by eve" and stop.requested == ("preempted", "by eve")


def test_a_trial_that_is_handed_out_again_has_a_higher_attempt(tmp_path):
    queue = TrialQueue([TrialTask({"seed": 1}, "a", "slug", Folder("/x"), git_commit=None)], 1, lambda: 1, generation=4)
    numbers = []
    for outcome in ("crashed", "preempted", "completed"):
        numbers.append(next_trial(queue).attempt)
        queue.ended("a", outcome)
    assert numbers == [Attempt(4, 1), Attempt(4, 2), Attempt(4, 3)]
    assert queue.numbered(queue.known["a"]).attempt == Attempt(4, 4)  # of the driver itself


def test_a_superseded_trial_is_no_failure_and_is_not_handed_out_again():
    queue = TrialQueue([TrialTask({"seed": 1}, "a", "slug", Folder("/x"), git_commit=None)], 9, lambda: 1)
    next_trial(queue)
    assert not queue.ended("a", "superseded") and queue.is_over and not queue.failures["a"]


def test_two_drivers_write_a_new_trial_to_one_folder(tmp_path):
    place = Folder(str(tmp_path))
    trial = AddedTrial(ID, "naive_beef", {"seed": 9}, "0" * 64)
    first, second = (TaskMaker(place, {}, commit=None).task(trial, trial.config, ()).folder for _ in range(2))
    assert first == second
    first.write("config.json", b"{}")
    renamed = AddedTrial(ID, "naive_epochs-3_beef", {"seed": 9}, "0" * 64)  # the YAML has another axis meanwhile
    again = TaskMaker(place, {}, names={ID: "naive_beef/seed_9"}, commit=None)
    assert again.task(renamed, trial.config, ()).folder == first
    other = TaskMaker(place, {}, names={ID: "never_began/seed_9"}, commit=None)
    assert "naive_epochs-3_beef/seed_9" in str(other.task(renamed, trial.config, ()).folder)


def test_no_driver_overwrites_lines_of_another(place):
    logs = [EventLog(place, generation) for generation in (1, 2, 3)]
    count = 40 if place.local_path else 5

    def write(log: EventLog, writer: int) -> None:
        for i in range(count):
            log.add("line", writer=writer, number=i)
            log.flush()
            if i == count // 2 and writer == 0:
                log.give_way()

    threads = [threading.Thread(target=write, args=(log, i)) for i, log in enumerate(logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = read_events(place)
    assert len(events) == 3 * count
    for writer in range(3):
        assert [e["number"] for e in events if e["writer"] == writer] == list(range(count))


def test_lines_of_an_earlier_release_are_read_too(place):
    place.write("events.jsonl", b'{"event": "started"}\n')
    log = EventLog(place, 7)
    log.add("completed")
    log.flush()
    assert [e["event"] for e in read_events(place)] == ["started", "completed"]


@pytest.mark.parametrize("line", ["[" * 100_000, "7", '[["event", "x"]]'], ids=["deep", "number", "pairs"])
def test_a_line_that_is_no_event_is_passed_over(line, tmp_path):
    (tmp_path / "events.jsonl").write_text(f'{line}\n{{"event": "started"}}\n')
    assert read_events(Folder(str(tmp_path))) == [{"event": "started"}]


def test_a_write_that_cannot_succeed_does_not_hold_up_the_others(tmp_path):
    with claim(Control(Folder(str(tmp_path)))) as lease, driver_of(Folder(str(tmp_path)), lease) as driver:
        written = []
        driver.later(lambda: written.append(1 // 0))
        driver.later(lambda: written.append("second"))
        driver.look_now()
        wait_for(lambda: written, 20)
    assert written == ["second"]


def test_the_end_of_a_driver_that_lost_the_sweep_is_not_recorded_as_the_others(tmp_path):
    """The other, on this machine too, has ended meanwhile, and died or not: its end is its own."""
    place = Folder(str(tmp_path))
    with claim(Control(place)) as other:
        pass
    ended = Control(place).driver.read_json(other.name) | {"pid": 2**22 + 1}
    Control(place).driver.write_json(other.name, ended)
    with pytest.raises(SweepLostError, match=f"process {2**22 + 1} on"):
        record_end(place, "SIGKILL", pid=7)
    assert read_events(place) == []
    record_end(place, "SIGKILL", pid=2**22 + 1)
    assert [e["why"] for e in read_events(place)] == ["SIGKILL"]


def test_an_end_is_recorded_once(tmp_path):
    place, pid = Folder(str(tmp_path)), os.getpid()
    Control(place).folder.write_json(LIVE, {"updated_at": now(), "pid": pid, "over": True})
    record_end(place, "Ray has died", pid)
    assert read_events(place) == []
