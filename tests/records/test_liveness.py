"""Whether a sweep is driven, without comparing the clocks of two machines."""

from __future__ import annotations

import pytest

from selgen_ray.records.control import LIVE, Control
from selgen_ray.records.liveness import LEASE_S, beat_s, is_driven
from selgen_ray.records.results import now
from selgen_ray.storage import Folder
from selgen_ray.storage.leases import Watch

WRONG = ("2020-01-01T00:00:00+00:00", "2099-01-01T00:00:00+00:00")  # clocks that are years off


@pytest.fixture
def control(tmp_path):
    return Control(Folder(str(tmp_path)))


def write_live(control, at, **content):
    live = {"updated_at": at, "every_s": 0.05, "pid": 1, "host": "elsewhere"} | content
    control.folder.write_json(LIVE, live)
    return control.read(LIVE)


def elsewhere(control, beat=0, released=False):
    content = {"host": "elsewhere", "pid": 7, "started": "1", "beat": beat, "released": released}
    control.driver.write_json("000001.json", content)


def test_nothing_was_ever_written_or_it_is_over(control):
    assert not is_driven(control, {})
    assert not is_driven(control, write_live(control, now(), over=True))


@pytest.mark.parametrize("at", WRONG)
def test_a_driver_on_this_machine_is_seen_at_once_whatever_its_clock_says(control, at):
    lease = Watch(control.driver, 600.0, 0.0).acquire()
    assert lease is not None
    with lease:
        assert is_driven(control, write_live(control, at), patience_s=600.0)
    assert not is_driven(control, write_live(control, at), patience_s=600.0)  # released


@pytest.mark.parametrize("at", WRONG)
@pytest.mark.parametrize("sign", ["live.json", "lease"])
def test_a_driver_elsewhere_is_alive_once_it_shows_a_sign(control, at, sign):
    elsewhere(control)
    live, told = write_live(control, at), []

    def show(driver: str) -> None:
        told.append(driver)
        if sign == "lease":
            elsewhere(control, beat=1)
        else:
            write_live(control, at, running={"a/seed_1": {}})

    assert is_driven(control, live, patience_s=30.0, on_wait=show)
    assert told == ["process 7 on elsewhere"]


def test_a_driver_elsewhere_that_shows_none_is_dead_even_if_its_clock_is_ahead(control):
    elsewhere(control)
    told = []
    assert not is_driven(control, write_live(control, WRONG[1]), patience_s=0.3, on_wait=told.append)
    assert told == ["process 7 on elsewhere"]


def test_one_that_ends_meanwhile_is_not_waited_for(control):
    elsewhere(control, released=True)
    assert not is_driven(control, write_live(control, now()), patience_s=600.0)


@pytest.mark.parametrize("every_s", [None, "often", 0, -1, True, float("inf"), 1e9])
def test_whatever_the_file_says_of_its_beat_a_report_waits_for_seconds(every_s):
    assert 0 < 3 * beat_s({"every_s": every_s}) <= LEASE_S
