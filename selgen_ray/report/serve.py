"""`python -m selgen_ray.report SWEEP --serve`: a page on this machine that follows the sweep, and steers it.

The page is a panel with the trials, and in it the report as `--watch` writes it. Who may do what:

- it listens on 127.0.0.1 alone, and answers only to the names 127.0.0.1 and localhost, so that no other site that has
  its name point here (DNS rebinding) reads anything;
- whoever holds the token, which is new at each start and stands after the # of the printed address, may stop, retry and
  add. It is sent as a header, which a form of another site cannot, with an Origin that must be this page's own;
- the report stands in a frame of another origin, localhost: nothing that a trial wrote into it reaches the token.

Requests are carried out by the commands `sweep stop`, `retry` and `add`, in a process each, so that they are checked,
written to control/ and told in words as in a terminal.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import logging
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from selgen_ray.errors import StorageError
from selgen_ray.reading import read_heads
from selgen_ray.records.control import LIVE, Control
from selgen_ray.records.names import is_trial_id, trial_name
from selgen_ray.records.results import ResultHead
from selgen_ray.records.status import TrialStatus
from selgen_ray.report.arguments import PORT
from selgen_ray.report.follow import stamps_of
from selgen_ray.report.model import Report
from selgen_ray.report.progress import read_plan
from selgen_ray.report.text import PAGE
from selgen_ray.storage import Folder
from selgen_ray.storage.folder import as_object, json_object

logger = logging.getLogger(__name__)
HOST = "127.0.0.1"
EVERY_S = 2.0
TOKEN = "X-Selgen-Token"
_NAMES = (HOST, "localhost")
_MOST_BYTES = 65_536  # of a request
_PATIENCE_S = 300.0  # for a command; `add` imports PyTorch and reads the rows
_FILE = re.compile(r"(?:[A-Za-z0-9_-][\w.-]*/)?[A-Za-z0-9_-][\w.-]*")
_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "json": "application/json",
    "md": "text/plain; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
}
_PANEL = {"/": "serve.html", "/serve.js": "serve.js", "/serve.css": "serve.css"}
_PANEL_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "frame-src http://localhost:*; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_REPORT_POLICY = f"frame-ancestors http://{HOST}:*"
_NO_REPORT = (
    "<!doctype html><title>no report yet</title><p>No trial has a result yet: the report appears with the first."
)


class PortError(OSError):
    """The port cannot be had; the message says what to do."""


@dataclass
class Following:
    """A sweep as the page shows it, read anew by `look`; the report is written anew where results have changed.

    Attributes:
        state: the JSON of the trials, and its hash.
        report: the report as it was written last.
        place: its folder; None before anything is written.
    """

    sweep: Folder
    write: Callable[[], Report]
    state: tuple[bytes, str] = (b"{}", "")
    report: Report | None = None
    place: Folder | None = None
    _before: Any = None
    _heads: Sequence[ResultHead] = ()
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> None:
        """Read what has changed. An error of the storage is shown on the page, and nothing else of it changes."""
        with self._lock:
            try:
                self._write_if_changed()
                content = self._content()
            except StorageError as error:
                logger.warning("not this time: %s", error)
                content = json_object(self.state[0]) | {"problem": f"the sweep's folder cannot be read: {error}"}
            text = json.dumps(content).encode()
            self.state = text, hashlib.sha256(text).hexdigest()[:16]

    def file(self, name: str) -> bytes | None:
        """Return a file of the report; None: the report wrote none of that name, or there is a link in its place.

        Whoever may write to the sweep's folder could lay a link there, and have a file of this machine shown.
        """
        report, place = self.report, self.place
        if place is None or report is None or name not in report.paths:
            return None
        if (local := place.local_path) and (local / name).resolve() != local.parent.resolve() / local.name / name:
            return None
        try:
            return place.read(name)
        except OSError:  # a FileNotFoundError, a loop of links, or the storage does not answer
            return None

    def _write_if_changed(self) -> None:
        if (after := stamps_of([self.sweep])) != self._before:
            self._heads = [head for _, head in read_heads(self.sweep)]
            self.report = self.write()
            self._before = after
            if page := self.report.paths.get(PAGE):
                self.place = Folder(page.removesuffix(f"/{PAGE}"))

    def _content(self) -> dict[str, Any]:
        control = Control(self.sweep)
        plan, live = read_plan([self.sweep]), control.read(LIVE)
        stopped, removed, retried = control.stop.names(), control.removed.names(), control.retry.names()
        heads = {head.trial_id: head for head in self._heads}
        names = dict(plan.names) | {i: trial_name(head.slug, head.seed) for i, head in heads.items()}
        lines = {name: as_object(line) for name, line in live.get("running", {}).items() if name in plan.running}
        trials: list[dict[str, Any]] = []
        for trial_id, name in sorted(names.items(), key=lambda item: item[1]):
            status = heads[trial_id].status if trial_id in heads else TrialStatus.PENDING
            if name in plan.running and not status.is_finished:
                status = TrialStatus.RUNNING
            elif trial_id in removed:
                status = TrialStatus.REMOVED
            elif status is TrialStatus.RUNNING:
                status = TrialStatus.PREEMPTED
            asked = "to stop" if trial_id in stopped and not status.is_final else ""
            asked = "to run again" if trial_id in retried else asked
            line = lines.get(name, {})
            at = f"step {line['step']:g} of {line['num_steps']:g}" if "step" in line else ""
            trials.append(
                {"id": trial_id, "name": name, "status": str(_WORDS.get(status, status)), "at": at, "asked": asked}
            )
        is_run = bool(live) and not live.get("over") and bool(live.get("running") or plan.running)
        return {"title": self.sweep.name, "trials": trials, "running": is_run, "problem": ""}


_WORDS = {TrialStatus.PENDING: "waiting", TrialStatus.PREEMPTED: "cut off"}


class WrongRequest(ValueError):
    """Something that no command can be made of; the message says what."""


def command_of(request: Mapping[str, Any], sweep: str) -> list[str]:
    """Return the arguments of the `sweep` command that a request of the page stands for.

    Args:
        request: {"do": "stop" | "retry", "trial": its id}, or {"do": "add", "trial": id, "changes": ["key=value", ...],
            "seeds": [7, ...], "warm": true}.

    Raises:
        WrongRequest: it is none of these.
    """
    do, trial = request.get("do"), request.get("trial")
    if not is_trial_id(trial):
        raise WrongRequest("the request names no trial by its id")
    if do == "stop":
        return ["stop", sweep, str(trial), "--why", "stopped on the report's page"]
    if do == "retry":
        return ["retry", sweep, str(trial)]
    if do != "add":
        raise WrongRequest(f"found {do!r:.40}; allowed: stop, retry, add")
    changes, seeds = request.get("changes", []), request.get("seeds", [])
    if not isinstance(changes, list) or not all(isinstance(one, str) and "\0" not in one for one in changes):
        raise WrongRequest("changes are lines of KEY=VALUE")
    if not isinstance(seeds, list) or not all(type(one) is int and one >= 0 for one in seeds):
        raise WrongRequest("seeds are whole numbers from 0, with spaces between them")
    args = ["add", sweep, f"--from={trial}", *(f"--set={one}" for one in changes)]
    args += ["--seeds", *map(str, seeds)] if seeds else []
    return [*args, *(["--warm-start"] if request.get("warm") is True else [])]


def run_command(args: Sequence[str]) -> tuple[bool, str]:
    """Run a `sweep` command in a process of its own; return whether it was done, and what it said."""
    command = [sys.executable, "-m", "selgen_ray.sweep", *args]
    try:
        # in a session of its own: Ctrl-C here must not end a command half way
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer after {_PATIENCE_S:.0f} s: give the command in a terminal to see why"
    said = (done.stdout + done.stderr if done.returncode == 0 else done.stderr or done.stdout).strip()
    return done.returncode == 0, said[-4000:] or f"it ended with status {done.returncode}"


class Server(ThreadingHTTPServer):
    """The server of one sweep's page.

    Args:
        port: 0: any that is free.
        sweep: the sweep as the user named it, for the commands.
        run: carries a command out; see `run_command`.

    Raises:
        PortError: the port cannot be had.
    """

    daemon_threads = True

    def __init__(
        self,
        following: Following,
        sweep: str,
        port: int = PORT,
        run: Callable[[Sequence[str]], tuple[bool, str]] = run_command,
    ):
        self.following, self.sweep, self.run = following, sweep, run
        self.token = secrets.token_urlsafe(24)
        self.one_at_a_time = threading.Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = "another process listens there" if error.errno == errno.EADDRINUSE else "it is not open to this user"
            hint = f"give another one, such as --port {max(port, 1023) + 1}, or --port 0 for any that is free"
            raise PortError(f"--port {port}: {why}; {hint}") from error

    @property
    def address(self) -> str:
        """The address of the page, with the token behind its #, which no browser sends to anybody."""
        return f"http://{HOST}:{self.server_address[1]}/#token={self.token}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that an answer failed, unless the browser has only gone away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            logger.exception("a request to the page failed")


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]  # its type is known here
    protocol_version = "HTTP/1.1"
    timeout = 30  # of a browser that says nothing more
    server_version, sys_version = "selgen_ray", ""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: every look of an open page would be a line."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        name = self._name()
        if name is None:
            return
        if path.startswith("/report/"):
            self._report(path.removeprefix("/report/") or PAGE)
        elif name != HOST:  # the panel has one origin, which is not that of the report
            self._answer(HTTPStatus.PERMANENT_REDIRECT, b"", more={"Location": f"http://{HOST}:{self._port()}/"})
        elif path == "/state":
            content, mark = self.server.following.state
            self._answer(HTTPStatus.OK, content, _TYPES["json"], mark)
        elif path in _PANEL:
            file = _PANEL[path]
            content = (resources.files("selgen_ray.report") / "assets" / file).read_bytes()
            more = {"Content-Security-Policy": _PANEL_POLICY}
            self._answer(HTTPStatus.OK, content, _TYPES[file.rpartition(".")[2]], more=more)
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there is no such page")

    def do_POST(self) -> None:
        name, length = self._name(), self.headers.get("Content-Length", "")
        if name is None:
            return
        if not length.isdecimal() or int(length) > _MOST_BYTES:
            self.close_connection = True
            self._told(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has {_MOST_BYTES} bytes at most")
            return
        body = self.rfile.read(int(length))
        origin, given = self.headers.get("Origin", ""), self.headers.get(TOKEN, "")
        if name != HOST or origin != f"http://{self.headers.get('Host', '')}":
            self._told(HTTPStatus.FORBIDDEN, "a request must come from this page itself")
        elif not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.server.token.encode()):
            self._told(HTTPStatus.FORBIDDEN, "without the token of the address in the terminal this page only shows")
        elif urlsplit(self.path).path != "/ask" or self.headers.get_content_type() != "application/json":
            self._told(HTTPStatus.BAD_REQUEST, "requests are JSON, sent to /ask")
        else:
            self._ask(body)

    def _ask(self, body: bytes) -> None:
        try:
            args = command_of(json_object(body), self.server.sweep)
        except WrongRequest as error:
            self._told(HTTPStatus.BAD_REQUEST, str(error))
            return
        with self.server.one_at_a_time:
            done, said = self.server.run(args)
        self.server.following.look()  # so that the page shows it at once
        self._told(HTTPStatus.OK if done else HTTPStatus.CONFLICT, said)

    def _report(self, name: str) -> None:
        following = self.server.following
        kind = _TYPES.get(name.rpartition(".")[2])
        more = {"Content-Security-Policy": _REPORT_POLICY}
        if kind is None or not _FILE.fullmatch(name):
            self._answer(HTTPStatus.NOT_FOUND, b"there is no such file", more=more)
            return
        content = following.file(name)
        if content is None and name == PAGE:
            content = _NO_REPORT.encode()
        if content is None:
            self._answer(HTTPStatus.NOT_FOUND, b"there is no such file", more=more)
            return
        self._answer(HTTPStatus.OK, content, kind, hashlib.sha256(content).hexdigest()[:16], more)

    def _port(self) -> str:
        return self.headers.get("Host", "").rpartition(":")[2]

    def _name(self) -> str | None:
        """The name that the browser knows this machine by; None, and a refusal, where it is another one's."""
        name = self.headers.get("Host", "").partition(":")[0]
        if name in _NAMES:
            return name
        self.close_connection = True
        self._told(HTTPStatus.MISDIRECTED_REQUEST, f"this page is at http://{HOST}, under no other name")
        return None

    def _told(self, status: HTTPStatus, text: str) -> None:
        self._answer(status, json.dumps({"said": text}).encode(), _TYPES["json"])

    def _answer(
        self,
        status: HTTPStatus,
        content: bytes,
        kind: str = "text/plain; charset=utf-8",
        mark: str = "",
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Send an answer; of one that the browser has already, by its ETag, the headers alone."""
        etag = f'"{mark}"' if mark else ""
        if etag and self.headers.get("If-None-Match") == etag:
            status, content = HTTPStatus.NOT_MODIFIED, b""
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-cache"}
        headers |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"} | dict(more or {})
        for name, value in (headers | ({"ETag": etag} if etag else {})).items():
            if status is not HTTPStatus.NOT_MODIFIED or not name.startswith("Content-T"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def serve(server: Server, say: Callable[[str], None], every_s: float = EVERY_S) -> None:
    """Serve the page until Ctrl-C, and look at the sweep every few seconds."""
    thread = threading.Thread(target=server.serve_forever, name="page", daemon=True)
    thread.start()
    say(f"the page, until Ctrl-C: {server.address}")
    try:
        while True:
            threading.Event().wait(every_s)
            server.following.look()
    except KeyboardInterrupt:
        say("no longer served")
    finally:
        server.shutdown()
        server.server_close()
