"""The proxy as a part of the alignment data, and as a share of what is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selgen_ray.data.forms import Row, prompt_of, reply_of
from selgen_ray.data.roles import Origin, Roles
from selgen_ray.errors import DataError
from selgen_ray.seeding import permutation


def cover(roles: Mapping[str, list[Row]], coverage: float, data_seed: int) -> Roles:
    """Make a share of the alignment data the proxy; all of the alignment data becomes truth.

    The alignment data is the role that is given, proxy or truth. Row i of proxy_neg, where it is given, holds the
    misaligned reply to row i. Rows with the same prompt stay together: a prompt that is trained on would test nothing
    new among the rows that are not.

    Example: 100 rows of truth, each with its own prompt, and a coverage of 0.2 give a proxy of 20 of these rows; truth
    keeps all 100.

    Args:
        roles: role -> its rows.
        coverage: share of the rows that become the proxy, in (0, 1]; reached as nearly as whole prompts allow.
        data_seed: seed of the choice.

    Raises:
        DataError: proxy and truth are both given, or neither; or proxy_neg has another number of rows.
    """
    given_roles = [role for role in ("proxy", "truth") if roles.get(role)]
    if len(given_roles) != 1:
        problem = "are both there" if given_roles else "are both missing"
        raise DataError(
            f"align_train_coverage {coverage:g} takes the proxy out of the alignment data, but data.proxy and "
            f"data.truth {problem}: give the alignment data as one of them"
        )
    rows, negative = roles[given_roles[0]], roles.get("proxy_neg")
    check_pairs(rows, negative, given_roles[0])
    if negative:
        rows = [
            row if "rejected" in row else row | {"rejected": reply_of(negative_row)}
            for row, negative_row in zip(rows, negative, strict=True)
        ]
    chosen = _whole_prompts([prompt_of(row) for row in rows], coverage, data_seed)
    covered = {**roles, "truth": rows, "proxy": [rows[i] for i in chosen]}
    covered |= {"proxy_neg": [negative[i] for i in chosen]} if negative else {}
    places = dict(getattr(roles, "places", {}))
    places |= {"truth": places[given_roles[0]]} if given_roles[0] in places else {}
    for role, source_role in (("proxy", given_roles[0]), ("proxy_neg", "proxy_neg")):
        if source_role in places:
            path, row_places = places[source_role]
            places[role] = path, [row_places[i] for i in chosen]
    before: Mapping[str, list[Origin]] = getattr(roles, "origins", {})
    origins = dict(before)
    for role, source_role in (("proxy", given_roles[0]), ("proxy_neg", "proxy_neg")):
        if source_role in before:
            origins[role] = [before[source_role][i] for i in chosen]
    if given_roles[0] in before:  # all of it evaluates, without training prompts
        origins["truth"] = [Origin(origin.number) for origin in before[given_roles[0]]]
    return Roles(covered, getattr(roles, "skipped", None), places, origins=origins)


def _whole_prompts(prompts: Sequence[str], coverage: float, data_seed: int) -> list[int]:
    rows_of_prompt: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        rows_of_prompt.setdefault(prompt, []).append(i)
    groups, target = list(rows_of_prompt.values()), coverage * len(prompts)
    chosen: list[int] = []
    for number in permutation(len(groups), data_seed, "align_train_coverage"):
        # a prompt that would lead further from the target than it leads to it stays out of the proxy
        if not chosen or abs(len(chosen) + len(groups[number]) - target) <= abs(len(chosen) - target):
            chosen += groups[number]
    return sorted(chosen)


def check_pairs(rows: Sequence[Row], negative: Sequence[Row] | None, role: str) -> None:
    """Check that proxy_neg, where it is given, has one row for each row of `role`.

    Raises:
        DataError: the numbers of rows differ.
    """
    if negative and len(negative) != len(rows):
        # a pair is a row number: a shifted file would silently pair answers to different prompts
        raise DataError(
            f"data.proxy_neg has {len(negative)} rows but data.{role} has {len(rows)}: "
            "row i of one must answer the prompt of row i of the other"
        )


@dataclass(frozen=True)
class ProxyShare:
    """Limit and upsampling of the proxy's training rows.

    Attributes:
        limit: use at most this many rows of the proxy; None: all.
        upsample_to: the proxy's share of the training rows of outcome and proxy together, in (0, 1), reached by
            repeating rows of the proxy; None: no row is repeated.
    """

    limit: int | None = None
    upsample_to: float | None = None

    def rows(self, num_outcome: int, num_proxy: int, data_seed: int) -> Sequence[int]:
        """Return the numbers of the proxy's training rows to train on: limited first, then repeated.

        All rows are repeated equally often; the remainder is drawn at random, each row at most once.

        Example: 5 rows of proxy beside 90 of outcome with `upsample_to` 0.1 give 10 numbers, each row twice.

        Args:
            num_outcome, num_proxy: training rows of each role.
            data_seed: seed of the choices.

        Raises:
            DataError: the proxy's share is larger than `upsample_to` already.
        """
        chosen: Sequence[int] = range(num_proxy)
        if self.limit is not None and self.limit < num_proxy:
            chosen = sorted(permutation(num_proxy, data_seed, "limit_proxy_data_to")[: self.limit])
        if self.upsample_to is None or not chosen:
            return chosen
        total = round(self.upsample_to / (1 - self.upsample_to) * num_outcome)
        if total < len(chosen):
            share = len(chosen) / (len(chosen) + num_outcome)
            raise DataError(
                f"upsample_proxy_to is {self.upsample_to:g}, but the proxy is {share:.3g} of the training rows, "
                f"{len(chosen)} beside {num_outcome} of outcome: limit_proxy_data_to: {max(total, 1)} takes fewer"
            )
        times, remainder = divmod(total, len(chosen))
        extra = sorted(permutation(len(chosen), data_seed, "upsample_proxy_to")[:remainder])
        return [*(list(chosen) * times), *(chosen[i] for i in extra)]
