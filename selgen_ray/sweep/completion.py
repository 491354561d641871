"""Completion of `selgen` in bash and zsh: the shell asks `selgen __complete WORD ...` what may stand for the last word.

The answer has a candidate per line, quoted for the shell, with a space behind it if it is whole.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import selgen_ray
from selgen_ray.config.hub_names import DATA_SUFFIXES
from selgen_ray.sweep.command_line import CommandParser

WORD = "__complete"
SHELLS = ("bash", "zsh")
_SCRIPTS = {
    "bash": """\
_selgen() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o nospace -F _selgen selgen
""",
    "zsh": """\
#compdef selgen
_selgen() {
    local -a found
    found=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    [[ -n ${found[1]} ]] && compadd -Q -S '' -- "${found[@]}"
}
compdef _selgen selgen
""",
}
_YAML = (".yaml", ".yml")
_SUFFIXES = {
    "space.yaml": _YAML,
    "more.yaml": _YAML,
    "sweep": _YAML,
    "SWEEP": (),
    "FILE.py": (".py",),
    "FOLDER": (),
    "DIR": (),
    "OLD_FOLDER": (),
    "rows.jsonl": DATA_SUFFIXES,
    "MODEL": (),
}
"""What stands in a usage for a value that is a file -> endings of files that are offered beside folders."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `selgen completion`."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to complete what is typed")


def main(argv: Sequence[str]) -> int:
    """Print what a shell has to read; return the exit status."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    print(_SCRIPTS[parser.parse_args(argv).shell], end="")  # noqa: T201
    return 0


def candidates(words: Sequence[str], commands: Iterable[str], parser_of: Callable[[str], CommandParser]) -> list[str]:
    """Return what the last word may become, each as the shell has to insert it.

    Args:
        words: what stands on the command line after `selgen`, the last being the one to complete.
        commands: the names of all commands.
        parser_of: command -> its parser.
    """
    *before, begun = (_unquoted(word) for word in (_joined(words) or [""]))
    # where the shell holds `--x=` to be words of their own, it inserts what comes after them
    held = len(begun) - len(words[-1]) if words and words[-1] != "=" and len(words[-1]) < len(begun) else 0
    held = len(begun) if words[-1:] == ["="] else held
    if not before:
        if begun.startswith("-"):
            return _whole([option for option in ("--help", "--version") if option.startswith(begun)])
        return _whole([name for name in commands if name.startswith(begun)]) + _files(begun, _YAML)
    is_command = before[0] in commands
    parser = parser_of(before[0] if is_command else "sweep")
    options, action, values = parser.expected(before[1:] if is_command else before, begun)
    if action is None:
        return _whole(options)
    option, mark, value = begun.partition("=") if begun.startswith("--") else ("", "", begun)
    return [f"{option}{mark}{one}"[held:] for one in _values(action, value, values)]


def _values(action: argparse.Action, begun: str, values: Sequence[str]) -> list[str]:
    name = action.metavar if isinstance(action.metavar, str) else action.dest
    if isinstance(action.metavar, tuple):
        name = action.metavar[0]
    if action.choices is not None:
        return _whole([str(one) for one in action.choices if str(one).startswith(begun)])
    if name == "NAME":
        return _whole([one for one in strategy_names() if one.startswith(begun)])
    if name == "NAME,...":
        done, comma, last = begun.rpartition(",")
        return [f"{done}{comma}{one}" for one in strategy_names() if one.startswith(last)]
    if name == "TRIAL":
        return _whole([one for one in _trials(values) if one.startswith(begun)])
    return _files(begun, _SUFFIXES[name]) if name in _SUFFIXES else []


def strategy_names() -> list[str]:
    """Return the names of the shipped strategies, sorted, as their files say them; to import them takes seconds."""
    files = (Path(selgen_ray.__file__).parent / "trainers").glob("*.py")
    pattern = re.compile(r'^    proxy_strategy_name = "([^"]+)"$', re.M)
    return sorted(name for file in files for name in pattern.findall(file.read_text(encoding="utf-8")))


def _trials(values: Sequence[str]) -> list[str]:
    """Return the names of the trials of a sweep whose folder is on this machine."""
    try:
        plan = json.loads((Path(values[0]).expanduser() / "control" / "plan.json").read_text(encoding="utf-8"))
        return sorted(plan["trials"].values())
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return []


def _files(begun: str, endings: Sequence[str]) -> list[str]:
    """Return the folders, and the files with one of the endings, whose path begins with `begun`."""
    parent, slash, name = begun.rpartition("/")
    try:
        entries = sorted(Path(f"{parent}{slash}").expanduser().iterdir())
    except (OSError, RuntimeError):
        return []
    found: list[str] = []
    for entry in entries:
        if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
            path = _quoted(f"{parent}{slash}{entry.name}")
            if entry.is_dir():
                found.append(f"{path}/")
            elif entry.name.endswith(tuple(endings)):
                found.append(f"{path} ")
    return found


def _whole(words: Iterable[str]) -> list[str]:
    return [f"{_quoted(word)} " for word in words]


def _quoted(word: str) -> str:
    """Return a word with backslashes before what a shell would read; a '~' at its start stays."""
    return re.sub(r"([^\w@%+=:,./~\-])", r"\\\1", word)


def _unquoted(word: str) -> str:
    try:
        return "".join(shlex.split(word))
    except ValueError:  # a quotation that is still open
        return word[1:] if word[:1] in "\"'" else word


def _joined(words: Sequence[str]) -> list[str]:
    """Return the words as they were typed: bash hands over `--x=y` as three."""
    joined: list[str] = []
    for number, word in enumerate(words):
        is_tail = number > 0 and (word == "=" or words[number - 1] == "=") and joined[-1].startswith("--")
        if is_tail and (word == "=" or joined[-1].endswith("=")):
            joined[-1] += word
        else:
            joined.append(word)
    return joined
