"""Code that trials of a sweep may run: what the person who starts the sweep names, never what storage alone says."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # start-up: the commands that look at a sweep need the option's name alone
    from selgen_ray.trainers.plugins import Plugin

OPTION = "--trust-plugin"
SHORTEST = 12
"""Hex digits of a plugin's sha256 that confirm it, at least."""


@dataclass(frozen=True)
class TrustedCode:
    """The plugins that a person trusts. A trial that was added to the sweep brings the text of its own along.

    Attributes:
        named: sha256 of the plugins that the person's own search space names.
        confirmed: beginnings of sha256 that the person has confirmed.
    """

    named: frozenset[str] = frozenset()
    confirmed: tuple[str, ...] = ()

    @classmethod
    def of(cls, plugins: Iterable[Plugin], confirmed: Iterable[str] = ()) -> TrustedCode:
        """Return the trust in these plugins and in those whose sha256 begins with one of `confirmed`."""
        return cls(frozenset(plugin.sha256 for plugin in plugins), tuple(confirmed))

    def why_not(self, plugins: Iterable[Plugin]) -> str | None:
        """Return why a trial with these plugins must not run, and how to confirm them; None if all are trusted."""
        others = [p for p in plugins if p.sha256 not in self.named and not p.sha256.startswith(self.confirmed or "-")]
        if not others:
            return None
        listed = ", ".join(f"{PurePath(p.name).name} (sha256 {p.sha256[:SHORTEST]})" for p in others)
        options = " ".join(f"{OPTION} {p.sha256[:SHORTEST]}" for p in others)
        return f"runs code that the search space does not name: {listed}. To confirm it: {options}"


def sha256_start(text: str) -> str:
    """Return the beginning of a sha256 as a command line gives it. Raises ArgumentTypeError: it is none."""
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},64}}", text):
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: the first {SHORTEST} to 64 hex digits of a sha256")
    return text
