"""Train the toy model: `python -m selgen_ray.worlds.toy.pretrain --seed 0 --out DIR`.

Takes about ten minutes on one core. A seed gives the same bytes again on the same machine and torch version.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selgen_ray.worlds.toy.corpus import WeightedRow, token_rows, vocabulary_texts
from selgen_ray.worlds.toy.text import ASSISTANT, CHAT_TEMPLATE, END, PAD, USER

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainOptions:
    """Options of pretraining; the shipped model was made with the defaults."""

    seed: int = 0
    steps: int = 2000
    batch_size: int = 96
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    vocab_size: int = 1280
    hidden_size: int = 128
    num_layers: int = 4


def pretrain(options: PretrainOptions, out: Path) -> None:
    """Train tokenizer and model and write them to the folder `out`, weights in bfloat16.

    Torch's global random numbers and its number of threads are restored at the end.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums split over threads would not be reproducible elsewhere
    try:
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            tokenizer = build_tokenizer(options.vocab_size)
            model = build_model(tokenizer, options)
            train(model, tokenizer, options)
    finally:
        torch.set_num_threads(threads)
    save(model, tokenizer, options, out)


def build_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the toy world's text; decoding gives back any encoded text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, USER, ASSISTANT, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(vocabulary_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, options: PretrainOptions) -> LlamaForCausalLM:
    """Return a Llama of about one million parameters, initialised from torch's global random numbers."""
    special: dict[str, Any] = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden_size,
        intermediate_size=3 * options.hidden_size,
        num_hidden_layers=options.num_layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        **special,
    )
    return LlamaForCausalLM(config).float()


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, options: PretrainOptions) -> None:
    """Train the model in place: AdamW, a one-cycle schedule of the learning rate, gradients clipped to norm 1."""
    rows = token_rows(tokenizer, random.Random(f"toy pretraining {options.seed}"))
    pad: Any = tokenizer.pad_token_id
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        options.learning_rate,
        total_steps=max(options.steps, 2),
        pct_start=min(0.5, options.warmup_steps / max(options.steps, 1)),
        cycle_momentum=False,
    )
    model.train()
    for step in range(options.steps):
        loss = weighted_loss(model, *next_batch(rows, options.batch_size, pad))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == options.steps - 1:
            log.info("step %d loss %.4f", step, loss.item())
    model.eval()


def next_batch(rows: Iterator[WeightedRow], size: int, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and loss weights, both [size, tokens], padded on the right with weight 0."""
    drawn = list(islice(rows, size))
    width = max(len(ids) for ids, _ in drawn)
    ids = torch.tensor([ids + [pad_id] * (width - len(ids)) for ids, _ in drawn])
    weights = torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in drawn])
    return ids, weights


def weighted_loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean cross-entropy of each token given those before it, in nats.

    Args:
        ids, weights: [rows, tokens], from `next_batch`.
    """
    # padding is on the right, so causal attention never looks at it and needs no mask
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    scale = weights[:, 1:].flatten()
    return (losses * scale).sum() / scale.sum()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, options: PretrainOptions, out: Path) -> None:
    """Write a folder that `from_pretrained` can load, and `pretraining.json` with the options."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=16,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "pretraining.json").write_text(json.dumps(asdict(options), indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Train the shipped toy model and its tokenizer.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=PretrainOptions.steps)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    pretrain(PretrainOptions(seed=args.seed, steps=args.steps), args.out)


if __name__ == "__main__":
    main()
