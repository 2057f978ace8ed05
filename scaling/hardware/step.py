"""Seconds of one optimizer step, term by term, from the shape, the layout and the chip.

A roofline per operator. Matmuls run at a sustained ceiling, less what their narrow sides and
unfilled tiles cost; attention has a rate of its own; norms, activations, logits and the optimizer
move bytes; collectives run beside the compute and slow it by a share, or stick out where they are
longer; micro-batches, pipeline bubble, stragglers and host work come on top. Every constant is a
row of `constants.csv`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from scaling.hardware import device as devices
from scaling.hardware.catalogue import Chip
from scaling.hardware.collectives import (
    BF16,
    gather_seconds,
    gradient_seconds,
    hop_bandwidth,
    tensor_bandwidth,
)
from scaling.hardware.constants import Constants, calibrated
from scaling.hardware.device import Device
from scaling.hardware.kernels import attention_kernel, fused_traffic, modern, padded
from scaling.hardware.memory import training_memory
from scaling.hardware.remat import recomputed
from scaling.hardware.uncertainty import half_width
from scaling.hardware.workload import Layout, Workload

MFU_CONVENTION = "model_causal"
BACKWARD = 2.0  # a matmul's backward pass is two of its size
FLASH_BACKWARD = 3.0  # a fused attention's backward: five products for two, at a lower rate than forward
SOFT = 2.0  # exponent of the soft maximum of host and device time: they overlap, less where near equal


@dataclass(frozen=True)
class StepTime:
    """`lo` and `hi` bound 90%; `terms` are (name, seconds, meaning) and sum to `seconds`."""

    seconds: float
    lo: float
    hi: float
    mfu: float
    terms: tuple[tuple[str, float, str], ...]
    micro_batch_seqs: float
    notes: tuple[str, ...] = ()
    mfu_convention: str = MFU_CONVENTION


MEANINGS = {
    "matmul": "weights' matmuls, forward and backward, at the sustained ceiling",
    "matmul shape": "matmul time lost to narrow sides and unfilled tiles",
    "recompute": "forward work done again because remat did not keep it",
    "attention": "scores and values, forward and backward",
    "elementwise": "memory traffic of norms, residuals, activations and logits",
    "fsdp": "gathering weights and scattering gradients, as far as compute does not hide it",
    "tensor": "tensor-parallel collectives, as far as compute does not hide them",
    "context": "keys and values passed round the context axis, as far as compute does not hide it",
    "gradients": "the gradients' all-reduce between data-parallel groups, as far as not hidden",
    "pipeline": "bubble and transfers between pipeline stages",
    "optimizer": "memory traffic of the weight update",
    "overhead": "gaps between kernels, launches and host work",
    "stragglers": "waiting for the slowest node or slice",
}


def micro_batch(work: Workload, layout: Layout, device: Device) -> float:
    """Sequences per rank and micro-step.

    As stated; else one where a pipeline wants many; else the whole share (JAX trainers, which do not
    accumulate unless told to), or the largest halving of it that fits the memory.
    """
    share = work.batch / layout.ranks
    if layout.micro_batch_seqs:
        return min(float(layout.micro_batch_seqs), share)
    if layout.grad_accum:
        return share / layout.grad_accum
    if layout.pipeline > 1:
        return min(1.0, share)
    if layout.framework == "jax":
        return share
    while share > 1 and training_memory(work, with_micro(work, layout, share)).total > device.capacity:
        share /= 2
    return share


def with_micro(work: Workload, layout: Layout, micro: float) -> Layout:
    """`layout` with its micro-batch stated: what the memory model is to be asked."""
    steps = max(1, round(work.batch / layout.ranks / micro))
    return replace(layout, micro_batch_seqs=micro, grad_accum=steps)  # type: ignore[arg-type]


def estimate_step(
    work: Workload, layout: Layout, chip: Chip, profile: Any = None, constants: Constants | None = None
) -> StepTime:
    """The time of one optimizer step of `work` under `layout` on `chip`, with its 90% interval.

    `profile` (scaling.hardware.probes) brings constants corrected by measured steps; `constants`
    replaces both.
    """
    if profile is not None and chip.name not in profile.chips:
        profile = None  # what one chip showed is no evidence about another
    c = constants or (calibrated() if profile is None else profile.constants)
    device = devices.view(chip, c, layout.precision)
    terms, micro = step_terms(work, layout, device, c)
    seconds = sum(terms.values())
    width = half_width(terms, layout, chip, device, profile)
    flops = work.model_flops_per_token * work.global_batch_tokens
    return StepTime(
        seconds=seconds,
        lo=seconds * math.exp(-width),
        hi=seconds * math.exp(width),
        mfu=flops / (seconds * layout.n_chips * device.peak),
        terms=tuple((name, value, MEANINGS[name]) for name, value in terms.items()),
        micro_batch_seqs=micro,
        notes=assumptions(work, layout, device),
    )


def assumptions(work: Workload, layout: Layout, device: Device) -> tuple[str, ...]:
    """What the estimate took for granted because neither the row nor the catalogue says it."""
    said = [
        f"{name}: no figure in the catalogue, a typical one is assumed"
        for name in devices.guessed(device, layout)
    ]
    if layout.framework == "pytorch" and layout.kernels is None and not modern(work, layout, device):
        said.append('PyTorch: kernels of 2023 are assumed; say "kernels": "modern" for a compiled, newer run')
    if layout.remat == "unknown":
        guess = "full" if layout.framework == "jax" else "none"
        said.append(f"remat is not stated: {guess} is assumed")
    return tuple(said)


def step_terms(
    work: Workload, layout: Layout, device: Device, c: Constants
) -> tuple[dict[str, float], float]:
    """The terms of a step in seconds, by name, and the micro-batch (sequences) they are of."""
    tpu, jax = device.kind == "tpu", layout.framework == "jax"
    t, p, context = layout.tensor, layout.pipeline, layout.context
    micro = micro_batch(work, layout, device)
    steps = work.batch / layout.ranks / micro  # micro-batches a step
    tokens = micro * work.seq_len / context  # per chip and micro-batch
    layers = work.n_layers / p

    # --- matmuls of one layer
    d, f, tile = work.d_model, work.d_ff / t, device.tile
    q = work.n_heads * work.head_dim / t
    kv = max(work.n_kv_heads / t, 1) * work.head_dim
    wide = (2 if work.gated_mlp else 1) * f
    edge = (c.gemm_edge_tpu if tpu else c.gemm_edge_gpu) * device.gemm / device.memory
    again = recomputed(layout)

    def matmul(inner: float, outer: float) -> tuple[float, float]:
        """Seconds of [tokens, inner] x [inner, outer]: ideal, and with edges and tiles."""
        ideal = 2.0 * tokens * inner * outer / device.gemm
        fill = padded(inner, tile) * padded(outer, tile) / (inner * outer)
        return ideal, ideal * (fill + edge * (1 / tokens + 1 / inner + 1 / outer))

    qkv, qkv_real = matmul(d, q + 2 * kv)
    out, out_real = matmul(q, d)
    up, up_real = matmul(d, wide)
    down, down_real = matmul(f, d)
    head, head_real = matmul(d, work.vocab / t)
    ideal = (1 + BACKWARD) * (layers * (qkv + out + up + down) + head)
    real = (1 + BACKWARD) * (layers * (qkv_real + out_real + up_real + down_real) + head_real)
    partly = (q * again.query + kv * (again.key + again.value)) / (q + 2 * kv)
    redo = qkv_real * partly + out_real * again.out + up_real * again.mlp_in + down_real * again.mlp_out

    # --- attention
    forward = 4.0 * tokens * q * work.mean_span
    fill = padded(work.head_dim, tile) / work.head_dim
    if layout.flash_attention:
        rate, half = attention_kernel(work, layout, device, c)
        look = forward * fill / (rate * device.peak) * (1 + half / work.mean_span)
        scores = look * (1 + FLASH_BACKWARD)
    else:  # scores are written out: the whole square of them, several times
        square = tokens * work.seq_len * work.n_heads / t
        look = 2 * forward / device.gemm + c.scores_bytes * square / device.memory
        scores = (1 + BACKWARD) * look
    redo += look * again.attention

    # --- memory traffic
    fusion = fused_traffic(work, layout, device, c)
    stream = d / t if layout.framework == "megatron" else d  # its sequence parallelism splits the residuals
    values = 10.0 * stream + 2.0 * (q + 2 * kv) + (4.0 if work.gated_mlp else 2.0) * f
    touch = fusion * BF16 * values * tokens / device.memory
    redo += touch * again.elementwise
    traffic = 3.0 * layers * touch + c.logits_bytes * tokens * work.vocab / t / device.memory

    # --- collectives that run beside a layer
    compute = real + layers * (scores + redo) + traffic  # one micro-batch of one chip
    weights = work.params / p / t  # of a chip's stage, before FSDP shards them
    fsdp = 0.0
    if layout.fsdp > 1 and layout.zero >= 2:
        wire = (3.0 if layout.zero == 3 else 2.0) * gather_seconds(layout, device, c, weights * BF16)
        if layout.zero == 2 and p > 1:  # a pipeline keeps its weights until the last micro-batch
            wire /= steps
        fsdp = max((c.fsdp_exposed_tpu if tpu else c.fsdp_exposed) * wire, wire - compute)
        if not tpu:
            fsdp += c.weight_bytes * weights / device.memory
    tensor, hops = 0.0, 0.0
    if t > 1:
        hops = 4.0 + (2.0 if again.out else 0.0)
        wire = layers * hops * 2.0 * BF16 * tokens * d * (1 - 1 / t)
        wire /= tensor_bandwidth(layout, device, c)
        tensor = max((c.tensor_exposed_tpu if tpu else c.tensor_exposed_gpu) * wire, wire - compute)
    ring = 0.0
    if context > 1:
        passed = layers * 3.0 * 2.0 * kv * BF16 * tokens * (context - 1)
        ring = max(0.0, passed / tensor_bandwidth(layout, device, c) - layers * scores)

    # --- host: where Python launches every kernel, a layer takes no less than its launches
    gaps = layers * c.layer_overhead_s
    busy = compute + fsdp + tensor + ring + gaps
    launch = gaps
    if not jax:
        host = layers * (c.host_layer_s * (3.0 + again.elementwise) + c.host_collective_s * hops)
        launch += (busy**SOFT + host**SOFT) ** (1 / SOFT) - busy

    # --- once a step
    once = busy - gaps + launch
    bubble = (p - 1) / layout.interleave * once
    hop = 0.0
    if p > 1:
        hop = steps * 2.0 * layout.interleave * BF16 * tokens * d / t / hop_bandwidth(layout, device)
    owners = layout.fsdp * (layout.data if layout.zero in (1, 2) else 1)
    optimizer = c.optimizer_bytes * weights / owners / device.memory
    gradients = 0.0
    if layout.data > 1 or (layout.fsdp > 1 and layout.zero == 1):
        wire = gradient_seconds(layout, device, c, weights)
        gradients = max(c.grads_exposed * wire, wire - 0.5 * compute)
    terms = {
        "matmul": steps * ideal,
        "matmul shape": steps * (real - ideal),
        "recompute": steps * layers * redo,
        "attention": steps * layers * scores,
        "elementwise": steps * traffic,
        "fsdp": steps * fsdp,
        "tensor": steps * tensor,
        "context": steps * ring,
        "gradients": gradients,
        "pipeline": bubble + hop,
        "optimizer": optimizer,
        "overhead": steps * launch + c.step_overhead_s,
    }
    groups = layout.slices if tpu else layout.n_chips / device.node
    terms["stragglers"] = c.straggler * math.log2(max(groups, 1.0)) * sum(terms.values())
    return terms, micro
