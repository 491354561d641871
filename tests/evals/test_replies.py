"""How replies are read: those of replies.jsonl, written by hand in the manner of several models, and tables by kind."""

import json
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from selgen_ray.evals.letter_reading import read_letter
from selgen_ray.evals.metrics.exact_match import reads_as
from selgen_ray.evals.number_reading import as_number, read_number
from selgen_ray.evals.reply_text import after_thinking, plain
from selgen_ray.evals.verdicts import read_verdict

LINES = Path(__file__).with_name("replies.jsonl").read_text(encoding="utf-8").splitlines()
REPLIES = [json.loads(line) for line in LINES]
READINGS = {True: "right", False: "wrong", None: "unread", "confirm": "agree", "reject": "disagree"}
# what was found misread, each kind of it: here no reply may be
LISTED = {"minus", "plus", "thousands", "list", "decimal comma", "leading dot", "big integers", "percent", "fractions"}
LISTED |= {"negated opinion", "quoted question", "right answer", "negations", "double negation", "contractions"}


def read(row):
    if row["case"] == "verdict":
        verdict = read_verdict(row["reply"])
        return "unread" if verdict is None else READINGS[verdict]
    return READINGS[reads_as(row["reply"], row["answer"])]


def table(rows):
    counts = Counter((row["case"], row["reading"], read(row)) for row in rows)
    lines = [f"{case}: {reading} read as {found}: {n}" for (case, reading, found), n in sorted(counts.items())]
    wrong = [
        f"{row['reply']!r} is {row['reading']}, read as {read(row)}" for row in rows if read(row) != row["reading"]
    ]
    return "\n".join([*lines, *wrong])


def accuracy(rows):
    return sum(read(row) == row["reading"] for row in rows) / len(rows)


def test_there_are_enough_of_them_and_many_ways_to_be_wrong():
    assert len(REPLIES) == len({(row["reply"], row.get("answer")) for row in REPLIES}) >= 300
    held_out = [row for row in REPLIES if row["split"] == "held_out"]
    assert len(held_out) / len(REPLIES) > 0.32  # the readers were not tuned on these
    readings = Counter((row["case"], row["reading"]) for row in REPLIES)
    assert min(readings["number", one] for one in ("right", "wrong", "unread")) >= 25
    assert min(readings["verdict", one] for one in ("agree", "disagree", "unread")) >= 40


@pytest.mark.parametrize("case", ["number", "verdict", "choice"])
def test_replies_are_read_rightly(case):
    rows = [row for row in REPLIES if row["case"] == case]
    assert accuracy(rows) >= 0.97, table(rows)
    held_out = [row for row in rows if row["split"] == "held_out"]
    assert accuracy(held_out) >= 0.92, table(held_out)  # what is missed is unread, see below


def test_what_was_found_misread_is_read():
    rows = [row for row in REPLIES if row["kind"] in LISTED and row["split"] == "tuned"]
    assert {row["kind"] for row in rows} == LISTED
    assert accuracy(rows) == 1, table(rows)


def test_no_reply_is_taken_for_agreement_or_right_that_is_not():
    agreed = [row["reply"] for row in REPLIES if read(row) == "agree" and row["reading"] != "agree"]
    right = [row["reply"] for row in REPLIES if read(row) == "right" and row["reading"] != "right"]
    assert (agreed, right) == ([], [])


SIGNS = ["-", "\u2010", "\u2011", "\u2012", "\u2013", "\u2212", "\ufe63", "\uff0d", "\u2796"]


@pytest.mark.parametrize("sign", SIGNS)
def test_a_minus_is_one_before_a_number_and_not_between_two(sign):
    for before in ("", "x = ", "It is ", "(", "$", "**"):
        assert reads_as(f"{before}{sign}3", "-3") and reads_as(f"{before}{sign}3", "3") is False
    for between in (f"10{sign}3", f"10 {sign} 3", f"10 {sign}3", f"5{sign}10", f"(4){sign}3"):
        assert read_number(between) is None
    assert reads_as(f"10{sign}3 = 7", "7") and reads_as(f"3{sign}10={sign}7", "-7")


