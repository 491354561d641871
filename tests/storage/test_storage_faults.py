"""Storage on a bad day: away, slow, full or refusing; a real S3 server behind a proxy that breaks requests."""

import base64
import errno
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from faulty_s3 import FaultyS3

from selgen_ray.errors import StorageAwayError, StorageError
from selgen_ray.storage import Folder, locations, retries
from selgen_ray.storage import folder as storage


@pytest.fixture
def faulty(s3_uri, monkeypatch):
    """A proxy in front of the S3 server. The AWS client's own repetitions, which wait for seconds, are off."""
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(locations, "_ATTEMPTS", 1)
    locations._open.cache_clear()
    host, port = re.search(r"endpoint_override=([^:]+):(\d+)", s3_uri).groups()
    with FaultyS3(host, int(port)) as proxy:
        yield proxy
    locations._open.cache_clear()


@pytest.fixture
def away(faulty, request):
    """A folder behind the proxy, with a file."""
    folder = Folder(faulty.uri()) / request.node.name.partition("[")[0]
    folder.write("x", b"old")
    faulty.reset()
    return folder


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


FAULTS = {
    "throttled": lambda proxy: proxy.fail(2, 503),
    "broken": lambda proxy: proxy.fail(2, 500),
    "too_many": lambda proxy: proxy.fail(2, 429),
    "cut": lambda proxy: proxy.cut(3),
    "answers_lost": lambda proxy: proxy.cut(3, done=True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_for_a_while_is_done_again(faulty, away, caplog, fault):
    def after_a_fault(operation):
        caplog.clear()
        FAULTS[fault](faulty)
        try:
            return operation()
        finally:
            assert any("trying again in" in line and "s more: " in line for line in warnings(caplog))
            faulty.reset()

    big = os.urandom(12_000_000)  # several parts
    after_a_fault(lambda: away.write("big", big))
    assert after_a_fault(lambda: away.read("big")) == big
    assert after_a_fault(away.files) == ["big", "x"]
    assert after_a_fault(lambda: away.exists("x"))
    after_a_fault(lambda: away.remove("big"))
    assert away.files() == ["x"]
    assert after_a_fault(lambda: away.create("y", b"1", settle_s=0.01))
    assert not after_a_fault(lambda: away.create("y", b"2", settle_s=0.01))
    assert away.read("y") == b"1" and away.files(recursive=True) == ["x", "y"]
    after_a_fault(away.delete)
    assert not away.exists()


def test_a_completed_upload_whose_answer_was_lost_is_no_error(faulty, away, caplog):
    big = os.urandom(12_000_000)
    faulty.fail(1, 404, "NoSuchUpload", method="POST", path="uploadId=")  # what S3 says to the client's next try
    away.write("big", big)
    assert faulty.injected["error"] == 1
    assert any("NO_SUCH_UPLOAD" in line for line in warnings(caplog))
    assert away.read("big") == big


def test_the_aws_client_repeats_single_requests_too(s3_uri, caplog):
    """So that one lost request among the many of a large upload does not begin it anew."""
    host, port = re.search(r"endpoint_override=([^:]+):(\d+)", s3_uri).groups()
    with FaultyS3(host, int(port)) as proxy:
        proxy.fail(2, 503)
        Folder(proxy.uri()).write("twice", b"1")
        assert proxy.injected["error"] == 2 and not warnings(caplog)


def test_slow_answers_are_waited_for(faulty, away, caplog):
    faulty.delay(1, seconds=4.0)  # the AWS client's own patience ends after 3 seconds
    assert away.read("x") == b"old"
    assert faulty.injected["slow"] == 1 and not warnings(caplog)


def test_a_storage_that_never_answers_is_given_up(faulty, monkeypatch):
    monkeypatch.setattr(locations, "_SILENCE_S", 1.0)
    monkeypatch.setattr(retries, "RETRY_FOR_S", 0.5)
    folder = Folder(faulty.uri("lab/never"))  # a filesystem of its own, which is so impatient
    faulty.hang(1000)
    with pytest.raises(StorageAwayError, match=r"cannot read s3://lab/never/x\?.*: the storage was away for 0 s"):
        folder.read("x")


def test_a_storage_that_is_away_for_seconds(faulty, away, caplog):
    faulty.away(2.0)
    away.write("x", b"new")
    assert any("cannot write" in line and "Could not connect" in line for line in warnings(caplog))
    assert away.read("x") == b"new"


def test_a_storage_that_stays_away(faulty, away, monkeypatch):
    monkeypatch.setattr(retries, "RETRY_FOR_S", 1.0)
    faulty.away(1000.0)
    operations = [
        lambda: away.read("x"),
        lambda: away.write("x", b""),
        lambda: away.create("y", b""),
        lambda: away.exists("x"),
        away.files,
        lambda: away.remove("x"),
        lambda: away.read_many(list("abcdefgh")),
    ]
    with ThreadPoolExecutor() as pool:  # all at once: each of them waits
        errors = [future.exception() for future in [pool.submit(operation) for operation in operations]]
    for error in errors:
        assert isinstance(error, StorageAwayError), error
        assert "away for 1 s" in str(error) and "Could not connect" in str(error)
        assert isinstance(pickle.loads(pickle.dumps(error)), StorageError)


REFUSALS = {
    (403, "AccessDenied"): "access denied",
    (403, "InvalidAccessKeyId"): "credentials in the environment are not valid",
    (403, "SignatureDoesNotMatch"): "credentials in the environment are not valid",
    (404, "NoSuchBucket"): "no such bucket",
    (507, "XMinioStorageFull"): "no space left on s3://",
}


@pytest.mark.parametrize("status, code", REFUSALS)
def test_a_refusal_is_not_repeated(faulty, away, caplog, status, code):
    faulty.fail(1000, status, code, method="PUT")
    with pytest.raises(StorageError, match=f"cannot write .*/x[?].*: .*{REFUSALS[status, code]}") as caught:
        away.write("x", b"new")
    assert not isinstance(caught.value, StorageAwayError)
    assert "a-secret-of-the-tests" not in str(caught.value)
    assert faulty.requests["PUT"] == 1 or status == 507  # which the AWS client itself asks for again
    assert not warnings(caplog)
    faulty.reset()
    assert away.read("x") == b"old"


def test_no_such_bucket(faulty):
    with pytest.raises(StorageError, match=r"cannot write s3://nowhere/x/y.*no such bucket"):
        Folder(faulty.uri("nowhere/x")).write("y", b"")


@pytest.mark.parametrize("seed", [1, 2])
def test_a_bad_day(faulty, away, monkeypatch, seed):
    """A share of all requests fails or is slow: every answer is right, and nothing is done twice that may not be."""
    folder = away / str(seed)
    contents = {f"{i % 7}/{i}": os.urandom(100 + 37 * i) for i in range(30)}
    faulty.random(seed, share=0.25)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: folder.write(name, contents[name]), contents))
        created = list(pool.map(lambda i: folder.create("once", str(i).encode(), settle_s=0.5), range(4)))
    assert folder.read_many(list(contents)) == list(contents.values())
    assert folder.files(recursive=True) == sorted([*contents, "once"])
    assert created.count(True) == 1 and folder.read("once") == str(created.index(True)).encode()
    assert sum(faulty.injected.values()) > 10, faulty.injected
    faulty.random(seed, share=0)


