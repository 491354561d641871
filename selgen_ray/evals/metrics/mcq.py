"""Lettered multiple choice, '(A) ... (B) ...', by the probabilities of the letters."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from selgen_ray.config.evals import EvalConfig
from selgen_ray.data.chats import NotLocatedError
from selgen_ray.data.encode import Encoded, collate, encode_row, pad_id, replace_reply
from selgen_ray.data.forms import Row, reply_of
from selgen_ray.errors import DataError, ModelError
from selgen_ray.evals.registry import EvalSet, metric
from selgen_ray.models.forward import scored_logits
from selgen_ray.models.log_probs import upcast

LETTERS = string.ascii_uppercase


def _foresee(rows: Sequence[Row], config: EvalConfig) -> dict[str, int]:
    rows_asked = sum(bool(row.get("options")) or _is_pair(row, config) for row in rows)
    return dict.fromkeys(("mcq_accuracy", "mcq_probability"), rows_asked)


@metric(
    shares=("mcq_accuracy", "mcq_probability"),
    foresee=_foresee,
    needs="'options' and 'answer', or 'rejected' where evals.mcq_from_pairs is true",
)
def mcq(eval_set: EvalSet) -> dict[str, float]:
    """Ask rows with `options`, or with `rejected` if `evals.mcq_from_pairs` is true, as lettered questions.

    Each question is asked once for each rotation of its options, so that each option stands at each letter once; two
    options are asked as they are, and swapped. A model that always prefers the same letter then has an accuracy of
    1 / number of options.

    Returns:
        mcq_accuracy: share of the questions whose right letter is the most likely of the letters; each row has the
        same weight, whatever its number of rotations;
        mcq_probability: mean probability of the right letter, normalised over the letters. A model that gives every
        right letter a probability of 0.6 has an accuracy of 1.0 and a probability of 0.6.

    Raises:
        DataError: a row's options are not 2 to 26 different texts with the answer among them, or it cannot be asked.
        ModelError: the letters do not differ in one token.
    """
    options_of_row = {n: options for n, row in enumerate(eval_set.rows) if (options := _options(row, eval_set))}
    if not options_of_row:
        return {}
    rotations = [(n, options[k:] + options[:k]) for n, options in options_of_row.items() for k in range(len(options))]
    questions = [_question(eval_set, eval_set.rows[n], options) for n, options in rotations]
    asked = _asked(questions, max(map(len, options_of_row.values())), eval_set.tokenizer)
    hits: list[float] = []
    shares: list[float] = []
    picked: dict[int, list[str]] = {n: [] for n in options_of_row}
    for (n, options), log_p in zip(rotations, _next_token(eval_set, asked), strict=True):
        letter_probabilities = torch.softmax(log_p[: len(options)], dim=0).tolist()
        right = options.index(_answer(eval_set.rows[n]))
        best = max(range(len(options)), key=letter_probabilities.__getitem__)
        hits.append(best == right)
        shares.append(letter_probabilities[right])
        picked[n].append(LETTERS[best])
    eval_set.answers.picks["letter"] = picked
    # a question with more options is asked more often: each row counts once
    weights = [1 / len(options) / len(options_of_row) for _, options in rotations]
    mean = lambda values: min(1.0, sum(w * v for w, v in zip(weights, values, strict=True)))  # noqa: E731
    return {"mcq_accuracy": mean(hits), "mcq_probability": mean(shares)}


def instructions(num_options: int) -> str:
    """Return the sentence that asks for a letter, such as 'Please choose A or B.'."""
    *most, last = LETTERS[:num_options]
    return f"Please choose {', '.join(most)} or {last}."


def _answer(row: Row) -> str:
    return str(row["answer"]) if row.get("options") else reply_of(row)


def _options(row: Row, eval_set: EvalSet) -> list[str]:
    if options := row.get("options"):
        texts = [str(option) for option in options]
        if str(row.get("answer")) not in texts or not 2 <= len(texts) <= len(LETTERS) or len({*texts}) < len(texts):
            raise DataError(
                f"a row with 'options' {texts} and 'answer' {row.get('answer')!r}: needs 2 to {len(LETTERS)} "
                "different options, one of which is the answer"
            )
        return texts
    return [reply_of(row), row["rejected"]] if _is_pair(row, eval_set.config) else []


def _is_pair(row: Row, config: EvalConfig) -> bool:
    """Return whether the row's two replies are asked as two options; a `text` row has no question to ask."""
    if not config.mcq_from_pairs or not row.get("rejected") or row.get("text") is not None:
        return False
    return row["rejected"] != reply_of(row)


