"""A sized run on given chips: its batch, layout, step time, wall time and money."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scaling.batching import Batch, choose_batch
from scaling.errors import Refusal, ScalingError
from scaling.hardware.catalogue import Chip
from scaling.hardware.layout import Choice, search_layout
from scaling.hardware.operations import Operations, operations, price_of
from scaling.hardware.workload import Workload
from scaling.quantities import DAY, format_count
from scaling.shape import Shape
from scaling.sources import Sized

if TYPE_CHECKING:
    from scaling.hardware.probes import Profile

USUAL_DAYS = 30.0  # a run nobody gave a time for should be over by then
MOST_SEARCHED = 2**20  # chips; where a search for enough of them ends


@dataclass(frozen=True)
class Cluster:
    """The hardware as asked for; `chips` None lets the planner choose."""

    chip: Chip
    chips: int | None = None
    price_usd: float | None = None
    batch_tokens: float | None = None
    profile: Profile | None = None
    memory_limit: float | None = None
    _choices: dict[Any, Choice] = field(default_factory=dict, repr=False, compare=False)

    @property
    def price(self) -> float | None:
        """US dollars per chip-hour: as given, else the catalogue's."""
        return price_of(self.chip, self.price_usd)[0]

    def layout(self, work: Workload, chips: int) -> Choice:
        """The fastest layout; remembered, since a solver asks for neighbours of the same shape again."""
        key = (work, chips)
        if key not in self._choices:
            self._choices[key] = search_layout(
                work, self.chip, chips, profile=self.profile, memory_limit=self.memory_limit
            )
        return self._choices[key]

    def least_seconds(self, flops: float, chips: int) -> float:
        """No run of this compute is shorter: every FLOP at the peak."""
        return flops / (chips * self.chip.training_peak[0])


@dataclass(frozen=True)
class Execution:
    """`seconds` is wall time: steps, and what failures and checkpoints are expected to cost."""

    chip: Chip
    chips: int
    shape: Shape
    tokens: float
    batch: Batch
    steps: int
    choice: Choice
    operations: Operations

    @property
    def seconds(self) -> float:
        return self.operations.wall_s

    @property
    def spread(self) -> tuple[float, float]:
        """Factors of the 90% interval of the step time."""
        step = self.choice.step
        return step.lo / step.seconds, step.hi / step.seconds

    @property
    def cost_usd(self) -> float | None:
        return self.operations.cost_usd


def execute(sized: Sized, cluster: Cluster, chips: int) -> Execution:
    """`sized` on `chips` chips of the cluster. Raises Refusal where it cannot run there."""
    batch = batch_of(sized, cluster, chips)
    steps = max(1, round(sized.tokens / batch.tokens))
    choice = cluster.layout(Workload.of(sized.shape, sized.seq, batch.sequences), chips)
    ops = operations(
        cluster.chip,
        chips,
        steps * choice.step.seconds,
        float(sized.shape.params()),
        price_usd=cluster.price_usd,
    )
    return Execution(cluster.chip, chips, sized.shape, sized.tokens, batch, steps, choice, ops)


def batch_of(sized: Sized, cluster: Cluster, chips: int) -> Batch:
    """The recipe's batch where there is one, else the one asked for, else the published laws'."""
    if sized.sequences is not None:
        return Batch(sized.sequences, sized.seq, "the recipe", {}, None, None)
    return choose_batch(
        float(sized.shape.params()),
        sized.tokens,
        sized.flops,
        sized.seq,
        chips,
        sized.loss,
        cluster.batch_tokens,
    )


def friendly(chips: float, up: bool = True) -> int:
    """A power of two, or one and a half of it, at or beyond (`up`) `chips`; whole nodes of 8 from 8 on.

    >>> friendly(9.7), friendly(471), friendly(471, up=False)
    (16, 512, 384)
    """
    options = sorted({2**k for k in range(27)} | {3 * 2**k for k in range(3, 26)})
    fitting = [n for n in options if (n >= chips if up else n <= chips)]
    if not fitting:
        return options[-1] if up else options[0]
    return fitting[0] if up else fitting[-1]


def enough_chips(sized: Sized, cluster: Cluster, seconds: float) -> int:
    """The fewest friendly chips that hold the run and finish it within `seconds`.

    Raises Refusal where no number does: then the batch, or the time, is what binds.
    """
    chips = friendly(cluster.least_seconds(sized.flops, 1) / seconds)
    last: Execution | None = None
    why: ScalingError | None = None
    while chips <= MOST_SEARCHED:
        try:
            found = execute(sized, cluster, chips)
        except Refusal as refusal:
            if last is not None or "memory" not in str(refusal):
                why = refusal
                break
            why = refusal
        else:
            if found.seconds <= seconds:
                return chips
            if last is not None and found.seconds >= last.seconds:
                break  # more chips no longer help
            last = found
        chips = friendly(chips + 1)
    if last is not None:
        days = last.seconds / DAY
        raise Refusal(
            f"no number of {cluster.chip.title} chips finishes {sized.flops:.3g} FLOPs within "
            f"{seconds / DAY:.3g} days: the batch of {format_count(last.batch.tokens)} tokens is what binds; "
            f"{last.chips:,} chips take {days:.3g} days (--days {math.ceil(days)})."
        )
    assert why is not None
    raise why


def fewest_that_hold(sized: Sized, cluster: Cluster, beyond: int) -> int | None:
    """The fewest friendly chips above `beyond` on which the run fits; None where none was found."""
    return _first(
        lambda chips: execute(sized, cluster, chips) is not None, beyond, min(MOST_SEARCHED, beyond * 4096)
    )


def _first(works: Callable[[int], bool], beyond: int, most: int) -> int | None:
    chips = friendly(beyond + 1)
    while chips <= most:
        try:
            if works(chips):
                return chips
        except Refusal:
            pass
        chips = friendly(chips + 1)
    return None
