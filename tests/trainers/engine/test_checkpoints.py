"""Checkpoints: written while the training goes on, never fewer whole ones than promised, no error of the training."""

import hashlib
import json
import resource
import threading

import pytest
import torch
from runs import Stop, comparable, run, same

from selgen_ray.storage import Folder, retries
from selgen_ray.trainers import get_trainer
from selgen_ray.trainers.engine.checkpoints import Checkpoint, Checkpoints

released = threading.Event()


class HeldFolder(Folder):
    """A local folder that publishes nothing before `released` is set: a storage that is slow."""

    def __truediv__(self, name):
        return HeldFolder(self.location, f"{self.inside}/{name}".strip("/"))

    def publish(self, files):
        assert released.wait(20), "nobody went on"
        super().publish(files)


@pytest.fixture
def events():
    return []


@pytest.fixture
def checkpoints(tmp_path, events):
    return Checkpoints(Folder(str(tmp_path / "checkpoints")), 2, events.append)


def checkpoint(step, size=3):
    return Checkpoint(step, {"w": torch.full((3,), float(step))}, {"lr": [0.1] * size}, {"note": step})


def save(checkpoints, *steps, **options):
    for step in steps:
        checkpoints.save(checkpoint(step, **options))
    checkpoints.flush()


def damage(place, step):
    weights = place / f"step_{step:08d}" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])


def names(*steps):
    return [f"step_{step:08d}" for step in steps]


def test_training_goes_on_while_a_checkpoint_is_written_and_it_is_of_its_step(make_config, tmp_path):
    config = make_config("kl_divergence", beta_kl=2.0, is_peft=False, save_steps=2, logging_steps=1)
    whole, record, _ = run(config)
    released.clear()
    checkpoints = Checkpoints(HeldFolder(str(tmp_path)), keep=2)
    weights = {}

    def on_progress(line):
        weights[line["step"]] = {n: p.detach().clone() for n, p in trainer.parameters.items()}
        if line["step"] == 3:
            assert checkpoints.folder.folders() == []
            released.set()
            raise Stop

    trainer = get_trainer("kl_divergence")(config, checkpoints=checkpoints, on_progress=on_progress)
    with pytest.raises(Stop):
        trainer.train()
    trainer.close()
    found = checkpoints.newest()
    assert found.step == 2 and not same(weights[2], weights[3])
    assert same(found.weights, weights[2])
    resumed, resumed_record, _ = run(config, checkpoints)  # so optimizer, schedule and sums are of step 2 as well
    assert same(whole, resumed)
    assert comparable(record) == comparable(resumed_record)


def test_a_state_that_changes_after_the_call_is_saved_as_it_was(tmp_path):
    released.clear()
    checkpoints = Checkpoints(HeldFolder(str(tmp_path)), keep=2)
    tensor, moment, losses = torch.ones(3), torch.ones(2), [1.0]
    checkpoints.save(Checkpoint(1, {"w": tensor}, {"state": {0: {"exp_avg": moment}}}, {"losses": losses}))
    tensor.zero_(), moment.zero_(), losses.append(2.0)
    released.set()
    checkpoints.flush()
    found = checkpoints.newest()
    assert found.weights["w"].tolist() == [1.0] * 3 and found.state == {"losses": [1.0]}
    assert found.optimizer["state"][0]["exp_avg"].tolist() == [1.0] * 2


def test_a_folder_that_cannot_be_written_does_not_end_the_training(make_config, tmp_path, events):
    checkpoints = Checkpoints(Folder(str(tmp_path / "checkpoints")), 2, events.append)
    config = make_config(save_steps=4)

    def break_it(_):
        (tmp_path / "checkpoints").write_text("a file where the folder should be")

    weights, record, _ = run(config, checkpoints, on_progress=break_it)
    plain, plain_record, _ = run(config)
    assert same(weights, plain) and comparable(record) == comparable(plain_record)
    assert [(e["event"], e["step"]) for e in events] == [("checkpoint_failed", step) for step in (4, 8, 12)]
    assert str(tmp_path / "checkpoints") in events[0]["why"]


