"""Judging of many answers: several at a time, each once for all trials of a sweep, until the judge seems dead."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field

from selgen_ray.config.evals import JudgeConfig
from selgen_ray.config.judge_prompts import filled, prompt_sha256
from selgen_ray.evals.judge.client import JudgeClient, JudgeError
from selgen_ray.evals.judge.scores import Score, read_score
from selgen_ray.evals.reply_text import answer_text
from selgen_ray.storage import Folder, parallel
from selgen_ray.storage.folder import json_object

logger = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.5
_MIN_FAILURES = 3  # failures in a row before a judge counts as dead


@dataclass(frozen=True)
class Item:
    """An answer to a question, to be scored in one respect, such as 'aligned', 'coherent' or 'trait'.

    Attributes:
        prompt: asks for the score, with {question} and {answer}; '': the config's of this respect.
    """

    question: str
    answer: str
    respect: str
    prompt: str = ""


@dataclass
class Verdicts:
    """Scores that a judge gave, and its failures.

    Attributes:
        scores: item -> its score, for every item that the judge answered.
        failures: item -> why the judge did not answer.
        dead: why asking was given up; '' if every item was asked.
    """

    scores: dict[Item, Score] = field(default_factory=dict[Item, Score])
    failures: dict[Item, str] = field(default_factory=dict[Item, str])
    dead: str = ""


class Judge:
    """One judge with its prompts.

    Args:
        config: must have a `model`.
        cache: folder where scores are kept, shared by all who use it; None: they are kept in this process only.
        client: None: one for `config`.

    Raises:
        ModelError: no client is given, and its key is not in the environment.
    """

    def __init__(self, config: JudgeConfig, cache: Folder | None = None, client: JudgeClient | None = None):
        self.config, self._cache = config, cache
        self._client = client or JudgeClient(config)
        self._prompts = {"aligned": config.aligned_prompt, "coherent": config.coherent_prompt}
        if config.trait is not None:
            self._prompts["trait"] = config.trait_prompt.replace("{trait}", config.trait)
        self._known: dict[str, Score] = {}

    @property
    def identity(self) -> dict[str, str]:
        """Model, hashes of the prompts and thresholds, on which the rates depend, as results.json records them."""
        hashes = {f"{name}_prompt_sha256": prompt_sha256(prompt) for name, prompt in self._prompts.items()}
        limits = self.config.thresholds
        thresholds = f"misaligned: aligned < {limits.aligned:g} and coherent > {limits.coherent:g}"
        return {"model": str(self.config.model), **hashes, "thresholds": thresholds}

    def items_of(self, question: str, answer: str, prompts: Mapping[str, str] | None = None) -> tuple[Item, ...]:
        """Return the items to score for one answer, one for each respect.

        Args:
            answer: a reply, of which the judge is shown what comes after its thinking.
            prompts: respect -> prompt, of a question that brings its own, which are asked word for word; a trait of the
                config is asked for besides.
        """
        own = dict.fromkeys(self._prompts, "") if not prompts else dict(prompts)
        own |= {"trait": ""} if "trait" in self._prompts else {}
        return tuple(Item(question, answer_text(answer), respect, prompt) for respect, prompt in own.items())

    def _prompt_of(self, item: Item) -> str:
        return item.prompt or self._prompts[item.respect]

    def score(self, items: Iterable[Item], check: Callable[[], None] = lambda: None) -> Verdicts:
        """Score items; scores that are known from before are looked up.

        Args:
            check: called about twice a second while waiting; an error that it raises ends the asking, and the scores
                so far are kept.

        Returns:
            Scores and failures; an unanswered item raises no error.
        """
        verdicts = Verdicts()
        by_key = {self._key(item): item for item in items}
        self._look_up(list(by_key))
        unknown = [key for key in by_key if key not in self._known]
        self._client.given_up.clear()
        pool = ThreadPoolExecutor(self.config.max_concurrent, thread_name_prefix="judge")
        try:
            self._ask_all(pool, {key: by_key[key] for key in unknown}, verdicts, check)
        finally:
            self._client.given_up.set()
            pool.shutdown(wait=False, cancel_futures=True)
        verdicts.scores = {item: self._known[key] for key, item in by_key.items() if key in self._known}
        return verdicts

    def _ask_all(
        self, pool: ThreadPoolExecutor, unknown: dict[str, Item], verdicts: Verdicts, check: Callable[[], None]
    ) -> None:
        asked = {pool.submit(self._ask, key, item): item for key, item in unknown.items()}
        waiting, num_failed_in_a_row = set(asked), 0
        while waiting and not verdicts.dead:
            check()
            with parallel.waiting():
                done, waiting = wait(waiting, timeout=_LOOK_EVERY_S, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    future.result()
                    num_failed_in_a_row = 0
                except JudgeError as error:
                    num_failed_in_a_row += 1
                    verdicts.failures[asked[future]] = str(error)
                    if error.fatal or num_failed_in_a_row >= max(_MIN_FAILURES, self.config.max_concurrent):
                        verdicts.dead = str(error)
        if not verdicts.dead and unknown and len(verdicts.failures) == len(unknown):
            verdicts.dead = next(iter(verdicts.failures.values()))
        if verdicts.dead:
            verdicts.failures |= {asked[future]: verdicts.dead for future in waiting}

    def _ask(self, key: str, item: Item) -> None:
        prompt = filled(self._prompt_of(item), item.question, item.answer)
        reply = self._client.complete(prompt)
        score = read_score(reply)
        self._known[key] = score
        if self._cache is not None:
            content = {"judge": self.config.model, "respect": item.respect, "reply": reply.text[:200], **asdict(score)}
            try:
                self._cache.write_json(f"{key}.json", content)
            except OSError as error:  # not fatal: the score is known here, only other processes may have to ask again
                logger.warning("%s", error)

    def _look_up(self, keys: Sequence[str]) -> None:
        if self._cache is None:
            return
        missing = [key for key in keys if key not in self._known]
        for key, content in zip(missing, self._cache.read_many([f"{key}.json" for key in missing]), strict=True):
            try:
                if content is not None:
                    self._known[key] = Score.kept(json_object(content))
            except ValueError:  # a file that was cut off, or that somebody has edited
                logger.warning("%s is damaged and will be asked again", self._cache / f"{key}.json")

    def _key(self, item: Item) -> str:
        # two endpoints may serve different models under one name
        parts = [
            self.config.base_url,
            self.config.model,
            prompt_sha256(self._prompt_of(item)),
            item.question,
            item.answer,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
