"""`python -m selgen_ray.strategies`: what the strategies do, and their knobs; `... show NAME` tells all of one.

Exit status: 0, or 2 where there is no such strategy or a plugin cannot be used.
"""

from __future__ import annotations

import argparse
import inspect
import re
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from selgen_ray.syntax.keys import allowed, fields
from selgen_ray.trainers import catalogue, plugins, strategy_config
from selgen_ray.trainers.registry import Strategy

DONE, BAD_INPUT = 0, 2
_WIDTHS = 80, 120  # the narrowest and the widest text; in between, the width of the terminal
_LABEL = 10
_BLANK = r"\n\s*\n"  # between two paragraphs
_SOURCE = r"(?:^|(?<=[.;)] ))Sources?: "  # the rest of its paragraph is the source


@dataclass(frozen=True)
class Description:
    """The parts of a strategy's docstrings; '' for a part that is not there.

    Attributes:
        summary: one line, from the module.
        formula: the first paragraph of the class.
        source: the literature, from the paragraphs that begin with "Source:".
        text: the whole docstring of the class.
    """

    summary: str = ""
    formula: str = ""
    source: str = ""
    text: str = ""


def describe(trainer: type[Strategy]) -> Description:
    """Read the docstrings of a class and of its module; an inherited one does not count."""
    text = inspect.cleandoc(trainer.__doc__ or "")
    paragraphs = (" ".join(part.split()) for part in re.split(_BLANK, text))
    split = [re.split(_SOURCE, part, maxsplit=1) for part in paragraphs]
    return Description(_summary(trainer), split[0][0].strip(), " ".join(part[1] for part in split if part[1:]), text)


def _summary(trainer: type[Strategy]) -> str:
    """Return the text after the strategy's name in its module's first line; '' if that names another strategy."""
    module = sys.modules.get(trainer.__module__)
    line = (getattr(module, "__doc__", None) or "").strip().partition("\n")[0]
    name, colon, summary = line.partition(":")
    return summary.strip() if colon and name.strip("` ") == trainer.proxy_strategy_name else ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to a parser."""
    parser.usage = f"{parser.prog} [show NAME] [--plugin FILE.py ...]"
    plugin_help = "a Python file that defines strategies; may be given several times"
    parser.add_argument("--plugin", metavar="FILE.py", action="append", default=[], help=plugin_help)
    commands = parser.add_subparsers(title="in detail", metavar="show NAME", prog=parser.prog)
    show = commands.add_parser("show", description="Print all there is to say of one strategy.")
    show.add_argument("name", metavar="NAME", help="a strategy, or another name of it")
    show.add_argument("--plugin", metavar="FILE.py", action="append", default=[], dest="more", help=plugin_help)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m selgen_ray.strategies", description="What the strategies do, and their knobs."
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    width = min(max(shutil.get_terminal_size((100, 24)).columns, _WIDTHS[0]), _WIDTHS[1])
    files = [*args.plugin, *getattr(args, "more", ())]
    try:
        plugins.register_exactly([plugins.Plugin.read(Path(file).resolve()) for file in files])
        wanted = catalogue.get_trainer(args.name) if "name" in args else None
    except ValueError as error:  # a PluginError is one
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    if wanted:
        lines = _details(wanted, width)
    else:
        lines = [line for trainer in catalogue.strategies().values() for line in [*_overview(trainer, width), ""]][:-1]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return DONE


# the text -----------------------------------------------------------------------------------------------


def _overview(trainer: type[Strategy], width: int) -> list[str]:
    description = describe(trainer)
    rows = [("formula", description.formula), ("needs", ", ".join(trainer.required_roles))]
    knobs = [f"{key} = {_yaml(_default(info))}: {allowed(info)}" for key, info in _knobs(trainer).items()]
    rows += [("" if i else "knobs", text) for i, text in enumerate(knobs)]
    rows.append(("source", description.source))
    return [*_title(trainer, width), *(line for label, text in rows for line in _row(label, text, width))]


def _details(trainer: type[Strategy], width: int) -> list[str]:
    description = describe(trainer)
    lines = _title(trainer, width)
    for part in re.split(_BLANK, description.text) if description.text else []:
        lines += ["", *_paragraph(part, width)]
    knobs = _knobs(trainer)
    lines += ["", "knobs" if knobs else "knobs: none"]
    for key, info in knobs.items():
        lines += [f"  {key}", *_wrapped(info.description or "", 4, width)]
        lines += _wrapped(f"{allowed(info)}; default: {_yaml(_default(info))}", 4, width)
    lines.append("")
    lines += _row("needs", ", ".join(f"data.{role}" for role in trainer.required_roles), width, indent=0)
    lines += _row("source", description.source, width, indent=0)
    file = getattr(sys.modules.get(trainer.__module__), "__file__", None)
    lines += [f"{'class':{_LABEL}}{trainer.__module__}.{trainer.__qualname__}"]
    lines += [f"{'file':{_LABEL}}{file}"] if file else []
    return [*lines, "", "in a search space:", "", *_snippet(trainer, knobs)]


def _title(trainer: type[Strategy], width: int) -> list[str]:
    others = f" (or {', '.join(trainer.aliases)})" if trainer.aliases else ""
    return [f"{trainer.proxy_strategy_name}{others}", *_wrapped(describe(trainer).summary, 2, width)]


def _row(label: str, text: str, width: int, indent: int = 2) -> list[str]:
    """Return the lines of a label and its text, in two columns; [] without a text."""
    lines = _wrapped(text, indent + _LABEL, width, hanging=2)
    return [" " * indent + label.ljust(_LABEL) + lines[0].lstrip(), *lines[1:]] if lines else []


def _paragraph(text: str, width: int) -> list[str]:
    """Return a paragraph's lines, wrapped to the width; those of a list or of code stay as they are."""
    lines = text.splitlines()
    return lines if any(re.match(r"\s|[-*] |\d+\. ", line) for line in lines) else _wrapped(text, 0, width)


