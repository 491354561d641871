"""A proxy in front of a real S3 server that breaks requests on command: a bad day of an object store."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal

Kind = Literal["error", "cut", "lost", "slow", "hang"]
_CODES = {403: "AccessDenied", 404: "NoSuchBucket", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}


@dataclass
class Fault:
    """What is wrong with one request.

    Attributes:
        kind: 'error': refused with a status, not passed on; 'cut': the connection ends before the request is passed
            on; 'lost': it ends after the server has done it; 'slow': the reply comes `seconds` late; 'hang': never.
        method: of the requests that it hits, '' for any.
        path: an expression that is found in their path and query.
        left: how many requests it still hits.
    """

    kind: Kind
    left: int
    status: int = 0
    code: str = ""
    seconds: float = 0.0
    method: str = ""
    path: str = ""


class FaultyS3:
    """The proxy, listening inside its `with`.

    Attributes:
        address: 'host:port' to give to a client as its endpoint.
        requests: method -> how many requests arrived, the broken ones too.
        injected: kind of fault -> how often it was injected; 'away' counts the cut connections only.
    """

    def __init__(self, host: str, port: int):
        self._upstream = (host, port)
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._dice: tuple[random.Random, float, float] | None = None
        self._connections: set[socket.socket] = set()
        self._over = threading.Event()
        self._listener = _listen(0)
        self._port = self._listener.getsockname()[1]
        self.requests: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def uri(self, path: str = "lab/faulty") -> str:
        """A location of selgen_ray.storage behind this proxy."""
        return f"s3://{path}?endpoint_override={self.address}&scheme=http"

    def __enter__(self) -> FaultyS3:
        self._serve()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._drop()

    # -- commands --------------------------------------------------------------------------------------------------

    def fail(self, count: int, status: int = 503, code: str = "", method: str = "", path: str = "") -> None:
        """Refuse the next `count` requests."""
        self._add(Fault("error", count, status=status, code=code or _CODES[status], method=method, path=path))

    def cut(self, count: int, done: bool = False, method: str = "", path: str = "") -> None:
        """End the connections of the next `count` requests, before or after the server did what they ask for."""
        self._add(Fault("lost" if done else "cut", count, method=method, path=path))

    def delay(self, count: int, seconds: float, method: str = "") -> None:
        """Answer the next `count` requests late."""
        self._add(Fault("slow", count, seconds=seconds, method=method))

    def hang(self, count: int, method: str = "") -> None:
        """Accept the next `count` requests and never answer."""
        self._add(Fault("hang", count, method=method))

    def away(self, seconds: float) -> None:
        """Refuse all connections for a time, those that are open included."""
        self._drop()
        timer = threading.Timer(seconds, self._serve)
        timer.daemon = True
        timer.start()

    def random(self, seed: int, share: float = 0.05, slow_s: float = 0.2) -> None:
        """From now on a share of all requests fails or is slow; a share of 0 ends this."""
        with self._lock:
            self._dice = (random.Random(seed), share, slow_s) if share else None

    def reset(self) -> None:
        """Forget all faults and counts."""
        with self._lock:
            self._faults.clear()
            self._dice = None
            self.requests.clear()
            self.injected.clear()

    def _add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    # -- serving ---------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        if self._over.is_set():
            return
        if self._listener.fileno() < 0:
            self._listener = _listen(self._port)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # a close alone does not wake the thread that accepts
        self._listener.close()
        with self._lock:
            connections = list(self._connections)
        self.injected["away"] += len(connections)
        for connection in connections:
            _end(connection)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with self._lock:
                    self._connections.add(client)
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        """One connection, kept alive for any number of requests."""
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with client.makefile("rb") as incoming:
                while (request := _read_request(incoming, client)) is not None:
                    if not self._answer(client, request):
                        break
        except (OSError, ValueError):  # the client or the server went away
            pass
        finally:
            with self._lock:
                self._connections.discard(client)
            _end(client)

    def _answer(self, client: socket.socket, request: bytes) -> bool:
        """Whether the connection stays open."""
        method, path = request.split(b"\r\n", 1)[0].decode().split(" ")[:2]
        fault = self._next_fault(method, path)
        if fault is None:
            client.sendall(self._pass_on(method, request))
            return True
        if fault.kind == "error":
            client.sendall(_refusal(fault, method))
            return True
        if fault.kind == "slow":
            self._over.wait(fault.seconds)
            client.sendall(self._pass_on(method, request))
            return True
        if fault.kind == "lost":
            self._pass_on(method, request)
        elif fault.kind == "hang":
            with contextlib.suppress(OSError):
                client.recv(1)  # until the client gives up, or this proxy ends
        return False

    def _next_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests[method] += 1
            hits = (f for f in self._faults if f.left > 0 and f.method in ("", method) and re.search(f.path, path))
            found = next(hits, None)
            if found is None and self._dice is not None:
                dice, share, slow_s = self._dice
                if dice.random() < share:
                    found = dice.choice(_bad_luck(slow_s))
            if found is not None:
                found.left -= 1
                self.injected[found.kind] += 1
            return found

    def _pass_on(self, method: str, request: bytes) -> bytes:
        with socket.create_connection(self._upstream, timeout=60) as server:
            server.sendall(request)
            with server.makefile("rb") as answer:
                return _read_response(answer, method)


def _bad_luck(slow_s: float) -> list[Fault]:
    errors = [Fault("error", 1, status=status, code=_CODES[status]) for status in (500, 503)]
    return [*errors, Fault("cut", 1), Fault("lost", 1), Fault("slow", 1, seconds=slow_s)]


def _listen(port: int) -> socket.socket:
    end = time.monotonic() + 30
    while True:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:  # another holds the port for a moment
            if not port or time.monotonic() > end:
                raise
            time.sleep(0.05)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _read_head(incoming: IO[bytes]) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = incoming.readline()
        if not line:
            return b""
        head += line
    return head


def _header(head: bytes, name: bytes) -> bytes:
    found = re.search(rb"(?im)^" + name + rb":[ \t]*([^\r\n]*)", head)
    return found[1].strip().lower() if found else b""


def _read_body(incoming: IO[bytes], head: bytes) -> bytes | None:
    """The body as it came, chunk sizes included; None where nothing says how long it is."""
    if b"chunked" in _header(head, b"transfer-encoding"):
        return b"".join(_chunks(incoming))
    length = _header(head, b"content-length")
    return incoming.read(int(length)) if length else None


def _chunks(incoming: IO[bytes]) -> Iterator[bytes]:
    while True:
        line = incoming.readline()
        yield line
        size = int(line.split(b";")[0], 16)
        if size:
            yield incoming.read(size + 2)
            continue
        while True:  # trailers, up to an empty line
            line = incoming.readline()
            yield line
            if line in (b"\r\n", b""):
                return


def _read_request(incoming: IO[bytes], client: socket.socket) -> bytes | None:
    """The whole request; None at the end of the connection."""
    head = _read_head(incoming)
    if not head:
        return None
    if _header(head, b"expect"):
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    kept = re.sub(rb"(?im)^(expect|connection):[^\r\n]*\r\n", b"", head)
    kept = kept[:-2] + b"Connection: close\r\n\r\n"  # to the server: a connection for each request
    return kept + (_read_body(incoming, head) or b"")


def _read_response(incoming: IO[bytes], method: str) -> bytes:
    head = _read_head(incoming)
    while head.split(b" ", 2)[1:2] == [b"100"]:
        head = _read_head(incoming)
    if not head:
        raise OSError("the server went away")
    kept = re.sub(rb"(?im)^connection:[^\r\n]*\r\n", b"", head)
    if method == "HEAD" or head.split(b" ", 2)[1] in (b"204", b"304"):
        return kept
    body = _read_body(incoming, head)
    if body is None:
        body = incoming.read()
        kept = kept[:-2] + b"Content-Length: %d\r\n\r\n" % len(body)
    return kept + body


def _refusal(fault: Fault, method: str) -> bytes:
    body = f"<Error><Code>{fault.code}</Code><Message>injected</Message><RequestId>1</RequestId></Error>".encode()
    head = f"HTTP/1.1 {fault.status} Injected\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else body)
