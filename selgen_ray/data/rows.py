"""Rows of each role of a trial: read, checked and put together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from selgen_ray.config.data import ROLES
from selgen_ray.config.source import Source, TrainingPrompt
from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.alignment import ProxyShare, check_pairs, cover
from selgen_ray.data.encode import replace_reply
from selgen_ray.data.forms import Row, prompt_of, row_problem
from selgen_ray.data.readers import Found, shown
from selgen_ray.data.roles import Roles
from selgen_ray.data.sources import read_source
from selgen_ray.data.training_prompts import with_prompts
from selgen_ray.errors import DataError
from selgen_ray.seeding import permutation, split_indices
from selgen_ray.worlds import generate

Refused = Callable[[Row], str | None]
LONGEST, _LONGER = 500_000, 64
"""Limits of a row's characters: `LONGEST`, or `_LONGER` for each token of `max_seq_length`, whichever is more.

The cut would leave hardly anything of a longer row, and counting its tokens would take longer than a person waits for a
plan.
"""
_SKIP = "fix them, or leave them out with data.on_bad_rows: skip"


def load_roles(
    config: TrialConfig,
    required: Collection[str] = (),
    refused: Refused | None = None,
    prompts: Mapping[str, TrainingPrompt] | None = None,
) -> Roles:
    """Load the rows of every role that the trial has: from the role's source, else from the trial's world.

    Each source is filtered, shuffled and limited; then `align_train_coverage` makes its share the proxy. A proxy_neg
    that is required and not given is made from the proxy's `rejected` replies.

    Args:
        required: the roles that the strategy cannot do without.
        refused: row -> why it cannot be made into tokens, or None if it can; such rows are bad rows too.
        prompts: role -> the training prompt of its rows; default: those of the sources.

    Raises:
        DataError: a source cannot be read, is empty or has bad rows; a training prompt's `where` meets no row; or there
            is no outcome data at all.
    """
    data = config.data
    prompts = data.training_prompts() if prompts is None else prompts
    roles = _generated(config)
    longest = max(LONGEST, _LONGER * config.finetune_config.max_seq_length)
    entries = {
        role: read_source(source.model_copy(update={"training_prompt": prompts.get(role)}), role, config.data_seed)
        for role, source in data.sources().items()
    }
    checked = _checked(entries, config, longest, refused)
    for role, source in data.sources().items():
        entries = _ordered([entry for entry in checked[role] if entry.row is not None], source, config.data_seed, role)
        roles[role] = [entry.row for entry in entries if entry.row is not None]
        roles.places[role] = source.path, [entry.where for entry in entries]
        roles.origins[role] = [entry.origin for entry in entries]
    if not roles.get("outcome"):
        raise DataError("data.outcome: no outcome data: name a file of rows, or use `data.world: toy`")
    roles = with_prompts(roles, prompts, config.data_seed)
    if config.align_train_coverage is not None:
        roles = cover(roles, config.align_train_coverage, config.data_seed)
    elif "proxy" in roles:
        check_pairs(roles["proxy"], roles.get("proxy_neg"), "proxy")
    if "proxy_neg" in required and not roles.get("proxy_neg"):
        _take_rejected(roles)
    skipped = {role: sum(entry.row is None for entry in entries) for role, entries in checked.items()}
    skipped = {role: number for role, number in skipped.items() if number}
    notes = [note for role, source in data.sources().items() for note in _notes(role, source, checked[role])]
    found = {role: roles[role] for role in ROLES if roles.get(role)}
    return Roles(found, skipped, roles.places, notes, roles.origins)


def _take_rejected(roles: Roles) -> None:
    """Make proxy_neg from the proxy's rejected replies; do nothing if no row has one.

    Raises:
        DataError: some rows have a rejected reply, and some have none.
    """
    rows = roles.get("proxy") or []
    lacking = [number for number, row in enumerate(rows) if row.get("rejected") is None]
    if len(lacking) == len(rows):
        return
    if lacking:
        first = roles.place("proxy")(lacking[0])
        raise DataError(
            f"data.proxy: {len(lacking)} of {len(rows)} rows have no 'rejected', first {first}: give each row one, or "
            "data.proxy_neg"
        )
    roles["proxy_neg"] = [
        {key: value for key, value in replace_reply(row, row["rejected"]).items() if key != "rejected"} for row in rows
    ]
    if "proxy" in roles.places:
        roles.places["proxy_neg"] = roles.places["proxy"]
    if "proxy" in roles.origins:  # they stay pairs: both are trained with the same texts
        roles.origins["proxy_neg"] = roles.origins["proxy"]


def _notes(role: str, source: Source, entries: Sequence[Found]) -> Iterator[str]:
    """Yield notes on what of a source's rows is not used, or not in the way that a person may expect."""
    good = [entry for entry in entries if entry.row is not None]
    unused = Counter(column for entry in good for column in entry.unused)
    if unused:
        names = ", ".join(f"{column!r} ({number:,} of {len(good):,} rows)" for column, number in unused.items())
        hint = ""
        if "input" in unused and "instruction" in source.columns.values():
            hint = "; without `columns`, instruction, input and output are read as Alpaca's form, the input included"
        yield f"data.{role}: not used by its form of rows nor by a metric: {names}{hint}"
    for remark, number in Counter(remark for entry in good for remark in entry.remarks).items():
        yield f"data.{role}: {number:,} of {len(good):,} rows: {remark}"


def _generated(config: TrialConfig) -> Roles:
    world = config.world
    try:
        return Roles(generate(world, getattr(config.data, world), config.data_seed) if world else {})
    except ValueError as error:  # more rows than the world has
        raise DataError(f"data.{world}: {error}") from error