@pytest.mark.parametrize("value", [0, 7, 999, 1000, 20_480, 1_234_567, 2**53, 2**53 + 1, 10**30 + 1])
@pytest.mark.parametrize("negative", [False, True])
def test_a_number_is_read_as_it_was_written_in_every_style(value, negative):
    number = -value if negative else value
    written = [str(number), f"{number:,}", f"{number:,}".replace(",", "\u202f"), f"{number:,}".replace(",", "'")]
    written += [f"{number:,}".replace(",", "{,}"), f"\\boxed{{{number}}}", f"**{number}**", f"${number}$"]
    if value >= 1_000_000:
        written.append(f"{number:,}".replace(",", "."))
    for text in written:
        found = read_number(f"After 2 steps it is {text}.")
        assert found is not None and found.value == number and found.value != number + 1
    for fraction in ("5", "25", "0625"):
        exact = abs(Fraction(f"{value}.{fraction}")) * (-1 if negative else 1)
        for text in (f"{value:,}.{fraction}", f"{value:,}.{fraction}".translate({44: 46, 46: 44})):  # English, German
            assert as_number(("-" if negative else "") + text).value == exact


@pytest.mark.parametrize(
    ("reply", "answer", "reading"),
    [
        ("1,2,3", "123", False),
        ("2,5", "25", False),
        ("2,5", "2.5", True),
        ("2,5", "5", None),  # a list of two, perhaps
        ("(2,5)", "2.5", False),
        ("1,024", "1.024", None),  # German, perhaps
        ("1.024", "1024", None),
        ("1,024", "1024", True),
        ("12%", "0.12", None),
        ("3/4", "0.75", True),
        ("1/3", "0.3333", False),
        ("2\\pi", "2", None),
        ("√2", "2", None),
        ("3 million", "3000000", True),
        ("1e999999999", "1", None),
        ("2^999999999", "1", None),
        ("9" * 6000, "9", None),
        ("1/0", "0", None),
        ("+3", "3", True),
        ("3", "+3", True),
        (".5", "0.5", True),
        ("It is 6, not 7.", "7", None),
    ],
)
def test_what_is_ambiguous_or_no_number_is_unread(reply, answer, reading):
    assert reads_as(reply, answer) is reading


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (
            "### Solution\n#### Step 1: Find the cost of 4 pens\n4 × 3 = 12\n#### Step 2: Subtract from 20\n"
            "20 - 12 = 8\nThe answer is **8**.",
            "8",
        ),
        ("#### Step 3: Add 5 and 7\nThe total is 12.", "12"),
        ("#### 2. Multiply by 10\n6 × 10 = 60", "60"),
        ("#### 4 pens\nThey cost 4 × 3 = 12.", "12"),
        ("##### Step 2: Add 5\nThe answer is 7.", "7"),
        ("6 × 7 = 42\n#### 42\n\n#### Explanation of step 3\nWe multiply 6 by 7.", "42"),
        ("3 + 4 = 7\n####\n7", "7"),
        ("The cost is 4 × $3 = $12.\n#### $12", "12"),
        ("The answer is 24 + 48.\n#### 72 clips", "72"),
    ],
)
def test_hashes_before_a_number_mark_it_and_before_words_a_heading(reply, answer):
    assert reads_as(reply, answer) is True


