"""Every command of the guides, executed; what cannot be executed here is parsed and held against what it names."""

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
import yaml
from clusters import RAY
from guides import GUIDES, ROOT, bash, blocks, commands
from running import environment, free_port, results, start, sweep_on, wait_for, write_space

import selgen_ray
from selgen_ray.sweep.doctor import check_ray

COMMANDS = bash()
# command -> a file that is there once it is done
LEAVES = {
    "selgen_ray.import_config experiments/my_exp --seeds 1 5 42 -o space.yaml": "space.yaml",
    "selgen_ray.import_config --results experiments/my_exp sweeps/my_sweep": "sweeps/my_sweep/old_*/seed_1",
    "selgen_ray.report sweeps/my_sweep": "sweeps/my_sweep/report/index.html",
    "selgen_ray.report sweeps/my_sweep --watch": "sweeps/my_sweep/report/index.html",
    "selgen_ray.report sweeps/my_sweep --export my_set": "my_set/README.md",
}
SAYS = {  # in the guide's order, while the sweep runs
    "status sweeps/my_sweep": "running",
    "stop sweeps/my_sweep kl_divergence_beta_kl-10_b82aad/seed_1": "kl_divergence_beta_kl-10_b82aad/seed_1",
    "stop sweeps/my_sweep --all": "asked the sweep to end",
    "retry sweeps/my_sweep --failed": "",
    'rm sweeps/my_sweep "dpo_*"': "dpo_",
    "add sweeps/my_sweep more.yaml": "beta_kl 3.0 (the sweep: 1.0, 10.0)",
    "add sweeps/my_sweep --seeds 4 5 6 --strategies dpo,naive": "seed 6 (the sweep: 1)",
    "add sweeps/my_sweep --from kl_divergence_beta_kl-10_b82aad/seed_1 --set finetune_config.beta_kl=30": "beta_kl 30",
}
TRIAL = "kl_divergence_beta_kl-10_b82aad/seed_1"  # its last digits depend on the settings
SHOWS = {  # in the repository's root
    "selgen_ray.strategies": "representation_constraint",
    "selgen_ray.strategies show dpo": "lambda_dpo",
    "selgen_ray.sweep search_spaces/quickstart.yaml --dry-run": "33 new",
    "selgen_ray.data show search_spaces/quickstart.yaml --role proxy --rows 3": "<|assistant|>[[",
}
HOSTS = next(block.text.splitlines() for block in blocks("bash") if "# on host1" in block.text)
OWN_DATA = [command for block in blocks("bash") if block.marker == "own data" for command in commands(block)]
SPACES = [command for block in blocks("bash", "search_spaces/README.md") for command in commands(block)]
CLUSTERS = [command for block in blocks("bash", "docker/README.md") for command in commands(block)]
STRATEGIES = {"naive": {}, "kl_divergence": {"grid": {"finetune_config.beta_kl": [1.0, 10.0]}}, "dpo": {}}
CONTRIBUTING = next(block.text.splitlines() for block in blocks("bash") if "[dev]" in block.text)
ELSEWHERE = {  # .ci/run runs the tests' own command; the others stand in tests below, the long ones by hand
    *(command for command in COMMANDS if ".venv/bin/pip install" in command),
    *(re.sub(r"\s+# .*", "", line) for line in [*HOSTS, *CONTRIBUTING]),
    *OWN_DATA,
    *SPACES,
    *CLUSTERS,
    "python -m selgen_ray.report sweeps/my_sweep --serve",  # tests/report/test_serve.py
    "ray job submit --working-dir . -- python -m selgen_ray.sweep space.yaml",  # tests/cluster/test_job.py
}


def test_no_command_is_left_out():
    known = {f"python -m {command}" for command in [*LEAVES, *SHOWS]}
    known |= {f"python -m selgen_ray.sweep {command}" for command in SAYS} | ELSEWHERE
    assert [f"{where}: {command}" for command, where in COMMANDS.items() if command not in known] == []
    assert [command for command in [*LEAVES, *SHOWS] if f"python -m {command}" not in COMMANDS] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_dir, data_files, joined):
    """The folder that the README's commands name: a search space, its sweep, a first-generation folder."""
    folder = tmp_path_factory.mktemp("reader")
    write_space(folder, tiny_model_dir, data_files, name="my_sweep", seeds=[1], strategies=STRATEGIES)
    done = sweep_on(joined, folder / "space.yaml")
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
    """Run `python -m ...` in this process: to import PyTorch anew takes longer than most commands."""
    _, _, name, *args = shlex.split(command)
    module = import_module(name)
    if hasattr(module, "__path__"):  # as `python -m` does with a package
        module = import_module(f"{name}.__main__")
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = module.main(args)
    return status, out.getvalue()


