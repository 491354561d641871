"""The parser of `selgen`'s commands: one layout of their help, the nearest match for what is misspelt, completion."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from selgen_ray.errors import nearest


class CommandParser(argparse.ArgumentParser):
    """A parser whose help is usage, a sentence, the options and an example.

    Args:
        prog: the command as a person types it, 'selgen status'.
        description: the sentence.
        example: a command line that works.
        **options: as of argparse.ArgumentParser.
    """

    def __init__(self, prog: str = "", description: str = "", example: str = "", **options: Any):
        self._example = example
        super().__init__(
            prog,
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )

    def add_subparsers(self, **options: Any) -> Any:
        """Add commands below this one, which have its example."""
        options.setdefault("parser_class", partial(CommandParser, example=self._example))
        return super().add_subparsers(**options)

    def check_options(self, words: Sequence[str]) -> None:
        """End the process if one of the words after the command is an option that there is not."""
        below = self._below()
        for number, word in enumerate(words):
            if word == "--":
                return
            if not word.startswith("-") and below is not None:
                if word in below:
                    below[word].check_options(words[number + 1 :])
                return
            name = word.partition("=")[0]
            if word.startswith("--") and not any(option.startswith(name) for option in self._option_string_actions):
                long = [option for option in self._option_string_actions if option.startswith("--")]
                self.error(f"there is no option {name}.{nearest(name, long)}")

    def _below(self) -> dict[str, CommandParser] | None:
        """Return the commands below this one, by name; None if there are none."""
        return next((action.choices for action in self._actions if isinstance(action.choices, dict)), None)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message = f"found {value!r}; allowed: {', '.join(map(str, action.choices or ()))}."
            error.message += nearest(str(value), map(str, action.choices or ()))
            raise

    # completion --------------------------------------------------------------------------------------------------

    def expected(self, words: Sequence[str], begun: str) -> tuple[list[str], argparse.Action | None, list[str]]:
        """Return what may stand after some words of a command line.

        Args:
            words: the finished words after the command.
            begun: the word that is to be completed, as far as it goes.

        Returns:
            The options that begin with `begun`; the action whose value it may be, None if it can be no value; and the
            positional values before it.
        """
        pending, values = self._state(words)
        below = self._below()
        if below and values and pending is None and values[0] in below:
            place = words.index(values[0]) + 1
            return below[values[0]].expected(words[place:], begun)
        if pending is not None and not begun.startswith("-"):
            return [], pending, values
        if begun.startswith("-"):
            if "=" in begun:
                return [], self._option_string_actions.get(begun.partition("=")[0]), values
            options = [one for action in self._actions for one in action.option_strings if one.startswith("--")]
            return [option for option in options if option.startswith(begun)], None, values
        return [], self._positional(len(values)), values

    def _state(self, words: Sequence[str]) -> tuple[argparse.Action | None, list[str]]:
        """Return the option that still wants a value, and the positional values."""
        pending: argparse.Action | None = None
        left: float = 0  # values that `pending` may still take
        values: list[str] = []
        for word in words:
            if word.startswith("-"):
                pending = None if "=" in word else self._option_string_actions.get(word)
                if pending is None or pending.nargs == 0:
                    pending = None
                else:
                    left = pending.nargs if isinstance(pending.nargs, int) else _MOST.get(pending.nargs, 1)
            elif pending is not None:
                left -= 1
                pending = pending if left > 0 else None
            else:
                values.append(word)
        return pending, values

    def _positional(self, number: int) -> argparse.Action | None:
        """Return the action of the positional value of this number, from 0."""
        for action in self._actions:
            if not action.option_strings:
                if number == 0 or action.nargs in ("*", "+"):
                    return action
                number -= 1
        return None


_MOST: dict[Any, float] = {"*": float("inf"), "+": float("inf")}