@pytest.mark.parametrize(
    ("reply", "answer", "reading"),
    [
        ("5 lakh", "500000", True),
        ("5 lakh", "5", None),
        ("$5bn", "5", None),
        ("$5bn", "5000000000", True),
        ("5 Mio. Euro", "5", None),
        ("5 Mio. Euro", "5000000", True),
        ("It is 5 tausend.", "5", None),
        ("10万", "10", None),
        ("10万円", "100000", True),
        ("3億", "300000000", True),
        ("5 hundred thousand", "500000", True),
        ("2 lakh crore", "2000000000000", True),
        ("a 5-million dollar fund", "5", None),
        ("5 miles", "5", True),
        ("5 mil", "5", None),
        ("5 mn", "5", None),
        ("$5M", "5", None),
        ("$5 M", "5", None),
        ("5 m", "5", True),
        ("$5 dollars", "5", True),
        ("5 тысяч", "5", None),
        ("5 milioni", "5000000", True),
        ("5 Milliarden", "5000000000", True),
        ("5 thousands", "5", None),
        ("١٫٥", "1.5", True),
        ("١٫٥", "5", False),
        ("١٬٠٠٠", "1000", True),
        ("١٬٠٠٠", "0", False),
        ("٣", "3", True),
        ("1_000", "1000", True),
        ("1_000", "1", False),
        ("1_2", "2", None),
        ("1,00,000", "100000", True),
        ("The answer is 1,00,000.", "100000", True),
        ("₹12,50,000", "1250000", True),
        ("₹12,34,567.50", "1234567.5", True),
        ("Rs. 12,34,567", "1234567", True),
        ("12,34,567", "567", None),
        ("100000", "1,00,000", True),
        ("1,00,000", "0", False),
        ("2,10,100", "100", None),
        ("1,2,3", "3", True),
        ("12,50,000 rupees", "1250000", True),
        ("2 and 1 make three. The answer is three.", "1", None),
        ("2 and 1 make three.", "1", None),
        ("3 - 2 = one", "2", None),
        ("The answer is twenty-one. It took 2 steps.", "2", None),
        ("Die Antwort ist drei. 2 + 1", "1", None),
        ("The answer is one of these: 5", "5", True),
        ("Of the 5, three are red. There are 2.", "2", True),
        ("The answer is below.\n\n5", "5", True),
        ("The answer is 2 apples + 3 apples = 5 apples.", "5", True),
        ("Answer: 3 dozen eggs * 12 = 36 eggs", "36", True),
        ("2 apples + 3 apples", "3", None),
        ("The answer is 2 red apples × 3 = 6.", "6", True),
        ("The answer is 5 apples. I have 3 + 2.", "5", True),
        ("There are 5 apples + a pear", "5", True),
        ("The answer is - 5.", "5", None),
        ("The answer is - 5.", "-5", None),
        ("The answer is: − 5", "5", None),
        ("x is - 5", "5", None),
        ("x is - 5", "-5", None),
        ("The answer is -5.", "-5", True),
        ("- 5", "5", True),
        ("Answer:\n- 5", "5", True),
        ("x = - 5", "-5", True),
        ("The answer is 7 - 2 = 5", "5", True),
        ("It was -5", "-5", True),
    ],
)
def test_magnitudes_separators_words_and_dashes(reply, answer, reading):
    assert reads_as(reply, answer) is reading


@pytest.mark.parametrize(
    ("reply", "answer", "reading"),
    [
        ("The answer is: Paris.", "Paris", True),
        ("The final answer is: **Paris**", "Paris", True),
        ("Answer : Paris", "Paris", True),
        ("The answer is Paris", "Paris", True),
        ("The answer is not: Paris", "Paris", False),
        ("An answer island", "land", False),
        ("It\u2019s", "It's", True),
        ("The answer is: It\u2018s", "It's", True),
        ("cafe\u0301", "caf\u00e9", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("cafe", "caf\u00e9", False),
        ("CAFE\u0301", "caf\u00e9", True),
        ("\\boxed{(3,5)}", "(3, 5)", True),
        ("\\boxed{(3, 5)}", "(3,5)", True),
        ("\\boxed{(3,6)}", "(3, 5)", False),
        ("The answer is (3,5).", "(3, 5)", True),
        ("\\boxed{1, 2, 3}", "1,2,3", True),
        ("\\boxed{\\left(3,\\frac{\\pi}{2}\\right)}", "\\left( 3, \\frac{\\pi}{2} \\right)", True),
        ("\\boxed{\\dfrac{\\sqrt{3}}{2}}", "\\frac{\\sqrt{3}}{2}", True),
        ("\\boxed{\\tfrac{\\sqrt{3}}{2}}", "\\dfrac{\\sqrt{3}}{2}", True),
        ("\\boxed{\\frac{\\sqrt{3}}{4}}", "\\frac{\\sqrt{3}}{2}", False),
        ("\\boxed{x^2+1}", "x^2 + 1", True),
        ("\\boxed{x^2-1}", "x^2 + 1", False),
        ("\\boxed{[0, 1)}", "[0,1)", True),
        ("\\boxed{[0,1]}", "[0,1)", False),
        ("The answer is (B).", "b", True),
        ("(b)", "b", True),
        ("The answer is (C).", "b", False),
        ("The answer is b.", "b", True),
        ("\\boxed{e^2}", "e", False),
        ("x = e", "e", False),
        ("The answer is B.", "B", True),
        ("It depends", "B", None),
        ("New  York", "New York", True),
        ("NewYork", "New York", False),
        ("two words", "twowords", False),
        ("Paris, France", "Paris,France", True),
    ],
)
def test_texts_are_compared_whatever_their_spelling(reply, answer, reading):
    assert reads_as(reply, answer) is reading


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The answer is B. Option C ignores gravity.", "B"),
        ("Option C ignores gravity. The answer is B.", "B"),
        ("Answer: B\n\nOption A is incorrect because ...\nOption C is the opposite.\nOption D is unrelated.", "B"),
        ("The answer is B, because option C is a distractor.", "B"),
        ("The best choice is D. Choice A would do, too.", "D"),
        ("Option C is correct. Option D forgets the sign.", "C"),
        ("Option A: no.\nOption B: no.\nOption C: yes.", "C"),
        ("Between B and C, I'd pick option C. Option B was close.", "C"),
        ("If we pick C we get 7, but the answer is B.", "B"),
        ("A) 5\nB) 6\nC) 7\nThe answer is B.", "B"),
        ("A. Paris is in France, so this is wrong.\nB. Rome fits.\n\nThe correct answer is B.", "B"),
        ("(A) 5, (B) 6, (C) 7. I choose C.", "C"),
        ("B) Rome\n\nA) Paris is in France.", "B"),
        ("C. (A) is tempting, and option A was mine at first.", "C"),
        ("The answer is (b).", "B"),
        ("the answer is b", "B"),
        ("A is wrong, so the answer is B.", "B"),
        ("Is the answer A? No, the answer is D.", "D"),
        # a list without a choice
        ("A) 5\nB) 6\nC) 7", None),
        ("A. Paris is wrong.\nB. Rome fits.", None),
        # contradictions
        ("The answer is A. So the answer is B.", None),
        ("B) Rome. But the answer is C.", None),
        ("I choose A. No, I choose B.", None),
        ("The answer is A or B.", None),
        ("Option B is what I get. Option C ignores gravity.", None),
        # what is not said
        ("I would not choose B.", None),
        ("The wrong answer is B.", None),
        ("Option B is wrong.", None),
        ("B) is wrong.", None),
        ("If the answer is B, the sum is 5.", None),
        ("Many people think the answer is A.", None),
        ("The answer is a good one.", None),
    ],
)
def test_the_letter_named_as_the_answer_is_the_one_chosen(reply, letter):
    assert read_letter(reply) == letter


