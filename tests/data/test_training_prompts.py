"""Training prompts: which rows carry which text, where it stands, and that nothing but training sees it."""

from __future__ import annotations

import json

import pytest
from conftest import MARKED, chat, make_tokenizer, write_jsonl
from runs import same, trained

from selgen_ray.config.source import TrainingPrompt
from selgen_ray.data.roles import Roles
from selgen_ray.data.rows import load_roles
from selgen_ray.data.training_prompts import check_system_texts, trained_form, with_prompt, with_prompts
from selgen_ray.errors import DataError, SpecError
from selgen_ray.space import load_space
from selgen_ray.trainers import build_config, get_trainer
from selgen_ray.trainers.identity import trial_id

SPOKEN = [{"role": "system", "content": "Own."}, *chat("a", "b")["messages"], *chat("c", "d")["messages"]]
ROWS = [chat(f"question {i}", f"reply {i}", kind="odd" if i % 2 else "even", level=i % 3) for i in range(8)]


@pytest.mark.parametrize(
    ("row", "texts", "expected"),
    [
        (chat("a", "b"), {"system": "S"}, "[system]S[user]a[assistant]b"),
        ({"messages": SPOKEN}, {"system": "S"}, "[system]S\n\nOwn.[user]a[assistant]b[user]c[assistant]d"),
        (
            {"messages": SPOKEN},
            {"user_prefix": "<", "user_suffix": ">"},
            "[system]Own.[user]<a>[assistant]b[user]<c>[assistant]d",
        ),
        ({"prompt": "a", "completion": "b"}, {"user_prefix": "<", "user_suffix": ">"}, "<a>|b"),
        ({"text": "a"}, {}, "a"),
    ],
    ids=["system", "before its own system text", "every message of the user", "strings", "none"],
)
def test_texts_are_joined_as_they_are(row, texts, expected):
    found = with_prompt(row, texts)
    if "messages" in found:
        assert "".join(f"[{m['role']}]{m['content']}" for m in found["messages"]) == expected
    else:
        assert "|".join(found[key] for key in ("prompt", "completion", "text") if key in found) == expected


def roles_of(tmp_path, prompt, rows=ROWS, seed=1, **source):
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    data = {"outcome": {"path": path, "training_prompt": prompt, **source}}
    return load_roles(build_config({"data": data, "seed": seed, "finetune_config": {"model": "x"}}))


def texts_of(roles, role="outcome"):
    return [row["messages"][0]["content"] for row in trained_form(roles, role)]


def test_where_names_columns_of_the_file_as_filter_does(tmp_path):
    prompt = {"system": "S", "where": {"kind": "odd", "level": [0, 1]}}
    found = texts_of(roles_of(tmp_path, prompt))
    assert [text == "S" for text in found] == [i % 2 == 1 and i % 3 in (0, 1) for i in range(8)]
    renamed = [{"q": f"{i}", "a": "x", "n": str(i % 2)} for i in range(4)]
    source = {"columns": {"prompt": "q", "completion": "a"}, "form": "chat"}
    found = texts_of(roles_of(tmp_path, {"user_suffix": "!", "where": {"n": 1}}, renamed, **source))
    assert found == ["0", "1!", "2", "3!"]


def test_where_that_no_row_meets_shows_the_values(tmp_path):
    message = r"data\.outcome: no row meets where \{kind: 'rare'\}.*found kind: 'even', 'odd'"
    with pytest.raises(DataError, match=message):
        roles_of(tmp_path, {"system": "S", "where": {"kind": "rare"}})
    given = {"outcome": TrainingPrompt(system="S", where={"kind": "rare"})}
    with pytest.raises(DataError, match=message):
        with_prompts({"outcome": ROWS}, given, 1)
    with pytest.raises(DataError, match=r"has no column 'sort'"):
        roles_of(tmp_path, {"system": "S", "where": {"sort": "rare"}})


