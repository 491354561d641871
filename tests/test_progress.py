"""The terminal view: what a line says, the estimate, and no control codes outside a terminal."""

import io
import time

import pytest
from rich.console import Console

from selgen_ray.progress import Board, LiveDisplay, PlainDisplay, clock, finished_line, make_display, running_line

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
    assert running_line("kl/seed_1", {}) == "kl/seed_1  starting"
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


def test_the_live_view_has_a_line_for_each_running_trial():
    out = io.StringIO()
    display = LiveDisplay(Console(file=out, force_terminal=True, width=100, color_system=None))
    display.start()
    display.update(board(running={"kl/seed_1": RUNNING, "naive/seed_2": {}}))
    time.sleep(0.6)  # it is drawn four times a second
    display.line("completed  dpo/seed_1", board(finished={"completed": 1}))
    display.stop()
    text = out.getvalue()
    assert "kl/seed_1  step 5/20" in text and "naive/seed_2  starting" in text
    assert "completed  dpo/seed_1" in text and "1/4 finished" in text
