"""Losses against a few lines of plain arithmetic in float64."""

import math

import torch

from selgen_ray.data.encode import Encoded, collate
from selgen_ray.models.log_probs import cross_entropy
from selgen_ray.trainers import losses
from selgen_ray.trainers.losses import kl_to_base


def softmax(row):
    top = max(row)
    exps = [math.exp(x - top) for x in row]
    return [e / sum(exps) for e in exps]


def test_cross_entropy_is_the_sum_of_minus_log_p_over_scored_tokens():
    logits = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 7, (2, 5), generator=torch.Generator().manual_seed(1))
    scored = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 1, 0]], dtype=torch.bool)
    expected = -sum(
        math.log(softmax(logits[b, t].tolist())[targets[b, t]]) for b in range(2) for t in range(5) if scored[b, t]
    )
    assert math.isclose(cross_entropy(logits[scored], targets[scored]).item(), expected, rel_tol=1e-12)


def test_kl_goes_from_the_model_to_the_base_and_not_back():
    generator = torch.Generator().manual_seed(0)
    logits, base = torch.randn(2, 4, 6, dtype=torch.float64, generator=generator)
    expected = backwards = 0.0
    for row, base_row in zip(logits.tolist(), base.tolist(), strict=True):
        p, q = softmax(row), softmax(base_row)
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        backwards += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert math.isclose(kl_to_base(logits, base.log_softmax(-1)).item(), expected, rel_tol=1e-10)
    assert not math.isclose(expected, backwards, rel_tol=1e-2)


def test_kl_gradient_matches_a_finite_difference():
    generator = torch.Generator().manual_seed(3)
    logits, base = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
    base = base.log_softmax(-1)
    logits.requires_grad_(True)
    kl_to_base(logits, base).backward()
    for i, j in [(0, 0), (1, 3), (2, 4)]:
        step = torch.zeros_like(base)
        step[i, j] = 1e-6
        difference = (kl_to_base(logits.detach() + step, base) - kl_to_base(logits.detach() - step, base)) / 2e-6
        assert math.isclose(logits.grad[i, j].item(), difference.item(), rel_tol=1e-6, abs_tol=1e-9)


def test_kl_is_the_same_in_chunks(monkeypatch):
    logits, base = torch.randn(2, 37, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    base = base.log_softmax(-1)
    found = []
    for tokens in (1, 5, 37, 100):
        monkeypatch.setattr(losses, "_CHUNK_BYTES", {"cpu": tokens * 50 * 8})
        z = logits.clone().requires_grad_(True)
        value = kl_to_base(z, base)
        value.backward()
        found.append((value.item(), z.grad))
    for value, gradient in found[1:]:
        assert math.isclose(value, found[0][0], rel_tol=1e-12)
        assert torch.allclose(gradient, found[0][1], rtol=1e-12, atol=0)


def test_half_precision_logits_are_upcast_before_the_softmax():
    logits = torch.randn(1, 40, 500, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.zeros(1, 40, dtype=torch.long)
    scored = torch.ones(1, 40, dtype=torch.bool)
    exact = cross_entropy(logits.double()[scored], targets[scored]).item()
    assert math.isclose(cross_entropy(logits[scored], targets[scored]).item(), exact, rel_tol=1e-6)


def test_pads_and_prompts_are_not_scored_and_targets_are_the_next_token():
    rows = [Encoded([5, 6, 7, 8], [False, False, True, True]), Encoded([5, 9], [False, True])]
    batch = collate(rows, [0, 1], pad=0, device="cpu")
    assert batch.scored.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert batch.targets[batch.scored].tolist() == [7, 8, 9]
    assert batch.num_scored == 3
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
