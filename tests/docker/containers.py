"""The services of a compose file as processes in namespaces, on a network of their own that nothing leaves."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import yaml
from image_build import Builder
from roots import DEFAULT_PATH, Image, Mount, bind, identity, in_folder, namespaces, overlay, system
from running import wait_for

NET = "192.0.2"  # of RFC 5737: nobody's
_VARIABLE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)(?::-([^}]*))?\})")


def read_compose(path: Path, variables: dict[str, str]) -> dict[str, Any]:
    """A compose file with its anchors merged and its variables replaced."""

    def value(match: re.Match[str]) -> str:
        return match[1] or variables.get(match[2] or match[3]) or match[4] or ""

    return yaml.safe_load(_VARIABLE.sub(value, path.read_text()))


class Container:
    """One process, PID 1 of its namespace, and what is called beside it."""

    def __init__(
        self, name: str, image: Image, argv: list[str], env: dict[str, str], process: subprocess.Popen, log: Path
    ):
        self.name, self.image, self.argv, self._env = name, image, argv, env
        self._process, self._log = process, log
        self.pid = 0  # of its PID 1, seen from here
        self.address = ""

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def _command(self, argv: tuple[str, ...], env: dict[str, str] | None = None) -> list[str]:
        inside = in_folder(self._env | (env or {}), self.image.workdir, argv)
        enter = ["nsenter", "-t", str(self.pid), "--mount", "--pid", "--uts", "--ipc", "--net", "--root", "--wd"]
        return [*enter, *identity(self.image.user, privileged=False), *inside]

    def call(
        self, *argv: str, env: dict[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """As `docker compose exec`: in its namespaces, as its user, with its environment."""
        return subprocess.run(self._command(argv, env), capture_output=True, text=True, timeout=timeout)

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """As `call`, without waiting for the end."""
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(self._command(argv), **pipe)

    def processes(self, name: str) -> list[psutil.Process]:
        """Those in it of this name."""
        return [p for p in psutil.Process(self.pid).children(recursive=True) if p.name() == name]

    def wait(self, timeout: float = 60) -> int:
        return self._process.wait(timeout)

    def stop(self, grace: float = 60) -> int:
        """SIGTERM to PID 1, as `docker stop` does; an error when it lives on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        return self.wait(grace)

    def kill(self) -> None:
        """With its PID 1 goes all that is in it; `unshare --kill-child` forgets a child that changes its user."""
        if self._process.poll() is None and self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait(60)


