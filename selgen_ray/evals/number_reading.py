"""Exact reading of the number that a reply gives; no other module reads numbers.

"Unread" means that the rules do not say which number is meant: such a reply does not count as right.

- The reply's number is the one in the last box, else the one after '####' (GSM8K's mark; a heading of Markdown that has
  more than a number is none), else the one after 'the answer is', unless a correction follows; else the last number.
- A minus is a sign if it stands before a number, but not between two: '10-3' is an expression, not a number.
- Commas, narrow spaces and apostrophes separate groups of three digits; '2,5' is 2.5; '(2,5)' and '1,2,3' are lists.
- If digits can mean two numbers ('1.234', '1,234', '2,5'), the usual meaning counts, and a reply that is right only by
  the other meaning is unread.
- '3/4' equals 0.75, since values are compared. '12%' equals '12'; compared with '12%', 0.12 is unread.
- Units are compared only if both sides name one, and are not converted: '5 kg' is neither '5 g' nor '5000 g'.
- '5 million', '5 lakh', '5 Mio.' and '5万' are multiplied out, and compared with 5 unread; '1,00,000' is a lakh, while
  '12,50,250' without a rupee sign may be a list, and is unread.
- Expressions ('2π', '10-3', '2 apples + 3 apples'), ranges, dates, times, denied numbers ('not 7'), alternatives ('6 or
  7'), numbers in words ('The answer is three', whatever numbers stand before it) and 'is - 5', where the sign may be a
  dash, are unread.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from selgen_ray.evals.reply_text import after_thinking, last_boxed, plain

_MAX_EXPONENT, _MAX_LENGTH = 400, 1000  # of numbers that are computed exactly; others are unread

_UNIT_NAMES = {
    "%": "% percent pct prozent",
    "$": "$ dollar dollars usd us$",
    "€": "€ euro euros eur",
    "£": "£ gbp",
    "": "pound pounds",  # money or weight
    "¥": "¥ yen",
    "₹": "₹ rs rs. inr rupee rupees",
    "km/h": "km/h kph kmh",
    "m/s": "m/s",
    "mph": "mph",
    "km": "km kilometer kilometers kilometre kilometres",
    "m": "m meter meters metre metres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "mile": "mile miles",
    "foot": "ft foot feet",
    "inch": "inch inches",
    "kg": "kg kilogram kilograms",
    "g": "g gram grams",
    "mg": "mg milligram milligrams",
    "lb": "lb lbs",
    "l": "l liter liters litre litres",
    "ml": "ml milliliter milliliters",
    "s": "s sec second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years",
    "°C": "°c",
    "°F": "°f",
    "°": "° degree degrees",
}
_UNITS = {name: unit for unit, names in _UNIT_NAMES.items() for name in names.split()} | {
    "per cent": "%",
    "pour cent": "%",
}
_SCALES = {
    word: 10**exponent
    for exponent, words in {
        2: "hundred hundreds 百",
        3: "thousand thousands tausend mille mil mila тыс тысяч тысяча тысячи 千",
        4: "万 萬",
        5: "lakh lakhs lac lacs",
        6: "million millions mn mio millionen millones milioni milhões миллион миллиона миллионов",
        7: "crore crores",
        8: "亿 億",
        9: "billion billions bn milliard milliards milliarde milliarden mrd",
        12: "trillion trillions tn billionen 兆",
    }.items()
    for word in words.split()
}
_IN_WORDS = (
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen"
    r"|eighteen|nineteen|(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:-\w+)?"
    r"|(?:a |one )?(?:hundred|thousand)"
    r"|null|eins|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|elf|zwölf"
    r"|deux|trois|quatre|cinq|sept|huit|neuf|dix|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez)\b(?! (?:of|that)\b)"
)

_GAPS = "'’_\u202f\u00a0\u2009"
_DIGITS = rf"[1-9]\d{{0,2}}(?: \d{{3}})+(?:[.,]\d+)?(?![.,{_GAPS}]?\d)|\d+(?:[.,{_GAPS}]\d+)*"
_NAMES = "|".join(re.escape(name) for name in sorted(_UNITS, key=len, reverse=True))
_SCALE = "|".join(word if ord(word[0]) > 0x3000 else rf"{word}(?![^\W\d_])" for word in _SCALES)
_NUMBER = re.compile(
    rf"(?P<word>\b(?:minus|negative|moins|menos)\s+)?(?P<sign>[-+]\s*)?(?P<money>(?:\bUS)?[$€£¥₹]\s*|\b(?:USD|EUR|GBP|INR|Rs\.?)\s*)?"
    rf"(?P<inner>[-+])?(?<![A-Za-z_\d^])(?:(?P<dot>(?<![.\w])\.\d+)|(?P<digits>{_DIGITS}))"
    r"(?:[eE](?P<e>[-+]?\d+)(?![A-Za-z\d])|\s*[×x*·]\s*10\s*\^\s*\(?(?P<ten>[-+]?\d+)\)?|\^\(?(?P<power>[-+]?\d+)\)?)?"
    r"(?:(?P<mixed> \d+/\d+)(?![/\d])|\s?/\s?(?P<below>\d+(?:\.\d+)?)(?!\s?/\s?\d|\d))?"
    rf"(?P<scales>(?:\s*-?(?:{_SCALE})(?:(?<=mio|mrd|тыс)\.)?)+)?"
    rf"(?:\s*(?P<unit>(?:{_NAMES})(?:\^-?\d+)?)(?![A-Za-z]))?",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"\)?\s*(?:(?:[-+*×x·÷/:^]|mod|times|plus|minus)|(?:[^\W\d_]+\s+){1,2}[+*×÷])\s*\(?"  # '2 apples + 3 apples'
)
_EQUALS_AFTER_WORDS = re.compile(r"\s*(?:[^\W\d_]+\s+){1,2}=\s*")
_SYMBOL_BEFORE = re.compile(r"(?:[/√π]|\\(?:sqrt|pi)\s*\{?)$")
_SYMBOL_AFTER = re.compile(r"\s?(?:\\(?:pi|sqrt|ln|log)|[π√])|[A-Za-z](?![A-Za-z])")
_EQUALS = re.compile(r"[\s)]*(?:=|≈|\bequals\b|\bis\b)[\s(]*")
_OR = re.compile(r"\s*,?\s*(?:or|oder|ou|/)\s*", re.IGNORECASE)
_RANGE = re.compile(r"\b(?:between|from|zwischen|von|entre)\s+$", re.IGNORECASE)
_RANGE_TO = re.compile(r"\s*(?:and|to|und|bis|et)\s*", re.IGNORECASE)
_DENIED = re.compile(
    r"(?:\bnot|n['’]t|\bnever|\binstead of|\brather than|\bnor|\bneither)\s+(?:the\s+)?$", re.IGNORECASE
)
_MARKER = re.compile(
    r"(?P<before>\b\S{1,20}\s+)?(?:\b(?:answer|antwort|ergebnis|réponse|résultat|respuesta|resultado)\b|答案)"
    r"\s*(?:(?:here|then|therefore|thus)\s+)?"
    r"(?:is|was|be|would be|should be|must be|equals|ist|lautet|est|es|是|为|[:=])"
    r"(?!\s+(?:not|n['’]t|nicht|incorrect|wrong|correct|right)\b)\s*[:=]?",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"(?![0-9])\d")
_SEPARATORS = {0x066B: ".", 0x066C: "\u202f"}  # the decimal and the thousands separator of Arabic
_WORDS_FOLLOW = re.compile(rf"\s*(?:(?:is|are|makes?|equals?|gives?)\s+|=\s*){_IN_WORDS}", re.IGNORECASE)
_WORDS_FIRST = re.compile(rf"\W*(?:(?:exactly|about|minus|negative)\s+)?{_IN_WORDS}", re.IGNORECASE)
_DASH_FIRST = re.compile(r"[^\S\n]*[-+][^\S\n]+\d")
_IS_BEFORE = re.compile(r"\b(?:is|was|be|equals?)[^\S\n]*\Z", re.IGNORECASE)
_HASHES = re.compile(r"####\s*([^\n]+)")
_OF_OTHERS = re.compile(r"(?:your|his|her|their|wrong|incorrect|previous|\S+['’]s)\s*$", re.IGNORECASE)
_CORRECTED = re.compile(r"\b(?:wait|actually|correction|sorry|oops|mistake|let me re\w*)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)|。")


@dataclass(frozen=True)
class Number:
    """A number as it is written.

    Attributes:
        value: the exact value of the usual meaning.
        unit: such as 'kg', '%' or '$'; '' if no unit is known.
        others: values of the less usual meanings of its digits, such as 1234 for '1.234'.
        text: the text as it is written.
    """

    value: Fraction
    unit: str
    others: frozenset[Fraction]
    text: str


@dataclass(frozen=True)
class _Token:
    """Digits in a text.

    Attributes:
        start, end: their place in the text, in characters.
        number: their number; None if they are none that can be read.
        is_joined: whether an operator joins them to the token before.
        is_list: whether they are a list, such as '(2,5)'.
    """

    start: int
    end: int
    number: Number | None
    is_joined: bool
    is_list: bool


def read_number(reply: str) -> Number | None:
    """Return the number that a reply gives, by the rules of this module; None if it cannot be read."""
    text = after_thinking(reply)
    if text is None:
        return None
    boxed = last_boxed(text)
    if boxed is not None and (tokens := _tokens(boxed := _plain(boxed))):
        return _last(boxed, tokens)
    text = _plain(text)
    if (line := _after_hashes(text)) is not None:
        return _last(line, _tokens(line))
    for marker in reversed(list(_MARKER.finditer(text))):
        if marker["before"] and _OF_OTHERS.search(marker["before"]):
            continue
        after = text[marker.end() :]
        if _DASH_FIRST.match(after) and "\n" not in marker[0]:  # 'The answer is - 5': a minus, or a dash
            return None
        after = after.lstrip()
        end = _SENTENCE_END.search(after)
        sentence = after[: end.start() if end else None]
        if _CORRECTED.search(after[len(sentence) :]):
            break
        if tokens := _tokens(sentence):
            return _first(sentence, tokens)
        if _WORDS_FIRST.match(sentence):
            return None
    tokens = _tokens(text)
    return None if tokens and _WORDS_FOLLOW.match(text, tokens[-1].end) else _last(text, tokens)


def as_number(text: str) -> Number | None:
    """Return the number that a whole text is, such as a row's `answer`; None if the text is something else."""
    text = _plain(text).strip(" \t\n\"'*").rstrip(".!?").strip()
    tokens = _tokens(text)
    if len(tokens) != 1 or tokens[0].is_list or (tokens[0].start, tokens[0].end) != (0, len(text)):
        return None
    return tokens[0].number


