"""Trainers of Transformers and TRL in the place of the training loop: `hf_trainer` is the strategy that runs them."""
