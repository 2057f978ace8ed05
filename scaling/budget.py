"""One solve over all constraints: from days, dollars, FLOPs or a target loss to the compute to plan for.

FLOPs, days on k chips, and dollars each bound the compute from above; the smallest bound binds. Days
and dollars depend on the step time of the very run that they buy, so the estimate is in the loop: the
compute is bisected over a fixed grid of its logarithm, and at every point the law's optimum is sized,
given a batch, laid out and timed. Since the grid is fixed, a larger limit can never end lower, even
where the step time jumps from shape to shape; behind such a jump the grid is searched for a tenth more,
where a shape that suits the chips better may keep the limit again. A target loss asks for a compute
instead; it is refused, with the nearest loss, where a bound lies below it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from scaling.allocation import Needs
from scaling.errors import Refusal, UsageError
from scaling.execution import (
    USUAL_DAYS,
    Cluster,
    Execution,
    enough_chips,
    execute,
    fewest_that_hold,
    friendly,
)
from scaling.quantities import DAY, HOUR, format_count, format_duration, format_flops, format_money
from scaling.sources import Sized, Source

GRAIN = 0.01  # of the fixed grid in ln C
LEAST, MOST = 1400, 7800  # its ends, in grains: 1.2e6 to 7e33 FLOPs
BEYOND = 10  # grains above the first crossing in which a larger compute may still keep the limit
FINE = 5e-4  # of ln C, between two points of the grid
PEAK_SLACK = 0.2  # shapes with a large vocabulary execute fewer FLOPs than 6 N D counts


@dataclass(frozen=True)
class Limits:
    """What was asked for; at least one of the four."""

    flops: float | None = None
    seconds: float | None = None
    usd: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Budget:
    """The compute to plan for. `binding` names the option (or "memory") that decides it; `bounds` holds
    each constraint's own compute; `slack` says what is left unused."""

    flops: float
    binding: str
    chips: int | None
    needs: Needs
    bounds: dict[str, float]
    slack: str | None = None


def solve(source: Source, limits: Limits, needs: Needs, cluster: Cluster | None) -> Budget:
    """The training compute under all of `limits`; raises Refusal or UsageError with what binds."""
    _check(limits, cluster)
    required = None if limits.loss is None else source.flops_for_loss(limits.loss, needs)
    bounds: dict[str, float] = {}
    if limits.flops is not None:
        bounds["--flops"] = limits.flops
    chips = None
    if cluster is not None:
        chips = cluster.chips or _choose_chips(source, limits, needs, cluster, required)
        for limit in _hardware_limits(limits, cluster, chips):
            flops, needs, memory_binds = _most(source, needs, cluster, chips, limit)
            option = limit.option
            bounds["memory" if memory_binds else option] = flops
    binding = min(bounds, key=lambda name: bounds[name]) if bounds else ""
    if required is None:
        return Budget(bounds[binding], binding, chips, needs, bounds)
    if bounds and bounds[binding] < required * (1 - 1e-9):
        reached = source.sized(bounds[binding], needs)
        raise Refusal(
            f"--target-loss {limits.loss:g} needs {format_flops(required)} FLOPs and {binding} allows "
            f"{format_flops(bounds[binding])}: {binding} is what binds; the nearest plan reaches "
            f"{reached.allocation.loss:.4f} (--target-loss {_up(reached.allocation.loss):g})."
        )
    slack = None
    if bounds:
        slack = f"{binding} would allow {bounds[binding] / required:.3g}x the compute that the target needs"
    return Budget(required, "--target-loss", chips, needs, bounds, slack)


def _up(loss: float) -> float:
    return math.ceil(loss * 1e3) / 1e3


def execution_of(sized: Sized, cluster: Cluster, chips: int, source: Source) -> Execution:
    """`execute`, whose refusal also names the nearest feasible plans."""
    try:
        return execute(sized, cluster, chips)
    except Refusal as refusal:
        if "memory is what binds" not in str(refusal):
            raise
        nearest = []
        enough = fewest_that_hold(sized, cluster, chips)
        if enough is not None:
            nearest.append(f"{enough:,} chips hold it")
        largest = _largest_that_fits(sized, cluster, chips, source)
        if largest is not None:
            nearest.append(
                f"{chips:,} hold {format_count(largest)} parameters (--max-params {format_count(largest)})"
            )
        said = "; ".join(nearest) or "no plan near it fits either"
        raise Refusal(f"{str(refusal).rstrip('.')}; nearest: {said}.") from None


def _check(limits: Limits, cluster: Cluster | None) -> None:
    if limits.flops is None and limits.seconds is None and limits.usd is None and limits.loss is None:
        raise UsageError(
            "say what limits the run: --flops, --days with --chips and --accelerator, --budget-usd with "
            "--accelerator, or --target-loss."
        )
    for option, value in (("--days", limits.seconds), ("--budget-usd", limits.usd)):
        if value is not None and cluster is None:
            raise UsageError(f"{option} needs --accelerator: what a chip does in that is what is bought.")
    if cluster is None:
        return
    if limits.usd is not None and not cluster.price:
        raise UsageError(
            f"--budget-usd needs --price: no price of the {cluster.chip.title} is known; give US dollars per "
            "chip-hour above zero."
        )
    others = (limits.flops, limits.usd, limits.loss)
    if limits.seconds is not None and cluster.chips is None and not any(others):
        raise UsageError("--days needs --chips: say how many chips work for so long.")


