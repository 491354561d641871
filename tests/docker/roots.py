"""Root folders made of layers, and processes in them: mount, process and network namespaces of this machine's kernel.

What a container engine does, as far as an image and a compose file can tell. It needs root and Linux's util-linux.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NEEDED = ("debootstrap", "unshare", "nsenter", "setpriv", "ip")


def missing() -> str | None:
    """Why no such process can be started here, or None."""
    if os.geteuid() != 0:
        return "needs root, for chroot and namespaces"
    names = [name for name in NEEDED if shutil.which(name) is None]
    return f"not installed: {', '.join(names)}" if names else None


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine that is seen in the root."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Image:
    """Layers, lowest first, and what the Dockerfile says of processes in them."""

    layers: tuple[Path, ...]
    env: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    user: str = "0:0"
    workdir: str = "/"
    labels: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()

    def find(self, path: str) -> Path:
        """Where the file at an absolute path of the root is."""
        return next(p for layer in reversed(self.layers) if (p := layer / path.lstrip("/")).exists())

    def home(self) -> str:
        """Of `user`, as /etc/passwd says."""
        rows = [line.split(":") for line in self.find("/etc/passwd").read_text().splitlines()]
        return next((row[5] for row in rows if self.user.partition(":")[0] in (row[0], row[2])), "/")

    def with_layer(self, layer: Path) -> Image:
        return replace(self, layers=(*self.layers, layer))


def size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    seen = {(s.st_dev, s.st_ino): s.st_size for p in folder.rglob("*") if (s := p.lstat()) and not p.is_dir()}
    return sum(seen.values())


def identity(user: str, privileged: bool) -> list[str]:
    """The program in the root that becomes the user; without privileges as `cap_drop: ALL` and `no-new-privileges`."""
    uid, _, rest = user.partition(":")
    gid, *more = (rest or uid).split(",")
    groups = f"--groups={','.join(more)}" if more else "--clear-groups"
    command = ["setpriv", f"--reuid={uid}", f"--regid={gid}", groups]
    return command if privileged else [*command, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]


def in_folder(env: dict[str, str], workdir: str, argv: list[str] | tuple[str, ...]) -> list[str]:
    """A command with exactly this environment, in a folder."""
    settings = [f"{name}={value}" for name, value in env.items()]
    return ["env", "-i", *settings, "sh", "-c", 'cd "$0" && exec "$@"', workdir, *argv]


def overlay(image: Image, upper: Path, at: Path) -> list[str]:
    """Shell lines that mount the image's root at `at`; changes go to `upper`."""
    for folder in (upper, work := upper.with_name(f"{upper.name}.work"), at):
        folder.mkdir(parents=True, exist_ok=True)
    lower = ":".join(str(layer) for layer in reversed(image.layers))
    given = f"lowerdir={lower},upperdir={upper},workdir={work}"
    return [f"mount -t overlay overlay -o {shlex.quote(given)} {shlex.quote(str(at))}"]


def bind(mount: Mount, at: Path) -> list[str]:
    """Shell lines that bind a mount below the root at `at`."""
    source, target = shlex.quote(str(mount.source)), shlex.quote(f"{at}{mount.target}")
    parent = shlex.quote(str(Path(f"{at}{mount.target}").parent))
    place = f"{{ mkdir -p {parent} && touch {target}; }}" if mount.source.is_file() else f"mkdir -p {target}"
    lines = [f"[ -e {target} ] || {place}", f"mount --bind {source} {target}"]
    return [*lines, f"mount -o remount,bind,ro {target}"] if mount.read_only else lines


def system(at: Path, shm_size: str = "64m") -> list[str]:
    """Shell lines for /proc, /sys and /dev/shm."""
    root = shlex.quote(str(at))
    lines = [f"mount -t proc proc {root}/proc", f"mount -t sysfs -o ro sysfs {root}/sys"]
    return [*lines, f"mkdir -p {root}/dev/shm", f"mount -t tmpfs -o mode=1777,size={shm_size} shm {root}/dev/shm"]


def namespaces(*more: str) -> list[str]:
    """The start of a command whose mounts and processes are its own and end with it."""
    return ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", *more]


def mounted(lines: list[str]) -> None:
    """Run shell lines in namespaces of their own."""
    subprocess.run([*namespaces(), "bash", "-euc", "\n".join(lines)], check=True)
