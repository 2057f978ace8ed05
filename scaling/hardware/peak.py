"""The peak that a utilisation is measured against: of a known chip, of a profile, or none at all.

A chip that nobody has looked up has no peak here, and so no utilisation: a fallback to another chip's
peak has shown 106% where 15% was true (docs/trainer.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaling.errors import ScalingError

if TYPE_CHECKING:
    from scaling.hardware.profile import Profile

HALVES = ("v2", "v3", "tpu7x", "mi250", "mi250x")  # chips that JAX shows as two devices


@dataclass(frozen=True)
class Peak:
    """FLOP/s of all the devices of a run and what they are the peak of; None with the reason why."""

    flops_per_s: float | None
    source: str


def chip_peak(kind: str, devices: int = 1) -> Peak:
    """The catalogue's dense peak of `devices` devices of this kind, as JAX names it; None if unknown."""
    from scaling.hardware.catalogue import find_chip

    try:
        chip = find_chip(kind)
        flops, form = chip.training_peak
    except ScalingError:
        return Peak(None, f"no MFU: the dense peak of {kind!r} is not in the catalogue")
    half = 0.5 if chip.name in HALVES else 1.0
    return Peak(flops * half * devices, f"{chip.title}, dense {form} peak")


def profile_peak(profile: Profile, kind: str, devices: int = 1) -> Peak:
    """The best matrix product that `scaling calibrate` saw on a device of this kind; None for another's."""
    if profile.model != kind:
        return Peak(None, f"no MFU: the profile is of {profile.model}, the run is on {kind}")
    return Peak(profile.matmul_flops_per_s * devices, f"{kind}, best {profile.dtype} product calibrated")
