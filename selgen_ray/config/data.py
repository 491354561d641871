"""The section `data` of a trial's config: where the rows of each role come from."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from selgen_ray.config.source import Source, TrainingPrompt
from selgen_ray.schema import Strict, setting
from selgen_ray.worlds import WORLDS
from selgen_ray.worlds.careless import CarelessOptions
from selgen_ray.worlds.gcd import GcdOptions
from selgen_ray.worlds.points import PointOptions
from selgen_ray.worlds.toy import ToyOptions
from selgen_ray.worlds.triggers import TriggerOptions
from selgen_ray.worlds.two_traits import TwoTraitOptions

ROLES = ("outcome", "proxy", "proxy_neg", "trait", "truth", "collateral")


class DataConfig(Strict):
    """The source of the rows of each role. Without any path, and with `model: toy`, the toy world generates them."""

    outcome: Source | None = setting(None, "the task to learn")
    proxy: Source | None = setting(None, "aligned examples")
    proxy_neg: Source | None = setting(None, "the proxy's prompts with misaligned answers")
    trait: Source | None = setting(None, "the unwanted habit alone, in another domain than the task")
    truth: Source | None = setting(None, "evaluates alignment where it was not trained")
    collateral: Source | None = setting(None, "held-out task items")
    on_bad_rows: Literal["error", "skip"] = setting("error", "rows that cannot be used: refuse them, or leave them out")
    world: Literal["toy", "gcd", "triggers", "points", "careless", "two_traits"] | None = setting(
        None, "generator of the roles that have no path"
    )
    toy: ToyOptions = setting(ToyOptions.model_validate({}), "sizes of the toy world's sets")
    gcd: GcdOptions = setting(GcdOptions.model_validate({}), "sizes and difficulty, for world: gcd")
    triggers: TriggerOptions = setting(TriggerOptions.model_validate({}), "sizes and coverage, for world: triggers")
    points: PointOptions = setting(PointOptions.model_validate({}), "sizes and coverage, for world: points")
    careless: CarelessOptions = setting(CarelessOptions.model_validate({}), "sizes, for world: careless")
    two_traits: TwoTraitOptions = setting(TwoTraitOptions.model_validate({}), "sizes, for world: two_traits")

    @model_validator(mode="after")
    def _no_options_of_another_world(self) -> DataConfig:
        generator = self.world or (None if self.sources() else "toy")
        for name in WORLDS:
            options = getattr(self, name).model_dump(exclude_defaults=True)
            if options and name != generator:
                reason = f"data.world is {self.world}" if self.world else "data.world is not"
                raise ValueError(
                    f"data.{name}.{next(iter(options))} is given, but {reason}: set world: {name}, or leave it out"
                )
        return self

    def training_prompts(self) -> dict[str, TrainingPrompt]:
        """Return role -> training prompt, for the roles whose source has one."""
        return {role: source.training_prompt for role, source in self.sources().items() if source.training_prompt}

    def sources(self) -> dict[str, Source]:
        """Return role -> source, for the roles that have one."""
        return {role: source for role in ROLES if (source := getattr(self, role)) is not None}
