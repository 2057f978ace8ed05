"""MFU of a training step on one accelerator at 124M, 350M and 1.3B, against a compiled PyTorch GPT.

    python benchmarks/trainer_gpu.py [--sizes 124M 350M 1.3B] [--tokens 524288] [--no-torch]
    python benchmarks/trainer_gpu.py --quick          # tiny shapes and few options: does the script work?

The trainer's own program (trainer.programs): sequences of 2048, at least --tokens tokens a step by gradient
accumulation, bfloat16 products, float32 weights, moments and sums, AdamW, clipping, z-loss. Attention,
rematerialisation, loop over layers, rows of a micro-step and chunks of logits are searched over the short
list in `choices`, two steps each; the best runs longer. The PyTorch model is benchmarks/torch_gpt.py: the
same shape and update (tests hold them equal), torch.compile, its fused attention, and its own search over
rows of a micro-step. Each framework runs in processes of its own, one after the other, so that neither
holds memory the other needs; an option that does not fit or is refused is recorded as such.

MFU is model FLOPs, attention counted over what a causal mask lets through (`model_causal`), per second and
per peak: the catalogue's for the device. Beside it stands the speed of the device's best large product,
measured in the same run, which is what any step can hope for. Writes benchmarks/results/gpu_trainer.json
(--quick: wherever --out says, nothing by default).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaling.shape import Shape

HERE = Path(__file__).parent
OUT = HERE / "results" / "gpu_trainer.json"
# Llama-like, heads of 64 (128 at 1.3B), vocabulary 50,304, untied, query-key norm; named by their kin in
# GPT-3's table 2.1 (arXiv:2005.14165), with the parameters that the untied head adds.
SIZES = {
    "124M": Shape(12, 768, 12, 12, 64, 2048, 50304),
    "350M": Shape(24, 1024, 16, 16, 64, 2816, 50304),
    "1.3B": Shape(24, 2048, 16, 16, 128, 5632, 50304),
}
QUICK = {"tiny": Shape(2, 64, 4, 4, 16, 192, 512)}
SEQ, TOKENS = 2048, 524_288


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=None, help="of 124M, 350M, 1.3B")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens a step, at least")
    parser.add_argument("--steps", type=int, default=10, help="steps of the timed run of the best choice")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="print the JSON alone")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--job", help=argparse.SUPPRESS)  # one measurement, in a process of its own
    options = parser.parse_args()
    if options.job:
        print(json.dumps(measured(json.loads(options.job))))
        return 0
    sizes = QUICK if options.quick else SIZES
    chosen = options.sizes or list(sizes)
    unknown = sorted(set(chosen) - set(sizes))
    if unknown:
        parser.error(f"--sizes {' '.join(unknown)}: known are {', '.join(sizes)}.")
    seq, tokens = (64, 512) if options.quick else (SEQ, options.tokens)
    steps = 2 if options.quick else options.steps
    found = {"machine": job({"kind": "machine", "quick": options.quick}), "seq": seq, "sizes": {}}
    for name in chosen:
        found["sizes"][name] = size(name, sizes[name], seq, tokens, steps, options)
    place = options.out or (None if options.quick else OUT)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found) if options.json else "\n".join(table(found)))
    return 0


def size(name: str, shape: Shape, seq: int, tokens: int, steps: int, options: Any) -> dict[str, Any]:
    """The best choice of each framework for one shape, its timed run, and everything that was tried."""
    rows = -(-tokens // seq)
    found: dict[str, Any] = {
        "shape": shape.to_dict(),
        "params": shape.params(),
        "tokens_per_step": rows * seq,
    }
    searches = {"jax": choices(shape, rows, options.quick)}
    if not options.no_torch:
        searches["torch"] = [{"rows": part} for part in micro_rows(shape, rows, options.quick)]
    for framework, tried in searches.items():
        common = {"kind": framework, "shape": shape.to_dict(), "seq": seq, "batch": rows}
        results = []
        for choice in tried:
            results.append(choice | job({**common, **choice, "steps": 2}))
            say(f"{name} {framework} {choice}: {spoken(results[-1])}")
        working = [r for r in results if "tokens_per_s" in r]
        found[framework] = {"tried": results, "best": None}
        if working:
            best = max(working, key=lambda r: r["tokens_per_s"])
            choice = {key: best[key] for key in tried[0]}
            found[framework]["best"] = choice | job({**common, **choice, "steps": steps})
    return found


def micro_rows(shape: Shape, rows: int, quick: bool) -> list[int]:
    """Rows of a micro-step to try: powers of two that divide the batch, more for smaller models."""
    most = 4 if quick else 64 if shape.params() < 3e8 else 32 if shape.params() < 8e8 else 16
    return [part for part in (2, 4, 8, 16, 32, 64) if part <= most and rows % part == 0][-4:]


def choices(shape: Shape, rows: int, quick: bool) -> Iterator[dict[str, Any]] | list[dict[str, Any]]:
    """What the search tries of `trainer.resources`: few values, those that trainers' best runs use."""
    if quick:
        return [
            {"attention": "auto", "remat": "none", "scan": scan, "rows": 4, "loss_chunk": None}
            for scan in (False, True)
        ]
    remats = ("none", "minimal") if shape.params() < 3e8 else ("none", "minimal", "full")
    grid = itertools.product(
        ("cudnn", "auto"), remats, (False, True), micro_rows(shape, rows, quick)[-3:], (None, 512)
    )
    names = ("attention", "remat", "scan", "rows", "loss_chunk")
    # "auto" is the kernel where it can be had; it is tried once, to see that it is no slower.
    return [c for c in (dict(zip(names, v)) for v in grid) if c["attention"] == "cudnn" or _plain(c)]


