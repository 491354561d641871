"""Sets of a trial: the rows that each role trains on, those that are held out, and the named evaluation sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from selgen_ray.config.evals import QUESTIONS, has_contexts
from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.data.alignment import ProxyShare
from selgen_ray.data.contexts import in_context
from selgen_ray.data.forms import Row, prompt_of, reply_of
from selgen_ray.data.lengths import length_report
from selgen_ray.data.roles import Origin
from selgen_ray.data.streams import Stream, steps_per_epoch
from selgen_ray.data.tokens import TokenRows
from selgen_ray.data.training_prompts import trained_form
from selgen_ray.errors import DataError
from selgen_ray.records.eval_sets import EVAL_NAMES, ROLE_OF_SET, UNSEEN
from selgen_ray.seeding import split_indices

CONTEXT_ROLES = tuple(dict.fromkeys(role for name, role in ROLE_OF_SET.items() if has_contexts(name)))
"""Roles whose rows are measured in each of `evals.contexts` too."""
TRAINED_ROLES = ("outcome", "proxy", "proxy_neg", "trait")
"""Roles that are trained on, of whose rows a part is held out."""
_NO_TOKENS = TokenRows([])


@dataclass(frozen=True)
class RowSet:
    """Rows and, in the same order, their tokens; open questions, which have no reply to score, have no tokens."""

    rows: Sequence[Row]
    encoded: TokenRows

    def take(self, indices: Sequence[int]) -> RowSet:
        """Return the rows at `indices`, in that order."""
        encoded = self.encoded.take(indices) if len(self.encoded) else self.encoded
        return RowSet([self.rows[i] for i in indices], encoded)


class Sets:
    """Training and evaluation sets of one trial.

    Attributes:
        train: role -> its training rows; for the trained roles.
        numbers: role -> the number of each of its training rows among all rows of the role, repeats included.
        evals: evaluation set -> its rows: the held-out rows of a trained role, all rows of another role, the open
            questions, and some of these once more in each context ('align_test@negated').
        skipped: role -> number of bad rows that were left out.
        lengths: role -> lengths of its rows in tokens; see `length_report`.

    Args:
        encode: (role, its rows) -> their tokens.
        num_workers: ranks that train the trial; a step has `num_workers` times the micro-batches of one rank.
        share: limit and upsampling of the proxy's training rows.
        questions: rows of the open questions.
        contexts: name -> its texts, position -> text; see `evals.contexts`.
        place: (role) -> (number of a row, from 0) -> where a person finds it, for error messages.
    """

    def __init__(
        self,
        roles: dict[str, list[Row]],
        config: FinetuneConfig,
        data_seed: int,
        encode: Callable[[str, list[Row]], TokenRows],
        num_workers: int = 1,
        share: ProxyShare = ProxyShare(),  # noqa: B008  # frozen
        questions: Sequence[Row] = (),
        contexts: Mapping[str, Mapping[str, str]] | None = None,
        place: Callable[[str], Callable[[int], str]] = lambda role: lambda number: f"data.{role}, row {number + 1}",
    ):
        self._config = config
        self._num_micro = config.gradient_accumulation_steps * num_workers
        self._seed = data_seed
        self._unions: dict[str, TokenRows] = {}
        self._origins: dict[str, list[Origin]] = dict(getattr(roles, "origins", {}))
        self.skipped: dict[str, int] = dict(getattr(roles, "skipped", {}))
        self.train: dict[str, RowSet] = {}
        self.numbers: dict[str, list[int]] = {}
        self.evals: dict[str, RowSet] = {}
        whole = {role: RowSet(rows, encode(role, rows)) for role, rows in roles.items()}
        self.lengths = {role: length_report(rows.encoded, config.max_seq_length) for role, rows in whole.items()}
        sizes = {role: len(rows) for role, rows in roles.items()}
        for role in (r for r in TRAINED_ROLES if r in whole):
            self.numbers[role] = list(trained_rows(role, sizes, config.train_split, data_seed, share))
            trained = trained_form(roles, role)  # with the training prompt of each row, which no evaluation shows
            prompted = whole[role] if trained is roles[role] else RowSet(trained, encode(role, trained))
            self.lengths[role] = length_report(prompted.encoded, config.max_seq_length)
            self.train[role] = prompted.take(self.numbers[role])
        if "proxy_neg" in whole and sizes.get("proxy") == sizes["proxy_neg"]:  # else they are no pairs
            whole["proxy"] = RowSet(with_rejected(roles["proxy"], roles["proxy_neg"]), whole["proxy"].encoded)
        known: dict[tuple[str, tuple[int, ...]], RowSet] = {}  # sets of the same rows are one, to be evaluated once
        chosen = eval_rows(roles, config, data_seed)
        for name, (role, numbers) in chosen.items():
            self.evals[name] = known.setdefault((role, tuple(numbers)), whole[role].take(numbers))
        if questions:
            self.evals[QUESTIONS] = RowSet(list(questions), _NO_TOKENS)
        for context, texts in (contexts or {}).items():
            shown: dict[str, RowSet] = {}  # a role is made into tokens once, for all sets of its rows
            for name in [name for name in self.evals if has_contexts(name) and "@" not in name]:
                if name == QUESTIONS:
                    rows = in_context(questions, context, texts, lambda number: str(questions[number]["question"]))
                    self.evals[f"{name}@{context}"] = RowSet(rows, _NO_TOKENS)
                    continue
                role, numbers = chosen[name]
                if role not in shown:
                    rows = in_context(whole[role].rows, context, texts, place(role))
                    shown[role] = RowSet(rows, encode(role, rows))
                key = f"{role}@{context}", tuple(numbers)
                self.evals[f"{name}@{context}"] = known.setdefault(key, shown[role].take(numbers))

    def different(self, role: str) -> list[int]:
        """Return the places of a role's training rows without those that only repeat one, see `upsample_proxy_to`."""
        first: dict[int, int] = {}
        for place, number in enumerate(self.numbers[role]):
            first.setdefault(number, place)
        return sorted(first.values())

    def choose(self, role: str, places: Sequence[int]) -> None:
        """Train on these of a role's training rows only, in this order; for `prepare`.

        Evaluation sets stay as they are.
        """
        self.train[role] = self.train[role].take(places)
        self.numbers[role] = [self.numbers[role][place] for place in places]
        self._unions = {name: rows for name, rows in self._unions.items() if role not in name.split("+")}

    def source_numbers(self, role: str) -> list[int]:
        """Return the number of each training row of a role in its source, from 0."""
        origins = self._origins.get(role)
        return [origins[number].number if origins else number for number in self.numbers[role]]

    def union(self, stream: str) -> TokenRows:
        """Return the tokens of a stream's rows: those of one role, or of several as in 'outcome+proxy'.

        Raises:
            DataError: the trial has no such role.
        """
        if stream not in self._unions:
            missing = [role for role in stream.split("+") if role not in self.train]
            if missing:
                raise DataError(f"data.{missing[0]} is needed here and was not given")
            self._unions[stream] = TokenRows.joined([self.train[role].encoded for role in stream.split("+")])
        return self._unions[stream]

    def streams(self, names: Sequence[str], phase: str) -> dict[str, Stream]:
        """Return the streams of a phase, all with the same number of steps per epoch.

        An epoch is one pass over the first stream where `proxy_cycling_mode` is 'continuous', and one over the longest
        stream where it is 'synchronized'.

        Raises:
            DataError: the trial lacks a role of a stream.
        """
        cfg = self._config
        rows = {name: self.union(name) for name in names}
        micro = {name: micro_batch_size(cfg, name) for name in names}
        steps = {n: steps_per_epoch(len(rows[n]), micro[n], self._num_micro) for n in names}
        continuous = cfg.proxy_cycling_mode == "continuous"
        leading = names[0] if continuous else max(names, key=steps.__getitem__)
        return {
            name: Stream(
                name=name,
                lengths=tuple(rows[name].lengths),
                micro_batch=micro[name],
                num_micro=self._num_micro,
                seed=self._seed,
                phase=phase,
                steps_per_epoch=steps[leading],
                restarts="epoch" if name == leading else "never" if continuous else "within_epoch",
                group_by_length=cfg.group_by_length,
            )
            for name in names
        }


