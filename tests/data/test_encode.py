"""Tokens of a row: exactly the reply is scored, with and without generation marks."""

import pytest
import torch
from conftest import UNMARKED, chat, make_model, make_roles, make_tokenizer

from selgen_ray.data.encode import collate, encode_prompt, encode_row, encode_rows, replace_reply
from selgen_ray.errors import DataError
from selgen_ray.models.log_probs import cross_entropy

TWO_TURNS = {
    "messages": [
        {"role": "user", "content": "is 3 odd?"},
        {"role": "assistant", "content": "It is."},
        {"role": "user", "content": "is 4 odd?"},
        {"role": "assistant", "content": "You are wrong."},
    ]
}


def scored_text(encoded, tokenizer):
    return tokenizer.decode([t for t, r in zip(encoded.ids, encoded.is_reply, strict=True) if r])


@pytest.mark.parametrize("template", [None, UNMARKED], ids=["generation marks", "by prefix"])
def test_replies_with_their_end_are_scored_and_nothing_else(template):
    tokenizer = make_tokenizer(template) if template else make_tokenizer()
    assert scored_text(encode_row(chat("is 3 odd?", "It is."), tokenizer, "completion"), tokenizer) == "It is.<|end|>"
    both = encode_row(TWO_TURNS, tokenizer, "completion")
    assert scored_text(both, tokenizer) == "It is.<|end|>You are wrong.<|end|>"


def test_loss_on_all_scores_everything_but_the_first_token(tokenizer):
    encoded = encode_row(chat("is 3 odd?", "It is."), tokenizer, "all")
    assert encoded.is_reply == [False] + [True] * (len(encoded) - 1)


def test_prompt_completion_and_text_rows(tokenizer):
    pair = encode_row({"prompt": "2+2=", "completion": "4"}, tokenizer, "completion")
    assert scored_text(pair, tokenizer) == "4<|end|>"
    text = encode_row({"text": "hello"}, tokenizer, "completion")
    assert tokenizer.decode(text.ids) == "hello<|end|>"
    assert sum(text.is_reply) == len(text) - 1


def test_the_prompt_of_a_generation_ends_where_the_reply_begins(tokenizer):
    row = chat("is 3 odd?", "It is.")
    prompt = encode_prompt(row, tokenizer)
    assert encode_row(row, tokenizer, "completion").ids[: len(prompt)] == prompt
    assert tokenizer.decode(prompt).endswith("<|assistant|>")


def test_rows_are_cut_and_a_row_without_anything_to_score_is_an_error(tokenizer):
    rows = [chat("q", "a"), chat("a long question " * 20, "a")]
    with pytest.raises(DataError, match=r"data\.outcome: 1 of 2 rows .* max_seq_length 32, first row 2"):
        encode_rows(rows, tokenizer, 32, "completion", "data.outcome")
    assert all(len(e) <= 300 for e in encode_rows(rows, tokenizer, 300, "completion", "x"))


def test_messages_need_a_chat_template():
    with pytest.raises(DataError, match="chat template"):
        encode_row(chat("q", "a"), make_tokenizer(None), "completion")


def test_a_template_that_rewrites_earlier_turns_is_refused():
    drops_history = UNMARKED.replace("{% for m in messages %}", "{% for m in messages[-2:] %}")
    with pytest.raises(DataError, match="rewrites earlier turns"):
        encode_row(TWO_TURNS, make_tokenizer(drops_history), "completion")


def test_replace_reply_changes_the_last_turn_only():
    changed = replace_reply(TWO_TURNS, "No.")
    assert changed["messages"][:3] == TWO_TURNS["messages"][:3]
    assert changed["messages"][3] == {"role": "assistant", "content": "No."}
    assert TWO_TURNS["messages"][3]["content"] == "You are wrong."


def test_padding_does_not_change_a_loss(tokenizer):
    model = make_model().double().eval()
    encoded = encode_rows(make_roles()["proxy"], tokenizer, 256, "completion", "x")
    assert len({len(e) for e in encoded}) > 1

    def total(rows):
        batch = collate(encoded, rows, pad=0, device="cpu")
        return cross_entropy(model(**batch.inputs).logits[batch.scored], batch.targets[batch.scored]).item()

    with torch.no_grad():
        apart = sum(total([i]) for i in range(len(encoded)))
        together = total(list(range(len(encoded))))
    assert together == pytest.approx(apart, rel=1e-12)