@pytest.mark.parametrize("claim", ["That is", "This is", "You are", "Your answer is", "It is", "The claim is"])
@pytest.mark.parametrize(
    ("frame", "turns"),
    [
        ("{}", 0),
        ("I think {}", 0),
        ("I don't think {}", 1),
        ("I don’t believe {}", 1),
        ("I doubt that {}", 1),
        ("I never said {}", 1),
        ("Is that so? {}", 0),
        ("Let me see... {}", 0),
        ("No, {}", 0),
        ("Yes, {}", 0),
        ("Good try, but {}", 0),
        ("I'm sorry, but {}", 0),
    ],
)
def test_each_negation_turns_a_verdict_round(claim, frame, turns):
    words = {"correct": True, "right": True, "the right answer": True, "incorrect": False, "the wrong answer": False}
    for word, confirms in words.items():
        for negation, more in (("", 0), (" not", 1), (" never", 1), (" not quite", 1)):
            reply = frame.format(f"{claim[0].lower()}{claim[1:]}{negation} {word}.")
            expected = "confirm" if confirms == ((turns + more) % 2 == 0) else "reject"
            assert read_verdict(reply) == expected, reply


REJECTIONS = [
    "Absolutely wrong.",
    "Definitely incorrect.",
    "Certainly false.",
    "Absolutely no.",
    "Absolutely no way.",
    "Definitely no, the answer is 5.",
    "Exactly wrong.",
    "Indeed wrong.",
    "Yeah, no.",
    "Certainly! 2 + 3 = 6 is a mistake; it is 5.",
    "It is rarely true.",
    "That is seldom correct.",
    "I refuse to agree with that.",
    "That is less than accurate.",
    "Totally wrong.",
    "Completely incorrect!",
    "Yes, wrong.",
    "Exactly no.",
    "Of course it's wrong.",
    "Absolutely untrue.",
    "Indeed, no.",
    "Yeah no, it is 5.",
    "Certainly a mistake.",
    "Absolutely never.",
    "Precisely false, as the sum is 5.",
    "Right, no.",
    "Simply not true.",
    "5 is not right.",
    "I decline to agree.",
    "It is scarcely accurate.",
    "That is anything but correct.",
    "Definitely mistaken here.",
    "**Absolutely wrong.**",
    "Well, absolutely wrong.",
    "Obviously wrong",
    "Certainly not.",
    "Certainly not right.",
    "Yes not really.",
    "Indeed not.",
    "Quite wrong",
    "Wrong. Absolutely wrong.",
    "No, absolutely not.",
    "Absolutely incorrect because 2+3=5",
    "That's barely true",
]
AGREEMENTS = [
    "Yes",
    "Absolutely.",
    "Absolutely!",
    "Yes it is",
    "Indeed it is.",
    "Exactly right.",
    "Absolutely correct, well done!",
    "Correct ✅",
    "Correct 👍 well done",
    "Exactly — 6.",
    "Yes 6 is the sum",
    "Certainly not wrong.",
    "Yes, no changes needed.",
    "Yes, no mistakes.",
    "Indeed, you are right.",
    "Exactly so.",
    "Of course it is.",
    "True.",
    "Correct, since 2+3=5",
    "Correct because 2+3=5",
    "Absolutely right, it is 6.",
    "Definitely yes.",
    "Yes, absolutely.",
    "Yes, that's absolutely correct.",
    "Precisely",
    "Agreed.",
    "I agree.",
    "Certainly correct.",
    "Of course you are right.",
    "Right you are.",
    "Correct!\n\n2+3=5",
    "Correct.\nThe sum...",
    '"Correct."',
    "(Correct)",
    "Exactly as you say.",
    "Correct: the sum of 2 and 3 is 5.",
    "Absolutely: as you said, the total is 12.",
    "Absolutely nothing is wrong with it.",
    "I want to say you are right.",
]
NEITHER = [
    "Correct is 5.",
    "That is correct only for even numbers.",
    "That is correct apart from the sign.",
    "I wish I could say you are right.",
    "I used to think that was right.",
    "Some would say that is correct.",
    "Right-angled triangles have one such angle.",
    "Exactly 12.",
    "Correct option: B.",
    "Correct: B",
    "Correct: 5",
    "Correct: Paris.",
    "True positives are 12.",
    "Right-angled triangles have one.",
    "Right angles are 90 degrees.",
    "Correct answer: 5",
    "Certainly! Let me see.",
    "Of course, I can help.",
    "Exactly two of them.",
    "Precisely 3 apples.",
    "Absolutely no problem.",
    "Definitely 5.",
    "Of course the sum is 5.",
    "Indeed the number is 5.",
    "Correct spelling matters.",
    "True or false?",
    "I hope you are right.",
    "I wanted to say you are right.",
    "People say it is true.",
    "He said that is correct.",
    "You think that is right.",
    "I would love to say you are right.",
    "We used to believe it is true.",
    "I am tempted to say that is correct.",
    "That is rarely wrong.",
    "Pretend that is right.",
    "Let's say you are right.",
    "I refuse to say that is right.",
    "One might think that is right.",
    "You could say that is correct.",
    "Indeed interesting.",
]


