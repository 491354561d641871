"""What others see of a running sweep: Ray's metrics, the Grafana dashboard, the trackers."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import struct
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray import tune
from running import wait_for

import selgen_ray
from selgen_ray.cluster import metrics, trackers
from selgen_ray.errors import SpecError
from selgen_ray.records.results import TrialResult
from selgen_ray.space import load_space
from selgen_ray.space.tracker_options import Tracker
from selgen_ray.storage import Folder
from selgen_ray.trial.task import TrialTask

pytestmark = pytest.mark.ray
DASHBOARD = Path(selgen_ray.__file__).parent / "cluster" / "grafana" / "selgen_ray.json"
SECRET = "not-for-any-file"


@pytest.fixture(scope="module")
def metrics_url() -> Iterator[str]:
    """Of a local Ray that collects every second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker cannot import the tests
    yield f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    ray.shutdown()


def task(folder: Path | Folder, seed: int) -> TrialTask:
    config = {"proxy_strategy": "naive", "seed": seed, "finetune_config": {"learning_rate": 0.1, "modules": ["q", "k"]}}
    place = folder if isinstance(folder, Folder) else Folder(str(folder))
    return TrialTask(config=config, trial_id=f"{seed:016x}", slug="naive_abc123", folder=place / f"seed_{seed}")


LINE = {"phase": "train", "step": 3, "num_steps": 4, "epoch": 0.75, "loss": 0.5, "tokens_per_s": 100.0}
READING = {
    "step": 3,
    "epoch": 1.0,
    "capability": 0.25,
    "alignment": 0.75,
    "task_test/exact_match": 0.25,
    "odd/one": None,
}


# -- metrics ---------------------------------------------------------------------------------------------------------


class Worker:
    """Runs one trial after the other, as a worker does."""

    def start(self, folder: Path, seed: int) -> None:
        self.trial = task(folder, seed)
        self.metrics = metrics.TrialMetrics("mine", self.trial, again_s=0.3)
        self.metrics.update(LINE)
        self.metrics.update({"evaluated": READING})

    def finish(self) -> None:
        facts = {"trial_id": self.trial.trial_id, "slug": self.trial.slug, "seed": 1, "config": self.trial.config}
        result = TrialResult(status="completed", capability=0.5, alignment=1.0, **facts)
        self.metrics.finish("completed", result)


