"""Lettered multiple choice: '(A) ... (B) ...', by the probability of the letters."""

from __future__ import annotations

import string
from collections.abc import Sequence

import torch

from selgen_ray.config.evals import EvalConfig
from selgen_ray.data.encode import Encoded, collate, encode_prompt, pad_id
from selgen_ray.data.forms import Row
from selgen_ray.data.streams import by_length
from selgen_ray.errors import DataError, ModelError
from selgen_ray.evals.registry import EvalSet, metric
from selgen_ray.models.forward import scored_logits
from selgen_ray.models.log_probs import upcast

LETTERS = string.ascii_uppercase


def _foresee(rows: Sequence[Row], config: EvalConfig) -> dict[str, int]:
    asked = [row for row in rows if row.get("options") or (config.mcq_from_pairs and row.get("rejected"))]
    return dict.fromkeys(("mcq_accuracy", "mcq_probability"), len(asked))


@metric(
    shares=("mcq_accuracy", "mcq_probability"),
    foresee=_foresee,
    needs="'options' and 'answer', or 'rejected' where evals.mcq_from_pairs is true",
)
def mcq(eval_set: EvalSet) -> dict[str, float]:
    """On rows with `options`, and on those with `rejected` where `evals.mcq_from_pairs` says so.

    The question is asked once for each rotation of the options, so that each stands at each letter once (two options:
    as they are, and swapped). A preference for a letter then gives an accuracy of 1 / number of options, no more.

    Returns:
        mcq_accuracy: how often the right letter is the most likely one of the letters, over rows and rotations;
        mcq_probability: mean probability of the right letter, normalised over the letters. The two are different
        things: a model that is a little more sure than not scores 1.0 and 0.6.
    """
    asked = {n: options for n, row in enumerate(eval_set.rows) if (options := _options(row, eval_set))}
    if not asked:
        return {}
    turned = [(n, options[k:] + options[:k]) for n, options in asked.items() for k in range(len(options))]
    prompts = [_prompt(eval_set, eval_set.rows[n], options) for n, options in turned]
    tokens = _letter_tokens(eval_set, max(map(len, asked.values())))
    hits: list[float] = []
    shares: list[float] = []
    picked: dict[int, list[str]] = {n: [] for n in asked}
    for (n, options), log_p in zip(turned, _next_token(eval_set, prompts, tokens), strict=True):
        of_letter = torch.softmax(log_p[: len(options)], dim=0).tolist()
        right = options.index(_answer(eval_set.rows[n]))
        best = max(range(len(options)), key=of_letter.__getitem__)
        hits.append(best == right)
        shares.append(of_letter[right])
        picked[n].append(LETTERS[best])
    eval_set.answers.picks["letter"] = picked
    # a question with more options is asked more often: each row counts once
    weights = [1 / len(options) / len(asked) for _, options in turned]
    mean = lambda values: min(1.0, sum(w * v for w, v in zip(weights, values, strict=True)))  # noqa: E731
    return {"mcq_accuracy": mean(hits), "mcq_probability": mean(shares)}


def instructions(num_options: int) -> str:
    """'Please choose A or B.'"""
    *most, last = LETTERS[:num_options]
    return f"Please choose {', '.join(most)} or {last}."


def _answer(row: Row) -> str:
    return str(row["answer"]) if row.get("options") else _reply(row)


def _reply(row: Row) -> str:
    return row["messages"][-1]["content"] if row.get("messages") is not None else row["completion"]


def _options(row: Row, eval_set: EvalSet) -> list[str]:
    if options := row.get("options"):
        found = [str(option) for option in options]
        if str(row.get("answer")) not in found or not 2 <= len(found) <= len(LETTERS) or len({*found}) < len(found):
            raise DataError(
                f"a row with 'options' {found} and 'answer' {row.get('answer')!r}: needs 2 to {len(LETTERS)} "
                "different options, one of which is the answer"
            )
        return found
    if eval_set.config.mcq_from_pairs and row.get("rejected") and row["rejected"] != _reply(row):
        return [_reply(row), row["rejected"]]
    return []


def _prompt(eval_set: EvalSet, row: Row, options: Sequence[str]) -> list[int]:
    """Token ids up to where the letter is expected."""
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
    lines.append(eval_set.config.mcq_instructions or instructions(len(options)))
    block = "\n\n" + "\n".join(lines)
    if row.get("messages") is None:
        return encode_prompt({**row, "prompt": row["prompt"] + block + "\n"}, eval_set.tokenizer)
    *before, question, reply = [None, *row["messages"]] if len(row["messages"]) < 2 else row["messages"]
    if question is None or question["role"] != "user":
        raise DataError("a row that is asked as a lettered question needs a user's message before the reply")
    asked = {**question, "content": question["content"] + block}
    return encode_prompt({**row, "messages": [*before, asked, reply]}, eval_set.tokenizer)


def _letter_tokens(eval_set: EvalSet, num_letters: int) -> list[list[int]]:
    """For each letter the tokens that say it: with and without a space before it, as far as all letters have both."""
    forms: list[list[int]] = []
    for form in ("{}", " {}"):
        ids = [
            list(eval_set.tokenizer(form.format(letter), add_special_tokens=False)["input_ids"])
            for letter in LETTERS[:num_letters]
        ]
        if all(len(one) == 1 for one in ids) and len({one[0] for one in ids}) == num_letters:
            forms.append([one[0] for one in ids])
    if not forms:
        raise ModelError("the tokenizer has no single tokens for letters: lettered multiple choice cannot be asked")
    return [sorted({form[i] for form in forms}) for i in range(num_letters)]


def _next_token(eval_set: EvalSet, prompts: list[list[int]], tokens: list[list[int]]) -> list[torch.Tensor]:
    """For each prompt the log-probability that each letter comes next, in whichever form; [letters]."""
    encoded = [Encoded([*p, tokens[0][0]], [False] * len(p) + [True]) for p in prompts]
    found = [torch.empty(0)] * len(prompts)
    for numbers in by_length([len(e) for e in encoded], eval_set.batch_size):
        batch = collate(encoded, numbers, pad_id(eval_set.tokenizer), eval_set.model.device)
        log_p = torch.log_softmax(upcast(scored_logits(eval_set.model, batch)), dim=-1)
        of_letters = torch.stack([log_p[:, ids].logsumexp(dim=-1) for ids in tokens], dim=-1).cpu()
        for number, row in zip(numbers, of_letters, strict=True):
            found[number] = row
    return found
