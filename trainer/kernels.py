"""Attention by kernels that others wrote for one kind of device: cuDNN's, and splash attention for TPUs.

Each says in one sentence what it cannot do, and is never asked for it. Dims as in `trainer.attention`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from trainer.axes import spec
from trainer.masks import Mask

HALF = ("bfloat16", "float16")
CUDNN_LARGEST_HEAD = 128  # 256 from Hopper on, which cannot be told before the device is there
LANES = 128  # numbers that a TPU's vector unit takes at once


def device_kind() -> str:
    """Of the mesh that a program is traced for, which need not be here; else of the first device present."""
    described = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return described.device_kind if described is not None else jax.devices()[0].device_kind


def cudnn_lacks(device: str, dtype: str, length: int, size: int, mask: Mask) -> str | None:
    """Why cuDNN's attention cannot be used for heads of `size`, or None.

    Its public call in JAX knows no segments, and a mask of T x T numbers would take the memory that it
    is meant to save.
    """
    if not device.startswith("NVIDIA"):
        return f"it runs on NVIDIA devices, and this is {device!r}"
    if dtype not in HALF:
        return f"it computes in {' or '.join(HALF)}, and this is {dtype}"
    if size % 8 or size > CUDNN_LARGEST_HEAD:
        return f"its heads have a multiple of 8 up to {CUDNN_LARGEST_HEAD} dimensions, and these have {size}"
    return _unknown(mask.segments, "segments") or _unknown(mask.prefix, "prefixes")


def tpu_lacks(device: str, dtype: str, length: int, size: int, mask: Mask) -> str | None:
    """Why splash attention cannot be used for sequences of `length`, or None."""
    if not device.startswith("TPU"):
        return f"it runs on TPUs, and this is {device!r}"
    if length % LANES:
        return f"its sequences have a multiple of {LANES} tokens, and these have {length}"
    return _unknown(mask.prefix, "prefixes")


def _unknown(field: Array | None, name: str) -> str | None:
    return None if field is None else f"it does not know the batch's {name}"


def cudnn(q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, mask: Mask) -> Array:
    assert mask.is_causal
    return jax.nn.dot_product_attention(q_BTHK, k_BTGK, v_BTGK, is_causal=True, implementation="cudnn")


def tpu(q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, mask: Mask, interpret: bool = False) -> Array:
    """Splash attention, on each device of a mesh for its own rows and heads.

    The compiler cannot divide a kernel by itself. Key-value heads that do not divide among the devices
    that divide the query heads are repeated; a single one is shared.
    """
    run = partial(_splash, interpret=interpret)
    ways = jax.sharding.get_abstract_mesh().shape
    if not ways:
        return run(q_BTHK, k_BTGK, v_BTGK, mask.segments)
    B, T, H, _ = q_BTHK.shape
    if k_BTGK.shape[2] % ways["tensor"] and k_BTGK.shape[2] > 1 and H % ways["tensor"] == 0:
        k_BTGK, v_BTGK = (jnp.repeat(x, H // x.shape[2], axis=2) for x in (k_BTGK, v_BTGK))
    heads = spec(("batch", "position", "heads", "head_dim"), q_BTHK.shape, ways)
    kv_heads = spec(("batch", "position", "kv_heads", "head_dim"), k_BTGK.shape, ways)
    rows = spec(("batch", "position"), (B, T), ways)
    spread = jax.shard_map(run, in_specs=(heads, kv_heads, kv_heads, rows), out_specs=heads, check_vma=False)
    return spread(q_BTHK, k_BTGK, v_BTGK, mask.segments)


def _splash(q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, segments_BT: Array | None, interpret: bool) -> Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    B, T, H, K = q_BTHK.shape
    G = k_BTGK.shape[2]
    side = next(n for n in (512, 256, LANES) if T % n == 0)
    sides = splash.BlockSizes(side, side, side, side, side, side, side, side)
    heads = splash.MultiHeadMask([splash.CausalMask((T, T))] * (H // G))
    kernel = splash.make_splash_mqa(
        heads, block_sizes=sides, head_shards=1, q_seq_shards=1, residual_checkpoint_name="context",
        interpret=interpret,
    )  # fmt: skip
    segments = None if segments_BT is None else splash.SegmentIds(segments_BT, segments_BT)
    each_group = jax.vmap(lambda q, k, v, ids: kernel(q, k, v, segment_ids=ids), (0, 0, 0, None))
    q_BGRTK = jnp.moveaxis((q_BTHK * K**-0.5).reshape(B, T, G, H // G, K), 1, 3)
    k_BGSK, v_BGSK = jnp.swapaxes(k_BTGK, 1, 2), jnp.swapaxes(v_BTGK, 1, 2)
    out_BGRTK = jax.vmap(each_group)(q_BGRTK, k_BGSK, v_BGSK, segments)
    return jnp.moveaxis(out_BGRTK, 3, 1).reshape(B, T, H, K)
