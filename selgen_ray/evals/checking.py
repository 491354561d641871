"""Checks of a section `evals`, before any trial starts."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable

from selgen_ray.config.evals import LM_EVAL, QUESTIONS, EvalConfig, JudgeConfig, LmEvalConfig, base_set
from selgen_ray.errors import ModelError, nearest
from selgen_ray.evals import lm_eval_tasks
from selgen_ray.evals.judge import metrics as judged
from selgen_ray.evals.judge.client import api_key
from selgen_ray.evals.metrics.language import language_problem
from selgen_ray.evals.registry import all_metrics, selected
from selgen_ray.records.eval_sets import ROLE_OF_SET
from selgen_ray.records.results import HEADLINES, less_is_better


def check_evals(config: EvalConfig) -> None:
    """Check that a trial could compute what a section `evals` names.

    Raises:
        ValueError: there is no such metric, a headline could never have a value, or lm-eval is not installed; the
            message names the key.
    """
    known = all_metrics()
    for name in config.metrics or ():
        if name not in known:
            raise ValueError(
                f"metrics: there is no metric {name!r}; allowed: {', '.join(known)}.{nearest(name, known)}"
            )
    for key in HEADLINES:
        if headline := getattr(config, key):
            _check_headline(config, key, *headline.split("/"))
    if config.language and (problem := language_problem(config.language)):
        raise ValueError(problem)
    if config.language is None and "language" in (config.metrics or ()):
        raise ValueError("metrics: language needs the key evals.language, such as language: fr")
    if config.lm_eval.tasks and not lm_eval_tasks.is_installed():
        raise ValueError('lm_eval.tasks needs the package lm-eval: pip install "selgen-ray[lm_eval]"')


def _check_headline(config: EvalConfig, key: str, name: str, metric: str) -> None:
    if name == LM_EVAL:
        if not any(metric.startswith(f"{task}_") for task in config.lm_eval.tasks):
            raise ValueError(f"{key}: {name}/{metric} is of no task that lm_eval.tasks names")
        return
    if metric in judged.SHARES:
        base = base_set(name)
        if config.judge.model is None or base not in (*config.judge.sets, QUESTIONS):
            needed = "" if base == QUESTIONS else f", and {base} in judge.sets"
            raise ValueError(f"{key}: {metric} is a judge's score: give judge.model{needed}")
        return
    computed = selected(config)
    if base_set(name) == QUESTIONS:
        computed = {name: one for name, one in computed.items() if one.is_open}
    shares = [share for candidate in computed.values() for share in candidate.shares]
    if metric not in shares:
        allowed = ", and of a judge ".join(filter(None, [", ".join(shares), ", ".join(judged.SHARES)]))
        allowed = f"allowed: {allowed}"
        others = {other for candidate in computed.values() for other in candidate.others} | {*judged.OTHERS}
        message = f"{key}: {metric!r} is no metric here; {allowed}.{nearest(metric, [*shares, *judged.SHARES])}"
        if metric in others:
            reason = "less of it is better" if less_is_better(metric) else "it is no share in [0, 1]"
            message = f"{key}: {metric!r} cannot be it, {reason}: weigh it by pareto instead; {allowed}"
        raise ValueError(message)


def missing_data(config: EvalConfig, roles: Collection[str]) -> Iterable[str]:
    """Yield a sentence for each evaluation set that the section names and the trial has no rows for.

    Args:
        roles: the roles that the trial has rows of.
    """
    named = [(f"evals.{key}", headline.split("/")[0]) for key in HEADLINES if (headline := getattr(config, key))]
    # by default align_test is judged; where there are questions, these may be all that is
    is_default = config.judge.sets == JudgeConfig().sets and config.questions is not None
    if config.judge.model is not None and not is_default:
        named += [("evals.judge.sets", name) for name in config.judge.sets]
    for key, name in named:
        if base_set(name) == QUESTIONS and config.questions is None:
            yield f"{key} names {name}, but evals.questions is not given"
        role = ROLE_OF_SET.get(base_set(name))
        if role is not None and role not in roles:
            yield f"{key} names {name}, but the trial has no data.{role}"


def missing_here(config: EvalConfig) -> Iterable[str]:
    """Yield a sentence for each thing that this machine lacks: the judge's key, or a task of lm-eval."""
    if config.judge.model is not None:
        try:
            api_key(config.judge)
        except ModelError as error:
            yield str(error)
    if config.lm_eval.tasks:
        yield from _unknown_tasks(config.lm_eval.model_dump_json())


@functools.cache  # reading lm-eval's tasks takes seconds
def _unknown_tasks(content: str) -> tuple[str, ...]:
    return tuple(lm_eval_tasks.unknown_tasks(LmEvalConfig.model_validate_json(content)))
