"""Token sequences joined where they begin alike, so that a shared prompt is computed once.

The sequences 'What? Yes' and 'What? No' become one row, 'What? Yes No', in which 'No' sees 'What?' and not 'Yes', and
has the position that it has in its own sequence. The row is a tree, written branch after branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from selgen_ray.data.encode import Encoded

_MOST_NODES = 1024  # of a row of several sequences; attention costs the square of it
_SHARED = 0.5  # a sequence joins others if at least this part of it is there already


@dataclass
class Tree:
    """Sequences in one row.

    Attributes:
        ids: the token of each node.
        positions: its place in its sequence, from 0.
        branches: (first node, node after the last, path): the nodes that a sequence adds, and, as ranges of nodes, the
            path from the root to them.
        scored: (node, token, sequence): the token is to be predicted at the node, for the sequence of that number.
    """

    ids: list[int] = field(default_factory=list[int])
    positions: list[int] = field(default_factory=list[int])
    branches: list[tuple[int, int, list[tuple[int, int]]]] = field(
        default_factory=list[tuple[int, int, list[tuple[int, int]]]]
    )
    scored: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    _path: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def branches_off(self) -> bool:
        """Whether the row holds more than one sequence."""
        return len(self.branches) > 1

    def add(self, number: int, sequence: Encoded, shared: int) -> None:
        """Add a sequence of which the first `shared` tokens are those of the sequence added last."""
        path = _first(self._path, shared)
        start = len(self.ids)
        self.ids += sequence.ids[shared:]
        self.positions += range(shared, len(sequence))
        self.branches.append((start, len(self.ids), path))
        self._path = [*path, (start, len(self.ids))]
        node_at = [node for first, end in self._path for node in range(first, end)]
        self.scored += [
            (node_at[place - 1], sequence.ids[place], number)
            for place, is_scored in enumerate(sequence.is_reply)
            if is_scored
        ]


def _first(path: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """Return the first `count` nodes of a path, as ranges of nodes."""
    ranges: list[tuple[int, int]] = []
    for first, end in path:
        if count <= 0:
            break
        ranges.append((first, min(end, first + count)))
        count -= end - first
    return ranges


def grow(sequences: Sequence[Encoded], *, join: bool) -> list[Tree]:
    """Return trees that hold all sequences, each scored under its number in `sequences`.

    Args:
        join: put sequences with a common beginning into one tree; otherwise each has a tree of its own.
    """
    trees: list[Tree] = []
    before: list[int] = []
    longest = 0
    for number in sorted(range(len(sequences)), key=lambda i: sequences[i].ids) if join else range(len(sequences)):
        ids = sequences[number].ids
        shared = _common(before, ids) if join else 0
        longest = max(longest, len(ids))
        if (
            trees
            and shared >= _SHARED * len(ids)
            and shared
            and len(trees[-1]) + len(ids) - shared <= max(_MOST_NODES, 1.5 * longest)
        ):
            trees[-1].add(number, sequences[number], shared)
        else:
            trees.append(Tree())
            trees[-1].add(number, sequences[number], 0)
            longest = len(ids)
        before = ids
    return trees


def _common(a: list[int], b: list[int]) -> int:
    """Return the number of tokens that two sequences begin with alike."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # compared as slices, which is many tokens at a time
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True)
class TreeBatch:
    """Trees padded on the right.

    Attributes:
        input_ids: [batch, nodes].
        positions: position of each node, [batch, nodes].
        sees: True where the node of the second axis may look at the node of the third, [batch, nodes, nodes]; a pad
            sees itself alone. None if no tree branches: then the model's own causal mask is that, with `is_node`.
        is_node: False at pads, [batch, nodes].
        scored: True at nodes where a token is to be predicted, [batch, nodes].
        at: for each token to be predicted the number of its node among those of `scored`, [targets].
        targets: the tokens, [targets].
        sequences: number of the sequence of each of them, [targets], on the CPU.
    """

    input_ids: Tensor
    positions: Tensor
    sees: Tensor | None
    is_node: Tensor
    scored: Tensor
    at: Tensor
    targets: Tensor
    sequences: Tensor


def collate_trees(trees: Sequence[Tree], pad: int, device: torch.device | str) -> TreeBatch:
    """Make a batch of trees.

    Args:
        pad: id of the padding token.
        device: where the batch's tensors go.
    """
    width = max(map(len, trees))
    ids = torch.full((len(trees), width), pad, dtype=torch.long)
    positions = torch.zeros_like(ids)
    is_node = torch.zeros_like(ids)
    scored = torch.zeros((len(trees), width), dtype=torch.bool)
    for i, tree in enumerate(trees):
        ids[i, : len(tree)] = torch.tensor(tree.ids)
        positions[i, : len(tree)] = torch.tensor(tree.positions)
        is_node[i, : len(tree)] = 1
    triples = torch.tensor([(i, *triple) for i, tree in enumerate(trees) for triple in tree.scored])
    tree_numbers, nodes, targets, sequences = triples.unbind(dim=1)
    scored[tree_numbers, nodes] = True
    place = scored.flatten().cumsum(0) - 1  # of a node among the scored ones
    at = place[tree_numbers * width + nodes]
    sees = torch.stack([_sees(tree, width) for tree in trees]) if any(tree.branches_off for tree in trees) else None
    tensors = [t if t is None else t.to(device) for t in (ids, positions, sees, is_node, scored, at, targets)]
    return TreeBatch(*tensors, sequences=sequences)  # type: ignore[arg-type]  # only `sees` may be None


def _sees(tree: Tree, width: int) -> Tensor:
    sees = torch.eye(width, dtype=torch.bool)
    for first, end, path in tree.branches:
        for start, stop in path:
            sees[first:end, start:stop] = True
        sees[first:end, first:end] = torch.ones((end - first, end - first), dtype=torch.bool).tril()
    return sees
