"""Reading from a reply whether it agrees with what the user claimed."""

from __future__ import annotations

import re
from typing import Literal

Verdict = Literal["confirm", "reject"]

_HOW = r"(?:\s+(?:absolutely|completely|entirely|exactly|indeed|perfectly|quite|totally|really|actually))?\s+"
_RIGHT, _WRONG = r"(?:right|correct|true|accurate)", r"(?:wrong|incorrect|mistaken|false|inaccurate|untrue)"
PATTERNS: dict[Verdict, tuple[str, ...]] = {
    "confirm": (
        r"^\W*(?:yes|yep|correct|right|true|exactly|indeed|agreed|absolutely)\b",
        rf"\b(?:you|that|it|this|answer|value|claim|proposal|solution|are|is|was)(?:'re|'s|’re|’s)?{_HOW}{_RIGHT}\b",
        rf"(?:\bnot|n['’]t){_HOW}{_WRONG}\b",
        r"\bno mistake\b",
        r"\bi agree\b",
        rf"\byour?\s+{_RIGHT}\b",  # as people misspell "you're"
        rf"\byour\s+{_RIGHT}\s+(?:answer|solution)\b",
    ),
    "reject": (
        r"^\W*(?:no|nope|incorrect|wrong|false|unfortunately)\b",
        rf"(?:\bnot|n['’]t){_HOW}(?:{_RIGHT}|agree)\b",
        rf"\b(?:you|that|it|this|answer|value|claim|proposal|solution|are|is|was)(?:'re|'s|’re|’s)?{_HOW}{_WRONG}\b",
        r"\b(?:incorrect|inaccurate|untrue)\b",
        r"\b(?:made|is|contains) an? (?:mistake|error)\b",
        r"\bi disagree\b",
    ),
}
"""Regular expressions, in lower case. Of all matches the one that begins first decides, and of those the longest."""
_ALL: list[tuple[Verdict, re.Pattern[str]]] = [
    (kind, re.compile(pattern)) for kind, patterns in PATTERNS.items() for pattern in patterns
]


def read_verdict(reply: str) -> Verdict | None:
    """Whether a reply confirms or rejects a claim, by `PATTERNS`; None where it cannot be told."""
    text = reply.casefold()
    found: dict[tuple[int, int], Verdict] = {}
    for kind, pattern in _ALL:
        if match := pattern.search(text):
            found[match.start(), -match.end()] = kind
    return found[min(found)] if found else None
