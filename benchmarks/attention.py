"""Processor time and memory of attention and its gradient by length: all pairs at once, or block by block.

    python benchmarks/attention.py [--lengths 128,256,512,1024,2048] [--documents 1,8]

4096 tokens in all, 4 heads of 32, float32, on one core; blocks as the trainer takes them. With several
documents a row they are packed with segment ids. Memory is the compiler's account of what lies between
arguments and results.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import numpy as np

from trainer.attention import attend
from trainer.masks import CAUSAL, Mask

TOKENS, HEADS, SIZE, ROUNDS = 4096, 4, 32, 5


def measured(kind: str, length: int, documents: int) -> tuple[float, float]:
    """Least seconds of a call and its MiB of temporaries."""
    rng, rows = np.random.default_rng(0), max(1, TOKENS // length)
    q, k, v = (jnp.asarray(rng.normal(size=(rows, length, HEADS, SIZE)), jnp.float32) for _ in range(3))
    numbers = np.arange(length) * documents // length
    mask = CAUSAL if documents == 1 else Mask(jnp.asarray(np.tile(numbers, (rows, 1)), jnp.int32))
    gradient = jax.grad(lambda q, k, v: jnp.square(attend(q, k, v, mask, kind)).sum(), (0, 1, 2))
    program = jax.jit(gradient).lower(q, k, v).compile()
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time()
        jax.block_until_ready(program(q, k, v))
        best = min(best, time.process_time() - begin)
    return best, program.memory_analysis().temp_size_in_bytes / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lengths", default="128,256,512,1024,2048")
    parser.add_argument("--documents", default="1,8")
    options = parser.parse_args()
    print("| length | documents | reference ms | blockwise ms | ratio | reference MiB | blockwise MiB |")
    print("|---|---|---|---|---|---|---|")
    for length in map(int, options.lengths.split(",")):
        for documents in map(int, options.documents.split(",")):
            (a, x), (b, y) = (measured(kind, length, documents) for kind in ("reference", "blockwise"))
            times = f"{a * 1e3:.0f} | {b * 1e3:.0f} | {a / b:.2f}"
            print(f"| {length} | {documents} | {times} | {x:.0f} | {y:.0f} |", flush=True)


if __name__ == "__main__":
    main()
