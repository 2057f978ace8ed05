"""Compile a planned step without its machine: what the compiler itself says it needs.

The step is compiled from abstract inputs over a mesh of devices that need not exist: the processor's
pretended ones, or, with the `tpu` extra, a slice of TPUs that the TPU compiler describes. It runs in a
process of its own, since the number of pretended devices and the platform are fixed once JAX starts:
`python -m trainer.aot` reads a request (JSON) from stdin and writes the verdict to stdout.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from scaling.errors import ScalingError
from scaling.files import from_mapping
from scaling.shape import Shape
from trainer.resources import Resources
from trainer.topologies import topology

# Buffers are assigned before the processor's code is optimised, which takes most of the time.
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
FIELDS = ("argument", "output", "temp", "alias", "generated_code")
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "JAX_PLATFORMS": "cpu",
}


@dataclass(frozen=True)
class Request:
    """One step to compile: `chip` None means pretended CPU devices."""

    shape: Shape
    seq: int
    batch: int
    resources: Resources = field(default_factory=Resources)
    dtype: str = "bfloat16"
    chip: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Request:
        parts = {
            "shape": from_mapping(Shape, values["shape"], "request, field 'shape'"),
            "resources": from_mapping(Resources, values["resources"], "request, field 'resources'"),
        }
        return from_mapping(cls, {**values, **parts}, "request")


def compile_for_topology(
    shape: Shape,
    seq: int,
    batch: int,
    resources: Resources,
    chip: str | None,
    dtype: str = "bfloat16",
    timeout_s: float = 900.0,
) -> dict[str, Any]:
    """What the compiler says of one training step of this trainer on `resources.devices` chips.

    The verdict has `fits`, `bytes_per_device` (the peak; None where it does not fit), `memory` (its
    parts), `sentence` (the compiler's own words where it does not fit), `attention` (the path that the
    trainer takes there), `topology` and `compile_s`.
    Raises UsageError for a slice that does not exist, ScalingError when the TPU compiler is not
    installed, fails for another reason or takes longer than `timeout_s`.
    """
    request = Request(shape, seq, batch, resources, dtype, chip)
    resources.check(batch, seq)
    if chip is not None:
        topology(chip, resources.devices)
        if find_spec("libtpu") is None:
            raise ScalingError(
                "the TPU compiler is not installed; `pip install 'scaling[tpu]'` brings it (about 640 MB, "
                "no TPU needed)."
            )
    command = [sys.executable, "-P", "-m", "trainer.aot"]
    environment = {**os.environ, **QUIET}
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={resources.devices} {FAST}"
    try:
        done = subprocess.run(
            command, input=json.dumps(request.to_dict()), capture_output=True, text=True,
            env=environment, timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ScalingError(f"the compiler did not finish within {timeout_s:g} s; no verdict.") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ScalingError(f"the compiler failed: {last[:400]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def verdict(request: Request) -> dict[str, Any]:
    """Compile here and now; the devices must be there or be described by the TPU compiler."""
    import jax

    from trainer.attention import choice
    from trainer.mesh import make_mesh
    from trainer.programs import lower_train
    from trainer.step import Static

    r, name = request.resources, None
    devices = jax.devices()[: r.devices]
    if request.chip is not None:
        from jax.experimental import topologies

        name, options = topology(request.chip, r.devices)
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    alone = r.devices == 1 and request.chip is None
    mesh = None if alone else make_mesh(r.data, r.fsdp, r.tensor, devices)
    static = Static(
        request.shape, request.batch, request.seq, 1, 0.9, 0.95, 1e-8, 1.0, 1e-4, request.dtype, r
    )
    begin = time.perf_counter()
    path = r.attention
    if path == "auto":
        path = choice(devices[0].device_kind, request.dtype, request.seq, request.shape.head_dim)
    found: dict[str, Any] = {
        "topology": name, "devices": r.devices, "dtype": request.dtype, "attention": path
    }  # fmt: skip
    try:
        compiled = lower_train(static, "uint16" if request.shape.vocab <= 2**16 else "int32", mesh).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found |= {"fits": False, "bytes_per_device": None, "memory": None, "sentence": sentence(str(error))}
    else:
        memory = memory_of(compiled)
        found |= {
            "fits": True,
            "bytes_per_device": needed(memory, name is not None),
            "memory": memory,
            "sentence": None,
        }
    return found | {"compile_s": round(time.perf_counter() - begin, 2)}


def memory_of(compiled: Any) -> dict[str, int]:
    """XLA's own account in bytes per device: what goes in, comes out, shares both and lies between."""
    analysis = compiled.memory_analysis()
    sizes = {name: int(getattr(analysis, f"{name}_size_in_bytes")) for name in FIELDS}
    return sizes | {"peak": int(getattr(analysis, "peak_memory_in_bytes", 0))}


def needed(memory: Mapping[str, int], on_tpu: bool) -> int:
    """Bytes that the step needs: on a TPU the compiler's peak, which is what its own limit is held to
    (its temporaries add up buffers of different times); else arguments, temporaries, and outputs that
    take no argument's place, which is what XLA allocates on a processor."""
    if on_tpu and memory["peak"]:
        return memory["peak"]
    return memory["argument"] + memory["temp"] + memory["output"] - memory["alias"]


def sentence(message: str) -> str:
    """The compiler's sentence about memory out of its long report.

    >>> sentence("RESOURCE_EXHAUSTED: Ran out of memory on HBM, 21.89G exceeds available HBM (15.75G). More.")
    'Ran out of memory on HBM, 21.89G exceeds available HBM (15.75G).'
    """
    found = re.search(r"Ran out of memory[^\n]*?\.(?=\s|$)", message)
    return found.group() if found else message.strip().partition("\n")[0][:300]


def main() -> None:
    print(json.dumps(verdict(Request.from_dict(json.load(sys.stdin)))))


if __name__ == "__main__":
    main()