def _question(eval_set: EvalSet, row: Row, options: Sequence[str]) -> Row:
    """Return the row with its options in the prompt; its reply is to be replaced by a letter."""
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
    lines.append(eval_set.config.mcq_instructions or instructions(len(options)))
    block = "\n\n" + "\n".join(lines)
    if row.get("text") is not None:
        raise DataError("a 'text' row cannot be asked as a lettered question: it does not say where its reply begins")
    if row.get("messages") is None:
        return {**row, "prompt": row["prompt"] + block + "\n"}
    *before, question, reply = [None, *row["messages"]] if len(row["messages"]) < 2 else row["messages"]
    if question is None or question["role"] != "user":
        raise DataError("a row that is asked as a lettered question needs a user's message before the reply")
    asked = {**question, "content": question["content"] + block}
    return {**row, "messages": [*before, asked, reply]}


@dataclass(frozen=True)
class _Asked:
    """A lettered question as tokens.

    Attributes:
        prompt: token ids of all that stands before the letter in a reply that is the letter alone.
        tokens: of each letter, the ids of the tokens that may follow the prompt: without and with a space before it.
    """

    prompt: list[int]
    tokens: list[list[int]]


def _asked(questions: Sequence[Row], num_letters: int, tokenizer: PreTrainedTokenizerBase) -> list[_Asked]:
    """Return each question as tokens.

    All is read off the tokens of whole rows, whose replies are letters: what the template writes before a reply, and
    whether the tokenizer begins a letter with a space there, is then as in training. The end of these rows is mostly
    one and the same, and then the letters of the first question are those of all.
    """
    asked: list[_Asked] = []
    end: list[int] = []  # of a row with the first letter, beginning with that letter
    for question in questions:
        ids = _ids(question, LETTERS[0], tokenizer)
        if asked and ids[-len(end) :] == end:
            asked.append(_Asked(ids[: -len(end)], asked[-1].tokens))
        else:
            asked.append(_first_asked(question, num_letters, tokenizer))
            end = ids[len(asked[-1].prompt) :]
    return asked


def _first_asked(question: Row, num_letters: int, tokenizer: PreTrainedTokenizerBase) -> _Asked:
    """Return a question as tokens, with the tokens of its letters.

    Raises:
        ModelError: the letters do not differ in one token.
    """
    forms: list[tuple[list[int], list[int]]] = []
    for form in ("{}", " {}"):
        rows = [_ids(question, form.format(letter), tokenizer) for letter in LETTERS[:num_letters]]
        length = next((i for i, ids in enumerate(zip(*rows, strict=False)) if len({*ids}) > 1), None)
        if length is not None and len(tokens := {ids[length]: None for ids in rows}) == num_letters:
            forms.append((rows[0][:length], list(tokens)))
    if not forms:
        raise ModelError("the tokenizer has no single tokens for letters: lettered multiple choice cannot be asked")
    prompt, _ = forms[0]
    # a template may strip the space, and a tokenizer may make a token of it
    same = [tokens for before, tokens in forms if before == prompt]
    return _Asked(prompt, [sorted({tokens[i] for tokens in same}) for i in range(num_letters)])


def _ids(question: Row, reply: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    row = replace_reply(question, reply)
    try:  # a reply begins with a token, as it does in training
        return encode_row(row, tokenizer, "completion").ids
    except NotLocatedError:
        return encode_row(row, tokenizer, "all").ids


def _next_token(eval_set: EvalSet, asked: Sequence[_Asked]) -> list[torch.Tensor]:
    """Return for each question the log-probability of each letter as the next token, over all its forms; [letters]."""
    encoded = [Encoded([*one.prompt, one.tokens[0][0]], [False] * len(one.prompt) + [True]) for one in asked]
    log_probs = [torch.empty(0)] * len(asked)
    for numbers in eval_set.limits.batches([len(e) for e in encoded]):
        batch = collate(encoded, numbers, pad_id(eval_set.tokenizer), eval_set.model.device)
        with eval_set.snapshot.passes() as model:
            log_p = torch.log_softmax(upcast(scored_logits(model, batch)), dim=-1)
        for number, row in zip(numbers, log_p, strict=True):
            log_probs[number] = torch.stack([row[ids].logsumexp(dim=-1) for ids in asked[number].tokens]).cpu()
    return log_probs
