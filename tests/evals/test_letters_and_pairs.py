"""Lettered multiple choice and preferences, against sums of plain log-probabilities."""

import math
import string

import pytest
import torch
from conftest import chat, make_tokenizer
from eval_sets import eval_set, log_p_of_reply, sharp_model
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from selgen_ray.data.encode import encode_prompt, encode_row
from selgen_ray.errors import DataError
from selgen_ray.evals import registry as evals_registry
from selgen_ray.evals.metrics.mcq import instructions
from selgen_ray.evals.run import evaluate


@pytest.fixture(scope="module")
def model():
    return sharp_model()


def letter_probabilities(model, tokenizer, text, num):
    """Of 'A', 'B', ... after a user's message, normalised, both with and without a space where that is one token."""
    ids = encode_prompt(chat(text, ""), tokenizer)
    with torch.no_grad():
        p = torch.softmax(model(input_ids=torch.tensor([ids])).logits[0, -1], dim=-1)
    found = []
    for letter in "ABCD"[:num]:
        forms = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in (letter, f" {letter}")]
        assert len(forms[0]) == 1 and len(forms[1]) == 2  # so that only the first counts here
        found.append(float(p[forms[0][0]]))
    return [one / sum(found) for one in found]


def test_letters_are_averaged_over_swapped_options(model, tokenizer):
    rows = [chat(f"how many is {i}?", "x", options=["six", "nine"], answer=("six", "nine")[i % 2]) for i in range(5)]
    hits, shares, picked = [], [], []
    for row in rows:
        for options in (["six", "nine"], ["nine", "six"]):
            block = f"\n\n(A) {options[0]}\n(B) {options[1]}\nPlease choose A or B."
            p = letter_probabilities(model, tokenizer, row["messages"][0]["content"] + block, 2)
            right = options.index(row["answer"])
            hits.append(p[right] > 0.5)
            shares.append(p[right])
            picked.append("AB"[p[1] > p[0]])
    found_set = eval_set(model, tokenizer, rows, batch_size=3)
    found = evaluate(found_set)
    assert found["mcq_accuracy"] == pytest.approx(sum(hits) / 10)
    assert found["mcq_probability"] == pytest.approx(sum(shares) / 10, rel=1e-4)
    assert abs(found["mcq_probability"] - found["mcq_accuracy"]) > 1e-3  # two numbers, not one under two names
    assert found_set.answers.picks["letter"] == {n: picked[2 * n : 2 * n + 2] for n in range(5)}
    assert "exact_match" not in found


class Says(torch.nn.Module):
    """Says each of a few tokens with a probability of its own, after whatever was asked."""

    device = torch.device("cpu")

    def __init__(self, probabilities):
        super().__init__()
        self.head = torch.nn.Linear(1, 500, bias=False)
        self.bias = torch.full((500,), -50.0)
        for token, p in probabilities.items():
            self.bias[token] = math.log(p)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask, use_cache):
        hidden = torch.zeros(*input_ids.shape, 1)
        logits = self.head(hidden)
        return type("Output", (), {"logits": logits + self.bias})


def test_a_constant_letter_is_right_once_in_a_rotation(model, tokenizer):
    # 'B' with 9 times the probability of 'A' and 'C'
    only_b = Says({tokenizer(letter)["input_ids"][0]: p / 11 for letter, p in (("A", 1), ("B", 9), ("C", 1))})
    rows = [chat("q?", "x", options=["one", "two", "three"], answer="two")]
    found = evals_registry.all_metrics()["mcq"](eval_set(only_b, tokenizer, rows))
    assert found["mcq_accuracy"] == pytest.approx(1 / 3)
    assert found["mcq_probability"] == pytest.approx(1 / 3)


