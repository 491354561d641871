"""Reading the letter of the option that a reply chooses."""

from __future__ import annotations

import re

from selgen_ray.evals.reply_text import after_thinking, last_boxed, plain

_LETTER = r"\(?(?P<letter>[A-J])\b\)?"
_ALONE = re.compile(rf"\W*{_LETTER}\W*", re.IGNORECASE)
_LEADING = re.compile(r"\s*\(?([A-J])[).:](?=\s|$)")
_MARKED = re.compile(
    r"\b(?i:(?:answer|option|choice|choose|pick|select)(?:\s+(?:option|answer))?\s*(?:is|would be|:|=)?\s*"
    rf"(?:option\s+)?):?\s*{_LETTER}(?![\w'])"
)
_DENIED = re.compile(r"\b(?:not|neither|nor|or|wrong)\b|n't", re.IGNORECASE)
_CAPITAL = re.compile(r"\b[A-J]\b")


def as_letter(text: str) -> str | None:
    """Return the letter, A to J, that a row's whole `answer` is: 'B' for 'B' and '(B)'; None if it is none."""
    match = re.fullmatch(r"\(?([A-J])\)?\.?", text.strip())
    return match[1] if match else None


def read_letter(reply: str) -> str | None:
    """Return the letter that a reply chooses; None if it chooses none, or more than one.

    The letter may stand alone, in a box, first as in '(B) Paris', or be named as the answer or option.
    """
    text = after_thinking(reply)
    if text is None:
        return None
    text = plain(boxed if (boxed := last_boxed(text)) is not None else text)
    if alone := _ALONE.fullmatch(text):
        return alone["letter"].upper()
    if leading := _LEADING.match(text):
        return leading[1]
    mentions = [m for m in _MARKED.finditer(text) if not _is_article(text, m) and not _DENIED.search(m[0])]
    if mentions:
        sentence = re.split(r"[.!?\n]", text[mentions[-1].end() :])[0]
        return None if re.match(r"\s*(?:or|and|is (?:not|wrong|incorrect))\b", sentence) else mentions[-1]["letter"]
    if (first := re.match(r"\s*([A-J]) is (?:correct|right|true)\b", text)) and len({*_CAPITAL.findall(text)}) == 1:
        return first[1]
    return None


def _is_article(text: str, match: re.Match[str]) -> bool:
    """Return whether the letter is the word 'a' or 'I' of a sentence: 'the answer is A good one'."""
    return match["letter"] in "AI" and bool(re.match(r" (?!because|since|as|and|or|for)[a-z]", text[match.end() :]))
