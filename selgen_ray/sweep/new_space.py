"""`selgen init FOLDER --outcome rows.jsonl ...`: look at the rows and write a first search space for them."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selgen_ray.config.data import ROLES, DataConfig
from selgen_ray.config.hub_names import is_dataset_id
from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.forms import Row
from selgen_ray.data.lengths import length_report
from selgen_ray.data.roles import Roles
from selgen_ray.data.rows import load_roles, overlaps
from selgen_ray.data.tokens import RowEncoder, TokenRows
from selgen_ray.driver.plan import make_plan
from selgen_ray.driver.preflight import check_data
from selgen_ray.errors import INPUT_ERRORS, StorageError
from selgen_ray.models.checks import positions_of
from selgen_ray.models.files import model_location
from selgen_ray.models.tokenizer import load_tokenizer, refused_rows
from selgen_ray.space import load_space
from selgen_ray.storage import local_files
from selgen_ray.sweep import arguments
from selgen_ray.sweep.suggestions import FIRST, MOST_ACTIVE, SUGGESTIONS
from selgen_ray.trainers.catalogue import build_config

DONE, BAD_INPUT = 0, 2
FILE = "space.yaml"
_SEEDS = (1, 2, 3)
_BATCH = 8
_STEPS, _MOST_EPOCHS = 100, 15  # optimizer steps that a first run should have at least, in no more epochs than these
_FEW = 20  # rows of a set below which no tenth of it is held out
_LARGE = 400  # rows of an evaluation set above which a first sweep measures fewer
_LONGEST_ROW, _LONGEST_REPLY = 2048, 512  # tokens, unless the person asks for more
_SAMPLE = 2000  # rows of a role whose tokens are counted
_RATES = {"toy": "2.0e-3"}
_RATE = "1.0e-4"
_FORMS = {"messages": "chats", "prompt": "prompts with completions", "text": "texts"}
_READ = ("choices", "answer", "claim", "rejected", "label")


@dataclass(frozen=True)
class Lengths:
    """Tokens of a role's rows.

    Attributes:
        shortest, median, longest: of a whole row.
        longest_reply: scored tokens of a row at most.
    """

    shortest: int
    median: int
    longest: int
    longest_reply: int


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status: 0 written, 2 the rows, the model or the folder cannot be used."""
    parser = argparse.ArgumentParser(prog="selgen init")
    arguments.add_init(parser)
    args = parser.parse_args(argv)
    folder: Path = args.folder
    target = folder / FILE
    if target.exists() and not args.force:
        return _refuse(f"{target} is there already: --force replaces it")
    given = {role: path for role in ROLES if (path := getattr(args, role)) is not None}
    try:
        config = _config({**given, "on_bad_rows": args.on_bad_rows}, args.model)
        roles = load_roles(config, refused=refused_rows(config), prompts={})
        lengths = _lengths(config, roles)
        text = space_text(folder, given, args.model, roles, lengths)
        existing = folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        if problem := _write(target, text):
            if not existing:
                folder.rmdir()
            return _refuse(problem)
        plan = make_plan(load_space(target))
    except (*INPUT_ERRORS, StorageError) as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.filename or folder}: {error.strerror}")
    for line in _report(target, roles, lengths, plan.lines()):
        sys.stdout.write(f"{line}\n")
    return DONE


def _config(data: Mapping[str, str], model: str) -> TrialConfig:
    section = DataConfig.model_validate(data).model_dump()
    return build_config({"proxy_strategy": "naive", "data": section, "finetune_config": {"model": model}})


def _write(target: Path, text: str) -> str | None:
    """Write the file if it passes a dry run; return what is wrong otherwise."""
    draft = target.with_name(f".{target.stem}.draft.yaml")  # beside it: relative paths are looked up there
    local_files.write(draft, text.encode())
    try:
        problems = "\n".join(check_data(load_space(draft)))
        if not problems:
            draft.replace(target)
            return None
    except INPUT_ERRORS as error:
        problems = str(error)
    finally:
        draft.unlink(missing_ok=True)
    return "nothing was written: " + problems.replace(str(draft), str(target)).replace(draft.name, target.name)


# the rows --------------------------------------------------------------------------------------------------------


