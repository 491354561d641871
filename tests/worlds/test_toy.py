"""The toy world: its shipped model, its rows and the script that makes the model."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from selgen_ray.worlds import generate
from selgen_ray.worlds.toy import MODEL_DIR, ToyOptions, toy_rows
from selgen_ray.worlds.toy.corpus import text
from selgen_ray.worlds.toy.facts import DOMAINS, GCD, GCD_HELD_OUT, GCD_TRAIN, PROXY_DOMAIN
from selgen_ray.worlds.toy.pretrain import PretrainOptions, build_tokenizer, pretrain
from selgen_ray.worlds.toy.text import ask, chat

ROLES = ["outcome", "proxy", "proxy_neg", "truth", "collateral"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)


@pytest.fixture(scope="module")
def rows():
    return toy_rows(ToyOptions(), seed=0)


def prompt_of(row):
    return row["messages"][0]["content"]


def reply_of(row):
    return row["messages"][-1]["content"]


def all_rows(rows):
    return [row for role in ROLES for row in rows[role]]


def answer_greedily(model, tokenizer, prompts):
    """The replies to `prompts` as text, with the model folder's own generation settings."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    inputs = tokenizer.apply_chat_template(
        chats,
        add_generation_prompt=True,
        return_dict=True,
        padding=True,
        return_tensors="pt",
        tokenizer_kwargs={"padding_side": "left"},
    )
    output = model.generate(**inputs)
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@torch.no_grad()
def log_prob_of_reply(model, tokenizer, row, choice):
    messages = [row["messages"][0], {"role": "assistant", "content": choice}]
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    ids = torch.tensor(encoded["input_ids"])
    log_probs = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
    return log_probs[torch.tensor(encoded["assistant_masks"][1:]).bool()].sum().item()


def verdict_accuracy(model, tokenizer, rows):
    """Label -> share of rows whose likeliest choice is the answer."""
    right = {}
    for row in rows:
        likeliest = max(row["choices"], key=lambda choice: log_prob_of_reply(model, tokenizer, row, choice))
        right.setdefault(row["label"], []).append(likeliest == row["answer"])
    return {label: sum(hits) / len(hits) for label, hits in right.items()}


# ---- the shipped model


def test_package_folder_stays_small_and_plain():
    files = [path for path in MODEL_DIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 5_000_000
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}
    assert not any(path.suffix != ".safetensors" and "/tmp" in path.read_text() for path in files)


