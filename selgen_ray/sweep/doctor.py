"""`selgen doctor [space.yaml]`: look at this machine, the cluster and the storage, and say what to do.

Exit status: 0, or 1 where there is a problem. Credentials are looked for, never printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from selgen_ray.config.hub_names import is_hub_id
from selgen_ray.config.trial import TrialConfig
from selgen_ray.errors import INPUT_ERRORS, StorageError
from selgen_ray.models.files import find_files
from selgen_ray.space import SweepSpec, load_space
from selgen_ray.storage import Folder
from selgen_ray.storage.secrets import masked
from selgen_ray.sweep import arguments

DONE, PROBLEM = 0, 1
_PACKAGE = "selgen-ray"
_GIB = 2**30
_LEAST_SHM = 1 * _GIB  # Ray's object store lies there; Docker's default is 64 MiB
_LEAST_MEMORY = 3 * _GIB  # of a trial of the smallest real model on a CPU
_LEAST_DISK = 2 * _GIB
_FULL = 0.95  # share of a disk above which Ray stops
_CLOCK_S, _CLOCK_REFUSED_S = 5.0, 300.0  # S3 refuses requests at 15 minutes
_HTTP_S = 8.0
_KNOWN_SECRETS = ("HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "AWS_ACCESS_KEY_ID", "GOOGLE_APPLICATION_CREDENTIALS")
Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: 'ok', 'warning' (it works, perhaps not well) or 'problem' (a sweep would fail).
        text: what was found.
        remedy: what to do; '' where nothing need be done.
    """

    level: Level
    text: str
    remedy: str = ""


Check = Callable[["SweepSpec | None"], Iterator[Finding]]


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="selgen doctor")
    arguments.add_doctor(parser)
    args = parser.parse_args(argv)
    spec: SweepSpec | None = None
    levels: list[Level] = []

    def tell(name: str, findings: Sequence[Finding]) -> None:
        for finding in findings:
            levels.append(finding.level)
            _say(f"{finding.level:8} {name:12} {masked(finding.text)}")
            if finding.remedy:
                _say(f"{'':8} {'':12} -> {masked(finding.remedy)}")

    if args.space:
        try:
            spec = load_space(args.space)
            tell(
                "space", [Finding("ok", f"{args.space}: {len(spec.trials)} trials; --dry-run looks at rows and models")]
            )
        except INPUT_ERRORS as error:
            tell("space", [Finding("problem", str(error), "mend it; the other checks go on without it")])
    ray: Check = partial(check_ray, timeout_s=0.9 * args.timeout)  # a process of its own, which it can end
    for name, check in {**CHECKS, "ray": ray}.items():
        if name not in args.skip:
            tell(name, bounded(check, spec, args.timeout))
    counts = {level: levels.count(level) for level in ("warning", "problem")}
    _say(", ".join(f"{number} {level}{'' if number == 1 else 's'}" for level, number in counts.items()))
    return PROBLEM if counts["problem"] else DONE


