"""The sweep folder: on a local disk and on a real S3 server (moto), where a reader must never see half a file."""

import errno
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from selgen_ray.errors import StorageError
from selgen_ray.storage import Folder
from selgen_ray.storage import folder as storage


@pytest.fixture(params=["local", "file_uri", "s3"])
def folder(request, tmp_path):
    if request.param == "s3":
        return Folder(request.getfixturevalue("s3_uri")) / request.node.name.replace("[", "_").replace("]", "")
    return Folder(str(tmp_path) if request.param == "local" else tmp_path.as_uri()) / "sweep"


def test_write_read_list_delete(folder):
    assert not folder.exists()
    assert folder.files() == folder.folders() == []
    place = folder / "setting" / "seed_1"
    place.write("deep/results.json", b"{}")
    folder.write_json("top.json", {"a": [1, None]})
    assert folder.exists() and folder.exists("top.json") and not folder.exists("none.json")
    assert folder.read_json("top.json") == {"a": [1, None]}
    assert folder.files() == ["top.json"]
    assert folder.folders() == ["setting"]
    assert folder.files(recursive=True) == ["setting/seed_1/deep/results.json", "top.json"]
    folder.write("top.json", b"[2]")
    assert folder.read_json("top.json") == [2]
    with pytest.raises(FileNotFoundError):
        folder.read("none.json")
    (folder / "setting").delete()
    (folder / "setting").delete()
    assert folder.files(recursive=True) == ["top.json"]


def test_a_folder_can_be_sent_to_a_worker(folder):
    folder.write("x", b"1")
    assert pickle.loads(pickle.dumps(folder / "y")) == folder / "y"
    assert pickle.loads(pickle.dumps(folder)).read("x") == b"1"


def test_names_are_readable(folder):
    place = folder / "a" / "b"
    assert place.name == "b"
    assert "/a/b" in str(place)
    assert "sweep" in str(folder) or "s3://lab" in str(folder)


def test_a_reader_never_sees_half_a_file(folder):
    contents = [bytes([i]) * 300_000 for i in range(8)]
    folder.write("x", contents[0])
    stop = threading.Event()
    torn: list[int] = []

    def read():
        while not stop.is_set():
            found = folder.read("x")
            if found not in contents:
                torn.append(len(found))

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents * 3:
        folder.write("x", content)
    stop.set()
    reader.join()
    assert torn == []


def test_a_folder_that_is_removed_while_it_is_listed_is_empty(tmp_path):
    """pyarrow looks for it first, and lists it then: found by six processes that shared one value."""
    there, stop = tmp_path / "leases", threading.Event()

    def come_and_go():
        while not stop.is_set():
            there.mkdir()
            there.rmdir()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(2000):
            assert Folder(str(there)).files() == Folder(str(there)).folders() == []
    finally:
        stop.set()
        other.join()


