"""Many small runs in one program against one by one: tokens per second in all, on whatever device is here.

    [taskset -c 0] python benchmarks/trainer_many.py [--widths 16 64] [--packs 2 4 8] [--out FILE]
    python benchmarks/trainer_many.py --quick         # one tiny shape: does the script work?

Times the programs that the trainer calls (trainer.programs, trainer.many), with the batch, length and chunk
of the default recipe: the program of one run, and that of k runs, after a first call that is not counted.
`gain` is the tokens per second of all k runs over those of one run alone. Pinned to one core the clock is
processor time, so that other work on the machine does not count. Prints JSON and a table, and writes
benchmarks/results/cpu_many.json, or gpu_many.json on an accelerator. Aim on an accelerator: 5 for runs
below 10M parameters; on a CPU no gain is expected, and none is promised.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scaling.recipe import Recipe
from scaling.shape import ShapeFamily
from trainer.assembly import rates_of, static_of
from trainer.config import config_from_dict
from trainer.many import lanes_of, train_together
from trainer.probes import step_clock
from trainer.programs import compiled, fresh_state
from trainer.step import Static

RESULTS = Path(__file__).parent / "results"
WIDTHS = {"cpu": (16, 64), "accelerator": (16, 32, 64, 128, 192, 256, 384)}
VOCAB = 256


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packs", type=int, nargs="+", default=None, help="runs in a program; 4, or 4 to 64")
    parser.add_argument("--widths", type=int, nargs="+", default=None)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    device = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    widths = options.widths or ((8,) if options.quick else WIDTHS[device])
    packs = options.packs or ([2] if options.quick else [4] if device == "cpu" else [4, 8, 16, 32, 64])
    found: dict[str, Any] = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "rows": []}
    for width in widths:
        static, rates = static_and_rates(width, options.dtype)
        alone = speed(static, rates, 1, options.quick)
        for pack in packs:
            together = speed(static, rates, pack, options.quick)
            found["rows"].append(
                {
                    "width": width,
                    "params": static.shape.params(),
                    "pack": pack,
                    "tokens_per_s_alone": alone,
                    "tokens_per_s_together": together,
                    "gain": together / alone,
                    "lanes_by_rule": lanes_of(static, pack),
                }
            )
            say(found["rows"][-1])
    name = "gpu_many.json" if device == "accelerator" else "cpu_many.json"
    place = options.out or (None if options.quick else RESULTS / name)
    if place is not None:
        place.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))
    print("\n".join(table(found)))
    return 0


def static_and_rates(width: int, dtype: str) -> tuple[Static, Any]:
    shape = ShapeFamily(VOCAB).shape(width)
    config = config_from_dict({**Recipe().run_config(shape, 10**7, 0, "data", "0" * 64, "x"), "dtype": dtype})
    return static_of(config), rates_of(config)


def speed(static: Static, rates: Any, pack: int, quick: bool) -> float:
    """Tokens per second of all runs of a program of `pack`, the best of a few calls."""
    s, rng = static, np.random.default_rng(0)
    size = (pack, s.chunk_steps, s.batch, s.seq + 1)
    ids = rng.integers(0, VOCAB, size).astype(np.uint8)
    states = tuple(fresh_state(s, seed) for seed in range(pack))
    if pack == 1:
        train, held = compiled(s, "uint8").train, (states[0],)
        arguments = (rates, ids[0], np.int32(s.chunk_steps))
    else:
        several = jax.tree.map(lambda leaf: np.stack([leaf] * pack), rates)
        arguments = (several, ids, np.full(pack, s.chunk_steps, np.int32))
        step = jax.jit(partial(train_together, s), donate_argnums=0)
        train, held = step.lower(states, *arguments).compile(), (states,)
    clock, best, spent = step_clock(), float("inf"), 0.0
    state = jax.block_until_ready(train(*held, *arguments))[0]
    while spent < (0.2 if quick else 2.0):
        began = clock()
        state = jax.block_until_ready(train(state, *arguments))[0]
        taken = clock() - began
        best, spent = min(best, taken), spent + taken
    return pack * s.chunk_steps * s.batch * s.seq / best


def table(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['device']}, JAX {found['jax']}"
    yield "| width | parameters | runs | tokens/s alone | tokens/s of all together | gain |"
    yield "|---|---|---|---|---|---|"
    for r in found["rows"]:
        speeds = f"{r['tokens_per_s_alone']:,.0f} | {r['tokens_per_s_together']:,.0f}"
        yield f"| {r['width']} | {r['params']:,} | {r['pack']} | {speeds} | {r['gain']:.2f} |"


def say(row: dict[str, Any]) -> None:
    print(f"width {row['width']}, {row['pack']} runs: {row['gain']:.2f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