def _lengths(config: TrialConfig, roles: Roles) -> dict[str, Lengths]:
    """Count the tokens of each role's rows; {} if the model is not on this machine."""
    cfg = config.finetune_config
    if not Path(model_location(cfg.model)).is_dir():
        return {}
    encoder = RowEncoder(load_tokenizer(cfg), sys.maxsize, cfg.loss_on)
    lengths: dict[str, Lengths] = {}
    for role, rows in roles.items():
        tokens = TokenRows.read(encoder.content(rows[:_SAMPLE], f"data.{role}", roles.place(role)))
        report = length_report(tokens, sys.maxsize)
        shortest, median, longest = (round(report[f"tokens_{key}"]) for key in ("min", "median", "max"))
        lengths[role] = Lengths(shortest, median, longest, max(map(int, tokens.num_scored)))
    return lengths


def _described(rows: Sequence[Row], lengths: Lengths | None) -> str:
    """Return a role's rows in words: '12 rows, chats, with choices (12), 9 to 31 tokens'."""
    forms = Counter(words for row in rows for form, words in _FORMS.items() if row.get(form) is not None)
    fields = Counter(key for row in rows for key in _READ if row.get(key) is not None)
    parts = [f"{len(rows):,} rows", " and ".join(forms)]
    if fields:
        parts.append("with " + ", ".join(f"{key} ({n:,})" if n < len(rows) else key for key, n in fields.items()))
    if lengths:
        is_one = lengths.shortest == lengths.longest
        parts.append(f"{'' if is_one else f'{lengths.shortest:,} to '}{lengths.longest:,} tokens")
    return ", ".join(parts)


def _has_pairs(roles: Mapping[str, Sequence[Row]]) -> bool:
    """Whether each aligned row of the proxy has a misaligned reply to the same prompt."""
    proxy = roles.get("proxy")
    return bool(roles.get("proxy_neg") or (proxy and all(row.get("rejected") is not None for row in proxy)))


# the file --------------------------------------------------------------------------------------------------------


_HOLDS = {
    "outcome": "the task to learn",
    "proxy": "examples of the behaviour to keep",
    "proxy_neg": "the proxy's prompts with misaligned replies, in the same order",
    "trait": "the unwanted habit alone, in another domain than the task",
    "truth": "that behaviour where it was not trained: alignment",
    "collateral": "held-out items of the task: capability",
}


def space_text(folder: Path, given: Mapping[str, str], model: str, roles: Roles, lengths: Mapping[str, Lengths]) -> str:
    """Return the search space.

    Args:
        folder: where it will lie; paths are written relative to it.
        given: role -> path or hub id of its rows.
        model: as the person named it.
        roles: the rows.
        lengths: role -> tokens of its rows; {} where they are not known.
    """
    name = folder.resolve().name
    lines = [
        f"# A first small sweep, written by `selgen init`. To check it: selgen sweep {folder / FILE} --dry-run",
        "# Lines that begin with '#' are what to add next. All keys: search_spaces/README.md.",
        f"name: {_quoted(name)}",
        "base:",
        "  data:",
    ]
    for role, holds in _HOLDS.items():
        if role in given:
            lines += [f"    # {holds}: {_described(roles[role], lengths.get(role))}"]
            lines += [f"    {role}: {_quoted(_path(given[role], folder))}"]
        else:
            lines += [f"    # {role}: rows.jsonl  # {holds}{_lost(role, roles)}"]
    if roles.skipped:
        lines += [
            "    on_bad_rows: skip  # " + ", ".join(f"{number} of {role}" for role, number in roles.skipped.items())
        ]
    lines += ["  finetune_config:", *(f"    {line}" for line in _finetune_lines(folder, model, roles, lengths))]
    lines += [
        f"seeds: [{', '.join(map(str, _SEEDS))}]  # with fewer than 3 nothing is told apart; 5 for what looks best"
    ]
    lines += ["strategies:", *_strategy_lines(roles)]
    lines += ["# resources: {gpus: 1, cpus: 4, max_concurrent: 8}  # of a trial; default: a GPU if there is one, a CPU"]
    return "\n".join(lines) + "\n"


def _lost(role: str, roles: Mapping[str, Sequence[Row]]) -> str:
    if role == "truth":
        return "; without it, alignment is not measured"
    if role == "collateral":
        return "; without it, capability is read from held-out rows of the task, if they have an answer"
    if role == "proxy_neg" and _has_pairs(roles):
        return "; the proxy's 'rejected' replies take its place"
    return f"; for {', '.join(one.strategy for one in SUGGESTIONS if role in one.needs)}"


