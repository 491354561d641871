"""Checks of a plan's models and rows before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from selgen_ray.config.evals import LM_EVAL
from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.contexts import in_context
from selgen_ray.data.questions import question_rows
from selgen_ray.data.roles import Roles
from selgen_ray.data.rows import check_shares, load_roles
from selgen_ray.data.sets import CONTEXT_ROLES, eval_rows
from selgen_ray.data.training_prompts import check_contexts
from selgen_ray.driver.plan import T
from selgen_ray.driver.token_plan import DECIDE_TOKENS, PlannedTokens
from selgen_ray.errors import INPUT_ERRORS, Problem, nearest
from selgen_ray.evals.checking import missing_data, missing_here
from selgen_ray.evals.foresight import Foresight
from selgen_ray.models.checks import adapted_skeleton, is_shipped, model_problems
from selgen_ray.models.tokenizer import load_tokenizer, refused_rows
from selgen_ray.space import SweepSpec
from selgen_ray.trainers import plugins
from selgen_ray.trainers.catalogue import get_trainer
from selgen_ray.trainers.registry import Strategy


def check_data(spec: SweepSpec, tokens: PlannedTokens | None = None, foresight: Foresight | None = None) -> list[str]:
    """Return everything that is wrong with the data and the models of the sweep's trials, before any GPU is touched.

    Each message begins with the search space's file; line and key follow where it is about one of the file's keys.

    Args:
        tokens: gets the rows, to make them into tokens.
        foresight: gets the rows, to predict what will be measured.
    """
    plugins.register_exactly(spec.plugin_sources)  # another search space may have been read since
    tokens, foresight = tokens or PlannedTokens(), foresight or Foresight()
    problems: dict[str | Problem, None] = {}
    loaded: dict[tuple[str, ...], Roles | None] = {}
    checked: set[tuple[str, ...]] = set()

    def attempt(check: Callable[..., T], *args: Any) -> T | None:
        try:
            return check(*args)
        except INPUT_ERRORS as error:
            problems.update(dict.fromkeys(str(error).split("\n")))
            return None

    for trial in [*spec.trials, *(sample for search in spec.searches for sample in search.samples)]:
        config = trial.config
        # another seed of the same data has the same form
        trainer = get_trainer(config.proxy_strategy)
        required = trainer.needed_roles(config)
        source = (config.data.model_dump_json(), str(config.world), str(config.align_train_coverage))
        if config.data.on_bad_rows == "skip":  # then the chat template decides which rows there are
            source += (config.finetune_config.model_dump_json(include=DECIDE_TOKENS),)
        source += tuple(role for role in ("proxy_neg",) if role in required)  # it may be made of the proxy's rows
        source += (str(prompts := trainer.training_prompts(config)),)
        source += (str(config.finetune_config.max_seq_length),)  # decides which rows are too long to look at
        shares = str((config.limit_proxy_data_to, config.upsample_proxy_to))
        how = (config.finetune_config.model_dump_json(), config.evals.model_dump_json())
        key = (*source, shares, config.proxy_strategy, *how)
        if key in checked:
            continue
        checked.add(key)
        if source not in loaded:
            loaded[source] = attempt(load_roles, config, required, refused_rows(config), prompts)
        if (roles := loaded[source]) is None:
            continue
        attempt(trainer.check_rows, config, roles)
        tokens.notes |= dict.fromkeys(attempt(trainer.row_notes, config, roles) or ())
        attempt(check_shares, config, roles)
        attempt(tokens.add, config, roles, source)
        for sentence in missing_data(config.evals, roles):
            headline, _, why = sentence.partition(" ")
            sets = ", ".join(eval_rows(roles, config.finetune_config, config.data_seed))
            place = trial.places.get(headline)
            problems[place.problem(f"{why}. It has rows for {sets}.") if place else sentence] = None
        if attempt(check_questions_and_contexts, config, roles) is None:
            continue
        for name, why in foresight.add(config, roles).items():
            place = trial.places.get(f"evals.{name}")
            problems[place.problem(why) if place else f"evals.{name}: {why}"] = None
        problems |= dict.fromkeys(missing_here(config.evals))
        wrong = model_problems(config)
        problems |= dict.fromkeys(wrong)
        needs_model = trainer.check_model.__func__ is not Strategy.check_model.__func__
        if config.finetune_config.is_peft and not wrong and (needs_model or not is_shipped(config.finetune_config)):
            attempt(trainer.check_model, config, adapted_skeleton(config.finetune_config))
    problems |= dict.fromkeys(_impossible_axes(spec, foresight) if not problems else ())
    return [str(one if isinstance(one, Problem) else spec.places.problem(one)) for one in problems]


def check_questions_and_contexts(config: TrialConfig, roles: Roles) -> bool:
    """Check that the questions can be read, and that every row that is measured in a context takes its texts.

    Raises:
        DataError: one of them is wrong.
    """
    tokenizer = load_tokenizer(config.finetune_config) if config.evals.contexts else None
    if tokenizer is not None:
        check_contexts(config.evals, tokenizer)
    questions = question_rows(config.evals, config.data_seed)
    for context, texts in config.evals.contexts.items():
        for role in [role for role in CONTEXT_ROLES if role in roles]:
            in_context(roles[role], context, texts, roles.place(role))
        in_context(questions, context, texts, lambda number: str(questions[number]["question"]))
    return True


def _impossible_axes(spec: SweepSpec, foresight: Foresight) -> Iterator[Problem]:
    """Yield a problem for each axis of the report that no trial can have; lm-eval's metrics are not known here."""
    for key, name in (("pareto.x", spec.pareto.x), ("pareto.y", spec.pareto.y)):
        place = spec.places.keys.get(key)
        if place and "/" in name and not name.startswith(f"{LM_EVAL}/") and name not in foresight.possible:
            allowed = ", ".join(sorted(foresight.possible))
            near = nearest(name, foresight.possible)
            yield place.problem(f"found {name!r}, of which no trial can have a value. Allowed: {allowed}.{near}")
