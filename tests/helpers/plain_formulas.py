"""The strategies' formulas computed naively: one row at a time without padding, autograd, dense matrices.

Of the package they ask only which rows a step saw, and their tokens.
"""

import copy
import math

import torch
from conftest import make_model
from peft import PeftModel

PREFIX = "base_model.model."
BLOCKS = {False: "model.layers", True: "base_model.model.model.layers"}


def plain_base():
    return make_model().double()


def rows(trainer, role, step, phase="train", lead="outcome", of=None):
    """The tokens of the rows of a step; `of`: those of the same numbers in another role."""
    numbers = [i for micro in trainer.sets.streams([lead, role], phase)[role].step(step) for i in micro]
    return [trainer.sets.union(of or role)[i] for i in numbers]


def log_softmax(model, row):
    """log p of the whole vocabulary at each scored token, [scored, vocab]."""
    where = [t - 1 for t, scored in enumerate(row.is_reply) if scored]
    return model(input_ids=torch.tensor([row.ids])).logits[0, where].log_softmax(-1)


def log_p(model, row):
    tokens = [token for token, scored in zip(row.ids, row.is_reply, strict=True) if scored]
    return log_softmax(model, row)[range(len(tokens)), tokens]


def cross_entropy(model, some_rows):
    return -torch.cat([log_p(model, row) for row in some_rows]).mean()


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def gradient(loss, model):
    parameters = trainable(model)
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


def total_norm(tensors):
    return math.sqrt(sum(float((t * t).sum()) for t in tensors.values()))


def descend(trainer, model, num_steps, gradient_of, after=lambda parameters, step: None):
    """Train `model` on gradient_of(model, step), clipped; the gradients before clipping."""
    cfg, parameters, seen = trainer.cfg, trainable(model), []
    kind = {"sgd": torch.optim.SGD, "adamw_torch": torch.optim.AdamW}[cfg.optim]
    optimizer = kind(parameters.values(), lr=cfg.learning_rate, weight_decay=0.0)
    for step in range(num_steps):
        seen.append(gradient_of(model, step))
        factor = min(1.0, cfg.max_grad_norm / (total_norm(seen[-1]) + 1e-6)) if cfg.max_grad_norm else 1.0
        for name, p in parameters.items():
            p.grad = factor * seen[-1][name]
        optimizer.step()
        with torch.no_grad():
            after(parameters, step)
    return seen


def on_role(trainer, role, phase="train"):
    """Gradient of the cross-entropy on the rows of a step of a role."""
    return lambda model, step: gradient(cross_entropy(model, rows(trainer, role, step, phase, lead=role)), model)


def throw_away(trainer, role):
    """(average gradient, weights at the end) of `proxy_epochs` passes over a role."""
    model = copy.deepcopy(trainer.model)
    steps = trainer.cfg.proxy_epochs * math.ceil(len(trainer.sets.union(role)) / 2)
    seen = descend(trainer, model, steps, on_role(trainer, role, f"preparing on {role}"))
    return {n: sum(g[n] for g in seen) / steps for n in seen[0]}, {n: p.detach() for n, p in trainable(model).items()}


def plane(trainer, positive="proxy", negative="proxy_neg", sign=-1.0):
    """V = average gradient on one role + sign * that on the other; a side may be None."""
    sides = [(role, s) for role, s in ((positive, 1.0), (negative, sign)) if role]
    parts = [(throw_away(trainer, role)[0], s) for role, s in sides]
    return {name: sum(s * g[name] for g, s in parts) for name in trainer.parameters}


def assert_weights(trainer, expected, tolerance=1e-10):
    assert trainer.parameters.keys() == expected.keys()
    for name, p in trainer.parameters.items():
        assert torch.allclose(p.detach(), expected[name].detach(), rtol=1e-8, atol=tolerance), name


def kl(trainer, model, step):
    base = plain_base()
    both = [(log_softmax(model, row), log_softmax(base, row).detach()) for row in rows(trainer, "proxy", step)]
    return {"kl": (trainer.cfg.beta_kl, torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in both]).mean())}