def test_what_is_created_by_one_who_was_held_up_is_created_once(faulty, away, monkeypatch):
    """The claim is of the dead when its owner comes back: it must not publish over its heir."""
    monkeypatch.setattr(storage, "_DEAD_CLAIM_S", 0.4)
    plain = Folder._infos
    held_up = threading.Event()

    def slowly(folder, recursive=False):
        infos = plain(folder, recursive)
        if folder.name == "y.claims" and not held_up.is_set():
            held_up.set()
            folder.delete()  # as if it were old
            assert Folder(away.location, away.inside).create("y", b"heir", settle_s=0.01)
        return infos

    monkeypatch.setattr(Folder, "_infos", slowly)
    assert not away.create("y", b"late", settle_s=0.01)
    assert away.read("y") == b"heir"


def test_a_claim_that_took_too_long_is_made_anew(away, monkeypatch):
    monkeypatch.setattr(storage, "_DEAD_CLAIM_S", 1.0)
    infos, write, claims = Folder._infos, Folder.write, []

    def slow_once(folder, recursive=False):
        if len(claims) == 1:
            time.sleep(1.5)
        return infos(folder, recursive)

    def noted(folder, name, content, for_s=None):
        claims.extend([name] if folder.name == "y.claims" else [])
        write(folder, name, content, for_s)

    monkeypatch.setattr(Folder, "_infos", slow_once)
    monkeypatch.setattr(Folder, "write", noted)
    assert away.create("y", b"1", settle_s=0.01)
    assert len(claims) == 2 and away.read("y") == b"1"


def test_what_was_created_though_every_answer_was_lost_is_our_own(faulty, away, monkeypatch):
    monkeypatch.setattr(storage, "_DEAD_CLAIM_S", 2.0)
    faulty.cut(1000, done=True, method="PUT", path="/y$")
    assert away.create("y", b"1", settle_s=0.01)
    assert faulty.injected["lost"] > 1


# -- local ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EBUSY])
def test_a_file_server_that_is_away(tmp_path, monkeypatch, caplog, code):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.01)
    failures = [OSError(code, os.strerror(code)) for _ in range(2)]
    fsync, link = os.fsync, os.link

    def fail_twice(file):
        if failures:
            raise failures.pop()
        fsync(file)

    def lose_the_answer(beside, target):
        link(beside, target)  # at the next try it finds the name taken, by itself
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail_twice)
    monkeypatch.setattr(os, "link", lose_the_answer)
    folder = Folder(str(tmp_path))
    folder.write("x", b"1")
    assert len(warnings(caplog)) == 2
    assert [folder.create("y", b"1"), folder.create("y", b"2")] == [True, False]
    assert (folder.read("x"), folder.read("y"), folder.files()) == (b"1", b"1", ["x", "y"])


