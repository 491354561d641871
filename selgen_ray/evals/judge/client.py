"""Requests to /chat/completions: one prompt in, one short reply out, with retries. No key in any message.

The loop over tries is ours, since `urllib3.Retry` decides before a body is read: here answers that are no chat
completion, too long or too slow are tried again as well, and a stop ends the waiting between two tries.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from typing import Any

import requests
from urllib3 import Retry
from urllib3.exceptions import HTTPError, InvalidHeader, TimeoutError

from selgen_ray.config.evals import JudgeConfig
from selgen_ray.errors import ModelError
from selgen_ray.evals.judge.scores import Completion
from selgen_ray.storage.secrets import header_value, masked, without

_MAX_TOKENS = 16  # of the judge's reply: a number, or one word
_TOP = 20  # most likely first tokens to ask for
_MAX_BYTES = 2**20  # of an answer over HTTP
_MAX_WAIT_S = 60.0
_AGAIN = (408, 409, 425, 429)  # HTTP statuses below 500 to retry after
_CONNECT_S = 10.0


class JudgeError(RuntimeError):
    """Raised for a question that the judge did not answer.

    Attributes:
        what: what went wrong.
        fatal: whether the judge will not answer any other question either, as with a wrong key.
    """

    def __init__(self, what: str, fatal: bool = False):
        super().__init__(what, fatal)
        self.what, self.fatal = what, fatal

    def __str__(self) -> str:
        return self.what


class _Later(Exception):
    """Raised for an error that a retry may get past; `wait_s`: the wait that the server asked for, in seconds."""

    def __init__(self, what: str, wait_s: float | None = None):
        super().__init__(what)
        self.what, self.wait_s = what, wait_s


class JudgeClient:
    """Client of one endpoint; may be used from any number of threads.

    Args:
        config: must have a `model`.
        first_wait_s: wait before the first retry, in seconds; each further wait is twice as long, up to a minute.

    Raises:
        ModelError: the environment variable that the config names is not set.
    """

    def __init__(self, config: JudgeConfig, first_wait_s: float = 1.0):
        self.config = config
        self.given_up = threading.Event()
        """Set it when no answer is needed any more: then nothing waits for another try."""
        self._first_wait_s = first_wait_s
        self._key = api_key(config)
        self._local = threading.local()
        self._optional: dict[str, Any] = {"logprobs": True, "top_logprobs": _TOP, "temperature": 0}
        self._length = {"max_tokens": _MAX_TOKENS}

    def complete(self, prompt: str) -> Completion:
        """Return the judge's reply to a prompt.

        Raises:
            JudgeError: every try failed, or the endpoint refused in a way that a retry would not change.
        """
        attempt = 0
        while True:
            try:
                return self._once(prompt)
            except _Later as error:
                wait_s = self._first_wait_s * 2**attempt * random.uniform(0.75, 1.25)
                wait_s = min(_MAX_WAIT_S, max(wait_s, error.wait_s or 0.0))
                attempt += 1
                if attempt > self.config.max_retries or self.given_up.wait(wait_s):
                    raise JudgeError(error.what) from None

    def _once(self, prompt: str) -> Completion:
        while True:
            body = {"model": self.config.model, "messages": [{"role": "user", "content": prompt}]}
            body |= self._optional | self._length
            status, headers, content = self._post(body)
            if status == 200:
                return _completion(content)
            if status in (400, 422) and self._without(content, body):
                continue
            if status in _AGAIN or status >= 500:
                raise _Later(self._refusal(status, content), _retry_after(headers))
            raise JudgeError(self._refusal(status, content), fatal=True)

    def _without(self, content: bytes, body: dict[str, Any]) -> bool:
        """Leave out of later requests what the endpoint says it does not know; return whether `body` had any of it."""
        text = content.decode(errors="replace")
        if "max_completion_tokens" in text and "max_tokens" in body:
            self._length = {"max_completion_tokens": _MAX_TOKENS}  # the name that newer models of OpenAI take
            return True
        keys = ("logprobs", "top_logprobs") if "logprobs" in text else ("temperature",) if "temperature" in text else ()
        self._optional = {key: value for key, value in self._optional.items() if key not in keys}
        return any(key in body for key in keys)

    def _post(self, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        session = self._local.__dict__.setdefault("session", requests.Session())
        limit_s = self.config.timeout_s
        deadline = time.monotonic() + limit_s
        try:
            with session.post(
                f"{self.config.base_url}/chat/completions",
                data=json.dumps(body),
                headers={"Content-Type": "application/json"},
                auth=self._authorise,  # a header would give way to a .netrc
                timeout=(min(_CONNECT_S, limit_s), limit_s),
                allow_redirects=False,  # the key is for this server alone
                stream=True,
            ) as response:
                content = b""
                # read1, not read: the timeout of requests covers only the wait for the next bytes, so check it here
                while part := response.raw.read1(_MAX_BYTES, decode_content=True):
                    content += part
                    if time.monotonic() > deadline:
                        raise _Later(f"no whole answer within {limit_s:g} s")
                    if len(content) > _MAX_BYTES:
                        raise _Later("an answer of more than a megabyte")
                return response.status_code, response.headers, content
        except (requests.Timeout, TimeoutError):
            raise _Later(f"no answer within {limit_s:g} s") from None
        except (requests.RequestException, HTTPError, OSError) as error:
            raise _Later(f"no connection to {self.config.base_url} ({type(error).__name__})") from None

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _refusal(self, status: int, content: bytes) -> str:
        refusal = f"HTTP {status} from {self.config.base_url}"
        if status in (401, 403):  # the text may repeat parts of the key
            hint = f"is the key in {self.config.api_key_env} valid there?" if self._key else "no key"
            return f"{refusal}: {hint}"
        text = " ".join(content.decode(errors="replace").split())[:200]
        text = masked(without(text, self._key or ""))
        return f"{refusal}: {text}" if text else refusal


def api_key(config: JudgeConfig) -> str | None:
    """Return the judge's key, which is read from the environment only; None if the config says that none is needed.

    Raises:
        ModelError: the environment variable that the config names is not set, or cannot be a key.
    """
    if config.api_key_env is None:
        return None
    key = header_value(os.environ.get(config.api_key_env, ""))
    if key == "":
        raise ModelError(
            f"evals.judge.api_key_env: the environment variable {config.api_key_env} is not set: set it to the key of "
            f"{config.base_url}, or write api_key_env: null for an endpoint without keys"
        )
    if key is None:
        raise ModelError(f"evals.judge.api_key_env: what {config.api_key_env} holds cannot be a key")
    return key


def _completion(content: bytes) -> Completion:
    try:
        choice = json.loads(content)["choices"][0]
        text = choice["message"]["content"] or choice["message"].get("refusal") or ""
        tokens = (choice.get("logprobs") or {}).get("content") or []
        if not isinstance(text, str):
            raise TypeError("content is no text")
        if not tokens:
            return Completion(text)
        top = [
            (str(candidate["token"]), float(candidate["logprob"])) for candidate in tokens[0].get("top_logprobs") or []
        ]
        return Completion(text, str(tokens[0]["token"]), top)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Later(f"an answer that is no chat completion ({type(error).__name__})") from None


def _retry_after(headers: Any) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or a date; None where it says neither."""
    try:
        return Retry().parse_retry_after(headers["Retry-After"])
    except (KeyError, InvalidHeader):
        return None
