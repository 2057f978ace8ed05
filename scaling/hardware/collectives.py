"""Seconds on the wire of the collectives of a training step, inside a node or slice and between them.

Rings move size x (n - 1) / n bytes a chip to gather or to reduce and scatter, twice that to
all-reduce. A GPU node's chips share their network cards: a ring with several members in each node
gets the cards of all of them, up to the bandwidth inside. A TPU slice is a torus: the axis of tensor
parallelism takes one of its axes, FSDP the others; slices meet over the data-centre network.
"""

from __future__ import annotations

from scaling.hardware.constants import Constants
from scaling.hardware.device import Device
from scaling.hardware.workload import Layout

BF16, FP32 = 2, 4


def gather_seconds(layout: Layout, device: Device, c: Constants, size: float) -> float:
    """Seconds on the wire to gather (or reduce and scatter) `size` bytes over the fsdp axis.

    Inside a node or slice every chip receives all of it; between them a node's chips share the
    transfer, each fetching its part over its own link to the slow network.
    """
    near = layout.tensor * layout.context
    if device.kind == "tpu":
        inside = min(layout.fsdp, max(1.0, layout.n_chips / layout.slices / near / layout.pipeline))
        free = device.axes - (1 if near > 1 else 0)
        fast = c.bus_share_tpu * device.inner * free / device.axes
        between = 1 - inside / layout.fsdp
        return size * (1 - 1 / inside) / fast + size * between / inside / device.outer
    return size * (1 - 1 / layout.fsdp) / ring_bandwidth(near * layout.fsdp, near, device, c)


def ring_bandwidth(spread: float, near: float, device: Device, c: Constants) -> float:
    """Bytes/s per GPU of a ring whose members lie `near` apart and together span `spread` chips."""
    if spread <= device.node:
        return c.bus_share_gpu * device.inner
    return c.bus_share_gpu * min(device.inner, device.outer * max(1.0, device.node / near))


def tensor_bandwidth(layout: Layout, device: Device, c: Constants) -> float:
    """Bytes/s per chip of the tensor (or context) axis: one torus axis, or the node's network."""
    if device.kind == "tpu":
        return c.bus_share_tpu * device.inner / device.axes
    if layout.tensor * layout.context <= device.node:
        return c.bus_share_gpu * device.inner
    return c.bus_share_gpu * device.outer


def hop_bandwidth(layout: Layout, device: Device) -> float:
    """Bytes/s from one pipeline stage to the next, over the slowest link between two of them."""
    far = layout.slices > 1 if device.kind == "tpu" else layout.n_chips > device.node
    return device.outer if far else device.inner


def gradient_seconds(layout: Layout, device: Device, c: Constants, weights: float) -> float:
    """Seconds on the wire of the gradients' all-reduce (fp32 in megatron, else bf16), once a step."""
    size = FP32 if layout.framework == "megatron" else BF16
    if layout.zero == 3:
        weights /= layout.fsdp
        ranks = layout.data
    else:
        ranks = layout.data * layout.fsdp
    volume = 2.0 * size * weights * (1 - 1 / ranks)
    if device.kind == "tpu":
        return volume / (device.outer if layout.slices > 1 else c.bus_share_tpu * device.inner / device.axes)
    near = layout.tensor * layout.context * (layout.fsdp if layout.zero == 3 else 1)
    return volume / ring_bandwidth(ranks * near, near, device, c)
