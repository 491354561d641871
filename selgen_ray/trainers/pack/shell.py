"""The model of one slot: a copy of the base's modules with the base's tensors, and an adapter of its own.

Its decoder's passes are posted to the pack where they can be joined; all else, the head and hooks included, runs here.
What is not understood runs here too: slower, never wrong.
"""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from selgen_ray.models.loading import base_of
from selgen_ray.trainers.pack.joint import Forward, Kind
from selgen_ray.trainers.pack.rendezvous import Request, Slot
from selgen_ray.trainers.pack.stacks import TRAINED, Adapters, Factors, Stack, Stacks

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

OWN = object()
"""The answer to a request that cannot be joined: the slot computes it itself."""


class Post(Protocol):
    """Serves what a shell asks for."""

    def forward(self, slot: Slot, request: Forward) -> Any:
        """Return the outputs of a joined pass, or `OWN`."""
        ...


class Generate(Request):
    """A slot's call of `generate`, with greedy search.

    Attributes:
        prompts: token ids.
        pad, stops, limit: as in `generated_ids`.
        adapters: those that are on.
    """

    def __init__(self, prompts: list[list[int]], pad: int, stops: tuple[int, ...], limit: int, adapters: Adapters):
        super().__init__()
        self.prompts, self.pad, self.stops, self.limit, self.adapters = prompts, pad, stops, limit, adapters


def bare_copy(base: PreTrainedModel) -> Any:
    """Return a copy of a model's modules that shares its tensors."""
    memo: dict[int, Any] = {id(t): t for t in itertools.chain(base.parameters(), base.buffers())}
    return copy.deepcopy(base, memo)


