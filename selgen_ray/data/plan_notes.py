"""Notes of a plan on rows and their tokens: formats that differ, and pairs with nothing to prefer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from selgen_ray.data.encode import encode_row, replace_reply
from selgen_ray.data.forms import Row
from selgen_ray.data.roles import Roles
from selgen_ray.errors import DataError

_KINDS = {"messages": "chats", "prompt": "strings", "text": "plain texts"}


def format_notes(roles: Roles, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield a note where strings bypass the chat template, and one if the roles differ in format."""
    kinds = {role: _kinds(rows) for role, rows in roles.items()}
    for role in (role for role, role_kinds in kinds.items() if "prompt" in role_kinds and role in roles.places):
        if tokenizer.chat_template:
            yield (
                f"data.{role}: 'prompt' and 'completion' are strings: they are joined as they are, without the model's "
                "chat template, and nothing stands between them; "
                f"data.{role}: {{path: ..., form: chat}} makes chats of them"
            )
    if len({kind for role_kinds in kinds.values() for kind in role_kinds}) > 1:
        listed = ", ".join(
            f"data.{role} {' and '.join(_KINDS[kind] for kind in role_kinds)}" for role, role_kinds in kinds.items()
        )
        yield f"the roles differ in format, so the model is trained and tested in several: {listed}"


def _kinds(rows: Sequence[Row]) -> list[str]:
    return [kind for kind in _KINDS if any(row.get(kind) is not None for row in rows)]


def pair_notes(
    roles: Roles, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, loss_on: str, truncated: Sequence[str]
) -> Iterator[str]:
    """Yield a note on pairs of a good and a bad reply that are alike after the cut.

    Args:
        truncated: roles with rows longer than `max_seq_length`; the cut makes no pair of the other roles alike.
    """

    def is_alike(good: Row, bad: Row) -> bool:
        try:
            a, b = (encode_row(row, tokenizer, loss_on).ids for row in (good, bad))
        except DataError:
            return False  # the encoding of all rows reports it
        return a[:max_seq_length] == b[:max_seq_length]

    pairs = {"data.proxy and data.proxy_neg": ("proxy", roles.get("proxy", []), roles.get("proxy_neg", []))}
    for role, rows in roles.items():
        rejecting = [row for row in rows if row.get("rejected") is not None]
        if len(rejecting) == len(rows) and not (role == "proxy" and roles.get("proxy_neg")):
            rejected_rows = [replace_reply(row, row["rejected"]) for row in rows]
            pairs[f"data.{role}, its replies and 'rejected',"] = (role, rows, rejected_rows)
    for name, (role, good, bad) in pairs.items():
        if len(good) != len(bad) or not good or not {role, "proxy_neg" if role == "proxy" else role} & {*truncated}:
            continue
        alike = [i for i, pair in enumerate(zip(good, bad, strict=True)) if is_alike(*pair)]
        if alike:
            yield (
                f"{name}: {len(alike)} of {len(good)} pairs are alike after the cut at max_seq_length "
                f"{max_seq_length}, first {roles.place(role)(alike[0])}: they prefer nothing"
            )
