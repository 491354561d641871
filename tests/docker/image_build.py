"""Building an image from its Dockerfile without a container engine: every instruction executed, each in a layer.

The base image is a stand-in: Debian of the same release made by debootstrap, with Debian's Python of the same version
as `python` and `pip` in /usr/local/bin. Settings of pip and apt of this machine hold while it builds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from dockerfile import Instruction, context_files, options, read_dockerfile, substituted
from roots import DEFAULT_PATH, Image, Mount, bind, identity, in_folder, mounted, namespaces, overlay, system

DEBIAN = {"python:3.11-slim-bookworm": ("bookworm", "3.11")}
DOCKER_CLEAN = Path("/etc/apt/apt.conf.d/docker-clean")  # Debian's images have it: apt keeps no packages


class BuildError(RuntimeError):
    """A RUN failed; the message has what it printed."""


class Builder:
    """Builds the stages of a Dockerfile.

    Args:
        folder: for the layers; a layer that is there already is taken as it is.
        context: what COPY copies from, through its .dockerignore.
        arguments: the `--build-arg`s.
    """

    def __init__(self, folder: Path, context: Path, arguments: dict[str, str]):
        self._folder, self._context, self._arguments = folder, context, arguments
        self._settings, self._machine = pip_settings()
        settings = [path for path in Path("/etc/apt/apt.conf.d").iterdir() if path.name != DOCKER_CLEAN.name]
        self._machine += [Mount(path, str(path), True) for path in [*settings, Path("/etc/apt/auth.conf.d")]]
        self._machine += [Mount(Path(p).resolve(), p, True) for p in ("/etc/resolv.conf", "/etc/ssl/certs")]
        self._stages: dict[str, Image] = {}
        self._image = Image(())
        self.log: list[str] = []

    def build(self, dockerfile: Path) -> Image:
        """The last stage.

        Raises:
            BuildError: a command failed.
        """
        for instruction in read_dockerfile(dockerfile.read_text()):
            getattr(self, f"_{instruction.name.lower()}")(instruction)
            self._stages[self._stage] = self._image
        unknown = self._arguments.keys() - self._declared
        if unknown:
            raise BuildError(f"build arguments that no ARG declares: {sorted(unknown)}")
        return self._image

    _declared: frozenset[str] = frozenset()
    _stage = ""

    def _from(self, given: Instruction) -> None:
        source, *name = re.split(r"\s+AS\s+", given.text, flags=re.IGNORECASE)
        base = self._stages.get(source) or self.base(source)
        # its arguments too: a stage that starts from another one inherits them
        self._stage, self._image = name[0] if name else f"stage {len(self._stages)}", base

    def base(self, name: str) -> Image:
        """The stand-in for a base image."""
        release, version = DEBIAN[name]
        layer = self._folder / f"base-{release}"
        env = {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8"}
        if not layer.exists():
            partial = layer.with_suffix(".partial")
            packages = "ca-certificates,netbase,tzdata,python3,python3-pip,python3-venv"
            command = [
                "debootstrap",
                "--variant=minbase",
                f"--include={packages}",
                release,
                str(partial),
                *mirror(release),
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PATH": DEFAULT_PATH})
            for program in ("python", "python3", f"python{version}"):
                (partial / "usr/local/bin" / program).symlink_to(f"/usr/bin/python{version}")
            (partial / "usr/local/bin/pip").symlink_to("/usr/bin/pip3")
            (partial / f"usr/lib/python{version}/EXTERNALLY-MANAGED").unlink()
            clean = 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };\n'
            (partial / DOCKER_CLEAN.relative_to("/")).write_text(
                clean + 'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
            )
            for mount in self._machine:  # so that no layer of the image has the mount points
                mounted(bind(mount, partial))
            for package in (partial / "var/cache/apt/archives").glob("*.deb"):
                package.unlink()
            partial.rename(layer)
        return Image((layer,), env=env, cmd=("python3",))

    # -- instructions that say something of processes ----------------------------------------------------------------

    def _variables(self) -> dict[str, str]:
        return self._image.args | self._image.env

    def _change(self, **fields: object) -> None:
        self._image = replace(self._image, **fields)

    def _arg(self, given: Instruction) -> None:
        name, has_default, default = given.text.partition("=")
        self._declared |= {name}
        value = self._arguments.get(name, substituted(default, self._variables()) if has_default else None)
        if value is not None:
            self._change(args=self._image.args | {name: value})

    def _env(self, given: Instruction) -> None:
        self._change(env=self._image.env | given.pairs(self._variables()))

    def _label(self, given: Instruction) -> None:
        self._change(labels=self._image.labels | given.pairs(self._variables()))

    def _shell(self, given: Instruction) -> None:
        self._change(shell=tuple(given.words()))

    def _user(self, given: Instruction) -> None:
        self._change(user=substituted(given.text, self._variables()))

    def _expose(self, given: Instruction) -> None:
        self._change(exposed=(*self._image.exposed, *given.text.split()))

    def _command(self, given: Instruction) -> tuple[str, ...]:
        return tuple(given.words() or (*self._image.shell, given.text))

    def _entrypoint(self, given: Instruction) -> None:
        self._change(entrypoint=self._command(given), cmd=())

    def _cmd(self, given: Instruction) -> None:
        self._change(cmd=self._command(given))

    def _healthcheck(self, given: Instruction) -> None:
        name, _, rest = given.text.partition(" ")
        if name != "CMD":
            raise BuildError(f"line {given.line}: {given.text}")
        self._change(healthcheck=self._command(given._replace(text=rest.strip())))

    # -- instructions that change files ------------------------------------------------------------------------------

    def _layer(self, key: list[str], lines: list[str], env: dict[str, str] | None = None) -> None:
        """Run shell lines over the root at `self._root` and keep what they changed as a layer."""
        parts = [str(layer) for layer in self._image.layers]
        name = hashlib.sha256(json.dumps([*parts, *key, *lines, env]).encode()).hexdigest()[:16]
        layer, upper = self._folder / name, self._folder / f"{name}.partial"
        if not layer.exists():
            for leftover in (upper, self._folder / f"{upper.name}.work"):
                shutil.rmtree(leftover, ignore_errors=True)
            script = "\n".join([*overlay(self._image, upper, self._root), *lines])
            done = subprocess.run([*namespaces(), "bash", "-euc", script], capture_output=True, text=True)
            self.log.append(done.stdout + done.stderr)
            if done.returncode != 0:
                raise BuildError(f"{key[0]} (exit {done.returncode})\n{done.stdout}{done.stderr}")
            upper.rename(layer)
        self._image = self._image.with_layer(layer)

    @property
    def _root(self) -> Path:
        return self._folder / "root"

    def _workdir(self, given: Instruction) -> None:
        place = str(Path(self._image.workdir) / substituted(given.text, self._variables()))
        self._layer([f"WORKDIR {place}"], [f"mkdir -p {shlex.quote(f'{self._root}{place}')}"])
        self._change(workdir=place)

    def _copy(self, given: Instruction) -> None:
        *sources, target = (substituted(word, self._variables()) for word in given.words() or given.text.split())
        flags = dict(given.flags)
        from_, content = flags.pop("from", None), ""
        if flags:
            raise BuildError(f"line {given.line}: flags {sorted(flags)}")
        lines = []
        if from_:
            origin = self._folder / "from"
            lines += overlay(self._stages[from_], self._folder / "from.upper", origin)
        else:
            origin, content = self._kept_context()
        place = f"{self._root}{Path(self._image.workdir) / target}"
        into = target.endswith("/") or len(sources) > 1
        lines.append(f"mkdir -p {shlex.quote(place if into else str(Path(place).parent))}")
        for source in sources:
            path = origin / source.lstrip("/")
            folder = path.is_dir() or from_ is not None
            ending = "/." if folder else ""
            whole = "" if folder or into else "-T "
            if folder:
                lines.append(f"mkdir -p {shlex.quote(place)}")
            copied = shlex.quote(f"{path}{ending}")
            lines.append(f"cp -a --no-preserve=ownership {whole}{copied} {shlex.quote(place)}")
        self._layer([f"COPY {given.text}", content], lines)

    def _kept_context(self) -> tuple[Path, str]:
        """The context without what .dockerignore leaves out, and a digest of it."""
        kept, digest = self._folder / "context", hashlib.sha256()
        shutil.rmtree(kept, ignore_errors=True)
        for path in context_files(self._context, (self._context / ".dockerignore").read_text()):
            (kept / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self._context / path, kept / path)
            digest.update(path.as_posix().encode() + b"\0" + (kept / path).read_bytes())
        return kept, digest.hexdigest()

    def _run(self, given: Instruction) -> None:
        lines, image = [*system(self._root)], self._image
        for mount in self._machine:
            lines += bind(mount, self._root)
        points = []
        for name, value in given.flags:
            if name != "mount":
                raise BuildError(f"line {given.line}: flag {name}")
            found = options(value)
            lines += self._mount(found)
            points.append(found["target"])
        env = {"HOME": image.home(), **image.args, **self._settings, **image.env}
        argv = given.words() or [*image.shell, given.text]
        command = [*identity(image.user, privileged=True), *in_folder(env, image.workdir, argv)]
        lines.append(shlex.join(["chroot", str(self._root), *command]))
        lines += [line for point in points for line in self._unmount(point)]
        self._layer([f"RUN {given.text}"], lines, env)

    def _mount(self, found: dict[str, str]) -> list[str]:
        if found["type"] == "cache":
            source = self._folder / "caches" / found["target"].strip("/").replace("/", "_")
            source.mkdir(parents=True, exist_ok=True)
            return bind(Mount(source, found["target"]), self._root)
        if found["type"] == "bind" and "from" in found:
            origin = self._folder / "from"
            lines = overlay(self._stages[found["from"]], self._folder / "from.upper", origin)
            target = shlex.quote(f"{self._root}{found['target']}")
            source = shlex.quote(f"{origin}{found['source']}")
            return [*lines, f"mkdir -p {target}", f"mount --bind -o ro {source} {target}"]
        raise BuildError(f"a mount that is not known: {found}")

    def _unmount(self, target: str) -> list[str]:
        """And away with an empty mount point, as BuildKit does."""
        place = shlex.quote(f"{self._root}{target}")
        return [f"umount {place}", f"rmdir {place}"]


def pip_settings() -> tuple[dict[str, str], list[Mount]]:
    """This machine's settings of pip as variables, and the files that they name."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    rows = sorted(line.partition("=") for line in listed.stdout.splitlines())
    rows.sort(key=lambda row: row[0].startswith(":env:"))  # they win
    found = {name.rpartition(".")[2].replace("-", "_").upper(): value.strip("'") for name, _, value in rows}
    mounts = {}
    for word in " ".join(found.values()).split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            mounts[str(path)] = Mount(path, str(path), True)
            if word.startswith("file://") and path.is_dir():  # an index names files beside it
                mounts[str(path.parent)] = Mount(path.parent, str(path.parent), True)
    return {f"PIP_{name}": value for name, value in found.items()}, [mounts[name] for name in sorted(mounts)]


def mirror(release: str) -> list[str]:
    """Where this machine's apt takes the release from, if it does."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {release}", "Component: main"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.split()[:1]