def same_number(found: Number, answer: Number) -> bool | None:
    """Return whether two numbers are equal; None if they are equal only by a less usual meaning of one of them."""
    if found.unit and answer.unit and found.unit != answer.unit:
        return False
    if found.value == answer.value:
        return True
    others = (_others(found, answer), _others(answer, found))
    return None if found.value in others[1] or answer.value in others[0] else False


def _others(number: Number, beside: Number) -> frozenset[Fraction]:
    return number.others | ({number.value / 100} if number.unit == "%" != beside.unit else frozenset())


def _plain(text: str) -> str:
    """Return `reply_text.plain` of a text, with Arabic and other digits and separators as in English."""
    return _DIGIT.sub(lambda match: str(int(match[0])), plain(text)).translate(_SEPARATORS)


def _after_hashes(text: str) -> str | None:
    """Return the line after '####' that is the answer, the last of them; None if there is none.

    '####' makes a heading of Markdown too, such as '#### Step 2: Add 5': an answer is a number alone, or a last line
    that begins with a number ('#### 72 clips').
    """
    for line in reversed([match[1].strip() for match in _HASHES.finditer(text)]):
        tokens = _tokens(line)
        is_last = bool(tokens) and tokens[0].start == 0 and text.rstrip().endswith(line)
        if as_number(line) or is_last:
            return line
    return None


