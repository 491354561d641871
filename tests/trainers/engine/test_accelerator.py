"""A process in which others use Accelerate as well, such as a notebook with Transformers' own Trainer."""

from runs import same, trained
from transformers import TrainingArguments

from selgen_ray.trainers import get_trainer


def test_a_trainer_works_before_and_after_the_state_of_accelerate_was_reset(make_config, tmp_path):
    config = make_config("kl_divergence", beta_kl=1.0, epochs=1, max_to_eval=2)
    alone, _ = trained(config)
    with get_trainer("kl_divergence")(config) as begun_before:
        arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        assert arguments.device.type == "cpu"  # this resets the state that all Accelerators of a process share
        begun_before.train()
        assert same(alone, {name: p.detach() for name, p in begun_before.parameters.items()})
    TrainingArguments(output_dir=str(tmp_path), use_cpu=True).device  # noqa: B018
    assert same(alone, trained(config)[0])