class Shell:
    """Joins the passes of one slot's model with those of others.

    Args:
        model: the slot's model, a PEFT model around a `bare_copy`.
        slot: its slot.
        stacks: get the trained adapter, if all its layers are understood.
        post: serves the requests.
        can_drop: the base itself has no dropout, so that passes in training can be joined too.

    Attributes:
        layers: name -> PEFT's layer, of all adapted linear layers of the decoder; empty if one is not understood.
        stack: holds the adapter; None: nothing of this slot is joined.
    """

    def __init__(self, model: PeftModel, slot: Slot, stacks: Stacks, post: Post, *, can_drop: bool):
        self.model, self.slot = model, slot
        self._post, self._can_drop = post, can_drop
        base: Any = base_of(model)
        decoder: Any = getattr(base, base.base_model_prefix)
        self.layers: dict[str, Any] = understood(decoder) if decoder is not base else {}
        self.stack: Stack | None = stacks.admit(slot.place, self.layers) if self.layers else None
        if self.stack is None:
            return
        self._base, self._decoder = base, decoder
        inside = {id(layer) for layer in self.layers.values()}
        self._head_is_plain = all(id(layer) in inside for layer in _adapted(base).values())
        embeddings = set(decoder.get_input_embeddings().modules())
        self._inside = [module for module in decoder.modules() if module is not decoder and module not in embeddings]
        self._hooks = self._count_hooks()
        self._own_forward, self._own_generate = decoder.forward, base.generate
        vars(decoder)["forward"] = self._forward
        vars(base)["generate"] = self._generate
        vars(base)["is_packed"] = True

    # -- the replaced methods ---------------------------------------------------------------------------------------

    def _forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **options: Any,
    ) -> Any:
        hidden_states = options.pop("output_hidden_states", None)
        given = {name: value for name, value in options.items() if value not in (None, False)}
        plain = past_key_values is None and use_cache is False and hidden_states in (None, True, False) and not given
        adapters = self._adapters() if plain and self.slot.is_mine() else None
        if adapters is not None:
            embeds = self._decoder.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
            request = self._request(embeds, attention_mask, position_ids, adapters, bool(hidden_states))
            outputs: Any = OWN if request is None else self._post.forward(self.slot, request)
            if outputs is not OWN:
                from transformers.modeling_outputs import BaseModelOutputWithPast  # late: start-up, as everywhere

                last, *others = outputs
                return BaseModelOutputWithPast(last_hidden_state=last, hidden_states=tuple(others) or None)
            input_ids, inputs_embeds = None, embeds
        return self._own_forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **options,
            **({} if hidden_states is None else {"output_hidden_states": hidden_states}),
        )

    def _request(
        self, embeds: Tensor, mask: Any, positions: Tensor | None, adapters: Adapters, hidden_states: bool
    ) -> Forward | None:
        if embeds.requires_grad and not embeds.is_leaf:  # something trainable lies before the decoder
            return None
        grad, training = torch.is_grad_enabled(), self._decoder.training
        if training and not self._can_drop:
            return None
        mask = embeds.new_ones(embeds.shape[:2], dtype=torch.long) if mask is None else mask
        if isinstance(mask, dict):
            form: Any = tuple(sorted(mask)) if all(_is_square(part, embeds) for part in mask.values()) else None
        else:
            form = "2d" if mask.ndim == 2 else "4d" if _is_square(mask, embeds) else None
        if form is None or (positions is not None and positions.shape != embeds.shape[:2]):
            return None
        checkpointing = grad and training and bool(getattr(self._base, "is_activation_checkpointing", False))
        kind = Kind(grad, checkpointing, form, positions is not None, hidden_states)
        return Forward(kind, embeds.detach(), mask, positions, adapters)

    def _generate(self, *args: Any, **inputs: Any) -> Any:
        """Generate as the model's own method does; greedy search is joined with that of other slots."""
        if not args and set(inputs) == {"input_ids", "attention_mask", "generation_config"} and self.slot.is_mine():
            joined = self._joined_replies(inputs["input_ids"], inputs["attention_mask"], inputs["generation_config"])
            if joined is not None:
                return joined
        return self._own_generate(*args, **inputs)

    def _joined_replies(self, ids: Tensor, mask: Tensor, config: Any) -> Tensor | None:
        if config.do_sample or config.num_beams not in (None, 1) or not config.max_new_tokens:
            return None
        self._decoder.get_input_embeddings()(ids[:, :1])  # where a request to stop is looked for
        adapters = self._adapters() if self._head_is_plain else None
        if adapters is None or adapters.dropout:
            return None
        stops: Any = config.eos_token_id
        stops = stops if isinstance(stops, list | tuple) else [] if stops is None else [stops]
        prompts = [row[own.bool()].tolist() for row, own in zip(ids, mask, strict=True)]
        pad = config.pad_token_id
        replies: Any = self.slot.post(Generate(prompts, pad, tuple(sorted(stops)), config.max_new_tokens, adapters))
        if replies is OWN:
            return None
        longest = max(map(len, replies))
        rows = [reply + [pad] * (longest - len(reply)) for reply in replies]
        return torch.cat([ids, torch.tensor(rows, device=ids.device)], dim=1)

    # -- what is on now ---------------------------------------------------------------------------------------------

    def _adapters(self) -> Adapters | None:
        """Return the adapters that are on, or None if the layers do anything else than add their products."""
        stack, place = self.stack, self.slot.place
        first = next(iter(self.layers.values()))
        is_off, active = first.disable_adapters, first.active_adapters
        if self._count_hooks() != self._hooks:
            return None
        for layer in self.layers.values():
            differs = layer.disable_adapters != is_off or layer.active_adapters != active
            if differs or layer.merged or "forward" in vars(layer):
                return None
        steady: Any = vars(self._base).get("steady_state")
        if is_off:
            return Adapters(place=place, steady=steady)
        assert stack is not None
        for name, layer in self.layers.items():  # somebody may have given a parameter another tensor
            a, b = layer.lora_A[TRAINED].weight, layer.lora_B[TRAINED].weight
            own = a.data_ptr() == stack.a[name][place].data_ptr() and b.data_ptr() == stack.b[name][place].data_ptr()
            if not own or layer.scaling[TRAINED] != stack.scale[name]:
                return None
        frozen: dict[str, list[Factors]] = {}
        for name, layer in self.layers.items():
            for other in (other for other in active if other != TRAINED and other in layer.lora_A):
                a, b = layer.lora_A[other].weight, layer.lora_B[other].weight
                drops = self._decoder.training and getattr(layer.lora_dropout[other], "p", 0.0)
                if a.requires_grad or b.requires_grad or drops or other in layer.lora_variant:
                    return None
                frozen.setdefault(name, []).append(Factors(a.detach(), b.detach(), layer.scaling[other]))
        if TRAINED not in active:
            return Adapters(place=place, frozen=frozen, steady=steady)
        dropout = getattr(first.lora_dropout[TRAINED], "p", 0.0) if self._decoder.training else 0.0
        return Adapters(stack, place, frozen or None, dropout, steady)

    def _count_hooks(self) -> int:
        count = 0
        for module in self._inside:  # torch has no public look at them
            count += len(module._forward_hooks) + len(module._forward_pre_hooks)
        return count


def understood(decoder: Any) -> dict[str, Any]:
    """Return name -> LoRA layer of a decoder; {} if one of its adapted layers does more than add a product B A x."""
    from peft.tuners.lora import Linear  # late: start-up, PEFT imports all that it may ever adapt

    layers = _adapted(decoder)
    for layer in layers.values():
        if type(layer) is not Linear or TRAINED not in layer.lora_A or layer.lora_variant or layer.lora_bias[TRAINED]:
            return {}
    return layers


def _adapted(model: Any) -> dict[str, Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer  # late: start-up, as above

    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def _is_square(mask: Any, embeds: Tensor) -> bool:
    rows, tokens = embeds.shape[:2]
    return tuple(mask.shape) == (rows, 1, tokens, tokens)
