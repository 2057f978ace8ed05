"""How chips should share a run: every sensible layout, pruned by memory, ranked by predicted step time.

The axes multiply to the number of chips. Tensor stays inside a node (its collectives cannot be hidden)
and divides heads, kv heads and the feed-forward width; context divides the sequence, and leaves the node
where sequences are long; pipeline divides the layers and is considered only where nothing else fits or
shares the batch, since the trainer has none: it is for planning, with the optimizer shared as Megatron
does. What is left are ranks that see different sequences, so they must divide the batch. FSDP shards
over all ranks, over a node, over a slice, or not at all. The micro-batch is a divisor of a rank's share.
Of the remat policies the least that fits is taken: at equal micro-batch, recomputing more is never
faster. All of it is analytic: some 30 microseconds a candidate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scaling.errors import Refusal
from scaling.hardware.catalogue import Chip
from scaling.hardware.constants import Constants, calibrated
from scaling.hardware.device import Device, view
from scaling.hardware.memory import Memory, capacity, training_memory
from scaling.hardware.step import StepTime, estimate_step, step_terms
from scaling.hardware.workload import Layout, Remat, Workload
from scaling.quantities import format_bytes

if TYPE_CHECKING:
    from scaling.hardware.probes import Profile

REMATS: tuple[Remat, ...] = ("none", "minimal", "full")  # from the least recomputed to the most
LARGEST_MICRO = 64  # sequences; beyond it matmuls are as full as they get
LONG_SEQUENCE = 16_384  # tokens from which the context axis is worth trying though nothing demands it
TENSOR, CONTEXT, PIPELINE = (1, 2, 4, 8), (1, 2, 4, 8, 16), (2, 4, 8, 16, 32)
# Chips of one slice (jax-ml/scaling-book; cloud.google.com/tpu/docs): beyond it the slow network joins.
SLICE_CHIPS = {"v4": 4096, "v5e": 256, "v5p": 8960, "v6e": 256, "tpu7x": 9216}


@dataclass(frozen=True)
class Choice:
    """The fastest layout that fits; `tried` candidates were held against `limit` bytes, `fitting` fit."""

    layout: Layout
    step: StepTime
    memory: Memory
    limit: float
    tried: int
    fitting: int
    reason: str


@dataclass(frozen=True)
class Tally:
    """What a search met on its way; `least` is the smallest need of memory, None without any candidate."""

    tried: int = 0
    fitting: int = 0
    least: tuple[float, Layout] | None = None


def search_layout(
    work: Workload,
    chip: Chip,
    chips: int,
    *,
    profile: Profile | None = None,
    memory_limit: float | None = None,
    pipeline: bool = True,
) -> Choice:
    """The layout of `work` on `chips` chips with the least predicted step time that fits in memory.

    `memory_limit` is in bytes a chip (None: what the chip has). Raises Refusal, naming what binds: too
    many chips for the batch, or no layout that fits.
    """
    limit = capacity(chip) if memory_limit is None else memory_limit
    constants = calibrated() if profile is None else profile.constants
    device = view(chip, constants)
    best, tally = _fastest(work, chip, chips, device, limit, (1,), constants)
    why = ""
    if best is None and pipeline:
        why = "no layout without a pipeline " + ("fits" if tally.tried else "shares the batch")
        best, more = _fastest(work, chip, chips, device, limit, PIPELINE, constants)
        least = min((t.least for t in (tally, more) if t.least), key=lambda x: x[0], default=None)
        tally = Tally(tally.tried + more.tried, more.fitting, least)
    if best is None:
        raise Refusal(_why_not(work, chip, chips, limit, tally, device))
    step = estimate_step(work, best, chip, profile)
    memory = training_memory(work, best)
    said = "; ".join(filter(None, (_reason(best, memory, limit), why)))
    return Choice(best, step, memory, limit, tally.tried, tally.fitting, said)


def candidates(
    work: Workload, chip: Chip, chips: int, device: Device, pipelines: tuple[int, ...] = (1,)
) -> Iterator[list[Layout]]:
    """Groups of layouts that differ in remat alone, least recomputation first."""
    sequences = math.floor(work.batch)
    per_slice = SLICE_CHIPS.get(chip.name, chips)
    slices = max(1, math.ceil(chips / per_slice))
    contexts = CONTEXT if work.seq_len >= LONG_SEQUENCE or chips > sequences else (1,)
    for pipeline in pipelines:
        if work.n_layers % pipeline:
            continue
        for tensor in TENSOR:
            if work.n_heads % tensor or work.n_kv_heads % tensor or work.d_ff % tensor or work.vocab % tensor:
                continue
            for context in contexts:
                near = tensor * context
                beyond = near > device.node and work.seq_len < LONG_SEQUENCE
                if beyond or work.seq_len % context or chips % (near * pipeline):
                    continue
                ranks = chips // (near * pipeline)
                if sequences % ranks:
                    continue
                base = Layout(n_chips=chips, tensor=tensor, pipeline=pipeline, context=context, slices=slices)
                for shared in _sharded(base, ranks, near, device.node):
                    for micro in _micro_batches(sequences // ranks):
                        accum = sequences // ranks // micro
                        yield [
                            replace(shared, micro_batch_seqs=micro, grad_accum=accum, remat=remat)
                            for remat in REMATS
                        ]


def _sharded(base: Layout, ranks: int, near: int, node: int) -> Iterator[Layout]:
    """The ranks as data x fsdp: all sharded, over a node, half a node or a slice, and only replicated."""
    inside = max(1, node // near)
    options = {ranks, min(inside, ranks), min(inside, ranks) // 2, ranks // base.slices, 1}
    if base.pipeline > 1:  # stages keep their weights and share the optimizer alone, as Megatron does
        yield replace(base, data=ranks, fsdp=1, zero=1)
    for fsdp in sorted(options, reverse=True):
        if fsdp < 1 or ranks % fsdp:
            continue
        yield replace(
            base,
            data=ranks // fsdp,
            fsdp=fsdp,
            fsdp_intra=math.gcd(fsdp, inside),
            zero=3 if fsdp > 1 else 0,
        )


def _micro_batches(share: int) -> list[int]:
    """Divisors of a rank's sequences that are powers of two, and the whole share, up to the largest."""
    sizes = {2**k for k in range(LARGEST_MICRO.bit_length()) if share % 2**k == 0}
    sizes.add(share if share <= LARGEST_MICRO else 1)
    return sorted(size for size in sizes if size <= LARGEST_MICRO)