def test_a_writer_killed_half_way_leaves_the_old_file(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write("x", b"old")
    program = (
        "import os, sys\nfrom selgen_ray.storage import Folder\n"
        "os.fsync = lambda _: os.kill(os.getpid(), 9)\n"  # dies with the bytes written and not yet published
        "Folder(sys.argv[1]).write('x', b'new' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)])
    assert done.returncode == -9
    assert folder.read("x") == b"old"


def test_a_refusal_names_the_file(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"cannot write .*file/x"):
        Folder(str(tmp_path / "file")).write("x", b"")
    with pytest.raises(StorageError, match="nonsense://"):
        Folder("nonsense://bucket").exists()


def test_json_is_strict(folder):
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json("x.json", float("nan"))
    assert not folder.exists("x.json")


def test_a_relative_folder_stays_where_it_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Folder("./sweeps") / "x"
    sent = pickle.dumps(folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pickle.loads(sent).write("y", b"1")
    assert (tmp_path / "sweeps" / "x" / "y").read_bytes() == b"1"


def test_a_published_bundle(folder):
    with pytest.raises(FileNotFoundError):
        folder.read_published()
    files = {"a": b"1" * 1000, "b": b""}
    folder.publish(files)
    assert folder.read_published() == files
    folder.withdraw()
    folder.withdraw()
    with pytest.raises(FileNotFoundError):
        folder.read_published()
    assert folder.read("a") == files["a"]


def test_a_damaged_bundle_names_the_file(folder):
    for name, damage in {"a": b"11", "b": b"x", "manifest.json": b'{"a": "'}.items():
        folder.publish({"a": b"111", "b": b"2"})
        folder.write(name, damage)
        with pytest.raises(ValueError, match=f"{name} is truncated or damaged"):
            folder.read_published()
    folder.publish({"a": b"111"})
    folder.write("manifest.json", b'["a"]')
    with pytest.raises(ValueError, match=r"manifest.json is truncated or damaged"):
        folder.read_published()


def test_a_bundle_that_lost_a_file(tmp_path):
    folder = Folder(str(tmp_path))
    folder.publish({"a": b"1"})
    (tmp_path / "a").unlink()
    with pytest.raises(ValueError, match="a is missing"):
        folder.read_published()


def test_of_several_that_create_a_file_one_succeeds(folder):
    contents = [str(i).encode() for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda content: folder.create("x", content, settle_s=1.0), contents))
    assert created.count(True) == 1
    assert folder.read("x") == contents[created.index(True)]
    assert not folder.create("x", b"late", settle_s=0)
    assert folder.files(recursive=True) == ["x"]


def test_create_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    folder = Folder(str(tmp_path))
    assert [folder.create("x", b"1"), folder.create("x", b"2")] == [True, False]
    assert (folder.read("x"), folder.files()) == (b"1", ["x"])


def test_the_claim_of_one_who_died_does_not_block_for_ever(s3_uri, monkeypatch):
    monkeypatch.setattr(storage, "_DEAD_CLAIM_S", 3.0)  # the storage's clock ticks in whole seconds
    folder = Folder(s3_uri) / "dead_claim"
    folder.write("x.claims/000", b"claim")
    assert not folder.create("x", b"1", settle_s=0.01)
    time.sleep(4.5)
    assert folder.create("x", b"1", settle_s=0.01)


def test_every_refusal_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    folder = Folder(str(tmp_path / "file"))
    for refused in (folder.read, folder.read_json, lambda name: folder.create(name, b""), lambda name: folder.files()):
        with pytest.raises(StorageError, match="cannot"):
            refused("x")


def test_many_files_are_read_in_order(folder):
    contents = {f"{i}/x": str(i).encode() for i in range(50)}
    for name, content in contents.items():
        folder.write(name, content)
    names = [*reversed(contents), "none", "3/none", *contents]
    expected = [contents.get(name) for name in names]
    assert folder.read_many(names) == expected
    assert folder.read_many([]) == []
    assert folder.read_many(["none"]) == [None]


def test_files_are_found_by_name(folder):
    assert folder.find("x") == []
    for name in ("x", "a/x", "a/b/c/x", "a/y", "a/skip/x", "skip/deep/x", "b-1/x", "b/x"):
        folder.write(name, b"")
    assert folder.find("x", leave_out=("skip", "y")) == ["a/b/c/x", "a/x", "b-1/x", "b/x", "x"]
    assert len(folder.find("x")) == 7
    assert folder.find("none") == []


def test_a_file_that_changed_has_another_stamp(folder):
    assert folder.stamps("x") == []
    folder.write("a/x", b"1")
    folder.write("skip/x", b"1")
    ((path, before),) = folder.stamps("x", leave_out=("skip",))
    assert path == "a/x" and before > 1e18
    time.sleep(1.1 if folder.local_path is None else 0.01)  # object stores tell seconds
    folder.write("a/x", b"2")
    assert folder.stamps("x", leave_out=("skip",)) > [("a/x", before)]


def test_folders_that_are_left_out_are_not_looked_into(tmp_path, monkeypatch):
    for name in ("a/b", "skip/c", "a/skip/d"):
        (tmp_path / name).mkdir(parents=True)
    seen, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: seen.append(os.path.relpath(path, tmp_path)) or scandir(path))
    Folder(str(tmp_path)).find("x", leave_out=("skip",))
    assert sorted(seen) == [".", "a", "a/b"]
