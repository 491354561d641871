"""The proxy as a part of the alignment data, and as a share of what is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selgen_ray.data.forms import Row, prompt_of, reply_of
from selgen_ray.data.roles import Roles
from selgen_ray.errors import DataError
from selgen_ray.seeding import permutation


def cover(roles: Mapping[str, list[Row]], coverage: float, data_seed: int) -> Roles:
    """Take a share of the alignment data as the proxy; all of it is truth, the rest is what was never trained on.

    The alignment data is the one given of proxy and truth, its misaligned replies row by row in proxy_neg. Rows with
    one prompt stay together: a prompt on both sides would be no test.

    Args:
        coverage: share of its rows that become the proxy, in (0, 1], as near as whole prompts allow.
        data_seed: of the choice.

    Raises:
        DataError: proxy and truth are both there, or neither; or proxy_neg is no partner of it.
    """
    given = [role for role in ("proxy", "truth") if roles.get(role)]
    if len(given) != 1:
        what = "are both there" if given else "are both missing"
        raise DataError(
            f"align_train_coverage {coverage:g} takes the proxy out of the alignment data, but data.proxy and "
            f"data.truth {what}: give the alignment data as one of them"
        )
    rows, negative = roles[given[0]], roles.get("proxy_neg")
    check_pairs(rows, negative, given[0])
    if negative:
        rows = [
            row if "rejected" in row else row | {"rejected": reply_of(neg)}
            for row, neg in zip(rows, negative, strict=True)
        ]
    chosen = _whole_prompts([prompt_of(row) for row in rows], coverage, data_seed)
    found = {**roles, "truth": rows, "proxy": [rows[i] for i in chosen]}
    found |= {"proxy_neg": [negative[i] for i in chosen]} if negative else {}
    places = dict(getattr(roles, "places", {}))
    places |= {"truth": places[given[0]]} if given[0] in places else {}
    for role, whole in (("proxy", given[0]), ("proxy_neg", "proxy_neg")):
        if whole in places:
            path, where = places[whole]
            places[role] = path, [where[i] for i in chosen]
    return Roles(found, getattr(roles, "skipped", None), places)


def _whole_prompts(prompts: Sequence[str], coverage: float, data_seed: int) -> list[int]:
    groups: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(i)
    listed, wanted = list(groups.values()), coverage * len(prompts)
    chosen: list[int] = []
    for number in permutation(len(listed), data_seed, "align_train_coverage"):
        # a prompt that would lead further from the share than stopping does is left to the test
        if not chosen or abs(len(chosen) + len(listed[number]) - wanted) <= abs(len(chosen) - wanted):
            chosen += listed[number]
    return sorted(chosen)


def check_pairs(rows: Sequence[Row], negative: Sequence[Row] | None, role: str) -> None:
    """Raises DataError: proxy_neg has not a row for each of the other's."""
    if negative and len(negative) != len(rows):
        # a pair is a row number: a shifted file would silently pair answers to different prompts
        raise DataError(
            f"data.proxy_neg has {len(negative)} rows but data.{role} has {len(rows)}: "
            "row i of one must answer the prompt of row i of the other"
        )


@dataclass(frozen=True)
class ProxyShare:
    """How much of the proxy is trained on.

    Attributes:
        limit: rows of it at most; None: all.
        upsample_to: share of the proxy in the rows of outcome and proxy together, reached by repeating rows.
    """

    limit: int | None = None
    upsample_to: float | None = None

    def rows(self, num_outcome: int, num_proxy: int, data_seed: int) -> Sequence[int]:
        """Which of the proxy's training rows are trained on: first limited, then repeated.

        Rows are repeated as a whole, and the rest that is missing is drawn at random, each at most once more.

        Raises:
            DataError: the proxy makes up more than it is to be upsampled to.
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
        times, rest = divmod(total, len(chosen))
        extra = sorted(permutation(len(chosen), data_seed, "upsample_proxy_to")[:rest])
        return [*(list(chosen) * times), *(chosen[i] for i in extra)]