@pytest.mark.parametrize("command", SHOWS)
def test_it_shows_what_it_says(command):
    status, shown = execute(f"python -m {command}", ROOT)
    assert status == 0 and SHOWS[command] in shown, shown


@pytest.mark.ray
def test_your_own_data_in_five_minutes(tmp_path, joined):
    """Paste what README.md gives a reader; on a running cluster, for Ray's start takes the longest."""
    *paste, plan, run = OWN_DATA
    pasted = "\n".join(paste)
    assert "epochs: 50," in pasted
    pasted = pasted.replace("epochs: 50,", "epochs: 5,")  # they are not what is looked at
    subprocess.run(["bash", "-euc", pasted], cwd=tmp_path, check=True)
    rows = {path.name: path.read_text().splitlines() for path in (tmp_path / "data").iterdir()}
    assert len(rows) == 4 and {len(lines) for lines in rows.values()} == {3}
    assert (tmp_path / "mine.yaml").read_text().count("\n") <= 13
    status, shown = execute(plan, tmp_path)
    assert status == 0 and "6 new" in shown, shown
    assert run == "python -m selgen_ray.sweep mine.yaml"
    done = sweep_on(joined, tmp_path / "mine.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mine: 6 completed" in done.stdout
    assert (tmp_path / "sweeps" / "mine" / "report" / "figures" / "pareto.png").stat().st_size > 0
    trials = selgen_ray.load_results(tmp_path / "sweeps" / "mine")
    assert trials["capability"].notna().all() and trials["alignment"].notna().all()
    (code,) = (block.text for block in blocks("python") if "load_results" in block.text)
    namespace: dict = {}
    with contextlib.chdir(tmp_path):
        (tmp_path / "sweeps" / "mine").rename(tmp_path / "sweeps" / "quickstart")
        exec(code, namespace)
    assert len(namespace["trials"]) == 6 < len(namespace["epochs"])


@pytest.mark.ray
@pytest.mark.parametrize("command", LEAVES)
def test_it_leaves_what_it_says(command, folder):
    status, shown = execute(f"python -m {command}", folder)
    assert status == 0, shown
    assert list(folder.glob(LEAVES[command])), shown


@pytest.mark.ray
def test_they_steer_a_sweep(tmp_path, tiny_model_dir, data_files, joined):
    slow = {"epochs": 300, "save_steps": 50, "logging_steps": 50, "max_to_eval": 1, "max_new_tokens": 1}
    space = write_space(tmp_path, tiny_model_dir, data_files, slow, name="my_sweep", seeds=[1], strategies=STRATEGIES)
    process = start(space, joined)
    folder = tmp_path / "sweeps" / "my_sweep"
    wait_for(lambda: (folder / "control" / "live.json").exists() or process.poll() is not None)
    wait_for(lambda: '"started"' in (folder / "events.jsonl").read_text())
    wait_for(lambda: json.loads((folder / "control" / "live.json").read_text()).get("running"))
    more = {"kl_divergence": {"fixed": {"finetune_config.beta_kl": 3.0}}}
    (tmp_path / "more.yaml").write_text(json.dumps({"strategies": more}))
    for command, word in SAYS.items():
        if TRIAL in command:
            trials = json.loads((folder / "control" / "plan.json").read_text())["trials"].values()
            (name,) = (name for name in trials if "beta_kl-10_" in name)
            command, word = command.replace(TRIAL, name), word.replace(TRIAL, name)
        if command.startswith("rm"):
            process.communicate(timeout=60)  # `stop --all` has ended it
            command += " --yes"  # nobody answers its question here
        status, shown = execute(f"python -m selgen_ray.sweep {command}", tmp_path)
        assert (status, word in shown) == (0, True), f"{command}: {shown}"
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
    done = call(line.removesuffix(" && pyright"))
    assert done.returncode == 0, done.stdout


@pytest.mark.by_hand
def test_pyright_finds_nothing():
    assert any(line.endswith("&& pyright") for line in CONTRIBUTING)
    done = call("pyright")
    assert done.returncode == 0, done.stdout


def call(line: str) -> subprocess.CompletedProcess[str]:
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


@pytest.mark.ray
@pytest.mark.by_hand
def test_the_shipped_spaces_as_they_stand(tmp_path):
    """The commands of search_spaces/README.md in their order, in a clean clone: some two hours."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHON", "VIRTUAL_ENV"))}
    env |= {"PATH": f"{tmp_path}/clone/.venv/bin:{os.environ['PATH']}"}
    install = [command for command in SPACES if "-m venv" in command]
    for command in [*install, *(command for command in SPACES if command not in install)]:
        done = subprocess.run(
            ["bash", "-euc", command], cwd=tmp_path / "clone", env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    names = {path.parent.parent.name for path in (tmp_path / "clone" / "sweeps").glob("*/report/index.html")}
    assert names == set(re.findall(r"sweep search_spaces/(\w+)\.yaml$", "\n".join(SPACES), re.M))


@pytest.mark.parametrize("command", [c for c in SPACES if "-m selgen_ray.sweep " in c])
def test_each_shipped_space_that_a_command_names_is_there(command):
    """That it can be planned is in test_readme.py."""
    assert (ROOT / shlex.split(command)[3]).is_file()


@pytest.mark.parametrize("command", CLUSTERS)
def test_what_a_clusters_command_names_is_there(command):
    """Each needs an engine, a cloud or a cluster; tests/docker/ runs what they start, on what is here."""
    assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0
    words = shlex.split(command, comments=True)
    for word in words:
        if word.startswith("docker/"):
            assert (ROOT / word).is_file(), word
    words = [word for word in words if not re.fullmatch("[A-Z]+=.*", word) or words[0] == "docker"]
    program, verb, *rest = words
    if program == "ray":
        from ray.scripts.scripts import cli  # late: only these commands need it

        cli.get_command(None, verb).make_context(verb, rest)  # Ray's own parser of arguments
    elif (program, verb) == ("docker", "build"):
        dockerfile = (ROOT / rest[rest.index("-f") + 1]).read_text()
        for name in re.findall(r"--build-arg (\w+)=", command):
            assert re.search(rf"^ARG {name}\b", dockerfile, re.M), name
        assert f":{selgen_ray.__version__}-" in rest[rest.index("-t") + 1]
    elif (program, verb) == ("docker", "compose"):
        services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
        named = re.findall(r"(?:exec |cp |--scale )(\w+)", command)
        assert set(named) <= services.keys()
    elif program == "kubectl":
        text = (ROOT / "docker" / "raycluster.yaml").read_text()
        names = re.findall(r"(?:generic |service/)([\w-]+)", command)
        assert all(name.removesuffix("-head-svc") in text for name in names)
    else:
        assert program == "sbatch", "no check for this program: write one"
        script = (ROOT / "docker" / "slurm.sbatch").read_text()
        for option in re.findall(r"--([\w-]+)=", command):
            assert option in script or option == "gpus-per-node"


def test_messages_of_the_troubleshooting_tables_are_those_of_the_code():
    sections = [text.split("## Troubleshooting", 1)[1] for text in GUIDES.values() if "## Troubleshooting" in text]
    tables = ["\n".join(re.findall(r"^\|.*$", section, re.M)) for section in sections]
    shown = re.findall(r"^\| (?:a flag )?`([^`]+)`", "\n".join(tables), re.M)
    assert len(shown) >= 22
    table = "\n".join(tables)
    package = Path(selgen_ray.__file__).parent
    code = "".join(path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py")))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # literals that go on in the next line
    for message in shown:
        for part in re.split(r"\.\.\.|'[^']*'", message):
            words = part.strip(" :?")
            if words and "by Ray" not in table.split(message)[1][:20]:
                assert words in code, words


@pytest.mark.ray
def test_the_doctor_looks_at_the_nodes_of_a_running_cluster(tmp_path, joined, monkeypatch):
    """Beside the commands, since a running cluster is here."""
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)
    for name, value in joined.items():
        monkeypatch.setenv(name, value)
    found = list(check_ray(None))
    assert [one.level for one in found] == ["ok"] and f"joined {joined['RAY_ADDRESS']}, 1 node" in found[0].text
    assert list((tmp_path / "sweeps").iterdir()) == []
