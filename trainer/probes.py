"""Times a few short real steps of this trainer on the present machine: what a profile is made of.

    python -m trainer.probes [--quick]

Runs in a process of its own (the caller decides its cores and device beforehand) and prints one JSON
object per line: {"event": "begin" | "machine" | "compiled" | "skipped" | "round" | "timed" | "done", ...},
the last one being "done". The steps are those of `trainer.loop`: the same program, state and update, on
random tokens.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling.shape import Shape, ShapeFamily
from trainer.assembly import rates_of, static_of
from trainer.config import RunConfig
from trainer.programs import fresh_state, lower_train

CALL_S = 0.15  # a call takes about this long
CHUNK = 64  # but makes no more steps than this
FEWEST = 4  # nor fewer than this
ROUNDS, QUICK_ROUNDS = 7, 4


@dataclass(frozen=True)
class Probe:
    """A shape and the batch it is timed at; `dtype` is that of the products."""

    shape: Shape
    seq: int
    batch: int
    dtype: str = "float32"

    @property
    def name(self) -> str:
        s = self.shape
        return f"L{s.layers}-d{s.width}-V{s.vocab}-T{self.seq}-B{self.batch}"


def probe(width: int, layers: int, seq: int, batch: int, vocab: int, dtype: str = "float32") -> Probe:
    """A probe of the standard family at this width, at a depth of its own."""
    shape = dataclasses.replace(ShapeFamily(vocab).shape(width), layers=layers)
    return Probe(shape, seq, batch, dtype)


def ladder(device: str, quick: bool = False) -> tuple[Probe, ...]:
    """Shapes that tell the costs apart: width, depth, length, batch and vocabulary each move alone.

    On a CPU the sizes of a sweep's cells; on an accelerator those that begin to fill it.
    """
    if device == "cpu":
        rows = [
            (16, 2, 64, 4, 256),
            (128, 2, 256, 4, 256),
            (256, 2, 128, 2, 1024),
            (64, 3, 128, 2, 1024),
            (64, 2, 64, 16, 256),
            (128, 2, 64, 4, 4096),
            (192, 5, 64, 4, 512),
            (384, 2, 64, 8, 512),
        ]
        return tuple(probe(*row) for row in (rows[:3] if quick else rows))
    rows = [
        (256, 4, 512, 8, 4096),
        (512, 8, 1024, 8, 4096),
        (1024, 4, 1024, 8, 32_768),
        (2048, 4, 1024, 4, 4096),
        (512, 4, 4096, 2, 4096),
        (1024, 8, 512, 32, 4096),
        (2048, 2, 2048, 4, 32_768),
    ]
    return tuple(probe(*row, "bfloat16") for row in (rows[:4] if quick else rows))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="trainer.probes")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    # Events keep the real stdout; what a library prints must not reach it.
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    for event in events(ladder(jax.devices()[0].platform, options.quick), options.quick):
        channel.write(json.dumps(event) + "\n")
    return 0


def events(probes: Sequence[Probe], quick: bool = False) -> Iterator[dict[str, Any]]:
    """The machine, then each probe's seconds per step, then the end."""
    device = jax.devices()[0]
    dtype = probes[0].dtype
    begin, used = time.perf_counter(), time.process_time()
    rounds_ahead = QUICK_ROUNDS if quick else ROUNDS
    yield {"event": "begin", "probes": len(probes), "rounds": rounds_ahead}
    yield {"event": "machine", **machine(device, dtype)}
    ready: dict[Probe, Callable[[int], float]] = {}
    for wanted in probes:
        began = time.perf_counter()
        try:
            ready[wanted] = stepper(wanted)
        except jax.errors.JaxRuntimeError as error:  # too large for this device's memory
            reason = str(error).partition("\n")[0]
            yield {"event": "skipped", "name": wanted.name, "reason": reason}
            continue
        yield {"event": "compiled", "name": wanted.name, "compile_s": time.perf_counter() - began}
    # The difference of two calls leaves out what a call costs beside its steps (dispatch, the first
    # touch of its memory): a run makes a hundred steps a call. Probes take turns, so that another
    # program's busy second falls on all of them alike, and the fastest call of each kind counts.
    steps = {p: max(FEWEST, min(CHUNK, round(CALL_S * FEWEST / run(FEWEST)))) for p, run in ready.items()}
    calls: dict[Probe, list[tuple[float, float]]] = {p: [] for p in ready}
    for number in range(rounds_ahead):
        for p, run in ready.items():
            calls[p].append((run(steps[p]), run(1)))
        yield {"event": "round", "number": number + 1}
    for p, pairs in calls.items():
        rounds = [(long - short) / (steps[p] - 1) for long, short in pairs]
        long, short = (min(kind) for kind in zip(*pairs, strict=True))
        yield {
            "event": "timed",
            "name": p.name,
            "shape": p.shape.to_dict(),
            "seq": p.seq,
            "batch": p.batch,
            "step_time_s": max(1e-9, (long - short) / (steps[p] - 1)),
            "fastest_s": min(rounds),
            "slowest_s": max(rounds),
        }
    wall = time.perf_counter() - begin
    yield {"event": "done", "processor_share": min(1.0, (time.process_time() - used) / wall)}


