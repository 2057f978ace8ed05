"""How far an estimate may be off: each term's own doubt, and what is unknown about the chip.

A term that published rows pin down (matmuls) has little doubt, one that differs from cluster to
cluster (collectives, launches) has much; a step made of doubtful terms gets a wide interval. Chips
and frameworks that no published row calibrated add theirs. The figures are standard deviations of
logarithms; `benchmarks/planner_step_time.py` measures what share of published rows the intervals hold.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from scaling.hardware.catalogue import Chip
from scaling.hardware.device import Device, guessed
from scaling.hardware.workload import Layout

NORMAL_90 = 1.645
BASE = 0.022  # what remains on a calibrated chip when compute is all there is
DOUBT = {  # of each term, relative to itself
    "matmul": 0.0,
    "matmul shape": 0.3,
    "recompute": 0.08,
    "attention": 0.1,
    "elementwise": 0.15,
    "fsdp": 0.25,
    "tensor": 0.3,
    "context": 0.4,
    "gradients": 0.4,
    "pipeline": 0.3,
    "optimizer": 0.3,
    "overhead": 0.4,
    "stragglers": 0.5,
}
SEEN = 0.6  # share of that doubt that is left where published rows of chip and framework were fitted
NEW_CHIP = 0.07  # no published rows of this chip were fitted, only of others
NEW_FRAMEWORK = 0.05  # ... or of this framework on this chip
FEW = 3  # rows below which a chip and framework do not count as calibrated
NEW_FORMAT = 0.1  # fp8: scaling, casts and transposes differ by recipe
NEW_LAYOUT = 0.1  # the source does not state the layout
NEW_REMAT = 0.1  # ... or what is recomputed
NEW_FIGURE = 0.04  # each bandwidth that is assumed
EAGER_SCORES = 0.05  # attention that writes its scores out
PROBED = 0.09  # what remains after probes of a machine, on shapes that were not probed
MOST = 0.45  # wider than a factor of 2 in all says nothing


@cache
def calibrated_on() -> frozenset[tuple[str, str]]:
    """(chip, framework) pairs that enough published rows calibrated."""
    rows: Counter[tuple[str, str]] = Counter()
    with open(Path(__file__).parent / "calibrated.csv", encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            rows[row["chip"], row["framework"]] += int(row["rows"])
    return frozenset(pair for pair, count in rows.items() if count >= FEW)


@cache
def calibrated_chips() -> frozenset[str]:
    return frozenset(chip for chip, _ in calibrated_on())


def half_width(
    terms: Mapping[str, float], layout: Layout, chip: Chip, device: Device, profile: Any = None
) -> float:
    """Half the 90% interval of the logarithm of the step time."""
    total = sum(terms.values())
    square = 0.0
    for name, value in terms.items():
        part = DOUBT[name] * value
        square += part * part
    terms_variance = square / (total * total)
    if (chip.name, layout.framework) in calibrated_on():
        variance = BASE**2 + terms_variance * SEEN**2
    else:
        new = NEW_FRAMEWORK if chip.name in calibrated_chips() else NEW_CHIP
        variance = BASE**2 + terms_variance + new**2
    if layout.precision == "fp8":
        variance += NEW_FORMAT**2
    if not layout.parallelism_known:
        variance += NEW_LAYOUT**2
    if layout.remat == "unknown":
        variance += NEW_REMAT**2
    if not layout.flash_attention:
        variance += EAGER_SCORES**2
    variance += len(guessed(device, layout)) * NEW_FIGURE**2
    if profile is not None:
        variance = PROBED**2 + variance / (1 + profile.probes)
    return min(NORMAL_90 * math.sqrt(variance), MOST)
