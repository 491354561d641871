"""`python -m selgen_ray.data show`: what a person reads of the rows is what the model is trained on."""

import io
import runpy
import sys

import pytest
from conftest import MARKED, chat, make_model, make_tokenizer, write_jsonl
from rich.console import Console

from selgen_ray.data.encode import encode_row
from selgen_ray.data.show import show_row
from selgen_ray.sweep.show_data import main

LONG = chat("why? " * 10, "So it is. " * 20)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_model().save_pretrained("model")
    make_tokenizer().save_pretrained("model")
    write_jsonl(tmp_path / "a.jsonl", [chat("Is 7 odd?", "Yes ☺.\n", answer="yes"), LONG, *[chat("q", "a")] * 3])
    write_jsonl(tmp_path / "b.jsonl", [{"prompt": "q", "completion": "a"}])
    (tmp_path / "s.yaml").write_text(
        "base:\n  finetune_config: {model: ./model, max_seq_length: 60}\n  data: {outcome: a.jsonl, proxy: b.jsonl}\n"
    )
    return tmp_path


def shown(*argv, **options):
    out = io.StringIO()
    console = Console(file=out, highlight=False, markup=False, soft_wrap=True, **options)
    assert main(["show", "s.yaml", *argv], console) == 0
    return out.getvalue()


def test_scored_tokens_stand_in_brackets_with_the_end_and_the_cut(here):
    text = shown("--rows", "2")
    first, second, strings = text.split("\n== ")[1:]
    assert first.startswith(f"data.outcome, {here / 'a.jsonl'}:1: \n")
    assert "<|user|>Is 7 odd?<|end|><|assistant|>[[Yes ☺.\\n\n<|end|>]]\n" in first
    assert "the model replies after:\n<|user|>Is 7 odd?<|end|><|assistant|>\n" in first
    assert "60 tokens, " in second and "]]\n--- cut here: " in second
    assert "note: the cut falls into a reply: where it ends is not learned" in second
    assert strings.startswith(f"data.proxy, {here / 'b.jsonl'}:1: ") and "q[[a<|end|>]]" in strings
    assert "note: data.proxy: 'prompt' and 'completion' are strings" in text
    assert len(shown("--role", "outcome").split("\n== ")) == 4  # the head, and three rows


def test_in_a_terminal_they_are_coloured(here):
    text = shown("--role", "outcome", "--rows", "1", force_terminal=True, color_system="standard", no_color=False)
    assert "\x1b[30;42mYes ☺.\\n\x1b[0m" in text and "\x1b[1;35;42m<|end|>\x1b[0m" in text and "[[" not in text
    assert "\x1b[" not in shown("--role", "outcome", force_terminal=True, no_color=True)


def test_the_pieces_are_the_tokens(tokenizer):
    for row in (LONG, {"prompt": "q ", "completion": "a ☺"}, {"text": "  two  spaces"}):
        encoded = encode_row(row, tokenizer, "completion")
        made = show_row(row, tokenizer, 1000, "completion")
        assert "".join(piece.text for piece in made.pieces) == tokenizer.decode(encoded.ids)
        assert made.num_scored == sum(encoded.is_reply) and made.num_cut == 0 and made.notes == []


UNUSUAL = {
    "no end": (
        MARKED.replace("{{ m['content'] }}<|end|>{% endgeneration %}", "{{ m['content'] }}{% endgeneration %}"),
        "the scored part that ends with 's' (token 5) holds no end token: it is never learned",
    ),
    "another end": (
        MARKED.replace("<|end|>{% endgeneration %}", "<|pad|>{% endgeneration %}"),
        "a reply ends with <|pad|>, and the tokenizer's end token is <|end|>",
    ),
    "another prompt": (
        MARKED.replace("%}<|assistant|>{% endif %}", "%}<|system|>{% endif %}"),
        "what the model replies after is not what it was trained on: they part at token 4, '<|system|>' in the place",
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_is_noted(name):
    template, expected = UNUSUAL[name]
    (note,) = show_row(chat("q", "s"), make_tokenizer(template), 100, "completion").notes
    assert expected in note


def test_the_command_names_what_is_wrong(here, monkeypatch, capsys):
    (here / "b.jsonl").write_text("{")
    monkeypatch.setattr(sys, "argv", ["selgen_ray.data", "show", "s.yaml"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("selgen_ray.data", run_name="__main__")
    assert ended.value.code == 2
    assert f"s.yaml:3: base.data.proxy: {here / 'b.jsonl'}:1: not JSON" in capsys.readouterr().err


def test_a_role_that_is_not_there_is_refused(here, capsys):
    assert main(["show", "s.yaml", "--role", "truth"]) == 2
    assert capsys.readouterr().err == "s.yaml: there is no data.truth; found: outcome, proxy.\n"