@dataclass(frozen=True)
class _Limit:
    """What may be used up on the cluster: `seconds` of it, in whatever unit the option states them."""

    option: str
    seconds: float
    keeps: Callable[[Execution], bool]


def _hardware_limits(limits: Limits, cluster: Cluster, chips: int) -> list[_Limit]:
    found = []
    if limits.seconds is not None:
        seconds = limits.seconds
        found.append(_Limit("--days", seconds, lambda run: run.seconds <= seconds))
    if limits.usd is not None:
        usd, price = limits.usd, cluster.price
        assert price is not None
        lasts = usd / price / chips * HOUR
        found.append(_Limit("--budget-usd", lasts, lambda run: (run.cost_usd or 0.0) <= usd))
    return found


def _choose_chips(
    source: Source, limits: Limits, needs: Needs, cluster: Cluster, required: float | None
) -> int:
    """Chips where nobody said how many: what the money lasts for, or what finishes in time."""
    seconds = limits.seconds or USUAL_DAYS * DAY
    if limits.usd is not None:
        price = cluster.price
        assert price is not None
        wanted = limits.usd / (price * seconds / HOUR)
        return friendly(wanted, up=limits.seconds is None)
    flops = min(x for x in (limits.flops, required) if x is not None)
    return enough_chips(source.sized(flops, needs), cluster, seconds)


def _most(
    source: Source,
    needs: Needs,
    cluster: Cluster,
    chips: int,
    limit: _Limit,
) -> tuple[float, Needs, bool]:
    """The largest compute whose optimum keeps the limit: (FLOPs, needs, whether memory binds).

    Where memory ends it sooner, the size is capped at what fits and the rest of the limit goes into
    tokens: that run is over-trained, and better than stopping early.
    """

    def search(needs: Needs) -> tuple[float, Refusal | None]:
        """The largest compute near the crossing, and the Refusal just above it that is not the limit's."""

        def fits(log_flops: float) -> tuple[bool, Refusal | None]:
            return _fits(source, needs, cluster, chips, math.exp(log_flops), limit)

        low, high = LEAST, MOST
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle * GRAIN)[0] else (low, middle)
        for grain in range(low + BEYOND, low, -1):  # a shape that suits the chips better may follow
            if fits(grain * GRAIN)[0]:
                low = grain
                break
        inside, outside = low * GRAIN, (low + 1) * GRAIN
        why = fits(outside)[1]
        while outside - inside > FINE:
            between = (inside + outside) / 2
            good, found = fits(between)
            inside, outside, why = (between, outside, why) if good else (inside, between, found)
        return math.exp(inside), why

    flops, why = search(needs)
    if why is None or "memory" not in str(why):
        _end_of_search(source, needs, cluster, chips, flops, limit)
        return flops, needs, False
    capped = replace(needs, params_max=source.sized(flops, needs).allocation.params, cap_of="memory")
    flops, _ = search(capped)
    _end_of_search(source, capped, cluster, chips, flops, limit)
    return flops, capped, True


def _fits(
    source: Source,
    needs: Needs,
    cluster: Cluster,
    chips: int,
    flops: float,
    limit: _Limit,
) -> tuple[bool, Refusal | None]:
    """Whether a compute can be had; the Refusal that stands in the way when it is not the limit itself."""
    if PEAK_SLACK * cluster.least_seconds(flops, chips) > limit.seconds:
        return False, None
    try:
        return limit.keeps(execute(source.sized(flops, needs), cluster, chips)), None
    except Refusal as refusal:
        small = "smaller --vocab" in str(refusal) or "below one step" in str(refusal)
        return small, refusal


def _end_of_search(
    source: Source,
    needs: Needs,
    cluster: Cluster,
    chips: int,
    flops: float,
    limit: _Limit,
) -> None:
    """Raise where the search ended on a compute that buys nothing at all."""
    found = execution_of(source.sized(flops, needs), cluster, chips, source)
    if not limit.keeps(found):
        raise Refusal(
            f"{limit.option} is too little for any run on {chips:,} x {cluster.chip.title}: the smallest "
            f"takes {format_duration(found.seconds)} and costs {format_money(found.cost_usd)}."
        )


def _largest_that_fits(sized: Sized, cluster: Cluster, chips: int, source: Source) -> float | None:
    """The most parameters that fit on these chips at the same compute, to three digits."""
    low, high = 0.0, math.log(sized.shape.params())
    low = high - math.log(4096)
    found = None
    while high - low > 0.02:
        middle = (low + high) / 2
        try:
            shape = source.shape_of(math.exp(middle))
            tokens = sized.tokens * sized.shape.params() / shape.params()
            execute(replace(sized, shape=shape, tokens=tokens), cluster, chips)
        except Refusal:
            high = middle
        else:
            low, found = middle, shape.params()
    return None if found is None else float(f"{found * 0.995:.2g}")