def _last(text: str, tokens: Sequence[_Token]) -> Number | None:
    """Return the last number of a text; None if it is part of an expression, denied, or one of two alternatives."""
    return _single(text, tokens, len(tokens) - 1) if tokens else None


def _first(text: str, tokens: Sequence[_Token]) -> Number | None:
    """Return the first number of a sentence that begins with the answer; of an equation, its last number."""
    position = 0
    while position + 1 < len(tokens):
        between = text[tokens[position].end : tokens[position + 1].start]
        is_equation = _EQUALS.fullmatch(between) or _EQUALS_AFTER_WORDS.fullmatch(between)
        if not (tokens[position + 1].is_joined or is_equation or _OR.fullmatch(between)):
            break
        position += 1
    return _single(text, tokens, position)


def _single(text: str, tokens: Sequence[_Token], at: int) -> Number | None:
    token = tokens[at]
    is_one_of_two = at > 0 and _OR.fullmatch(text[tokens[at - 1].end : token.start])
    is_range = (
        at > 0
        and _RANGE_TO.fullmatch(text[tokens[at - 1].end : token.start])
        and _RANGE.search(text[: tokens[at - 1].start])
    )
    if token.is_joined or is_one_of_two or is_range or _DENIED.search(text[: token.start]):
        return None
    return token.number


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    for match in _NUMBER.finditer(text):
        start, sign, is_operator = _sign(text, match)
        before = text[tokens[-1].end : start] if tokens else "nothing"
        is_joined = bool(tokens) and bool((is_operator and not before.strip(" )")) or _JOINED.fullmatch(before))
        brackets = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        parts, is_list = _meanings(match, is_bracketed="".join(brackets) in ("()", "[]", "{}"))
        number = None
        is_dash = _DASH_FIRST.match(match[0]) and _IS_BEFORE.search(text, max(0, match.start() - 10), match.start())
        if parts and not is_dash and not _is_symbolic(text, match):
            value, *others = [sign * part for part in parts]
            name, power, exponent = (match["unit"] or match["money"] or "").partition("^")
            unit = _unit_of(name) + power + exponent
            if not match["money"] or unit in ("", _unit_of(match["money"])):  # '$5M' is no number of metres
                number = Number(value, unit, frozenset(others), match[0].strip())
        tokens.append(_Token(start, match.end(), number, is_joined, is_list))
    return tokens


