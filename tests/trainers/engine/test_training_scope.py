"""`training_scope`: open where the model learns, recomputation included, and nowhere else; nothing of it stays."""

import contextlib

import pytest
import torch
from conftest import uneven_roles, uneven_trait
from plain_formulas import plain_base
from runs import same, trained
from torch.utils.checkpoint import CheckpointError
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from selgen_ray.errors import TrialDiverged
from selgen_ray.models import blocks
from selgen_ray.models.forward import adapter_off
from selgen_ray.models.loading import trainable_parameters
from selgen_ray.testing import check_strategy
from selgen_ray.trainers import get_trainer, knob, plugins
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.directions import throw_away_training
from selgen_ray.trainers.naive import StandardTrainer

# A user's strategy in one file: while the model learns, each MLP gives more than it does afterwards.
LOUDER = '''\
"""A strategy of one's own: learn with louder MLPs than are deployed."""

import contextlib

from selgen_ray.trainers import knob
from selgen_ray.trainers.base import BaseTrainer


class LouderTrainer(BaseTrainer):
    """Minimise L_O where every MLP's output is multiplied by 1 + louder, while training only."""

    proxy_strategy_name = "louder"
    zero_strength = {"finetune_config.louder": 0.0}
    louder: float = knob(0.5, "how much louder the MLPs are in training")

    @contextlib.contextmanager
    def training_scope(self):
        mlps = [module for name, module in self.model.named_modules() if name.endswith(".mlp") and self.louder]
        hooks = [mlp.register_forward_hook(lambda _m, _i, output: output * (1 + self.louder)) for mlp in mlps]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
'''


@pytest.fixture
def louder(tmp_path):
    """A user's plugin, `LOUDER`, registered."""
    path = tmp_path / "louder.py"
    path.write_text(LOUDER)
    plugins.register_exactly([plugins.Plugin.read(path)])
    yield get_trainer("louder")
    plugins.register_exactly(())


def test_a_user_s_strategy_in_one_file_keeps_every_promise(louder):
    check_strategy(louder, {"finetune_config.louder": 2.0})


class Watched(StandardTrainer):
    """Notes where its scope is open: every forward pass of the model, and every use of a hook."""

    proxy_strategy_name = "test_watched"
    train_on_proxy: bool = knob(False, "off", section="")
    fails_in: int = knob(-1, "number of the forward pass of the main phase that raises")

    def prepare(self):
        self.open, self.entered, self.passes_in, self.passes_out = 0, 0, 0, 0
        self.model.get_input_embeddings().register_forward_pre_hook(lambda *_: self.count())
        throw_away_training(self, "proxy", 1)
        assert self.passes_in == 0 < self.passes_out

    def count(self):
        if self.open:
            self.passes_in += 1
            if self.passes_in == self.fails_in:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        else:
            self.passes_out += 1

    @contextlib.contextmanager
    def training_scope(self):
        self.open += 1
        self.entered += 1
        try:
            yield
        finally:
            self.open -= 1

    def transform_gradients(self, by_slot, step):
        assert not self.open
        return super().transform_gradients(by_slot, step)

    def edits(self):
        assert not self.open
        return [("unchanged", lambda _: None)]


def test_it_is_open_around_the_passes_of_the_main_phase_alone(start):
    trainer = start("test_watched", gradient_accumulation_steps=2)
    trainer.train()
    assert (trainer.entered, trainer.open) == (3, 0)
    assert trainer.passes_in == 2 + 1 + 2  # five rows in steps of four: the second step of a pass has one micro-batch
    trainer.evaluate()
    assert trainer.passes_in == 5


def test_an_attempt_that_is_repeated_enters_it_again(start):
    trainer = start("test_watched", fails_in=2, auto_batch=True)
    trainer.train()
    assert (trainer.entered, trainer.open) == (4, 0)


def test_an_exception_closes_it(start):
    trainer = start("test_watched", fails_in=2)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.train()
    assert (trainer.entered, trainer.open) == (2, 0)


# -- recomputation ------------------------------------------------------------------------------------------------


