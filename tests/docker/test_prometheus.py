"""What docker/prometheus and docker/grafana provision, beside the compose file, a real Ray and a real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from clusters import Cluster, on_path
from dashboards import datasources, expressions
from running import ROOT, free_port, wait_for

DOCKER = ROOT / "docker"
OURS = ROOT / "selgen_ray" / "cluster" / "grafana" / "selgen_ray.json"


def content(name: str) -> dict:
    return yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))


def target_of(service: str, source: str) -> str:
    """Where the compose file mounts a volume or file in a service."""
    volumes = content("compose.yaml")["services"][service]["volumes"]
    return next(volume.split(":")[1] for volume in volumes if volume.split(":")[0] == source)


# -- files -----------------------------------------------------------------------------------------------------------


def test_prometheus_asks_the_head_with_the_token_that_it_can_read():
    services = content("compose.yaml")["services"]
    (job,) = content("prometheus/prometheus.yml")["scrape_configs"]
    (discovery,) = job["http_sd_configs"]
    asked = urllib.parse.urlsplit(discovery["url"])
    assert asked.hostname in services
    assert any(port.endswith(f":{asked.port}") for port in services[asked.hostname]["ports"])
    token = discovery["authorization"]["credentials_file"]
    assert token == services["head"]["environment"]["RAY_AUTH_TOKEN_PATH"]
    assert Path(token).parent == Path(target_of("prometheus", "token"))
    assert target_of("prometheus", "./prometheus/prometheus.yml") == "/etc/prometheus/prometheus.yml"


def test_grafana_has_the_data_source_that_ray_and_our_dashboard_name():
    environment = content("compose.yaml")["services"]["head"]["environment"]
    (source,) = content("grafana/datasources.yaml")["datasources"]
    assert source["name"] == environment["RAY_PROMETHEUS_NAME"]
    assert source["url"] == environment["RAY_PROMETHEUS_HOST"]
    assert source["isDefault"] is True  # ours takes the default one
    assert source["jsonData"]["timeInterval"] == content("prometheus/prometheus.yml")["global"]["scrape_interval"]
    dashboard = json.loads(OURS.read_text())
    assert datasources(dashboard) == {"${datasource}", "-- Grafana --"}
    (variable,) = [one for one in dashboard["templating"]["list"] if one["type"] == "datasource"]
    assert (variable["name"], variable["query"]) == ("datasource", source["type"])


def test_grafana_reads_dashboards_from_where_they_are_mounted():
    grafana = content("compose.yaml")["services"]["grafana"]
    folders = {provider["options"]["path"] for provider in content("grafana/dashboards.yaml")["providers"]}
    ours, rays = target_of("grafana", "../selgen_ray/cluster/grafana"), target_of("grafana", "dashboards")
    assert folders == {ours, rays}
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{ours}/{OURS.name}"
    head = content("compose.yaml")["services"]["head"]
    assert head["environment"]["RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR"] == target_of("head", "dashboards")
    for source in ("./grafana/datasources.yaml", "./grafana/dashboards.yaml"):
        assert target_of("grafana", source).startswith("/etc/grafana/provisioning/")


# -- a real Ray and a real Prometheus --------------------------------------------------------------------------------


@contextmanager
def prometheus(folder: Path, dashboard: int, token: Path) -> Iterator[str]:
    """The address of one with our configuration, but for where things are here and the pace."""
    folder.mkdir()
    text = (DOCKER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    here = {"head:8265": f"127.0.0.1:{dashboard}", "/token/auth_token": str(token), "10s": "1s"}
    for there, ours in here.items():
        assert there in text
        text = text.replace(there, ours)
    (folder / "prometheus.yml").write_text(text)
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command = ["prometheus", *options, f"--web.listen-address={address}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: b"ready to receive" in (folder / "log").read_bytes(), 30)
        yield f"http://{address}"
    finally:
        process.kill()
        process.wait()


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read()


def query(server: str, expression: str) -> list[dict]:
    answer = json.loads(read(f"{server}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"))
    assert answer["status"] == "success"
    return answer["data"]["result"]


@pytest.mark.ray
@pytest.mark.skipif(not on_path("prometheus"), reason="prometheus is not installed")
def test_prometheus_finds_the_node_by_the_token_and_not_without(tmp_path):
    token, wrong, dashboard = tmp_path / "auth_token", tmp_path / "wrong", free_port()
    token.write_text("7" * 64)
    wrong.write_text("8" * 64)
    written = tmp_path / "dashboards"
    env = {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR": str(written)}
    with Cluster(tmp_path, 1, env | {"RAY_PROMETHEUS_NAME": "Prometheus"}, dashboard):
        with prometheus(tmp_path / "refused", dashboard, wrong) as server:
            failure = re.compile(rb"^prometheus_sd_refresh_failures_total\{[^}]*http[^}]*\} [1-9]", re.M)
            wait_for(lambda: failure.search(read(f"{server}/metrics")), 30)
            assert json.loads(read(f"{server}/api/v1/targets"))["data"]["activeTargets"] == []
        with prometheus(tmp_path / "let_in", dashboard, token) as server:
            assert wait_for(lambda: query(server, "ray_node_mem_total"), 60)
            targets = json.loads(read(f"{server}/api/v1/targets"))["data"]["activeTargets"]
            assert targets and {target["labels"]["job"] for target in targets} == {"ray"}
            for file in (OURS, written / "default_grafana_dashboard.json"):
                for expression in expressions(json.loads(file.read_text())):
                    query(server, expression)
    (source,) = content("grafana/datasources.yaml")["datasources"]
    for file in written.glob("*.json"):
        assert datasources(json.loads(file.read_text())) <= {"${datasource}", "-- Grafana --", source["uid"]}
