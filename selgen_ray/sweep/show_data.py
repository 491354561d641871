"""`python -m selgen_ray.data show space.yaml`: the rows of a sweep as its models see them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.asking import asks_as_in_rows
from selgen_ray.data.roles import Roles
from selgen_ray.data.rows import load_roles
from selgen_ray.data.show import show_row
from selgen_ray.data.training_prompts import trained_form
from selgen_ray.driver.token_plan import DECIDE_TOKENS, PlannedTokens
from selgen_ray.errors import DataError, ModelError, PluginError, SpecError, nearest
from selgen_ray.models.tokenizer import load_tokenizer, refused_rows
from selgen_ray.space import SweepSpec, load_space
from selgen_ray.sweep import arguments
from selgen_ray.trainers import plugins
from selgen_ray.trainers.catalogue import get_trainer

DONE, BAD_INPUT = 0, 2
_MOST = 4  # different sets of rows that are shown of a sweep


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Run the command; return its exit status.

    Args:
        console: where the rows are written; default: stdout, in colour where it is a terminal.
    """
    args = _parser().parse_args(argv)
    console = console or Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    try:
        spec = load_space(args.space)
        plugins.register_exactly(spec.plugin_sources)
        for line in _lines(spec, args.role, args.rows, console.is_terminal and not console.no_color):
            console.print(line)
    except (SpecError, DataError, ModelError, PluginError) as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m selgen_ray.data", description="Look at the rows of a sweep.")
    arguments.add_data(parser)
    return parser


def _lines(spec: SweepSpec, role: str | None, num_rows: int, colour: bool) -> Iterator[Text]:
    configs = list(_different(spec))
    for config in configs[:_MOST]:
        try:
            trainer = get_trainer(config.proxy_strategy)
            prompts = trainer.training_prompts(config)
            roles = load_roles(config, trainer.needed_roles(config), refused_rows(config), prompts)
            if role is not None and role not in roles:
                raise DataError(f"there is no data.{role}; found: {', '.join(roles)}.{nearest(role, roles)}")
            yield from _of_trial(config, roles, [role] if role else list(roles), num_rows, colour)
        except DataError as error:
            raise DataError("\n".join(str(spec.places.problem(line)) for line in str(error).split("\n"))) from error
    if len(configs) > _MOST:
        yield Text(f"and {len(configs) - _MOST} more of other rows, models or templates")


def _different(spec: SweepSpec) -> Iterator[TrialConfig]:
    """Yield one config of the trials for each kind of rows and tokens, seeds aside."""
    seen: set[tuple[str, ...]] = set()
    for trial in [*spec.trials, *(sample for search in spec.searches for sample in search.samples)]:
        config = trial.config
        trainer = get_trainer(config.proxy_strategy)
        key = (
            config.data.model_dump_json(),
            str(config.world),
            str(config.align_train_coverage),
            str("proxy_neg" in trainer.needed_roles(config)),
            str(trainer.training_prompts(config)),
            config.finetune_config.model_dump_json(include=DECIDE_TOKENS),
        )
        if key not in seen:
            seen.add(key)
            yield config


def _of_trial(config: TrialConfig, roles: Roles, shown: Sequence[str], num_rows: int, colour: bool) -> Iterator[Text]:
    finetune = config.finetune_config
    tokenizer = load_tokenizer(finetune)
    bold = "bold" if colour else ""
    yield Text(f"{finetune.model}, max_seq_length {finetune.max_seq_length}, loss_on {finetune.loss_on}", style=bold)
    tokens = PlannedTokens()
    tokens.add(config, roles, ())
    for note in tokens.notes:
        yield Text(f"note: {note}", style="yellow" if colour else "")
    as_in_rows = asks_as_in_rows(roles, tokenizer)
    for role in shown:
        trained = trained_form(roles, role)
        prompted = "" if trained is roles[role] else ", with its training prompt"
        for number, row in enumerate(trained[:num_rows]):
            yield Text(f"\n== data.{role}, {roles.place(role)(number)}{prompted}: ", style=bold)
            limits = finetune.max_seq_length, finetune.loss_on
            yield from show_row(row, tokenizer, *limits, as_in_rows=as_in_rows).lines(colour)
