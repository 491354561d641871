"""A sweep on a real autoscaler of Ray, which starts real nodes on this machine when trials wait."""

from __future__ import annotations

import copy
import subprocess

import pytest
import yaml
from clusters import RAY
from running import environment, free_port, kill_9, results, sweep, tree, wait_for, write_space

pytestmark = [pytest.mark.ray, pytest.mark.by_hand]
# Ray's own stand-in for a cloud: its machines are raylets of this one
CONFIG = {
    "cluster_name": "growing",
    "max_workers": 8,
    "upscaling_speed": 10.0,
    "idle_timeout_minutes": 1,
    "provider": {"type": "fake_multinode", "disable_node_updaters": True, "disable_launch_config_check": True},
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    **{f"{when}_commands": [] for when in ("initialization", "setup", "head_setup", "worker_setup")},
    **{f"{node}_start_ray_commands": [] for node in ("head", "worker")},
}


@pytest.fixture
def growing(tmp_path):
    """The environment of a cluster whose head has no CPU; up to two nodes with CPUs and a (declared) GPU can come."""
    config = copy.deepcopy(CONFIG)
    port = free_port()
    config["provider"]["gcs_address"] = f"127.0.0.1:{port}"
    env = environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_FAKE_CLUSTER": "1"}
    env |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    (tmp_path / "autoscaling.yaml").write_text(yaml.safe_dump(config))
    command = [RAY, "start", "--head", f"--port={port}", "--num-cpus=0", "--object-store-memory=200000000", "--block"]
    command += [f"--autoscaling-config={tmp_path / 'autoscaling.yaml'}", "--include-dashboard=false"]
    head = subprocess.Popen(command, env=env, cwd=tmp_path)
    address = f"127.0.0.1:{port}"
    try:
        status = [RAY, "status", "--address", address]
        wait_for(lambda: subprocess.run(status, env=env, capture_output=True).returncode == 0)
        yield env | {"RAY_ADDRESS": address}
    finally:
        kill_9(tree(head))
        head.wait()


def test_gpu_nodes_come_from_nothing_when_trials_wait(growing, tmp_path, tiny_model_dir, data_files):
    refused = sweep(write_space(tmp_path, tiny_model_dir, data_files, resources={"gpus": 1}), env=growing)
    assert refused.returncode == 2 and "resources.autoscaling: true" in refused.stderr, refused.stdout
    space = write_space(tmp_path, tiny_model_dir, data_files, resources={"gpus": 1, "autoscaling": True})
    done = sweep(space, env=growing)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(results(tmp_path)) == 6
    events = (tmp_path / "sweeps" / "tiny" / "events.jsonl").read_text()
    assert events.count('"node_joined"') == 2, events