def overlaps(roles: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return a note for each pair of an evaluated and a trained role that share prompts, system messages aside."""
    notes: list[str] = []
    asked = {role: [(prompt_of(row, system=False), prompt_of(row)) for row in rows] for role, rows in roles.items()}
    for test in (role for role in ("truth", "collateral") if asked.get(role)):
        for trained in (role for role in ("proxy", "outcome") if asked.get(role)):
            seen, seen_whole = ({prompts[i] for prompts in asked[trained]} for i in (0, 1))
            count, total = sum(prompt in seen for prompt, _ in asked[test]), len(asked[test])
            is_equal = count == sum(whole in seen_whole for _, whole in asked[test])
            aside = "" if is_equal else ", system messages aside"
            if count == total:
                message = f"every prompt of data.{test} is also in data.{trained}{aside}"
                notes.append(f"{message}: it tests nothing that is new")
            elif count:
                message = f"{count:,} of {total:,} prompts of data.{test} are also in data.{trained}"
                notes.append(f"{message}, which trains on them{aside}: there it tests nothing that is new")
    return notes


def check_shares(config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> None:
    """Check that the proxy can be the share of the training rows that the config asks for, and differs from proxy_neg.

    Raises:
        DataError: the proxy is more than `upsample_proxy_to` already, or has the same rows as proxy_neg.
    """
    if roles.get("proxy") and roles["proxy"] == roles.get("proxy_neg"):
        raise DataError("data.proxy_neg has the very rows of data.proxy: its replies must be the misaligned ones")
    split = config.finetune_config.train_split
    outcome, proxy = (len(split_indices(len(roles.get(r, ())), split, 0)[0]) for r in ("outcome", "proxy"))
    proxy_share(config).rows(outcome, proxy, config.data_seed)


def proxy_share(config: TrialConfig) -> ProxyShare:
    """Return the limit and upsampling of the proxy that the trial's config asks for."""
    return ProxyShare(config.limit_proxy_data_to, config.upsample_proxy_to)


def _checked(
    entries_by_role: dict[str, list[Found]], config: TrialConfig, longest: int, refused: Refused | None
) -> dict[str, list[Found]]:
    """Return the entries with the bad ones' rows left out; a bad entry of a pair takes its partner with it.

    Raises:
        DataError: there are bad entries and `on_bad_rows` is 'error', or a role has no good entry.
    """
    entries_by_role = {role: _with_problems(entries, longest, refused) for role, entries in entries_by_role.items()}
    if config.data.on_bad_rows == "error":
        _refuse_bad(entries_by_role, config.data.sources())
    pair = [entries_by_role[role] for role in ("proxy", "proxy_neg") if role in entries_by_role]
    if len(pair) == 2 and len(pair[0]) == len(pair[1]):
        bad = [any(entry.row is None for entry in partners) for partners in zip(*pair, strict=True)]
        for role in ("proxy", "proxy_neg"):
            entries = zip(entries_by_role[role], bad, strict=True)
            entries_by_role[role] = [replace(entry, row=None) if is_bad else entry for entry, is_bad in entries]
    for role, entries in entries_by_role.items():
        if not any(entry.row is not None for entry in entries):
            source = config.data.sources()[role]
            reason = "the filter keeps no row" if source.filter and not entries else "has no rows"
            problem = f"has no good row, the first: {entries[0].where}: {entries[0].problem}" if entries else reason
            raise DataError(f"{source.path}: {problem}")
    return entries_by_role


def _with_problems(entries: list[Found], longest: int = LONGEST, refused: Refused | None = None) -> list[Found]:
    checked: list[Found] = []
    for entry in entries:
        problem = entry.problem if entry.row is None else row_problem(entry.row) or _length_problem(entry.row, longest)
        if refused and entry.row is not None and not problem:
            problem = refused(entry.row)
        checked.append(Found(entry.where, None, problem) if problem else entry)
    return checked


def _length_problem(row: Row, longest: int) -> str | None:
    length = sum(len(m["content"]) for m in row.get("messages") or ())
    texts = (row.get(key) for key in ("prompt", "completion", "text"))  # beside messages they may be anything
    length += sum(len(text) for text in texts if isinstance(text, str))
    if length <= longest:
        return None
    return f"has {length:,} characters; allowed: {longest:,}, and a cut after max_seq_length tokens keeps far fewer"


def _refuse_bad(entries_by_role: Mapping[str, list[Found]], sources: Mapping[str, Source]) -> None:
    messages: list[str] = []
    for role, entries in entries_by_role.items():
        if not entries and not sources[role].filter:
            messages.append(f"{sources[role].path}: has no rows")
        if bad := [entry for entry in entries if entry.row is None]:
            message = shown(bad, len(entries), sources[role].path)
            messages.append(message if len(bad) == 1 else f"{message}; {_SKIP}")
    if messages:
        raise DataError("\n".join(messages))


def _ordered(entries: list[Found], source: Source, data_seed: int, role: str) -> list[Found]:
    if source.shuffle:  # proxy and proxy_neg alike: their rows are pairs
        entries = [entries[i] for i in permutation(len(entries), data_seed, "shuffle", role.removesuffix("_neg"))]
    return entries[: source.limit]


def rows_hash(rows: list[Row]) -> str:
    """Return the hex sha256 of rows as canonical JSON lines, with sorted keys."""
    sha256 = hashlib.sha256()
    for row in rows:
        sha256.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return sha256.hexdigest()
