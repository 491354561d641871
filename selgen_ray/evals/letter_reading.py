"""Reading the letter of the option that a reply chooses."""

from __future__ import annotations

import re

from selgen_ray.evals.reply_text import after_thinking, last_boxed, plain

_ALONE = re.compile(r"\W*(?P<letter>[A-J])\b\W*", re.IGNORECASE)
_LISTED = re.compile(r"(?:\A|(?<=\n)|(?<=[.;,] ))[ \t]*\(?([A-J])[).:](?=\s|\Z)")
_LETTER = r"\(?(?P<letter>[A-J]\b|(?<=\()[a-j](?=\))|[a-j](?=[.!]?[ \t]*(?:\n|\Z)))\)?"
_MENTION = re.compile(
    r"\b(?i:(?P<answer>answer|(?:correct|right|best|true)\s+(?:option|choice))|(?P<chosen>choose|pick|select)"
    r"|option|choice)"
    r"(?i:(?:\s+(?:option|answer))?\s*(?:is|would be|:|=)?\s*(?:option\s+)?):?\s*"
    rf"{_LETTER}(?![\w'])"
)
_AFFIRMED = re.compile(r"\s*(?:is|:|-)\s*(?:the\s+)?(?:correct|right|best|true|yes)\b", re.IGNORECASE)
_OTHER_TOO = re.compile(r"\s*(?:or\b|and\b|/|&)", re.IGNORECASE)
_WRONG = re.compile(r"\s*(?:is|would be)\s+(?:not|wrong|incorrect|false)\b|\s*isn't\b", re.IGNORECASE)
_NOT_SAID = re.compile(
    r"(?:\b(?:not|never|cannot|neither|nor|wrong|incorrect|if|whether|unless)\b|n['’]t\b"
    r"|\b(?:some|many|most|people|others|you)\s+(?:\w+\s+)?(?:think|say|believe|thought))(?:\s+\w+){0,3}\s*\Z",
    re.IGNORECASE,
)
_CAPITAL = re.compile(r"\b[A-J]\b")


def as_letter(text: str) -> str | None:
    """Return the letter, A to J, that a row's whole `answer` is: 'B' for 'B' and '(B)'; None if it is none."""
    match = re.fullmatch(r"\(?([A-J])\)?\.?", text.strip())
    return match[1] if match else None


def read_letter(reply: str) -> str | None:
    """Return the letter that a reply chooses; None if it chooses none, or more than one.

    The letter may stand alone, in a box, first as in '(B) Paris', or be named: what is named as the answer counts more
    than what is chosen ('I pick B'), and that more than mentions of options. A letter that comes first is not chosen by
    that if it begins a list of the options or is said to be wrong. Letters that differ and count the same are not read.
    """
    text = after_thinking(reply)
    if text is None:
        return None
    text = plain(boxed if (boxed := last_boxed(text)) is not None else text)
    if alone := _ALONE.fullmatch(text):
        return alone["letter"].upper()
    by_weight: list[set[str | None]] = [set(), set(), set()]
    for mention in _MENTION.finditer(text):
        after = text[mention.end() :]
        is_asked = re.match(r"[^.!?\n]*\?", after)
        if _is_article(text, mention) or is_asked or _WRONG.match(after) or _NOT_SAID.search(_before(text, mention)):
            continue
        weight = 0 if mention["answer"] or _AFFIRMED.match(after) else 1 if mention["chosen"] else 2
        by_weight[weight].add(None if _OTHER_TOO.match(after) else mention["letter"].upper())
    answers, chosen, options = by_weight
    named = answers or chosen
    if leading := _leading(text):
        return leading if named <= {leading} else None
    if named := named or options:
        return named.pop() if len(named) == 1 else None
    if (first := re.match(r"\s*([A-J]) is (?:correct|right|true)\b", text)) and len({*_CAPITAL.findall(text)}) == 1:
        return first[1]
    return None


def _leading(text: str) -> str | None:
    """Return the letter that a text begins with, as in '(B) Paris'; None if it begins a list: 'A) 5', 'B) 6'."""
    text = text.lstrip()
    listed = list(_LISTED.finditer(text))
    if not listed or listed[0].start() or _WRONG.match(text, listed[0].end()):
        return None
    is_list = len(listed) > 1 and ord(listed[1][1]) == ord(listed[0][1]) + 1
    return None if is_list else listed[0][1]


def _before(text: str, mention: re.Match[str]) -> str:
    return text[max(0, mention.start() - 80) : mention.start()]


def _is_article(text: str, match: re.Match[str]) -> bool:
    """Return whether the letter is the word 'a' or 'I' of a sentence: 'the answer is A good one'."""
    return match["letter"] in "AI" and bool(re.match(r" (?!because|since|as|and|or|for)[a-z]", text[match.end() :]))
