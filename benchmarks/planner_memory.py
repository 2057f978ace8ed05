"""The planner's memory model against XLA's own account of the trainer's step, over shapes and layouts.

    python benchmarks/planner_memory.py [--record FILE] [--recorded FILE] [--fit]

Compiles the real train step ahead of time for abstract inputs on pretended CPU devices (nothing is
trained) and compares `scaling.hardware.memory` with `memory_analysis()` in bytes per device.
`--record` keeps what the compiler said, `--recorded` compares with such a record instead of compiling.
`--fit` finds the backend's constants (`XLA_CPU` in scaling.hardware.memory) on every other case and
scores them on the rest, then on all: the constants are the compiler's habits, not the model's terms.
Attention is the reference's, which keeps the weights of all pairs, as the constants were fitted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import time
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from scaling.hardware.memory import XLA_CPU, Accounting, Memory, training_memory
from scaling.hardware.workload import Layout, Workload
from scaling.shape import Shape
from trainer.aot import FAST, Request, verdict
from trainer.resources import Resources

SHAPES = (
    Shape(4, 256, 4, 4, 64, 704, 2048),
    Shape(8, 128, 4, 2, 32, 384, 4096),
    Shape(3, 384, 6, 2, 64, 1024, 1024),
    Shape(6, 192, 4, 4, 48, 512, 8192, tied=True),
)
MESHES = ((1, 1, 1), (1, 8, 1), (2, 4, 1), (1, 2, 4), (2, 2, 2), (8, 1, 1))
POLICIES = (
    {"remat": "none"},
    {"remat": "minimal"},
    {"remat": "custom", "remat_saved": ("query_proj", "key_proj", "value_proj", "context")},
    {"remat": "full"},
)


def grid(count: int = 48, seed: int = 0) -> list[Request]:
    """A spread of cases: every policy as often, everything else drawn."""
    rng, requests = random.Random(seed), []
    for index in range(count):
        policy = POLICIES[index % len(POLICIES)]
        data, fsdp, tensor = MESHES[index // len(POLICIES) % len(MESHES)]
        micro = rng.choice((1, 1, 2, 4))
        seq = rng.choice((128, 256, 512))
        requests.append(
            Request(
                rng.choice(SHAPES),
                seq,
                data * fsdp * micro * rng.choice((1, 2, 4, 8)) * (2 if seq == 128 else 1),
                Resources(
                    data, fsdp, tensor,
                    scan=policy["remat"] != "none" or rng.random() < 0.5 or data * fsdp * tensor > 1,
                    loss_chunk=rng.choice((None, 32)), micro_steps=micro, attention="reference", **policy,
                ),
                rng.choice(("float32", "float32", "bfloat16")),
            )
        )  # fmt: skip
    return requests


def compiled(requests: list[Request]) -> list[dict]:
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {FAST}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    rows = []
    for request in requests:
        begin = time.process_time()
        rows.append({"request": request.to_dict(), "memory": verdict(request)["memory"]})
        print(f"{len(rows):3d} of {len(requests)}: {time.process_time() - begin:.1f} s", flush=True)
    return rows


def books_of(request: Request, constants: Accounting | None = None) -> Accounting:
    r = request.resources
    return dataclasses.replace(
        constants or XLA_CPU[request.dtype],
        scan=r.scan,
        loss_chunk=r.loss_chunk,
        compute=2 if request.dtype == "bfloat16" else 4,
    )


def predicted(request: Request, books: Accounting) -> Memory:
    r = request.resources
    layout = Layout(
        n_chips=r.devices, data=r.data, fsdp=r.fsdp, tensor=r.tensor, grad_accum=r.micro_steps,
        remat=r.remat, remat_saved=r.remat_saved, flash_attention=False,
    )  # fmt: skip
    return training_memory(Workload.of(request.shape, request.seq, request.batch), layout, books)


def peak(row: dict) -> int:
    memory = row["memory"]
    return memory["argument"] + memory["temp"] + memory["output"] - memory["alias"]


# The fitted constants: block x 5, then these. Each is held to what buffers there can be: about as many as
# the tensors that a block makes and differentiates, the double where bfloat16 is computed in float32.
NAMES = ("logit", "stream", "weights", "head", "exchange", "stack")
PRIOR = np.array([6, 5, 5, 3, 2.5, 9, 3, 2.5, 3, 3, 1.2])
SPREAD = np.array([4, 4, 4, 3, 2, 3, 2, 2, 2, 4, 0.3])
UPPER = np.array([30, 30, 30, 15, 8, 30, 8, 12, 10, 30, 2.5])
LOWER = np.array([0.0] * 10 + [1.0])


def with_constants(x: np.ndarray) -> Accounting:
    values = x.tolist()
    rest = dict(zip(NAMES, values[5:], strict=True))
    return Accounting(block=tuple(values[:5]), reuse=1, reserve=0, **rest)


def fitted(rows: list[dict]) -> Accounting:
    cases = [(Request.from_dict(row["request"]), peak(row)) for row in rows]

    def misfit(x: np.ndarray) -> np.ndarray:
        books = with_constants(x)
        errors = [predicted(q, books_of(q, books)).total / truth - 1 for q, truth in cases]
        return np.concatenate([errors, 0.01 * (x - PRIOR) / SPREAD])

    starts = np.clip(PRIOR + SPREAD * np.random.default_rng(0).uniform(-1, 1, (12, len(PRIOR))), LOWER, UPPER)
    found = [least_squares(misfit, x, bounds=(LOWER, UPPER), loss="soft_l1", f_scale=0.05) for x in starts]
    return with_constants(np.round(min(found, key=lambda fit: fit.cost).x, 2))


def constants_of(books: Accounting) -> dict:
    return {"block": books.block, **{name: getattr(books, name) for name in NAMES}}


def cross_fit(rows: list[dict]) -> None:
    for dtype in XLA_CPU:
        # Compiled from what the tape leaves to the compiler, unrolled runs have habits of their own.
        cases = [r for r in rows if r["request"]["dtype"] == dtype and r["request"]["resources"]["scan"]]
        errors = []
        for half in (0, 1):
            books = fitted(cases[half::2])
            for row in cases[1 - half :: 2]:
                request = Request.from_dict(row["request"])
                errors.append(abs(predicted(request, books_of(request, books)).total / peak(row) - 1))
        print(f"{dtype}: constants of one half on the other: median {statistics.median(errors):.1%}, "
              f"worst {max(errors):.1%} of {len(errors)}; of all: {constants_of(fitted(cases))}")  # fmt: skip


def compare(rows: list[dict]) -> None:
    groups: dict[str, list[float]] = {}
    for row in rows:
        request = Request.from_dict(row["request"])
        found, r = predicted(request, books_of(request)), request.resources
        state = found.parameters + found.optimizer
        groups.setdefault("parameters and moments", []).append(state / row["memory"]["argument"] - 1)
        names = ["unrolled, left to the compiler"]
        if r.scan:
            groups.setdefault("all but these", []).append((found.total - state) / row["memory"]["temp"] - 1)
            names = ["total", f"remat {r.remat}", f"mesh {r.data} x {r.fsdp} x {r.tensor}", request.dtype,
                     f"fullest: {found.moment}"]  # fmt: skip
        for name in names:
            groups.setdefault(name, []).append(found.total / peak(row) - 1)
    print("| cases | n | median abs error | worst | mean signed |\n|---|---|---|---|---|")
    for name, errors in sorted(groups.items()):
        size = [abs(e) for e in errors]
        print(f"| {name} | {len(errors)} | {statistics.median(size):.1%} | {max(size):.1%} "
              f"| {statistics.mean(errors):+.1%} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--recorded", type=Path)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--count", type=int, default=48)
    options = parser.parse_args()
    if options.recorded:
        rows = json.loads(options.recorded.read_text(encoding="utf-8"))["cases"]
    else:
        rows = compiled(grid(options.count))
    if options.record:
        lines = ",\n".join(json.dumps(row) for row in rows)
        text = f'{{"format": "scaling/memory-grid", "version": 1, "cases": [\n{lines}\n]}}\n'
        options.record.write_text(text, encoding="utf-8")
    if options.fit:
        cross_fit(rows)
    compare(rows)


if __name__ == "__main__":
    main()