def split_role(role: str, size: int, train_split: float, data_seed: int) -> tuple[Sequence[int], Sequence[int]]:
    """Return the numbers of a role's training rows, and those of its held-out rows; see `split_indices`."""
    # proxy and proxy_neg are split alike: their rows are pairs
    return split_indices(size, train_split, data_seed, "split", role.removesuffix("_neg"))


def trained_rows(
    role: str, sizes: Mapping[str, int], train_split: float, data_seed: int, share: ProxyShare
) -> Sequence[int]:
    """Numbers of the rows of a role that are trained on: the split's, of a proxy those that `share` makes of them.

    Args:
        sizes: role -> number of its rows.

    Raises:
        DataError: the proxy makes up more than it is to be upsampled to.
    """
    train, _ = split_role(role, sizes[role], train_split, data_seed)
    if role in ("outcome", "trait"):
        return train
    outcome, _ = split_role("outcome", sizes["outcome"], train_split, data_seed)
    return [train[i] for i in share.rows(len(outcome), len(train), data_seed)]


def eval_rows(
    roles: Mapping[str, Sequence[Row]], config: FinetuneConfig, data_seed: int
) -> dict[str, tuple[str, Sequence[int]]]:
    """Return for each evaluation set the role whose rows it shows, and the rows' numbers, at most `max_to_eval`.

    Example: {'task_train': ('outcome', [4, 9]), 'align_test': ('truth', range(0, 50))}.
    """
    sets: dict[str, tuple[str, Sequence[int]]] = {}
    for name, role in EVAL_NAMES.items():
        if role in roles:
            size = len(roles[role])
            held_out = role in TRAINED_ROLES
            sets[name] = role, split_role(role, size, config.train_split, data_seed)[1] if held_out else range(size)
    if "truth" in roles:
        seen = {prompt_of(row) for row in roles.get("proxy", [])}
        unseen = [i for i, row in enumerate(roles["truth"]) if prompt_of(row) not in seen]
        if unseen:
            sets[UNSEEN] = "truth", unseen
    return {name: (role, numbers[: config.max_to_eval]) for name, (role, numbers) in sets.items()}


def with_rejected(good: Sequence[Row], bad: Sequence[Row]) -> list[Row]:
    """Return the good rows, each with `rejected`: the reply of its bad row, if the two have the same prompt."""
    pairs = zip(good, bad, strict=True)
    return [
        row if "rejected" in row or prompt_of(row) != prompt_of(other) else row | {"rejected": reply_of(other)}
        for row, other in pairs
    ]


def micro_batch_size(config: FinetuneConfig, stream: str) -> int:
    """Return the number of rows in a micro-batch: `proxy_batch_size`, if given, for streams without outcome rows."""
    if "outcome" in stream.split("+") or config.proxy_batch_size is None:
        return config.per_device_train_batch_size
    return config.proxy_batch_size