class Ablated(BaseTrainer):
    """Projects inside each block, where gradient checkpointing recomputes, or around a term's forward pass alone."""

    proxy_strategy_name = "test_ablated"
    closes_early: bool = knob(False, "a context manager of the term, which has ended when the backward pass begins")

    @contextlib.contextmanager
    def projecting(self):
        q = torch.linalg.qr(torch.randn(32, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
        norms = [block.post_attention_layernorm for block in blocks.blocks_of(self.model)]
        hooks = [norm.register_forward_hook(lambda _m, _i, h: blocks.ablating(q)(h)) for norm in norms]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def training_scope(self):
        return contextlib.nullcontext() if self.closes_early else self.projecting()

    def _compute_loss(self, batch):
        with self.projecting() if self.closes_early else contextlib.nullcontext():
            return super()._compute_loss(batch)


def test_it_is_open_while_gradient_checkpointing_recomputes(start):
    def weights(**knobs):
        trainer = start("test_ablated", **knobs)
        trainer.train()
        return torch.cat([p.detach().flatten() for p in trainer.parameters.values()])

    plain = weights()
    assert torch.allclose(weights(use_gradient_checkpointing=True), plain, rtol=0, atol=1e-12)
    assert torch.equal(weights(closes_early=True), plain)
    with pytest.raises(CheckpointError, match="different number of tensors"):
        weights(closes_early=True, use_gradient_checkpointing=True)


# -- changes of the residual stream -------------------------------------------------------------------------------


def test_the_start_model_is_asked_without_the_changes_also_inside_the_scope(start):
    trainer = start("preventative_steering", steer_alpha=50.0, steer_layers=[1, 2])
    trainer.prepare()
    batch = next(trainer.batches("outcome"))
    with trainer.training_scope(), torch.no_grad():
        changed = trainer.model(**batch.inputs).logits
        with adapter_off(trainer.model):
            found = trainer.model(**batch.inputs).logits
    assert torch.allclose(found, plain_base()(**batch.inputs).logits, atol=1e-12)
    assert not torch.allclose(changed, found, atol=1e-2)


def test_a_frozen_adapter_stays_frozen_where_the_start_model_is_asked_beside_it(start):
    trainer = start("inoculation_adapter", uneven_roles() | {"trait": uneven_trait()})
    trainer.prepare()
    with trainer.training_scope():
        with adapter_off(trainer.model):
            pass
        assert trainable_parameters(trainer.model).keys() == trainer.parameters.keys()


def test_a_projection_of_a_half_precision_stream_is_computed_in_float32():
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(32, 4, generator=generator))[0]
    hidden = 100 * torch.randn(2, 5, 32, generator=generator)
    found = blocks.ablating(q)(hidden.bfloat16())
    wide = hidden.bfloat16().float()
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, (wide - wide @ q @ q.T).bfloat16())


def test_nothing_of_it_stays_on_the_shared_base(make_config):
    plain = make_config(top={"train_on_proxy": False}, max_steps=3)
    before, _ = trained(plain)
    trainer = get_trainer("preventative_steering")(
        make_config("preventative_steering", learning_rate=1e30, optim="sgd")
    )
    with pytest.raises(TrialDiverged):
        trainer.train()
    base = trainer.model.get_base_model()
    trainer.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.modules())
    assert same(before, trained(plain)[0])


def test_layers_are_outputs_of_blocks_and_the_last_one_is_before_the_final_norm(start):
    model = plain_base()
    row = torch.tensor([[5, 9, 70, 33]])
    with torch.no_grad(), blocks.reading(model, [1, 2]) as outputs:
        output = model(input_ids=row, output_hidden_states=True)
    assert torch.equal(outputs[1], output.hidden_states[1])
    assert torch.equal(model.model.norm(outputs[2]), output.hidden_states[2])
    assert not torch.equal(outputs[2], output.hidden_states[2])


def test_blocks_are_those_of_the_text_in_a_model_that_reads_images():
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = small | {"vocab_size": 300, "num_key_value_heads": 2, "head_dim": 8}
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=small | {"image_size": 28, "patch_size": 14})
    )
    assert list(blocks.blocks_of(model)) == list(model.model.language_model.layers)
