"""Which kernels a run uses and how well they fill the chip: generation of attention, fusion, tiles."""

from __future__ import annotations

import math

from scaling.hardware.constants import Constants
from scaling.hardware.device import Device
from scaling.hardware.workload import Layout, Workload

HOPPER = 400e12  # FLOP/s: chips below are of Ampere's generation, and so are Megatron's runs on them


def padded(width: float, tile: int) -> float:
    """`width` rounded up to whole tiles of the matrix unit."""
    return math.ceil(width / tile) * tile


def modern(work: Workload, layout: Layout, device: Device) -> bool:
    """Whether a run uses kernels of 2024 or later: as stated, or implied by framework, window or chip."""
    if layout.kernels is not None:
        return layout.kernels == "modern"
    return layout.framework != "pytorch" or device.young or work.sliding_window is not None


def attention_kernel(work: Workload, layout: Layout, device: Device, c: Constants) -> tuple[float, float]:
    """Share of peak of a fused attention at long spans, and the span at which it runs at half of that.

    Framework and chip imply the kernel's generation: Megatron's runs on Ampere, and PyTorch's without
    a better word, are of the first.
    """
    if device.kind == "tpu":
        return c.attention_tpu, c.attention_edge
    ampere = device.peak < HOPPER
    if modern(work, layout, device) and not (ampere and layout.framework == "megatron"):
        return c.attention_modern, c.attention_edge
    return (c.attention_ampere if ampere else c.attention_hopper_2023), c.attention_edge_2023


def fused_traffic(work: Workload, layout: Layout, device: Device, c: Constants) -> float:
    """Elementwise memory traffic over that of unfused kernels."""
    if layout.framework == "megatron":
        return c.elementwise_megatron
    return c.elementwise_jax if modern(work, layout, device) else c.elementwise_pytorch
