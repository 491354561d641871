"""The terminal view: what a line says, the estimate, and no control codes outside a terminal."""

import io
import re
import time

import pytest
from rich.console import Console

from selgen_ray.driver.display import Board, LiveDisplay, PlainDisplay, clock, finished_line, make_display, running_line
from selgen_ray.errors import Cause

RUNNING = {"step": 5, "num_steps": 20, "loss": 0.12345, "tokens_per_s": 812.4}


def board(**state):
    made = Board(total=4, **state)
    made.started -= 100  # a hundred seconds ago
    return made


def test_time_left_counts_running_trials_by_their_steps():
    assert board().seconds_left() is None
    # 1 finished and a quarter: 1.25 trials in 100 s, 2.75 to go
    found = board(running={"a": RUNNING}, finished={"completed": 1}).seconds_left()
    assert found == pytest.approx(100 / 1.25 * 2.75, rel=1e-3)
    assert board(finished={"completed": 3, "diverged": 1}).seconds_left() == pytest.approx(0)
    preparing = RUNNING | {"phase": "preparing on proxy"}  # says nothing about the training that follows
    assert board(running={"a": preparing}).seconds_left() is None


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3599.6, "1:00:00"), (7325, "2:02:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_lines():
    assert running_line("kl/seed_1", RUNNING) == "kl/seed_1  step 5/20  loss 0.1235  812 tokens/s"
    assert running_line("kl/seed_1", {}) == "kl/seed_1  starting: a process, then the model and the data"
    preparing = RUNNING | {"phase": "preparing on proxy"}
    assert running_line("kl/seed_1", preparing).startswith("kl/seed_1  preparing on proxy: step 5/20  loss")
    assert running_line("kl/seed_1", RUNNING | {"phase": "train"}) == running_line("kl/seed_1", RUNNING)
    assert running_line("kl/seed_1", {"phase": "waiting for tokens"}) == "kl/seed_1  waiting for tokens"
    scores = {"capability": 0.5, "alignment": None}
    assert finished_line("kl/seed_1", "completed", scores) == "completed  kl/seed_1  capability 0.500"
    text = board(running={"a": RUNNING}, finished={"completed": 1, "diverged": 1}).summary()
    assert text.startswith("2/4 finished (1 diverged), 1 running, ") and text.endswith(" left")


def test_plain_output_is_lines_without_control_codes(capsys):
    display = make_display()  # the tests have no terminal
    assert isinstance(display, PlainDisplay)
    display.start()
    display.update(board(running={"a": RUNNING}))  # too early for a summary
    display.line("completed  a", board(finished={"completed": 1}))
    display.stop()
    assert capsys.readouterr().out == "completed  a  [1/4 finished, 0 running, 5:00 left]\n"


def test_without_progress_only_what_concerns_the_sweep_is_said(capsys):
    display = make_display("none")
    display.start()
    display.update(board(running={"a": RUNNING}))
    display.line("completed  a", board(finished={"completed": 1}))
    display.say("finishing steps", board())
    display.stop()
    assert capsys.readouterr().out == "finishing steps\n"


def shown(display_of, *, height=24):
    """What a terminal of 100 columns is sent, without its control codes."""
    out = io.StringIO()
    display = LiveDisplay(Console(file=out, force_terminal=True, width=100, height=height, color_system=None))
    display.start()
    display_of(display)
    time.sleep(0.6)  # it is drawn four times a second
    display.stop()
    return re.sub(r"\x1b\[[0-9?;]*[a-zA-Z]", "", out.getvalue())


def test_the_live_view_has_a_bar_for_each_running_trial_and_one_for_all():
    def show(display):
        display.update(board(running={"kl/seed_1": RUNNING, "naive/seed_2": {}}))
        time.sleep(0.6)
        display.line("completed  dpo/seed_1  capability 0.500", board(finished={"completed": 1}))

    text = shown(show)
    lines = text.splitlines()
    kl = next(line for line in lines if "kl/seed_1" in line)
    assert kl.count("━") == 4  # a quarter of its steps: a quarter of the bar of 16 columns
    assert "step 5/20  loss 0.1235  812 tokens/s" in kl
    assert any("naive/seed_2" in line and "starting" in line and "━" not in line for line in lines)
    assert "completed  dpo/seed_1  capability 0.500" in text
    assert any("1/4 finished" in line and "━" in line for line in lines)


def test_a_long_name_keeps_its_seed():
    name = f"positive_negative_proxy_lambda_proxy-0.1_{'a' * 40}/seed_12"
    text = shown(lambda display: display.update(board(running={name: RUNNING})))
    assert "positive_negative_proxy_…/seed_12 " in text and "step 5/20" in text


def test_failures_stay_in_view_with_their_cause():
    state = board()
    for seed in range(5):
        text = f"Traceback (most recent call last):\nValueError: number {seed}"
        state.end(f"kl/seed_{seed}", "failed", Cause.of_text(text))
    state.end("dpo/seed_1", "completed")
    assert state.finished == {"failed": 5, "completed": 1}
    lines = shown(lambda display: display.update(state)).splitlines()
    assert [line.strip() for line in lines if "ValueError" in line][-3:] == [
        f"kl/seed_{seed}: ValueError: number {seed}" for seed in (2, 3, 4)
    ]


def test_the_live_view_fits_into_a_low_terminal():
    many = {f"kl/seed_{n}": RUNNING for n in range(40)}
    text = shown(lambda display: display.update(board(running=many)), height=15)
    frame = text.split("kl/seed_0 ")[-1]
    assert len(frame.splitlines()) <= 15 and "and 32 more" in frame and "running" in frame