def config_of(wanted: Probe) -> RunConfig:
    """The run that a probe is cut from; it is never run to its end and reads no data."""
    return RunConfig(
        shape=wanted.shape,
        data="",
        data_sha256="",
        steps=10**6,
        batch=wanted.batch,
        seq=wanted.seq,
        lr=1e-6,  # the numbers must stay ordinary, whatever the tokens are
        dtype=wanted.dtype,  # type: ignore[arg-type]
        chunk_steps=CHUNK,
    )


def stepper(wanted: Probe) -> Callable[[int], float]:
    """Compile and warm up; the function returned makes n steps in one call and says its seconds."""
    config = config_of(wanted)
    static, rates = static_of(config), rates_of(config)
    rng = np.random.default_rng(0)
    size = (CHUNK, wanted.batch, wanted.seq + 1)
    ids = rng.integers(0, wanted.shape.vocab, size).astype(
        np.uint16 if wanted.shape.vocab > 256 else np.uint8
    )
    program = lower_train(static, str(ids.dtype)).compile()
    held = [fresh_state(static, seed=0)]

    clock = step_clock()

    def run(steps: int) -> float:
        began = clock()
        held[0], metrics = program(held[0], rates, ids, np.int32(steps))
        jax.block_until_ready(metrics)
        return clock() - began

    run(1)
    return run


def step_clock() -> Callable[[], float]:
    """Processor time on one core, which others' work on that core does not lengthen; else wall time."""
    alone = jax.devices()[0].platform == "cpu" and usable_cores() == 1
    return time.process_time if alone else time.perf_counter


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(device: Any, dtype: str) -> dict[str, Any]:
    """What was measured on, with the best matrix product and copy seen."""
    cpu = device.platform == "cpu"
    return {
        "device": device.platform,
        "model": cpu_model() if cpu else device.device_kind,
        "cores": usable_cores(),
        "clock": step_clock().__name__,
        "n_chips": 1,
        "dtype": dtype,
        "matmul_flops_per_s": matmul_speed(dtype, (256, 512, 1024) if cpu else (4096, 8192)),
        "copy_bytes_per_s": copy_speed(1 << 25 if cpu else 1 << 30),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "jaxlib", "numpy")},
        },
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def matmul_speed(dtype: str, sizes: Sequence[int]) -> float:
    """FLOP/s of the best product of two square matrices among `sizes`."""
    return max(2.0 * n**3 / best_seconds(lambda x: x @ x, (n, n), dtype, donate=False) for n in sizes)


def copy_speed(values: int) -> float:
    """Bytes per second, read and written, of scaling an array of `values` float32 in place."""
    return 8.0 * values / best_seconds(lambda x: x * 1.0001, (values,), "float32", donate=True)


def best_seconds(function: Callable[[Any], Any], size: tuple[int, ...], dtype: str, donate: bool) -> float:
    x = jnp.asarray(np.full(size, 0.01, np.float32), dtype)
    run = jax.jit(function, donate_argnums=0 if donate else ()).lower(x).compile()
    clock = step_clock()
    best, spent = float("inf"), 0.0
    while spent < 0.3:
        began = clock()
        y = jax.block_until_ready(run(x))
        taken = clock() - began
        x = y if donate else x
        best, spent = min(best, taken), spent + taken
    return best


if __name__ == "__main__":
    sys.exit(main())