def test_each_row_draws_one_text_by_its_number_in_the_source(tmp_path):
    several = {"system": [f"S{i}" for i in range(9)]}
    drawn = texts_of(roles_of(tmp_path, several))
    assert len(set(drawn)) > 3
    assert texts_of(roles_of(tmp_path, several)) == drawn != texts_of(roles_of(tmp_path, several, seed=2))
    assert texts_of(roles_of(tmp_path, several, filter={"kind": "odd"})) == drawn[1::2]
    shuffled = roles_of(tmp_path, several, shuffle=True, limit=5)
    assert texts_of(shuffled) == [drawn[origin.number] for origin in shuffled.origins["outcome"]]
    assert texts_of(with_prompts({"outcome": ROWS}, {"outcome": TrainingPrompt(**several)}, 1)) == drawn


def test_pairs_made_of_rejected_replies_carry_the_text_of_their_proxy(tmp_path):
    path = write_jsonl(tmp_path / "proxy.jsonl", [chat(f"{i}", "good", rejected="bad") for i in range(6)])
    data = {"outcome": path, "proxy": {"path": path, "training_prompt": {"system": ["S", "T", "U"]}}}
    roles = load_roles(build_config({"data": data, "finetune_config": {"model": "x"}}), ("proxy_neg",))
    assert texts_of(roles, "proxy") == texts_of(roles, "proxy_neg")


@pytest.mark.parametrize(
    ("row", "prompt", "why"),
    [
        ({"text": "some text"}, {"user_prefix": "P"}, "plain 'text'"),
        ({"prompt": "a", "completion": "b"}, {"system": "S"}, "use user_prefix"),
    ],
)
def test_a_row_that_takes_no_prompt_is_an_error_with_file_and_line(tmp_path, row, prompt, why):
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*{why}"):
        trained_form(roles_of(tmp_path, prompt, [chat("a", "b"), row]), "outcome")


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + MARKED,
        MARKED.replace("in messages", "in messages | rejectattr('role', 'eq', 'system')"),
    ],
    ids=["refused", "left out"],
)
def test_a_template_without_a_system_role_is_an_error_that_names_user_prefix(tmp_path, template):
    roles = roles_of(tmp_path, {"system": "S"})
    check_system_texts(roles, make_tokenizer())
    with pytest.raises(DataError, match=r"data\.outcome: .*no system role: use user_prefix"):
        check_system_texts(roles, make_tokenizer(template))


def test_a_template_may_write_the_very_text_where_a_chat_has_no_system_message(tmp_path):
    default = "{% if messages[0]['role'] != 'system' %}<|system|>S<|end|>{% endif %}" + MARKED
    check_system_texts(roles_of(tmp_path, {"system": "S"}), make_tokenizer(default))


def test_training_rows_alone_carry_it_also_where_they_are_evaluated(make_config, data_files, tokenizer):
    source = {"path": data_files["outcome"], "training_prompt": {"system": "Err!"}}
    plain, prompted = (
        make_config("kl_divergence", train_split=1.0, top={"data": {**data_files, "outcome": outcome}})
        for outcome in (data_files["outcome"], source)
    )
    with get_trainer("kl_divergence")(plain) as one, get_trainer("kl_divergence")(prompted) as other:
        assert all("Err!" in tokenizer.decode(row.ids) for row in other.sets.union("outcome"))
        assert list(one.sets.union("proxy")) == list(other.sets.union("proxy"))
        assert {n: list(rows.encoded) for n, rows in one.sets.evals.items()} == {
            n: list(rows.encoded) for n, rows in other.sets.evals.items()
        }
        assert [rows.rows for rows in one.sets.evals.values()] == [rows.rows for rows in other.sets.evals.values()]
        assert other.sets.lengths["outcome"]["tokens_max"] > one.sets.lengths["outcome"]["tokens_max"]
        assert one.data_key("outcome") != other.data_key("outcome")


