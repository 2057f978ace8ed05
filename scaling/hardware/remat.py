"""What a rematerialisation policy computes a second time, matmul by matmul.

A block's backward pass needs the inputs of every matmul. What the policy did not keep is computed
again, and nothing else: under XLA the last matmul of a block is never repeated, because nothing in
the block reads its result; PyTorch's checkpoint repeats the block as written, the last one included.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from scaling.hardware.workload import Layout


class Again(NamedTuple):
    """Share of each forward part that runs a second time (0 to 1)."""

    query: float
    key: float
    value: float
    attention: float
    out: float
    mlp_in: float
    mlp_out: float
    elementwise: float


NOTHING = Again(0, 0, 0, 0, 0, 0, 0, 0)
EVERYTHING = Again(1, 1, 1, 1, 1, 1, 1, 1)
# What `minimal` keeps where no list says so: the results of all matmuls with weights.
MATMULS = ("query_proj", "key_proj", "value_proj", "out_proj", "mlpwi", "mlpwo")


@lru_cache(maxsize=256)
def _again(remat: str, saved: tuple[str, ...], jax: bool) -> Again:
    if remat == "none" or (remat == "unknown" and not jax):
        return NOTHING
    if remat == "minimal" and not saved:
        saved = MATMULS
    if not saved and not jax:
        return EVERYTHING
    kept = set(saved)
    return Again(
        query=float("query_proj" not in kept),
        key=float("key_proj" not in kept),
        value=float("value_proj" not in kept),
        attention=float("context" not in kept),
        out=float("out_proj" not in kept),
        mlp_in=float("mlpwi" not in kept),
        mlp_out=0.0,
        elementwise=1.0,
    )


def recomputed(layout: Layout) -> Again:
    """What `layout`'s policy repeats; an unknown policy of a JAX trainer counts as `full`."""
    saved = layout.remat_saved
    return _again(layout.remat, tuple(saved) if saved else (), layout.framework == "jax")