class Network:
    """A bridge in a network namespace, and containers with an address each; leaving the `with` ends them all."""

    def __init__(self, folder: Path, hosts: list[str]):
        self._folder = folder
        self._addresses = {name: f"{NET}.{number}" for number, name in enumerate(hosts, 2)}
        self.containers: list[Container] = []
        self._hub = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        _own_network(self._hub.pid)
        self._ip(self._hub.pid, "link add name bridge0 type bridge", f"addr add {NET}.1/24 dev bridge0")
        self._ip(self._hub.pid, "link set bridge0 up")

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *error: object) -> None:
        for container in reversed(self.containers):
            container.kill()
        self._hub.kill()
        self._hub.wait()

    def _ip(self, pid: int, *lines: str) -> None:
        for line in lines:
            subprocess.run(["nsenter", "-t", str(pid), "--net", "ip", *line.split()], check=True)

    def _connect(self, pid: int, name: str) -> None:
        link = f"veth{len(self.containers)}"
        self._ip(self._hub.pid, f"link add name {link} type veth peer name eth0 netns {pid}")
        self._ip(self._hub.pid, f"link set {link} master bridge0", f"link set {link} up")
        self._ip(pid, "link set lo up", f"addr add {self._addresses[name]}/24 dev eth0", "link set eth0 up")
        self._ip(pid, f"route add default via {NET}.1")

    def start(
        self,
        name: str,
        image: Image,
        command: list[str] | None = None,
        env: dict[str, str] | None = None,
        mounts: list[Mount] | None = None,
        shm_size: str = "64m",
    ) -> Container:
        """Start a container; `command` instead of the image's CMD, after its ENTRYPOINT."""
        place = self._folder / f"{name}-{len(self.containers)}"
        root, ready = place / "root", place / "ready"
        hosts = place / "hosts"
        place.mkdir(parents=True)
        rows = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in self._addresses.items())]
        hosts.write_text("".join(f"{row}\n" for row in rows))
        env = {"PATH": DEFAULT_PATH, "HOME": image.home(), "HOSTNAME": name, **image.env, **(env or {})}
        argv = [*image.entrypoint, *(command or image.cmd)]
        lines = [*overlay(image, place / "changes", root), *system(root, shm_size)]
        # Ray's resolver asks DNS too, and waits: here nobody is refused at once, where Docker's own server would answer
        (place / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        for mount in [Mount(hosts, "/etc/hosts"), Mount(place / "resolv.conf", "/etc/resolv.conf"), *(mounts or [])]:
            lines += bind(mount, root)
        inside = [*identity(image.user, privileged=False), *in_folder(env, image.workdir, argv)]
        lines += [f"hostname {name}", f"until [ -e {shlex.quote(str(ready))} ]; do sleep 0.05; done"]
        lines += ["exec " + shlex.join(["chroot", str(root), *inside])]
        log = place / "log"
        with log.open("ab") as out:
            started = [*namespaces("--net"), "bash", "-euc", "\n".join(lines)]
            process = subprocess.Popen(started, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        container = Container(name, image, argv, env, process, log)
        container.address = self._addresses[name]
        self.containers.append(container)
        _own_network(process.pid)
        self._connect(process.pid, name)
        container.pid = wait_for(lambda: psutil.Process(process.pid).children())[0].pid
        ready.touch()
        wait_for(lambda: process.poll() is not None or _is_in(container.pid), 20)
        return container


def _is_in(pid: int) -> bool:
    """Whether a process has left this machine's root and become what it is to run."""
    with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
        starting = {"unshare", "bash", "chroot", "setpriv", "env", "sh"}
        return Path(f"/proc/{pid}/root").readlink() != Path("/") and psutil.Process(pid).name() not in starting
    return False


def _own_network(pid: int) -> None:
    here = Path("/proc/self/ns/net").readlink()
    wait_for(lambda: Path(f"/proc/{pid}/ns/net").readlink() != here, 10)


class Compose:
    """The services of a compose file that run images of ours."""

    def __init__(self, path: Path, network: Network, folder: Path, images: dict[str, Image], variables: dict[str, str]):
        self.content = read_compose(path, variables)
        self._path, self._network, self._folder, self._images = path, network, folder, images

    def image(self, service: str) -> Image:
        image, content = self._images[service], self.content["services"][service]
        health = content.get("healthcheck", {})
        if health.get("test"):
            assert health["test"][0] == "CMD"
            image = replace(image, healthcheck=tuple(health["test"][1:]))
        groups = ",".join([image.user.partition(":")[2], *content.get("group_add", [])])
        user = f"{image.user.partition(':')[0]}:{groups}"
        return replace(image, user=user, workdir=content.get("working_dir", image.workdir))

    def volume(self, name: str) -> Path:
        """The folder of a named volume."""
        assert name in self.content["volumes"], name
        return self._folder / name

    def mounts(self, service: str) -> list[Mount]:
        return [self._mount(self._images[service], text) for text in self.content["services"][service]["volumes"]]

    def _mount(self, image: Image, text: str) -> Mount:
        source, target, *mode = text.split(":")
        if "/" in source:
            return Mount((self._path.parent / source).resolve(strict=True), target, mode == ["ro"])
        folder = self.volume(source)
        if not folder.exists():  # a new volume is as the image's folder
            folder.mkdir(parents=True)
            with contextlib.suppress(StopIteration):
                likeness = image.find(target)
                assert likeness.is_dir() and not list(likeness.iterdir()), f"{target} would be copied"
                shutil.copymode(likeness, folder)
                os.chown(folder, likeness.stat().st_uid, likeness.stat().st_gid)
        return Mount(folder, target, mode == ["ro"])

    def up(self, service: str, host: str | None = None, command: list[str] | None = None) -> Container:
        """Start a service with what the compose file says of it."""
        content = self.content["services"][service]
        assert content["cap_drop"] == ["ALL"] and content["security_opt"] == ["no-new-privileges:true"]
        # a variable without a value is taken from the shell that calls, where nothing is set
        env = {name: value for name, value in content.get("environment", {}).items() if value is not None}
        return self._network.start(
            host or service,
            self.image(service),
            command or content.get("command"),
            env,
            self.mounts(service),
            content.get("shm_size", "64m").replace("gb", "g"),
        )


def healthy(container: Container) -> bool:
    """What its health check says."""
    return container.call(*container.image.healthcheck, timeout=30).returncode == 0


def prometheus_image(builder: Builder, folder: Path) -> Image:
    """A stand-in for prom/prometheus: this machine's Prometheus, and what that image says of paths and the user."""
    layer = folder / "prometheus"
    (layer / "usr/bin").mkdir(parents=True)
    shutil.copy2("/usr/bin/prometheus", layer / "usr/bin/prometheus")
    (layer / "prometheus").mkdir()
    os.chown(layer / "prometheus", 65534, 65534)
    arguments = ("--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus")
    image = builder.base("python:3.11-slim-bookworm").with_layer(layer)
    return replace(image, user="65534:65534", workdir="/prometheus", entrypoint=("/usr/bin/prometheus",), cmd=arguments)
