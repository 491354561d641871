"""A local server that speaks /chat/completions as told: scores, log-probabilities, errors, silence, garbage."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-a-secret-of-the-tests"
Say = Callable[[str, int], Any]
"""(prompt, how often it was asked before) -> a text; a number: that status; a dict: see `_answer`; None: silence."""


class JudgeServer(ThreadingHTTPServer):
    """Keeps every request.

    Attributes:
        requests: bodies, in order. keys: their Authorization. most_at_once: requests that were open together.
    """

    daemon_threads = True

    def __init__(self, say: Say, delay_s: float = 0.0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.say, self.delay_s = say, delay_s
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.open, self.most_at_once = 0, 0
        self.lock, self.ended = threading.Lock(), threading.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        pass  # a client that went away


@contextlib.contextmanager
def judge_server(say: Say, delay_s: float = 0.0) -> Iterator[JudgeServer]:
    server = JudgeServer(say, delay_s)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()


def with_log_probs(text: str, first: str, p: dict[str, float]) -> dict[str, Any]:
    """An answer that offers log-probabilities of its first token."""
    top = [{"token": token, "logprob": math.log(share)} for token, share in p.items()]
    return {"text": text, "logprobs": {"content": [{"token": first, "logprob": -0.1, "top_logprobs": top}]}}


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, prompt = self.server, body["messages"][0]["content"]
        with server.lock:
            before = sum(r["messages"][0]["content"] == prompt for r in server.requests)
            server.requests.append(body)
            server.keys.append(self.headers.get("Authorization"))
            server.open += 1
            server.most_at_once = max(server.most_at_once, server.open)
        try:
            time.sleep(server.delay_s)
            self._answer(server.say(prompt, before), body)
        finally:
            with server.lock:
                server.open -= 1

    def _answer(self, said: Any, body: dict[str, Any]) -> None:
        if said is None:
            self.server.ended.wait(20)
            self.close_connection = True
            return
        if isinstance(said, int):
            said = {"status": said, "raw": f"status {said} for {self.headers.get('Authorization')}"}
        if isinstance(said, str):
            said = {"text": said}
        if "drip" in said:  # a byte now and then: no single read ever times out
            self._head(200, {"Content-Length": "1000"})
            with contextlib.suppress(OSError):
                while not self.server.ended.wait(said["drip"]):
                    self.wfile.write(b" ")
                    self.wfile.flush()
            return
        if "raw" in said:
            content = said["raw"].encode()
        else:
            message = {"role": "assistant", "content": said["text"]}
            choice = {"index": 0, "message": message, "logprobs": said.get("logprobs"), "finish_reason": "stop"}
            content = json.dumps({"id": "x", "model": body["model"], "choices": [choice]}).encode()
        self._head(said.get("status", 200), {**said.get("headers", {}), "Content-Length": str(len(content))})
        self.wfile.write(content)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
