"""A trial that is asked to stop saves what it has, and goes on later as if nothing had been."""

import threading

import pytest
from runs import OF_A_KIND_EACH, STRENGTH

from selgen_ray.evals import registry as evals_registry
from selgen_ray.records.results import TrialResult
from selgen_ray.storage import Folder
from selgen_ray.trainers import build_config
from selgen_ray.trainers.engine.stop_signal import StopSignal
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask

SETS = 6  # of an evaluation
DIFFERENT = {"timings", "num_resumes", "started_at", "updated_at", "model_path"}


class StopAtLook(StopSignal):
    """Asks for a stop at the n-th look, wherever in the trial that is."""

    def __init__(self, looks):
        super().__init__()
        self.left = looks

    def look(self):
        self.left -= 1
        if self.left <= 0:
            self.request("preempted", "enough looks")

    @property
    def requested(self):
        self.look()
        return super().requested

    def check(self, step):
        self.look()
        super().check(step)


class Trial:
    """One trial on the tiny model, run again and again in one folder."""

    def __init__(self, folder, config):
        config = build_config(config)
        self.folder = folder
        self.task = TrialTask(config.model_dump(mode="json"), "0123456789abcdef", "slug_abc123", Folder(str(folder)))
        self.events = []

    def run(self, stop=None, on_progress=lambda _: None):
        return run_trial(self.task, on_progress, stop=stop, on_event=self.events.append)

    def stopped(self, condition, reason="preempted"):
        """Run until a progress line for which the condition holds."""
        stop = StopSignal()
        result = self.run(stop, lambda line: condition(line) and stop.request(reason, "a test asks"))
        assert stop.requested
        return result

    @property
    def published(self):
        return TrialResult.model_validate_json((self.folder / "results.json").read_bytes())

    @property
    def checkpoints(self):
        return sorted(int(path.name.removeprefix("step_")[:8]) for path in (self.folder / "checkpoints").glob("step_*"))

    @property
    def outcome(self):
        """All that must not depend on stops."""
        model = (self.folder / "model" / "adapter_model.safetensors").read_bytes()
        return self.published.model_dump(exclude=DIFFERENT), model


@pytest.fixture
def trial(tmp_path, make_config):
    def make(strategy="naive", name="trial", **finetune):
        options = {"lora_dropout": 0.1, "save_model_locally": True, "save_steps": 1000, "logging_steps": 1}
        return Trial(tmp_path / name, make_config(strategy, **options | STRENGTH[strategy] | finetune))

    return make


def at(step, phase="train"):
    return lambda line: line.get("phase", "").startswith(phase) and line.get("step") == step


@pytest.fixture
def on_metric(monkeypatch):
    """on_metric(f): f(model, how many evaluation sets were begun before) is called as each one is begun."""

    def register(call):
        begun = []

        def a_first_metric(eval_set):  # metrics are computed in the order of their names
            begun.append(1)
            call(eval_set.model, len(begun) - 1)
            return {}

        evals_registry.all_metrics()
        first = evals_registry.Metric("a_first_metric", a_first_metric, (), ())
        monkeypatch.setitem(evals_registry._METRICS, "a_first_metric", first)
        return begun

    return register


def count_passes(model, seen):
    model.get_input_embeddings().register_forward_hook(lambda *_: seen.append(1))


@pytest.mark.parametrize("strategy", OF_A_KIND_EACH)
def test_stopped_anywhere_and_resumed_equals_undisturbed(trial, strategy):
    whole, cut = trial(strategy, "whole"), trial(strategy, "cut")
    assert whole.run().status == "completed"
    number = list(STRENGTH).index(strategy)  # other places for each
    for looks in (3, 9 + number % 5):  # in the first evaluation, and in what is prepared
        assert cut.run(StopAtLook(looks)).status == "running"
    assert cut.stopped(at(2 + number % 8)).status == "running"
    looks = 7
    while cut.run(StopAtLook(looks)).status == "running":
        assert cut.published.status == "running"
        looks *= 2  # an evaluation must be done in one go
    assert looks > 7 and cut.published.num_resumes >= 1
    assert cut.outcome == whole.outcome
    assert cut.events == [] and cut.checkpoints == []


@pytest.fixture(scope="module")
def undisturbed():
    """What a `naive` trial gives that nothing stopped."""
    return []


@pytest.fixture
def outcome(trial, undisturbed):
    if not undisturbed:
        whole = trial(name="whole")
        whole.run()
        undisturbed.append(whole.outcome)
    return undisturbed[0]


# naive takes 14 steps, 7 an epoch
@pytest.mark.parametrize("step", [1, 4, 7, 8, 14])
def test_a_stop_saves_the_step_it_comes_in(trial, outcome, step):
    cut = trial()
    result = cut.stopped(at(step))
    assert (result.status, result.error) == ("running", None) and cut.published == result
    assert result.train_steps == list(range(1, step + 1))
    assert result.eval_steps == [s for s in (0, 7, 14) if s < step]  # one at this step is due
    assert cut.checkpoints == [step]
    seen = []
    resumed = cut.run(on_progress=seen.append)
    if step in (7, 14):
        assert seen[0]["evaluated"]["step"] == step
    assert [line["step"] for line in seen if "phase" in line] == list(range(step + 1, 15))
    assert (resumed.status, resumed.num_resumes) == ("completed", 1)
    assert cut.outcome == outcome