def mean_squares(trainer, model, step):
    """Layer -> mean over the tokens of all rows and over features; layer 0 is the embeddings."""

    def hidden(model, row):
        layers = model(input_ids=torch.tensor([row.ids]), output_hidden_states=True).hidden_states
        return torch.cat(layers)  # [layers, tokens, features]

    base, some = plain_base(), rows(trainer, "proxy", step)
    differences = torch.cat([hidden(model, row) - hidden(base, row).detach() for row in some], dim=1)
    return dict(enumerate(differences.pow(2).mean(dim=(1, 2))))


def drift(trainer, model, step):
    found, layers = mean_squares(trainer, model, step), trainer.cfg.representation_layers or [1, 2]
    return {"drift": (trainer.cfg.beta_kl, sum(found[n] for n in layers))}


def margins(trainer, model, step):
    def log_ratio(row):
        ratios = log_p(model, row) - log_p(base, row).detach()
        return ratios.mean() if trainer.cfg.dpo_average_log_prob else ratios.sum()

    base, pairs = plain_base(), zip(*(rows(trainer, "proxy", step, of=r) for r in ("proxy", "proxy_neg")), strict=True)
    return trainer.cfg.beta * torch.stack([log_ratio(chosen) - log_ratio(rejected) for chosen, rejected in pairs])


def preference(trainer, model, step):
    return {"dpo": (trainer.cfg.lambda_dpo, (1 + (-margins(trainer, model, step)).exp()).log().mean())}


def proxies(trainer, model, step):
    weights = {"proxy": trainer.cfg.lambda_proxy, "proxy_neg": -trainer.cfg.neg_lambda_proxy}
    return {role: (w, cross_entropy(model, rows(trainer, role, step))) for role, w in weights.items()}


def row_penalty(trainer):
    """Over every u_i and v_j; a row of zeros has no cosine. Call it while the trainer is where it starts."""
    v_of, cfg, absolute = plane(trainer), trainer.cfg, trainer.proxy_strategy_name == "orth_penalty"
    begin = {n: 0.0 if cfg.is_peft else p.detach().clone() for n, p in trainer.parameters.items()}

    def term(_, model, step):
        total = 0.0
        for name, p in trainable(model).items():
            if cfg.is_peft and "lora_A" not in name:
                continue
            us, vs = (t.reshape(-1, t.shape[-1]) for t in (p - begin[name], v_of[name]))
            if cfg.penalty_normalize:
                us, vs = (torch.stack([*(x / x.norm() for x in t if x.any()), 0 * t[0]]) for t in (us, vs))
            for u in us:
                products = (u * vs).sum(-1)
                total = total + (products.abs() if absolute else products).sum()
        return {"penalty": (cfg.lambda_1 if absolute else -cfg.lambda_1, total)}

    return term


TERMS = {"positive_negative_proxy": proxies, "kl_divergence": kl, "representation_constraint": drift, "dpo": preference}


def slope(value_of, model, g):
    """(central difference, inner product with g) along a random direction."""
    moved, size, generator = copy.deepcopy(model), 1e-5, torch.Generator().manual_seed(1)
    direction = {n: torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in g.items()}
    values = []
    for shift in (size, -size):
        for name, p in trainable(moved).items():
            p.data = trainable(model)[name].data + shift * direction[name]
        values.append(float(value_of(moved).detach()))
    return (values[0] - values[1]) / (2 * size), sum(float((g[n] * direction[n]).sum()) for n in g)


def inner(g, d):
    return sum(float((g[n] * d[n]).sum()) for n in g)


def projected(g, d, strict, scope):
    """g - (<g, d> / ||d||^2) d, one tensor at a time or on the concatenation."""
    found = dict(g)
    for names in [[n] for n in g] if scope == "per_tensor" else [list(g)]:
        some_g, some_d = ({n: m[n] for n in names} for m in (g, d))
        along, size = inner(some_g, some_d), inner(some_d, some_d)
        if size > 0 and (strict or along < 0):
            found |= {n: g[n] - along / size * d[n] for n in names}
        left = inner({n: found[n] for n in names}, some_d)
        assert abs(left) < 1e-15 if strict else left > -1e-15
    return found


