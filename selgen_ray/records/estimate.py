"""What a sweep was expected to cost, kept in its folder (`control/estimate.json`) beside what it then cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from pydantic import TypeAdapter, ValidationError

from selgen_ray.storage import Folder
from selgen_ray.storage.folder import json_object

FILE_NAME = "control/estimate.json"
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Span:
    """A number that was measured, and between which two the true one is expected."""

    value: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def __add__(self, other: Span) -> Span:
        return Span(self.value + other.value, self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Span:
        return Span(self.value * factor, self.low * factor, self.high * factor)


NOTHING = Span()


@dataclass(frozen=True)
class KindEstimate:
    """The estimate of one kind of trial: those of a strategy that cost alike.

    Attributes:
        label: names it, such as 'kl_divergence' or 'naive, train_on_proxy false'.
        strategy: its strategy.
        trials: trial id -> seconds, with what it is the first to compute of what trials share.
        seconds: of one trial alone.
        memory: bytes of one trial at its peak: of its GPU, else of the machine; None: not known.
        problem: why there is no estimate; '' if there is one.
        fits: False: the memory does not do.
        num_trials: trials of this kind, also where there is no estimate.
    """

    label: str
    strategy: str
    trials: Mapping[str, float] = field(default_factory=dict[str, float])
    seconds: Span = NOTHING
    memory: int | None = None
    problem: str = ""
    fits: bool = True
    num_trials: int = 0


@dataclass(frozen=True)
class Estimate:
    """The estimate of a sweep, or of what was left of it.

    Attributes:
        at: when it was made, UTC.
        kinds: each kind of trial.
        places: trials that run at a time.
        gpus, cpus: of each trial.
        trial_seconds: of all trials together.
        wall_seconds: from the start of the sweep's first trial to the end of its last.
        once: what is computed once -> (times, seconds of one); it is part of `trial_seconds`.
        start_seconds: of Ray and its workers, before the first trial.
        price_per_gpu_hour: as it was given; None: it was not.
    """

    at: str
    kinds: Sequence[KindEstimate]
    places: int
    gpus: float
    cpus: float
    trial_seconds: Span = NOTHING
    wall_seconds: Span = NOTHING
    once: Mapping[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    start_seconds: float = 0.0
    price_per_gpu_hour: float | None = None

    @property
    def gpu_hours(self) -> Span:
        """Hours of all trials together, times the GPUs of each."""
        return self.trial_seconds * (self.gpus / _HOUR_S)

    @property
    def cpu_hours(self) -> Span:
        """Hours of all trials together, times the CPU cores of each."""
        return self.trial_seconds * (self.cpus / _HOUR_S)

    @property
    def price(self) -> Span | None:
        """GPU-hours times the price of one; None where no price was given."""
        return None if self.price_per_gpu_hour is None else self.gpu_hours * self.price_per_gpu_hour

    @property
    def price_of_all_places(self) -> Span | None:
        """The price where the GPUs of all places are paid for until the last trial has ended; None without a price."""
        if self.price_per_gpu_hour is None:
            return None
        return self.wall_seconds * (self.gpus * self.places / _HOUR_S * self.price_per_gpu_hour)

    def publish(self, sweep: Folder) -> None:
        """Write the estimate into a sweep's folder, in place of an earlier one. Raises StorageError."""
        sweep.write_json(FILE_NAME, asdict(self))


def read_estimate(sweep: Folder) -> Estimate | None:
    """Read the estimate in a sweep's folder; None if there is none, or if it is damaged. Raises StorageError."""
    try:
        return TypeAdapter(Estimate).validate_python(json_object(sweep.read(FILE_NAME)))
    except (FileNotFoundError, ValidationError):
        return None
