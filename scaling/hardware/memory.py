"""Bytes that one device holds while it trains, by what they are for, from the shape and the layout alone.

The peak is the fuller of two moments. At the end of the forward pass every kept activation is alive
and few gradients are; at the update every gradient is alive and no activation. A framework that
holds gradients all the time (accumulation, pipelines, Megatron's buffers) has both at once.

What a block keeps is written out tensor by tensor (`BLOCK`) rather than as a constant such as the 34
bytes of Korthikanti et al. 2022 (arXiv:2205.05198, table 2), which holds for GELU, dropout and a
4x MLP only. Sharded dims that do not divide evenly stay whole, as in the trainer's rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scaling.errors import ScalingError
from scaling.hardware.catalogue import Chip
from scaling.hardware.workload import Layout, Workload

GIB = 2**30


@dataclass(frozen=True)
class Accounting:
    """How a trainer keeps its books: bytes per parameter and per number, and what is alive together.

    `parameters`, `gradients`, `masters` and `moments` are bytes per parameter (`moments` both of
    Adam's together), `compute` bytes of an activation. `loss_chunk` is the number of tokens whose
    logits exist at once (None: all). `held_gradients` keeps them through the whole step;
    `scan` runs the layers in a loop, which stacks what it keeps and holds the gradients with it;
    `sequence_parallel` splits the residual stream over the tensor axis too. `reserve` is the share of
    the total left for fragmentation.
    """

    parameters: float = 4
    gradients: float = 4
    masters: float = 0
    moments: float = 8
    compute: float = 2
    loss_chunk: int | None = None
    held_gradients: bool = False
    scan: bool = True
    sequence_parallel: bool = False
    reserve: float = 0.05

    @property
    def state(self) -> float:
        """Bytes per parameter of everything but activations: 16 here, 18 in Megatron's mixed precision."""
        return self.parameters + self.gradients + self.masters + self.moments


TRAINER = Accounting()  # float32 parameters and Adam, bfloat16 products: this trainer, MaxText, Levanter
MEGATRON = Accounting(parameters=2, masters=4, held_gradients=True, scan=False, sequence_parallel=True)
TORCH_FSDP = Accounting(scan=False)
ACCOUNTINGS: Mapping[str, Accounting] = {"jax": TRAINER, "megatron": MEGATRON, "pytorch": TORCH_FSDP}


@dataclass(frozen=True)
class Memory:
    """Bytes per device at the step's peak, by purpose; `moment` says when that is."""

    parameters: float
    gradients: float
    optimizer: float
    masters: float
    activations: float  # kept from the forward pass for the backward pass
    working: float  # one block's recomputed activations and their gradients
    logits: float
    gathered: float  # weights of other devices, fetched layer by layer
    workspace: float  # buffers of collectives
    reserve: float
    moment: str

    @property
    def total(self) -> float:
        return sum(self.terms.values())

    @property
    def terms(self) -> dict[str, float]:
        return {k: v for k, v in vars(self).items() if k != "moment"}

    def fits(self, chip: Chip) -> bool:
        return self.total <= capacity(chip)

    def to_dict(self) -> dict[str, float | str]:
        return dataclasses.asdict(self) | {"total": self.total}


def capacity(chip: Chip) -> float:
    """Bytes of a chip that a program may use: its memory (vendors' GB are 2^30) less the runtime's own."""
    size = chip.figure("memory_gb")
    if size is None:
        raise ScalingError(f"{chip.title}: its memory is not in the catalogue, so no layout can be checked.")
    return size * GIB * (0.98 if chip.vendor == "Google" else 0.92)


def split(size: float, ways: int) -> float:
    """`size` shared out, or whole where it does not divide."""
    return size / ways if size % ways == 0 else size


# Elements per token of each tensor of a block, and whether the tensor axis splits it.
Width = Callable[[Workload], int]
BLOCK: Mapping[str, tuple[Width, bool]] = {
    "input": (lambda w: w.d_model, False),
    "attention_norm": (lambda w: w.d_model, False),
    "query_proj": (lambda w: w.n_heads * w.head_dim, True),
    "key_proj": (lambda w: w.n_kv_heads * w.head_dim, True),
    "value_proj": (lambda w: w.n_kv_heads * w.head_dim, True),
    "context": (lambda w: w.n_heads * w.head_dim, True),
    "out_proj": (lambda w: w.d_model, False),
    "middle": (lambda w: w.d_model, False),
    "mlp_norm": (lambda w: w.d_model, False),
    "mlpwi": (lambda w: w.d_ff * (2 if w.gated_mlp else 1), True),
    "mlp_hidden": (lambda w: w.d_ff, True),
    "mlpwo": (lambda w: w.d_model, False),
}
MATMULS = ("query_proj", "key_proj", "value_proj", "out_proj", "mlpwi", "mlpwo")
NEEDED = tuple(name for name in BLOCK if name not in ("out_proj", "mlpwo"))  # by the backward pass


def kept(layout: Layout) -> tuple[str, ...]:
    """Names in `BLOCK` that a layout's remat policy keeps; the block's input always."""
    if layout.remat == "none":
        return NEEDED
    if layout.remat in ("full", "unknown"):
        return ("input",)
    return ("input", *(layout.remat_saved or (MATMULS if layout.remat == "minimal" else ())))


def training_memory(workload: Workload, layout: Layout, accounting: Accounting | None = None) -> Memory:
    """Peak bytes per device of one training step; `accounting` None means that of `layout.framework`.

    With a pipeline the fuller of its first stage (embedding, most micro-batches in flight) and its
    last (head and logits) is returned.
    """
    books = accounting or ACCOUNTINGS.get(layout.framework, TRAINER)
    stages = {0, layout.pipeline - 1}
    return max((_stage(workload, layout, books, stage) for stage in stages), key=lambda m: m.total)


def _stage(w: Workload, layout: Layout, books: Accounting, stage: int) -> Memory:
    tensor, pipe = layout.tensor, layout.pipeline
    first, last = stage == 0, stage == pipe - 1
    layers = w.n_layers / pipe
    layer = split(w.layer_params, tensor) + 2 * w.d_model
    table = split(w.vocab, tensor) * w.d_model
    ends = table * ((first + last) if not w.tied or pipe > 1 else 1)
    params = layers * layer + ends

    ranks = layout.data * layout.fsdp
    shards = {
        kind: (ranks if layout.fsdp == 1 else layout.fsdp) if layout.zero >= least else 1
        for kind, least in (("optimizer", 1), ("gradients", 2), ("parameters", 3))
    }
    parameters = books.parameters * params / shards["parameters"]
    gradients = books.gradients * params / shards["gradients"]

    accum = layout.grad_accum or 1
    sequences = layout.micro_batch_seqs or w.batch / ranks / accum
    tokens = sequences * w.seq_len / layout.context
    live = _in_flight(layout, stage)
    sizes = _sizes(w, layout, books)
    one = sum(sizes[name] for name in kept(layout)) * tokens
    if layout.remat == "none":
        one += _attention(w, layout, books) * tokens
    activations = 0.0 if layout.offload else layers * live * one
    whole = (sum(sizes[name] for name in NEEDED) + _attention(w, layout, books)) * tokens
    working = (2 * whole - one) if layout.remat != "none" else whole
    chunk = min(tokens, books.loss_chunk or tokens)
    logits = chunk * split(w.vocab, tensor) * (books.compute + 8) if last else 0.0

    gathered = 2 * layer * books.compute if layout.fsdp > 1 and layout.zero >= 3 else 0.0
    cast = layer * books.compute if books.parameters > books.compute and layout.fsdp == 1 else 0.0
    workspace = books.compute * w.d_model * tokens * (2 if tensor > 1 else 0)

    held = books.held_gradients or books.scan or accum > 1 or pipe > 1
    forward = {
        "gradients": gradients if held else 0.0,
        "activations": activations,
        "working": working,
        "logits": logits,
        "gathered": gathered + cast,
        "workspace": workspace,
    }
    update = {
        "gradients": gradients,
        "activations": 0.0,
        "working": 0.0,
        "logits": 0.0,
        "gathered": 0.0,
        "workspace": 0.0,
    }
    moment, phase = max((("backward", forward), ("update", update)), key=lambda p: sum(p[1].values()))
    state = {
        "parameters": parameters,
        "optimizer": books.moments * params / shards["optimizer"],
        "masters": books.masters * params / shards["optimizer"],
    }
    reserve = books.reserve * (sum(state.values()) + sum(phase.values()))
    return Memory(**state, **phase, reserve=reserve, moment=moment)


def _in_flight(layout: Layout, stage: int) -> float:
    """Micro-batches whose activations a stage holds under 1F1B (Narayanan et al. 2021, arXiv:2104.04473)."""
    pipe = layout.pipeline
    if pipe == 1:
        return 1.0
    penalty = 1 + (pipe - 1) / (pipe * layout.interleave) if layout.interleave > 1 else 1.0
    return min(layout.grad_accum or pipe, pipe - stage) * penalty


def _sizes(w: Workload, layout: Layout, books: Accounting) -> dict[str, float]:
    """Bytes per token of each tensor of a block on one device."""
    residual = layout.tensor if books.sequence_parallel else 1
    return {
        name: books.compute * split(width(w), layout.tensor if sharded else residual)
        for name, (width, sharded) in BLOCK.items()
    }


def _attention(w: Workload, layout: Layout, books: Accounting) -> float:
    """Bytes per token of attention weights; a flash kernel keeps one float32 per head instead."""
    heads = split(w.n_heads, layout.tensor)
    return 4 * heads if layout.flash_attention else heads * w.seq_len * (4 + books.compute)
