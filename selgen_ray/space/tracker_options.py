"""The `trackers` of a search space: where the numbers of its trials are sent besides results.json."""

from __future__ import annotations

import importlib.util
import netrc
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from selgen_ray.errors import Problem, nearest
from selgen_ray.schema import Strict
from selgen_ray.storage.secrets import holds_secret, looks_secret
from selgen_ray.syntax.keys import Keys, held
from selgen_ray.syntax.paths import expanded
from selgen_ray.syntax.tree import Node, show


class TensorBoard(Strict):
    """Event files in the sweep's folder, under tensorboard/."""


class Wandb(Strict):
    """Weights & Biases; options of `wandb.init`."""

    project: str | None = Field(default=None, description="default: WANDB_PROJECT, or the sweep's name")
    entity: str | None = Field(default=None, description="team or user; default: WANDB_ENTITY, or the account's own")
    group: str | None = Field(default=None, description="default: the setting, so that seeds are together")
    job_type: str | None = Field(default=None, description="default: none")
    tags: list[str] = Field(default=[], description="of every run")
    notes: str | None = Field(default=None, description="of every run")
    mode: Literal["online", "offline"] | None = Field(default=None, description="default: WANDB_MODE, or online")
    dir: str | None = Field(default=None, description="local folder of its files; default: the sweep's")


class MLflow(Strict):
    """MLflow; one experiment for the sweep."""

    tracking_uri: str | None = Field(
        default=None, description="default: MLFLOW_TRACKING_URI, or mlflow.db in the sweep's folder"
    )
    experiment_name: str | None = Field(default=None, description="default: the sweep's name")
    tags: dict[str, str] = Field(default={}, description="of every run")


class Trackio(Strict):
    """Trackio; one project for the sweep."""

    project: str | None = Field(default=None, description="default: the sweep's name")
    group: str | None = Field(default=None, description="default: the setting, so that seeds are together")
    space_id: str | None = Field(default=None, description="a Hugging Face Space that shows it")
    server_url: str | None = Field(default=None, description="a Trackio server of one's own")
    dir: str | None = Field(default=None, description="local folder of its database; default: trackio/ in the sweep's")


OPTIONS: dict[str, type[Strict]] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": MLflow, "trackio": Trackio}
_PLACES = {"dir", "tracking_uri", "server_url"}
_PACKAGES = {"tensorboard": "tensorboardX"}
_CREDENTIALS = {
    "wandb": "WANDB_API_KEY",
    "mlflow": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN,",
    "trackio": "TRACKIO_WRITE_TOKEN or HF_TOKEN",
}


class Tracker(Strict):
    """A tracker and its options, those of `OPTIONS[name]`."""

    name: Literal["tensorboard", "wandb", "mlflow", "trackio"]
    options: dict[str, Any] = Field(default={}, description="as the file has them")

    @property
    def settings(self) -> Any:
        """The tracker's options, defaults included."""
        return OPTIONS[self.name](**self.options)


def use_trackers(tree: Node, problems: list[Problem]) -> Node:
    """Return the search space with its trackers as plain `Tracker` fields; report and leave out what is wrong.

    No message shows the value of an option that may be a secret.
    """
    listed = tree.value.get("trackers")
    if listed is None or listed.value is None:
        return tree
    if not isinstance(listed.value, list):
        problems.append(listed.problem(f"allowed: a list of {', '.join(OPTIONS)}, such as [tensorboard]."))
        return Node({key: node for key, node in tree.value.items() if key != "trackers"}, tree.origin)
    by_name: dict[str, Node] = {}
    for node in listed.value:
        name, tracker = _read(node, problems)
        if name in by_name:
            problems.append(node.problem(f"{name!r} is given twice."))
        elif tracker:
            by_name[name] = tracker
    return Node({**tree.value, "trackers": Node(list(by_name.values()), listed.origin)}, tree.origin)


def _read(node: Node, problems: list[Problem]) -> tuple[str, Node | None]:
    """Return the name of a tracker, and a node with the fields of `Tracker`; None, and a problem, if it is wrong."""
    entries: dict[str, Node] = node.value if isinstance(node.value, dict) else {"name": node}
    name = entries["name"].value if "name" in entries else None
    if not isinstance(name, str):
        problems.append(node.problem("allowed: the name of a tracker, or a mapping {name: ..., option: ...}."))
        return "", None
    if name not in OPTIONS:
        message = f"unknown tracker {show(name)}. Allowed: {', '.join(OPTIONS)}.{nearest(name, OPTIONS)}"
        problems.append(entries["name"].problem(message))
        return name, None
    package = _PACKAGES.get(name, name)
    if importlib.util.find_spec(package) is None:
        problems.append(node.problem(f"{name!r} is not installed: pip install {package}"))
    options = {key: child for key, child in entries.items() if key != "name"}
    for key in _PLACES & options.keys():
        if (known := expanded(options[key], problems)) is None:
            return name, None
        options[key] = known
    # a list, so that all are reported
    fit = [_option_fits(name, key, child, problems) for key, child in options.items()]
    if not all(fit):
        return name, None
    return name, Node({"name": entries["name"], "options": Node(options, node.origin)}, node.origin)


def _option_fits(name: str, key: str, node: Node, problems: list[Problem]) -> bool:
    fields, value = OPTIONS[name].model_fields, node.plain()
    if key not in fields and looks_secret(str(key)):
        message = (
            f"{key!r} may be a secret, which does not belong in a file: set {_CREDENTIALS.get(name, 'it')} in the "
        )
        problems.append(node.problem(f"{message}environment, and leave it out."))
    elif key not in fields:
        problems.append(node.problem(Keys({"": dict(fields)}, {}, frozenset()).unknown(str(key))))
    elif isinstance(value, str) and holds_secret(value):
        message = f"holds a password or token, which does not belong in a file: set {_CREDENTIALS[name]} in the "
        problems.append(node.problem(f"{message}environment."))
    else:
        return held(fields[key], node, problems) is not None
    return False


def misplaced(trackers: list[Tracker], storage_path: str) -> list[str]:
    """Return why trackers cannot work here: no credentials, or nowhere to keep their files."""
    env, messages = os.environ, []
    remote = "://" in storage_path and not storage_path.startswith("file://")
    for tracker in trackers:
        options, why = tracker.settings, ""
        if tracker.name == "wandb":
            mode = options.mode or env.get("WANDB_MODE", "online")
            if mode == "online" and not _is_logged_in():
                why = "there is no login: set WANDB_API_KEY in the environment, or mode: offline"
            elif mode == "offline" and remote and not (options.dir or env.get("WANDB_DIR")):
                why = "offline runs are local files, and storage_path is none: set dir to a local folder"
        elif tracker.name == "mlflow" and remote and not (options.tracking_uri or env.get("MLFLOW_TRACKING_URI")):
            why = "its database cannot lie in storage_path: set tracking_uri, or MLFLOW_TRACKING_URI in the environment"
        elif tracker.name == "trackio" and remote:
            given = [options.dir, options.space_id, options.server_url]
            given += [env.get(name) for name in ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")]
            why = "" if any(given) else "its database cannot lie in storage_path: set dir, space_id or server_url"
        if why:
            messages.append(f"{tracker.name}: {why}.")
    return messages


def _is_logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    path = os.environ.get("NETRC") or "~/.netrc"
    try:
        return netrc.netrc(str(Path(path).expanduser())).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError, RuntimeError):
        return False