def test_a_stop_inside_an_evaluation_lets_no_further_batch_pass(trial, outcome, on_metric):
    cut, stop, passes = trial(), StopSignal(), []

    def ask(model, number):
        if number == SETS + 2:  # in the middle of the one after the first epoch
            stop.request("preempted", "a test asks")
            count_passes(model, passes)

    begun = on_metric(ask)
    assert cut.run(stop).eval_steps == [0]
    assert (passes, cut.checkpoints) == ([], [7])
    assert len(begun) < 2 * SETS  # sets whose tokens were scored with others' may still begin, but not all
    cut.run()
    assert cut.outcome == outcome


def test_a_stop_inside_generation_ends_it(trial):
    cut, tokens = trial(max_new_tokens=200), []

    class StopInReply(StopSignal):
        def check(self, step):
            tokens.append(step)
            if len(tokens) == 30:
                self.request("preempted", "a test asks")
            super().check(step)

    assert cut.run(StopInReply()).status == "running"
    assert len(tokens) == 30 and cut.checkpoints == []


def test_a_stop_between_edits_keeps_the_trained_weights_and_what_was_evaluated(trial, on_metric):
    thresholds = {"safe_lora_sweep_thresholds": [-0.5, 0.9], "safe_lora_threshold": 0.9}
    whole, cut = trial("safe_lora", "whole", **thresholds), trial("safe_lora", "cut", **thresholds)
    stop = StopSignal()
    begun = on_metric(lambda _, number: number == 5 * SETS + 1 and stop.request("preempted", "a test asks"))
    result = cut.run(stop)
    versions = ["", "aligned", "", "", "safe_lora_threshold=-0.5"]
    assert (result.status, result.eval_versions, cut.checkpoints) == ("running", versions, [10])
    begun.clear()
    assert cut.run().eval_versions == [*versions, "safe_lora_threshold=0.9", "projected"]
    assert len(begun) == 2 * SETS
    whole.run()
    assert cut.outcome == whole.outcome


def test_a_stopped_preparation_goes_on_from_its_last_step(trial):
    whole, cut = trial("steering_weights", "whole"), trial("steering_weights", "cut")
    whole.run()
    assert cut.stopped(at(2, "preparing")).eval_steps == [0]
    assert cut.checkpoints == []
    (saved,) = (cut.folder / "cache").glob("throw_away_trainings/*/work/checkpoints/*")
    assert saved.name == "step_00000002"
    seen = []
    cut.run(on_progress=seen.append)
    assert next(line["step"] for line in seen if line.get("phase") == "preparing on proxy") == 3
    assert cut.outcome == whole.outcome


def test_a_trial_stopped_for_good_says_why_and_can_go_on_even_so(trial, outcome):
    cut = trial()
    result = cut.stopped(at(9), reason="stopped")
    assert (result.status, result.error) == ("stopped", "a test asks")
    assert cut.published == result and cut.checkpoints == [9]
    assert cut.run().status == "completed"
    assert cut.outcome == outcome


def test_a_stop_before_the_first_step_leaves_everything_as_it_was(trial):
    cut = trial()
    asked = StopSignal()
    asked.request("preempted", "a test asks")
    asked.request("stopped", "too late: the first reason counts")
    assert cut.run(asked).status == "running" and cut.checkpoints == []
    before = cut.stopped(at(8))
    assert before.eval_steps == [0, 7]
    after = cut.run(asked)
    assert after.eval_results == before.eval_results and after.capability == before.capability
    assert cut.checkpoints == [8]


def test_who_waits_for_a_value_of_another_trial_can_be_stopped(tmp_path, make_config):
    shared, reached, go_on = Folder(str(tmp_path / "cache")), threading.Event(), threading.Event()

    def task(name, alpha):
        config = build_config(make_config("steering_weights", steering_alpha=alpha, logging_steps=1)).model_dump(
            mode="json"
        )
        return TrialTask(config, name * 16, f"slug_{name}", Folder(str(tmp_path / name)), cache=shared)

    def hold(line):
        if line.get("phase", "").startswith("preparing"):
            reached.set()
            assert go_on.wait(120)

    first = threading.Thread(target=run_trial, args=(task("a", 1.0), hold))
    first.start()
    assert reached.wait(120)
    stop = StopSignal()

    def ask(line):
        assert not stop.requested, "it still waits"
        if line.get("phase", "").startswith("waiting for throw_away"):
            stop.request("preempted", "a test asks")

    try:
        assert run_trial(task("b", 2.0), ask, stop=stop).status == "running"
        assert stop.requested
    finally:
        go_on.set()
        first.join()


def test_a_stop_saves_even_where_the_last_checkpoint_is_still_fresh(trial):
    cut = trial(save_steps=4, max_checkpoints_to_keep=1)
    cut.stopped(at(4))
    assert cut.checkpoints == [4]
    cut.stopped(at(5))
    assert cut.checkpoints == [5]
    assert cut.run().num_resumes == 2