def _fastest(
    work: Workload,
    chip: Chip,
    chips: int,
    device: Device,
    limit: float,
    pipelines: tuple[int, ...],
    constants: Constants,
) -> tuple[Layout | None, Tally]:
    best: tuple[float, Layout] | None = None
    least: tuple[float, Layout] | None = None
    tried = fitting = 0
    for group in candidates(work, chip, chips, device, pipelines):
        for layout in group:
            tried += 1
            need = training_memory(work, layout).total
            if least is None or need < least[0]:
                least = (need, layout)
            if need > limit:
                continue
            fitting += 1
            seconds = _seconds(work, layout, device, constants)
            if best is None or seconds < best[0]:
                best = (seconds, layout)
            break  # the other policies recompute more
    return (None if best is None else best[1]), Tally(tried, fitting, least)


def _seconds(work: Workload, layout: Layout, device: Device, constants: Constants) -> float:
    return sum(step_terms(work, layout, device, constants)[0].values())


def _reason(layout: Layout, memory: Memory, limit: float) -> str:
    """Why the layout looks as it does, in a few words."""
    said = [f"fastest of those that fit: {memory.total / limit:.0%} of the memory is used"]
    if layout.remat == "full":
        said.append("recomputing whole blocks leaves room for a micro-batch that fills the matmuls")
    if layout.tensor > 1:
        said.append(f"{layout.tensor} chips of a node share each matmul")
    return "; ".join(said)


def _why_not(work: Workload, chip: Chip, chips: int, limit: float, tally: Tally, device: Device) -> str:
    if tally.least is None:
        nearest = _nearest_chips(work, chip, chips, device)
        use = f"nearest: {nearest:,} chips can" if nearest else "no number of chips near it can"
        return (
            f"{chips:,} chips cannot share a batch of {math.floor(work.batch):,} sequences of "
            f"{work.seq_len:,} tokens: the batch is what binds; {use}, or give a larger --batch-tokens."
        )
    need, _ = tally.least
    return (
        f"{work.params / 1e9:.3g}B parameters fit on no layout of {chips:,} x {chip.title}: memory is what "
        f"binds, at least {format_bytes(need)} a chip where {format_bytes(limit)} can be used."
    )


def _nearest_chips(work: Workload, chip: Chip, chips: int, device: Device) -> int | None:
    """The most chips below `chips`, a power of two or one and a half of it, that can share the batch."""
    for power in range(chips.bit_length() - 1, -1, -1):
        for count in (3 * 2**power // 2, 2**power):
            if count < chips and next(candidates(work, chip, count, device), None) is not None:
                return count
    return None
