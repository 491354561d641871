"""Rows as the model sees them, for people: which tokens are scored, where the cut is, and what is unusual."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.text import Text
from transformers import PreTrainedTokenizerBase

from selgen_ray.data.asking import decode, parting
from selgen_ray.data.chats import special_ids
from selgen_ray.data.encode import Encoded, encode_prompt, encode_row
from selgen_ray.data.forms import Row

Kind = Literal["context", "scored", "special", "scored special"]
_STYLES: dict[Kind, str] = {
    "context": "",
    "scored": "black on green",
    "special": "magenta",
    "scored special": "bold magenta on green",
}
_BEYOND = 40  # tokens to show of the part that is cut off


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of one kind, as text."""

    text: str
    kind: Kind


@dataclass(frozen=True)
class ShownRow:
    """A row as the model sees it.

    Attributes:
        pieces: the tokens that are trained on.
        beyond: the first tokens that the cut at `max_seq_length` leaves out.
        num_tokens, num_scored: number of tokens, and of scored tokens, in the pieces.
        num_cut: number of tokens that are left out.
        prompt: the tokens that the model goes on from when it generates a reply; empty for a `text` row.
        notes: sentences on what is unusual.
    """

    pieces: list[Piece]
    beyond: list[Piece]
    num_tokens: int
    num_scored: int
    num_cut: int
    prompt: list[Piece]
    notes: list[str] = field(default_factory=list[str])

    def lines(self, colour: bool) -> Iterator[Text]:
        """Yield the row as lines of text; without colour, scored tokens stand in double square brackets."""
        yield Text(f"{self.num_tokens} tokens, {self.num_scored} scored")
        yield _joined(self.pieces, colour)
        if self.num_cut:
            message = f"--- cut here: {self.num_cut} tokens are left out, which go on ---"
            yield Text(message, style="bold red" if colour else "")
            yield _joined(self.beyond, colour, "dim")
        if self.prompt:
            yield Text("the model replies after:", style="dim" if colour else "")
            yield _joined(self.prompt, colour)
        for note in self.notes:
            yield Text(f"note: {note}", style="yellow" if colour else "")


def show_row(
    row: Row, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, loss_on: str, *, as_in_rows: bool = False
) -> ShownRow:
    """Encode a row as training does, for people to look at.

    Args:
        max_seq_length, loss_on: as in `encode_rows`.
        as_in_rows: as in `encode_prompt`.

    Raises:
        DataError: it cannot be made into tokens.
    """
    whole = encode_row(row, tokenizer, loss_on)
    kept = Encoded(whole.ids[:max_seq_length], whole.is_reply[:max_seq_length])
    pieces = _pieces(whole, tokenizer, 0, len(kept))
    beyond = _pieces(whole, tokenizer, len(kept), len(kept) + _BEYOND)
    prompt = [] if row.get("text") is not None else encode_prompt(row, tokenizer, as_in_rows=as_in_rows)
    as_prompt = Encoded(prompt, [False] * len(prompt))
    return ShownRow(
        pieces=pieces,
        beyond=beyond,
        num_tokens=len(kept),
        num_scored=sum(kept.is_reply),
        num_cut=len(whole) - len(kept),
        prompt=_pieces(as_prompt, tokenizer, 0, len(prompt)),
        notes=list(_notes(whole, kept, prompt, tokenizer)),
    )


def _pieces(row: Encoded, tokenizer: PreTrainedTokenizerBase, start: int, end: int) -> list[Piece]:
    special = special_ids(tokenizer)
    end = min(end, len(row))
    runs: list[tuple[Kind, int]] = []  # kind, and where the run ends
    for i in range(start, end):
        kind: Kind = "scored" if row.is_reply[i] else "context"
        if row.ids[i] in special:
            kind = "scored special" if row.is_reply[i] else "special"
        if runs and runs[-1][0] == kind:
            runs[-1] = kind, i + 1
        else:
            runs.append((kind, i + 1))
    pieces: list[Piece] = []
    before = decode(row.ids[start:start], tokenizer)
    for kind, stop in runs:  # decoded from the start: some tokenizers drop the space before the first token
        text = decode(row.ids[start:stop], tokenizer)
        pieces.append(Piece(text[len(before) :], kind))
        before = text
    return pieces


def _joined(pieces: Sequence[Piece], colour: bool, style: str = "") -> Text:
    text = Text()
    is_open = False
    for piece in pieces:
        scored = piece.kind.startswith("scored")
        shown = piece.text.replace("\n", "\\n\n")  # the text's own line break made visible, and one for the reader
        if not colour and scored != is_open:
            text.append("[[" if scored else "]]")
        text.append(shown, style=(style or _STYLES[piece.kind]) if colour else "")
        is_open = scored
    return text.append("]]") if is_open and not colour else text


def _notes(whole: Encoded, kept: Encoded, prompt: list[int], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    ends: Any = tokenizer.eos_token_id
    names: Any = tokenizer.convert_ids_to_tokens(whole.ids)
    if not any(kept.is_reply):
        yield "no token is scored: nothing of this row is learned"
    last_scored = [i for i, scored in enumerate(whole.is_reply) if scored and whole.is_reply[i + 1 : i + 2] != [True]]
    if len(kept) < len(whole) and kept.is_reply[-1:] == [True] and whole.is_reply[len(kept)]:
        yield "the cut falls into a reply: where it ends is not learned"
    special = special_ids(tokenizer)
    for i in [i for i in last_scored if i < len(kept)]:
        if whole.ids[i] not in special:
            yield f"the scored part that ends with {names[i]!r} (token {i + 1}) holds no end token: it is never learned"
        elif whole.ids[i] != ends:
            name: Any = tokenizer.eos_token
            yield f"a reply ends with {names[i]}, and the tokenizer's end token is {name}"
    begin: Any = tokenizer.bos_token_id
    if begin is not None and whole.ids[:2] == [begin, begin] and begin != ends:
        yield f"{names[0]} stands twice at the beginning"
    if difference := parting(prompt, whole.ids, tokenizer):
        yield f"what the model replies after is not what it was trained on: {difference}"
