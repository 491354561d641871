"""The cause of a failure, in one line: the same wherever it is shown or kept, and never a line of our own source."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from ray.exceptions import RayActorError, RayTaskError

from selgen_ray.cluster.tune_events import cause_of
from selgen_ray.driver.display import Board
from selgen_ray.errors import Cause, TrialError
from selgen_ray.records.results import FILE_NAME, TrialResult
from selgen_ray.storage import Folder
from selgen_ray.trial.run import publish_failure
from selgen_ray.trial.task import TrialTask


def as_ray_brings_it(error: Exception) -> RayTaskError:
    """The error of a worker's task, with the traceback that Ray makes of it."""
    try:
        raise error
    except Exception:
        return RayTaskError("train()", traceback.format_exc(), error, proctitle="ray::naive/seed_1", pid=1, ip="::1")


GROUP = "worker 1: it died: its process or its machine is gone\nworker 0: RuntimeError: connection closed\nTraceback"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (as_ray_brings_it(TrialError("KeyError: 'labels'")), "KeyError: 'labels'"),
        (as_ray_brings_it(as_ray_brings_it(TrialError("KeyError: 'labels'"))), "KeyError: 'labels'"),
        # a message of several lines, as CUDA's: the first one says what happened
        (as_ray_brings_it(TrialError("CudaError: illegal access\nCompile with DSA")), "CudaError: illegal access"),
        (as_ray_brings_it(TrialError(GROUP)), "worker 1: it died: its process or its machine is gone"),
        (as_ray_brings_it(ZeroDivisionError()), "ZeroDivisionError"),
        (RayActorError(error_msg="The actor died.\n\tclass_name: TrialWorker"), "The actor died."),
    ],
    ids=["ours", "wrapped twice", "several lines", "group", "without a message", "worker died"],
)
def test_board_and_results_show_one_cause(error: Exception, line: str, tmp_path: Path) -> None:
    cause = cause_of(error)
    assert cause.line == line
    board = Board(total=1)
    board.end("naive/seed_1", "failed", cause)
    assert board.failures == [f"naive/seed_1: {line}"]
    task = TrialTask({"seed": 1}, "0123456789abcdef", "naive_3fa1b2", Folder(str(tmp_path)))
    publish_failure(task, cause.text)
    result = TrialResult.model_validate_json((tmp_path / FILE_NAME).read_text())
    assert result.status == "failed" and Cause.of_text(str(result.error)).line == line
    assert "\x1b" not in str(result.error), "Ray's colours"
    if isinstance(error, RayTaskError):
        assert "test_causes.py" in str(result.error), "the traceback is kept"


def test_an_empty_text_is_no_cause() -> None:
    with pytest.raises(ValueError, match="names no cause"):
        Cause.of_text(" \n")