def test_after_a_full_disk_the_next_checkpoint_is_written_and_no_half_one_stays(checkpoints, events, monkeypatch):
    monkeypatch.setattr(retries, "RETRY_FOR_S", 0.0)
    save(checkpoints, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # weights fit, the optimizer's state does not
    try:
        save(checkpoints, 2, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoints.folder.folders() == names(1)
    assert [(e["event"], e["step"]) for e in events] == [("checkpoint_failed", 2)]
    save(checkpoints, 3, size=100_000)
    assert checkpoints.folder.folders() == names(1, 3)
    assert checkpoints.newest().step == 3


def test_only_whole_checkpoints_count_and_exactly_so_many_stay(checkpoints, tmp_path):
    save(checkpoints, 1, 2, 3)
    assert checkpoints.folder.folders() == names(2, 3)
    for step in (4, 5):  # their writing was cut off
        (tmp_path / "checkpoints" / f"step_{step:08d}").mkdir()
        (tmp_path / "checkpoints" / f"step_{step:08d}" / "weights.safetensors").write_bytes(b"half")
    again = Checkpoints(checkpoints.folder, 2)
    assert again.newest().step == 3
    save(again, 4)
    assert again.newest().step == 4
    assert len(list((tmp_path / "checkpoints").glob("*/manifest.json"))) == 2
    save(again, 5, 6)
    assert again.folder.folders() == names(5, 6)
    (tmp_path / "checkpoints" / "step_00000007").mkdir()  # nobody looked at this one
    (tmp_path / "checkpoints" / "step_00000007" / "weights.safetensors").write_bytes(b"half")
    save(again, 8)
    assert again.folder.folders() == names(6, 8)


def test_an_object_store_keeps_them_too(s3_uri):
    checkpoints = Checkpoints(Folder(s3_uri, "checkpoints"), 2)
    save(checkpoints, 1, 2, 3)
    assert checkpoints.folder.folders() == names(2, 3)
    assert checkpoints.newest().step == 3


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_does_not_push_it_out(
    checkpoints, tmp_path, events, caplog
):
    save(checkpoints, 1, 2, 5)
    damage(tmp_path / "checkpoints", 5)
    again = Checkpoints(checkpoints.folder, 2, events.append)
    found = again.newest()
    assert (found.step, found.weights["w"].tolist(), found.state) == (2, [2.0, 2.0, 2.0], {"note": 2})
    assert [(e["event"], e["step"]) for e in events] == [("checkpoint_unusable", 5)]
    assert "step_00000005" in events[0]["why"] and "weights.safetensors" in events[0]["why"]
    assert "step_00000005" in caplog.text
    save(again, 3)
    assert again.folder.folders() == names(2, 3)
    save(again, 4, 5)
    assert again.folder.folders() == names(4, 5)
    assert again.newest().step == 5


def test_when_none_can_be_used_the_run_starts_anew_and_says_so(make_config, tmp_path, events):
    config = make_config(save_steps=3)
    folder = Folder(str(tmp_path))
    with pytest.raises(Stop):
        run(config, Checkpoints(folder, keep=2), 8)
    for step in (3, 6):
        damage(tmp_path, step)
    again, record, num_resumes = run(config, Checkpoints(folder, 2, events.append))
    plain, plain_record, _ = run(config)
    assert same(again, plain) and comparable(record) == comparable(plain_record) and num_resumes == 0
    assert [(e["event"], e["step"]) for e in events] == [("checkpoint_unusable", step) for step in (6, 3, 0)]
    assert "starting from the first step" in events[-1]["why"]
    assert folder.folders() == names(9, 12)


def test_a_whole_checkpoint_is_never_written_over(checkpoints, tmp_path):
    save(checkpoints, 1)
    first = (tmp_path / "checkpoints" / "step_00000001" / "manifest.json").stat()
    checkpoints.keep = 3
    save(checkpoints, 1)
    assert (tmp_path / "checkpoints" / "step_00000001" / "manifest.json").stat() == first
    assert checkpoints.folder.folders() == ["step_00000001", "step_00000001-02"]
    assert checkpoints.newest().step == 1


def test_a_checkpoint_without_its_manifest_does_not_exist(checkpoints, tmp_path):
    save(checkpoints, 1)
    (tmp_path / "checkpoints" / "step_00000001" / "manifest.json").unlink()
    assert checkpoints.newest() is None
    assert Checkpoints(Folder(str(tmp_path / "nowhere")), keep=2).newest() is None


def test_a_pickle_that_runs_code_is_refused(checkpoints, tmp_path, events):
    save(checkpoints, 1)

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    place = tmp_path / "checkpoints" / "step_00000001"
    torch.save(Evil(), place / "optimizer.pt")
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["optimizer.pt"] = hashlib.sha256((place / "optimizer.pt").read_bytes()).hexdigest()
    (place / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoints.newest() is None
    assert "Weights only load failed" in events[0]["why"]
    assert not (tmp_path / "owned").exists()
