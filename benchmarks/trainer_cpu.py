"""Speed of the trainer on CPU cores, against PyTorch on the same shape and cores in the same run.

    python benchmarks/trainer_cpu.py [--sizes 10k,1M] [--tokens 256,1024] [--rounds 3] [--json FILE]

Needs the extra `export` (torch), and a C++ compiler for torch.compile. Each contender is one process on
both cores, or two pinned ones on a core each whose tokens are added up; all stay alive and take turns for
some seconds at a time, so that a noisy neighbour meets every one of them. Counted FLOPs are `model_full`
(scaling.shape). The peak is the best of float32 matrix products in JAX on one core, times two.

Promise, float32, two pinned processes against the best of PyTorch's four (one process or two, eager or
compiled): at least 1.5x at every size, 2.2x in the geometric mean at 256 tokens a step, and 60% of the
peak at 10M.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEQ, VOCAB = 128, 256
SIZES = {  # layers, width, heads; feed-forward 8/3 of the width
    "10k": (1, 24, 2),
    "30k": (2, 32, 2),
    "100k": (2, 64, 4),
    "300k": (3, 96, 6),
    "1M": (5, 128, 4),
    "3M": (4, 256, 8),
    "10M": (6, 384, 6),
}
OURS, THEIRS = "scaling 2x1", ("torch 1x2", "torch 2x1", "compiled 1x2", "compiled 2x1")
CONTENDERS = (OURS, "scaling 1x2", *THEIRS, "bf16 1x2", "bf16 2x1")


def shape_of(size: str) -> Any:
    from scaling.shape import Shape

    layers, width, heads = SIZES[size]
    return Shape(layers, width, heads, heads, width // heads, -(-8 * width // 48) * 16, VOCAB)


def work(contender: str, size: str, tokens: int) -> None:
    """A contender's process: for each number of seconds on stdin, tokens per second on stdout."""
    import numpy as np

    batch = tokens // SEQ
    ids = np.random.default_rng(0).integers(0, VOCAB, (128, batch, SEQ + 1)).astype(np.uint8)
    begin = time.perf_counter()
    kind, layout = contender.split()
    steps = (ours if kind == "scaling" else theirs)(kind, layout, size, ids)
    steps(2)
    print(json.dumps({"ready_s": time.perf_counter() - begin}), flush=True)
    for line in sys.stdin:
        end, done, count = float(line), 0, 2
        begin = time.perf_counter()
        while (now := time.perf_counter()) - begin < end:
            if done:  # calls of about a quarter of the time that is left
                count = max(1, min(128, math.ceil((end - (now - begin)) / 4 * done / (now - begin))))
            steps(count)
            done += count
        print(json.dumps({"tokens_per_s": done * tokens / (time.perf_counter() - begin)}), flush=True)


def ours(kind: str, layout: str, size: str, ids: Any) -> Callable[[int], None]:
    import numpy as np

    from scaling.recipe import Recipe
    from trainer.assembly import rates_of, static_of
    from trainer.config import config_from_dict
    from trainer.programs import fresh_state, lower_train

    recipe = Recipe(seq=SEQ, batch=ids.shape[1])
    values = recipe.run_config(shape_of(size), 10_000 * ids.shape[1] * SEQ, 0, "data", "sha", size)
    config = config_from_dict(values)
    static = static_of(config)
    program, rates = lower_train(static, "uint8").compile(), rates_of(config)
    state = fresh_state(static, 0, config.init_multipliers)

    def steps(count: int) -> None:
        nonlocal state
        state, metrics = program(state, rates, ids, np.int32(count))
        metrics.block_until_ready()

    return steps


def theirs(kind: str, layout: str, size: str, ids: Any) -> Callable[[int], None]:
    import torch
    import torch_gpt

    dtype = "bfloat16" if kind == "bf16" else "float32"
    threads = 2 if layout == "1x2" else 1
    model = torch_gpt.build(shape_of(size), dtype=dtype, compiled=kind == "compiled", threads=threads)
    opt, held = torch_gpt.adamw(model), torch.from_numpy(ids)

    def steps(count: int) -> None:
        torch_gpt.train_steps(model, opt, held[:count], [1e-3] * count)

    return steps


