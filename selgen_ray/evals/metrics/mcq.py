"""Lettered multiple choice, '(A) ... (B) ...', by the probabilities of the letters."""

from __future__ import annotations

import string
from collections.abc import Sequence

import torch

from selgen_ray.config.evals import EvalConfig
from selgen_ray.data.encode import Encoded, collate, encode_prompt, pad_id
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
        ModelError: the tokenizer has no single tokens for the letters.
    """
    options_of_row = {n: options for n, row in enumerate(eval_set.rows) if (options := _options(row, eval_set))}
    if not options_of_row:
        return {}
    rotations = [(n, options[k:] + options[:k]) for n, options in options_of_row.items() for k in range(len(options))]
    prompts = [_prompt(eval_set, eval_set.rows[n], options) for n, options in rotations]
    tokens = _letter_tokens(eval_set, max(map(len, options_of_row.values())))
    hits: list[float] = []
    shares: list[float] = []
    picked: dict[int, list[str]] = {n: [] for n in options_of_row}
    for (n, options), log_p in zip(rotations, _next_token(eval_set, prompts, tokens), strict=True):
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


def _prompt(eval_set: EvalSet, row: Row, options: Sequence[str]) -> list[int]:
    """Return the token ids of the question with its options, up to where the letter is expected."""
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
    lines.append(eval_set.config.mcq_instructions or instructions(len(options)))
    block = "\n\n" + "\n".join(lines)
    if row.get("text") is not None:
        raise DataError("a 'text' row cannot be asked as a lettered question: it does not say where its reply begins")
    if row.get("messages") is None:
        return encode_prompt({**row, "prompt": row["prompt"] + block + "\n"}, eval_set.tokenizer)
    *before, question, reply = [None, *row["messages"]] if len(row["messages"]) < 2 else row["messages"]
    if question is None or question["role"] != "user":
        raise DataError("a row that is asked as a lettered question needs a user's message before the reply")
    asked = {**question, "content": question["content"] + block}
    return encode_prompt({**row, "messages": [*before, asked, reply]}, eval_set.tokenizer)


def _letter_tokens(eval_set: EvalSet, num_letters: int) -> list[list[int]]:
    """Return the tokens of each letter: with and without a space before it.

    A form is left out unless every letter is one token of its own in it.

    Raises:
        ModelError: no form is left.
    """
    forms: list[list[int]] = []
    for form in ("{}", " {}"):
        ids = [
            list(eval_set.tokenizer(form.format(letter), add_special_tokens=False)["input_ids"])
            for letter in LETTERS[:num_letters]
        ]
        if all(len(tokens) == 1 for tokens in ids) and len({tokens[0] for tokens in ids}) == num_letters:
            forms.append([tokens[0] for tokens in ids])
    if not forms:
        raise ModelError("the tokenizer has no single tokens for letters: lettered multiple choice cannot be asked")
    return [sorted({form[i] for form in forms}) for i in range(num_letters)]


def _next_token(eval_set: EvalSet, prompts: list[list[int]], tokens: list[list[int]]) -> list[torch.Tensor]:
    """Return for each prompt the log-probability of each letter as the next token, over all its forms; [letters]."""
    encoded = [Encoded([*p, tokens[0][0]], [False] * len(p) + [True]) for p in prompts]
    log_probs = [torch.empty(0)] * len(prompts)
    for numbers in eval_set.limits.batches([len(e) for e in encoded]):
        batch = collate(encoded, numbers, pad_id(eval_set.tokenizer), eval_set.model.device)
        with eval_set.snapshot.passes() as model:
            log_p = torch.log_softmax(upcast(scored_logits(model, batch)), dim=-1)
        letter_log_probs = torch.stack([log_p[:, ids].logsumexp(dim=-1) for ids in tokens], dim=-1).cpu()
        for number, row in zip(numbers, letter_log_probs, strict=True):
            log_probs[number] = row
    return log_probs