def _wrapped(text: str, indent: int, width: int, hanging: int = 0) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _snippet(trainer: type[Strategy], knobs: dict[str, FieldInfo]) -> list[str]:
    """Return a `strategies:` section with the knobs at their defaults, the first numeric one in a grid.

    A knob that has no default but must be given stands there with its example.
    """
    values = {key: _default(info) for key, info in knobs.items()}
    values |= {key: info.examples[0] for key, info in knobs.items() if values[key] is None and info.examples}
    values = {key: value for key, value in values.items() if value is not None}
    varied = next((key for key, value in values.items() if type(value) in (int, float)), None)
    lines = ["strategies:", f"  {trainer.proxy_strategy_name}:" + ("" if values else " {}")]
    fixed = [f"      {key}: {_yaml(value)}" for key, value in values.items() if key != varied]
    lines += ["    fixed:", *fixed] if fixed else []
    if varied:
        lines += ["    grid:", f"      {varied}: [{_yaml(values[varied])}]  # add the values to compare"]
    return lines


# knobs ---------------------------------------------------------------------------------------------------------


def _knobs(trainer: type[Strategy]) -> dict[str, FieldInfo]:
    """Return config key -> field of the knobs, the strategy's own before inherited ones."""
    name = trainer.proxy_strategy_name
    paths = catalogue.knob_paths(name)
    knobs = {
        key: info
        for key, info in fields(strategy_config.config_model(catalogue.get_trainer(name))).items()
        if key in paths
    }
    order = list(dict.fromkeys(attribute for owner in trainer.__mro__ for attribute in vars(owner)))
    return dict(sorted(knobs.items(), key=lambda item: order.index(item[0].rpartition(".")[2])))


def _default(info: FieldInfo) -> Any:
    return info.get_default(call_default_factory=True)


def _yaml(value: Any) -> str:
    """Return a value as YAML on one line, as in a search space."""
    try:
        text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    except yaml.YAMLError:  # a type that YAML lacks
        return str(value)
    return text.removesuffix("...\n").strip()


if __name__ == "__main__":
    sys.exit(main())