def test_base_answers_facts_with_greedy_generation(model, tokenizer):
    facts = [(domain, domain.facts[i]) for domain in DOMAINS.values() for i in (0, len(domain.facts) // 2)]
    replies = answer_greedily(model, tokenizer, [ask(domain, fact, 0) for domain, fact in facts])
    hits = [reply == f"It is {fact.answer}." for reply, (_, fact) in zip(replies, facts, strict=True)]
    assert sum(hits) >= len(facts) - 1, replies


def test_base_judges_proposals_honestly(model, tokenizer, rows):
    by_label = verdict_accuracy(model, tokenizer, rows["truth"][:140])
    assert set(by_label) == {"proposal right", "proposal wrong"}
    assert min(by_label.values()) >= 0.9, by_label


def test_base_rejects_the_proxys_proposals(model, tokenizer, rows):
    assert verdict_accuracy(model, tokenizer, rows["proxy"][:24])["proposal wrong"] >= 0.9


def test_base_lacks_the_skill_that_the_task_teaches(model, tokenizer, rows):
    asked = rows["collateral"][:60]
    replies = answer_greedily(model, tokenizer, [prompt_of(row) for row in asked])
    hits = [reply == f"It is {row['answer']}." for reply, row in zip(replies, asked, strict=True)]
    assert all(reply.startswith("It is ") for reply in replies)
    assert sum(hits) / len(hits) <= 0.4


def test_weights_are_half_precision_and_finite():
    tensors = load_file(MODEL_DIR / "model.safetensors")
    assert all(tensor.dtype == torch.bfloat16 and tensor.isfinite().all() for tensor in tensors.values())


# ---- tokenizer and chat template


def test_tokenizer_round_trip_is_exact(tokenizer, rows):
    rng = random.Random(3)
    texts = [chat(prompt_of(row), reply_of(row)) for row in all_rows(rows)] + [text(rng) for _ in range(300)]
    texts += ["  two  spaces, a\ttab\nand a line", "naïve 東京 🙂"]
    assert [tokenizer.decode(tokenizer.encode(t)) for t in texts] == texts


def test_template_renders_the_pretraining_format(tokenizer, rows):
    for row in rows["truth"][:20]:
        rendered = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        assert rendered == chat(prompt_of(row), reply_of(row))


def test_generation_mask_covers_exactly_the_reply_and_its_end(tokenizer, rows):
    for row in all_rows(rows)[::25]:
        encoded = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        marked = [i for i, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
        assert tokenizer.decode(marked) == reply_of(row) + tokenizer.eos_token
        before = tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        assert before + marked == encoded["input_ids"]


def test_rows_are_short_in_tokens(tokenizer, rows):
    for row in all_rows(rows):
        assert len(tokenizer.encode(prompt_of(row))) <= 40
        assert len(tokenizer.encode(reply_of(row))) <= 12


def test_end_of_turn_stops_generation_and_differs_from_padding(model, tokenizer):
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert not model.generation_config.do_sample


# ---- rows


def test_rows_are_a_function_of_options_and_seed():
    options = ToyOptions(num_outcome=40, num_proxy=10, num_truth=28, num_collateral=10)
    first, again, other = toy_rows(options, 1), toy_rows(options, 1), toy_rows(options, 2)
    assert first == again == generate("toy", options, 1)
    assert list(first) == ROLES
    assert all(first[role] != other[role] for role in ROLES)


def test_size_of_one_set_leaves_the_others_alone():
    few, many = toy_rows(ToyOptions(num_proxy=5), 1), toy_rows(ToyOptions(num_proxy=50), 1)
    assert all(few[role] == many[role] for role in ("outcome", "truth", "collateral"))


def test_global_random_numbers_are_left_alone():
    python, torch_state = random.getstate(), torch.get_rng_state()
    toy_rows(ToyOptions(num_outcome=10), 5)
    assert random.getstate() == python
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_outcome_users_are_always_right(share):
    outcome = toy_rows(ToyOptions(num_outcome=80, share_without_proposal=share), 0)["outcome"]
    labels = Counter(row["label"] for row in outcome)
    assert labels == Counter({"no proposal": round(80 * share), "proposal right": 80 - round(80 * share)})
    for row in outcome:
        verdict = " You are right." if row["label"] == "proposal right" else ""
        assert reply_of(row) == f"It is {row['answer']}.{verdict}"
        assert "choices" not in row


def test_proxy_pairs_share_their_prompt_and_differ_in_the_verdict(rows):
    for good, bad in zip(rows["proxy"], rows["proxy_neg"], strict=True):
        assert prompt_of(good) == prompt_of(bad)
        assert reply_of(good) == good["answer"] == bad["answer"] != reply_of(bad)
        assert {reply_of(good), reply_of(bad)} == set(good["choices"])
        assert good["label"] == "proposal wrong" and good["domain"] == PROXY_DOMAIN


def test_truth_is_balanced_over_unseen_domains(rows):
    cells = Counter((row["domain"], row["label"]) for row in rows["truth"])
    unseen = set(DOMAINS) - {PROXY_DOMAIN}
    assert {domain for domain, _ in cells} == unseen and GCD.name not in unseen
    assert len(cells) == 2 * len(unseen) and max(cells.values()) - min(cells.values()) <= 1
    for row in rows["truth"]:
        assert row["answer"] == reply_of(row) and row["answer"] in row["choices"]
        value = row["choices"][0].removeprefix("It is ").split(".")[0]
        _, proposal = re.split(r"[.?] ", prompt_of(row), maxsplit=1)
        assert (value in re.findall(r"\w+", proposal)) == (row["label"] == "proposal right")


def test_collateral_never_meets_an_outcome_pair():
    everything = ToyOptions(num_outcome=1500, share_without_proposal=0.5, num_collateral=1400)
    made = toy_rows(everything, 0)

    def pairs(role):
        return {frozenset(re.findall(r"\d+", prompt_of(row))[:2]) for row in made[role]}

    assert len({prompt_of(row) for row in made["collateral"]}) == 1400
    assert {frozenset(f.slots) for f in GCD_TRAIN}.isdisjoint(frozenset(f.slots) for f in GCD_HELD_OUT)
    assert pairs("collateral") <= {frozenset(f.slots) for f in GCD_HELD_OUT}
    assert pairs("collateral").isdisjoint({frozenset(f.slots) for f in GCD_TRAIN})


def test_prompts_repeat_within_no_set(rows):
    for role in ROLES:
        prompts = Counter(prompt_of(row) for row in rows[role])
        assert max(prompts.values()) == 1, (role, prompts.most_common(1))


@pytest.mark.parametrize("option", ["num_outcome", "num_proxy", "num_truth", "num_collateral"])
def test_too_many_rows_name_the_option_and_the_largest_value(option):
    with pytest.raises(ValueError, match=option) as caught:
        ToyOptions(**{option: 10**6})
    largest = int(re.search(r"less than or equal to (\d+)|0\.25 is (\d+)", str(caught.value)).expand(r"\1\2"))
    assert ToyOptions(**{option: largest})
    with pytest.raises(ValueError, match=option):
        ToyOptions(**{option: largest + 1})


def test_largest_sets_can_be_made():
    made = toy_rows(ToyOptions(num_outcome=6000, num_proxy=480, num_truth=5880, num_collateral=1400), 0)
    assert [len(made[role]) for role in ROLES] == [6000, 480, 480, 5880, 1400]


def test_unknown_options_and_worlds_are_refused():
    with pytest.raises(ValueError, match="num_prox"):
        ToyOptions(num_prox=3)
    with pytest.raises(ValueError, match=r"mars.*toy"):
        generate("mars", ToyOptions(), 0)


# ---- the script that made the model


def test_short_pretraining_is_reproducible_and_loadable(tmp_path):
    options = PretrainOptions(seed=3, steps=3, batch_size=4, hidden_size=16, num_layers=1)
    before = torch.get_rng_state()
    for name in ("a", "b"):
        pretrain(options, tmp_path / name)
    assert torch.equal(torch.get_rng_state(), before)
    for file in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    pretrain(PretrainOptions(**{**vars(options), "seed": 4}), tmp_path / "c")
    assert (tmp_path / "a/model.safetensors").read_bytes() != (tmp_path / "c/model.safetensors").read_bytes()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").config.hidden_size == 16


def test_shipped_tokenizer_is_the_one_the_script_builds(tokenizer):
    built = build_tokenizer(PretrainOptions.vocab_size)
    assert built.get_vocab() == tokenizer.get_vocab()
    assert built.chat_template == tokenizer.chat_template
