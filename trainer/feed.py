"""Host arrays onto a mesh that may span processes: each process gives what its own devices hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from trainer import processes

ROWS = 1  # the axis of ids [steps, B, T + 1] that the mesh splits


def own_rows(batch: Any) -> np.ndarray | None:
    """Rows of the batch that this process's devices hold, in order; None for all of them.

    `batch` is the program's abstract argument: ids, or a tree of arrays like them.
    """
    ids = jax.tree.leaves(batch)[0]
    if processes.number() == 1 or ids.sharding is None:
        return None
    held = ids.sharding.addressable_devices_indices_map(ids.shape).values()
    return np.array(sorted({row for index in held for row in range(ids.shape[ROWS])[index[ROWS]]}))


def fed(program: Callable, place: int, batch: Any, rows: np.ndarray | None = None) -> Callable:
    """`program` with the batch, its argument number `place`, as host arrays: all rows, or `rows` alone.

    On one process the arrays go in as they are.
    """
    if processes.number() == 1:
        return program

    def call(*arguments: Any) -> Any:
        spreading = jax.tree.map(lambda value, to: spread(value, to, rows), arguments[place], batch)
        return program(*arguments[:place], spreading, *arguments[place + 1 :])

    return call


def spread(value: np.ndarray, target: jax.ShapeDtypeStruct, rows: np.ndarray | None = None) -> jax.Array:
    """The global array of `target`'s shape and sharding; `value` is all of it, or its `rows` alone."""

    def part(index: tuple[slice, ...]) -> np.ndarray:
        if rows is not None:
            start, stop, _ = index[ROWS].indices(target.shape[ROWS])
            first, last = np.searchsorted(rows, (start, stop))
            index = (*index[:ROWS], slice(first, last), *index[ROWS + 1 :])
        return value[index]

    return jax.make_array_from_callback(target.shape, target.sharding, part)


def spread_tree(values: Any, shardings: Any) -> Any:
    """A tree of arrays, whole and alike on every process, laid out over the devices of all."""

    def one(value: Any, sharding: Sharding) -> jax.Array:
        if isinstance(value, jax.Array) and not value.is_fully_addressable:
            return jax.device_put(value, sharding)
        whole = np.asarray(value)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(one, values, shardings)


def fetched(tree: Any) -> Any:
    """Whole arrays on the host, wherever their parts are; every process must call it."""
    if processes.number() == 1:
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
