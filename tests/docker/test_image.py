"""docker/Dockerfile built, and the services of docker/compose.yaml run, without a container engine.

By hand, as root: `pytest -m by_hand -n 0 -s tests/docker/test_image.py`. Every instruction of the Dockerfile is done in
a clean Debian root, every service runs in namespaces of its own with what the compose file says of it. The folder
SELGEN_IMAGE_FOLDER, where it is set, keeps the layers for the next time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from containers import Compose, Container, Network, healthy, prometheus_image
from dashboards import datasources, expressions
from image_build import Builder, BuildError
from roots import Image, missing, size
from running import ROOT, wait_for

import selgen_ray

pytestmark = [pytest.mark.by_hand, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
# PyTorch's own index cannot be reached everywhere; whatever pip finds does for this
ARGUMENTS = {"VARIANT": "cpu", "TORCH_CPU_INDEX": os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")}
SECRET = "hf_" + "notforanyimage" * 2
SPACE = {
    "name": "tiny",
    "storage_path": "/results/sweeps",
    "base": {
        "data": {"toy": {"num_outcome": 64}},
        "finetune_config": {"model": "toy", "epochs": 150, "per_device_train_batch_size": 16, "max_to_eval": 2},
    },
    "seeds": [1],
    "strategies": {"naive": {}, "kl_divergence": {"fixed": {"finetune_config.epochs": 1}}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    kept = os.environ.get("SELGEN_IMAGE_FOLDER")
    place = Path(kept) if kept else tmp_path_factory.mktemp("image")
    place.mkdir(exist_ok=True)
    yield place
    if not kept:
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> Path:
    """A copy of the repository, and beside it what people have in theirs."""
    place = tmp_path_factory.mktemp("context")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).exists():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    for name in (".env", "sweeps/tiny/results.json", "selgen_ray/__pycache__/left.cpython-311.pyc", "docker/token"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(SECRET)
    return place


def builder(folder: Path, context: Path, **arguments: str) -> Builder:
    return Builder(folder, context, ARGUMENTS | arguments)


@pytest.fixture(scope="module")
def image(folder, context) -> Image:
    started = time.monotonic()
    built = builder(folder, context).build(context / "docker" / "Dockerfile")
    lines = [f"{size(layer) / 1e6:9.1f} MB  {layer.name}" for layer in built.layers]
    sys.stdout.write("\n".join(["", *lines, f"built in {time.monotonic() - started:.0f} s", ""]))
    return built


# -- the image -------------------------------------------------------------------------------------------------------


def test_what_it_says_of_itself(image):
    assert image.user == "1000:1000" and image.home() == image.workdir == "/home/ray"
    assert image.labels["org.opencontainers.image.version"] == f"{selgen_ray.__version__}-cpu"
    assert {"6379", "8265"} == set(image.exposed)
    assert not [name for name in image.env if re.search("SECRET|PASSWORD|_KEY|TOKEN$", name)]


def test_nothing_is_left_in_it(image):
    own = image.layers[1:]  # the first is the base
    names = {str(path.relative_to(layer)) for layer in own for path in layer.rglob("*")}
    assert any(name.endswith("site-packages/selgen_ray/worlds/toy/model/model.safetensors") for name in names)
    for unwanted in ("build", "wheels", "root/.cache", "var/lib/apt/lists", "var/cache/apt/archives"):
        files = {p for layer in own for p in (layer / unwanted).rglob("*") if p.is_file() and p.stat().st_size}
        assert not files, unwanted
    assert not {n for n in names if n.split("/")[0] in ("build", "wheels")}
    assert not [n for n in names if re.search(r"(^|/)(\.env|\.netrc|auth_token|pip\.conf|left\..*pyc)$", n)]
    found = subprocess.run(["grep", "-rlF", SECRET, *own], capture_output=True, text=True)
    assert found.returncode == 1, found.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"VARIANT": "rocm"}, r"VARIANT is 'rocm'; allowed: cuda, cpu"),
        ({"EXTRAS": "quantised"}, r"no extra 'quantised'; there are: .*quantized"),
        ({"VARIENT": "cpu"}, r"no ARG declares: \['VARIENT'\]"),
    ],
)
def test_a_wrong_argument_is_refused_in_words(folder, context, image, arguments, said):
    with pytest.raises(BuildError, match=said):
        builder(folder, context, **arguments).build(DOCKERFILE)


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Iterator[Network]:
    place = tmp_path_factory.mktemp("containers")
    with Network(place, ["token", "head", "worker-1", "worker-2", "prometheus", "lone"]) as started:
        yield started
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def compose(network, image, folder, context, tmp_path_factory) -> Compose:
    place = tmp_path_factory.mktemp("volumes")
    spaces = tmp_path_factory.mktemp("spaces")
    shutil.copy2(ROOT / "search_spaces" / "quickstart.yaml", spaces)
    (spaces / "tiny.yaml").write_text(yaml.safe_dump(SPACE))
    spaces.chmod(0o755)
    images = dict.fromkeys(("token", "head", "worker"), image)
    images["prometheus"] = prometheus_image(builder(folder, context), place)
    return Compose(ROOT / "docker" / "compose.yaml", network, place / "volumes", images, {"SPACES": str(spaces)})


def test_the_command_without_arguments_says_what_it_is(network, image):
    container = network.start("lone", image)
    assert container.wait() == 0
    assert "usage: " in container.output() and "--dry-run" in container.output()


def test_commands_in_it(compose):
    lone = compose.up("worker", "lone", ["sleep", "infinity"])
    plan = lone.call("python", "-m", "selgen_ray.sweep", "/spaces/quickstart.yaml", "--dry-run")
    assert plan.returncode == 0 and "33 trials" in plan.stdout, plan.stdout + plan.stderr
    assert "No broken requirements" in lone.call("pip", "check").stdout
    assert lone.call("selgen", "--help").returncode == 0
    assert lone.call("bash", "-lc", "command -v ray python", env={"PATH": "/usr/bin:/bin"}).stdout.split() == [
        "/opt/selgen/bin/ray",
        "/opt/selgen/bin/python",
    ]
    version = lone.call("python", "-c", "import torch, selgen_ray; print(torch.version.cuda, selgen_ray.__version__)")
    assert version.stdout.split() == ["None", selgen_ray.__version__]
    assert not [line for line in lone.call("pip", "list").stdout.splitlines() if line.startswith("nvidia")]
    state = lone.call("cat", "/proc/self/status").stdout
    assert re.search(r"^CapBnd:\s+0+$", state, re.M) and re.search(r"^NoNewPrivs:\s+1$", state, re.M)
    assert lone.call("id", "-u").stdout.strip() == "1000"
    assert lone.call("touch", "/spaces/new", "/token/new").returncode != 0
    assert lone.call("touch", "/results/new", "/home/ray/.cache/huggingface/new").returncode == 0
    assert not healthy(lone)  # no node of Ray is there
    assert lone.stop(10) != 0  # PID 1 hands on SIGTERM at once


# -- the cluster -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(compose) -> dict[str, Container]:
    """Token, head, a worker and Prometheus, started in the order of `depends_on`."""
    services = compose.content["services"]
    assert services["head"]["depends_on"] == {"token": {"condition": "service_completed_successfully"}}
    token = compose.up("token")
    assert token.wait() == 0, token.output()
    head = compose.up("head")
    patience = services["head"]["healthcheck"]["retries"] * 5
    wait_for(lambda: healthy(head), patience)
    worker = compose.up("worker", "worker-1")
    wait_for(lambda: healthy(worker), 120)
    return {"head": head, "worker": worker, "prometheus": compose.up("prometheus")}


def alive(head: Container, **env: str) -> subprocess.CompletedProcess[str]:
    """Prints the addresses of the nodes that are alive."""
    script = "print(*sorted(n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']))"
    return head.call("python", "-c", f"import ray; ray.init(logging_level='ERROR'); {script}", env=env)


def test_the_token_is_made_once_and_read_by_its_group_alone(compose, cluster):
    file = compose.volume("token") / "auth_token"
    assert (file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o777) == (1000, 1000, 0o640)
    made = file.read_text()
    assert re.fullmatch(r"[0-9a-f]{64}", made)
    assert compose.up("token").wait() == 0 and file.read_text() == made
    assert all(made not in container.output() for container in cluster.values())
    assert alive(cluster["head"]).stdout.split() == sorted(cluster[name].address for name in ("head", "worker"))
    refused = alive(cluster["head"], RAY_AUTH_TOKEN_PATH="", RAY_AUTH_TOKEN="wrong")
    assert refused.returncode != 0 and "token" in refused.stderr.lower()


def test_the_head_is_unhealthy_without_its_control_service(cluster):
    (gcs,) = cluster["head"].processes("gcs_server")
    gcs.suspend()
    try:
        assert not healthy(cluster["head"])
    finally:
        gcs.resume()
    wait_for(lambda: healthy(cluster["head"]), 30)
    assert healthy(cluster["worker"])


def asked(head: Container, path: str) -> dict:
    """The data of Prometheus' answer, asked for by its name on the network."""
    done = head.call("wget", "-qO-", f"http://prometheus:9090/api/v1/{path}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["data"]


def query(head: Container, expression: str) -> list[dict]:
    return asked(head, f"query?query={urllib.parse.quote(expression)}")["result"]


def test_a_sweep_on_it_is_seen_by_prometheus_and_leaves_its_results_on_the_volume(compose, cluster):
    head = cluster["head"]
    running = head.start("python", "-m", "selgen_ray.sweep", "/spaces/tiny.yaml")
    try:
        found = wait_for(lambda: running.poll() is not None or query(head, "ray_selgen_loss"), 180)
    finally:
        out, _ = running.communicate(timeout=300)
    assert running.returncode == 0, out
    assert found is not True, "it ended before Prometheus saw it"
    assert found[0]["metric"]["sweep"] == "tiny"
    files = list(compose.volume("results").glob("sweeps/tiny/*/seed_1/results/*/results.json"))
    assert len(files) == 2 and {file.stat().st_uid for file in files} == {1000}
    assert {json.loads(file.read_text())["status"] for file in files} == {"completed"}


def test_prometheus_finds_every_node_by_the_token(cluster):
    head = cluster["head"]

    def up() -> list[dict]:
        targets = asked(head, "targets?state=active")["activeTargets"]
        return targets if targets and all(target["health"] == "up" for target in targets) else []

    targets = wait_for(up, 60)
    hosts = {target["scrapeUrl"].split("/")[2].split(":")[0] for target in targets}
    assert hosts == {cluster["head"].address, cluster["worker"].address}
    for target in targets:  # Prometheus 3 refuses what does not name its format
        done = head.call("wget", "-S", "-O", "/dev/null", target["scrapeUrl"])
        assert re.search(r"Content-Type: text/plain; version=\S+", done.stderr, re.I), done.stderr


def test_queries_of_our_dashboard_and_of_rays_own(compose, cluster):
    head, written = cluster["head"], sorted(compose.volume("dashboards").glob("*.json"))
    assert "default_grafana_dashboard.json" in [file.name for file in written]
    assert all(file.stat().st_mode & 0o004 for file in written)  # Grafana is another user
    environment = compose.content["services"]["head"]["environment"]
    (source,) = yaml.safe_load((ROOT / "docker" / "grafana" / "datasources.yaml").read_text())["datasources"]
    assert source["name"] == environment["RAY_PROMETHEUS_NAME"]
    for file in [*written, ROOT / "selgen_ray" / "cluster" / "grafana" / "selgen_ray.json"]:
        dashboard = json.loads(file.read_text())
        # an expression over the data source's name or the default one; no uid that the provisioning does not make
        assert datasources(dashboard) <= {"${datasource}", "-- Grafana --", source["uid"], source["name"]}, file.name
        for expression in expressions(dashboard) if file not in written[1:] else []:
            query(head, expression)
    seen = query(head, 'count by (__name__) (last_over_time({__name__=~"ray_selgen_.+"}[1h]))')
    names = {row["metric"]["__name__"] for row in seen}
    assert {"ray_selgen_trials", "ray_selgen_loss", "ray_selgen_progress", "ray_selgen_trial_status"} <= names


def test_a_worker_without_its_raylet_ends_and_another_takes_its_place(compose, cluster):
    head, worker = cluster["head"], cluster["worker"]
    (raylet,) = worker.processes("raylet")
    raylet.kill()
    assert worker.wait(60) != 0  # so that `restart: on-failure` starts it again
    assert compose.content["services"]["worker"]["restart"] == "on-failure"
    cluster["worker"] = other = compose.up("worker", "worker-2")
    wait_for(lambda: healthy(other), 120)
    wait_for(lambda: alive(head).stdout.split() == sorted([head.address, other.address]), 120)


def test_nodes_end_in_time_when_they_are_told_to(compose, cluster):
    started = time.monotonic()
    cluster["worker"].stop(60)
    cluster["head"].stop(10)
    sys.stdout.write(f"\nstopped in {time.monotonic() - started:.1f} s\n")