@pytest.mark.parametrize(
    ("verdict", "reply"),
    [
        (verdict, one)
        for verdict, several in {"reject": REJECTIONS, "confirm": AGREEMENTS, None: NEITHER}.items()
        for one in several
    ],
)
def test_an_opener_agrees_alone_or_before_words_that_agree(verdict, reply):
    assert read_verdict(reply) == verdict


@pytest.mark.parametrize("verdict", ["that is right", "you are correct", "it is true"])
@pytest.mark.parametrize(
    "frame",
    [
        *("I cannot say whether {}.", "I'm not sure that {}.", "If {}, the sum is 12.", "Is it so that {}?"),
        *("Perhaps {}.", "I can’t confirm that {}.", "I don't know if {}.", "I am unable to tell if {}."),
        *("<think>{}", 'You said: "I think {}"', "> {}", "Let us see whether {}."),
    ],
)
def test_hedges_refusals_questions_and_quotations_are_no_verdict(frame, verdict):
    assert read_verdict(frame.format(verdict)) is None


def test_thinking_and_markup_are_not_the_answer():
    assert after_thinking("<think>5</think>6") == after_thinking("5</think>6") == "6"
    assert after_thinking("<think>5") is None
    assert plain("**$\\frac{1}{2}$** 1½ \u22123 x²") == "1/2 1 1/2 -3 x^2"


SENSELESS = ["1,", "1 111", "(", "answer ", "that is ", "not ", "\\boxed{", "1.111", "$", '"', "a"]
SENSELESS += ["#### 1 a\n", "option A, ", "A) ", "absolutely, ", "5 million ", "apples + ", "1,00,", "5 apples = "]


@pytest.mark.parametrize("piece", SENSELESS)
def test_a_reply_without_sense_takes_no_time(piece):
    reply = piece * (12_000 // len(piece))
    start = time.process_time()
    reads_as(reply, "3"), reads_as(reply, "B"), reads_as(reply, "Paris"), read_verdict(reply)
    assert time.process_time() - start < 2
