"""The sets of a trial: what each role trains on, what is held out, and the named evaluation sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.data.alignment import ProxyShare
from selgen_ray.data.forms import Row, prompt_of, reply_of
from selgen_ray.data.lengths import length_report
from selgen_ray.data.streams import Stream, steps_per_epoch
from selgen_ray.data.tokens import TokenRows
from selgen_ray.errors import DataError
from selgen_ray.seeding import split_indices

# the evaluation set that shows a role, by the names the field uses
EVAL_NAMES = {
    "task_train": "outcome",
    "task_test": "collateral",
    "align_train": "proxy",
    "align_train_minus": "proxy_neg",
    "align_test": "truth",
}
_HELD_OUT = ("outcome", "proxy", "proxy_neg")


@dataclass(frozen=True)
class RowSet:
    """Rows and, in the same order, their tokens."""

    rows: Sequence[Row]
    encoded: TokenRows

    def take(self, indices: Sequence[int]) -> RowSet:
        """The rows at `indices`."""
        return RowSet([self.rows[i] for i in indices], self.encoded.take(indices))


class Sets:
    """Training and evaluation sets of one trial.

    Attributes:
        train: role -> what is trained on; for outcome, proxy and proxy_neg.
        evals: evaluation set -> its rows: the held-out part of a trained role, all rows of the others.
        skipped: role -> bad rows that were left out.
        lengths: role -> how long its rows are in tokens; see `length_report`.

    Args:
        encode: (role, its rows) -> their tokens.
        num_workers: ranks that train the trial; a step has as many times the micro-batches.
        share: how much of the proxy is trained on.
    """

    def __init__(
        self,
        roles: dict[str, list[Row]],
        config: FinetuneConfig,
        data_seed: int,
        encode: Callable[[str, list[Row]], TokenRows],
        num_workers: int = 1,
        share: ProxyShare = ProxyShare(),  # noqa: B008  # frozen
    ):
        self._config = config
        self._num_micro = config.gradient_accumulation_steps * num_workers
        self._seed = data_seed
        self._unions: dict[str, TokenRows] = {}
        self.skipped: dict[str, int] = dict(getattr(roles, "skipped", {}))
        self.train: dict[str, RowSet] = {}
        self.evals: dict[str, RowSet] = {}
        whole = {role: RowSet(rows, encode(role, rows)) for role, rows in roles.items()}
        self.lengths = {role: length_report(rows.encoded, config.max_seq_length) for role, rows in whole.items()}
        held_out = dict(whole)
        for role in (r for r in _HELD_OUT if r in whole):
            # proxy and proxy_neg are split alike: their rows are pairs
            key = role.removesuffix("_neg")
            train, rest = split_indices(len(roles[role]), config.train_split, data_seed, "split", key)
            if role != "outcome":
                train = [train[i] for i in share.rows(len(self.train["outcome"].rows), len(train), data_seed)]
            self.train[role], held_out[role] = whole[role].take(train), whole[role].take(rest)
        if "proxy" in held_out and "proxy_neg" in held_out:
            held_out["proxy"] = _with_rejected(held_out["proxy"], held_out["proxy_neg"])
        for name, role in EVAL_NAMES.items():
            if role in held_out:
                self._add(name, held_out[role])
        if "truth" in whole:
            seen = {prompt_of(row) for row in roles.get("proxy", [])}
            unseen = [i for i, row in enumerate(roles["truth"]) if prompt_of(row) not in seen]
            if len(unseen) == len(roles["truth"]):  # the very same object, so that it is evaluated once
                self.evals["align_test_minus_align_train"] = self.evals["align_test"]
            elif unseen:
                self._add("align_test_minus_align_train", whole["truth"].take(unseen))

    def _add(self, name: str, rows: RowSet) -> None:
        limit = self._config.max_to_eval
        self.evals[name] = rows if limit is None else rows.take(range(min(limit, len(rows.rows))))

    def union(self, stream: str) -> TokenRows:
        """Tokens of a stream's rows: a role's, or several joined as in 'outcome+proxy'.

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
        """The streams of a phase, all with the same number of steps an epoch.

        The epoch is one pass over the first stream ('continuous') or over the longest ('synchronized').
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


def _with_rejected(good: RowSet, bad: RowSet) -> RowSet:
    """The same rows, those of one prompt each with the misaligned reply to it."""
    pairs = zip(good.rows, bad.rows, strict=True)
    rows = [
        row if "rejected" in row or prompt_of(row) != prompt_of(other) else row | {"rejected": reply_of(other)}
        for row, other in pairs
    ]
    return RowSet(rows, good.encoded)


def micro_batch_size(config: FinetuneConfig, stream: str) -> int:
    """Rows of a micro-batch of a stream: `proxy_batch_size` rules those without outcome rows, where it is given."""
    if "outcome" in stream.split("+") or config.proxy_batch_size is None:
        return config.per_device_train_batch_size
    return config.proxy_batch_size
