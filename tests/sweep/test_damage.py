"""Damaged and hostile files in a sweep's folder: one is one trial's loss, and none leads out of the folder. No Ray."""

from __future__ import annotations

import csv
import functools
import io
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_sweep import fake_result, publish
from plugin_sources import MINE
from running import environment, in_process, wait_for, write_space

from selgen_ray import load_results
from selgen_ray.data.readers import read_entries
from selgen_ray.driver.added import AddedTrial, write_added
from selgen_ray.driver.display import Board
from selgen_ray.driver.driver import Driver, claim
from selgen_ray.driver.plan import make_plan
from selgen_ray.driver.trial_queue import TrialQueue
from selgen_ray.driver.trust import Trust
from selgen_ray.errors import DataError, StorageError
from selgen_ray.reading import read_trials
from selgen_ray.records.attempts import Attempt, Fence
from selgen_ray.records.control import LIVE, PLAN, Control
from selgen_ray.records.events import read_events
from selgen_ray.records.results import FILE_NAME, ResultHead, TrialResult, now
from selgen_ray.records.status import TrialStatus
from selgen_ray.records.text import printable
from selgen_ray.report import cli
from selgen_ray.report.writing import for_spreadsheets, plain_table, write_report
from selgen_ray.space import load_space
from selgen_ray.space.kept import kept_text
from selgen_ray.storage import Folder, local_files
from selgen_ray.storage.leases import MOST
from selgen_ray.sweep import commands
from selgen_ray.syntax.tree import read_tree
from selgen_ray.trainers.plugins import Plugin
from selgen_ray.trial.task import TrialTask

STAMP = "20260101_000000"
Steer = tuple[int, str]


def steer(capsys: pytest.CaptureFixture[str], *args: object) -> Steer:
    capsys.readouterr()
    status = commands.main([str(arg) for arg in args])
    shown = capsys.readouterr()
    return status, shown.out + shown.err


def file_of(sweep: Path, result: TrialResult) -> Path:
    return sweep / result.slug / f"seed_{result.seed}" / "results" / STAMP / FILE_NAME


# rm ---------------------------------------------------------------------------------------------------------------


def test_rm_deletes_the_trial_with_its_copies_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "sweep"
    doomed, other = fake_result(seed=1), fake_result(seed=2)
    publish(sweep, doomed, other)
    publish(sweep, doomed, stamp="20260202_000000")
    for copy in (sweep, sweep / "backup", sweep / other.slug / "seed_2" / "results" / "20260303_000000"):
        doomed.publish(Folder(str(copy)))
    (sweep / "backup" / "notes.txt").write_text("mine")
    refused, told = steer(capsys, "rm", sweep, doomed.slug + "/seed_1")
    listed = [f"{doomed.slug}/seed_1/", f"backup/{FILE_NAME}", FILE_NAME]
    listed.append(f"{other.slug}/seed_2/results/20260303_000000/{FILE_NAME}")
    assert refused == 2 and "say --yes" in told and [line in told.split() for line in listed] == [True] * 4, told
    assert file_of(sweep, doomed).exists()
    status, told = steer(capsys, "rm", sweep, doomed.slug + "/seed_1", "--yes")
    assert status == 0, told
    left = {path.relative_to(sweep).as_posix() for path in sweep.rglob("*") if path.is_file()}
    assert left - {f"control/removed/{doomed.trial_id}.json"} == {
        file_of(sweep, other).relative_to(sweep).as_posix(),
        "backup/notes.txt",
    }


def test_rm_removes_a_link_and_not_what_it_leads_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep, elsewhere = tmp_path / "sweep", tmp_path / "elsewhere"
    doomed = fake_result()
    publish(elsewhere, doomed)
    (sweep / doomed.slug).mkdir(parents=True)
    (sweep / doomed.slug / "seed_1").symlink_to(elsewhere / doomed.slug / "seed_1")
    status, told = steer(capsys, "rm", sweep, doomed.slug, "--yes")
    assert status == 0 and not (sweep / doomed.slug / "seed_1").is_symlink(), told
    assert file_of(elsewhere, doomed).exists()


@pytest.mark.parametrize("link", ["setting", "copy"])
def test_rm_refuses_what_a_link_leads_to_outside_of_the_sweep(
    link: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, elsewhere, doomed = tmp_path / "sweep", tmp_path / "elsewhere", fake_result()
    publish(elsewhere, doomed)
    publish(sweep, fake_result(seed=2) if link == "copy" else fake_result("kl_divergence"))
    name = "old" if link == "copy" else doomed.slug
    (sweep / name).symlink_to(elsewhere if link == "copy" else elsewhere / doomed.slug)
    for args in ([doomed.trial_id], [doomed.trial_id, "--yes"], ["*", "--yes"]):
        status, told = steer(capsys, "rm", sweep, *args)
        assert status == 2 and "leads out of the sweep by a link" in told and str(sweep / name) in told, told
        assert f"to {elsewhere / doomed.slug / 'seed_1'}" in told and "Remove the link" in told, told
    assert file_of(elsewhere, doomed).exists() and len(list(sweep.glob("*/seed_*/results/*/results.json"))) > 0
    assert not (sweep / "control" / "removed").exists()
    (tmp_path / "by_link").symlink_to(sweep)  # the sweep itself may be named by a link
    (sweep / name).unlink()
    assert steer(capsys, "rm", tmp_path / "by_link", "*", "--yes")[0] == 0
    assert not list(sweep.glob("*/seed_*")) and file_of(elsewhere, doomed).exists()


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], str]) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer())


