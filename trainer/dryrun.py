"""What a run would lay where: processes, devices, mesh and the sharding of every parameter.

All of it follows from the parameter table and the rules of `trainer.axes`, so the mesh may be larger than
the machine that asks. Nothing is compiled.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jax.sharding import PartitionSpec

from scaling.errors import ScalingError
from scaling.shape import Param, Shape
from trainer import processes
from trainer.axes import MESH, spec, ways
from trainer.config import RunConfig
from trainer.resources import Resources

FLOAT_BYTES = 4  # parameters and both moments are kept in float32
MOMENTS = 2


@dataclass(frozen=True)
class Machine:
    """Devices of each process, and what kind they are; `pretended` ones are not there."""

    platform: str
    kind: str
    each: tuple[int, ...]
    pretended: bool = False

    @property
    def devices(self) -> int:
        return sum(self.each)


def this_machine() -> Machine:
    """The devices that JAX sees, on all processes that have joined."""
    import jax

    found = jax.devices()
    each = tuple(sum(d.process_index == i for d in found) for i in range(processes.number()))
    return Machine(found[0].platform, found[0].device_kind, each)


def pretended(devices: int, count: int) -> Machine:
    """`devices` devices that need not exist, dealt out to `count` processes."""
    if devices % count:
        raise ScalingError(f"--devices {devices}: cannot be dealt out evenly to {count} processes.")
    return Machine("pretended", "pretended", (devices // count,) * count, pretended=True)


def preview(config: RunConfig, machine: Machine) -> dict[str, Any]:
    """The layout of the run on `machine`; raises ScalingError when its mesh does not fit there."""
    r = config.resources
    if r.devices != machine.devices:
        mesh = " x ".join(f"{axis}={getattr(r, axis)}" for axis in MESH)
        here = "are asked for" if machine.pretended else "are present"
        raise ScalingError(
            f"field 'resources' of the config asks for a mesh of {mesh} = {r.devices} devices, "
            f"{machine.devices} {here}; --devices {r.devices} previews it anywhere."
        )
    rows = list(shardings(config.shape, r))
    params = sum(row["count"] * row["bytes_per_device"] for row in rows)
    member = processes.membership()
    sequences = config.batch // r.ranks
    return {
        "name": config.name,
        "processes": len(machine.each),
        "process": member.process if member else 0,
        "coordinator": member.coordinator if member else None,
        "found": member.found if member else None,
        "host": socket.gethostname(),
        "platform": machine.platform,
        "device_kind": machine.kind,
        "devices": machine.devices,
        "devices_per_process": list(machine.each),
        "mesh": ways(r),
        "batch_sequences": config.batch,
        "batch_tokens": config.batch * config.seq,
        "sequences_per_device": sequences,
        "micro_steps": r.micro_steps,
        "sequences_at_once_per_device": sequences // r.micro_steps,
        "ids_sharding": words(spec(("batch", "position"), (config.batch, config.seq + 1), ways(r))),
        "params": config.shape.params(),
        "bytes_per_device": {"params": params, "moments": MOMENTS * params, "gradient": params},
        "parameters": rows,
    }


def shardings(shape: Shape, resources: Resources) -> Iterator[dict[str, Any]]:
    """A row for each parameter, those of all layers together: `count` is how many such there are."""
    groups: dict[str, list[Param]] = {}
    for row in shape.table:
        groups.setdefault(re.sub(r"^layer_\d+/", "layer_*/", row.name), []).append(row)
    for name, alike in groups.items():
        row, split = alike[0], spec(alike[0].axes, alike[0].shape, ways(resources))
        pieces = math.prod(ways(resources)[axis] for axes in split for axis in _names(axes))
        yield {
            "name": name,
            "count": len(alike),
            "shape": list(row.shape),
            "axes": list(row.axes),
            "sharding": words(split),
            "bytes": row.size * FLOAT_BYTES,
            "bytes_per_device": row.size * FLOAT_BYTES // pieces,
        }


def words(split: PartitionSpec) -> str:
    """`fsdp, -`: the mesh axes that split each dimension, a dash where it stays whole."""
    return ", ".join("+".join(_names(axes)) or "-" for axes in split)


def _names(axes: Any) -> tuple[str, ...]:
    """The mesh axes of one dimension; JAX writes one alone as a string, and none as None."""
    return (axes,) if isinstance(axes, str) else tuple(axes or ())