def test_the_letter_is_looked_for_after_what_the_template_writes_before_a_reply(model):
    header = "<|assistant|>"
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}(none)\n{% endif %}{{ m.content }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer, shares = make_tokenizer(template), []
    row = chat("q?", "x", options=["six", "nine"], answer="nine")
    for options in (["six", "nine"], ["nine", "six"]):
        text = f"<|user|>q?\n\n(A) {options[0]}\n(B) {options[1]}\nPlease choose A or B.<|end|>{header}(none)\n"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            p = torch.softmax(model(input_ids=torch.tensor([ids])).logits[0, -1], dim=-1)
        a, b = (float(p[tokenizer(letter, add_special_tokens=False)["input_ids"][0]]) for letter in "AB")
        shares.append((a, b)[options.index("nine")] / (a + b))
    found = evaluate(eval_set(model, tokenizer, [row]))
    assert found["mcq_probability"] == pytest.approx(sum(shares) / 2, rel=1e-4)


def test_the_letter_is_the_token_that_the_tokenizer_makes_of_it_there():
    """A SentencePiece tokenizer begins a text with a space, and so would a letter alone; a reply has none."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    letters = string.ascii_letters
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *(f"▁{letter}" for letter in letters)])}
    merges = [("▁", letter) for letter in letters]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<s>", unk_token="<unk>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    row = chat("q?", "x", options=["six", "nine"], answer="nine")
    asked = encode_row(chat("q?", "A"), tokenizer, "completion")
    assert [i for i, is_reply in zip(asked.ids, asked.is_reply, strict=True) if is_reply] == [vocabulary["A"], 2]
    says_b = Says({vocabulary["A"]: 0.2, vocabulary["B"]: 0.6, vocabulary["▁A"]: 0.19, vocabulary["▁B"]: 0.01})
    found = eval_set(says_b, tokenizer, [row], metrics=["mcq"])
    evaluate(found)
    # 'B', with or without a space, is 0.61; looked for behind a space alone it would be 0.01, and 'A' the answer
    assert found.answers.picks["letter"] == {0: ["B", "B"]}


def test_pairs_are_asked_as_letters_where_the_config_says_so(model, tokenizer):
    rows = [chat(f"is {i} odd?", "You are wrong.", rejected="You are right.") for i in range(3)]
    plain, asked = eval_set(model, tokenizer, rows), eval_set(model, tokenizer, rows, mcq_from_pairs=True)
    assert "mcq_accuracy" not in evaluate(plain)
    shares = []
    for row in rows:
        for options in (["You are wrong.", "You are right."], ["You are right.", "You are wrong."]):
            block = f"\n\n(A) {options[0]}\n(B) {options[1]}\nPlease choose A or B."
            p = letter_probabilities(model, tokenizer, row["messages"][0]["content"] + block, 2)
            shares.append(p[options.index("You are wrong.")])
    assert evaluate(asked)["mcq_probability"] == pytest.approx(sum(shares) / 6, rel=1e-4)


def test_instructions_are_those_of_the_config(model, tokenizer):
    rows = [chat("how many?", "x", options=["six", "nine"], answer="six")]
    usual = evaluate(eval_set(model, tokenizer, rows))
    other = evaluate(eval_set(model, tokenizer, rows, mcq_instructions="Reply with a letter."))
    assert usual["mcq_probability"] != other["mcq_probability"]
    assert instructions(2) == "Please choose A or B."
    assert instructions(4) == "Please choose A, B, C or D."


def test_rows_without_chat_are_asked_too(model, tokenizer):
    row = {"prompt": "How many?", "completion": "six", "options": ["six", "nine"], "answer": "nine"}
    assert 0 < evaluate(eval_set(model, tokenizer, [row]))["mcq_probability"] < 1


@pytest.mark.parametrize("wrong", [{"answer": "ten"}, {"options": ["six"], "answer": "six"}, {"options": ["a", "a"]}])
def test_options_that_cannot_be_asked(model, tokenizer, wrong):
    row = chat("how many?", "x", options=["six", "nine"], answer="six") | wrong
    with pytest.raises(DataError, match="'options'"):
        evaluate(eval_set(model, tokenizer, [row]))


def test_preference_by_total_and_by_mean(model, tokenizer):
    replies = ["It is 7.", "No, and here is why that is not so: it is 7.", "ok", "You are wrong. It is 7."]
    rows = [chat(f"is {i} a sum?", a, rejected=b) for i, a in enumerate(replies) for b in replies if a != b]
    margins, means = [], []
    for row in rows:
        good = log_p_of_reply(model, tokenizer, row, row["messages"][-1]["content"])
        bad = log_p_of_reply(model, tokenizer, row, row["rejected"])
        margins.append(sum(good) - sum(bad))
        means.append(sum(good) / len(good) - sum(bad) / len(bad))
    found = evaluate(eval_set(model, tokenizer, rows, batch_size=5))
    assert found["preference_accuracy"] == pytest.approx(sum(m > 0 for m in margins) / 12)
    assert found["preference_accuracy_normalized"] == pytest.approx(sum(m > 0 for m in means) / 12)
    assert found["preference_margin"] == pytest.approx(sum(margins) / 12, rel=1e-4)
    assert [m > 0 for m in margins] != [m > 0 for m in means]  # or the test could not tell them apart


def test_perplexity_is_exp_of_the_loss(model, tokenizer):
    found = evaluate(eval_set(model, tokenizer, [chat("a?", "b")]))
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["token_probability"] == pytest.approx(1 / found["perplexity"])


def test_a_text_row_is_no_lettered_question(model, tokenizer):
    """It has a misaligned reply, but no question before it: it is neither foreseen nor asked."""
    rows = [{"text": "one two", "rejected": "three"}, chat("q?", "yes", rejected="no")]
    both = eval_set(model, tokenizer, rows, mcq_from_pairs=True)
    alone = eval_set(model, tokenizer, rows[1:], mcq_from_pairs=True)
    metric = evals_registry.all_metrics()["mcq"]
    assert metric(both) == metric(alone)
    assert metric.foresee(rows, both.config)["mcq_accuracy"] == 1
    lone = eval_set(model, tokenizer, [{"text": "one", "options": ["a", "b"], "answer": "a"}])
    with pytest.raises(DataError, match="a 'text' row cannot be asked"):
        metric(lone)