@pytest.mark.parametrize(
    ("became", "why"),
    [
        ("completed", "was failed and is completed now"),
        ("running", "was failed and is running now"),
        ("removed", "was failed and is gone now"),
        ("copied", "has other files now"),
    ],
)
def test_rm_refuses_by_name_what_has_changed_while_its_question_stood(
    became: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, doomed, other = tmp_path / "sweep", fake_result(status="failed"), fake_result(seed=2)
    publish(sweep, doomed, other)
    control = Control(Folder(str(sweep)))

    def meanwhile() -> str:
        if became == "removed":
            steer(capsys, "rm", sweep, f"{doomed.slug}/seed_1", "--yes")
        elif became == "copied":
            doomed.publish(Folder(str(sweep / "backup")))
        else:
            publish(sweep, fake_result(status=became))
        if became == "running":
            running = {f"{doomed.slug}/seed_1": {"phase": "train"}}
            live = {"updated_at": now(), "every_s": 60.0, "pid": os.getpid(), "running": running}
            control.folder.write_json(LIVE, live | {"host": socket.gethostname()})
        return "y"

    answering(monkeypatch, meanwhile)
    lease = claim(control)
    with lease if became == "running" else nullcontext():
        status, told = steer(capsys, "rm", sweep, f"{doomed.slug}/seed_*")
    assert (
        status == 2
        and f"nothing was deleted, since the sweep has changed meanwhile: {doomed.slug}/seed_1 {why}." in told
    )
    assert file_of(sweep, other).exists() and file_of(sweep, doomed).exists() is (became != "removed")
    assert (doomed.trial_id in control.removed.names()) is (became == "removed")
    assert other.trial_id not in control.removed.names()


def test_rm_deletes_what_is_as_it_was_when_its_question_was_answered_and_takes_ctrl_d_for_no(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, doomed = tmp_path / "sweep", fake_result()
    publish(sweep, doomed, fake_result(seed=2))

    def ctrl_d() -> str:
        raise EOFError

    for answer in (ctrl_d, lambda: "", lambda: "n", lambda: "yess"):
        answering(monkeypatch, answer)
        status, told = steer(capsys, "rm", sweep, f"{doomed.slug}/seed_1")
        assert status == 0 and told.endswith("\nnothing was deleted\n") and file_of(sweep, doomed).exists()
    answering(monkeypatch, lambda: " Yes")
    status, told = steer(capsys, "rm", sweep, f"{doomed.slug}/seed_1")
    assert status == 0 and "seed_1 is removed" in told and not file_of(sweep, doomed).exists()


@pytest.mark.parametrize("change", [{"trial_id": "../../../victim"}, {"slug": "../../victim"}, {"slug": ".."}])
def test_names_from_storage_lead_nowhere(
    change: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "storage" / "sweep"
    good, bad = fake_result(seed=1), fake_result(seed=2, changes=change)
    publish(sweep, good)
    bad.publish(Folder(str(sweep / "naive_c0ffee" / "seed_2" / "results" / STAMP)))
    Control(Folder(str(sweep))).folder.write_json(PLAN, {"trials": {bad.trial_id: f"{bad.slug}/seed_2"}})
    status, told = steer(capsys, "status", sweep)
    assert status == 0 and "naive_c0ffee/seed_2" in told and "cannot be read: it is of no trial" in told, told
    before = sorted(tmp_path.rglob("*"))
    for pattern in ("*", bad.trial_id, bad.slug):
        steer(capsys, "rm", sweep, pattern, "--yes")
    new = set(tmp_path.rglob("*")) - set(before)
    marks = [f"{result.trial_id}.json" for result in (good, fake_result(seed=2))]
    assert new <= {sweep / "control" / "removed", *(sweep / "control" / "removed" / name for name in marks)}


def test_a_slug_in_what_was_added_leads_nowhere(
    tmp_path: Path, tiny_model_dir: str, data_files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    space = write_space(tmp_path, tiny_model_dir, data_files)
    sweep = Folder(str(tmp_path / "sweeps" / "tiny"))
    config = load_space(space).trials[0].config.model_dump(mode="json")
    mark = {"trial_id": "a" * 16, "config": config, "model_hash": "0" * 64, "plugins": [], "search": None}
    for trial_id, content in {"a": mark | {"slug": "../../up"}, "b": {"at": 3}, "c": {"config": 5, "slug": 1}}.items():
        Control(sweep).added.set(trial_id * 16, **content)
    sweep.write("control/added/torn.json", b"{")
    status, told, _ = in_process(space, "--dry-run")
    assert status == 0 and told.count("is damaged") == 3 and "6 trials in" in told, told
    Control(sweep).folder.write_json(PLAN, {"trials": {"d" * 16: "naive_c0ffee/seed_1"}})
    status, told = steer(capsys, "status", sweep)
    assert status == 0 and "1 trials: 1 waiting" in told, told


# one damaged file -------------------------------------------------------------------------------------------------


TORN = ("", "{", '{"schema_version": 1, "trial_id": "%s", "slug"', "[]", "\x00" * 20, "[" * 100_000)


def test_one_damaged_result_is_one_trial_that_runs_again(
    tmp_path: Path,
    tiny_model_dir: str,
    data_files: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    space = write_space(tmp_path, tiny_model_dir, data_files)
    spec, sweep = load_space(space), tmp_path / "sweeps" / "tiny"
    for trial in spec.trials:
        result = fake_result(seed=trial.config.seed, changes={"trial_id": trial.trial_id, "slug": trial.slug})
        publish(sweep, result)
    spec = spec.model_copy(update={"storage_path": str(tmp_path / "sweeps")})
    names = {trial.trial_id: trial.name for trial in spec.trials}
    Control(Folder(str(sweep))).folder.write_json(PLAN, {"trials": names})
    first = spec.trials[0]
    place = sweep / first.name / "results" / STAMP
    for text in TORN:
        (place / FILE_NAME).write_text(text.replace("%s", first.trial_id))
        plan = make_plan(spec)
        assert [p.task.name for p in plan.with_status(TrialStatus.UNREADABLE)] == [first.name]
        (task,) = plan.to_run
        assert str(task.folder) == str(place)  # its checkpoints are there, and the new result replaces the damaged one
        assert any(str(place / FILE_NAME) in line for line in plan.lines()), plan.lines()
        assert "    1 unreadable, run again" in "\n".join(plan.lines())
        status, told = steer(capsys, "status", sweep)
        assert status == 0 and "6 trials: 5 completed, 1 unreadable" in told and str(place / FILE_NAME) in told, told
        assert steer(capsys, "retry", sweep, first.name)[0] == 0
        caplog.clear()
        assert len(load_results(sweep)) == 5 and str(place / FILE_NAME) in caplog.text
    # found by its id where the name of its folder says nothing
    moved = sweep / "another_c0ffee" / f"seed_{first.config.seed}" / "results" / STAMP
    moved.parent.mkdir(parents=True)
    place.rename(moved)
    (moved / FILE_NAME).write_text(TORN[2].replace("%s", first.trial_id))
    assert [str(task.folder) for task in make_plan(spec).to_run] == [str(moved)]
    assert steer(capsys, "rm", sweep, first.name, "--yes")[0] == 0 and not moved.exists()
    assert not make_plan(spec).to_run


def test_a_number_out_of_range_is_refused_by_whoever_reads_or_writes_it(tmp_path: Path) -> None:
    good = fake_result()
    with pytest.raises(ValueError, match="less than or equal to 1"):
        good.capability = 7.0
    good.publish(Folder(str(tmp_path)))
    bad = json.dumps(json.loads((tmp_path / FILE_NAME).read_text()) | {"capability": 7.0})
    for kind in (TrialResult, ResultHead):
        with pytest.raises(ValueError, match="capability"):
            kind.model_validate_json(bad)


LIVES: list[Any] = [
    *([], 3, {}, {"updated_at": 5}, {"updated_at": "now"}, {"updated_at": "2026-01-01T00:00:00"}),
    {"updated_at": "2999-01-01T00:00:00+00:00", "running": 3, "finished": [], "seconds_left": "soon", "host": 5},
    {"updated_at": "2999-01-01T00:00:00+00:00", "running": {"naive_c0ffee/seed_1": {"step": 1}, "../x": {}}},
    {"updated_at": "2999-01-01T00:00:00+00:00", "running": {"naive_c0ffee/seed_1": [1]}, "seconds_left": -5},
]


@pytest.mark.parametrize("live", LIVES)
def test_a_damaged_control_file_is_no_traceback(
    live: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "is_driven", functools.partial(commands.is_driven, patience_s=0.01))
    folder = Folder(str(tmp_path))
    publish(folder, fake_result())
    control = Control(folder).folder
    control.write_json(LIVE, live)
    for plan in ([], {"trials": 3}, {"trials": {"a" * 16: 5, "b" * 16: "x", "..": "y/seed_1"}, "left_out": None}):
        control.write_json(PLAN, plan)
        for args in (["status"], ["status", "--json"], ["stop", "--all"], ["stop", "naive*"]):
            status, told = steer(capsys, args[0], tmp_path, *args[1:])
            assert status in (0, 2) and told, args
    control.write(LIVE, b"[" * 100_000)
    assert steer(capsys, "status", tmp_path)[0] == 0


def test_a_retry_of_a_trial_whose_result_is_damaged_in_part_begins_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = fake_result(status="diverged")
    publish(tmp_path, result)
    path = file_of(tmp_path, result)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eval_results": "gone"}))
    status, told = steer(capsys, "retry", tmp_path, result.slug)
    assert status == 0 and "was damaged and is removed" in told and "is to run again" in told and not path.exists()


def test_a_failed_trial_that_runs_again_is_running_for_everybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = fake_result(status="failed")
    publish(tmp_path, result)
    name = f"{result.slug}/seed_{result.seed}"
    with claim(Control(Folder(str(tmp_path)))):
        live = {"updated_at": now(), "running": {name: {}}, "host": "here", "pid": 1}
        Control(Folder(str(tmp_path))).folder.write_json(LIVE, live)
        assert "1 trials: 1 running\n" in steer(capsys, "status", tmp_path)[1]
        assert "running; stop it first" in steer(capsys, "rm", tmp_path, name, "--yes")[1]
        assert "nothing to retry" in steer(capsys, "retry", tmp_path, name)[1]
    assert "1 trials: 1 failed\n" in steer(capsys, "status", tmp_path)[1]


@pytest.mark.parametrize("status", ["stopped", "failed", "diverged"])
@pytest.mark.parametrize("late", ["reading", "writing"])
@pytest.mark.parametrize("end", ["completed", "running"])
def test_a_retry_that_is_late_leaves_what_another_run_has_left_meanwhile(
    status: str,
    late: str,
    end: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another retry reached the driver, and the trial runs, or has run to its end, as the next attempt."""
    result = fake_result(status=status, changes={"generation": 1, "attempt": 1, "error": "by eve"})
    publish(tmp_path, result)
    path = file_of(tmp_path, result)
    place, at_work = Folder(str(path.parent)), list[bytes]()

    def meanwhile() -> None:
        if at_work:
            return
        at_work.append(b"")
        publish(tmp_path, result.model_copy(update={"status": TrialStatus.RUNNING, "error": None}))
        new = Fence(place, Attempt(1, 2))
        new.begin()
        new.publish(fake_result(status=end, x=0.9))
        if end == "completed":
            new.end()
        at_work[0] = path.read_bytes()

    def held_up(name: str) -> None:
        real = getattr(local_files, name)

        def write(*args: Any) -> None:
            if late == "reading" or args[-2].name == FILE_NAME:
                meanwhile()
            real(*args)

        monkeypatch.setattr(local_files, name, write)

    held_up("write")
    held_up("write_by_way_of")
    exit_status, told = steer(capsys, "retry", tmp_path, result.slug)
    told_why = "runs it, in process" if end == "running" else "has left a result, completed"
    assert exit_status == 0 and f"attempt 000001-0002 {told_why}" in told and "Nothing to retry" in told, told
    assert path.read_bytes() == at_work[0]
    assert Control(Folder(str(tmp_path))).retry.names() == set()


@pytest.mark.parametrize("changes", [{"generation": 3, "attempt": 2}, {}], ids=["attempt", "earlier release"])
def test_a_retry_takes_a_trial_back_to_running_and_the_next_attempt_goes_on(
    changes: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = fake_result(status="diverged", changes=changes | {"error": "loss is not finite"})
    publish(tmp_path, result)
    status, told = steer(capsys, "retry", tmp_path, result.slug)
    assert status == 0 and "is to run again" in told, told
    place = Folder(str(file_of(tmp_path, result).parent))
    stored = TrialResult.model_validate_json(place.read(FILE_NAME))
    assert (stored.status, stored.error, stored.capability) == ("running", None, 0.5) and place.folders() == []
    again = Fence(place, Attempt(3, 3))
    again.begin()
    again.publish(fake_result(status="completed", x=0.9))
    assert TrialResult.model_validate_json(place.read(FILE_NAME)).capability == 0.9


def test_numbers_grow_after_the_leases_were_lost(
    tmp_path: Path, tiny_model_dir: str, data_files: dict[str, str]
) -> None:
    """Somebody deleted control/. A trial that left no result has the mark of an attempt, whose number is exceeded."""
    spec = load_space(write_space(tmp_path, tiny_model_dir, data_files))
    spec = spec.model_copy(update={"storage_path": str(tmp_path / "sweeps")})
    task = make_plan(spec).to_run[0]
    Fence(task.folder, Attempt(7, 2)).begin()
    plan = make_plan(spec)
    with claim(Control(plan.folder), plan.generation) as lease:
        assert lease.number == 8
        assert make_plan(spec).generation == 0  # the leases say the rest
    Fence(task.folder, Attempt(lease.number, 1)).begin()


# bounds -----------------------------------------------------------------------------------------------------------


def test_links_in_a_sweeps_folder_are_followed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep, elsewhere = tmp_path / "sweep", tmp_path / "elsewhere"
    results = [fake_result(seed=seed) for seed in (1, 2)]
    publish(sweep, results[0])
    publish(elsewhere, results[1])
    (elsewhere / "back").symlink_to(sweep)
    for name in ("parent", "up", "self", "other", "twice"):
        target = {"parent": sweep, "up": tmp_path, "self": sweep / "self"}.get(name, elsewhere)
        (sweep / name).symlink_to(target)
    caplog.set_level(logging.WARNING)
    folder = Folder(str(sweep))
    found = folder.find(FILE_NAME)
    assert len(found) == 2 and found == folder.files(recursive=True)
    assert len(load_results(sweep)) == 2 and not caplog.text


def aliases(first: str, each: str, levels: int) -> str:
    lines = [f"a{i}: &a{i} {each % ','.join([f'*a{i - 1}'] * 10)}" for i in range(1, levels)]
    return "\n".join([f"a0: &a0 {first}", *lines, ""])


SMALL = {  # file -> what is said of it
    "aliases": (aliases("[x,x,x,x,x,x,x,x,x,x]", "[%s]", 7), "stand for more than 100,000 values"),
    "merged": (aliases("{x: 1}", "{<<: [%s]}", 9), "stand for more than 100,000 values"),
    "brackets": ("a: " + "[" * 100_000 + "]" * 100_000, "nested too deeply: in more than 100 levels"),
    "dashes": ("- " * 50_000, "nested too deeply: in more than 100 levels"),
    "itself": ("a: &a [*a]", "nested too deeply"),
}


def test_a_small_file_costs_little(tmp_path: Path) -> None:
    for name, (text, _) in SMALL.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    script = "import sys; from pathlib import Path; from selgen_ray.syntax.tree import read_tree\n"
    script += "for path in sys.argv[1:]: problems = []; read_tree(Path(path), problems); print(*problems)"
    files = [str(tmp_path / f"{name}.yaml") for name in SMALL]
    # the C parser's recursion would end this process
    done = subprocess.run(
        [sys.executable, "-c", script, *files], capture_output=True, text=True, timeout=60, env=environment()
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == len(SMALL), done.stderr[-500:]
    assert [told in line for line, (_, told) in zip(lines, SMALL.values(), strict=True)] == [True] * len(SMALL), lines


def test_a_search_space_with_anchors_and_many_values_is_read(tmp_path: Path) -> None:
    rows = "\n".join(f"- {{finetune_config: *f, data_seed: {i}}}" for i in range(2000))
    problems: list[Any] = []
    (tmp_path / "space.yaml").write_text(
        f"base: {{finetune_config: &f {{epochs: 1, r: [1, 2]}}}}\noverrides:\n{rows}\n"
    )
    tree = read_tree(tmp_path / "space.yaml", problems)
    assert tree and not problems and len(tree.value["overrides"].value) == 2000


def test_a_line_that_is_no_row_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "rows.jsonl").open("wb") as out:
        out.write(b'{"messages": []}\n' + b"x" * (2**26 + 1))
    with pytest.raises(DataError, match=r"rows.jsonl:2: has more than 64 MiB in one line"):
        list(read_entries(str(tmp_path / "rows.jsonl"), None, None))


# code that trials bring along -------------------------------------------------------------------------------------


def test_code_that_only_storage_names_is_not_run_until_its_hash_is_confirmed(
    tmp_path: Path, tiny_model_dir: str, data_files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    space = write_space(tmp_path, tiny_model_dir, data_files)
    sweep = Folder(str(tmp_path / "sweeps" / "tiny"))
    spec = load_space(space).model_copy(update={"storage_path": str(tmp_path / "sweeps")})
    mark = tmp_path / "it_ran"
    evil = Plugin("/anywhere/evil.py", f"open({str(mark)!r}, 'w').close()\n" + MINE)
    trial = AddedTrial("e" * 16, "mine_c0ffee", spec.trials[0].config.model_dump(mode="json"), "0" * 64, (evil,))
    write_added(Control(sweep), trial)
    sweep.write("space.yaml", kept_text(space))

    plan = make_plan(spec)
    (warning,) = plan.warnings
    confirm = f"--trust-plugin {evil.sha256[:12]}"
    assert trial.name in warning and "evil.py" in warning and warning.endswith(confirm), warning
    assert trial.trial_id not in {task.trial_id for task in plan.to_run} and len(plan.to_run) == 6
    assert trial.trial_id in {task.trial_id for task in make_plan(spec, [evil.sha256[:12]]).to_run}
    assert trial.trial_id not in {task.trial_id for task in make_plan(spec, ["0" * 12]).to_run}
    own = spec.model_copy(update={"plugin_sources": (Plugin("another/name.py", evil.source),)})
    assert trial.trial_id in {task.trial_id for task in make_plan(own).to_run}

    status, told = steer(capsys, "add", tmp_path / "sweeps" / "tiny", "--seeds", "9")
    assert status == 2 and confirm in told and not mark.exists(), told


def test_a_running_sweep_does_not_run_code_that_only_storage_names(tmp_path: Path) -> None:
    place, told = Folder(str(tmp_path)), list[str]()
    own = TrialTask({"seed": 1}, "a" * 16, "naive_beef", place, git_commit=None, plugins=(Plugin("evil.py", MINE),))
    queue = TrialQueue([], 0, lambda: 9)

    def make(trial: AddedTrial) -> TrialTask:
        return TrialTask(trial.config, trial.trial_id, trial.slug, place, git_commit=None, plugins=trial.plugins)

    driver = Driver(place, queue, Board(1), {own.trial_id: own}, make, say=told.append)
    driver.feedback = SimpleNamespace(add=lambda tasks: None, ended=lambda *_: None)  # pyright: ignore
    control = Control(place)
    config = {"seed": 1, "proxy_strategy": "naive"}
    write_added(control, AddedTrial("b" * 16, "mine_c0ffee", config, "0" * 64, own.plugins))
    write_added(control, AddedTrial("c" * 16, "naive_c0ffee", config, "0" * 64))
    control.added.set("d" * 16, slug="../../up")
    control.retry.set(own.trial_id)
    with driver:
        wait_for(lambda: len(told) >= 3, 10)
    assert queue.known.keys() == {"c" * 16}
    assert {line.split(" ")[0] for line in told[:2]} == {
        "mine_c0ffee/seed_1",
        f"{control.added.folder}/{'d' * 16}.json",
    }
    assert told[2].startswith("naive_beef/seed_1 runs code that the search space does not name: evil.py (sha256 ")


# a table for spreadsheet programs ---------------------------------------------------------------------------------


def test_no_cell_of_results_csv_is_a_formula(tmp_path: Path) -> None:
    texts: dict[str, Any] = {
        "a": "=1+1",
        "b": "+cmd|' /C calc'!A0",
        "c": "-2+3",
        "d": "@SUM(1)",
        "e": "-0.1",
        "f": "=",
        "g": "fine",
    }
    publish(
        tmp_path,
        fake_result(x=0.25, evals={"task_test": {"delta": [-0.5, -0.1]}}, changes={"slug": "naive_c0ffee"}, **texts),
    )
    table = for_spreadsheets(plain_table(read_trials(Folder(str(tmp_path)))))
    lines = list(csv.DictReader(io.StringIO(table.to_csv(index=False))))
    (row,) = lines
    assert [row[key] for key in "abcdefg"] == [
        "'=1+1",
        "'+cmd|' /C calc'!A0",
        "'-2+3",
        "'@SUM(1)",
        "-0.1",
        "'=",
        "fine",
    ]
    assert row["eval.task_test.delta"] == "-0.1" and row["capability"] == "0.25"
    named = for_spreadsheets(table.assign(**{"=HYPERLINK(1)": "x"}))  # a knob of a plugin may have such a name
    assert named.columns[-1] == "'=HYPERLINK(1)" and list(named.columns[:-1]) == list(table.columns)


def test_no_file_steers_the_terminal(tmp_path, capsys):
    steering = "\x1b]52;c;cm0=\x07\x1b[2J\x1b[1;1H\u202eall 2 trials completed\x9b"
    failed = fake_result(seed=2, status="failed", changes={"error": f"Traceback\nRuntimeError: {steering}"})
    publish(tmp_path, fake_result(), failed)
    (tmp_path / "old\x1b[31m").mkdir()
    (tmp_path / "old\x1b[31m" / "results.json").write_text("{")
    assert commands.main(["status", str(tmp_path)]) == 0
    assert cli.main([str(tmp_path)]) == 0
    shown = capsys.readouterr()
    written = shown.out + shown.err
    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(written)
    assert r"RuntimeError: \x1b]52;c;cm0=\x07\x1b[2J\x1b[1;1H\u202eall 2 trials completed\x9b" in shown.out
    assert r"old\x1b[31m" in written and "ä — ±" in printable("ä — ±\n")


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("evals", {"judge": {"model": "m", "base_url": "http://elsewhere.example/v1"}}, "http://elsewhere.example/v1"),
        ("evals", {"judge": {"model": "m"}}, "OPENAI_API_KEY"),  # the space itself has no judge
        ("evals", {"questions": "/home/me/private.jsonl"}, "evals.questions"),
        ("data", {"truth": {"path": "/home/me/private.jsonl"}}, "data.truth.path"),
        ("data", {"truth": "/home/me/private.jsonl"}, "/home/me/private.jsonl"),
        ("data", {"collateral": {"path": "me/private-rows"}}, "me/private-rows"),  # the token of the hub may open it
        ("finetune_config", {"model": "/home/me/model"}, "finetune_config.model"),
        ("finetune_config", {"adapter": "/home/me/adapter"}, "finetune_config.adapter"),
        ("finetune_config", {"output_dir": "/home/me"}, "finetune_config.output_dir"),
        ("finetune_config", {"push_to_hub": True, "finetuned_model_id": "them/mine"}, "them/mine"),
        ("finetune_config", {"chat_template": "~/secret.jinja"}, "~/secret.jinja"),
    ],
)
def test_an_added_trial_that_reaches_what_the_space_does_not_name_waits_for_a_confirmation(
    tmp_path: Path,
    tiny_model_dir: str,
    data_files: dict[str, str],
    section: str,
    values: dict[str, Any],
    told: str,
) -> None:
    space = write_space(tmp_path, tiny_model_dir, data_files)
    sweep = Folder(str(tmp_path / "sweeps" / "tiny"))
    spec = load_space(space).model_copy(update={"storage_path": str(tmp_path / "sweeps")})
    config = spec.trials[0].config.model_dump(mode="json")
    same = AddedTrial("d" * 16, "naive_c0ffee", config | {"seed": 7}, "0" * 64)
    other = AddedTrial("e" * 16, "naive_c0ffee", config | {section: config[section] | values}, "0" * 64)
    write_added(Control(sweep), same)
    write_added(Control(sweep), other)

    plan = make_plan(spec)
    (warning,) = plan.refused
    assert "reaches what the search space does not name" in warning and told in warning, warning
    to_run = {task.trial_id for task in plan.to_run}
    assert same.trial_id in to_run and other.trial_id not in to_run
    confirmed = [warning.rpartition(" ")[2]]
    assert other.trial_id in {task.trial_id for task in make_plan(spec, confirmed).to_run}


def test_a_start_is_a_folder_of_the_sweep_and_no_link_to_another(tmp_path: Path) -> None:
    sweep, elsewhere = tmp_path / "sweep", tmp_path / "private"
    for folder in (sweep / "starts" / "0123", elsewhere / "model"):
        folder.mkdir(parents=True)
    (sweep / "starts" / "link").symlink_to(elsewhere)
    trust = Trust(starts=sweep / "starts")
    for key in ("model", "adapter"):
        assert trust.why_not((), {"finetune_config": {key: str(sweep / "starts" / "0123")}}) is None
        for path in (sweep / "starts" / "link", sweep / "starts" / "0123" / ".." / ".." / ".." / "private", elsewhere):
            assert trust.why_not((), {"finetune_config": {key: str(path)}}), path
    (sweep / "starts").rename(sweep / "before")
    (sweep / "starts").symlink_to(elsewhere)
    assert trust.why_not((), {"finetune_config": {"model": str(sweep / "starts" / "model")}})


def test_a_running_sweep_does_not_run_a_trial_that_reaches_elsewhere(tmp_path: Path) -> None:
    place, told = Folder(str(tmp_path)), list[str]()
    queue = TrialQueue([], 0, lambda: 9)

    def make(trial: AddedTrial) -> TrialTask:
        return TrialTask(trial.config, trial.trial_id, trial.slug, place, git_commit=None)

    driver = Driver(place, queue, Board(1), {}, make, say=told.append)
    driver.feedback = SimpleNamespace(add=lambda tasks: None, ended=lambda *_: None)  # pyright: ignore
    config = {"seed": 1, "proxy_strategy": "naive", "data": {"truth": {"path": "/home/me/private.jsonl"}}}
    write_added(Control(place), AddedTrial("b" * 16, "naive_c0ffee", config, "0" * 64))
    with driver:
        wait_for(lambda: bool(told), 10)
    assert not queue.known and 'data.truth.path "/home/me/private.jsonl"' in told[0], told
    (event,) = [event for event in read_events(place) if event["event"] == "not_run"]
    assert event["why"] == told[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"plugins": [{"name": "p.py", "source": "x = '\ud800'"}]},
        {"slug": "x\ud800"},
        {"search": {"key": "kl"}},
        {"search": {"key": "kl", "number": "a", "values": {}}},
        {"search": {"key": "kl", "number": 0, "values": 5}},
        {"config": {"proxy_strategy": ["naive"]}},
        {"config": {"seed": 10**300}},
        {"config": {"finetune_config": "x"}},
        {"config": {"finetune_config": {"epochs": "many"}}},
        {"config": {"data": 5}},
    ],
)
def test_a_damaged_file_of_an_added_trial_is_named_and_the_plan_made(
    tmp_path: Path, tiny_model_dir: str, data_files: dict[str, str], wrong: dict[str, Any]
) -> None:
    spec = load_space(write_space(tmp_path, tiny_model_dir, data_files))
    spec = spec.model_copy(update={"storage_path": str(tmp_path / "sweeps")})
    folder = tmp_path / "sweeps" / "tiny" / "control" / "added"
    config = spec.trials[0].config.model_dump(mode="json") | wrong.pop("config", {})
    mark = {"trial_id": "a" * 16, "slug": "naive_c0ffee", "model_hash": "0" * 64, "plugins": [], "search": None}
    folder.mkdir(parents=True)
    (folder / f"{'a' * 16}.json").write_text(json.dumps(mark | {"config": config} | wrong))
    plan = make_plan(spec)
    assert len(plan.to_run) == 6 and f"{'a' * 16}.json is damaged" in plan.warnings[0]
    "\n".join(plan.lines()).encode()


def test_a_request_that_cannot_be_carried_out_holds_up_no_other(tmp_path: Path) -> None:
    place, told = Folder(str(tmp_path)), list[str]()
    queue = TrialQueue([], 0, lambda: 9)

    def make(trial: AddedTrial) -> TrialTask:
        if trial.trial_id == "b" * 16:
            raise KeyError("evals")
        return TrialTask(trial.config, trial.trial_id, trial.slug, place, git_commit=None)

    driver = Driver(place, queue, Board(1), {}, make, say=told.append)
    driver.feedback = SimpleNamespace(add=lambda tasks: None, ended=lambda *_: None)  # pyright: ignore
    for trial_id in ("b" * 16, "c" * 16):
        config = {"seed": 1, "proxy_strategy": "naive"}
        write_added(Control(place), AddedTrial(trial_id, "naive_c0ffee", config, "0" * 64))
    with driver:
        wait_for(lambda: bool(queue.known and told), 10)
    assert queue.known.keys() == {"c" * 16} and told == [
        f"control/added/{'b' * 16}.json cannot be carried out: KeyError: 'evals'"
    ]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("config.finetune_config", None),
        ("config.num_workers", "abc"),
        ("config.proxy_strategy", ["naive"]),
        ("config.control", [1]),
        ("seed", 10**30),
        ("generation", 10**12),
        ("changes", [{}]),
        ("changes", [{"step": 1, "values": {"a": "b"}}]),
        ("timings", {"total_s": float("inf")}),
        ("hardware", {"device": [float("nan")]}),
        ("samples", {"align_test": [{"prompt": float("inf")}]}),
        ("config.x", {"a": [float("inf")]}),
        ("config.x", 10**400),
    ],
)
def test_a_result_that_no_report_can_hold_is_unreadable_and_named(tmp_path: Path, where: str, value: Any) -> None:
    publish(tmp_path, fake_result(seed=1), fake_result(seed=2))
    file = next(tmp_path.glob("*/seed_2/results/*/results.json"))
    content = json.loads(file.read_text())
    *path, leaf = where.split(".")
    functools.reduce(lambda inner, key: inner[key], path, content)[leaf] = value
    file.write_text(json.dumps(content))
    unreadable: list[Any] = []
    ((_, left),) = read_trials(Folder(str(tmp_path)), unreadable=unreadable)
    assert left.seed == 1 and unreadable[0].name.endswith("/seed_2") and where.split(".")[0] in unreadable[0].why
    report = write_report(str(tmp_path))
    assert any("seed_2: its results.json cannot be read" in note for note in report.notes)


@pytest.mark.parametrize(
    "text",
    [
        '{"experiment_config": 5}',
        '{"experiment_config": null}',
        '{"experiment_config": [1]}',
        '{"experiment_config": {"proxy_strategy": ["x"], "seed": "a"}}',
        '{"experiment_config": {"proxy_strategy": "\\ud800", "seed": 1}}',
        '{"experiment_config": {"proxy_strategy": "naive"}, "eval_results": {"task_test": {"loss": [-1e6, -1e9]}}}',
    ],
)
def test_a_file_of_the_first_generation_with_odd_types_is_named(tmp_path: Path, text: str) -> None:
    publish(tmp_path, fake_result(seed=1))
    place = tmp_path / "old" / "seed_2" / "results" / "s"
    place.mkdir(parents=True)
    (place / FILE_NAME).write_text(text)
    unreadable: list[Any] = []
    assert len(read_trials(Folder(str(tmp_path)), unreadable=unreadable)) == 1 and len(unreadable) == 1
    assert commands.main(["status", str(tmp_path)]) == 0


def test_a_lease_of_a_number_that_no_driver_wrote_does_not_hang_the_next_run(tmp_path: Path) -> None:
    control = Control(Folder(str(tmp_path)))
    control.driver.write("999999999999.json", b"{}")
    with claim(control) as lease:
        assert lease.number == 1
    with pytest.raises(StorageError, match="which no driver has written"):
        claim(control, after=MOST)


@pytest.mark.parametrize(
    "change",
    [
        {"seconds_left": 10**400},
        {"every_s": 10**400},
        {"host": "\ud800"},
        {"running": {"a_b/seed_1": {"step": 10**400}}},
    ],
)
def test_live_json_with_odd_numbers_or_half_a_character_is_no_traceback(tmp_path: Path, change: dict[str, Any]) -> None:
    publish(tmp_path, fake_result(seed=1))
    live = {"updated_at": "2999-01-01T00:00:00+00:00", "pid": 1, "running": {}} | change
    with claim(Control(Folder(str(tmp_path)))):  # so that the sweep counts as driven, and is not waited for
        (tmp_path / "control" / LIVE).write_text(json.dumps(live))
        assert commands.main(["status", str(tmp_path)]) in (0, 1)


def test_an_estimate_or_event_with_infinity_or_without_a_zone_stops_no_report(tmp_path: Path) -> None:
    results = [fake_result(seed=1), fake_result(seed=2)]
    publish(tmp_path, *results)
    kind = {"label": "a", "strategy": "naive", "trials": {one.trial_id: float("inf") for one in results}}
    estimate = {"at": "2026-01-01", "kinds": [kind], "places": 1, "gpus": 0, "cpus": 1}
    (tmp_path / "control").mkdir(exist_ok=True)
    events = [("sweep_started", "2026-01-02T00:00:00"), ("sweep_ended", "2026-01-02T01:00:00+00:00")]
    (tmp_path / "events.jsonl").write_text("\n".join(json.dumps({"event": e, "at": at}) for e, at in events))
    for seconds in (float("inf"), 1.0):
        kind["trials"] = {one.trial_id: seconds for one in results}
        (tmp_path / "control" / "estimate.json").write_text(json.dumps(estimate))
        assert "index.html" in write_report(str(tmp_path)).paths
