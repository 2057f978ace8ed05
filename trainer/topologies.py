"""TPU slices by the compiler's names for them."""

from __future__ import annotations

import math
from typing import Any

from scaling.errors import UsageError

# Dims of a slice's grid, the most chips a slice has along each (cloud.google.com/tpu/docs, the page of
# each version), and what the compiler has to be told besides. TPU7x has two devices a chip: not here.
GRIDS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "v4": ((16, 16, 16), {"chip_config_name": "megacore"}),
    "v5e": ((16, 16), {}),
    "v5p": ((16, 20, 28), {}),
    "v6e": ((16, 16), {}),
}


def grid(chip: str, chips: int) -> tuple[int, ...]:
    """The most nearly cubic slice of so many chips, smallest side first; UsageError where there is none.

    >>> grid("v5e", 256), grid("v5p", 64), grid("v6e", 8)
    ((16, 16), (4, 4, 4), (2, 4))
    """
    if chip not in GRIDS:
        raise UsageError(
            f"the TPU compiler is asked for {', '.join(GRIDS)} only, not for {chip!r}; "
            "choose one of them or leave the check out."
        )
    limits = GRIDS[chip][0]
    found = [g for g in _grids(chips, limits) if chips < 4 or (g[-1] % 2 == 0 and g[-2] % 2 == 0)]
    if not found:
        raise UsageError(
            f"{chips} chips are no slice of TPU {chip} (sides up to {' x '.join(map(str, limits))}, hosts of "
            "2 x 2); choose a power of two within it."
        )
    return min(found, key=lambda g: (g[-1] / g[0], g))


def _grids(chips: int, limits: tuple[int, ...], least: int = 1) -> list[tuple[int, ...]]:
    """Every way to write `chips` as a product of rising sides within rising `limits`."""
    if len(limits) == 1:
        return [(chips,)] if least <= chips <= limits[0] else []
    sides = (n for n in range(least, limits[0] + 1) if chips % n == 0)
    return [(n, *rest) for n in sides for rest in _grids(chips // n, limits[1:], n)]


def topology(chip: str, chips: int) -> tuple[str, dict[str, Any]]:
    """Name and options by which `jax.experimental.topologies` knows a slice.

    >>> topology("v5p", 16)
    ('v5p:4x2x2', {})
    """
    sides = grid(chip, chips)[::-1]
    options = dict(GRIDS[chip][1])
    if math.prod(sides) < 4:
        options["chips_per_host_bounds"] = (*sides, 1)[:3]
    return f"{chip}:{'x'.join(map(str, sides))}", options
