"""Bytes that one device holds while it trains, by what they are for, from the shape and the layout alone.

The peak is the fullest of three moments: when the loss is taken (everything kept is alive, and logits),
while a block is differentiated (everything kept, the block's own tensors again, gradients) and at the
update (gradients). Which of them holds gradients is a matter of accounting: a loop over layers or
micro-steps allocates them whole before it starts.

What a block keeps is written out tensor by tensor (`BLOCK`) rather than as a constant such as the 34
bytes of Korthikanti et al. 2022 (arXiv:2205.05198, table 2), which holds for GELU, dropout and a
4x MLP only. Sharded dims that do not divide evenly stay whole, as in the trainer's rules.

How well this meets compilers' own accounts: benchmarks/README.md, section Memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from scaling.errors import ScalingError
from scaling.hardware.catalogue import Chip
from scaling.hardware.workload import SAVEABLE, Layout, Workload

GIB = 2**30

# The tensors of a block in the order they are made: elements per token as multiples of (d_model,
# n_heads x head_dim, n_kv_heads x head_dim, d_ff), a second d_ff where the MLP is gated. `attention` is
# the weights, or what a flash kernel keeps of them; it is counted apart.
BLOCK: Mapping[str, tuple[int, int, int, int]] = {
    "input": (1, 0, 0, 0),
    "attention_norm": (1, 0, 0, 0),
    "query_proj": (0, 1, 0, 0),
    "key_proj": (0, 0, 1, 0),
    "value_proj": (0, 0, 1, 0),
    "attention": (0, 0, 0, 0),
    "context": (0, 1, 0, 0),
    "out_proj": (1, 0, 0, 0),
    "middle": (1, 0, 0, 0),
    "mlp_norm": (1, 0, 0, 0),
    "mlpwi": (0, 0, 0, 1),
    "mlp_hidden": (0, 0, 0, 1),
    "mlpwo": (0, 0, 0, 0),  # only added to the stream: nothing in the backward pass reads it
}
# What a parallel block does not make, or only adds to the stream.
SEQUENTIAL_ONLY = ("out_proj", "middle", "mlp_norm")
# What is kept without recomputation: by a tape, every operand of a product and a norm; by this
# trainer's policy, every product's result, from which the rest costs no time.
TAPE = tuple(name for name in BLOCK if name not in ("out_proj", "mlpwo"))
PRODUCTS = ("input", *SAVEABLE, "attention")
MATMULS = tuple(name for name in SAVEABLE if name != "context")


@dataclass(frozen=True)
class Accounting:
    """How a trainer keeps its books: bytes per parameter and per number, and what is alive together.

    `parameters`, `gradients`, `masters` and `moments` are bytes per parameter (`moments` both of
    Adam's together), `compute` bytes of an activation. `loss_chunk` is the number of positions of each
    sequence whose logits exist at once (None: all), `logit` bytes per logit in all its copies.
    `block` multiplies each tensor of a block while it is differentiated, for itself, its gradient and
    the compiler's copies: d_model, heads, kv heads, d_ff and attention weights, in that order. `stream`
    is copies of the residual stream beside the logits, `weights` those of a block's weights in use
    (and their gradients before they are shared out).
    `reuse` is the share of what is kept that need not be made again there, and comes off. `head` is to
    the table of logits what `weights` is to a block; `exchange` counts copies of the stream in
    collectives over the tensor axis.
    `stack` counts what is kept once or more: where a loop stacks it, the compiler may lay it out anew.
    `none` is what remat `none` keeps. `held_gradients`: gradients live through the whole step;
    `zero_over_data`: weights are shared over the data axis too (else over fsdp alone),
    `flat`: as flat buffers, which always come out even (else along d_model, or not at all);
    `sequence_parallel`: the residual stream is split over the tensor axis. `reserve` is a share of the
    total left for fragmentation.
    """

    parameters: float = 4
    gradients: float = 4
    masters: float = 0
    moments: float = 8
    compute: float = 2
    loss_chunk: int | None = None
    logit: float = 6
    stream: float = 3
    block: tuple[float, float, float, float, float] = (4, 3, 3, 2, 1)
    reuse: float = 0
    weights: float = 2
    head: float = 3
    exchange: float = 2
    stack: float = 1
    none: tuple[str, ...] = PRODUCTS
    scan: bool = True
    held_gradients: bool = False
    zero_over_data: bool = False
    flat: bool = False
    sequence_parallel: bool = False
    reserve: float = 0.05

    @property
    def state(self) -> float:
        """Bytes per parameter of everything but activations: 16 here, 18 in Megatron's mixed precision."""
        return self.parameters + self.gradients + self.masters + self.moments


TRAINER = Accounting()  # float32 parameters and Adam, bfloat16 products: this trainer, MaxText, Levanter
MEGATRON = Accounting(
    parameters=2,
    masters=4,
    logit=10,
    none=TAPE,
    scan=False,
    held_gradients=True,
    zero_over_data=True,
    flat=True,
    sequence_parallel=True,
)
TORCH_FSDP = Accounting(logit=10, none=TAPE, scan=False, flat=True)
# XLA's habits on a processor, fitted by benchmarks/planner_memory.py, for that comparison alone.
XLA_CPU: Mapping[str, Accounting] = {
    "float32": Accounting(
        block=(4.3, 6.04, 12.6, 4.5, 2.95), logit=7.31, stream=7.94, weights=1.07, head=3.14, exchange=5.87,
        stack=1.04, reuse=1, reserve=0,
    ),
    "bfloat16": Accounting(  # computed in float32: twice the copies
        block=(14.06, 23.47, 12.27, 15.0, 0.71), logit=13.8, stream=0, weights=2.26, head=6.28, exchange=0,
        stack=1.54, reuse=1, reserve=0,
    ),
}  # fmt: skip
ACCOUNTINGS: Mapping[str, Accounting] = {"jax": TRAINER, "megatron": MEGATRON, "pytorch": TORCH_FSDP}


@dataclass(frozen=True)
class Memory:
    """Bytes per device at the step's peak, by purpose; `moment` says when that is."""

    parameters: float
    gradients: float
    optimizer: float
    masters: float
    activations: float  # kept from the forward pass for the backward pass
    working: float  # one block while it is differentiated: its tensors again, and their gradients
    logits: float
    gathered: float  # weights fetched or cast for use, and gradients before they are shared out
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
    """Bytes of a chip that a program may use: its memory (vendors' GB are 2^30) less the runtime's own.

    The TPU compiler leaves 15.75 of a v5e's 16 GiB to programs; on GPUs the context and the collective
    library take some gigabytes (0.92 of 80 GiB).
    """
    size = chip.figure("memory_gb")
    if size is None:
        raise ScalingError(f"{chip.title}: its memory is not in the catalogue, so no layout can be checked.")
    return size * GIB * (0.98 if chip.vendor == "Google" else 0.92)


def split(size: float, ways: int) -> float:
    """`size` shared out, or whole where it does not divide."""
    return size / ways if size % ways == 0 else size


def kept(layout: Layout, books: Accounting) -> tuple[str, ...]:
    """Names in `BLOCK` that a layout's remat policy keeps; the block's input always."""
    if layout.remat == "none":
        return books.none
    if layout.remat in ("full", "unknown"):
        return ("input",)
    return ("input", *(layout.remat_saved or (MATMULS if layout.remat == "minimal" else ())))


def training_memory(workload: Workload, layout: Layout, accounting: Accounting | None = None) -> Memory:
    """Peak bytes per device of one training step; `accounting` None means that of `layout.framework`.

    With a pipeline the fuller of its first stage (embedding, most micro-batches in flight) and its
    last (head and logits) is returned.
    """
    books = accounting or ACCOUNTINGS.get(layout.framework, TRAINER)
    if layout.pipeline == 1:
        return _stage(workload, layout, books, 0)
    stages = (_stage(workload, layout, books, stage) for stage in (0, layout.pipeline - 1))
    return max(stages, key=lambda memory: memory.total)


def _stage(w: Workload, layout: Layout, books: Accounting, stage: int) -> Memory:
    tensor, pipe = layout.tensor, layout.pipeline
    first, last = stage == 0, stage == pipe - 1
    layers = w.n_layers / pipe
    layer = split(w.layer_params, tensor) + 2 * w.d_model
    table = split(w.vocab, tensor) * w.d_model
    params = layers * layer + table * (1 if w.tied and pipe == 1 else first + last)

    # Stages 1 and 2 share over every rank; whole shares of the weights (3) lie along the fsdp axis.
    zero = layout.zero
    sharers = layout.ranks if books.zero_over_data or zero < 3 else layout.fsdp
    if zero == 3 and not books.flat:
        sharers = 1 if w.d_model % sharers else sharers
    gradients = books.gradients * params / (sharers if zero >= 2 else 1)
    optimizer = params / (sharers if zero >= 1 else 1)
    state = (
        books.parameters * params / (sharers if zero >= 3 else 1)
        + (books.moments + books.masters) * optimizer
    )

    accum = layout.grad_accum or 1
    sequences = layout.micro_batch_seqs or w.batch / layout.ranks / accum
    tokens = sequences * w.seq_len / layout.context
    width, query, key, mlp, attention = _block(w, layout, books)
    names = tuple(n for n in kept(layout, books) if not (w.parallel_block and n in SEQUENTIAL_ONLY))
    d, h, g, f, a = _multiples(names)
    f += w.gated_mlp and "mlpwi" in names
    one = d * width + h * query + g * key + f * mlp + a * attention
    copies = books.stack if books.scan else 1.0
    activations = 0.0 if layout.offload else layers * _in_flight(layout, stage) * tokens * one * copies
    factors = books.block
    working = tokens * (
        factors[0] * width
        + factors[1] * query
        + factors[2] * key
        + factors[3] * mlp
        + factors[4] * attention
        - books.reuse * (one - width)
    )
    share = min(1.0, (books.loss_chunk or w.seq_len) / w.seq_len)
    logits = tokens * (share * split(w.vocab, tensor) * books.logit + books.stream * width) if last else 0.0

    gathered = books.weights * layer * books.compute
    head = books.head * table * books.compute if last else 0.0
    workspace = tokens * books.exchange * width if tensor > 1 else 0.0

    # Gradients that live through the step, and those that a loop over layers allocates before it runs.
    through = gradients if books.held_gradients or accum > 1 or pipe > 1 else 0.0
    looped = gradients if books.scan and (accum > 1 or not through) else 0.0
    moments = {
        "loss": (through, activations, 0.0, logits, head, 0.0),
        "block": (through + looped, activations, working, 0.0, gathered, workspace),
        "update": (gradients, 0.0, 0.0, 0.0, 0.0, 0.0),
    }
    moment = max(moments, key=lambda name: sum(moments[name]))
    live = moments[moment]
    return Memory(
        parameters=books.parameters * params / (sharers if zero >= 3 else 1),
        gradients=live[0],
        optimizer=books.moments * optimizer,
        masters=books.masters * optimizer,
        activations=live[1],
        working=live[2],
        logits=live[3],
        gathered=live[4],
        workspace=live[5],
        reserve=books.reserve * (state + sum(live)),
        moment=moment,
    )


def _block(w: Workload, layout: Layout, books: Accounting) -> tuple[float, float, float, float, float]:
    """Bytes per token of each kind of tensor on one device, in the order of `Accounting.block`."""
    tensor, size = layout.tensor, books.compute
    heads = split(w.n_heads, tensor)
    return (
        size * split(w.d_model, tensor if books.sequence_parallel else 1),
        size * split(w.n_heads * w.head_dim, tensor),
        size * split(w.n_kv_heads * w.head_dim, tensor),
        size * split(w.d_ff, tensor),
        4.0 * heads * (1 if layout.flash_attention else w.seq_len / layout.context),
    )


@lru_cache
def _multiples(names: tuple[str, ...]) -> tuple[int, int, int, int, int]:
    """How often each kind of tensor is among `names`, in the order of `Accounting.block`."""
    columns = zip(*(BLOCK[name] for name in names), strict=True)
    width, query, key, mlp = (sum(column) for column in columns)
    return width, query, key, mlp, int("attention" in names)


def _in_flight(layout: Layout, stage: int) -> float:
    """Micro-batches whose activations a stage holds under 1F1B (Narayanan et al. 2021, arXiv:2104.04473)."""
    pipe = layout.pipeline
    if pipe == 1:
        return 1.0
    penalty = 1 + (pipe - 1) / (pipe * layout.interleave) if layout.interleave > 1 else 1.0
    return min(layout.grad_accum or pipe, pipe - stage) * penalty