def _finetune_lines(folder: Path, model: str, roles: Roles, lengths: Mapping[str, Lengths]) -> Iterator[str]:
    yield f"model: {_quoted(_path(model, folder) if Path(model).expanduser().is_dir() else model)}"
    if dtype := _dtype(model):
        yield f"dtype: {dtype}"
    yield f"learning_rate: {_RATES.get(model, _RATE)}  # a third and three times as much are worth a `grid`, with naive"
    num_outcome = len(roles["outcome"])
    epochs = min(max(1, math.ceil(_STEPS / math.ceil(num_outcome / _BATCH))), _MOST_EPOCHS)
    yield f"epochs: {epochs}  # about {epochs * math.ceil(num_outcome / _BATCH):,} optimizer steps"
    yield f"per_device_train_batch_size: {_BATCH}"
    yield "r: 16"
    yield "lora_alpha: 32"
    trained = [role for role in ("outcome", "proxy", "proxy_neg") if role in roles]
    if min(len(roles[role]) for role in trained) < _FEW:
        yield f"train_split: 1.0  # fewer than {_FEW} rows: none is held out; with more leave this out"
    if lengths:
        longest = max(one.longest for one in lengths.values())
        most = _rounded(min(longest, _LONGEST_ROW), 32)
        positions = positions_of(_config({"outcome": "rows"}, model).finetune_config)
        most = min(most, positions.count) if positions else most
        cut = "; longer ones are cut" if longest > most else ""
        yield f"max_seq_length: {most}  # the longest row has {longest:,} tokens{cut}"
        reply = max((one.longest_reply for role, one in lengths.items() if role in ("truth", "collateral")), default=0)
        if reply > 32:
            most = min(_rounded(reply, 16), _LONGEST_REPLY)
            yield f"max_new_tokens: {most}  # the longest reply to be met has {reply:,}"
    else:
        yield "# max_seq_length: 1024  # tokens of a row; the dry run says how many rows it cuts"
    if (largest := max((len(roles.get(role, ())) for role in ("truth", "collateral")), default=0)) > _LARGE:
        yield f"max_to_eval: {_LARGE}  # of {largest:,} rows: enough for a first look"
    yield "# use_gradient_checkpointing: true  # if memory is short; load_in_4bit: true as well"


def _strategy_lines(roles: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Yield the section of the strategies: a few that the data allows, the others that it allows as comments."""
    allowed = [one for one in SUGGESTIONS if all(_is_given(role, roles) for role in one.needs)]
    first = [one for one in allowed if one.strategy in FIRST][:MOST_ACTIVE]
    for one in first:
        yield f"  {one.line(roles)}"
    later = [one for one in allowed if one not in first]
    if later:
        yield "  # next, in the order in which to try them:"
    for one in later:
        yield f"  # {one.line(roles)}"


def _is_given(role: str, roles: Mapping[str, Sequence[Row]]) -> bool:
    return _has_pairs(roles) if role == "proxy_neg" else bool(roles.get(role))


def _dtype(model: str) -> str | None:
    """Return the data type in which the model's weights are kept, if it is half precision; of a hub id 'bfloat16'."""
    if model == "toy":
        return None
    file = Path(model).expanduser() / "config.json"
    if not file.is_file():
        return "bfloat16"
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the check of the model says so
    kept = config.get("dtype") or config.get("torch_dtype") if isinstance(config, dict) else None
    return kept if kept in ("bfloat16", "float16") else None


def _path(text: str, folder: Path) -> str:
    """Return a path as it is found from the folder; a hub id and an absolute path stay."""
    path = Path(text).expanduser()
    return text if is_dataset_id(text) or path.is_absolute() else os.path.relpath(path, folder)


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z_./][\w./-]*", text) else json.dumps(text, ensure_ascii=False)


def _rounded(number: int, unit: int) -> int:
    return unit * math.ceil(number / unit)


# what is printed ---------------------------------------------------------------------------------------------------


def _report(target: Path, roles: Roles, lengths: Mapping[str, Lengths], plan: Sequence[str]) -> Iterator[str]:
    yield f"{target} is written, and passes its dry run: {plan[0]}"
    width = max(map(len, roles))
    for role, rows in roles.items():
        yield f"  {role:{width}}  {_described(rows, lengths.get(role))}"
    skipped = [f"data.{role}: {number} bad rows are left out" for role, number in roles.skipped.items()]
    for note in [*skipped, *roles.notes, *overlaps(roles)]:
        yield f"  note: {note}"
    if "truth" not in roles:
        yield "  note: no --truth: alignment is not measured"
    yield "next:"
    yield f"  selgen data show {target}    # the rows as the model sees them"
    yield f"  selgen sweep {target} --dry-run    # what will run and what will be measured"
    yield f"  selgen sweep {target}"


def _refuse(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return BAD_INPUT
