"""A chip as the step-time model sees it: rates in FLOP/s and bytes/s, from the catalogue's figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scaling.errors import ScalingError
from scaling.hardware.catalogue import Chip, catalogue
from scaling.hardware.constants import Constants
from scaling.hardware.memory import capacity
from scaling.hardware.workload import Layout

MEMORY, INSIDE, BETWEEN = "memory bandwidth", "bandwidth in a node", "bandwidth between nodes"
# FLOPs per byte of memory traffic that today's training chips are built around (A100 153, H100 295,
# v5e 240, B200 281): it stands in where no memory bandwidth is known.
TYPICAL_INTENSITY = 250.0
PCIE = 25e9  # bytes/s one way, PCIe 4 x16 less its protocol: the link of cards sold without another one
TYPICAL_NIC = 6.25e9  # bytes/s: 50 Gbit/s a chip, what a TPU host gives
NODE_CHIPS = {"gb200": 72, "gb300": 72, "trn1": 16, "trn2": 16}  # chips of one fast network; 8 elsewhere
THREE_AXES = ("v4", "v5p", "tpu7x")  # TPUs wired as a 3-D torus; the others are 2-D
# Chips younger than the unfused PyTorch trainers and first fused kernels that A100 and H100 rows are of.
YOUNG = (
    *("h200", "gh200", "b100", "b200", "gb200", "b300", "gb300", "rtx5090"),
    *("mi300x", "mi325x", "mi355x", "gaudi3", "trn2", "trn3"),
)
WIDE_ARRAYS = ("v6e", "tpu7x")  # matrix units of 256 x 256; 128 x 128 before


@dataclass(frozen=True)
class Device:
    """`peak` and `gemm` are FLOP/s; `memory`, `inner` (in a node or TPU slice) and `outer` bytes/s.

    `tile` is the width that fills the matrix unit, `axes` those of the torus, `capacity` usable bytes.
    """

    kind: str  # gpu | tpu
    peak: float
    gemm: float
    memory: float
    inner: float
    outer: float
    node: int
    axes: int
    tile: int
    capacity: float
    young: bool
    assumed: tuple[str, ...]


def guessed(device: Device, layout: Layout) -> tuple[str, ...]:
    """The assumed figures that a run under `layout` depends on."""
    crosses = layout.slices > 1 if device.kind == "tpu" else layout.n_chips > device.node
    matters = {MEMORY: True, INSIDE: layout.n_chips > 1, BETWEEN: crosses}
    return tuple(name for name in device.assumed if matters[name])


def view(chip: Chip, constants: Constants, precision: str = "bf16") -> Device:
    """What the model needs to know of `chip`; `assumed` names every figure the catalogue lacks."""
    figure = chip.figure
    peak, _form = chip.training_peak
    ceiling = figure("bf16_measured_tflops")
    assumed = []
    tpu = chip.vendor == "Google"
    if tpu:
        gemm = constants.gemm_ceiling_tpu * peak
    elif ceiling is not None:
        gemm = constants.gemm_sustained * ceiling * 1e12
    else:
        gemm = constants.gemm_sustained * peak * _measured_share(chip.name, constants)
    if precision == "fp8":
        fast = figure("fp8_tflops")
        if fast is None:
            raise ScalingError(f"{chip.title}: no fp8 peak is known; give precision bf16.")
        gemm *= fast * 1e12 / peak
        peak = fast * 1e12
    memory = figure("memory_tb_per_s")
    if memory is None:
        assumed.append(MEMORY)
        memory = peak / TYPICAL_INTENSITY / 1e12
    memory *= 1e12
    inner = figure("intra_node_gb_per_s")
    if inner is None:
        assumed.append(INSIDE)
        inner = PCIE / 1e9
    outer = figure("inter_node_gb_per_s")
    if outer is None:
        assumed.append(BETWEEN)
        outer = TYPICAL_NIC / 1e9 if tpu else inner / 9
    return Device(
        kind="tpu" if tpu else "gpu",
        peak=peak,
        gemm=gemm,
        memory=memory,
        inner=inner * 1e9,
        outer=outer * 1e9,
        node=NODE_CHIPS.get(chip.name, 8),
        axes=3 if chip.name in THREE_AXES else 2,
        tile=256 if chip.name in WIDE_ARRAYS else 128 if tpu else 64,
        capacity=capacity(chip) if figure("memory_gb") else math.inf,
        young=chip.name in YOUNG,
        assumed=tuple(assumed),
    )


# Chips without a measured matmul whose die is that of one with it.
SAME_DIE = {"a100_40gb": "a100_80gb", "h200": "h100"}


def _measured_share(name: str, constants: Constants) -> float:
    """Best measured matmul over peak, of the chip's twin or of GPUs in general."""
    twin = SAME_DIE.get(name)
    if twin is None:
        return constants.gemm_ceiling_unmeasured
    chip = catalogue()[twin]
    return (chip.figure("bf16_measured_tflops") or 0.0) * 1e12 / chip.training_peak[0]
