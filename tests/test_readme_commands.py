"""Every command of the README, executed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
from importlib import import_module
from pathlib import Path

import psutil
import pytest
from clusters import RAY
from running import environment, free_port, results, start, sweep, wait_for, write_space

import selgen_ray

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [block.splitlines() for block in re.findall(r"```bash\n(.*?)```", README, re.S)]
COMMANDS = [re.sub(r"\s+# .*", "", line) for block in BLOCKS for line in block if not line.startswith("#")]
# what stands in the sweep's own words, or in a file, once a command is done
LEAVES = {
    "selgen_ray.import_config experiments/my_exp --seeds 1 5 42 -o space.yaml": "space.yaml",
    "selgen_ray.import_config --results experiments/my_exp sweeps/my_sweep": "sweeps/my_sweep/old_*/seed_1",
    "selgen_ray.report sweeps/my_sweep": "sweeps/my_sweep/report/index.html",
    "selgen_ray.report sweeps/my_sweep --watch": "sweeps/my_sweep/report/index.html",
    "selgen_ray.report sweeps/my_sweep --export my_set": "my_set/README.md",
}
SAYS = {  # in the README's order, while the sweep runs
    "status sweeps/my_sweep": "running",
    "stop sweeps/my_sweep kl_divergence_beta_kl-10_b82aad/seed_1": "kl_divergence_beta_kl-10_b82aad/seed_1",
    "stop sweeps/my_sweep --all": "asked the sweep to end",
    "retry sweeps/my_sweep --failed": "",
    'rm sweeps/my_sweep "dpo_*"': "dpo_",
    "add sweeps/my_sweep more.yaml": "1 ",
}
HOSTS = next(block for block in BLOCKS if "# on host1" in block)
STRATEGIES = {"naive": {}, "kl_divergence": {"grid": {"finetune_config.beta_kl": [1.0, 10.0]}}, "dpo": {}}
CONTRIBUTING = next(block for block in BLOCKS if any("[dev]" in line for line in block))
ELSEWHERE = {  # .ci/run runs the tests' own command, and those below by hand
    *(command for command in COMMANDS if ".venv/bin/pip install" in command),
    *(re.sub(r"\s+# .*", "", line) for line in HOSTS),
    *(re.sub(r"\s+# .*", "", line) for line in CONTRIBUTING),
    "ray job submit --working-dir . -- python -m selgen_ray.sweep space.yaml",  # test_job_submit.py
}


def test_no_command_is_left_out():
    known = {f"python -m {command}" for command in LEAVES} | {f"python -m selgen_ray.sweep {c}" for c in SAYS}
    assert {command for command in COMMANDS if command not in ELSEWHERE} == known


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_dir, data_files, joined):
    """What the README's commands name: a search space, its sweep, another one's trial, a first-generation folder."""
    folder = tmp_path_factory.mktemp("reader")
    write_space(folder, tiny_model_dir, data_files, name="my_sweep", seeds=[1], strategies=STRATEGIES)
    done = sweep(folder / "space.yaml", env=joined)
    assert done.returncode == 0, done.stdout + done.stderr
    old = folder / "experiments" / "my_exp"
    (old / "seed_1").mkdir(parents=True)
    config = {"finetune_config": {"model": tiny_model_dir, "epochs": 1}, "proxy_strategy": "kl_divergence"}
    (old / "config.json").write_text(json.dumps(config))
    (old / "attributes_to_vary.json").write_text(json.dumps([{"finetune_config": {"beta_kl": 3}}]))
    result = {"experiment_config": config | {"seed": 1}, "timestamp": "20250102_030405", "train_losses": [3.0, 2.0]}
    result["eval_results"] = {"task_test": {"loss": [3.0, 2.0]}, "align_test": {"loss": [4.0, 3.0]}}
    (old / "seed_1" / "results.json").write_text(json.dumps(result))
    (folder / "space.yaml").unlink()
    return folder


def execute(command: str, folder: Path) -> tuple[int, str]:
    """`python -m ...` in this process: to import PyTorch anew takes longer than most commands."""
    _, _, module, *args = shlex.split(command)
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = import_module(module).main(args)
    return status, out.getvalue()


@pytest.mark.ray
@pytest.mark.parametrize("command", LEAVES)
def test_it_leaves_what_it_says(command, folder):
    status, told = execute(f"python -m {command}", folder)
    assert status == 0, told
    assert list(folder.glob(LEAVES[command])), told


@pytest.mark.ray
def test_they_steer_a_sweep(tmp_path, tiny_model_dir, data_files, joined):
    slow = {"epochs": 300, "save_steps": 50, "logging_steps": 50, "max_to_eval": 1, "max_new_tokens": 1}
    space = write_space(tmp_path, tiny_model_dir, data_files, slow, name="my_sweep", seeds=[1], strategies=STRATEGIES)
    process = start(space, joined)
    folder = tmp_path / "sweeps" / "my_sweep"
    wait_for(lambda: (folder / "control" / "live.json").exists() or process.poll() is not None)
    wait_for(lambda: '"started"' in (folder / "events.jsonl").read_text())
    (tmp_path / "more").mkdir()
    more = {"naive": {"fixed": {"finetune_config.epochs": 1}}}
    write_space(tmp_path / "more", tiny_model_dir, data_files, name="my_sweep", seeds=[1], strategies=more)
    (tmp_path / "more" / "space.yaml").rename(tmp_path / "more.yaml")
    for command, word in SAYS.items():
        if command.startswith("stop") and command.endswith("seed_1"):
            trials = json.loads((folder / "control" / "plan.json").read_text())["trials"].values()
            (word,) = (name for name in trials if "beta_kl-10" in name)  # its last digits depend on the settings
            command = f"stop sweeps/my_sweep {word}"
        if command.startswith("rm"):
            process.communicate(timeout=60)  # `stop --all` has ended it
            command += " --yes"  # nobody answers its question here
        status, told = execute(f"python -m selgen_ray.sweep {command}", tmp_path)
        assert (status, word in told) == (0, True), f"{command}: {told}"
    assert process.returncode == 1


@pytest.mark.ray
@pytest.mark.by_hand
def test_two_hosts(tmp_path, tiny_model_dir, data_files):
    """Each with a home of its own; a host is a process here, and `scp` a copy."""
    homes, port = {name: tmp_path / name for name in ("host1", "host2")}, free_port()
    space = write_space(tmp_path, tiny_model_dir, data_files)
    (tmp_path / "scp").write_text('#!/bin/sh\ncp "$(echo "$1" | sed "s#:#/#; s#^#$HOSTS/#")" "$2"\n')
    (tmp_path / "scp").chmod(0o755)
    env = environment() | {"PATH": f"{tmp_path}:{Path(RAY).parent}:{os.environ['PATH']}", "HOSTS": str(tmp_path)}
    parts = re.split(r"^# on (host\d)$", "\n".join(HOSTS), flags=re.M)[1:]
    exports: dict[str, str] = {"host1": "", "host2": ""}
    try:
        for host, text in zip(parts[::2], parts[1::2], strict=True):
            homes[host].mkdir(exist_ok=True)
            script = text.replace("host1:6379", f"127.0.0.1:{port}").replace("port=6379", f"port={port} --num-cpus=1")
            done = subprocess.run(
                ["bash", "-euc", exports[host] + script],
                env=env | {"HOME": str(homes[host])},
                cwd=space.parent,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            exports[host] += "".join(line + "\n" for line in script.splitlines() if line.startswith("export "))
    finally:
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("HOSTS") == str(tmp_path):
                process.kill()
    assert len(results(tmp_path)) == 6
    nodes = (tmp_path / "sweeps" / "tiny" / "events.jsonl").read_text()
    assert nodes.count('"completed"') >= 6


def test_ruff_finds_nothing():
    (line,) = (line for line in CONTRIBUTING if line.startswith("ruff"))
    done = bash(line.removesuffix(" && pyright"))
    assert done.returncode == 0, done.stdout


@pytest.mark.by_hand
def test_pyright_finds_nothing():
    assert any(line.endswith("&& pyright") for line in CONTRIBUTING)
    done = bash("pyright")
    assert done.returncode == 0, done.stdout


def bash(line: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PATH": f"{Path(RAY).parent}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-euc", line], cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.ray
@pytest.mark.by_hand
@pytest.mark.parametrize("command", [command for command in COMMANDS if "quickstart" in command])
def test_the_quickstart_as_it_stands(command, tmp_path):
    """A clean clone, a new environment, the one command: many minutes."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(["bash", "-euc", command], cwd=tmp_path / "clone", env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "33 completed" in done.stdout


def test_messages_of_the_troubleshooting_table_are_those_of_the_code():
    table = README[README.index("## Troubleshooting") : README.index("## Contributing")]
    shown = re.findall(r"^\| (?:a flag )?`([^`]+)`", table, re.M)
    assert len(shown) >= 14
    package = Path(selgen_ray.__file__).parent
    code = "".join(path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py")))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # literals that go on in the next line
    for message in shown:
        for part in re.split(r"\.\.\.|'[^']*'", message):
            words = part.strip(" :?")
            if words and "by Ray" not in table.split(message)[1][:20]:
                assert words in code, words
