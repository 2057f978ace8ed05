"""A transformer as data: one abstract parameter table from which everything else derives.

The table lists every parameter with its path, shape, logical axes, initialiser and learning-rate
group. Parameter counts, FLOPs per token, bytes, shardings, initial values and the checkpoint
target all come from it, so the planner and the trainer cannot disagree.

Counting conventions for parameters (`count`):
    total                       every parameter (Hoffmann et al. 2022, arXiv:2203.15556)
    total-less-input-embedding  parameters that multiply: the input table is left out unless tied
                                (Porian et al. 2024, arXiv:2406.19146)
    non-embedding               neither input table nor output head (Kaplan et al. 2020, arXiv:2001.08361)

FLOP conventions (`convention`), training cost per token, forward plus backward = 3 x forward:
    6nd           6 x total parameters (PaLM 2, arXiv:2305.10403, section 2.1)
    model_causal  6 per matrix weight, plus attention over the positions a causal mask lets through
    model_full    6 per matrix weight, plus attention over all T positions (PaLM, arXiv:2204.02311, App. B)
    hardware      model_full plus the forward pass recomputed under rematerialisation
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from scaling.errors import UsageError
from scaling.files import added, as_fields
from scaling.rope import Rope

Count = Literal["total", "total-less-input-embedding", "non-embedding"]
Convention = Literal["6nd", "model_causal", "model_full", "hardware"]
COUNTS: tuple[Count, ...] = ("total", "total-less-input-embedding", "non-embedding")
CONVENTIONS: tuple[Convention, ...] = ("6nd", "model_causal", "model_full", "hardware")

Block = Literal["sequential", "parallel"]
Norm = Literal["rms", "layer"]
NORMS: tuple[Norm, ...] = ("rms", "layer")
# The norms of a block: that before attention, and that before the MLP. A block without the second is
# parallel: its MLP reads what attention read, x + attention(norm(x)) + mlp(norm(x)) (PaLM,
# arXiv:2204.02311, section 2).
BLOCKS: Mapping[Block, tuple[str, str | None]] = {
    "sequential": ("attention_norm", "mlp_norm"),
    "parallel": ("norm", None),
}
# Architectures by name, as fields of ShapeFamily.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    # Touvron et al. 2023 (arXiv:2302.13971), with query-key norm (Dehghani et al. 2023, arXiv:2302.05442).
    "llama": {},
    # PaLM (Chowdhery et al. 2022, arXiv:2204.02311, section 2): parallel blocks, one key-value head,
    # input table and head shared, no biases (so LayerNorm has a gain only), no query-key norm.
    "palm": {"block": "parallel", "norm": "layer", "kv_heads": 1, "tied": True, "qk_norm": False},
}


@dataclass(frozen=True)
class Param:
    """One parameter: `std` is the deviation of its normal initialiser; None means ones, 0 zeros."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    std: float | None
    group: Literal["embedding", "hidden", "head", "norm"]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        return "/".join(self.path)

    @property
    def part(self) -> str:
        """The group, with the matrices that write into the residual stream (`writer`) and the gain before
        the head (`final_norm`) told apart: what rules of size treat alike (`scaling.parametrisation`)."""
        if self.path[1:] in (("attention", "out"), ("mlp", "down")):
            return "writer"
        return "final_norm" if self.path[0] == "final_norm" else self.group

    def factor(self, named: Mapping[str, float]) -> float:
        """Of factors by name, that of the part, or else of the group, or else 1."""
        return named.get(self.part, named.get(self.group, 1.0))


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer: normed before its branches, RoPE, SwiGLU, no biases.

    layers, width (d_model), heads, kv_heads, head_dim, ffn (hidden size of the gated MLP) and
    vocab are counts; `tied` shares the input table with the output head; `qk_norm` normalises
    queries and keys per head. `block` says how attention and MLP stand to each other (`BLOCKS`),
    `norm` is `rms` (RMSNorm) or `layer` (LayerNorm). `rope` says how positions become angles where that is
    not the plain way: it belongs to what the model computes, and to no count.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool = False
    qk_norm: bool = True
    block: Block = added("sequential")
    norm: Norm = added("rms")
    rope: Rope | None = added(None)

    def __post_init__(self) -> None:
        _check_kinds("shape", self.block, self.norm)
        for field in ("layers", "width", "heads", "kv_heads", "head_dim", "ffn", "vocab"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"shape field {field!r} must be a positive whole number, not {value!r}.")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"shape field 'heads' ({self.heads}) must be a multiple of 'kv_heads' ({self.kv_heads})."
            )
        if self.head_dim % 2:
            raise ValueError(f"shape field 'head_dim' ({self.head_dim}) must be even for rotary embeddings.")
        rope: Any = self.rope
        if isinstance(rope, Mapping):  # as files bring it
            rope = Rope(**rope)
            object.__setattr__(self, "rope", rope)
        if not isinstance(rope, (Rope, type(None))):
            raise ValueError(f"shape field 'rope' must be an object of its fields, not {self.rope!r}.")

    @cached_property
    def table(self) -> tuple[Param, ...]:
        """Every parameter of the model, in a fixed order.

        Matrices start at 1/sqrt(fan_in); those that write into the residual stream are shrunk by
        sqrt(2 layers), as in GPT-2; the head starts at zero, so that the first loss is ln(vocab).
        """
        d, f = self.width, self.ffn
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        residual = 1 / math.sqrt(2 * self.layers)
        before_attention, before_mlp = BLOCKS[self.block]

        def matrix(
            path: tuple[str, ...], shape: tuple[int, int], axes: tuple[str, str], scale: float = 1.0
        ) -> Param:
            return Param(path, shape, axes, scale / math.sqrt(shape[0]), "hidden")

        def norm(path: tuple[str, ...], size: int, axis: str) -> Param:
            return Param((*path, "scale"), (size,), (axis,), None, "norm")

        rows = [Param(("embed", "table"), (self.vocab, d), ("vocab", "embed"), EMBED_STD, "embedding")]
        for i in range(self.layers):
            block = f"layer_{i}"
            rows.append(norm((block, before_attention), d, "embed"))
            rows.append(matrix((block, "attention", "query"), (d, q), ("embed", "heads")))
            rows.append(matrix((block, "attention", "key"), (d, kv), ("embed", "kv_heads")))
            rows.append(matrix((block, "attention", "value"), (d, kv), ("embed", "kv_heads")))
            if self.qk_norm:
                rows.append(norm((block, "attention", "query_norm"), self.head_dim, "head_dim"))
                rows.append(norm((block, "attention", "key_norm"), self.head_dim, "head_dim"))
            rows.append(matrix((block, "attention", "out"), (q, d), ("heads", "embed"), residual))
            if before_mlp:
                rows.append(norm((block, before_mlp), d, "embed"))
            rows.append(matrix((block, "mlp", "gate"), (d, f), ("embed", "mlp")))
            rows.append(matrix((block, "mlp", "up"), (d, f), ("embed", "mlp")))
            rows.append(matrix((block, "mlp", "down"), (f, d), ("mlp", "embed"), residual))
        rows.append(norm(("final_norm",), d, "embed"))
        if not self.tied:
            rows.append(Param(("head", "kernel"), (d, self.vocab), ("embed", "vocab"), 0.0, "head"))
        return tuple(rows)

    @property
    def params_embedding(self) -> int:
        return self._sizes["embedding"]

    @property
    def params_head(self) -> int:
        return self._sizes["head"]

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Parameters by group. All blocks are alike, so the table of one block says it for any depth:
        a search over thousands of shapes would otherwise list millions of parameters."""
        rest, block = _one_block(dataclasses.replace(self, layers=1))
        return {group: rest[group] + self.layers * block[group] for group in rest}

    def params(self, count: Count = "total") -> int:
        """Number of parameters under the named counting convention (see the module's docstring)."""
        total = sum(self._sizes.values())
        if count == "total":
            return total
        if count == "total-less-input-embedding":
            return total if self.tied else total - self.params_embedding
        if count == "non-embedding":
            return total - self.params_embedding - self.params_head
        raise ValueError(f"unknown parameter count {count!r}; known are {', '.join(COUNTS)}.")

    @property
    def matmul_params(self) -> int:
        """Weights that each token multiplies: all matrices, the head included, a mere lookup not."""
        matrices = self._sizes["hidden"] + self._sizes["head"]
        return matrices + (self.params_embedding if self.tied else 0)

    def flops_per_token(
        self, seq: int, convention: Convention = "model_causal", remat: bool = False
    ) -> float:
        """Training FLOPs per token (forward and backward) at sequence length `seq`.

        Attention scores and values cost 4 T H K per token and layer forward when all T positions
        are counted, and 2 (T + 1) H K when a causal mask is; the backward pass costs twice the
        forward. `remat` adds one forward pass under the `hardware` convention only.
        """
        if seq < 1:
            raise ValueError(f"sequence length must be at least 1, not {seq}.")
        heads = self.layers * self.heads * self.head_dim
        matrices = 6.0 * self.matmul_params
        if convention == "6nd":
            return 6.0 * self.params("total")
        if convention == "model_causal":
            return matrices + 6.0 * (seq + 1) * heads
        full = matrices + 12.0 * seq * heads
        if convention == "model_full":
            return full
        if convention == "hardware":
            return full * (4 / 3 if remat else 1.0)
        raise ValueError(f"unknown FLOP convention {convention!r}; known are {', '.join(CONVENTIONS)}.")

    def to_dict(self) -> dict[str, Any]:
        return as_fields(self)


def named_family(name: str) -> dict[str, Any]:
    """Fields of ShapeFamily of the architecture `name`, all of them that any architecture sets."""
    if name not in FAMILIES:
        raise UsageError(f"--family {name}: no such architecture; known are {', '.join(FAMILIES)}.")
    plain = {f.name: f.default for f in dataclasses.fields(ShapeFamily)}
    varied = {field for fields in FAMILIES.values() for field in fields}
    return {field: FAMILIES[name].get(field, plain[field]) for field in sorted(varied)}


def _check_kinds(what: str, block: str, norm: str) -> None:
    if block not in BLOCKS:
        raise ValueError(f"{what} field 'block' must be {' or '.join(map(repr, BLOCKS))}, not {block!r}.")
    if norm not in NORMS:
        raise ValueError(f"{what} field 'norm' must be {' or '.join(map(repr, NORMS))}, not {norm!r}.")


@lru_cache(maxsize=4096)
def _one_block(shape: Shape) -> tuple[dict[str, int], dict[str, int]]:
    """Parameters by group outside and inside the only block of a one-layer shape."""
    rest, block = ({"embedding": 0, "hidden": 0, "head": 0, "norm": 0} for _ in range(2))
    for row in shape.table:
        (block if row.path[0] == "layer_0" else rest)[row.group] += row.size
    return rest, block


# Small enough that short runs can move the table at their own learning rate, large enough that
# pre-norm blocks see a signal; see docs/log.md for the widths and rates it was tried at.
EMBED_STD = 0.1


@dataclass(frozen=True)
class ShapeFamily:
    """A rule that turns a width into a buildable shape: the ladder that sweep and launch share.

    Depth follows width (`layers = max(min_layers, round(width / aspect))`), heads keep close to
    `head_dim`, the gated MLP is 8/3 of the width rounded up to `ffn_multiple` (Shazeer 2020,
    arXiv:2002.05202: the size that equals a plain 4x MLP in parameters). Every `kv_group` heads share
    a key-value head, or all of them share `kv_heads` (1: multi-query, Shazeer 2019, arXiv:1911.02150).
    """

    vocab: int
    aspect: int = 128
    min_layers: int = 2
    head_dim: int = 32
    min_heads: int = 2
    ffn_multiple: int = 8
    width_multiple: int = 8
    kv_group: int = 1
    tied: bool = False
    qk_norm: bool = True
    kv_heads: int | None = added(None)
    block: Block = added("sequential")
    norm: Norm = added("rms")

    def __post_init__(self) -> None:
        _check_kinds("family", self.block, self.norm)
        if self.kv_heads is not None and self.kv_heads < 1:
            raise ValueError(f"family field 'kv_heads' must be at least 1, not {self.kv_heads!r}.")
        for field in (
            "vocab",
            "aspect",
            "min_layers",
            "head_dim",
            "min_heads",
            "ffn_multiple",
            "width_multiple",
            "kv_group",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"family field {field!r} must be at least 1, not {getattr(self, field)!r}.")

    def shape(self, width: int) -> Shape:
        """The family's member of this width (a multiple of `width_multiple`)."""
        if width < self.width_multiple or width % self.width_multiple:
            raise ValueError(f"width {width} must be a positive multiple of {self.width_multiple}.")
        heads = max(self.min_heads, round(width / self.head_dim))
        while (width % heads or (width // heads) % 2) and heads > 1:
            heads -= 1
        kv_heads = self.kv_heads or (heads // self.kv_group if heads % self.kv_group == 0 else heads)
        while heads % kv_heads:
            kv_heads -= 1
        return Shape(
            layers=max(self.min_layers, round(width / self.aspect)),
            width=width,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=width // heads,
            ffn=math.ceil(8 * width / 3 / self.ffn_multiple) * self.ffn_multiple,
            vocab=self.vocab,
            tied=self.tied,
            qk_norm=self.qk_norm,
            block=self.block,
            norm=self.norm,
        )

    def nearest(self, params: float, count: Count = "total") -> Shape:
        """The member whose parameter count is nearest to `params` in ratio."""
        if not params > 0:
            raise ValueError(f"a positive number of parameters is needed, not {params!r}.")
        low = self.width_multiple
        if self.shape(low).params(count) >= params:
            return self.shape(low)
        high = low
        while self.shape(high).params(count) < params:
            low, high = high, high * 2
        while high - low > self.width_multiple:
            middle = (low + high) // 2 // self.width_multiple * self.width_multiple
            low, high = (middle, high) if self.shape(middle).params(count) < params else (low, middle)
        return min(
            (self.shape(low), self.shape(high)),
            key=lambda s: abs(math.log(s.params(count) / params)),
        )

    def to_dict(self) -> dict[str, Any]:
        return as_fields(self)
