"""Running a job for weeks: failures, checkpoints, goodput, storage, energy and money.

The clock of a job that never fails is not what is paid for. Chips fail at a stated rate, each failure
throws away the work since the last checkpoint, and writing checkpoints takes time itself. The interval
that loses least is Young's (1974) and Daly's (2006); every assumed number is returned beside the
result, with its source, and can be replaced.

Units: seconds, bytes, watts, kWh, US dollars. Chips are counted as in the catalogue.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from scaling.errors import UsageError
from scaling.hardware.catalogue import Chip
from scaling.quantities import HOUR, MINUTE

# Bytes of checkpoint per parameter: the float32 weights and the optimizer's own state; gradients are
# not kept. AdamW two moments (Kingma & Ba 2014, arXiv:1412.6980), Lion one (Chen et al. 2023,
# arXiv:2302.06675), Muon one for its matrices (Jordan et al. 2024; its AdamW share, embeddings and
# gains, is left out), Adafactor rows and columns only, a negligible part (arXiv:1804.04235).
CHECKPOINT_BYTES_PER_PARAM = {
    "adamw": 12.0,
    "adamw-bf16-momentum": 10.0,
    "lion": 8.0,
    "muon": 8.0,
    "momentum": 8.0,
    "adafactor": 4.0,
    "weights": 2.0,  # bf16 weights alone: what is served, not what is resumed
}


@dataclass(frozen=True)
class Assumption:
    """A number that the user did not give, and where it comes from."""

    name: str
    value: float
    unit: str
    source: str

    def given(self, value: float | None) -> Assumption:
        """The user's own number in its place, when there is one; never below zero."""
        if value is None:
            return self
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"{self.name} must be a number of at least 0, not {value!r} ({self.unit}).")
        return dataclasses.replace(self, value=float(value), source="as given")


LLAMA3 = (
    "Grattafiori et al. 2024, arXiv:2407.21783, section 3.3.4: 419 unexpected interruptions in 54 days on "
    "16,384 H100"
)
RSC1 = "Kokolis et al. 2024, arXiv:2410.21680: 6.50 node failures per 1,000 node-days on RSC-1, 8 A100 a node"
FAILURE_RATE = Assumption(
    "failures per chip-hour", 419 / (54 * 24 * 16_384), "failures per chip and hour", LLAMA3
)
FAILURE_RATE_A100 = Assumption(
    "failures per chip-hour", 6.50 / (1000 * 24 * 8), "failures per chip and hour", RSC1
)
RESTART = Assumption(
    "restart time",
    10 * MINUTE,
    "s from failure to the first new step",
    "assumed; Llama 3 lost at most 18.6 min a failure in all (over 90% effective time, arXiv:2407.21783)",
)
STORAGE_SPEED = Assumption(
    "checkpoint write speed per chip",
    2e12 / 16_384,
    "B/s",
    "Llama 3's file system, 2 TB/s sustained, over 16,384 chips (arXiv:2407.21783, section 3.3.1)",
)
PUE = Assumption(
    "power usage effectiveness",
    1.56,
    "site power over machine power",
    "Uptime Institute Global Data Center Survey 2024, industry mean (large operators report 1.1)",
)
HOST_POWER = Assumption(
    "machine power over chip power",
    10_200 / (8 * 700),
    "ratio",
    "NVIDIA DGX H100 user guide: at most 10.2 kW for eight chips of 700 W",
)


def checkpoint_bytes(params: float, optimizer: str = "adamw") -> float:
    """Bytes of one resumable checkpoint.

    >>> checkpoint_bytes(70e9) / 1e9
    840.0
    """
    if optimizer not in CHECKPOINT_BYTES_PER_PARAM:
        known = ", ".join(CHECKPOINT_BYTES_PER_PARAM)
        raise UsageError(f"optimizer {optimizer!r} has no known checkpoint size; known are {known}.")
    return params * CHECKPOINT_BYTES_PER_PARAM[optimizer]


def young_interval(write_s: float, mtbf_s: float) -> float:
    """Seconds of work between checkpoints, first order: sqrt(2 delta M) (Young 1974, CACM 17:530)."""
    return math.sqrt(2 * write_s * mtbf_s)


def daly_interval(write_s: float, mtbf_s: float) -> float:
    """Seconds of work between checkpoints that lose least: Daly's higher-order estimate.

    Daly 2006, Future Generation Computer Systems 22:303, equation 37; Young's is its first term. Where
    writing takes longer than twice the time between failures, M itself.
    """
    if write_s >= 2 * mtbf_s:
        return mtbf_s
    x = write_s / (2 * mtbf_s)
    return young_interval(write_s, mtbf_s) * (1 + math.sqrt(x) / 3 + x / 9) - write_s


def expected_wall(
    train_s: float, interval_s: float, write_s: float, restart_s: float, mtbf_s: float
) -> float:
    """Expected seconds of a job of `train_s` of useful work, checkpointed every `interval_s` of work.

    Exact for failures at a constant rate, which may also strike while writing or restarting:
    M e^(R/M) (e^((tau + delta)/M) - 1) T / tau (Daly 2006, equation 13). Infinite where no interval
    is ever likely to be finished.
    """
    if not math.isfinite(mtbf_s):
        return train_s * (1 + write_s / interval_s)
    exponent = (interval_s + write_s) / mtbf_s
    if exponent + restart_s / mtbf_s > 700:  # beyond a double: no such job ends
        return math.inf
    return mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1(exponent) * train_s / interval_s


