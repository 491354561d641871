"""The role of a setting: one of a strategy's, or a control, a run that the strategies are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from selgen_ray.records.names import is_warm_name, warm_name
from selgen_ray.records.results import TrialResult

_SLUG = "control_"
BASE, TASK_ALONE = "base model", "task alone"


class Kind(StrEnum):
    """The kinds of roles. A control has a name, a colour and a mark of its own, and never leads."""

    STRATEGY = "strategy"
    TASK_ALONE = "task alone"
    """Trained on the task without any proxy: the gain of a strategy is measured from here."""
    CONTROL = "control"
    """A control that the sweep's section `controls` names, such as one on clean data; a warm-started setting; or trials
    whose strengths a scheduler changed.

    A warm start has had more training than what begins with the start model, so it stands beside it and never leads.
    """


@dataclass(frozen=True)
class Role:
    """What a setting is compared as, and under which name: its strategy, 'task alone', or the name of a control."""

    kind: Kind
    name: str

    @property
    def is_control(self) -> bool:
        """Whether strategies are compared with it, rather than it with them."""
        return self.kind is not Kind.STRATEGY


def strategy_of(result: TrialResult) -> str:
    """Return the trial's proxy_strategy; 'unknown' where its config has none."""
    return str(result.config.get("proxy_strategy") or "unknown")


def control_of(result: TrialResult) -> str:
    """Return the trial's name in the section `controls` of its sweep; '': it is none of them."""
    return str(result.config.get("control") or "")


def is_outcome_only(result: TrialResult) -> bool:
    """Return whether it is plain training on the outcome alone, by its config or because there was no proxy."""
    no_proxy = bool(result.num_rows) and "train/proxy" not in result.num_rows
    return strategy_of(result) == "naive" and (result.config.get("train_on_proxy") is False or no_proxy)


def _named(result: TrialResult) -> Role | None:
    """Return the role of a control that the section `controls` names; the task alone has a kind of its own."""
    name = control_of(result)
    return Role(Kind.CONTROL, name) if name and name != TASK_ALONE else None


def _changed(result: TrialResult) -> Role | None:
    """Return the role of a trial whose strengths were changed on the way: it is no setting of its strategy."""
    return Role(Kind.CONTROL, f"{strategy_of(result)}, changed on the way") if result.changes else None


def _warm_started(result: TrialResult) -> Role | None:
    """Return the role of a trial that began with another's weights: 'dpo begun from naive_1a2b3c/seed_1'."""
    whose = str(result.config.get("warm_start") or "")
    return Role(Kind.CONTROL, f"{strategy_of(result)} begun from {warm_name(whose)}") if whose else None


# A function for each kind of control: the role of a trial that is one, else None. A new kind needs a line here. Named
# ones come first: 'oracle' is trained on clean data alone, and must not pass for the task alone; nor must a warm start.
_RULES: tuple[Callable[[TrialResult], Role | None], ...] = (
    _warm_started,
    _named,
    _changed,
    lambda result: Role(Kind.TASK_ALONE, TASK_ALONE) if is_outcome_only(result) else None,
)


def role_of(result: TrialResult) -> Role:
    """Return the role of a trial: the first rule that knows it, else its strategy."""
    roles = (rule(result) for rule in _RULES)
    return next((role for role in roles if role), Role(Kind.STRATEGY, strategy_of(result)))


def role_of_setting(trials: Iterable[TrialResult]) -> Role:
    """Return the role of a setting's trials: a control if any of them is, since one that failed early may not say."""
    roles = [role_of(result) for result in trials]
    return next((role for role in roles if role.is_control), roles[0])


def is_control_name(slug: str) -> bool:
    """Return whether a planned trial's folder is that of a control, such as 'control_oracle_1a2b3c'."""
    return slug.startswith(_SLUG) or is_warm_name(slug)


def slug_head(slug: str) -> str:
    """Return a setting's name without the hash at its end."""
    return slug.rpartition("_")[0]


def as_planned(result: TrialResult, slug: str | None, spelled: Mapping[str, str]) -> TrialResult:
    """Return a result as one of the control, or of the strategy, that its setting's name in the plan says.

    Args:
        slug: the name in the plan; None: no plan has the setting, and the result stays what it was when it ran.
        spelled: name of a setting without its hash -> the control's name as the search space spelled it.
    """
    if slug is None or is_warm_name(slug):
        return result
    if not is_control_name(slug) and not is_control_name(result.slug):
        return result  # both names say that it is none
    control = spelled.get(slug_head(slug)) or role_in_name(slug, "") if is_control_name(slug) else ""
    if control == control_of(result):
        return result
    return result.model_copy(update={"config": {**result.config, "control": control or None}})


def role_in_name(slug: str, strategy: str) -> str:
    """Return the name of the role of a planned trial, of which its folder's name is all that is known.

    Args:
        slug: 'naive_train_on_proxy-false_1a2b3c', or of a control 'control_oracle_1a2b3c'.
        strategy: what the slug begins with, as far as a strategy is known.
    """
    if is_warm_name(slug):
        return slug_head(slug)
    if is_control_name(slug):
        name = slug_head(slug).removeprefix(_SLUG)
        return TASK_ALONE if name == TASK_ALONE.replace(" ", "-") else name
    return TASK_ALONE if strategy == "naive" and "train_on_proxy-false" in slug.lower() else strategy
