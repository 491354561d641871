"""`selgen doctor`: each kind of problem is found, and no secret is printed."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections import namedtuple
from importlib import metadata
from types import SimpleNamespace

import pytest
import requests
import yaml
from huggingface_hub import constants

from selgen_ray.space import load_space
from selgen_ray.storage import Folder
from selgen_ray.sweep import arguments, doctor
from selgen_ray.sweep.doctor import DONE, PROBLEM

Usage = namedtuple("Usage", "total used free")
SECRET = "tell-nobody-0123456789"


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine with no cluster and no credentials but those of the tests' S3, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", *(name for name in doctor._KNOWN_SECRETS if not name.startswith("AWS_"))):
        monkeypatch.delenv(name, raising=False)


def space(tmp_path, model="toy", storage="./sweeps", evals=None, finetune=None, **more):
    base = {"finetune_config": {"model": model, **(finetune or {})}, **({"evals": evals} if evals else {})}
    base |= {} if model == "toy" else {"data": {"world": "toy"}}
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump({"storage_path": storage, "base": base, "strategies": {"naive": {}}} | more))
    return load_space(path)


def levels(findings):
    return [finding.level for finding in findings]


def problems(findings):
    """What is wrong, and what to do, of each finding that is not ok."""
    return [f"{one.text} -> {one.remedy}" for one in findings if one.level != "ok"]


def test_every_check_has_its_name_in_the_options():
    assert tuple(doctor.CHECKS) == arguments.LOOKED_AT


def test_python_and_packages(monkeypatch):
    assert levels(doctor.check_python(None)) == ["ok", "ok"]
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.1")
    monkeypatch.setattr(
        metadata, "requires", lambda _: ["numpy>=99", "selgen-nowhere>=1", 'boto3>=99; extra == "test"']
    )
    old, packages = problems(doctor.check_python(None))
    assert old.startswith("Python 3.9.1; supported: >=3.11 -> ")
    assert "numpy" in packages and "supported: >=99" in packages and "selgen-nowhere is missing" in packages
    assert "boto3" not in packages and "constraints.txt" in packages


def test_gpus_that_pytorch_cannot_use(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(doctor, "num_gpus_of_driver", lambda: 0)
    assert levels(doctor.check_gpus(None)) == ["ok"]
    (asked,) = problems(doctor.check_gpus(space(tmp_path, resources={"gpus": 1})))
    assert "asks for GPUs, and this machine has none" in asked and "RAY_ADDRESS" in asked
    monkeypatch.setattr(doctor, "num_gpus_of_driver", lambda: 2)
    (build,) = problems(doctor.check_gpus(None))
    assert "nvidia-smi lists 2 GPUs, which PyTorch cannot use" in build and "install PyTorch's build" in build


@pytest.mark.parametrize(
    ("free", "computes", "level"), [(70, True, "ok"), (10, True, "warning"), (70, False, "problem")]
)
def test_gpus_that_are_busy_or_too_new(free, computes, level, monkeypatch):
    def ones(*_, device):
        if not computes:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        return SimpleNamespace(matmul=lambda _: SimpleNamespace(sum=lambda: SimpleNamespace(item=lambda: 512.0)))

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "H200")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (free * 2**30, 80 * 2**30))
    monkeypatch.setattr("torch.ones", ones)
    (finding,) = doctor.check_gpus(None)
    assert finding.level == level and "H200" in finding.text and bool(finding.remedy) == (level != "ok")


def test_memory_shm_and_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "memory_available", lambda: 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(64 * 2**20, 0, 64 * 2**20))
    memory, shm, disk = doctor.check_memory(None)
    assert (memory.level, shm.level, disk.level) == ("warning", "warning", "problem")
    assert "max_concurrent" in memory.remedy and "--shm-size" in shm.remedy and "RAY_TMPDIR" in disk.remedy
    monkeypatch.setattr(doctor, "memory_available", lambda: 2**40)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(2**40, 0, 2**40))
    assert levels(doctor.check_memory(None)) == ["ok", "ok", "ok"]


def test_the_limit_of_a_container_counts(tmp_path):
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    cgroup.mkdir()
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable: 50 kB\n")
    assert doctor.memory_available(meminfo, cgroup) == 50 * 1024
    (cgroup / "memory.max").write_text("30000")
    (cgroup / "memory.current").write_text("10000")
    assert doctor.memory_available(meminfo, cgroup) == 20000
    (cgroup / "memory.max").write_text("max")
    assert doctor.memory_available(meminfo, cgroup) == 50 * 1024


def test_ports(monkeypatch):
    monkeypatch.setattr(doctor, "answers", lambda host, port: port == 6379)
    (other,) = problems(doctor.check_ports(None))
    assert "RAY_ADDRESS=127.0.0.1:6379 joins it" in other
    monkeypatch.undo()
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        port = head.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        (silent,) = problems(doctor.check_ports(None))
        assert f"nothing answers at RAY_ADDRESS 127.0.0.1:{port}" in silent and "firewall" in silent
        head.listen()
        assert levels(doctor.check_ports(None)) == ["ok"]
    monkeypatch.setenv("RAY_ADDRESS", "head")
    assert "is no host:port" in problems(doctor.check_ports(None))[0]


def test_storage_is_tried_and_nothing_is_left(tmp_path):
    assert levels(doctor.check_storage(None)) == ["ok", "ok"]
    assert list(tmp_path.iterdir()) == []


def test_storage_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (finding,) = problems(doctor.check_storage(space(tmp_path, storage="./file")))
    assert "file" in finding and "another storage_path" in finding
    monkeypatch.setattr(Folder, "create", lambda *_: True)
    (twice,) = problems(doctor.check_storage(None))
    assert "was created again" in twice and "one at a time" in twice
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Folder, "read", lambda *_: b"other")
    (other,) = problems(doctor.check_storage(None))
    assert "is not what is read" in other
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    (shared,) = problems(doctor.check_storage(None))
    assert "every node must see this folder" in shared


def test_an_object_store(s3_uri, tmp_path):
    assert levels(doctor.check_storage(space(tmp_path, storage=s3_uri))) == ["ok", "ok"]
    (finding,) = problems(doctor.check_storage(space(tmp_path, storage=s3_uri.replace("//lab/", "//nowhere/"))))
    assert "nowhere" in finding and "check the bucket" in finding


@pytest.mark.parametrize(("ahead", "level"), [(0.5, "ok"), (20.0, "warning"), (-900.0, "problem")])
def test_clocks(ahead, level):
    (finding,) = doctor.clock_findings("storage's", ahead)
    assert finding.level == level
    if level != "ok":
        assert f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's" in finding.text
        assert "NTP" in finding.remedy


def test_credentials_are_asked_for_and_never_printed(tmp_path, monkeypatch, capsys):
    spec = space(tmp_path, evals={"judge": {"model": "gpt-x", "api_key_env": "MY_JUDGE_KEY"}})
    (judge,) = problems(doctor.check_credentials(spec))
    assert "MY_JUDGE_KEY is not set" in judge and "export MY_JUDGE_KEY=" in judge
    for name in ("MY_JUDGE_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    skipped = [word for name in arguments.LOOKED_AT if name != "credentials" for word in ("--skip", name)]
    assert doctor.main(["space.yaml", *skipped]) == DONE
    told = capsys.readouterr().out
    assert "set in the environment: HF_TOKEN" in told and SECRET not in told


def test_a_push_needs_a_token(tmp_path, monkeypatch):
    spec = space(tmp_path, finetune={"push_to_hub": True})
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (finding,) = problems(doctor.check_credentials(spec))
    assert "no token of the hub" in finding and "HF_TOKEN" in finding


def test_the_hub(tmp_path, monkeypatch):
    spec = space(tmp_path, model="lab/not-here")
    (offline,) = problems(doctor.check_hub(spec))  # the tests set HF_HUB_OFFLINE
    assert "lab/not-here" in offline and "unset HF_HUB_OFFLINE" in offline
    assert levels(doctor.check_hub(None)) == ["ok"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        (away,) = doctor.check_hub(None)
        assert away.level == "warning" and "cannot be reached (ConnectionError)" in away.text
        assert next(doctor.check_hub(spec)).level == "problem"
    monkeypatch.setattr(
        requests, "head", lambda *_, **__: SimpleNamespace(headers={"Date": "Mon, 01 Jan 2024 00:00:00 GMT"})
    )
    answers, clock = doctor.check_hub(None)
    assert answers.level == "ok" and clock.level == "problem" and "the hub's clock is" in clock.text


def node(**different):
    versions = {
        "Python": doctor.platform.python_version(),
        **{n: doctor._version(n) for n in ("ray", "selgen-ray", "torch")},
    }
    return {"host": "lab1", "gpus": 1.0, "versions": versions, "sees": True, "clock_s": 0.1} | different


@pytest.mark.parametrize(
    ("different", "told"),
    [
        ({}, None),
        ({"versions": node()["versions"] | {"ray": "2.50.0"}}, "node lab1 has ray 2.50.0 (here "),
        ({"versions": node()["versions"] | {"selgen-ray": None}}, "node lab1 has selgen-ray missing (here "),
        ({"sees": False}, "node lab1 does not see storage_path -> a shared folder"),
        ({"clock_s": 30.0}, "the node lab1's clock is 30 s ahead of this machine's"),
        ({"error": "its worker died"}, "node lab1 runs nothing: its worker died"),
    ],
)
def test_nodes_of_a_cluster(different, told):
    found = list(doctor.ray_findings({"version": "2.60.0", "address": "head:6379", "nodes": [node(**different)]}))
    assert found[0].level == "ok" and "joined head:6379, 1 node, 1 GPUs" in found[0].text
    assert len(problems(found)) == bool(told) and (told or "") in "".join(problems(found))


def test_a_cluster_of_another_version_and_one_that_is_away(monkeypatch):
    mismatch = "Version mismatch: The cluster was started with: Ray: 2.50.0 Python: 3.11.2"
    (finding,) = doctor.ray_findings({"version": "2.60.0", "error": mismatch})
    assert finding.level == "problem" and "install the cluster's versions" in finding.remedy
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    (finding,) = doctor.ray_findings({"version": "2.60.0", "error": "nothing there"})
    assert "ray status" in finding.remedy and "RAY_AUTH_MODE=token" in finding.remedy


def test_a_ray_that_hangs_or_breaks_is_ended(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(doctor.sys, "executable", str(program))
    begun = time.monotonic()
    (hangs,) = problems(doctor.check_ray(None, timeout_s=0.2))
    assert "did not answer within 0.2 s" in hangs and time.monotonic() - begun < 20
    program.write_text("#!/bin/sh\necho 'ModuleNotFoundError: ray' >&2\nexit 1\n")
    (breaks,) = problems(doctor.check_ray(None))
    assert "ModuleNotFoundError: ray" in breaks


def test_a_check_that_hangs_or_raises_does_not_end_the_others():
    ended = threading.Event()

    def hangs(_):
        yield doctor.Finding("ok", "begun")
        ended.wait()

    def raises(_):
        yield from ()
        raise ValueError("odd")

    begun, late = doctor.bounded(hangs, None, 0.05)
    ended.set()
    assert begun.level == "ok" and late.level == "problem" and "no answer within 0.05 s" in late.text
    (odd,) = doctor.bounded(raises, None, 5.0)
    assert odd.level == "problem" and "ValueError: odd" in odd.text


def test_the_exit_status_and_what_is_printed(tmp_path, capsys):
    skipped = [word for name in arguments.LOOKED_AT if name != "storage" for word in ("--skip", name)]
    assert doctor.main(skipped) == DONE
    told = capsys.readouterr().out
    assert told.startswith(f"ok       storage      {tmp_path}/sweeps: writes, reads, lists, creates once and deletes")
    assert told.endswith("0 warnings, 0 problems\n")
    (tmp_path / "space.yaml").write_text("strategies: {navie: {}}\n")
    assert doctor.main(["space.yaml", *skipped]) == PROBLEM
    told = capsys.readouterr().out
    assert "Did you mean 'naive'?" in told and "1 problem\n" in told and "ok       storage" in told
