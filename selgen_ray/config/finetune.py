"""The section `finetune_config` of a trial's config: how the model is fine-tuned.

A strategy adds its own knobs, which its trainer class declares; see `selgen_ray.trainers.strategy_config`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator, model_validator

from selgen_ray.config import hub_names
from selgen_ray.config.chat_template import read_template, template_variables
from selgen_ray.schema import Strict, execution, setting
from selgen_ray.storage.folder import absolute


class FinetuneConfig(Strict):
    """The settings of fine-tuning. Defaults are those of the Hugging Face Trainer unless the text says otherwise."""

    model: str = setting("toy", "'toy' (shipped), a local directory or a hub id")
    model_revision: str | None = setting(None, "revision of the hub id")
    adapter: str | None = setting(
        None, "LoRA adapter of the model that training continues from: a local directory or a hub id; needs is_peft"
    )
    adapter_revision: str | None = setting(None, "revision of the adapter's hub id")
    chat_template: str | None = setting(
        None, "Jinja text, or the path of a file with it, in place of the tokenizer's own chat template", file=True
    )
    chat_template_kwargs: dict[str, Any] = setting(
        {}, "variables of the chat template -> value, such as enable_thinking: false; date: the day that it writes"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = setting(
        "float32", "data type of the base weights; LoRA weights are float32 on any base"
    )
    load_in_4bit: bool = setting(False, "4-bit base weights (NF4, computing in dtype); needs bitsandbytes")
    load_in_8bit: bool = setting(False, "8-bit base weights (LLM.int8()); needs bitsandbytes")
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = setting(
        None,
        "how attention is computed; default: as transformers chooses, sdpa where the model can. flash_attention_2 and "
        "_3 need CUDA, a half-precision dtype and the package flash-attn or flash-attn-3",
    )
    # Any: the validator below answers every value
    device_map: Any = execution(None, "null only: the model of a trial lies on one device")

    epochs: int = setting(3, "passes over the outcome data", ge=1)
    max_steps: int | None = setting(None, "optimizer steps; replaces epochs when given", ge=1)
    learning_rate: float = setting(5e-5, "peak learning rate", gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial"] = setting(
        "linear", "learning-rate schedule over the optimizer steps"
    )
    warmup_steps: int = setting(0, "optimizer steps of linear warm-up", ge=0)
    warmup_ratio: float = setting(0.0, "warm-up as a share of all optimizer steps", ge=0, le=1)
    optim: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "sgd"] = setting(
        "adamw_torch", "optimizer; the 8-bit ones need bitsandbytes, the paged one CUDA too"
    )
    weight_decay: float = setting(0.0, "decoupled weight decay of every trainable tensor", ge=0)
    max_grad_norm: float | None = setting(None, "clip the total gradient norm to this; off by default", gt=0)
    per_device_train_batch_size: int = setting(8, "rows of a micro-batch", ge=1)
    proxy_batch_size: int | None = setting(
        None, "rows of a micro-batch of proxy and proxy_neg; default: per_device_train_batch_size", ge=1
    )
    gradient_accumulation_steps: int = setting(1, "micro-batches of one optimizer step", ge=1)
    proxy_cycling_mode: Literal["continuous", "synchronized"] = setting(
        "continuous", "continuous: an epoch is one pass over outcome; synchronized: over the longest set"
    )
    group_by_length: bool = setting(True, "batch rows of similar length, to pad less")
    train_split: float = setting(
        0.9, "share of outcome and proxy that is trained on, the rest evaluates; 1.0: all rows do both", gt=0, le=1
    )

    max_seq_length: int = setting(1024, "tokens after which a row is cut", ge=2)
    loss_on: Literal["completion", "all"] = setting("completion", "score the assistant's replies, or every token")

    is_peft: bool = setting(True, "LoRA (true) or full fine-tuning (false)")
    r: int = setting(8, "LoRA rank", ge=1)
    lora_alpha: float = setting(8, "LoRA scaling numerator", gt=0)
    lora_dropout: float = setting(0.0, "dropout before the LoRA A matrix", ge=0, lt=1)
    lora_bias: Literal["none", "all", "lora_only"] = setting("none", "which biases are trained with LoRA")
    use_rslora: bool = setting(False, "scale by alpha/sqrt(r) (rank-stabilised LoRA) instead of alpha/r")
    use_dora: bool = setting(False, "learn a magnitude for each output besides (weight-decomposed LoRA, DoRA)")
    target_modules: list[str] | str = setting("all-linear", "modules that get an adapter: names, a regex, 'all-linear'")
    use_gradient_checkpointing: bool = execution(False, "recompute activations in the backward pass to save memory")

    auto_batch: bool = execution(
        False, "after a CUDA out-of-memory error halve the micro-batch and double the accumulation"
    )

    per_device_eval_batch_size: int | None = execution(
        None, "rows of an evaluation batch at most; default: as many as its tokens allow", ge=1
    )
    max_to_eval: int | None = setting(None, "rows of an evaluation set, the first ones; default: all", ge=1)
    max_new_tokens: int = setting(32, "length limit of a generated answer in tokens", ge=1)

    logging_steps: int = execution(10, "optimizer steps between two readings of the metrics", ge=1)
    save_steps: int = execution(500, "optimizer steps between two checkpoints", ge=1)
    max_checkpoints_to_keep: int = execution(2, "newest checkpoints kept while a trial runs", ge=1)
    save_model_locally: bool = execution(False, "keep the finished adapter or model")
    output_dir: str | None = execution(None, "folder for the finished model; default: the trial's folder")
    finetuned_model_id: str | None = execution(
        None, "name of the finished model's folder, to which the trial id is appended, and of its repository on the hub"
    )
    save_merged: bool = execution(False, "the finished model is a whole model, the adapter merged into its base")
    push_to_hub: bool = execution(False, "upload the finished model; the token comes from the environment, HF_TOKEN")
    push_to_private: bool = execution(True, "into a private repository")

    @field_validator("device_map")
    @classmethod
    def _one_device(cls, value: Any) -> None:
        if value is not None:
            raise ValueError(
                "the model of a trial lies on one device: leave the key out. A model that does not fit: load_in_4bit, "
                "use_gradient_checkpointing, or resources.workers with resources.strategy: fsdp"
            )

    @field_validator("output_dir")
    @classmethod
    def _where_it_was_named(cls, value: str | None) -> str | None:
        return None if value is None else absolute(value)

    @field_validator("chat_template")
    @classmethod
    def _its_text(cls, value: str | None) -> str | None:
        return None if value is None else read_template(value)

    @field_validator("chat_template_kwargs", mode="before")
    @classmethod
    def _variables(cls, value: Any) -> Any:
        return template_variables(value)

    @model_validator(mode="before")
    @classmethod
    def _no_token(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and (key := hub_names.key_with_token(raw)):
            raise ValueError(f"{key} holds a token: take it out, and set HF_TOKEN in the environment")
        return raw

    @field_validator("target_modules")
    @classmethod
    def _not_empty(cls, value: list[str] | str) -> list[str] | str:
        if not value:
            raise ValueError("is empty: name at least one module, or 'all-linear'")
        return value

    @model_validator(mode="after")
    def _one_of_two(self) -> FinetuneConfig:
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError("warmup_steps and warmup_ratio are both given: keep one")
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit and load_in_8bit are both true: keep one")
        if (self.load_in_4bit or self.load_in_8bit) and not self.is_peft:
            raise ValueError("a 4-bit or 8-bit base cannot be trained itself: set is_peft: true")
        if (self.load_in_4bit or self.load_in_8bit) and self.save_merged:
            raise ValueError(
                "save_merged would round the merged weights to 4 or 8 bits once more: leave it out, and merge the "
                "saved adapter into the base as it was before rounding"
            )
        return self

    @model_validator(mode="after")
    def _belongs_to_lora(self) -> FinetuneConfig:
        for key in ("adapter", "use_dora"):
            if getattr(self, key) and not self.is_peft:
                raise ValueError(f"{key} belongs to LoRA, and is_peft is false: leave one of the two out")
        if self.use_dora and self.load_in_8bit:
            raise ValueError("use_dora does not work with load_in_8bit in PEFT: use load_in_4bit, or leave it out")
        if self.adapter_revision and not self.adapter:
            raise ValueError("adapter_revision is given, but adapter is not: name it")
        if self.finetuned_model_id:
            hub_names.check_name(self.finetuned_model_id)
        return self

    @model_validator(mode="after")
    def _fits_dtype(self) -> FinetuneConfig:
        flash = str(self.attn_implementation).startswith("flash")
        if self.dtype == "float32" and flash:
            raise ValueError(f"attn_implementation {self.attn_implementation} needs dtype bfloat16 or float16")
        # a step of AdamW is about as large as the learning rate, and half-precision weights are rounded by more
        lost = "which rounds most updates away"
        if self.dtype != "float32" and not self.is_peft:
            raise ValueError(
                f"is_peft false with dtype {self.dtype} would train {self.dtype} weights, {lost}: use dtype float32, "
                f"or is_peft true, which trains float32 weights on a {self.dtype} base"
            )
        if self.dtype != "float32" and self.lora_bias != "none":
            raise ValueError(
                f"lora_bias {self.lora_bias} with dtype {self.dtype} would train {self.dtype} biases of the base, "
                f"{lost}: use dtype float32, or lora_bias none"
            )
        return self

    @property
    def keeps_model(self) -> bool:
        """Whether the finished model is kept in a folder; `save_merged` without `push_to_hub` implies it."""
        return self.save_model_locally or (self.save_merged and not self.push_to_hub)
