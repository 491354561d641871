"""`report SWEEP --serve`: a page that follows the sweep and steers it, for whoever holds its token."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_sweep import fake_result, publish
from running import environment

from selgen_ray.records.control import Control
from selgen_ray.report import cli, write_report
from selgen_ray.report.serve import TOKEN, Following, PortError, Server, WrongRequest, command_of
from selgen_ray.storage import Folder

NO_REPORT = SimpleNamespace(paths={})  # as before the first result
ID = "0123456789abcdef"


class Served:
    """A served sweep, and the commands that its page gave; `run` answers them."""

    def __init__(self, folder: Path, write: Callable[[], Any]):
        self.commands: list[list[str]] = []
        self.answer: tuple[bool, str] = (True, "done")
        following = Following(Folder(str(folder)), write)
        self.server = Server(following, str(folder), 0, self.run)
        following.look()
        following.place = following.place or Folder(str(folder / "report"))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port: int = self.server.server_address[1]

    def run(self, args: Sequence[str]) -> tuple[bool, str]:
        self.commands.append(list(args))
        return self.answer

    def get(self, path: str, host: str = "127.0.0.1", **headers: str) -> http.client.HTTPResponse:
        return self._send("GET", path, b"", {"Host": f"{host}:{self.port}"} | headers)

    def ask(self, request: Any, **changed: str | None) -> tuple[int, str]:
        """Ask as the page does, but for the headers that are `changed`; None leaves one out."""
        host = f"127.0.0.1:{self.port}"
        headers = {
            "Host": host,
            "Origin": f"http://{host}",
            TOKEN: self.server.token,
            "Content-Type": "application/json",
        }
        kept = {name: value for name, value in (headers | changed).items() if value is not None}
        answer = self._send("POST", "/ask", json.dumps(request).encode(), kept)
        return answer.status, json.loads(answer.read())["said"]

    def _send(self, verb: str, path: str, body: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(verb, path, skip_host=True)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        return connection.getresponse()


@contextlib.contextmanager
def serving(folder: Path, write: Callable[[], Any] = lambda: NO_REPORT) -> Iterator[Served]:
    served = Served(folder, write)
    try:
        yield served
    finally:
        served.server.shutdown()
        served.server.server_close()


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    results = [fake_result(seed=seed, x=0.6, y=0.7) for seed in (1, 2)]
    publish(folder, *results)
    waiting = {ID: "dpo_lambda_dpo-1_aaaaaa/seed_1"}
    plan = {result.trial_id: f"{result.slug}/seed_{result.seed}" for result in results} | waiting
    Folder(str(folder)).write_json("control/plan.json", {"trials": plan})
    return folder


def test_it_shows_every_trial_and_costs_nothing_where_nothing_changed(sweep: Path) -> None:
    with serving(sweep, lambda: write_report(str(sweep), watch_s=2)) as served:
        first = served.get("/state")
        mark = first.headers["ETag"]
        trials = {one["name"]: one["status"] for one in json.loads(first.read())["trials"]}
        assert (
            trials["dpo_lambda_dpo-1_aaaaaa/seed_1"] == "waiting" and sorted(trials.values())[:2] == ["completed"] * 2
        )
        page = served.get("/report/index.html", host="localhost")
        assert b"naive" in page.read() and "frame-ancestors" in page.headers["Content-Security-Policy"]
        served.server.following.look()
        again = served.get("/state", If_None_Match=mark)
        assert (again.status, again.read()) == (304, b"")
        Control(Folder(str(sweep))).stop.set(ID)
        served.server.following.look()
        changed = served.get("/state", If_None_Match=mark)
        assert changed.status == 200
        assert [one["asked"] for one in json.loads(changed.read())["trials"] if one["id"] == ID] == ["to stop"]


def test_only_the_page_itself_with_its_token_may_ask(sweep: Path) -> None:
    request = {"do": "stop", "trial": ID}
    with serving(sweep) as served:
        other = "http://evil.example"
        assert served.ask(request, **{TOKEN: None}) == (
            403,
            "without the token of the address in the terminal this page only shows",
        )
        for token in ("", "x", served.server.token[:-1], served.server.token + "x", "\xff"):
            assert served.ask(request, **{TOKEN: token})[0] == 403
        assert served.ask(request, Origin=None)[0] == served.ask(request, Origin=other)[0] == 403
        assert (
            served.ask(request, Origin=f"http://localhost:{served.port}")[0] == 403
        )  # that is where the report stands
        assert (
            served.ask(request, Host=f"evil.example:{served.port}", Origin=f"http://evil.example:{served.port}")[0]
            == 421
        )
        assert served.ask(request, **{"Content-Type": "text/plain"})[0] == 400
        assert served.commands == []
        assert served.ask(request) == (200, "done")
        assert served.commands == [["stop", str(sweep), ID, "--why", "stopped on the report's page"]]
        served.answer = (False, "no trial 'x' in this sweep")
        assert served.ask(request) == (409, "no trial 'x' in this sweep")


def test_under_another_name_nothing_is_read_and_no_file_beside_the_report(sweep: Path) -> None:
    (sweep / "report").mkdir()
    (sweep / "report" / ".secret.json").write_text("{}")
    with serving(sweep) as served:
        for path in ("/", "/state", "/report/index.html"):
            assert served.get(path, host="rebound.example").status == 421
        for path in (
            "../space.yaml",
            ".secret.json",
            "..%2f..%2fx.json",
            "figures/../../x.json",
            "/etc/x.json",
            "a.py",
        ):
            assert served.get(f"/report/{path}").status == 404
        assert served.get("/figures").status == 404
        moved = served.get("/", host="localhost")
        assert (moved.status, moved.headers["Location"]) == (308, f"http://127.0.0.1:{served.port}/")
        page = served.get("/")
        assert (
            served.server.token not in page.read().decode()
            and "script-src 'self'" in page.headers["Content-Security-Policy"]
        )
        assert served.server.server_address[0] == "127.0.0.1"


def test_only_what_the_report_wrote_is_served_and_no_link_in_its_place(sweep: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    for name in ("config.json", "index.html"):
        (private / name).write_text("secret")
    with serving(sweep, lambda: write_report(str(sweep))) as served:
        report = sweep / "report"
        assert served.get("/report/summary.json").status == 200
        (report / "notes.json").symlink_to(private / "config.json")
        (report / "more.json").write_text("{}")
        (report / "home").symlink_to(private)
        for name in ("notes.json", "more.json", "home/config.json"):
            assert served.get(f"/report/{name}").status == 404, name
        (report / "summary.json").unlink()
        (report / "summary.json").symlink_to(private / "config.json")
        assert served.get("/report/summary.json").status == 404
        report.rename(sweep / "before")
        report.symlink_to(private)
        assert b"secret" not in served.get("/report/index.html").read()


def test_a_request_becomes_the_words_of_a_command() -> None:
    assert command_of({"do": "retry", "trial": ID}, "s") == ["retry", "s", ID]
    add = {"do": "add", "trial": ID, "changes": ["finetune_config.beta_kl=3", "--help"], "seeds": [4, 5], "warm": True}
    options = ["--set=finetune_config.beta_kl=3", "--set=--help", "--seeds", "4", "5", "--warm-start"]
    assert command_of(add, "s") == ["add", "s", f"--from={ID}", *options]
    wrong: list[dict[str, Any]] = [{}, {"do": "rm", "trial": ID}, {"do": "stop", "trial": "--all"}]
    wrong += [
        {"do": "add", "trial": ID} | more for more in ({"changes": "a=1"}, {"seeds": [-1]}, {"changes": ["a=\0"]})
    ]
    for request in wrong:
        with pytest.raises(WrongRequest):
            command_of(request, "s")


def test_a_busy_port_is_said_with_what_to_do(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main([str(sweep), "--serve", "--port", str(port)]) == 2
        said = capsys.readouterr().err
        assert f"--port {port}: another process listens there; give another one" in said and "--port 0" in said
        with pytest.raises(PortError):
            Server(Following(Folder(str(sweep)), lambda: write_report(str(sweep))), "x", port)
    assert cli.main([str(sweep), "--port", "80"]) == 2
    assert cli.main([str(sweep), str(sweep), "--serve", "--watch"]) == 2
    said = capsys.readouterr().err
    assert (
        "--port belongs to --serve" in said
        and "takes one sweep, and there are 2" in said
        and "leave --watch out" in said
    )
    assert cli.main([str(sweep) + "x", "--serve"]) == 2 and "Did you mean" in capsys.readouterr().err


def test_a_storage_that_does_not_answer_is_said_on_the_page(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selgen_ray.errors import StorageError

    with serving(sweep) as served:

        def refuse(*_: Any) -> None:
            raise StorageError("no route to the store")

        monkeypatch.setattr("selgen_ray.report.serve.stamps_of", refuse)
        served.server.following.look()
        state = json.loads(served.get("/state").read())
        assert "no route to the store" in state["problem"] and len(state["trials"]) == 3


def test_in_a_browser(sweep: Path) -> None:
    """A result that is written beside appears; buttons reach control/; without the token there are none."""
    pytest.importorskip("playwright", reason="playwright is not installed: pip install 'selgen-ray[test]'")
    from browser import chromium, started

    chromium()
    command = [sys.executable, "-m", "selgen_ray.report", str(sweep), "--serve", "--port", "0"]
    env = environment() | {"PYTHONUNBUFFERED": "1"}
    with (
        started() as browser,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process,
    ):
        assert process.stdout
        try:
            address = re.search(r"http://127\.0\.0\.1:\d+/#token=\S+", process.stdout.readline())
            assert address
            page = browser.new_context().new_page()
            complaints: list[str] = []
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(address[0])
            row = page.locator(f"tr[data-trial='{ID}']")
            row.get_by_role("button", name="stop").click()
            page.locator("#said", has_text="is to stop").wait_for(timeout=60_000)
            assert (
                json.loads((sweep / "control" / "stop" / f"{ID}.json").read_text())["why"]
                == "stopped on the report's page"
            )
            page.locator(f"tr[data-trial='{ID}']", has_text="to stop").wait_for(timeout=60_000)
            assert "token" not in page.url
            report = page.frame_locator("#report")
            report.locator("#pareto-plot[data-drawn]").wait_for(timeout=90_000)
            publish(sweep, fake_result("wise_ft", x=0.7, y=0.9, wise_alpha=0.5))
            report.locator("#top-table").get_by_text("wise_ft").first.wait_for(timeout=90_000)
            page.locator("#trials tr", has_text="wise_ft").wait_for(timeout=60_000)
            row.get_by_role("button", name="add like it").click()
            page.fill("#changes", "finetune_config.lambda_dpo=3")
            page.fill("#seeds", "four")
            page.click("#send")
            page.locator("#said.wrong", has_text="seeds are whole numbers from 0").wait_for()

            plain = browser.new_context().new_page()
            plain.goto(address[0].partition("#")[0])
            plain.wait_for_selector(f"tr[data-trial='{ID}']")
            assert plain.locator("#trials button").count() == 0 and plain.is_visible("#read-only")
            assert complaints == []
        finally:
            process.send_signal(signal.SIGINT)
            try:
                rest, _ = process.communicate(timeout=90)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    assert process.returncode == 0 and "no longer served" in rest and "Traceback" not in rest, rest
    assert address[0].partition("token=")[2] not in rest
