"""How long the runs of a sweep take, and what they cost, on the machines that are to train them.

Three clocks, the best-informed first: chips of a named kind (the model behind `scaling estimate`), the
profile that `scaling calibrate` measured on this machine, and the table of sweeps.timing, a stated guess.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from scaling.errors import Refusal, ScalingError
from scaling.files import read_json
from scaling.hardware.operations import price_of
from scaling.hardware.profile import FORMAT, Profile, read_profile
from scaling.hardware.workload import Workload
from scaling.shape import Shape
from sweeps.timing import EVALUATE_S, training_seconds, wall_seconds
from sweeps.trackers import PROFILE

if TYPE_CHECKING:
    from scaling.execution import Cluster

HOUR = 3600.0
NAME = "profile.json"


@dataclass(frozen=True)
class Took:
    """Seconds of one run with a 90% interval (None where the clock knows none), on `chips` chips or cores."""

    seconds: float
    lo: float | None = None
    hi: float | None = None
    chips: int = 1

    def share(self, share: float) -> Took:
        """A run that trains `share` of its steps itself and takes the others over."""
        lo, hi = (None if end is None else share * end for end in (self.lo, self.hi))
        return Took(share * self.seconds, lo, hi, self.chips)


class Clock(Protocol):
    """`source` says in words where the times come from, `kind` is guess, profile or accelerator, `price`
    is in US dollars per chip-hour (or core-hour)."""

    @property
    def kind(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def price(self) -> float | None: ...
    def took(self, shape: Shape, tokens: int, seq: int, batch: int) -> Took: ...


@dataclass(frozen=True)
class Guess:
    """The table of sweeps.timing: one pinned core of an AVX-512 server."""

    price: float | None = None
    kind: str = "guess"
    source: str = "a stated guess for one core (`scaling calibrate` measures this machine)"

    def took(self, shape: Shape, tokens: int, seq: int, batch: int) -> Took:
        return Took(training_seconds(shape, tokens, seq))


@dataclass(frozen=True)
class Measured:
    """A profile of `scaling calibrate`: one core, or one accelerator, as it was measured."""

    profile: Profile
    path: str
    price: float | None = None
    kind: str = "profile"
    _steps: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def source(self) -> str:
        one = "core" if self.profile.device == "cpu" else "chip"
        return f"{self.path}, one {one} of {self.profile.model}, measured {self.profile.measured[:10]}"

    def took(self, shape: Shape, tokens: int, seq: int, batch: int) -> Took:
        key = (shape, seq, batch)
        if key not in self._steps:
            self._steps[key] = self.profile.step_seconds(Workload.of(shape, seq, batch))
        step, steps = self._steps[key], tokens / (seq * batch)
        seconds, lo, hi = (steps * value + EVALUATE_S for value in (step.seconds, step.lo, step.hi))
        return Took(seconds, lo, hi)


@dataclass(frozen=True)
class Chips:
    """Chips of one kind: every run on `per_run` of them, or on the fewest that hold it."""

    cluster: Cluster
    per_run: int | None = None
    kind: str = "accelerator"

    @property
    def price(self) -> float | None:
        return self.cluster.price

    @property
    def source(self) -> str:
        _, whose, _, _ = price_of(self.cluster.chip, self.cluster.price_usd)
        paid = "no price known, give --price" if whose is None else f"${self.price:g} an hour ({whose})"
        return (
            f"the step-time model for {self.cluster.chip.title} ({paid}; starting and compiling a run not "
            "counted)"
        )

    def took(self, shape: Shape, tokens: int, seq: int, batch: int) -> Took:
        work = Workload.of(shape, seq, batch)
        chips, step = self._fewest(work)
        seconds, lo, hi = (tokens / (seq * batch) * value for value in (step.seconds, step.lo, step.hi))
        return Took(seconds, lo, hi, chips)

    def _fewest(self, work: Workload) -> tuple[int, Any]:
        """The chips of a run and its step; Refusal where no number of the chips there are holds it."""
        if self.per_run is not None:
            return self.per_run, self.cluster.layout(work, self.per_run).step
        chips, most = 1, self.cluster.chips or 1024
        while True:
            try:
                return chips, self.cluster.layout(work, chips).step
            except Refusal:
                if 2 * chips > most:
                    raise
                chips *= 2


def clock_of(
    folder: str | Path,
    profile: Path | None = None,
    cluster: Cluster | None = None,
    per_run: int | None = None,
    price: float | None = None,
) -> Clock:
    """The clock that was asked for; else the user's profile where one lies, else the guess.

    A profile is looked for under $SCALING_PROFILE, in `folder` and here. ScalingError where the one that
    was named is none.
    """
    if cluster is not None:
        return Chips(cluster, per_run)
    if profile is not None:
        return Measured(read_profile(profile), str(profile), price)
    for path in (os.environ.get(PROFILE), Path(folder) / NAME, Path(NAME)):
        if path and Path(path).is_file():
            try:
                read_json(path, expect=FORMAT)
                return Measured(read_profile(path), str(path), price)
            except ScalingError:  # somebody else's file of that name, or a damaged one: the guess says so
                continue
    return Guess(price)


def costs(
    clock: Clock, runs: Sequence[tuple[Shape, Took]], pool: int | None, compile_each: bool = True
) -> dict[str, Any]:
    """Wall time, chip-hours and money of runs spread over `pool` chips or cores (None: all at once).

    On this machine every new shape is compiled once.
    """
    pool = pool or max(1, sum(took.chips for _, took in runs))
    found: dict[str, Any] = {}
    for name in ("seconds", "lo", "hi"):
        values = [getattr(took, name) for _, took in runs]
        known = None if None in values else [float(value) for value in values]
        found["time_s" if name == "seconds" else f"time_{name}"] = (
            None if known is None else _wall(runs, known, pool, compile_each)
        )
    hours = sum(took.seconds * took.chips for _, took in runs) / HOUR
    return {
        **found,
        "chip_hours": hours,
        "price_usd_per_hour": clock.price,
        "cost_usd": None if clock.price is None else hours * clock.price,
        "timing": {"kind": clock.kind, "source": clock.source},
    }


def row(clock: Clock, took: Took) -> Mapping[str, Any]:
    """A run's time and money for the preview."""
    money = None if clock.price is None else took.seconds * took.chips / HOUR * clock.price
    return {
        "time_s": took.seconds, "time_lo": took.lo, "time_hi": took.hi, "chips": took.chips,
        "cost_usd": money,
    }  # fmt: skip


def _wall(
    runs: Sequence[tuple[Shape, Took]], seconds: Sequence[float], pool: int, compile_each: bool
) -> float:
    if compile_each:
        return wall_seconds(zip((shape for shape, _ in runs), seconds, strict=True), pool)
    work = sum(s * took.chips for s, (_, took) in zip(seconds, runs, strict=True))
    return max(work / pool, max(seconds, default=0.0))