def test_what_the_file_system_refuses_is_not_repeated(tmp_path, monkeypatch, caplog):
    def refuse(_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=r"cannot write .*/x: .*Read-only"):
        Folder(str(tmp_path)).write("x", b"1")
    assert not warnings(caplog) and not list(tmp_path.iterdir())


FULL = """
import sys
from selgen_ray.errors import StorageError
from selgen_ray.storage import Folder
folder = Folder(sys.argv[1])
folder.write("x", b"old")
for operation in (folder.write, folder.create):
    try:
        operation("x" if operation == folder.write else "y", b"n" * 200_000)
    except StorageError as error:
        print(error)
print(folder.read("x"), folder.files())
"""


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """On a file system of 64 KB, in a mount namespace of its own."""
    place = tmp_path / "full"
    place.mkdir()
    mount = f'mount -t tmpfs -o size=64k none "{place}" && exec "$@"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh", sys.executable, "-c", FULL, str(place)]
    if os.geteuid() == 0:
        command.remove("--map-root-user")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    lines = done.stdout.splitlines()
    assert lines == [
        f"cannot write {place}/x: no space left on {place}",
        f"cannot create {place}/y: no space left on {place}",
        "b'old' ['x']",
    ], done.stderr


# -- locations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location, names",
    [
        ("s3://AKIAKEY:hunter2secret@bucket/p", "AWS_ACCESS_KEY_ID"),
        ("s3://hunter2secret@bucket/p", "AWS_ACCESS_KEY_ID"),
        ("s3://bucket/p?access_key=A&secret_key=hunter2secret", "access_key, secret_key"),
        ("s3://bucket/p?endpoint_override=http://me:hunter2secret@host:1", "AWS_ACCESS_KEY_ID"),
        ("s3://AKIAKEY:hunter2secret/with+slash@bucket/p", "AWS_ACCESS_KEY_ID"),
        ("s3://bucket/p?hunter2secret", "option without a value is not known"),
        ("gs://hunter2secret@bucket/p", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("abfs://box:hunter2secret@account.dfs.core.windows.net/p", "AZURE_STORAGE_KEY"),
        ("abfs://:hunter2secret@account.dfs.core.windows.net/p", "AZURE_STORAGE_KEY"),
        ("abfs://box@account.dfs.core.windows.net/p?sv=2024&sig=hunter2secret", "sig"),
        ("abfs://box@account.dfs.core.windows.net/p?client_secret=hunter2secret", "client_secret"),
        ("wasb://box:hunter2secret/x@account/p", "not known"),
        ("s3://bucket/p?regoin=hunter2secret", "'regoin' is not known.*Did you mean 'region'"),
    ],
)
def test_a_secret_in_a_location_is_refused_and_not_repeated(location, names):
    with pytest.raises(StorageError, match=names) as caught:
        Folder(location)
    shown = "".join(traceback.format_exception(caught.value))
    assert ("hunter2secret" not in shown.replace(repr(location), "") and "bucket" in shown) or "account" in shown


@pytest.mark.parametrize(
    "location, message",
    [
        ("s3a://bucket/x", "s3a:// is not known. Allowed are a path, abfs://.*s3://.*Did you mean 's3'"),
        ("S3://bucket/x", "Did you mean 's3'"),
        ("hdfs://host/x", "hdfs:// is not known"),
        ("s3:/bucket/x", "did you mean 's3://'"),
        ("s3://", "names no bucket"),
        ("s3://bucket/a#b", "write %23"),
        ("s3://[bucket", "is no URI"),
        ("abfs://box/x", "abfs://container@account"),
    ],
)
def test_a_location_that_is_none(location, message):
    with pytest.raises(StorageError, match=message):
        Folder(location).exists()


def test_an_endpoint_of_the_environment(s3_uri, monkeypatch):
    address = re.search(r"endpoint_override=([^&]+)", s3_uri)[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{address}")  # the more special one counts
    Folder("s3://lab/by_environment").write("x", b"1")
    assert (Folder(s3_uri.replace("lab/sweeps", "lab/by_environment"))).read("x") == b"1"
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setattr(retries, "RETRY_FOR_S", 0.0)
    with pytest.raises(StorageAwayError, match=r"127\.0\.0\.1:1 "):
        Folder("s3://lab/by_environment").read("x")


def test_azure_without_credentials_is_refused(monkeypatch):
    """pyarrow itself would abort the process."""
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "")  # the program az may have some
    with pytest.raises(StorageError, match=r"no credentials for Azure.*AZURE_STORAGE_KEY"):
        Folder("abfs://box@account.dfs.core.windows.net/x").read("y")


def test_other_stores_are_opened_without_asking_them(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_KEY", base64.b64encode(b"a key of the tests").decode())
    for location, path in {
        "gs://bucket/a b": "bucket/a b",
        "gcs://anonymous@bucket/x": "bucket/x",
        "abfs://box@account.dfs.core.windows.net/x": "box/x",
        "s3://bucket/a%20b?region=eu-west-1": "bucket/a b",
    }.items():
        assert locations.open_location(location)[1] == path
        assert "key" not in repr(Folder(location))
