"""Bytes on one chip, in one expression: enough to choose a micro-batch."""

from __future__ import annotations

from scaling.hardware.remat import recomputed
from scaling.hardware.workload import Layout, Workload


def device_bytes(work: Workload, layout: Layout, micro: float) -> float:
    """Weights, moments and gradients as sharded, kept activations of one micro-batch, and logits."""
    weights = work.params / (layout.tensor * layout.pipeline)
    shards = layout.fsdp if layout.zero == 3 else 1
    moments = layout.fsdp * (layout.data if layout.zero in (1, 2) else 1)
    states = weights * (6.0 / shards + 12.0 / moments)
    again = recomputed(layout)
    q, kv = work.n_heads * work.head_dim, 2 * work.n_kv_heads * work.head_dim
    kept = (
        2 * work.d_model
        + (1 - again.query) * q
        + (1 - again.key) * kv
        + (1 - again.attention) * q
        + (1 - again.out) * work.d_model
        + (1 - again.mlp_in) * (3 if work.gated_mlp else 2) * work.d_ff
    )
    if not again.elementwise:
        kept += 2 * work.d_model
    if layout.offload:
        kept = 2 * work.d_model
    tokens = micro * work.seq_len / layout.context
    alive = layout.pipeline * work.n_layers / layout.pipeline
    logits = 6.0 * tokens * work.vocab / layout.tensor
    return states + 2.0 * tokens * kept * alive / layout.tensor + logits