def _plain(choice: dict[str, Any]) -> bool:
    return choice["remat"] == "none" and not choice["scan"] and choice["loss_chunk"] is None


def job(order: dict[str, Any]) -> dict[str, Any]:
    """`measured` in a fresh process; what goes wrong there is the answer."""
    command = [sys.executable, str(Path(__file__).resolve()), "--job", json.dumps(order)]
    env = {**os.environ, "XLA_PYTHON_CLIENT_MEM_FRACTION": ".94"}
    if order["kind"] == "torch":
        env["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    telling = [line for line in lines if "RESOURCE_EXHAUSTED" in line or "OutOfMemory" in line]
    return {"failed": (telling or lines or [f"exit status {done.returncode}"])[-1][:300]}


def measured(order: dict[str, Any]) -> dict[str, Any]:
    """One measurement, in this process."""
    if order["kind"] == "machine":
        return machine(order["quick"])
    shape = Shape(**order["shape"])
    run = jax_steps(shape, order) if order["kind"] == "jax" else torch_steps(shape, order)
    began = time.perf_counter()
    first = run()
    compile_s = time.perf_counter() - began
    best, losses = float("inf"), [first]
    for _ in range(3):
        began = time.perf_counter()
        losses.append(run())
        best = min(best, time.perf_counter() - began)
    tokens = order["steps"] * order["batch"] * order["seq"]
    flops = tokens * shape.flops_per_token(order["seq"], "model_causal")
    rate, peak = flops / best, device_peak()
    return {
        "step_s": best / order["steps"],
        "tokens_per_s": tokens / best,
        "model_flops_per_s": rate,
        "mfu_causal": None if peak is None else rate / peak,
        "first_call_s": compile_s,
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }


def machine(quick: bool) -> dict[str, Any]:
    """The device, its peak by the catalogue and its best large product in bfloat16, here and now."""
    import jax

    from trainer.probes import matmul_speed

    sizes = (256,) if quick else (4096, 8192, 16384)
    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": sys.version.split()[0],
        "peak_flops": device_peak(),
        "matmul_flops": matmul_speed("bfloat16", sizes),
    }


def device_peak() -> float | None:
    """bfloat16 FLOP/s of the device by the catalogue; None for a device that it does not know."""
    import importlib.util

    from scaling.hardware.peak import chip_peak

    if importlib.util.find_spec("torch") and "torch" in sys.modules:
        import torch

        kind = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    else:
        import jax

        kind = jax.devices()[0].device_kind
    return None if kind == "cpu" else chip_peak(kind).flops_per_s