def scrape(url: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Metric -> its series, labels and value each."""
    found = defaultdict(list)
    with urllib.request.urlopen(url, timeout=30) as response:
        for line in response.read().decode().splitlines():
            if match := re.fullmatch(r"(ray_selgen_\w+)\{(.*)\} (\S+)", line):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
                found[match[1]].append((labels, float(match[3])))
    return found


def test_prometheus_and_the_grafana_dashboard_see_what_runs_and_no_more(metrics_url, tmp_path):
    worker = ray.remote(num_cpus=0)(Worker).remote()
    ray.get(worker.start.remote(tmp_path, 1))
    sweep = metrics.SweepMetrics("mine", again_s=0.3)
    sweep.update({"running": 1, "pending": 4, "removed": 1}, 60.0)

    def complete():
        found = scrape(metrics_url)
        return found if {"ray_selgen_alignment", "ray_selgen_seconds_left"} <= found.keys() else None

    found = wait_for(complete)
    text = DASHBOARD.read_text()
    assert set(re.findall(r"ray_\w+", text)) == found.keys()
    values = {name: series[0][1] for name, series in found.items() if len(series) == 1}
    expected = {"loss": 0.5, "tokens_per_second": 100.0, "step": 3.0, "progress": 0.75, "capability": 0.25}
    expected |= {"alignment": 0.75, "trial_status": 1.0, "seconds_left": 60.0}
    assert {f"ray_selgen_{name}": value for name, value in expected.items()}.items() <= values.items()
    (labels, _), *_ = found["ray_selgen_loss"]
    expected = {"sweep": "mine", "trial": "naive_abc123/seed_1", "strategy": "naive", "seed": "1"}
    assert expected.items() <= labels.items()
    by_status = {labels["status"]: value for labels, value in found["ray_selgen_trials"]}
    zero = {"completed": 0, "diverged": 0, "failed": 0, "stopped": 0}
    assert by_status == {"running": 1, "pending": 4, "removed": 1, **zero}

    time.sleep(4)  # Ray forgets after two seconds here, but a step may take a minute
    assert scrape(metrics_url).keys() == found.keys()
    ray.get(worker.finish.remote())

    def finished():
        found = scrape(metrics_url)
        statuses = {labels["status"]: value for labels, value in found["ray_selgen_trial_status"]}
        last = {name: [value for _, value in found[f"ray_selgen_{name}"]] for name in ("capability", "progress")}
        return statuses == {"running": 0, "completed": 1} and last == {"capability": [0.5], "progress": [1.0]}

    wait_for(finished)
    ray.get(worker.start.remote(tmp_path, 2))

    def of_second_trial_alone():
        found = scrape(metrics_url)
        return {labels["seed"] for name in found for labels, _ in found[name] if "seed" in labels} == {"2"}

    wait_for(of_second_trial_alone)  # the worker's metrics are those of one trial, however many it has run
    assert len(scrape(metrics_url)["ray_selgen_loss"]) == 1
    ray.get(worker.finish.remote())
    sweep.stop()
    wait_for(lambda: not scrape(metrics_url))


def test_the_dashboard_is_one_that_grafana_takes():
    board = json.loads(DASHBOARD.read_text())
    assert board["schemaVersion"] >= 39 and board["uid"] and board["title"]
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables.keys() >= {"sweep", "strategy"}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) >= 8
    for panel in board["panels"]:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}" and "$sweep" in target["expr"]
            assert target["expr"].count("(") == target["expr"].count(")")
    units = {panel["title"]: panel["fieldConfig"]["defaults"]["unit"] for panel in board["panels"]}
    assert units["GPU memory"] == "bytes" and units["Time left"] == "s"


# -- trackers in the search space ------------------------------------------------------------------------------------


def load(tmp_path: Path, listed: str, **more: str) -> list[Tracker]:
    path = tmp_path / "space.yaml"
    lines = ["base: {data.world: toy}", "seeds: [1]", f"trackers: {listed}", *(f"{k}: {v}" for k, v in more.items())]
    path.write_text("\n".join(lines))
    return load_space(path).trackers


def problems(tmp_path: Path, listed: str, **more: str) -> str:
    with pytest.raises(SpecError) as error:
        load(tmp_path, listed, **more)
    return str(error.value)


def test_trackers_of_a_search_space(tmp_path):
    assert load(tmp_path, "[tensorboard]") == [Tracker(name="tensorboard")]
    assert load(tmp_path, "[{name: tensorboard}]") == [Tracker(name="tensorboard")]
    assert load(tmp_path, "null") == [] == load(tmp_path, "[]")


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ("[tensorbord]", r"space.yaml:3: trackers\[0\]: unknown tracker 'tensorbord'.*Did you mean 'tensorboard'\?"),
        ("tensorboard", r"trackers: allowed: a list of tensorboard, wandb, mlflow, trackio"),
        ("[tensorboard, {name: tensorboard}]", r"trackers\[1\]: 'tensorboard' is given twice"),
        ("[{name: tensorboard, folder: x}]", r"trackers\[0\].folder: unknown key 'folder'"),
        ("[{name: wandb, projekt: x}]", r"unknown key 'projekt'.*Did you mean 'project'\?"),
        (
            "[{name: wandb, mode: ofline}]",
            r"found 'ofline'; allowed: online, offline or null. Did you mean 'offline'\?",
        ),
        ("[{name: wandb, tags: [1]}]", r"found \[1\]; allowed: a list of text"),
        ("[{wandb: {mode: offline}}]", r"allowed: the name of a tracker, or a mapping \{name: ..., option: ...\}"),
        ("[3]", r"allowed: the name of a tracker"),
    ],
)
def test_a_wrong_tracker_is_told_where_it_stands(tmp_path, listed, told):
    assert re.search(told, problems(tmp_path, listed))


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        (f"[{{name: wandb, api_key: {SECRET}}}]", "WANDB_API_KEY"),
        (f"[{{name: wandb, apiKey: [{SECRET}]}}]", "WANDB_API_KEY"),
        (f"[{{name: mlflow, tracking_token: {SECRET}}}]", "MLFLOW_TRACKING_TOKEN"),
        (f"[{{name: mlflow, tracking_uri: 'https://me:{SECRET}@host/'}}]", "MLFLOW_TRACKING_PASSWORD"),
        (f"[{{name: trackio, server_url: 'https://host/?write_token={SECRET}'}}]", "TRACKIO_WRITE_TOKEN"),
        (f"[{{wandb: {{api_key: {SECRET}}}}}]", "allowed"),
        (f"{{wandb: {{api_key: {SECRET}}}}}", "allowed"),
        (f"[{{name: wandb, project: [{SECRET}], api_key: {SECRET}}}, {{name: trakio}}]", "api_key"),
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path, listed, told):
    text = problems(tmp_path, listed)
    assert told in text
    if "project: [" not in listed:  # that one is shown: it is no place for a secret
        assert SECRET not in text


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_or_has_no_place_is_told_early(tmp_path, monkeypatch, name):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    listed = "[{name: wandb, mode: offline}]" if name == "wandb" else f"[{name}]"
    if not is_installed(name):
        assert f"{name!r} is not installed: pip install {name}" in problems(tmp_path, listed)
    remote = problems(tmp_path, listed, storage_path="s3://bucket/sweeps")
    assert re.search(rf"trackers: {name}: .*(local files|storage_path)", remote)
    if name == "wandb":
        assert "set WANDB_API_KEY in the environment" in problems(tmp_path, "[wandb]")


# -- trackers at work ------------------------------------------------------------------------------------------------


def train(config: dict) -> None:
    tune.report({"phase": "plane", "step": 2, "num_steps": 2, "loss": 3.0, "events": [{"event": "odd"}]})
    tune.report({"evaluated": {"step": 0, "epoch": 0.0, "capability": 0.0, "task_test/exact_match": 0.0}})
    for step in (1, 2):
        tune.report({**LINE, "step": step, "loss": 1.0 / step, "loss/kl": 0.5, "note": "text"})
    if config["trial_id"].endswith("2"):
        raise RuntimeError("this trial fails")
    tune.report({"evaluated": {**READING, "step": 2}})
    tune.report({"status": "completed", "capability": 0.25, "alignment": 0.75})


def run(folder: Folder, listed: list[Tracker], scratch: Path) -> None:
    tasks = {one.trial_id: one for one in (task(folder, 1), task(folder, 2))}
    callbacks = trackers.tracker_callbacks(listed, "mine", folder, tasks.__getitem__)
    tune.Tuner(
        train,
        param_space={"trial_id": tune.grid_search(list(tasks))},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(scratch), verbose=0, callbacks=callbacks),
    ).fit()


EXPECTED = {
    ("plane/loss", 2): 3.0,
    ("eval/task_test/exact_match", 0): 0.0,
    ("loss", 1): 1.0,
    ("loss", 2): 0.5,
    ("loss/kl", 2): 0.5,
    ("capability", 2): 0.25,
    ("alignment", 2): 0.75,
    ("eval/task_test/exact_match", 2): 0.25,
}


def scalars(content: bytes) -> dict[tuple[str, int], float]:
    """(name, step) -> value of a TensorBoard event file: length, checksum, event, checksum; again and again."""
    from tensorboardX.proto.event_pb2 import Event

    found, at = {}, 0
    while at < len(content):
        (length,) = struct.unpack("<Q", content[at : at + 8])
        event = Event.FromString(content[at + 12 : at + 12 + length])
        at += 12 + length + 4
        found |= {(v.tag.removeprefix("ray/tune/"), event.step): v.simple_value for v in event.summary.value}
    return {key: value for key, value in found.items() if not key[0].startswith("_hparams_")}


def test_tensorboard_files_lie_in_the_sweep_folder_and_a_failure_does_not_end_the_sweep(metrics_url, tmp_path, caplog):
    place = tmp_path / "mine" / "tensorboard" / "naive_abc123"
    place.mkdir(parents=True)
    (place / "seed_2").write_text("in the way")
    run(Folder(str(tmp_path / "mine")), [Tracker(name="tensorboard")], tmp_path / "scratch")
    (first,) = (place / "seed_1").iterdir()
    found = scalars(first.read_bytes())
    assert EXPECTED.items() <= found.items()
    extra = {name for name, _ in found} - {name for name, _ in EXPECTED}
    assert extra == {"plane/step", "step", "epoch", "tokens_per_s"}  # nothing of Tune's own
    told = [record.getMessage() for record in caplog.records if "tracker tensorboard" in record.getMessage()]
    assert len(told) == 1 and "seed_2" in told[0] and "the sweep goes on" in told[0]


def test_tensorboard_files_are_copied_to_an_object_store(metrics_url, tmp_path, s3_uri):
    folder = Folder(s3_uri) / "tracked"
    run(folder, [Tracker(name="tensorboard")], tmp_path)
    names = (folder / "tensorboard").files(recursive=True)
    assert [name.rpartition("/")[0] for name in names] == ["naive_abc123/seed_1", "naive_abc123/seed_2"]
    completed, failed = (scalars((folder / "tensorboard").read(name)) for name in names)
    assert EXPECTED.items() <= completed.items()
    assert ("loss", 2) in failed and ("capability", 2) not in failed


@pytest.mark.skipif(not is_installed("mlflow"), reason="mlflow is not installed")
def test_mlflow_goes_on_in_the_run_of_a_trial(metrics_url, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = Folder(str(tmp_path / "mine"))
    run(folder, [Tracker(name="mlflow", options={"tags": {"team": "blue"}})], tmp_path / "scratch")
    run(folder, [Tracker(name="mlflow", options={"tags": {"team": "blue"}})], tmp_path / "again")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mine/mlflow.db")
    experiment = client.get_experiment_by_name("mine")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {
        "naive_abc123/seed_1": "FINISHED",
        "naive_abc123/seed_2": "FAILED",
    }
    first = runs["naive_abc123/seed_1"]
    assert first.data.params["finetune_config.learning_rate"] == "0.1" and first.data.tags["team"] == "blue"
    for (name, step), value in EXPECTED.items():
        history = [(m.step, m.value) for m in client.get_metric_history(first.info.run_id, name)]
        assert history.count((step, value)) >= 2, name  # once for each time the trial ran


@pytest.mark.skipif(not is_installed("trackio"), reason="trackio is not installed")
def test_trackio_has_a_run_for_each_trial(metrics_url, tmp_path, monkeypatch):
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    run(Folder(str(tmp_path / "mine")), [Tracker(name="trackio")], tmp_path / "scratch")

    def read() -> dict[str, list[dict]]:
        from trackio.sqlite_storage import SQLiteStorage

        return {name: SQLiteStorage.get_logs("mine", name) for name in SQLiteStorage.get_runs("mine")}

    env = {"env_vars": {"TRACKIO_DIR": str(tmp_path / "mine" / "trackio")}}  # it is read once a process
    logs = ray.get(ray.remote(num_cpus=0, runtime_env=env)(read).remote())
    assert logs.keys() == {"naive_abc123/seed_1", "naive_abc123/seed_2"}
    found = {(name, row["step"]): value for row in logs["naive_abc123/seed_1"] for name, value in row.items()}
    assert EXPECTED.items() <= found.items()


@pytest.mark.skipif(not is_installed("wandb"), reason="wandb is not installed")
def test_wandb_writes_offline_runs_without_the_key(metrics_url, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET * 2)
    folder = tmp_path / "mine"
    run(Folder(str(folder)), [Tracker(name="wandb", options={"mode": "offline"})], tmp_path / "scratch")
    runs = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.name)
    assert [re.sub(r"-\w+\.wandb", "", path.name) for path in runs] == [f"run-{seed:016x}" for seed in (1, 2)]
    content = runs[0].read_bytes()
    assert all(word in content for word in (b"naive_abc123/seed_1", b"eval/task_test/exact_match", b"plane/loss"))
    session = Path(ray.get_runtime_context().get_session_name())
    logs = [*folder.rglob("*"), *(Path("/tmp/ray") / session / "logs").rglob("*")]
    assert len(logs) > 20
    assert not [path for path in logs if path.is_file() and SECRET.encode() in path.read_bytes()]
