"""The record of a run: its result.json, with everything that its numbers depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scaling.errors import ScalingError
from scaling.files import read_json
from scaling.shape import CONVENTIONS, COUNTS
from trainer.config import RunConfig
from trainer.evaluate import Evaluation
from trainer.tokens import TokenFolder
from trainer.training_data import reading
from trainer.trunk import begun_at

FORMAT = "scaling/result"
VERSION = 1
CURVE_POINTS = 200


def finished(folder: Path, config: RunConfig) -> dict[str, Any] | None:
    """The result already in `folder`, when it is the result of this very config."""
    path = folder / "result.json"
    if not path.exists():
        return None
    result = read_json(path, expect=FORMAT)
    if result.get("version") != VERSION:
        raise ScalingError(
            f"{path}: version {result.get('version')!r} is not known here, only {VERSION}; remove the "
            "file to train the run again."
        )
    return result if result.get("config_sha256") == config.sha256 else None


def result_record(
    config: RunConfig,
    data: TokenFolder,
    status: str,
    host: dict,
    final: Evaluation | None,
    steps: int,
    elapsed: float,
    compile_s: float,
) -> dict[str, Any]:
    shape, tokens = config.shape, steps * config.batch * config.seq
    evaluations = [*host["evaluations"], *([final._asdict()] if final else [])]
    mean = (
        {k: float(np.mean([e[k] for e in evaluations])) for k in ("loss", "bits_per_byte")} if final else {}
    )
    stream = data.tokens("train")
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": config.name,
        "status": status,
        "diverged_at_step": host.get("diverged_at_step"),
        "loss": mean.get("loss"),
        "loss_se": final.loss_se if final else None,
        "bits_per_byte": mean.get("bits_per_byte"),
        "eval_tokens": final.tokens if final else None,
        "eval_smoothing": config.eval_smoothing,
        "train_loss": tail_loss(host["curve"]) if status == "done" else None,
        "tokens": tokens,
        "steps": steps,
        "batch": config.batch,
        "seq": config.seq,
        "lr": config.lr,
        "shape": shape.to_dict(),
        "params": shape.params("total"),
        "params_embedding": shape.params_embedding,
        "params_head": shape.params_head,
        "params_non_embedding": shape.params("non-embedding"),
        "param_counts": {c: shape.params(c) for c in COUNTS},
        "flops": {c: shape.flops_per_token(config.seq, c) * tokens for c in CONVENTIONS},
        "unique_tokens": min(tokens, len(stream)),
        "epochs": tokens / len(stream),
        "seed": config.seed,
        "time_s": elapsed,
        "compile_s": compile_s,
        "tokens_per_s": tokens / max(elapsed, 1e-9),
        "packed": host.get("packed", 1),  # runs that shared the device, and so this one's time
        **begun_at(config, host),
        **began_with(config, host),
        **events(config, host),
        "curve": thin(host["curve"]),
        "config_sha256": config.sha256,
        "recipe_sha256": config.recipe_sha256,
        "plan_seal": config.plan_seal,
        "data_sha256": config.data_sha256,
        "versions": {"python": platform.python_version(), **package_versions()},
        "machine": {
            "platform": platform.machine(),
            "backend": jax.default_backend(),
            "device": machine_name(),
            "threads": threads(),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),  # they change last bits, and with them short runs
        },
        **reading(config, data).account(steps),
        **({"validation": final.further} if final and final.further else {}),
    }


def events(config: RunConfig, host: dict) -> dict[str, Any]:
    """What befell the run: jumps of loss and gradient, where it went back, saves that failed."""
    found: dict[str, Any] = {"spikes": {"policy": config.on_spike, **host["spikes"]}}
    if config.on_spike == "rewind":
        found["rewinds"] = host["rewinds"]
    if config.eval_every_steps:
        found["evaluated"] = host["evaluated"]
    if host.get("checkpoint_failures"):
        found["checkpoint_failures"] = host["checkpoint_failures"]
    return found


def began_with(config: RunConfig, host: dict) -> dict[str, Any]:
    """Of a run that began with another one's model: which, and its loss on this run's held-out text."""
    if config.start is None:
        return {}
    before = {name: host["before"][name] for name in ("loss", "loss_se", "bits_per_byte")}
    return {"start": {"weights_sha256": config.start_sha256, **before}}


def package_versions() -> dict[str, str]:
    return {name: version(name) for name in ("scaling", "jax", "jaxlib", "flax", "optax", "numpy")}


def threads() -> int:
    """Threads that XLA divides work of this process among on processor cores, as it counts them itself.

    By them it cuts the loops of larger models (from width 192 or so): the last bits of a loss depend on them.
    """
    said = os.environ.get("PJRT_NPROC") or os.environ.get("NPROC") or ""
    if said.isdigit() and int(said):
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_name() -> str:
    """The accelerator, or the processor where there is none."""
    kind = jax.devices()[0].device_kind
    if kind.lower() != "cpu":
        return kind
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or kind
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), kind)


def tail_loss(curve: list) -> float:
    """Mean training loss over the last tenth of the steps, nats per token."""
    steps = np.array([c[2] for c in curve], float)
    losses = np.array([c[1] for c in curve], float)
    tail = np.cumsum(steps[::-1])[::-1] <= max(steps.sum() / 10, steps[-1])
    return float(np.average(losses[tail], weights=steps[tail]))


def thin(curve: list) -> dict[str, list[float]]:
    """At most CURVE_POINTS points, the mean loss of the steps between them."""
    groups = np.array_split(np.arange(len(curve)), min(CURVE_POINTS, len(curve)))
    finite = [[curve[i] for i in g if curve[i][1] is not None] for g in groups]
    return {
        "tokens": [g[-1][0] for g in finite if g],
        "loss": [float(np.average([c[1] for c in g], weights=[c[2] for c in g])) for g in finite if g],
    }
