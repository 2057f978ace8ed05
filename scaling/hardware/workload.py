"""What is trained and how it is laid out: the two inputs of every memory and step-time estimate.

Field names are those of `scaling estimate`'s files, so that a row of JSON, a plan and the layout
search speak of the same thing. Neither knows a chip: a `Workload` is the model and its batch, a
`Layout` is how chips share it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from scaling.shape import Shape

Remat = Literal["none", "minimal", "custom", "full", "unknown"]

# Names of the tensors of a block that a remat policy may keep (MaxText's names).
SAVEABLE = ("query_proj", "key_proj", "value_proj", "context", "out_proj", "mlpwi", "mlpwo")


@dataclass(frozen=True)
class Workload:
    """A decoder-only transformer and the tokens of one optimizer step.

    `gated_mlp` has three matrices, else two. In a `parallel_block` the MLP reads what attention reads
    (PaLM). With `sliding_window`, every `global_every`-th layer sees the whole sequence and the others
    the last `sliding_window` positions.
    """

    n_layers: int
    d_model: int
    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    seq_len: int
    global_batch_tokens: int
    gated_mlp: bool = True
    tied: bool = False
    sliding_window: int | None = None
    global_every: int | None = None
    parallel_block: bool = False

    @classmethod
    def of(cls, shape: Shape, seq: int, batch: int) -> Workload:
        """The workload of a shape at sequences of `seq` tokens, `batch` sequences a step."""
        return cls(
            n_layers=shape.layers,
            d_model=shape.width,
            d_ff=shape.ffn,
            n_heads=shape.heads,
            n_kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            vocab=shape.vocab,
            seq_len=seq,
            global_batch_tokens=seq * batch,
            tied=shape.tied,
            parallel_block=shape.block == "parallel",
        )

    @cached_property
    def batch(self) -> float:
        """Sequences a step; a fraction where a published batch is no whole number of sequences."""
        return self.global_batch_tokens / self.seq_len

    @cached_property
    def layer_params(self) -> int:
        """Matrix weights of one block."""
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        return self.d_model * (2 * q + 2 * kv + (3 if self.gated_mlp else 2) * self.d_ff)

    @cached_property
    def params(self) -> int:
        """All weights, norms left out (under a thousandth)."""
        return self.n_layers * self.layer_params + (1 if self.tied else 2) * self.vocab * self.d_model

    @cached_property
    def mean_span(self) -> float:
        """Positions that a query attends to, on average over layers and positions (causal)."""
        seq, window = self.seq_len, self.sliding_window
        whole = (seq + 1) / 2
        if window is None or window >= seq:
            return whole
        local = window - window * window / (2 * seq)
        share = 1 / self.global_every if self.global_every else 0.0
        return share * whole + (1 - share) * local

    @cached_property
    def model_flops_per_token(self) -> float:
        """Training FLOPs per token, convention `model_causal` (what a causal kernel has to do)."""
        matrices = 6.0 * (self.n_layers * self.layer_params + self.vocab * self.d_model)
        return matrices + 12.0 * self.n_layers * self.n_heads * self.head_dim * self.mean_span


@dataclass(frozen=True)
class Layout:
    """How `n_chips` share a workload.

    data x fsdp x tensor x pipeline x context = n_chips. `slices` are groups joined only by the slow
    network (TPU pods); `fsdp_intra` is the part of the fsdp axis inside one node; `zero` is what
    data-parallel ranks share (1 optimizer, 2 and gradients, 3 and weights: FSDP).
    `micro_batch_seqs` is sequences per data-parallel rank and micro-step, None where unknown.
    `remat_saved` lists what a `custom` or `minimal` policy keeps (names in `SAVEABLE`); the rest is
    recomputed; `offload` moves what is kept to the host. `kernels` dates the fused kernels of a PyTorch
    run (2023, or `modern`: FlashAttention-3 or cuDNN and a compiler); `parallelism_known` is false where
    a published run does not state its layout.
    """

    n_chips: int = 1
    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    slices: int = 1
    fsdp_intra: int | None = None
    zero: int = 3
    micro_batch_seqs: int | None = None
    grad_accum: int | None = None
    remat: Remat = "none"
    remat_saved: Sequence[str] = ()
    offload: bool = False
    interleave: int = 1
    framework: str = "jax"
    flash_attention: bool = True
    precision: str = "bf16"
    kernels: Literal["2023", "modern"] | None = None
    parallelism_known: bool = True

    @property
    def ranks(self) -> int:
        """Groups of chips that see different sequences."""
        return self.data * self.fsdp

    @property
    def product(self) -> int:
        return math.prod((self.data, self.fsdp, self.tensor, self.pipeline, self.context))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"remat_saved": list(self.remat_saved)}
