"""The sweep folder: on a local disk and on a real S3 server (moto), where a reader must never see half a file."""

import pickle
import subprocess
import sys
import threading

import pytest

from selgen_ray.errors import StorageError
from selgen_ray.storage import Folder


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
