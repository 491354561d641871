"""Run one trial in this process, TrialTask -> TrialResult, without Ray: the place to debug a trial."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from selgen_ray.config import hub_names
from selgen_ray.config.evals import base_set
from selgen_ray.data.rows import load_roles, rows_hash
from selgen_ray.errors import (
    INPUT_ERRORS,
    DataError,
    ModelError,
    TrialDiverged,
    TrialStopped,
    TrialSuperseded,
    blocked_by,
)
from selgen_ray.evals.foresight import rows_of_metrics
from selgen_ray.evals.headlines import headlines, worst_headline
from selgen_ray.hashing import content_sha256
from selgen_ray.models import hub, saving, tokenizer
from selgen_ray.models.loading import Source
from selgen_ray.records.attempts import Fence
from selgen_ray.records.results import TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.storage import Folder
from selgen_ray.storage.cache import Cache
from selgen_ray.storage.parallel import clock
from selgen_ray.storage.scratch import scratch
from selgen_ray.trainers.base import BaseTrainer, trainer_class
from selgen_ray.trainers.catalogue import build_config
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.checkpoints import Checkpoint, Checkpoints
from selgen_ray.trainers.engine.stop_signal import StopSignal
from selgen_ray.trainers.plugins import register_exactly
from selgen_ray.trial import provenance
from selgen_ray.trial.model_card import model_card
from selgen_ray.trial.task import CHECKPOINTS, TrialTask

logger = logging.getLogger(__name__)
_TRACEBACK_LINES = 30
_MODEL = "model"
_NOT_PUSHED = "the model has not been pushed to the hub: it ended before"


def run_trial(
    task: TrialTask,
    on_progress: Callable[[dict[str, Any]], None] = lambda _: None,
    *,
    stop: StopSignal | None = None,
    on_event: Callable[[dict[str, Any]], None] = lambda _: None,
    fsdp: bool = False,
    source: Source | None = None,
    packed_with: Sequence[str] = (),
    on_step: Callable[[Callable[[], Checkpoint]], None] = lambda _: None,
) -> TrialResult:
    """Train a trial from its newest checkpoint or its start, and publish results.json after every evaluation.

    If several processes train the trial together, each calls this function; see `trainers.engine.ranks`.

    A trial that diverges returns with status 'diverged'. One that fails publishes status 'failed' with the last
    lines of its traceback, then raises its error; what `errors.blocked_by` names is raised alone, since it is no
    failure of the trial. One that is asked to stop finishes its step, writes a checkpoint and returns with status
    'stopped', or 'running' if it is only preempted.

    Args:
        task: the trial.
        on_progress: called with readable numbers every `logging_steps`, and after each evaluation with
            {'evaluated': one of `TrialResult.readings`}.
        stop: a request to stop, which any thread may set.
        on_event: called, from any thread, with {'event', 'why', 'step'} for the sweep's log. Events are
            'checkpoint_failed', 'checkpoint_unusable', 'auto_batch', 'judge_failed', 'answers_unchanged',
            'peak_not_reached', 'save_failed' and 'push_failed'.
        fsdp: shard the frozen base over the processes.
        source: supplies the model, and runs its backward passes; default: the process's base, for this trial alone.
        packed_with: names of the trials that share this process with it, for results.json.
        on_step: see `trainers.engine.context.Callbacks`.

    If the result is finished already, by another attempt, return it as it is.

    Raises:
        DataError, ModelError, PluginError: the input is wrong; another try would fail too.
        TrialSuperseded: another process runs the trial, or the sweep, now; its files are left alone.
        Exception: any other error of the trial. Either is published first, if the storage answers.
    """
    try:
        run = _Run(task, stop or StopSignal(), on_event, fsdp, source, on_step)
    except TrialSuperseded:
        raise
    except Exception as error:  # a plugin cannot be loaded, or the config is wrong
        if _knows_the_cause(error) and not blocked_by(error):
            with contextlib.suppress(OSError):
                publish_failure(task, last_lines(), again=True)
        raise
    run.result.packed_with = list(packed_with)
    return run.run(on_progress)


def publish_failure(task: TrialTask, error: str, *, again: bool = False) -> None:
    """Publish status 'failed' for a trial whose own run could not do so; leave a finished result as it is.

    Args:
        task: the trial, with an attempt of its own if another process may still run the one before.
        error: a text whose last line is the cause, as in a traceback.
        again: replace the cause of an earlier failure too.

    Raises:
        StorageError: the folder cannot be written.
    """
    fence = Fence(task.folder, task.attempt)
    try:
        stored = fence.begin()
        _publish_failure(task, fence, stored, error, again)
    except TrialSuperseded as refusal:  # whoever runs it now says how it ends
        logger.warning("%s: its failure is not kept: %s", task.name, refusal)


def _publish_failure(task: TrialTask, fence: Fence, stored: TrialResult | None, error: str, again: bool) -> None:
    result = TrialResult(
        trial_id=task.trial_id, slug=task.slug, seed=task.config["seed"], status=TrialStatus.RUNNING, config=task.config
    )
    result = stored or result
    if result.status is TrialStatus.RUNNING or (again and result.status is TrialStatus.FAILED):
        result.status, result.error = TrialStatus.FAILED, error
        fence.publish(result)


def _knows_the_cause(error: Exception) -> bool:
    """Return whether `error` is the cause: if another rank died, this one may only have lost its connection."""
    return ranks.world_size() == 1 or (isinstance(error, INPUT_ERRORS) and ranks.is_main())


class _Run:
    """The state of one call of `run_trial`: the result as published so far, and the clock."""

    def __init__(
        self,
        task: TrialTask,
        stop: StopSignal,
        on_event: Callable[[dict[str, Any]], None],
        fsdp: bool,
        source: Source | None,
        on_step: Callable[[Callable[[], Checkpoint]], None] = lambda _: None,
    ):
        self.fsdp, self.source, self.on_step = fsdp, source, on_step
        self.task, self.asked, self.stop, self.on_event = task, stop, ranks.agreeing(stop), on_event
        register_exactly(task.plugins)
        self.config = build_config(task.config)
        self.started = clock()
        self.seconds_before = 0.0
        self.result = TrialResult(
            trial_id=task.trial_id,
            slug=task.slug,
            seed=self.config.seed,
            status=TrialStatus.RUNNING,
            config=self.config.model_dump(mode="json"),
            hardware=provenance.hardware(),
            versions=provenance.versions(),
            git_commit=task.git_commit,
            model_hash=task.model_hash,
            changes=list(task.changes),
        )
        self.fence, self.superseded = Fence(task.folder, task.attempt), ""
        self.before = ranks.from_main(self._begin)
        if self.before is not None:
            self.result.started_at = self.before.started_at
            self.seconds_before = self.before.timings.get("total_s", 0.0)
        self.cache_folder = task.cache or task.folder / "cache"
        keep = self.config.finetune_config.max_checkpoints_to_keep
        self.saved = False  # whether this rank has a finished model that can be pushed
        self.checkpoints = Checkpoints(task.folder / CHECKPOINTS, keep, on_event, self.fence, self._refused)

    def _begin(self) -> TrialResult | None:
        """Begin the attempt, unless the trial or the sweep was taken away while it waited for its turn."""
        if (asked := self.asked.requested) is not None and asked[0] == "superseded":
            raise TrialSuperseded(asked[1])
        return self.fence.begin()

    def run(self, on_progress: Callable[[dict[str, Any]], None]) -> TrialResult:
        if self.task.attempt is not None and self.before is not None and self.before.status.is_finished:
            self._clear_up()
            return self.before  # finished after this task was made, by a process that was taken for dead
        with scratch("model") as finished:
            return self._run(on_progress, finished)

    def _run(self, on_progress: Callable[[dict[str, Any]], None], finished: Path) -> TrialResult:
        if ranks.is_main():
            self.task.folder.write_json("config.json", self.result.config)
        try:
            self._train(on_progress, finished)
            self.result.status = TrialStatus.COMPLETED
        except TrialDiverged as error:
            self.result.status, self.result.error = TrialStatus.DIVERGED, str(error)
        except TrialStopped as error:
            return self._stopped(error)
        except TrialSuperseded:
            raise
        except Exception as error:
            if blocked_by(error):  # no fault of the trial's: it goes on from its checkpoint when that is mended
                raise
            self.result.status = TrialStatus.FAILED
            self.result.error = last_lines()
            if _knows_the_cause(error):
                with contextlib.suppress(OSError):  # the storage may be what failed; the cause must not be hidden
                    self._publish()
                    if self.superseded:  # of this rank alone: the others need not be here
                        raise TrialSuperseded(self.superseded) from None
            raise
        self._publish_last()
        if self.result.status == TrialStatus.COMPLETED:
            self._push(finished)
        self._clear_up()
        return self.result

    def _clear_up(self) -> None:
        """Remove what a finished trial needs no more."""
        try:
            if ranks.is_main():
                self.fence.check()  # somebody may have asked for a retry since, whose checkpoints these are
            self.checkpoints.delete()
            if ranks.is_main():
                self.fence.end()
            if self.task.cache is None and ranks.is_main():
                self.cache_folder.delete()
        except (OSError, TrialSuperseded) as error:  # the result is published: a folder left over is no failure
            logger.warning("%s", error)

    def _stopped(self, error: TrialStopped) -> TrialResult:
        if error.reason == "superseded":
            raise TrialSuperseded(error.why) from error
        if self.before and not self.result.eval_steps:  # stopped before it read its checkpoint: keep the old record
            self.result = self.before.model_copy(update={"error": None})
        self.result.status = TrialStatus.RUNNING
        if error.reason == "stopped":
            self.result.status, self.result.error = TrialStatus.STOPPED, error.why
        self._publish_last()
        return self.result

    def _push(self, finished: Path) -> None:
        """Push the finished model to the hub; the result is published already, so a failed push does not lose it."""
        cfg = self.config.finetune_config
        if not cfg.push_to_hub or not self.saved:
            return
        name = hub_names.repository(cfg.finetuned_model_id, self.task.slug, self.config.seed, self.task.trial_id)
        try:
            self.result.model_url = hub.push(finished, name, cfg.push_to_private)
            self.result.flags = [flag for flag in self.result.flags if flag != _NOT_PUSHED]
        except ModelError as error:
            message = f"the model could not be pushed to the hub: {error}"
            self.result.flags = [message if flag == _NOT_PUSHED else flag for flag in self.result.flags]
            self.on_event({"event": "push_failed", "why": message, "step": self.result.eval_steps[-1]})
        with contextlib.suppress(OSError):  # the result published before has the flag that the push is missing
            self._publish()

    def _train(self, on_progress: Callable[[dict[str, Any]], None], finished: Path) -> None:
        ranks.agree(self.stop)
        self.stop.check(0)
        config = self.config
        make_trainer = trainer_class(config.proxy_strategy)
        refused, prompts = tokenizer.refused_rows(config), make_trainer.training_prompts(config)
        roles = load_roles(config, make_trainer.needed_roles(config), refused, prompts)
        self.result.data_hashes = {role: rows_hash(rows) for role, rows in roles.items()}
        if config.evals.questions:
            self.result.data_hashes["questions"] = content_sha256(config.evals.questions)
        with make_trainer(
            config,
            datasets=roles,
            checkpoints=self.checkpoints,
            cache=Cache(self.cache_folder, lambda kind: self._wait(kind, on_progress)),
            model_hash=self.task.model_hash,
            on_progress=on_progress,
            on_evaluation=lambda: self._evaluated(trainer, on_progress),
            stop=self.asked,
            on_event=self.on_event,
            fsdp=self.fsdp,
            source=self.source,
            on_step=self.on_step,
        ) as trainer:
            try:
                trainer.train()
            finally:
                copy_record(self.result, trainer)
            if (config.finetune_config.keeps_model or config.finetune_config.push_to_hub) and ranks.is_main():
                self._try_to_save(trainer, finished)

    def _try_to_save(self, trainer: BaseTrainer, finished: Path) -> None:
        """Save the finished model; if that fails, flag it and keep the result."""
        try:
            self.fence.check()  # the newer attempt may be saving its own to this place
            self._save(trainer, finished)
        except TrialStopped:
            raise
        except TrialSuperseded as error:  # raised on all ranks together by `_publish_last`
            self._refused(str(error))
        except (
            Exception
        ) as error:  # of many kinds: a full disk, a store that refuses, a format that cannot hold the model
            logger.exception("the finished model could not be saved")
            why = " ".join(str(error).split()) or "no reason is known"
            flag = f"the finished model could not be saved: {type(error).__name__}: {why}"
            self.result.flags = [*self.result.flags, flag]
            self.on_event({"event": "save_failed", "why": flag, "step": self.result.eval_steps[-1]})

    def _save(self, trainer: BaseTrainer, finished: Path) -> None:
        """Write the finished model with its card to `finished`, and keep a copy if the config asks for one."""
        cfg = self.config.finetune_config
        trainer.save_model(finished)
        if flag := saving.left_out_of_generation(trainer.model, trainer.tokenizer):
            self.result.flags = [*self.result.flags, flag]
        (finished / "README.md").write_text(model_card(trainer.config, self.result), encoding="utf-8")
        self.saved = True
        if cfg.push_to_hub:
            self.result.flags = [*self.result.flags, _NOT_PUSHED]
        if cfg.keeps_model:
            self.result.model_path = str(self._keep(finished))

    def _keep(self, finished: Path) -> Folder:
        """Copy the finished model to the place that the config names, and return that.

        Raises:
            TrialSuperseded: what lies there now is another attempt's; it is left alone.
            StorageError: the storage refused; half a model is worse than none, and is removed.
        """
        cfg = self.config.finetune_config
        name = f"{cfg.finetuned_model_id or 'model'}-{self.task.trial_id}"
        place = Folder(cfg.output_dir) / name if cfg.output_dir else self.task.folder / _MODEL
        self.fence.check()  # it took a while to save the model on this machine
        place.delete()  # what an attempt has left that was killed while it wrote its model
        try:
            for path in sorted(path for path in finished.rglob("*") if path.is_file()):
                file = path.relative_to(finished).as_posix()
                if cfg.output_dir:
                    self.fence.check()  # before each: a large model takes minutes
                    place.write(file, path.read_bytes())
                else:
                    self.fence.write(f"{_MODEL}/{file}", path.read_bytes())
        except OSError:
            with contextlib.suppress(OSError, TrialSuperseded):
                self.fence.check()
                place.delete()
            raise
        return place

    def _wait(self, kind: str, on_progress: Callable[[dict[str, Any]], None]) -> None:
        self.asked.check(0)  # rank 0 waits for all
        on_progress({"phase": f"waiting for {kind}"})

    def _evaluated(self, trainer: BaseTrainer, on_progress: Callable[[dict[str, Any]], None]) -> None:
        self._publish(trainer)
        if trainer.record.eval_versions[-1] == "":
            on_progress({"evaluated": self.result.readings()[-1]})

    def _publish(self, trainer: BaseTrainer | None = None) -> None:
        if trainer:
            copy_record(self.result, trainer)
        self.result.timings["total_s"] = self.seconds_before + clock() - self.started
        if ranks.is_main():
            try:
                self.fence.publish(self.result)
            except TrialSuperseded as error:
                self._refused(str(error))

    def _refused(self, why: str) -> None:
        """Let the run end after this step, on all ranks: what it has left to write is another's."""
        self.superseded = why
        self.stop.request("superseded", why)

    def _publish_last(self) -> None:
        """Publish at the end of the run, when no stop is looked for any more; all ranks must call it.

        Raises:
            TrialSuperseded, StorageError: on every rank, or some would wait for one that has left.
        """

        def publish() -> str:
            self._publish()
            return self.superseded

        if why := ranks.from_main(publish):
            raise TrialSuperseded(why)