def _unit_of(name: str) -> str:
    return _UNITS.get(name.strip().casefold(), "")


def _is_symbolic(text: str, match: re.Match[str]) -> bool:
    """Return whether digits are part of a symbolic expression, such as '2π', '√2', 'a/2' or '3x'."""
    before = text[max(0, match.start() - 8) : match.start()]
    return bool(_SYMBOL_BEFORE.search(before) or (not match["unit"] and _SYMBOL_AFTER.match(text, match.end())))


def _sign(text: str, match: re.Match[str]) -> tuple[int, int, bool]:
    """Return where a number begins, its sign (1 or -1), and whether an operator joins it to a number before."""
    if match["word"]:
        is_operator = bool(re.search(r"[\d)%]\s*$", text[: match.start()]))
        start = match.end("word") if is_operator else match.start()
        return start, 1 if is_operator else -1, is_operator
    written = match["sign"] or match["inner"]
    if not written:
        return match.start(), 1, False
    before = text[: match.start("sign" if match["sign"] else "inner")]
    number = match.end("sign") if match["sign"] else match.start()
    is_operator = bool(re.search(r"[\d)\]}%°]\s*$", before))
    is_spaced = len(written) > 1
    is_hyphen = bool(re.search(r"\w$", before))
    is_dash = is_spaced and not re.search(r"[=≈:(\[{,<>][ \t]*\Z", before)
    if is_operator or is_hyphen or is_dash:
        return number, 1, is_operator
    return match.start(), -1 if written[0] == "-" else 1, False


