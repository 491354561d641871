"""Chat templates and tokenizers in the manner of the families that researchers use, without any model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_TRL = Path(trl.__file__).parent / "chat_templates"
_MISTRAL = (  # v0.3: the system message goes into the last user message, which a whole chat does not end with
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}{{- bos_token }}"
    "{%- for message in loop_messages %}{%- if message['role'] == 'user' %}{%- if loop.last and system_message is "
    "defined %}{{- '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}{%- else %}{{- '[INST] ' + "
    "message['content'] + '[/INST]' }}{%- endif %}{%- else %}{{- ' ' + message['content']|trim + eos_token }}"
    "{%- endif %}{%- endfor %}"
)
_MIXTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
_OLMO = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] != 'assistant' %}{{ '<|' + message['role'] + "
    "'|>\n' + message['content'] + '\n' }}{% else %}{{ '<|assistant|>\n' + message['content'] + eos_token }}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
_GRANITE = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages "
    '= messages[1:] %}{%- else %}{%- set system_message = "Knowledge Cutoff Date: April 2024.\nToday\'s Date: " + '
    "strftime_now('%B %d, %Y') + '.' %}{%- set loop_messages = messages %}{%- endif %}"
    "{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\n' }}"
    "{%- for message in loop_messages %}{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + "
    "message['content'] + '<|end_of_text|>\n' }}{%- if loop.last and add_generation_prompt %}"
    "{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}{%- endfor %}"
)
_OASST = (
    "{% for message in messages %}{{ '<|prompter|>' if message['role'] != 'assistant' else '<|assistant|>' }}"
    "{{ message['content'] + eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_GPT2 = "{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}"


@dataclass(frozen=True)
class Family:
    """A family's conventions.

    Attributes:
        template: Jinja text, or a file that TRL ships.
        kind: its model_type.
        tokens: its added tokens.
        end: what ends a reply in its template.
        bos, eos: its begin and end token; the first None: it has none.
        system: 'kept', or the reason why a chat with a system message is refused.
        thought: what its template puts before a reply.
    """

    template: str
    kind: str
    tokens: tuple[str, ...]
    end: str
    eos: str
    bos: str | None = None
    system: str = "kept"
    thought: str = ""

    @property
    def jinja(self) -> str:
        return (_TRL / self.template).read_text(encoding="utf-8") if self.template.endswith(".jinja") else self.template


_LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
_TURNS = ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>")
_PHI = ("<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
_ROLES = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>")
_INST = ("<s>", "</s>", "[INST]", "[/INST]")
_THOUGHT = "<think>\n\n</think>\n\n"
_ALTERNATE = "Conversation roles must alternate"

FAMILIES = {
    "Llama 3": Family("llama3.jinja", "llama", _LLAMA, "<|eot_id|>", "<|eot_id|>", "<|begin_of_text|>"),
    "Llama 3.2": Family("llama3_2.jinja", "llama", _LLAMA, "<|eot_id|>", "<|end_of_text|>", "<|begin_of_text|>"),
    "Qwen2": Family("qwen2_5.jinja", "qwen2", _CHATML, "<|im_end|>", "<|im_end|>"),
    "Qwen3": Family("qwen3.jinja", "qwen3", _CHATML, "<|im_end|>", "<|im_end|>", thought=_THOUGHT),
    "Qwen3-MoE": Family("qwen3_instruct_2507.jinja", "qwen3_moe", _CHATML, "<|im_end|>", "<|im_end|>"),
    "Gemma 2": Family(
        "gemma.jinja", "gemma2", _GEMMA, "<end_of_turn>", "<eos>", "<bos>", system="System role not supported"
    ),
    "Gemma 3": Family("gemma3.jinja", "gemma3_text", _GEMMA, "<end_of_turn>", "<end_of_turn>", "<bos>"),
    "Mistral": Family(_MISTRAL, "mistral", _INST, "</s>", "</s>", "<s>", system="rewrites earlier turns, so reply 1"),
    "Mixtral": Family(_MIXTRAL, "mixtral", _INST, "</s>", "</s>", "<s>", system=_ALTERNATE),
    "Phi-3": Family("phi3.jinja", "phi3", _PHI, "<|end|>", "<|endoftext|>", "<s>"),
    "Cohere": Family(
        "cohere.jinja", "cohere", ("<BOS_TOKEN>", *_TURNS), "<|END_OF_TURN_TOKEN|>", _TURNS[1], "<BOS_TOKEN>"
    ),
    "OLMo 2": Family(_OLMO, "olmo2", _ROLES, "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
    "Granite": Family(
        _GRANITE,
        "granite",
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        "<|end_of_text|>",
        "<|end_of_text|>",
    ),
    "GPT-NeoX": Family(
        _OASST, "gpt_neox", ("<|endoftext|>", "<|prompter|>", "<|assistant|>"), "<|endoftext|>", "<|endoftext|>"
    ),
    "GPT-2": Family(_GPT2, "gpt2", ("<|endoftext|>",), "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
}


def make_family(
    family: Family,
    *,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    merges: Sequence[tuple[str, str]] = (),
    pad: str | None = "<|pad|>",
    template: str | None = None,
    trim_offsets: bool = False,
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the family's template and tokens.

    Args:
        before, after: what it puts before and after a text.
        trim_offsets: its offsets leave out white space, as those of many published ones do.
    """
    special = list(dict.fromkeys([*family.tokens, *([pad] if pad else [])]))
    base = _base(tuple(special), tuple(merges))
    tokenizer = Tokenizer.from_str(base)
    ids = [(token, special.index(token)) for token in dict.fromkeys([*before, *after])]
    around = processors.TemplateProcessing(single=" ".join([*before, "$A", *after]), special_tokens=ids)
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=trim_offsets), *([around] if ids else [])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=family.eos, bos_token=family.bos, pad_token=pad
    )
    fast.chat_template = template or family.jinja
    return fast


@functools.cache
def _base(special: tuple[str, ...], merges: tuple[tuple[str, str], ...]) -> str:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {t: i for i, t in enumerate([*special, *letters, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer.to_str()
