"""Retries: which errors of a storage are transient, and repeating an operation until it succeeds."""

from __future__ import annotations

import errno
import logging
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from pyarrow import ArrowException

from selgen_ray.errors import FULL, StorageAwayError, StorageBlockedError, StorageError
from selgen_ray.storage.parallel import waiting
from selgen_ray.storage.secrets import masked

T = TypeVar("T")
logger = logging.getLogger(__name__)
RETRY_FOR_S = 90.0  # so an outage of a minute does no harm
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 8.0
_jitter = random.Random()  # the global stream belongs to the caller

_PASSING_ERRNO = {
    *(errno.ESTALE, errno.ETIMEDOUT, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN),
}
_BLOCKING = (*FULL, errno.EACCES, errno.EPERM)
_FULL_STATUS = 507
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504, 509, 520, 522, 524, 529}
# pyarrow's messages: 'AWS Error SLOW_DOWN during ...', 'AWS Error UNKNOWN (HTTP status 503) during ...'
_AWS = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?")
_AWS_PASSING = {
    *("INTERNAL_FAILURE", "SERVICE_UNAVAILABLE", "THROTTLING", "SLOW_DOWN", "REQUEST_TIMEOUT", "NETWORK_CONNECTION"),
    "NO_SUCH_UPLOAD",  # the upload was completed and its answer lost: the next try starts a new one
}
# a bad certificate: called a network error, but permanent
_CERTIFICATE = re.compile(r"curlCode: (?:51|58|60|77|83|91)\b")
_GCS = re.compile(r"google::cloud::Status\((\w+):")
_GCS_PASSING = {"UNAVAILABLE", "INTERNAL", "ABORTED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
_NO_TOKEN = "Could not create a OAuth2 access token"
_AZURE = re.compile(r"Azure Error: \[(\w*)\](?: (\d{3}))?")
_NOT_ALLOWED = "access denied; are the credentials in the environment those for this place?"
_WORDS = {
    **dict.fromkeys(("ACCESS_DENIED", "PERMISSION_DENIED", "AuthorizationPermissionMismatch"), _NOT_ALLOWED),
    **dict.fromkeys(("NO_SUCH_BUCKET", "ContainerNotFound"), "there is no such bucket"),
    **dict.fromkeys(
        (
            *("INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID", "EXPIRED_TOKEN"),
            *("UNAUTHENTICATED", "AuthenticationFailed", "AuthorizationFailure"),
        ),
        "the credentials in the environment are not valid",
    ),
}


def _code(error: Exception) -> tuple[str, int | None]:
    """Return the object store's code of an error and the HTTP status, if the message has them: ('SLOW_DOWN', 503)."""
    for pattern in (_AWS, _AZURE, _GCS):
        if match := pattern.search(str(error)):
            status = match[2] if pattern.groups > 1 else None
            return match[1], int(status) if status else None
    return "", None


def is_passing(error: Exception) -> bool:
    """Return whether an error is transient: the storage is away, busy or lost an answer, and a retry may succeed."""
    number = getattr(error, "errno", None)
    if number is not None:
        return number in _PASSING_ERRNO
    text, (code, status) = str(error), _code(error)
    if _AWS.search(text):
        return (code in _AWS_PASSING or status in _PASSING_STATUS) and not _CERTIFICATE.search(text)
    if _GCS.search(text):
        return code in _GCS_PASSING and _NO_TOKEN not in text
    if _AZURE.search(text):  # neither code nor status: the store did not answer
        return status in _PASSING_STATUS or (not code and status is None)
    return False


def is_blocking(error: Exception) -> bool:
    """Return whether an error is of the place rather than of one file: full, read-only, or closed to us."""
    code, status = _code(error)
    number = getattr(error, "errno", None)
    return number in _BLOCKING or status in (401, 403, _FULL_STATUS) or code in _WORDS or _NO_TOKEN in str(error)


def explain(error: Exception, place: str) -> str:
    """Return an error in words, without any secret of the environment.

    Args:
        place: the location, for the message.
    """
    code, status = _code(error)
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or status == _FULL_STATUS:
        return f"no space left on {place}"
    if _NO_TOKEN in str(error):
        return "no credentials were found in the environment (GOOGLE_APPLICATION_CREDENTIALS)"
    text = masked(re.sub(r"\s*\(?Request ?I[dD]:.*", "", str(error), flags=re.DOTALL))
    return f"{_WORDS[code]} ({text})" if code in _WORDS else text


def retrying(doing: Callable[[], str], place: object, operation: Callable[[], T], for_s: float | None = None) -> T:
    """Call `operation` until it succeeds, and return its value; transient errors are retried with growing pauses.

    Args:
        doing: returns what the operation does, for messages: 'write <place>/x.json'.
        place: the location; its text is used in messages.
        operation: must be safe to run twice, even if the first run succeeded and only its answer was lost.
        for_s: seconds after which to give up; there is at least one attempt. Default: RETRY_FOR_S.

    Raises:
        FileNotFoundError: from `operation`.
        StorageAwayError: the storage was away for too long.
        StorageBlockedError: it would refuse others alike: it is full or read-only, or refuses the credentials.
        StorageError: the storage refused.
    """
    for_s = RETRY_FOR_S if for_s is None else for_s
    start, wait_s = time.monotonic(), FIRST_WAIT_S
    while True:
        try:
            return operation()
        except (FileNotFoundError, StorageError):
            raise
        except (OSError, ArrowException) as error:
            reason = explain(error, str(place))
            if not is_passing(error):
                kind = StorageBlockedError if is_blocking(error) else StorageError
                raise kind(f"cannot {doing()}: {reason}") from error
            left_s = start + for_s - time.monotonic()
            if left_s <= 0:
                raise StorageAwayError(f"cannot {doing()}: the storage was away for {for_s:.0f} s: {reason}") from error
        pause_s = min(wait_s * _jitter.uniform(0.5, 1.0), left_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        logger.warning("cannot %s, trying again in %.1f s and for %.0f s more: %s", doing(), pause_s, left_s, reason)
        with waiting():
            time.sleep(pause_s)