def _meanings(match: re.Match[str], is_bracketed: bool) -> tuple[list[Fraction], bool]:
    """Return the possible values of the digits, the usual one first, and whether they are a list.

    The values are [] if the digits are no number.
    """
    if len(match[0]) > _MAX_LENGTH:
        return [], False
    is_indian = "₹" in (_unit_of(match["money"] or ""), _unit_of(match["unit"] or ""))
    values, is_list = (
        ([Fraction(f"0{match['dot']}")], False) if match["dot"] else _digits(match["digits"], is_bracketed, is_indian)
    )
    if exponent := match["e"] or match["ten"]:
        if abs(int(exponent)) > _MAX_EXPONENT:
            return [], False
        values = [value * Fraction(10) ** int(exponent) for value in values]
    if match["power"]:
        power = int(match["power"])
        if abs(power) > _MAX_EXPONENT or (power < 0 and 0 in values):
            return [], False
        values = [value**power for value in values]
    if match["mixed"]:
        above, below = map(int, match["mixed"].split("/"))
        values = [value + Fraction(above, below) for value in values] if 0 < above < below else []
    if match["below"]:
        below = Fraction(match["below"])
        values = [value / below for value in values] if below else []
    if match["scales"]:
        scales = [_SCALES[word.casefold()] for word in re.findall(_SCALE, match["scales"], re.IGNORECASE)]
        values = [scale * value for scale in (math.prod(scales), 1) for value in values]
    return values, is_list


def _digits(digits: str, is_bracketed: bool, is_indian: bool) -> tuple[list[Fraction], bool]:
    if digits.isdecimal():
        return [Fraction(int(digits))], False
    grouped = re.sub(f"[{_GAPS} ]", "_", digits)
    if re.fullmatch(r"[1-9]\d{0,2}(?:_\d{3})+(?:[.,]\d+)?", grouped):
        other_meanings = [Fraction(int(grouped.rpartition("_")[2]))] if " " in digits and grouped[-4] == "_" else []
        return [Fraction(grouped.replace("_", "").replace(",", ".")), *other_meanings], False
    if re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", digits):
        other_meanings = [Fraction(digits.replace(",", "."))] if digits.count(",") == 1 and "." not in digits else []
        return [Fraction(digits.replace(",", "")), *other_meanings], False
    if re.fullmatch(r"[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?", digits):  # lakhs and crores, or a list
        is_sure = is_indian or re.search(r",0", digits)
        return ([Fraction(digits.replace(",", ""))], False) if is_sure else ([], True)
    if re.fullmatch(r"[1-9]\d{0,2}(?:\.\d{3})+,\d+|[1-9]\d{0,2}(?:\.\d{3}){2,}", digits):
        return [Fraction(digits.replace(".", "").replace(",", "."))], False
    if re.fullmatch(r"\d+\.\d+", digits):
        may_be_grouped = re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", digits)
        return [Fraction(digits), *([Fraction(digits.replace(".", ""))] if may_be_grouped else [])], False
    last = Fraction(int(re.split(f"[.,{_GAPS}]", digits)[-1]))
    if re.fullmatch(r"\d+,\d+", digits) and not is_bracketed:
        return [Fraction(digits.replace(",", ".")), last], False
    return ([last], True) if "," in digits else ([], False)  # '3.11.2' and the like
