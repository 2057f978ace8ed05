"""A stand-in for the trainer in the engine's tests: follows orders left in the run folder."""

import json
import math
import os
import signal
import time
from pathlib import Path

from scaling.files import read_json, write_json
from scaling.shape import CONVENTIONS


def run_cell(folder, on_report=None):
    folder = Path(folder)
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    orders = read_json(folder / "config.json")
    with open(folder / "tries.txt", "a") as stream:
        stream.write(f"{os.getpid()}\n")
    tries = len((folder / "tries.txt").read_text().splitlines())
    print("a line that must land in the log")
    for step in range(1, 6):
        if on_report:
            on_report({"step": step, "total_steps": 5, "loss": 5.0 / step})
        time.sleep(orders.get("seconds", 0.0) / 5)
    if tries <= orders.get("raise", 0):
        raise ValueError("ordered to fail")
    if tries <= orders.get("die", 0):
        os.kill(os.getpid(), signal.SIGKILL)
    result = {
        "format": "scaling/result",
        "version": 1,
        "shape": {},
        "flops": {},
        "params": 1,
        "tokens": 1,
        "status": orders.get("status", "done"),
        "loss": 1.5,
        "time_s": 0.1,
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        "pid": os.getpid(),
    }
    write_json(folder / "result.json", result)
    return result


def run_by_law(folder, on_report=None):
    """The trainer's record without its work: the loss is a known law's, with a little seeded noise.

    L = .9 + ((3e2 / N^.6)^2 + (2e4 / D^.8)^2)^.5, chosen so that budgets of 1e9 to 1e11 FLOPs have
    their best size between widths 16 and 96.
    """
    import numpy as np

    from trainer.config import read_config

    folder = Path(folder)
    config = read_config(folder / "config.json")
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    with open(folder / "tries.txt", "a") as stream:
        stream.write(f"{os.getpid()}\n")
    if os.environ.get("SLOW_RUN") == folder.name:
        time.sleep(60)
    if os.environ.get("BROKEN_RUN") == folder.name:
        raise RuntimeError("ordered to fail")
    shape, tokens = config.shape, config.tokens
    rng = np.random.default_rng([config.seed, shape.width, config.steps])
    if "TUNING_LAW" in os.environ:
        loss = law_loss(shape.params(), tokens * worth(json.loads(os.environ["TUNING_LAW"]), config))
        loss *= 1 + 0.0005 * float(np.random.default_rng([config.seed, *map(ord, config.name)]).normal())
    else:
        loss = law_loss(shape.params(), tokens) * (1 + 0.002 * float(rng.standard_normal()))
    diverged = os.environ.get("DIVERGED_RUN") == folder.name
    result = {
        "format": "scaling/result", "version": 1, "name": config.name,
        "status": "diverged" if diverged else "done",
        "loss": None if diverged else loss, "loss_se": 0.001,
        "bits_per_byte": loss / 0.693, "train_loss": loss,
        "tokens": tokens, "steps": config.steps, "batch": config.batch, "seq": config.seq, "lr": config.lr,
        "shape": shape.to_dict(), "params": shape.params(), "params_embedding": shape.params_embedding,
        "params_head": shape.params_head, "params_non_embedding": shape.params("non-embedding"),
        "flops": {c: shape.flops_per_token(config.seq, c) * tokens for c in CONVENTIONS},
        "unique_tokens": tokens, "seed": config.seed, "time_s": 0.01, "compile_s": 0.0, "tokens_per_s": 1e5,
        "curve": {"tokens": [tokens], "loss": [loss]}, "config_sha256": config.sha256,
        "recipe_sha256": config.recipe_sha256, "plan_seal": config.plan_seal,
        "data_sha256": config.data_sha256, "versions": {}, "machine": {},
    }  # fmt: skip
    write_json(folder / "result.json", result)
    return result


def worth(law, config):
    """What a token is worth under these knobs: exp(-sum of a knob's curvature x (its coordinate - best)^2).

    `law` has per knob [curvature, best value]; coordinates as in scaling.tuning: ln of rate and of batch in
    tokens, ln(1 + rate x decay x steps). The rate's best grows with the square root of the batch, from 256.
    """
    batch, decay = config.batch * config.seq, config.lr * config.weight_decay * config.steps
    at = {
        "lr": math.log(config.lr / (batch / 256) ** 0.5),
        "batch": math.log(batch),
        "decay": math.log1p(decay),
    }
    best = {k: math.log1p(v) if k == "decay" else math.log(v) for k, (_, v) in law.items()}
    return math.exp(-sum(curvature * (at[k] - best[k]) ** 2 for k, (curvature, _) in law.items()))


def law_loss(params, tokens):
    return 0.9 + ((3e2 / params**0.6) ** 2 + (2e4 / tokens**0.8) ** 2) ** 0.5
