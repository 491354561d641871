"""Cleaning of a reply around its answer: thinking, Markdown, LaTeX, and the many spellings of one character."""

from __future__ import annotations

import re
import unicodedata

# hyphen, non-breaking hyphen, figure dash, en dash, minus, heavy minus, small hyphen; the em dash parts sentences
_SIGNS = dict.fromkeys(map(ord, "‐‑‒–−➖﹣"), "-")
_FULL_WIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}
_APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼ´`＇"), "'")
_CHARACTERS = _FULL_WIDTH | _SIGNS
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")

_SUPERSCRIPT = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_VULGAR = re.compile("[¼½¾⅐-⅞]")
_MATH = re.compile(r"\$\$([^$]+)\$\$|(?<!\\)\$([^$\n]+)(?<!\\)\$(?!\d)")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)\s*(\d))")
_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mathit|textit|mathsf|operatorname|boxed|fbox)\s*\{([^{}]*)\}")
_LATEX = (
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "×"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])"), "°"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"(?<=\d)\\[,;:!]\s?(?=\d{3})"), "\u202f"),
    (re.compile(r"\\[,;:! ]"), " "),
    (re.compile(r"\\([%$#&])"), r"\1"),
    (re.compile(r"\\[()\[\]]|\\(?:left|right|displaystyle)(?![A-Za-z])"), " "),
    (re.compile(r"\^\{\s*([-+]?\d+)\s*\}"), r"^\1"),
)
_MARKDOWN = re.compile(r"\*\*|__|`|(?<!\S)\*(?=\w)|(?<=[\w.%)])\*(?!\S)")


def after_thinking(reply: str) -> str | None:
    """Return the part of a reply after its thinking; None if the thinking does not end, so that there is no answer.

    A reply may begin inside its thinking, because some chat templates write the '<think>' before it.
    """
    before, end, after = reply.rpartition("</think>")
    text = after if end else before or reply
    return None if "<think>" in text else text


def answer_text(reply: str) -> str:
    """Return the part of a reply after its thinking; '' if the thinking does not end."""
    return after_thinking(reply) or ""


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}`, in which braces may be nested; None if there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin, depth = start + len("\\boxed{"), 1
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            return text[begin:end]
    return None  # the reply was cut off inside the box


def plain(text: str) -> str:
    r"""Return a text without Markdown and LaTeX, in ASCII signs and digits: '$\frac{1}{2}$' and '½' become '1/2'."""
    text = text.translate(_CHARACTERS)
    text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text)
    text = _VULGAR.sub(lambda match: " " + unicodedata.normalize("NFKC", match[0]).replace("\u2044", "/"), text)
    text = _MATH.sub(lambda match: match[1] or match[2], text)
    for _ in range(3):  # braces within braces
        text = _WRAPPED.sub(r"\1", _FRACTION.sub(_as_fraction, text))
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return _MARKDOWN.sub("", text)


def with_plain_apostrophes(text: str) -> str:
    """Return a text with every kind of apostrophe replaced by `'`, as in "that's"."""
    return text.translate(_APOSTROPHES)


def _as_fraction(match: re.Match[str]) -> str:
    above, below = (match[1], match[2]) if match[1] is not None else (match[3], match[4])
    mixed = " " if match.start() and match.string[match.start() - 1].isdigit() else ""
    return f"{mixed}{above.strip()}/{below.strip()}"