def change_layer(model, layer, change):
    """Make block `layer` (from 1) give change(its output), by a forward of its own."""
    block = model.get_submodule(BLOCKS[isinstance(model, PeftModel)])[layer - 1]
    forward = block.forward
    block.forward = lambda *args, **options: change(forward(*args, **options))
    return model


def activations(model, row, layer):
    """The output of block `layer` at each token of a row, [tokens, features]."""
    seen = []
    watched = change_layer(copy.deepcopy(model), layer, lambda h: (seen.append(h[0]), h)[1])
    with torch.no_grad():
        watched(input_ids=torch.tensor([row.ids]))
    return seen[0]


def row_mean(model, row, layer):
    """Over the scored tokens, each where it is the input."""
    return activations(model, row, layer)[torch.tensor(row.is_reply)].mean(0)


def habit(trainer, layer):
    """v_l, by the base."""
    base = plain_base()
    of_n, of_p = ([row_mean(base, r, layer) for r in trainer.sets.union(role)] for role in ("proxy_neg", "proxy"))
    return torch.stack(of_n).mean(0) - torch.stack(of_p).mean(0)


def products(trainer, weights, names=None):
    """Matrix -> s B A of weights by name, dense."""
    found = {}
    for name in [n for n in trainer.parameters if "lora_B" in n]:
        layer = trainer.model.get_submodule(name.split(".lora_B")[0])
        a, b = weights[name.replace("lora_B", "lora_A")].detach(), weights[name].detach()
        found[name.split(".lora_B")[0]] = layer.scaling["default"] * b @ a
    return found


def with_offsets(model, offsets):
    """A copy of a model whose base matrices have moved."""
    moved = copy.deepcopy(model)
    for name, offset in offsets.items():
        moved.get_submodule(name).get_base_layer().weight.data += offset
    return moved


def projector(vectors):
    """Q Q^T of orthonormal columns."""
    return vectors @ vectors.T


def singular(rows, count):
    """The first right singular vectors, by the eigenvectors of the second moments; [features, count]."""
    return torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, :count]


class Safe:
    """Algorithm 1 with dense matrices, on copies of the model of a trainer that has not trained yet."""

    def __init__(self, trainer, unaligned):
        aligned, self.model = copy.deepcopy(trainer.model), copy.deepcopy(trainer.model)
        descend(trainer, aligned, 3 * trainer.cfg.proxy_epochs, on_role(trainer, "proxy", "preparing on proxy"))
        self.aligned = aligned.merge_and_unload()
        merged, start = self.aligned.state_dict(), unaligned.state_dict()
        names = [n.removesuffix(".lora_A.default.weight") for n in trainer.parameters if "lora_A" in n]
        for name in names:  # a new adapter on the merged model
            self.model.get_submodule(name).get_base_layer().weight.data = merged[name.removeprefix(PREFIX) + ".weight"]
        descend(trainer, self.model, 3, on_role(trainer, "outcome"))
        self.trained = {n: p.detach().clone() for n, p in trainable(self.model).items()}
        self.cosines, self.projected = {}, {}
        for name in names:
            a, b = (self.trained[f"{name}.lora_{x}.default.weight"] for x in "AB")
            v = merged[name.removeprefix(PREFIX) + ".weight"] - start[name.removeprefix(PREFIX) + ".weight"]
            c = v @ v.T / v.pow(2).sum().sqrt()
            x, y = c @ b @ a, b @ a
            self.cosines[name] = float((x * y).sum() / (x.pow(2).sum() * y.pow(2).sum()).sqrt())
            self.projected[name] = c @ b

    def edited(self, number):
        """The trained adapter, B replaced in the matrices with the lowest cosines."""
        lowest = sorted(self.cosines, key=self.cosines.get)[:number]
        return self.trained | {f"{name}.lora_B.default.weight": self.projected[name] for name in lowest}

    def loss(self, held, number):
        for name, tensor in self.edited(number).items():
            trainable(self.model)[name].data = tensor
        return float(cross_entropy(self.model, held).detach())
