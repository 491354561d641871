"""Locations such as `storage_path`: which ones are allowed, and the filesystem that each names.

A location is a local or NFS path, s3://bucket/prefix, gs://bucket/prefix,
abfs://container@account.dfs.core.windows.net/prefix or file:///path. Credentials come from the environment alone,
because a location is written to files and shown in messages.
"""

from __future__ import annotations

import functools
import os
import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pyarrow import fs

from selgen_ray.errors import StorageError, nearest
from selgen_ray.storage import azure
from selgen_ray.storage.retries import explain, retrying
from selgen_ray.storage.secrets import looks_secret, masked

# a store may accept a connection and never answer: pyarrow tries this often, each time for this long
_SILENCE_S, _CONNECT_S, _ATTEMPTS = 20.0, 10.0, 3
_GCS_RETRY_S = 10.0  # pyarrow's default would be 15 minutes, without a message
_OPTIONS = {
    "s3": ("region", "scheme", "endpoint_override", "tls_ca_file_path", "force_virtual_addressing"),
    "gs": ("scheme", "endpoint_override"),
    "abfs": ("blob_storage_authority", "dfs_storage_authority", "enable_tls"),
    "file": (),
}
_SAME = {"gcs": "gs", "abfss": "abfs"}
_ENVIRONMENT = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": azure.ENVIRONMENT,
    "file": "nowhere: a file needs none",
}
_FORGOTTEN_SLASH = re.compile(r"(s3|gs|gcs|abfss?|file):/?(?!/)", re.IGNORECASE)
# a user and a password, which may hold a '/'
_LOGIN = re.compile(r":[^?]*@")
_LIKE_A_URI = re.compile(r"\W*(s3|gs|gcs|abfss?|file)\b[^:\w]*(?=.*:.*@)", re.IGNORECASE | re.DOTALL)


def absolute(location: str) -> str:
    """Return a local path made absolute, since a worker has another current directory; return a URI unchanged."""
    return location if "://" in location else str(Path(location).expanduser().absolute())


def check_location(location: str) -> None:
    """Check that a text is a location and holds no credentials.

    Raises:
        StorageError: it is not, or it does; the message says what is allowed, and repeats no credentials.
    """
    if "://" in location:
        _parse(location)
    elif match := _FORGOTTEN_SLASH.match(location) or _LIKE_A_URI.match(location):
        shown = f"{match[1]}:/{location[match.end() :].rpartition('@')[2]}" if "@" in location else location
        raise StorageError(f"storage_path {shown!r} is no path and no URI: did you mean '{match[1].lower()}://'?")


@functools.lru_cache(maxsize=256)
def _parse(location: str) -> tuple[str, SplitResult, dict[str, str]]:
    """Return (kind of storage, parts, options) of a URI: 's3', its parts and {'region': ...}. Raises StorageError."""
    scheme, _, remainder = location.partition("://")
    kind, shown = _SAME.get(scheme, scheme), f"{scheme}://{remainder.partition('?')[0].rpartition('@')[2]}"
    if kind not in _OPTIONS:
        allowed = sorted([*_OPTIONS, *_SAME])
        known = ", ".join(f"{name}://" for name in allowed)
        raise StorageError(
            f"storage_path {shown!r}: {scheme}:// is not known. Allowed are a path, {known}."
            f"{nearest(scheme.lower(), allowed)}"
        )
    try:
        parts = urlsplit(location)
    except ValueError:
        raise StorageError(f"storage_path {shown!r} is no URI") from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    _refuse_credentials(kind, parts, options, shown)
    for name, value in options.items():
        if name not in _OPTIONS[kind]:
            option = repr(name) if value else "without a value"  # the name itself may be a secret
            raise StorageError(
                f"storage_path {shown!r}: option {option} is not known; {scheme}:// has "
                f"{', '.join(_OPTIONS[kind]) or 'none'}.{nearest(name, _OPTIONS[kind])}"
            )
    if parts.fragment:
        raise StorageError(f"storage_path {shown.partition('#')[0]!r}: write %23 for the '#' in it")
    return kind, parts, options


def _refuse_credentials(kind: str, parts: SplitResult, options: dict[str, str], shown: str) -> None:
    user = parts.netloc.rpartition("@")[0]
    secret = [name for name, value in options.items() if value and looks_secret(name)]
    # even without an '@', since a '/' in a password ends the netloc before it; a port is not allowed either
    has_password = ":" in parts.netloc or _LOGIN.search(f"{parts.netloc}{parts.path}") is not None
    in_endpoint = "@" in options.get("endpoint_override", "")
    if has_password or secret or in_endpoint or (user and not _is_no_secret(kind, user)):
        named = f" ({', '.join(secret)})" if secret else ""
        raise StorageError(
            f"storage_path {shown!r} holds credentials{named}: take them out, and set them in the environment "
            f"({_ENVIRONMENT[kind]})"
        )


def _is_no_secret(kind: str, user: str) -> bool:
    """Return whether the part before the '@' is no credential: an Azure container, or pyarrow's 'anonymous' on GCS."""
    return kind == "abfs" or (kind, user) == ("gs", "anonymous")


def open_location(location: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem that a location names, and the path in it. Equal URIs share one filesystem.

    Raises:
        StorageError: it cannot be used, or its region cannot be found; the message holds no credentials.
    """
    if "://" not in location:
        return fs.LocalFileSystem(), location
    return _open(location, os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))


@functools.lru_cache(maxsize=64)
def _open(location: str, endpoint: str | None) -> tuple[fs.FileSystem, str]:
    kind, parts, options = _parse(location)
    try:
        if kind == "s3":
            return _s3(parts, options, endpoint)
        if kind == "gs":
            return _gcs(parts, options)
        return azure.open_azure(parts, options) if kind == "abfs" else fs.FileSystem.from_uri(location)
    except StorageError:
        raise
    except (OSError, ValueError) as error:
        raise StorageError(f"storage_path {masked(location)!r} cannot be used: {explain(error, location)}") from error


def _s3(parts: SplitResult, options: dict[str, str], endpoint: str | None) -> tuple[fs.FileSystem, str]:
    bucket = parts.netloc
    if not bucket:
        raise ValueError("it names no bucket")
    endpoint = options.get("endpoint_override") or endpoint or ""
    scheme, _, address = endpoint.rpartition("://")
    region = options.get("region")
    if region is None and not endpoint:
        region = retrying(lambda: f"find the region of s3://{bucket}", bucket, lambda: fs.resolve_s3_region(bucket))
    filesystem = fs.S3FileSystem(
        region=region,
        endpoint_override=address or None,
        scheme=options.get("scheme") or scheme or None,
        tls_ca_file_path=options.get("tls_ca_file_path"),
        force_virtual_addressing=options.get("force_virtual_addressing", "false") == "true",
        request_timeout=_SILENCE_S,
        connect_timeout=_CONNECT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        allow_delayed_open=True,  # a small file then takes one request instead of three
    )
    return filesystem, f"{bucket}{unquote(parts.path)}"


def _gcs(parts: SplitResult, options: dict[str, str]) -> tuple[fs.FileSystem, str]:
    user, _, bucket = parts.netloc.rpartition("@")
    filesystem = fs.GcsFileSystem(
        anonymous=user == "anonymous",
        scheme=options.get("scheme"),
        endpoint_override=options.get("endpoint_override"),
        retry_time_limit=timedelta(seconds=_GCS_RETRY_S),
    )
    return filesystem, f"{bucket}{unquote(parts.path)}"
