"""docker/compose.yaml: valid, bound to this machine unless told otherwise, and without a secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from compose_spec import PyCompose

import selgen_ray

DOCKER = Path(__file__).parents[2] / "docker"


def interpolated(text: str, **given: str) -> str:
    """The text with ${NAME:-default} replaced as Compose does it."""
    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda m: given.get(m[1]) or m[2] or "", text)


@pytest.fixture(params=["compose.yaml", "compose.gpu.yaml"])
def text(request):
    return interpolated((DOCKER / request.param).read_text(encoding="utf-8"))


def services(**given: str) -> dict:
    return yaml.safe_load(interpolated((DOCKER / "compose.yaml").read_text(encoding="utf-8"), **given))["services"]


def test_they_are_what_compose_reads(text):
    content = yaml.safe_load(text)
    parsed = PyCompose.from_yaml(yaml.safe_dump(content))
    parsed.validate()
    assert set(parsed.service_names()) == set(content["services"])


def test_a_misspelt_key_would_be_found(text):
    content = yaml.safe_load(text)
    content["services"]["worker"]["depend_on"] = ["head"]
    with pytest.raises(ValueError, match="depend_on"):
        PyCompose.from_yaml(yaml.safe_dump(content))


def test_ports_are_bound_to_this_machine_unless_told_otherwise():
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert len(ports) == 3 and all(port.startswith("127.0.0.1:") for port in ports)
    told = [port for service in services(BIND="0.0.0.0").values() for port in service.get("ports", [])]
    assert all(port.startswith("0.0.0.0:") for port in told)


def test_variables_that_may_hold_a_secret_have_no_value():
    for name, service in services().items():
        for key, value in (service.get("environment") or {}).items():
            if re.search("TOKEN$|KEY|SECRET|PASSWORD", key):
                assert value is None, (name, key)


def test_no_service_is_more_than_it_has_to_be():
    for name, service in services().items():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "network_mode", "pid", "ipc"} & service.keys(), name
        assert not any("docker.sock" in str(volume) for volume in service["volumes"]), name


def test_images_have_a_fixed_tag_and_ours_the_version():
    for name, service in services(VARIANT="cuda").items():
        image, _, tag = service["image"].partition(":")
        assert re.match(r"v?\d+\.\d+\.\d+", tag), name
        if image == "selgen-ray":
            assert tag == f"{selgen_ray.__version__}-cuda"


def test_every_volume_and_file_exists():
    content = yaml.safe_load(interpolated((DOCKER / "compose.yaml").read_text(encoding="utf-8")))
    used = [volume.split(":")[0] for service in content["services"].values() for volume in service["volumes"]]
    named = {volume for volume in used if not volume.startswith(".")}
    assert named == set(content["volumes"])
    for volume in set(used) - named:
        assert (DOCKER / volume).exists(), volume
