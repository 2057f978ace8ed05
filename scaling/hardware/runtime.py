"""Time and cost of a run at a STATED utilisation: one division, and every assumption beside it.

A model of layout, memory and step time is a different matter; this one answers "a day or a month?".
"""

from __future__ import annotations

from dataclasses import dataclass

from scaling.errors import UsageError
from scaling.hardware.catalogue import Chip

DEFAULT_UTILISATION = 0.4
HOUR = 3600.0


@dataclass(frozen=True)
class RunTime:
    """seconds = flops / (chips x peak x utilisation); chip_hours = chips x hours; costs in US dollars.

    `cost_usd` is None when neither a price was given nor one is known; the low and high figures are
    the spread of market prices where a source states one.
    """

    accelerator: str
    title: str
    chips: int
    utilisation: float
    flops: float
    flops_convention: str
    peak_flops_per_s: float
    peak_format: str
    seconds: float
    chip_hours: float
    price_usd: float | None
    price_source: str | None
    cost_usd: float | None
    cost_low_usd: float | None
    cost_high_usd: float | None


def run_time(
    flops: float,
    convention: str,
    chip: Chip,
    chips: int = 1,
    utilisation: float = DEFAULT_UTILISATION,
    price_usd: float | None = None,
) -> RunTime:
    """Time of `flops`, counted under `convention`, at a share `utilisation` of the chips' dense peak.

    >>> from scaling.hardware.catalogue import find_chip
    >>> round(run_time(1e22, "6nd", find_chip("a100-80gb"), 1000).chip_hours)
    22258
    """
    if chips < 1:
        raise UsageError(f"--chips must be at least 1; {chips} was given.")
    if not 0 < utilisation <= 1:
        raise UsageError(f"--utilisation must lie above 0 and at most at 1; {utilisation:g} was given.")
    if price_usd is not None and not price_usd >= 0:
        raise UsageError(f"--price must not be negative; {price_usd:g} was given.")
    peak, form = chip.training_peak
    seconds = flops / (chips * peak * utilisation)
    hours = chips * seconds / HOUR
    known = chip.figures.get("price_usd_per_hour")
    source = "as given" if price_usd is not None else None
    if price_usd is None and known is not None:
        price_usd, source = known.value, f"{known.source}, {known.date}"
    low, high = (chip.figure(f"price_{end}_usd_per_hour") for end in ("low", "high"))
    if source == "as given":
        low = high = None
    elif source is None and low is not None:
        spread = chip.figures["price_low_usd_per_hour"]
        source = f"{spread.source}, {spread.date}"
    return RunTime(
        accelerator=chip.name,
        title=chip.title,
        chips=chips,
        utilisation=utilisation,
        flops=flops,
        flops_convention=convention,
        peak_flops_per_s=peak,
        peak_format=form,
        seconds=seconds,
        chip_hours=hours,
        price_usd=price_usd,
        price_source=source,
        cost_usd=None if price_usd is None else hours * price_usd,
        cost_low_usd=None if low is None else hours * low,
        cost_high_usd=None if high is None else hours * high,
    )
