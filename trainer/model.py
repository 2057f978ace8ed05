"""The decoder-only transformer, built on the parameter table of `scaling.shape`.

Dims: B batch, T sequence, D width, H heads, G kv heads, K head size, F mlp, V vocabulary.
Tensors carry their dims as a suffix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from scaling.shape import BLOCKS, Param, Shape
from trainer.attention import attend
from trainer.axes import constrain
from trainer.linear import linear
from trainer.masks import CAUSAL, Mask
from trainer.norms import NORM_MODULES
from trainer.resources import Resources
from trainer.rope import rope_tables, rotate

Params = dict  # nested: module name -> ... -> array, the paths of Shape.table


ONE_DEVICE = Resources()
JOINED = 2**18  # numbers: the most that weights hold together to be joined for one product (a core's cache)


def rows_of(shape: Shape, scan: bool = False) -> list[tuple[Param, list[int]]]:
    """The rows of the parameter tree, each with the places in `Shape.table` that it holds.

    With `scan` the layers are stacked: one row `layers/...` of shape [L, ...] in place of L rows.
    """
    if not scan:
        return [(row, [index]) for index, row in enumerate(shape.table)]
    rows: dict[tuple[str, ...], tuple[Param, list[int]]] = {}
    for index, row in enumerate(shape.table):
        if row.path[0].startswith("layer_"):
            stacked = dataclasses.replace(
                row,
                path=("layers", *row.path[1:]),
                shape=(shape.layers, *row.shape),
                axes=("layers", *row.axes),
            )
            rows.setdefault(stacked.path, (stacked, []))[1].append(index)
        else:
            rows[row.path] = (row, [index])
    return list(rows.values())


def tree_of(shape: Shape, leaf: Callable[[Param, list[int]], Any], scan: bool = False) -> Params:
    """The parameter tree with `leaf(row, places)` in the place of each of `rows_of`."""
    tree: Params = {}
    for row, places in rows_of(shape, scan):
        node = tree
        for key in row.path[:-1]:
            node = node.setdefault(key, {})
        node[row.path[-1]] = leaf(row, places)
    return tree


def init_params(
    shape: Shape, seed: int, scan: bool = False, multipliers: Mapping[str, float] | None = None
) -> Params:
    """Initial float32 parameters, drawn with numpy (no compilation).

    A parameter's values depend on the seed and its own place in the table only, times the multiplier of
    its part or group.
    """

    def draw(row: Param, places: list[int]) -> np.ndarray:
        parts = [_initial(shape.table[i], np.random.default_rng([seed, i])) for i in places]
        values = np.stack(parts) if row.axes[0] == "layers" else parts[0]
        return values * np.float32(row.factor(multipliers)) if multipliers else values

    return tree_of(shape, draw, scan)


def abstract_params(shape: Shape, scan: bool = False) -> Params:
    """Shapes and types of the parameters, as the model, the compiler and a checkpoint need them."""
    return tree_of(shape, lambda row, _: jax.ShapeDtypeStruct(row.shape, jnp.float32), scan)


def per_layer(tree: Any) -> Any:
    """`tree` with every stack of layers in it cut into `layer_0`, `layer_1`, ...: the checkpoints' form."""

    def cut(node: Params) -> Params:
        layers = node["layers"]
        count = len(jax.tree.leaves(layers)[0])
        rest = {name: branch for name, branch in node.items() if name != "layers"}
        return rest | {f"layer_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in range(count)}

    def is_stacked(node: Any) -> bool:
        return isinstance(node, dict) and "layers" in node

    return jax.tree.map(lambda node: cut(node) if is_stacked(node) else node, tree, is_leaf=is_stacked)


def stacked(tree: Any) -> Any:
    """The reverse of `per_layer`."""

    def stack(*leaves: Any) -> Any:
        return (jnp if isinstance(leaves[0], jax.Array) else np).stack(leaves)

    def join(node: Params) -> Params:
        names = sorted((name for name in node if name.startswith("layer_")), key=lambda n: int(n[6:]))
        rest = {name: branch for name, branch in node.items() if name not in names}
        return rest | {"layers": jax.tree.map(stack, *(node[n] for n in names))}

    def is_cut(node: Any) -> bool:
        return isinstance(node, dict) and "layer_0" in node

    return jax.tree.map(lambda node: join(node) if is_cut(node) else node, tree, is_leaf=is_cut)


def _initial(row: Param, rng: np.random.Generator) -> np.ndarray:
    if row.std is None:
        return np.ones(row.shape, np.float32)
    if row.std == 0:
        return np.zeros(row.shape, np.float32)
    return (row.std * rng.standard_normal(row.shape, np.float32)).astype(np.float32)


def weight(w: Array, dtype: Any, resources: Resources, *axes: str) -> Array:
    """A weight as its product uses it: cast first and then gathered, half the bytes of the reverse."""
    return constrain(w.astype(dtype), resources, *axes)


def products(x: Array, weights: Sequence[Array], resources: Resources, *axes: str) -> list[Array]:
    """x @ w for each of several weights of alike axes.

    On one device in one product: small matrices leave a core's multiply units idle; large ones do not,
    and would be copied for nothing. Over a mesh the joined columns would no longer lie where their parts do.
    """
    if resources.devices > 1:
        return [x @ weight(w, x.dtype, resources, *axes) for w in weights]
    cast = tuple(weight(w, x.dtype, resources, *axes) for w in weights)
    if sum(w.size for w in cast) > JOINED:
        return [linear(x, (w,))[0] for w in cast]
    return list(linear(x, cast))


def product(x: Array, w: Array, resources: Resources, *axes: str) -> Array:
    return products(x, (w,), resources, *axes)[0]


class Attention(nn.Module):
    """Grouped-query attention with rotary positions and optional query-key norm."""

    shape: Shape
    resources: Resources = ONE_DEVICE

    @nn.compact
    def __call__(self, x_BTD: Array, mask: Mask = CAUSAL, positions_BT: Array | None = None) -> Array:
        s, r = self.shape, self.resources
        B, T, D = x_BTD.shape
        H, G, K = s.heads, s.kv_heads, s.head_dim
        zeros = nn.initializers.zeros
        wq = self.param("query", zeros, (D, H * K))
        wk = self.param("key", zeros, (D, G * K))
        wv = self.param("value", zeros, (D, G * K))
        wo = self.param("out", zeros, (H * K, D))
        parts = products(x_BTD, (wq, wk, wv), r, "width", "heads")
        names = ("query_proj", "key_proj", "value_proj")
        q, k, v = (
            constrain(checkpoint_name(part, name), r, "batch", "position", "heads")
            for part, name in zip(parts, names, strict=True)
        )
        q_BTHK = q.reshape(B, T, H, K)
        k_BTGK = k.reshape(B, T, G, K)
        v_BTGK = v.reshape(B, T, G, K)
        if s.qk_norm:
            norm = NORM_MODULES[s.norm]
            q_BTHK = norm(K, name="query_norm")(q_BTHK)
            k_BTGK = norm(K, name="key_norm")(k_BTGK)
        cos, sin = rope_tables(T, K, s.rope)
        if positions_BT is not None:
            cos, sin = (jnp.asarray(table)[0, positions_BT] for table in (cos, sin))
        out = attend(rotate(q_BTHK, cos, sin), rotate(k_BTGK, cos, sin), v_BTGK, mask, r.attention)
        out = constrain(out, r, "batch", "position", "heads")
        return checkpoint_name(product(out, wo, r, "heads", "width"), "out_proj")


def silu(x: Array) -> Array:
    """x sigmoid(x) by way of tanh, which XLA vectorises on CPUs and its exponential it does not."""
    return x * (0.5 + 0.5 * jnp.tanh(0.5 * x))


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    shape: Shape
    resources: Resources = ONE_DEVICE

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        r = self.resources
        D, F = self.shape.width, self.shape.ffn
        zeros = nn.initializers.zeros
        gate = self.param("gate", zeros, (D, F))
        up = self.param("up", zeros, (D, F))
        down = self.param("down", zeros, (F, D))
        parts = products(x_BTD, (gate, up), r, "width", "mlp")
        gate_BTF, up_BTF = (
            constrain(checkpoint_name(part, "mlpwi"), r, "batch", "position", "mlp") for part in parts
        )
        return checkpoint_name(product(silu(gate_BTF) * up_BTF, down, r, "mlp", "width"), "mlpwo")


class Block(nn.Module):
    shape: Shape
    resources: Resources = ONE_DEVICE

    @nn.compact
    def __call__(self, x_BTD: Array, mask: Mask = CAUSAL, positions_BT: Array | None = None) -> Array:
        s, r = self.shape, self.resources
        norm = NORM_MODULES[s.norm]
        before_attention, before_mlp = BLOCKS[s.block]
        y_BTD = norm(s.width, name=before_attention)(x_BTD)
        x_BTD = residual(x_BTD + Attention(s, r, name="attention")(y_BTD, mask, positions_BT), r)
        if before_mlp:
            y_BTD = norm(s.width, name=before_mlp)(x_BTD)
        return residual(x_BTD + MLP(s, r, name="mlp")(y_BTD), r)


def residual(x_BTD: Array, resources: Resources) -> Array:
    """The residual stream where it rests between the products."""
    position = "position_shared" if resources.sequence_parallel else "position"
    return constrain(x_BTD, resources, "batch", position, "width")


class Transformer(nn.Module):
    """Token ids [B, T] to the normed residual stream [B, T, D] and the head [D, V] that makes it logits."""

    shape: Shape
    dtype: str = "float32"
    resources: Resources = ONE_DEVICE

    @nn.compact
    def __call__(
        self, ids_BT: Array, mask: Mask = CAUSAL, positions_BT: Array | None = None
    ) -> tuple[Array, Array]:
        s, r = self.shape, self.resources
        table = Embedding(s, name="embed")()
        # Looked up where the table's columns lie, all rows of the fsdp group at once, and only then dealt
        # out to the ranks: the table is never gathered, nor its gradient.
        x_BTD = constrain(table[ids_BT], r, "group", "position", "embed")
        x_BTD = residual(x_BTD.astype(self.dtype), r)
        block = Block
        if r.saved is not None:
            policy = jax.checkpoint_policies.save_only_these_names(*r.saved)
            block = nn.remat(Block, policy=policy, prevent_cse=not r.scan)
        if r.scan:
            loop = nn.scan(
                lambda layer, x, said: (layer(x, *said), None),
                in_axes=nn.broadcast,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=s.layers,
            )
            x_BTD, _ = loop(block(s, r, name="layers"), x_BTD, (mask, positions_BT))
        else:
            for i in range(s.layers):
                x_BTD = block(s, r, name=f"layer_{i}")(x_BTD, mask, positions_BT)
        x_BTD = NORM_MODULES[s.norm](s.width, name="final_norm")(x_BTD)
        return x_BTD, table.T if s.tied else Head(s, name="head")()


class Embedding(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self) -> Array:
        return self.param("table", nn.initializers.zeros, (self.shape.vocab, self.shape.width))


class Head(nn.Module):
    shape: Shape

    @nn.compact
    def __call__(self) -> Array:
        return self.param("kernel", nn.initializers.zeros, (self.shape.width, self.shape.vocab))


def hidden(
    shape: Shape,
    params: Params,
    ids_BT: Array,
    dtype: str = "float32",
    resources: Resources = ONE_DEVICE,
    mask: Mask = CAUSAL,
    positions_BT: Array | None = None,
) -> tuple[Array, Array]:
    """What `Transformer` returns, as a pure function of parameters, ids and what is said of them."""
    return Transformer(shape, dtype, resources).apply({"params": params}, ids_BT, mask, positions_BT)


def apply(
    shape: Shape, params: Params, ids_BT: Array, dtype: str = "float32", resources: Resources = ONE_DEVICE
) -> Array:
    """Logits [B, T, V] in float32; a pure function of parameters and ids."""
    return logits(*hidden(shape, params, ids_BT, dtype, resources), resources)


def logits(x_BTD: Array, head_DV: Array, resources: Resources = ONE_DEVICE) -> Array:
    raw = product(x_BTD, head_DV, resources, "width", "vocab")
    return constrain(raw, resources, "batch", "position", "vocab").astype(jnp.float32)
