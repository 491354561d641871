"""docker/cluster.yaml, by Ray's own checks, and its commands on this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from clusters import RAY
from ray.autoscaler._private.util import prepare_config, validate_config
from running import environment, free_port, kill_9, tree, wait_for

import selgen_ray
from selgen_ray.space import Resources

FILE = Path(__file__).parents[2] / "docker" / "cluster.yaml"
TEXT = FILE.read_text(encoding="utf-8")


@pytest.fixture
def config():
    return yaml.safe_load(TEXT)


def test_ray_takes_it(config):
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu-spot"]["max_workers"] == 8


def test_a_misspelt_key_would_be_found(config):
    config["idle_timeout_minute"] = 5
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config(config))


def test_it_holds_no_secret_and_opens_no_port(config):
    assert not re.search("(?i)aws_|password|secret_|ssh_private_key", TEXT)
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    (start,) = [command for command in config["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert not any("SecurityGroup" in str(node) for node in config["available_node_types"].values())


def test_trials_get_gpus_from_nothing_and_never_run_beside_the_head(config):
    kinds = config["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    spot = [name for name, kind in kinds.items() if "InstanceMarketOptions" in kind["node_config"]]
    assert spot == ["gpu-spot"], "the head is never taken away"
    assert all(kind["resources"]["GPU"] and kind["min_workers"] == 0 for name, kind in kinds.items() if name != "head")
    assert config["docker"]["image"].endswith(f":{selgen_ray.__version__}-cuda")
    (said,) = re.findall(r"`resources: (\{.*?\})`", TEXT)
    assert Resources(**yaml.safe_load(said)) == Resources(gpus=1, autoscaling=True)


@pytest.mark.ray
@pytest.mark.by_hand
def test_its_commands_start_a_head_and_a_worker(config, tmp_path):
    port = free_port()
    env = environment() | {"HOME": str(tmp_path), "RAY_HEAD_IP": "127.0.0.1", "RAY_AUTH_MODE": "token"}
    env |= {"RAY_AUTH_TOKEN": "0" * 64, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(config))
    started = []
    try:
        for command in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
            # the port is another's, perhaps; the autoscaler would look for AWS
            here = command.replace("6379", str(port)).replace("--autoscaling-config=~/ray_bootstrap_config.yaml", "")
            line = f"{here} --block --object-store-memory=200000000"
            started.append(subprocess.Popen(["bash", "-c", line], env=env, cwd=tmp_path))
            wait_for(lambda: nodes_of(port, env) == len(started))
    finally:
        for process in started:
            kill_9(tree(process))


def nodes_of(port: int, env: dict[str, str]) -> int:
    """How many nodes the cluster has."""
    status = [RAY, "status", "--address", f"127.0.0.1:{port}"]
    return subprocess.run(status, env=env, capture_output=True, text=True).stdout.count("node_")
