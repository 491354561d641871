"""Scores of many answers: each asked once for all trials of a sweep, some at a time, until the judge seems dead."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field

from selgen_ray.config.evals import JudgeConfig
from selgen_ray.config.judge_prompts import filled, prompt_sha256
from selgen_ray.evals.judge.client import JudgeClient, JudgeError
from selgen_ray.evals.judge.scores import Score, read_score
from selgen_ray.storage import Folder

logger = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.5
_MIN_FAILURES = 3  # in a row, before a judge is taken for dead


@dataclass(frozen=True)
class Item:
    """What is scored: an answer to a question, in one respect ('aligned' or 'coherent')."""

    question: str
    answer: str
    respect: str


@dataclass
class Verdicts:
    """What came of asking.

    Attributes:
        scores: of every item that was answered.
        failures: item -> why it was not answered.
        dead: why nothing more was asked; '' where everything was.
    """

    scores: dict[Item, Score] = field(default_factory=dict[Item, Score])
    failures: dict[Item, str] = field(default_factory=dict[Item, str])
    dead: str = ""


class Judge:
    """One judge with its prompts.

    Args:
        config: with `model`.
        cache: where answers are kept, for all who use the folder; None: in this process alone.
        client: default: one for `config`. Raises ModelError: its key is not in the environment.
    """

    def __init__(self, config: JudgeConfig, cache: Folder | None = None, client: JudgeClient | None = None):
        self.config, self._cache = config, cache
        self._client = client or JudgeClient(config)
        self._prompts = {"aligned": config.aligned_prompt, "coherent": config.coherent_prompt}
        self._known: dict[str, Score] = {}

    @property
    def identity(self) -> dict[str, str]:
        """What the scores depend on, as results.json records it."""
        hashes = {f"{name}_prompt_sha256": prompt_sha256(prompt) for name, prompt in self._prompts.items()}
        return {"model": str(self.config.model), **hashes}

    def score(self, items: Iterable[Item], check: Callable[[], None] = lambda: None) -> Verdicts:
        """Scores of the items; what was asked before is looked up.

        Args:
            check: called often while waiting; what it raises ends the asking, and what was answered is kept.
        """
        found = Verdicts()
        by_key = {self._key(item): item for item in items}
        self._look_up(list(by_key))
        left = [key for key in by_key if key not in self._known]
        self._client.given_up.clear()
        pool = ThreadPoolExecutor(self.config.max_concurrent, thread_name_prefix="judge")
        try:
            self._ask_all(pool, {key: by_key[key] for key in left}, found, check)
        finally:
            self._client.given_up.set()
            pool.shutdown(wait=False, cancel_futures=True)
        found.scores = {item: self._known[key] for key, item in by_key.items() if key in self._known}
        return found

    def _ask_all(
        self, pool: ThreadPoolExecutor, left: dict[str, Item], found: Verdicts, check: Callable[[], None]
    ) -> None:
        asked = {pool.submit(self._ask, key, item): item for key, item in left.items()}
        waiting, in_a_row = set(asked), 0
        while waiting and not found.dead:
            check()
            done, waiting = wait(waiting, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    future.result()
                    in_a_row = 0
                except JudgeError as error:
                    in_a_row += 1
                    found.failures[asked[future]] = str(error)
                    if error.fatal or in_a_row >= max(_MIN_FAILURES, self.config.max_concurrent):
                        found.dead = str(error)
        if not found.dead and left and len(found.failures) == len(left):
            found.dead = next(iter(found.failures.values()))
        if found.dead:
            found.failures |= {asked[future]: found.dead for future in waiting}

    def _ask(self, key: str, item: Item) -> None:
        prompt = filled(self._prompts[item.respect], item.question, item.answer)
        reply = self._client.complete(prompt)
        score = read_score(reply)
        self._known[key] = score
        if self._cache is not None:
            content = {"judge": self.config.model, "respect": item.respect, "reply": reply.text[:200], **asdict(score)}
            try:
                self._cache.write_json(f"{key}.json", content)
            except OSError as error:  # the score is there: another may have to ask again
                logger.warning("%s", error)

    def _look_up(self, keys: Sequence[str]) -> None:
        if self._cache is None:
            return
        wanted = [key for key in keys if key not in self._known]
        for key, content in zip(wanted, self._cache.read_many([f"{key}.json" for key in wanted]), strict=True):
            try:
                if content is not None:
                    kept = json.loads(content)
                    self._known[key] = Score(kept["kind"], kept["value"])
            except (ValueError, KeyError, TypeError):  # cut off: it is asked again
                logger.warning("%s is damaged and will be asked again", self._cache / f"{key}.json")

    def _key(self, item: Item) -> str:
        parts = [self.config.model, prompt_sha256(self._prompts[item.respect]), item.question, item.answer]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