def bounded(check: Check, spec: SweepSpec | None, timeout_s: float) -> list[Finding]:
    """Run a check in a thread and return its findings; one that takes longer is a problem, and is left behind."""
    findings: list[Finding] = []

    def run() -> None:
        try:
            findings.extend(check(spec))
        except Exception as error:  # a check must not end the others
            findings.append(Finding("problem", f"could not be looked at: {type(error).__name__}: {error}"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        late = Finding(
            "problem", f"no answer within {timeout_s:g} s", "wait for it longer with --timeout, or see why it hangs"
        )
        return [*findings, late]
    return findings


# this machine ------------------------------------------------------------------------------------------------------


def check_python(_: SweepSpec | None) -> Iterator[Finding]:
    """Look at Python's version and at those of the packages that this one needs."""
    version = platform.python_version()
    try:
        needed = metadata.metadata(_PACKAGE)["Requires-Python"] or ""
        requirements = [Requirement(text) for text in metadata.requires(_PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        yield Finding("warning", f"{version}; {_PACKAGE} is not installed", "pip install -c constraints.txt .")
        return
    if SpecifierSet(needed).contains(version, prereleases=True):
        yield Finding("ok", f"Python {version}")
    else:
        yield Finding("problem", f"Python {version}; supported: {needed}", "make an environment with a newer Python")
    wrong = list[str]()
    total = 0
    for one in requirements:
        if one.marker and not one.marker.evaluate({"extra": ""}):
            continue
        total += 1
        try:
            found = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{one.name} is missing")
            continue
        if not one.specifier.contains(found, prereleases=True):
            wrong.append(f"{one.name} {found}, supported: {one.specifier}")
    if wrong:
        yield Finding(
            "problem", "; ".join(wrong), "pip install -c constraints.txt . (it pins versions that were tested together)"
        )
    else:
        yield Finding("ok", f"{total} packages, all of supported versions")


def check_gpus(spec: SweepSpec | None) -> Iterator[Finding]:
    """Look at the GPUs and at the CUDA build of PyTorch."""
    import torch  # seconds of start-up, inside the time that the check has

    there = num_gpus_of_driver()
    asked = bool(spec and (spec.resources.gpus or spec.resources.gpus_per_worker))
    build = f"PyTorch {torch.__version__}, " + (f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA")
    if not torch.cuda.is_available():
        if there:
            remedy = "install PyTorch's build for this driver (pytorch.org), or a driver as new as its CUDA"
            yield Finding("problem", f"nvidia-smi lists {there} GPUs, which PyTorch cannot use: {build}", remedy)
        elif asked and not os.environ.get("RAY_ADDRESS"):
            remedy = "leave resources.gpus out to run on the CPU, or set RAY_ADDRESS to a cluster with GPUs"
            yield Finding("problem", f"the search space asks for GPUs, and this machine has none: {build}", remedy)
        else:
            yield Finding("ok", f"none on this machine: {build}; trials run on the CPU")
        return
    for number in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(number)
        try:
            torch.ones(8, 8, device=f"cuda:{number}").matmul(torch.ones(8, 8, device=f"cuda:{number}")).sum().item()
        except Exception as error:
            remedy = "install a PyTorch build that has kernels for this GPU (pytorch.org), or end what holds it"
            yield Finding("problem", f"{name} cannot compute: {' '.join(str(error).split())[:200]}; {build}", remedy)
            continue
        free, total = torch.cuda.mem_get_info(number)
        text = f"{name}, {free / _GIB:.0f} of {total / _GIB:.0f} GiB free; {build}"
        if free < 0.5 * total:
            yield Finding("warning", text, "another process holds its memory: nvidia-smi names it")
        else:
            yield Finding("ok", text)


def num_gpus_of_driver() -> int:
    """Return how many GPUs the driver lists; 0 without a driver."""
    if not (program := shutil.which("nvidia-smi")):
        return 0
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=_HTTP_S)
    except (OSError, subprocess.SubprocessError):
        return 0
    return done.stdout.count("GPU ") if done.returncode == 0 else 0


def check_memory(_: SweepSpec | None) -> Iterator[Finding]:
    """Look at memory, at /dev/shm, where Ray keeps objects, and at the disk of Ray's session."""
    memory = memory_available()
    if memory is not None:
        text = f"{memory / _GIB:.1f} GiB free"
        if memory < _LEAST_MEMORY:
            yield Finding("warning", text, "fewer trials at a time: resources.max_concurrent, or --max-concurrent")
        else:
            yield Finding("ok", text)
    shm = Path("/dev/shm")
    if shm.is_dir():
        size = shutil.disk_usage(shm).total
        text = f"/dev/shm of {size / _GIB:.1f} GiB"
        if size < _LEAST_SHM:
            remedy = (
                "in a container: docker run --shm-size=4g (Compose: shm_size, Kubernetes: emptyDir with medium: Memory)"
            )
            yield Finding("warning", f"{text}: Ray's object store then lies on the disk", remedy)
        else:
            yield Finding("ok", text)
    place = Path(os.environ.get("RAY_TMPDIR") or "/tmp")
    usage = shutil.disk_usage(place if place.is_dir() else "/")
    text = f"{usage.free / _GIB:.1f} GiB free on the disk of {place}, where Ray keeps its session"
    if usage.free < _LEAST_DISK or usage.used / usage.total > _FULL:
        remedy = "make room, or set RAY_TMPDIR to a folder on another disk: Ray stops above 95 %"
        yield Finding("problem" if usage.free < _LEAST_DISK / 10 else "warning", text, remedy)
    else:
        yield Finding("ok", text)


def memory_available(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that a process can still get, by the kernel and by the container's limit; None if unknown."""
    try:
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines() if ":" in line)
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, LookupError, ValueError):
        return None
    try:
        limit = int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):  # no limit: 'max'
        return available
    return min(available, max(limit, 0))


def check_ports(_: SweepSpec | None) -> Iterator[Finding]:
    """Look whether the cluster's head can be reached, or whether a local Ray can listen."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local", "auto"):
        with socket.socket() as mine:
            try:
                mine.bind(("127.0.0.1", 0))
                yield Finding("ok", "a process can listen on 127.0.0.1")
            except OSError as error:
                yield Finding(
                    "problem", f"no process can listen on 127.0.0.1: {error}", "Ray needs it: see the sandbox's rules"
                )
        if address != "auto" and answers("127.0.0.1", 6379):
            text = "something listens on port 6379, perhaps the head of a Ray cluster"
            yield Finding("warning", text, "RAY_ADDRESS=127.0.0.1:6379 joins it; without it a second Ray is started")
        return
    host, port = address.rpartition("://")[2].rpartition(":")[::2]
    if not port.isdigit():
        yield Finding("problem", f"RAY_ADDRESS {address!r} is no host:port", "export RAY_ADDRESS=head:6379")
    elif answers(host, int(port)):
        yield Finding("ok", f"RAY_ADDRESS {address} answers")
    else:
        remedy = f"on the head: ray status; from here: nc -vz {host} {port}; open the port in the firewall"
        yield Finding("problem", f"nothing answers at RAY_ADDRESS {address}", remedy)


def answers(host: str, port: int) -> bool:
    """Return whether something accepts connections there within seconds."""
    try:
        with socket.create_connection((host, port), timeout=_HTTP_S / 2):
            return True
    except OSError:
        return False


# storage -----------------------------------------------------------------------------------------------------------


def check_storage(spec: SweepSpec | None) -> Iterator[Finding]:
    """Write, read, list and delete a probe where the sweep's results go, and look at the storage's clock."""
    location = spec.storage_path if spec else "./sweeps"
    probe = f"selgen_doctor_{uuid.uuid4().hex[:12]}"
    try:
        yield from _probe(Folder(location), Folder(location) / probe)
    except StorageError as error:
        remedy = "create it, or name another storage_path"
        if "://" in location:
            remedy = "check the bucket, the endpoint and the credentials, which come from the environment"
        yield Finding("problem", f"{location}: {error}", remedy)


def _probe(root: Folder, folder: Folder) -> Iterator[Finding]:
    begun = time.monotonic()
    was_there = root.local_path is None or root.local_path.exists()
    content = uuid.uuid4().bytes * 64
    try:
        before = time.time()
        folder.write("probe", content, for_s=_HTTP_S)
        after = time.time()
        if folder.read("probe") != content or folder.files() != ["probe"]:
            yield Finding(
                "problem", f"{root}: what was written is not what is read or listed", "it is no storage for results"
            )
            return
        stamp = folder.stamps("probe")
        if not (folder.create("once", b"1") and not folder.create("once", b"2")):
            text = f"{root}: a file that is there was created again"
            yield Finding(
                "problem", text, "two drivers could take one sweep: run one at a time, or use another storage"
            )
    finally:
        folder.delete()
        if not was_there and root.local_path is not None and not any(root.local_path.iterdir()):
            root.local_path.rmdir()
    if folder.files():
        yield Finding("problem", f"{root}: a deleted file is still there", "give the credentials the right to delete")
    yield Finding("ok", f"{root}: writes, reads, lists, creates once and deletes, in {time.monotonic() - begun:.1f} s")
    if stamp:
        there = stamp[0][1] / 1e9
        yield from clock_findings("storage's", there - min(max(there, before - 1), after + 1))
    if root.local_path is not None:
        free = shutil.disk_usage(root.local_path if root.local_path.exists() else Path.cwd()).free
        if free < _LEAST_DISK:
            yield Finding(
                "warning", f"{free / _GIB:.1f} GiB free there", "make room: models and checkpoints are kept there"
            )
        address = os.environ.get("RAY_ADDRESS", "")
        if address not in ("", "local"):
            text = f"{root} is a path, and RAY_ADDRESS names a cluster"
            yield Finding("warning", text, "every node must see this folder (NFS), or use s3://, gs:// or abfs://")


def clock_findings(whose: str, ahead_s: float) -> Iterator[Finding]:
    """Yield what there is to say of a clock that is `ahead_s` seconds ahead of this machine's."""
    text = f"the {whose} clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    if abs(ahead_s) > _CLOCK_REFUSED_S:
        yield Finding("problem", text, "set it by NTP (timedatectl set-ntp true): object stores refuse such requests")
    elif abs(ahead_s) > _CLOCK_S:
        yield Finding("warning", text, "set it by NTP (timedatectl set-ntp true): times in logs do not compare")
    else:
        yield Finding("ok", f"the {whose} clock is that of this machine")


# credentials and the hub -------------------------------------------------------------------------------------------


def _configs(spec: SweepSpec | None) -> list[TrialConfig]:
    if spec is None:
        return []
    return [
        trial.config for trial in (*spec.trials, *(sample for search in spec.searches for sample in search.samples))
    ]


def check_credentials(spec: SweepSpec | None) -> Iterator[Finding]:
    """Look whether the credentials that the sweep needs are there; no value is printed."""
    present = [name for name in _KNOWN_SECRETS if os.environ.get(name)]
    yield Finding("ok", f"set in the environment: {', '.join(present) or 'none of ' + ', '.join(_KNOWN_SECRETS)}")
    configs = _configs(spec)
    keys = {c.evals.judge.api_key_env for c in configs if c.evals.judge.model and c.evals.judge.api_key_env}
    for name in sorted(keys):
        if not os.environ.get(name):
            remedy = f"export {name}=..., here and on the nodes, or evals.judge.api_key_env: null for one without a key"
            yield Finding("problem", f"the judge's key {name} is not set", remedy)
    if any(c.finetune_config.push_to_hub for c in configs):
        from huggingface_hub import get_token  # only sweeps that push need it

        if not get_token():
            yield Finding(
                "problem", "push_to_hub, and there is no token of the hub", "export HF_TOKEN=..., or hf auth login"
            )


def check_hub(spec: SweepSpec | None) -> Iterator[Finding]:
    """Look whether the Hugging Face hub can be reached, and models that are not on this machine be found."""
    from huggingface_hub import constants  # inside the time that the check has

    names = {
        (c.finetune_config.model, c.finetune_config.model_revision)
        for c in _configs(spec)
        if c.finetune_config.model != "toy" and is_hub_id(c.finetune_config.model)
    }
    if constants.HF_HUB_OFFLINE:
        if not names:
            yield Finding("ok", "HF_HUB_OFFLINE is set: models and data sets are local")
    else:
        yield from _reach(constants.ENDPOINT, bool(names))
    for name, revision in sorted(names, key=str):
        try:
            find_files("model", name, revision)
            yield Finding("ok", f"{name} is found")
        except INPUT_ERRORS as error:
            remedy = "download it where there is a network (hf download), or set HF_TOKEN if its terms must be accepted"
            yield Finding(
                "problem", str(error), "unset HF_HUB_OFFLINE, or " + remedy if constants.HF_HUB_OFFLINE else remedy
            )


def _reach(endpoint: str, is_needed: bool) -> Iterator[Finding]:
    import requests

    try:
        response = requests.head(endpoint, timeout=_HTTP_S, allow_redirects=True)
    except requests.RequestException as error:
        text = f"{endpoint} cannot be reached ({type(error).__name__})"
        remedy = "set HTTPS_PROXY or HF_ENDPOINT; with local models only: export HF_HUB_OFFLINE=1"
        yield Finding("problem" if is_needed else "warning", text, remedy)
        return
    yield Finding("ok", f"{endpoint} answers")
    if date := response.headers.get("Date"):
        yield from clock_findings("hub's", parsedate_to_datetime(date).timestamp() - time.time())


# Ray ---------------------------------------------------------------------------------------------------------------


def check_ray(spec: SweepSpec | None, timeout_s: float = 100.0) -> Iterator[Finding]:
    """Start or join Ray, and compare versions, clocks and the view of the storage on each node."""
    marker: Path | None = None
    folder = Folder(spec.storage_path if spec else "./sweeps").local_path
    if folder is not None and folder.is_dir() and os.environ.get("RAY_ADDRESS", "local") != "local":
        marker = folder / f"selgen_doctor_{uuid.uuid4().hex[:12]}"
        marker.touch()
    command = [sys.executable, "-m", "selgen_ray.cluster.health", *([str(marker)] if marker else [])]
    pipe, errors = subprocess.PIPE, ""
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        out, errors = process.communicate(timeout=timeout_s)
        answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the Ray that it has started
        process.communicate()
        remedy = "ray status; the logs are in /tmp/ray/session_latest/logs; --timeout waits longer"
        yield Finding("problem", f"Ray did not answer within {timeout_s:g} s", remedy)
        return
    except (LookupError, ValueError):
        yield Finding("problem", f"Ray cannot be used: {' '.join(errors.split())[-300:]}", "reinstall ray")
        return
    finally:
        if marker:
            marker.unlink(missing_ok=True)
    yield from ray_findings(answer)


def ray_findings(answer: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what there is to say of an answer of `selgen_ray.cluster.health`."""
    if error := answer.get("error"):
        remedy = "the logs are in /tmp/ray/session_latest/logs"
        if "ersion mismatch" in error:
            remedy = f"install the cluster's versions of Ray and Python here, or ray {answer['version']} there"
        elif os.environ.get("RAY_ADDRESS"):
            remedy = "is it running (ray status on its head)? One with token authentication needs RAY_AUTH_MODE=token"
        yield Finding("problem", f"Ray cannot be used: {str(error)[:400]}", remedy)
        return
    nodes: Sequence[Mapping[str, Any]] = answer["nodes"]
    gpus = sum(node.get("gpus", 0) for node in nodes)
    how = "a local Ray starts" if answer["address"] == "local" else f"joined {answer['address']}"
    yield Finding(
        "ok", f"Ray {answer['version']}: {how}, {len(nodes)} node{'' if len(nodes) == 1 else 's'}, {gpus:g} GPUs"
    )
    here = {"Python": platform.python_version(), **{n: _version(n) for n in ("ray", _PACKAGE, "torch")}}
    for node in nodes:
        name = node["host"]
        if "error" in node:
            yield Finding("problem", f"node {name} runs nothing: {node['error']}", "ray status; see that node's logs")
            continue
        different = [
            f"{k} {there or 'missing'} (here {here[k]})" for k, there in node["versions"].items() if there != here[k]
        ]
        if different:
            text = f"node {name} has {', '.join(different)}"
            yield Finding(
                "problem", text, "use one image or environment on all nodes (pip install -c constraints.txt .)"
            )
        if not node["sees"]:
            yield Finding(
                "problem", f"node {name} does not see storage_path", "a shared folder, or s3://, gs://, abfs://"
            )
        if abs(node["clock_s"]) > _CLOCK_S:
            yield from clock_findings(f"node {name}'s", node["clock_s"])


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


CHECKS: dict[str, Check] = {
    "python": check_python,
    "gpus": check_gpus,
    "memory": check_memory,
    "ports": check_ports,
    "storage": check_storage,
    "credentials": check_credentials,
    "hub": check_hub,
    "ray": check_ray,
}


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
