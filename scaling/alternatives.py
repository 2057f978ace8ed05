"""What else could sensibly be done: the Pareto table of a plan, and the curves of a page about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from scaling.allocation import PLAIN, Needs, Priced
from scaling.errors import Refusal, ScalingError
from scaling.execution import MOST_SEARCHED, Cluster, Execution, execute, friendly
from scaling.hardware.serving import serving
from scaling.hardware.workload import Workload
from scaling.laws.surface import PNormLaw
from scaling.shape import Shape
from scaling.sources import Sized, Source

SMALLER = ((2.0, "half"), (4.0, "a quarter of"))
CURVE_POINTS = 41  # of the curve, at least, where the sizes are that many
CURVE_SPAN = 8.0
CHIP_FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
WORTH = 0.3  # an alternative that wastes more than this is no longer sensible
SERVED = (1, 2, 4, 8)  # chips of one replica


@dataclass(frozen=True)
class Alternative:
    """A run beside the planned one: `flops` is its training compute as the source counts it."""

    name: str
    params: float
    tokens: float
    flops: float
    loss: float
    waste: float


def alternatives(
    source: Source, run: Sized, needs: Needs, cluster: Cluster | None, chips: int | None
) -> list[dict[str, Any]]:
    """Non-dominated runs around the plan: no other is at most as dear to train, as large and as bad at once.

    Empty for a law without a surface, whose losses cannot be compared.
    """
    law = source.surface
    if law is None:
        return []
    rows = _pareto(list(_options(source, law, run, needs)))
    return [_row(option, source, run, cluster, chips) for option in rows]


def _options(source: Source, law: PNormLaw, run: Sized, needs: Needs) -> Iterator[Alternative]:
    """In the accounting of the source: with dear embeddings half the size does not buy twice the tokens."""
    found = run.allocation
    price = Priced(law, needs.unique_tokens)

    def option(name: str, params: float, tokens: float, flops: float) -> Alternative:
        loss = float(price.loss(params, tokens))
        best = source.allocate(flops, PLAIN).loss
        waste = 1 - float(law.compute_for_loss(loss) / law.compute_for_loss(best))
        return Alternative(name, params, tokens, flops, loss, waste)

    yield option("as planned", found.params, found.tokens, found.flops)
    if found.shaped_by:
        own = source.allocate(found.flops, PLAIN)
        yield option("the law's own optimum", own.params, own.tokens, own.flops)
    for factor, said in SMALLER:
        params = found.params / factor
        buys = source.tokens_for(params, found.flops)
        yield option(f"{said} the size, same compute", params, buys, found.flops)
        tokens = _tokens_for(price, params, found.loss, found.tokens)
        if tokens is not None:
            yield option(f"{said} the size, same loss", params, tokens, found.flops * tokens / buys)


def _tokens_for(price: Priced, params: float, loss: float, tokens: float) -> float | None:
    """Tokens at which this size reaches `loss`; None where 30 times as many do not."""
    low, high = tokens, tokens * 30
    if float(price.loss(params, high)) > loss:
        return None
    for _ in range(50):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if float(price.loss(params, middle)) > loss else (low, middle)
    return high


def _pareto(options: list[Alternative]) -> list[Alternative]:
    """The planned run, and of the others those that nothing beats in size, compute and loss at once."""

    def beaten(one: Alternative) -> bool:
        return any(
            other is not one
            and other.params <= one.params * 1.001
            and other.flops <= one.flops * 1.001
            and other.loss < one.loss * (1 - 1e-6)
            for other in options
        )

    return [one for i, one in enumerate(options) if i == 0 or (one.waste <= WORTH and not beaten(one))]


def _row(
    option: Alternative, source: Source, run: Sized, cluster: Cluster | None, chips: int | None
) -> dict[str, Any]:
    row = vars(option) | {
        "tokens_per_param": option.tokens / option.params,
        "serve_flops_per_token": 2 * option.params,
        "seconds": None,
        "cost_usd": None,
        "decode_s_per_token": None,
    }
    if cluster is None or chips is None:
        return row
    try:
        shape = source.shape_of(option.params)
        made = replace(run, shape=shape, tokens=option.tokens, flops=option.flops)
        done = execute(made, cluster, chips)
        row |= {"seconds": done.seconds, "cost_usd": done.cost_usd}
        row["decode_s_per_token"] = decode_seconds(shape, run.seq, cluster)
    except ScalingError:
        pass  # what does not fit these chips has no time on them
    return row


def decode_seconds(shape: Shape, seq: int, cluster: Cluster) -> float | None:
    """Least seconds between two tokens of one request on 1 to 8 chips of a node; None where it fits none."""
    times = []
    work = Workload.of(shape, seq, 1)
    prompt = max(1, seq // 2)
    for chips in SERVED:
        try:
            times.append(
                serving(work, cluster.chip, chips, batch=1, prompt=prompt, answer=prompt).decode_step_s
            )
        except ScalingError:
            continue
    return min(times, default=None)


def leaving_optimum(source: Source, flops: float, unique_tokens: float | None) -> dict[str, Any]:
    """The curve of waste and loss against size at one compute, from an eighth to eight times the optimum."""
    curve = source.waste_curve(flops, unique_tokens)
    params = curve[0]
    centre = source.allocate(flops, PLAIN).params
    near = (params >= centre / CURVE_SPAN) & (params <= centre * CURVE_SPAN)
    pick = slice(None, None, max(1, int(near.sum()) // CURVE_POINTS))
    return {
        name: values[near][pick]
        for name, values in zip(("params", "tokens", "loss", "waste"), curve, strict=True)
    }


def against_chips(run: Sized, cluster: Cluster, planned: Execution) -> dict[str, list[Any]]:
    """Time and cost of the planned run on other numbers of chips; those that cannot run it are left out."""
    curve: dict[str, list[Any]] = {
        key: [] for key in ("chips", "seconds", "seconds_lo", "seconds_hi", "cost_usd", "mfu")
    }
    counts = {friendly(planned.chips * factor) for factor in CHIP_FACTORS if factor != 1}
    for chips in sorted(counts | {planned.chips}):
        if chips > MOST_SEARCHED:
            continue
        try:
            done = planned if chips == planned.chips else execute(run, cluster, chips)
        except Refusal:
            continue
        low, high = done.spread
        for key, value in (
            ("chips", chips),
            ("seconds", done.seconds),
            ("seconds_lo", done.seconds * low),
            ("seconds_hi", done.seconds * high),
            ("cost_usd", done.cost_usd),
            ("mfu", done.choice.step.mfu),
        ):
            curve[key].append(value)
    return curve