def last_lines() -> str:
    """Return the last lines of the traceback of the exception that is being handled."""
    return "\n".join(traceback.format_exc().splitlines()[-_TRACEBACK_LINES:])


def copy_record(result: TrialResult, trainer: BaseTrainer) -> None:
    """Copy a trainer's record into a result, and set its headline values from it.

    Raises:
        DataError: a headline is not in [0, 1].
    """
    for name in type(trainer.record).model_fields:
        setattr(result, name, getattr(trainer.record, name))
    result.num_resumes = trainer.run.num_resumes
    result.num_rows = {f"train/{k}": len(v.rows) for k, v in trainer.sets.train.items()}
    for name, shown in trainer.sets.evals.items():
        result.num_rows[f"eval/{name}"] = len(shown.rows)
        counts = rows_of_metrics(base_set(name), shown.rows, trainer.config)
        own = {metric: counts.get(metric) for metric in result.eval_results.get(name, {})}
        result.num_rows |= {f"eval/{name}/{metric}": n for metric, n in own.items() if n and n != len(shown.rows)}
    result.num_rows |= {f"skipped/{k}": v for k, v in trainer.sets.skipped.items()}
    result.row_lengths = trainer.sets.lengths
    for headline, name in headlines(result.eval_results, trainer.config.evals).items():
        value = result.metric(name)
        if value is not None and not 0 <= value <= 1:
            raise DataError(f"evals.{headline}: {name} is {value:g}, which is not in [0, 1]")
        setattr(result, f"{headline}_metric", name)
        setattr(result, headline, value)
    result.alignment_worst_metric = worst_headline(result.alignment_metric, result.eval_results)
    result.alignment_worst = result.metric(result.alignment_worst_metric)