class Contender:
    """The processes of one contender, kept waiting between their turns."""

    def __init__(self, name: str, size: str, tokens: int, cores: list[int], cache: str) -> None:
        groups = [[core] for core in cores] if name.endswith("2x1") else [cores]
        self.name, self.processes = name, []
        for group in groups:
            code = [sys.executable, __file__, "--work", name, size, str(tokens)]
            # Pinned before anything is imported: both libraries count their threads when they start.
            pin = ["taskset", "-c", ",".join(map(str, group))]
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": str(len(group)),
                "TORCHINDUCTOR_CACHE_DIR": f"{cache}/{size}-{tokens}-{name}-{group}".replace(" ", ""),
                "TORCHINDUCTOR_COMPILE_THREADS": "1",
            }
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.processes.append(subprocess.Popen([*pin, *code], env=environment, text=True, **pipes))

    def answers(self) -> list[dict[str, float]]:
        lines = [process.stdout.readline() for process in self.processes if process.stdout]
        if not all(lines):
            raise SystemExit(f"{self.name}: a process ended early; run it by hand: --work {self.name!r} ...")
        return [json.loads(line) for line in lines]

    def turn(self, seconds: float) -> float:
        for process in self.processes:
            assert process.stdin
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
        return sum(answer["tokens_per_s"] for answer in self.answers())

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def peak(core: int) -> float:
    """FLOP/s of the best float32 matrix product on one core, measured in a process of its own."""
    code = """
import time, jax, jax.numpy as jnp
best = 0.0
for n in (256, 512, 1024):
    a = jnp.ones((n, n), jnp.float32)
    f = jax.jit(lambda a: jax.lax.fori_loop(0, 20, lambda i, x: x @ a * 1e-3, a))
    f(a).block_until_ready()
    for _ in range(5):
        begin = time.perf_counter()
        f(a).block_until_ready()
        best = max(best, 20 * 2 * n**3 / (time.perf_counter() - begin))
print(best)
"""
    command = ["taskset", "-c", str(core), sys.executable, "-c", code]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def compile_times(size: str, core: int, cache: str) -> dict[str, float]:
    """Seconds to trace and compile the train program of a recipe's cell on one core, and to load it."""
    code = """
import sys, time, jax, jax.numpy as jnp
sys.path.insert(0, sys.argv[1])
import trainer_cpu
from scaling.recipe import Recipe
from trainer.assembly import static_of
from trainer.config import config_from_dict
from trainer.programs import lower_train
values = Recipe().run_config(trainer_cpu.shape_of(sys.argv[2]), 1e6, 0, "", "", "")
static = static_of(config_from_dict(values))
jax.jit(lambda x: x + 1)(jnp.ones(3))
begin = time.perf_counter()
lower_train(static, "uint8").compile()
print(time.perf_counter() - begin)
"""
    command = ["taskset", "-c", str(core), sys.executable, "-c", code, str(Path(__file__).parent), size]
    settings = {
        "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax-{size}",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    found = [
        float(
            subprocess.run(
                command, capture_output=True, text=True, check=True, env=os.environ | settings
            ).stdout
        )
        for _ in range(2)
    ]
    return {"compile_s": found[0], "load_s": found[1]}


def measure(size: str, tokens: int, cores: list[int], rounds: int, seconds: float, cache: str) -> dict:
    contenders = []
    for name in CONTENDERS:  # one at a time: compiling is work too
        contenders.append(Contender(name, size, tokens, cores, cache))
        contenders[-1].answers()
    speeds: dict[str, list[float]] = {one.name: [] for one in contenders}
    for _ in range(rounds):
        for one in contenders:
            speeds[one.name].append(one.turn(seconds))
    for one in contenders:
        one.end()
    shape = shape_of(size)
    middle = {name: statistics.median(found) for name, found in speeds.items()}
    rival = max(THEIRS, key=lambda name: middle[name])
    ratios = [ours / other for ours, other in zip(speeds[OURS], speeds[rival], strict=True)]
    return {
        "size": size,
        "params": shape.params(),
        "step_tokens": tokens,
        "tokens_per_s": middle,
        "rival": rival,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "ratio_bf16": middle[OURS] / max(middle["bf16 1x2"], middle["bf16 2x1"]),
        "per_core_gain": middle[OURS] / middle["scaling 1x2"],
        "flops_per_s": middle[OURS] * shape.flops_per_token(SEQ, "model_full"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--tokens", default="256,1024")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=3, metavar=("CONTENDER", "SIZE", "TOKENS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work[0], options.work[1], int(options.work[2]))
        return
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("two cores are needed")
    rows, compiles = [], {}
    with tempfile.TemporaryDirectory() as cache:
        for size in options.sizes.split(","):
            compiles[size] = compile_times(size, cores[1], cache)
            print(size, {name: round(value, 2) for name, value in compiles[size].items()}, flush=True)
        for size in options.sizes.split(","):
            for tokens in map(int, options.tokens.split(",")):
                row = measure(size, tokens, cores, options.rounds, options.seconds, cache)
                row["peak_share"] = row["flops_per_s"] / (2 * peak(cores[0]))
                rows.append(row)
                speeds = " ".join(f"{name} {value / 1e3:.1f}k" for name, value in row["tokens_per_s"].items())
                low, high = row["ratio_range"]
                print(
                    f"{size} {tokens}: {row['ratio']:.2f} ({low:.2f} to {high:.2f}) x {row['rival']}; "
                    f"bf16 {row['ratio_bf16']:.2f}; {row['peak_share']:.0%} of the peak; {speeds}",
                    flush=True,
                )
    means = {
        tokens: statistics.geometric_mean([row["ratio"] for row in rows if row["step_tokens"] == tokens])
        for tokens in map(int, options.tokens.split(","))
    }
    print("geometric means:", {tokens: round(mean, 2) for tokens, mean in means.items()})
    if options.json:
        from scaling.files import write_json
        from trainer.record import machine_name

        write_json(
            options.json, {"machine": machine_name(), "rows": rows, "compile": compiles, "means": means}
        )


if __name__ == "__main__":
    main()