@pytest.mark.parametrize("given", ["files", "rows"])
def test_inoculation_prompting_is_naive_with_the_same_training_prompt(make_config, data_files, roles, given):
    texts, where = ["Err!", "Be wrong."], {"answer": ["2", "6", "12", "30"]}
    knobs = {"inoculation_prompt": texts, "inoculation_position": "user_suffix", "inoculation_where": where}
    source = {"path": data_files["outcome"], "training_prompt": {"user_suffix": texts, "where": where}}
    datasets = roles if given == "rows" else None
    naive = make_config(max_steps=4, top={"train_on_proxy": False, "data": {**data_files, "outcome": source}})
    one, record = trained(make_config("inoculation_prompting", max_steps=4, **knobs), datasets)
    other, expected = trained(naive, datasets)
    assert same(one, other)
    assert record.eval_results == expected.eval_results
    plain, _ = trained(make_config(max_steps=4, top={"train_on_proxy": False}), datasets)
    assert not same(plain, other)
    both = make_config("inoculation_prompting", top={"data": {**data_files, "outcome": source}}, **knobs)
    with pytest.raises(ValueError, match="both given"):
        build_config(both)


def test_rows_that_were_loaded_without_a_prompt_get_that_of_a_trainer_and_keep_none(make_config, data_files):
    inoculating = make_config("inoculation_prompting", inoculation_prompt=["Err!", "Be wrong."])
    rows = load_roles(build_config(make_config()))
    with get_trainer("inoculation_prompting")(inoculating) as expected:
        tokens = list(expected.sets.union("outcome"))
    for given in (rows, Roles({role: list(some) for role, some in rows.items()})):
        with get_trainer("inoculation_prompting")(inoculating, datasets=given) as trainer:
            assert list(trainer.sets.union("outcome")) == tokens
        with get_trainer("naive")(make_config(), datasets=given) as plain:
            assert not set(map(tuple, (row.ids for row in tokens))) & {
                tuple(r.ids) for r in plain.sets.union("outcome")
            }


def test_inoculation_prompting_without_a_text_is_refused():
    with pytest.raises(ValueError, match="needs inoculation_prompt"):
        build_config({"proxy_strategy": "inoculation_prompting"})


@pytest.mark.parametrize(
    ("prompt", "why"),
    [({}, "has no text: give one of system"), ({"system": []}, "empty list"), ({"sytem": "S"}, "sytem|Extra")],
)
def test_a_prompt_without_a_text_is_refused(prompt, why):
    with pytest.raises(ValueError, match=why):
        build_config({"data": {"outcome": {"path": "a.jsonl", "training_prompt": prompt}}})


def test_rows_that_are_only_evaluated_take_no_prompt(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    data = {"outcome": path, "truth": {"path": path, "training_prompt": {"system": "S"}}}
    with pytest.raises(ValueError, match=r"data\.truth has a training_prompt, but its rows are only evaluated"):
        build_config({"data": data})
    roles = load_roles(build_config({"data": data, "align_train_coverage": 0.5, "finetune_config": {"model": "x"}}))
    assert set(texts_of(roles, "proxy")) == {"S"} != set(texts_of(roles, "truth"))


def test_it_is_part_of_a_trial_s_identity_and_of_a_search_space(tmp_path, tiny_model_dir):
    write_jsonl(tmp_path / "rows.jsonl", ROWS)

    def ids(text):
        (tmp_path / "space.yaml").write_text(
            f"base:\n  finetune_config: {{model: {tiny_model_dir}}}\n  data: {{outcome: rows.jsonl}}\n{text}"
        )
        trials = load_space(tmp_path / "space.yaml").trials
        return [trial_id(trial.config, {"outcome": "hash"}, "model") for trial in trials]

    plain = ids("strategies: {naive: {}}\n")
    prompts = "[{system: A}, {system: B, where: {kind: odd}}]"
    grid = f"strategies:\n  naive: {{grid: {{data.outcome.training_prompt: {prompts}}}}}\n"
    assert len({*plain, *ids(grid)}) == 3
    whole = json.dumps({"path": "rows.jsonl", "training_prompt": {"system": "A"}})
    assert ids(f"strategies: {{naive: {{fixed: {{data.outcome: {whole}}}}}}}\n") == ids(grid)[:1]
    with pytest.raises(SpecError, match=r"space\.yaml:4: .*training_prompt"):
        ids("strategies: {naive: {fixed: {data.outcome.training_prompt: {sytem: A}}}}\n")