@dataclass(frozen=True)
class Operations:
    """What it takes to see a job of `train_s` useful seconds through on `chips` chips.

    `goodput` = train_s / wall_s; the rest of the wall is split into `writing_share` (checkpoints) and
    `failure_share` (lost work and restarts). `storage_bytes` is what `kept` checkpoints fill,
    `written_bytes` all that is written. `energy_kwh` is at the chips' rated power, host and site
    included: an upper estimate; None where the rating is unknown. `cost_usd` pays every hour of the wall;
    None without a price; low and high are the spread of market prices where a source states one.
    """

    chips: int
    train_s: float
    wall_s: float
    goodput: float
    writing_share: float
    failure_share: float
    chip_hours: float
    mtbf_s: float
    failures: float
    checkpoint_bytes: float
    checkpoint_write_s: float
    checkpoint_interval_s: float
    checkpoints: int
    kept: int
    storage_bytes: float
    written_bytes: float
    energy_kwh: float | None
    price_usd_per_chip_hour: float | None
    price_source: str | None
    cost_usd: float | None
    cost_low_usd: float | None
    cost_high_usd: float | None
    assumptions: tuple[Assumption, ...]


def operations(
    chip: Chip,
    chips: int,
    train_s: float,
    params: float,
    *,
    optimizer: str = "adamw",
    price_usd: float | None = None,
    failures_per_chip_hour: float | None = None,
    restart_s: float | None = None,
    write_bytes_per_s: float | None = None,
    interval_s: float | None = None,
    pue: float | None = None,
    host_power: float | None = None,
    kept: int = 3,
) -> Operations:
    """Wall time, goodput, storage, energy and cost of `train_s` seconds of training on `chips` chips.

    `write_bytes_per_s` is the speed at which the whole job writes a checkpoint (training waits for it:
    an asynchronous writer loses less); `interval_s` replaces Daly's. Raises UsageError on impossible
    numbers.
    """
    if chips < 1:
        raise UsageError(f"the number of chips must be at least 1, not {chips}.")
    if not (math.isfinite(train_s) and train_s > 0 and math.isfinite(params) and params > 0):
        raise UsageError(f"training seconds ({train_s!r}) and parameters ({params!r}) must be positive.")
    if kept < 1:
        raise UsageError(f"at least one checkpoint must be kept, not {kept}.")
    rate = FAILURE_RATE.given(failures_per_chip_hour)
    restart = RESTART.given(restart_s)
    site, host = PUE.given(pue), HOST_POWER.given(host_power)
    per_chip = None if write_bytes_per_s is None else write_bytes_per_s / chips
    speed = STORAGE_SPEED.given(per_chip)
    if speed.value == 0:
        raise UsageError("the write speed of checkpoints must be above 0 B/s.")
    size = checkpoint_bytes(params, optimizer)
    write_s = size / (speed.value * chips)
    mtbf_s = HOUR / (rate.value * chips) if rate.value else math.inf
    if interval_s is None:
        interval_s = min(train_s, daly_interval(write_s, mtbf_s) if rate.value else train_s)
    elif not interval_s > 0:
        raise UsageError(f"the interval between checkpoints must be above 0 s, not {interval_s!r}.")
    wall = expected_wall(train_s, interval_s, write_s, restart.value, mtbf_s)
    written = max(1, math.ceil(train_s / interval_s * (1 - 1e-12)))
    writing = train_s / interval_s * write_s
    hours = chips * wall / HOUR
    power = chip.figure("power_w")
    energy = None if power is None else hours * power / 1000 * host.value * site.value
    price, source, low, high = price_of(chip, price_usd)
    return Operations(
        chips=chips,
        train_s=train_s,
        wall_s=wall,
        goodput=train_s / wall,
        writing_share=writing / wall,
        failure_share=1 - (train_s + writing) / wall if math.isfinite(wall) else 1.0,
        chip_hours=hours,
        mtbf_s=mtbf_s,
        failures=wall / mtbf_s,
        checkpoint_bytes=size,
        checkpoint_write_s=write_s,
        checkpoint_interval_s=interval_s,
        checkpoints=written,
        kept=kept,
        storage_bytes=size * min(kept, written),
        written_bytes=size * written,
        energy_kwh=energy,
        price_usd_per_chip_hour=price,
        price_source=source,
        cost_usd=None if price is None else price * hours,
        cost_low_usd=None if low is None else low * hours,
        cost_high_usd=None if high is None else high * hours,
        assumptions=(rate, restart, speed, host, site),
    )


def price_of(
    chip: Chip, price_usd: float | None = None
) -> tuple[float | None, str | None, float | None, float | None]:
    """Dollars per chip-hour, whose figure that is, and the low and high of the market, each if known.

    A price that was given stands alone: the market's spread says nothing about it.
    """
    if price_usd is not None:
        if not (math.isfinite(price_usd) and price_usd >= 0):
            raise UsageError(f"--price must be a number of at least 0, not {price_usd!r}.")
        return price_usd, "as given", None, None
    known = chip.figures.get("price_usd_per_hour")
    low, high = (chip.figures.get(f"price_{end}_usd_per_hour") for end in ("low", "high"))
    said = known or low
    return (
        None if known is None else known.value,
        None if said is None else f"{said.source}, {said.date}",
        None if low is None else low.value,
        None if high is None else high.value,
    )


def mtbf_hours(chips: int, failures_per_chip_hour: float = FAILURE_RATE.value) -> float:
    """Hours between failures of a job that needs all its chips.

    >>> round(mtbf_hours(16_384), 2)
    3.09
    """
    return 1 / (failures_per_chip_hour * chips)
