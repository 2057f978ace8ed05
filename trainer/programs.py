"""The executables of a shape, and the abstract inputs from which they are compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trainer import processes
from trainer.axes import spec
from trainer.compiler import choose_passes
from trainer.evaluate import BLOCKS_PER_CALL, WINDOWS_PER_BLOCK
from trainer.feed import fed, own_rows
from trainer.masks import FIELDS, Batch
from trainer.mesh import make_mesh, shard_state, with_shardings
from trainer.model import abstract_params, init_params
from trainer.schedule import Schedule
from trainer.step import Rates, State, Static, eval_chunk, init_state, train_chunk

choose_passes()  # before the first program of this process


class Programs(NamedTuple):
    """The two executables of a shape: any horizon, seed and rate runs through them.

    `rows` are the rows of each batch that this process has to make, None for all; `packed` is how many
    runs share the calls (`trainer.many`).
    """

    train: Callable
    evaluate: Callable
    rows: np.ndarray | None = None
    packed: int = 1


@lru_cache(maxsize=16)
def compiled(static: Static, ids_dtype: str) -> Programs:
    """Compile (or load from the on-disk cache) the programs of `static`, once per process."""
    mesh = mesh_of(static)
    ids, held = train_ids_of(static, ids_dtype, mesh), held_ids_of(static, ids_dtype, mesh)
    rows = own_rows(ids)
    train = lower_train(static, ids_dtype, mesh).compile()
    score = lower_evaluate(static, ids_dtype, mesh).compile()
    return Programs(fed(train, 2, ids, rows), fed(score, 1, held), rows)


def mesh_of(static: Static) -> Mesh | None:
    """The mesh that the run's resources ask for; none on one device."""
    r = static.resources
    return make_mesh(r.data, r.fsdp, r.tensor) if r.devices > 1 or processes.number() > 1 else None


def lower_train(static: Static, ids_dtype: str, mesh: Mesh | None = None) -> jax.stages.Lowered:
    """The train program before compilation; needs no array and no device of the mesh."""
    state = abstract_state(static, mesh)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    each = jax.tree.map(lambda _: scalar, state.params)
    further = [each if there else None for there in (static.scaled_decay, static.scaled_eps)]
    rates = Rates(Schedule(*[scalar] * 5), each, scalar, *further)
    ids = train_ids_of(static, ids_dtype, mesh)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    placed: dict[str, Any] = {}
    if mesh is not None:  # the next call takes this one's state: it must come out as it went in
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        placed = {"out_shardings": (shardings, NamedSharding(mesh, PartitionSpec()))}
    with jax.set_mesh(mesh) if mesh is not None else nullcontext():
        program = jax.jit(train_chunk, static_argnums=0, donate_argnums=1, **placed)
        return program.lower(static, state, rates, ids, count)


def lower_evaluate(static: Static, ids_dtype: str, mesh: Mesh | None = None) -> jax.stages.Lowered:
    held = held_ids_of(static, ids_dtype, mesh)
    params = abstract_state(static, mesh).params
    # Whole on every device, so that any process can read all sums.
    placed = {} if mesh is None else {"out_shardings": NamedSharding(mesh, PartitionSpec())}
    with jax.set_mesh(mesh) if mesh is not None else nullcontext():
        return jax.jit(eval_chunk, static_argnums=0, **placed).lower(static, params, held)


def train_ids_of(static: Static, dtype: str, mesh: Mesh | None = None) -> Any:
    return _batch(static, (static.chunk_steps, static.batch, static.seq + 1), dtype, mesh)


def held_ids_of(static: Static, dtype: str, mesh: Mesh | None = None) -> Any:
    return _batch(static, (BLOCKS_PER_CALL, WINDOWS_PER_BLOCK, static.seq + 1), dtype, mesh)


def _batch(
    static: Static, size: tuple[int, int, int], dtype: str, mesh: Mesh | None
) -> Batch | jax.ShapeDtypeStruct:
    """Ids alone, or with what else `static.fields` says of each token."""
    ids = _ids(size, dtype, mesh)
    if not static.fields:
        return ids
    return Batch(ids, **{name: _ids(size, FIELDS[name], mesh) for name in static.fields})


def _ids(size: tuple[int, int, int], dtype: str, mesh: Mesh | None) -> jax.ShapeDtypeStruct:
    if mesh is None:
        return jax.ShapeDtypeStruct(size, dtype)
    rows = spec(("batch", "position"), size[1:], mesh.shape)
    return jax.ShapeDtypeStruct(size, dtype, sharding=NamedSharding(mesh, PartitionSpec(None, *rows)))


def abstract_state(static: Static, mesh: Mesh | None = None) -> State:
    """Shapes and types of the training state, and its shardings, from the parameter table alone."""
    params = abstract_params(static.shape, static.resources.scan)
    state = jax.eval_shape(lambda p: init_state(static, p), params)
    return state if mesh is None else with_shardings(state, static.shape, mesh)


def fresh_state(static: Static, seed: int, multipliers: Mapping[str, float] | None = None) -> State:
    """The state before the first step, made with numpy: eager initialisation would compile per shape."""
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_state(static))
    return zeros._replace(params=init_params(static.shape, seed, static.resources.scan, multipliers))


def placed(static: Static, state: State) -> State:
    """The state where the programs want it: on the mesh, or wherever it is on one device."""
    mesh = mesh_of(static)
    return state if mesh is None else shard_state(state, static.shape, mesh)
