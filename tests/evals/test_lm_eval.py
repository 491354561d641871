"""Tasks of lm-evaluation-harness; what needs the package is skipped without it."""

import json

import pytest
import torch

from selgen_ray.config.evals import LmEvalConfig
from selgen_ray.evals import lm_eval_tasks
from selgen_ray.trainers import build_config, get_trainer


def test_names_of_the_values():
    results = {
        "arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,none": 0.25},
        "gsm8k": {"exact_match,strict-match": 0.125, "exact_match_stderr,strict-match": "N/A", "sample_len": 3},
        "broken": {"perplexity,none": float("nan")},
    }
    found = lm_eval_tasks.numbers(results)
    assert found == {"arc_easy_acc": 0.5, "arc_easy_acc_norm": 0.25, "gsm8k_exact_match_strict-match": 0.125}


def test_without_the_package_its_tasks_are_refused(make_config, monkeypatch):
    monkeypatch.setattr(lm_eval_tasks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install .selgen-ray\[lm_eval\]"):
        build_config(make_config(top={"evals": {"lm_eval": {"tasks": ["arc_easy"]}}}))


def test_a_task_on_the_model_in_memory(make_config, tmp_path):
    pytest.importorskip("lm_eval")
    rows = [{"q": f"Is {i} even?", "choices": ["yes", "no"], "gold": i % 2} for i in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"task": "parity", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice"}
    task |= {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}, "doc_to_text": "{{q}}"}
    task |= {"doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}", "metric_list": [{"metric": "acc"}]}
    with get_trainer("naive")(make_config()) as trainer:
        state = torch.get_rng_state()
        config = LmEvalConfig.model_construct(tasks=[task], num_fewshot=None, limit=None)
        found = lm_eval_tasks.lm_eval_values(trainer.model, trainer.tokenizer, config, 2, 256)
        assert torch.equal(state, torch.get_rng_state())
        hits = 0
        for row in rows:
            totals = []
            for choice in row["choices"]:
                before, whole = (trainer.tokenizer(t)["input_ids"] for t in (row["q"], f"{row['q']} {choice}"))
                with torch.no_grad():
                    log_p = torch.log_softmax(trainer.model(input_ids=torch.tensor([whole])).logits[0], dim=-1)
                totals.append(sum(float(log_p[t - 1, whole[t]]) for t in range(len(before), len(whole))))
            hits += totals.index(max(totals)) == row["gold"]
    assert found == {"parity_acc": hits / 5}