def jax_steps(shape: Shape, order: dict[str, Any]) -> Callable[[], float]:
    """Calls of the trainer's own program, `steps` updates each; returns the last loss of a call."""
    import jax
    import numpy as np

    from scaling.recipe import Recipe
    from trainer.assembly import rates_of, static_of
    from trainer.config import config_from_dict
    from trainer.programs import compiled, fresh_state
    from trainer.resources import Resources

    steps, batch, seq = order["steps"], order["batch"], order["seq"]
    resources = Resources(
        remat=order["remat"],
        scan=order["scan"],
        loss_chunk=order["loss_chunk"] and min(order["loss_chunk"], seq),
        micro_steps=batch // order["rows"],
        attention=order["attention"],
    )
    config = config_from_dict(Recipe().run_config(shape, 100 * batch * seq, 0, "data", "0" * 64, "gpu"))
    config = replace(config, batch=batch, seq=seq, dtype="bfloat16", chunk_steps=steps, resources=resources)
    static = static_of(config)
    programs, rates = compiled(static, "uint16"), rates_of(config)
    state = jax.device_put(fresh_state(static, 0))
    ids = batches(steps, batch, seq, shape.vocab).astype(np.uint16)

    def run() -> float:
        nonlocal state
        state, metrics = programs.train(state, rates, ids, np.int32(steps))
        return float(np.asarray(metrics)[-1, 0])

    return run


def torch_steps(shape: Shape, order: dict[str, Any]) -> Callable[[], float]:
    """The same updates by benchmarks/torch_gpt.py."""
    import torch
    import torch_gpt

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    model = torch_gpt.build(shape, device, "bfloat16", compiled=device == "cuda")
    opt = torch_gpt.adamw(model)
    steps, batch = order["steps"], order["batch"]
    ids = torch.from_numpy(batches(steps, batch, order["seq"], shape.vocab)).to(device)

    def run() -> float:
        rates = [1e-3] * steps
        metrics = torch_gpt.train_steps(model, opt, ids, rates, micro_steps=batch // order["rows"])
        return float(metrics[-1, 0])

    return run


def batches(steps: int, batch: int, seq: int, vocab: int) -> Any:
    """The same random ids for both, int64 [steps, batch, seq + 1]."""
    import numpy as np

    return np.random.default_rng(0).integers(0, vocab, (steps, batch, seq + 1))


def spoken(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"failed ({result['failed']})"
    mfu = result["mfu_causal"]
    return f"{result['tokens_per_s']:,.0f} tokens/s" + ("" if mfu is None else f", MFU {mfu:.1%}")


def table(found: dict[str, Any]) -> Iterator[str]:
    m = found["machine"]
    peak = "unknown" if m["peak_flops"] is None else f"{m['peak_flops'] / 1e12:.0f} TFLOP/s"
    product = m["matmul_flops"] / 1e12
    yield f"{m['device']}, JAX {m['jax']}; bfloat16 peak {peak}, best product {product:.3g} TFLOP/s"
    yield "| model | framework | tokens/s | MFU (causal) | of the best product | choice |"
    yield "|---|---|---|---|---|---|"
    for name, of in found["sizes"].items():
        for framework in ("jax", "torch"):
            best = of.get(framework, {}).get("best")
            if best is None or "failed" in best:
                why = "not run" if framework not in of else "nothing fits"
                yield f"| {name} | {framework} | {why} | | | |"
                continue
            mfu = "" if best["mfu_causal"] is None else f"{best['mfu_causal']:.1%}"
            share = best["model_flops_per_s"] / m["matmul_flops"]
            kept = ("attention", "remat", "scan", "rows", "loss_chunk")
            choice = ", ".join(f"{key} {best[key]}" for key in kept if key in best)
            yield f"| {name} | {framework} | {best['tokens_per_s']:,.0f} | {mfu} | {share:.1%} | {choice} |"
        both = [of.get(f, {}).get("best") or {} for f in ("jax", "torch")]
        if all("tokens_per_s" in b for b in both):
            yield f"\n{name}: {both[0]['tokens_per_s'] / both[1]['tokens_per_s']:.2f} times PyTorch\n"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
