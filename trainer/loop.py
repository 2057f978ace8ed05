"""One run from its folder: config.json in, metrics.jsonl along the way, result.json at the end."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scaling.errors import ScalingError
from scaling.files import read_json, write_atomic, write_json
from scaling.shape import CONVENTIONS, COUNTS, Param
from trainer.batches import train_ids
from trainer.checkpoint import Checkpoints
from trainer.config import RunConfig, read_config
from trainer.evaluate import Evaluation, evaluate
from trainer.model import Params, multiplier_of, per_layer, stacked, tree_of
from trainer.programs import compiled, fresh_state, placed
from trainer.schedule import schedule_of
from trainer.step import Rates, State, Static
from trainer.tokens import SPLITS, TokenFolder
from trainer.weights import keep_model

FORMAT = "scaling/result"
VERSION = 1
CURVE_POINTS = 200
# Times ln(vocab), the loss of a model that knows nothing (and of the first step): a mean training loss
# beyond it is divergence, though every number may still be finite.
EXPLODED = 2.0
Report = Callable[[dict[str, Any]], None]


def static_of(config: RunConfig) -> Static:
    c = config
    constants = c.b1, c.b2, c.eps, c.clip_norm, c.z_loss, c.dtype
    scaled = c.decay_multipliers is not None, c.eps_multipliers is not None
    return Static(c.shape, c.batch, c.seq, c.chunk_steps, *constants, c.resources, *scaled)


def rates_of(config: RunConfig) -> Rates:
    def each(multipliers: Mapping[str, float] | None, power: int = 1) -> Params | None:
        def one(row: Param, _: list[int]) -> np.float32:
            return np.float32(multiplier_of(row, multipliers) ** power)

        return None if multipliers is None else tree_of(config.shape, one, config.resources.scan)

    return Rates(
        schedule_of(config),
        each(config.lr_multipliers),
        np.float32(config.weight_decay),
        each(config.decay_multipliers),
        each(config.eps_multipliers, -1),
    )


def run_cell(folder: str | Path, on_report: Report | None = None) -> dict[str, Any]:
    """Train the run described by `folder`/config.json to its end and return its result record.

    A finished run returns its record at once; an interrupted one goes on from its last checkpoint
    and ends with the same numbers, bit for bit on one machine. A loss that is no longer finite, or
    far above that of knowing nothing, ends the run with status `diverged`. Raises ScalingError when
    the data is not the data of the config.
    """
    folder = Path(folder)
    config = read_config(folder / "config.json")
    done = finished(folder, config)
    if done is not None:
        Checkpoints(folder / "checkpoint").clear()  # a kill may have come between the result and this
        return done
    data = TokenFolder.open(config.data)
    if data.sha256 != config.data_sha256:
        raise ScalingError(
            f"{folder / 'config.json'}: the run was planned on data {config.data_sha256[:12]}, but "
            f"{config.data} holds {data.sha256[:12]}; point it to the data it was planned on."
        )
    if data.vocab_size > config.shape.vocab:
        raise ScalingError(
            f"{folder / 'config.json'}: field 'shape.vocab' is {config.shape.vocab}, but the tokenizer of "
            f"{config.data} has {data.vocab_size} symbols."
        )
    for split in SPLITS:
        if len(data.tokens(split)) < config.seq + 1:
            raise ScalingError(
                f"{folder / 'config.json'}: field 'seq' is {config.seq}, but the {split} text of "
                f"{config.data} has {len(data.tokens(split))} tokens, less than one sequence and its target."
            )
    result = _train(folder, config, data, on_report or (lambda _: None))
    write_json(folder / "result.json", result)
    Checkpoints(folder / "checkpoint").clear()
    return result


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


def _train(folder: Path, config: RunConfig, data: TokenFolder, report: Report) -> dict[str, Any]:
    begin = time.perf_counter()
    stream = data.tokens("train")
    static = static_of(config)
    programs = compiled(static, str(stream.dtype))
    compile_s = time.perf_counter() - begin
    rates = rates_of(config)
    checkpoints = Checkpoints(folder / "checkpoint")
    state = fresh_state(static, config.seed, config.init_multipliers)
    host: dict[str, Any] = {"config_sha256": config.sha256, "time_s": 0.0, "curve": [], "evaluations": []}
    if (found := _newest(checkpoints, per_layer(state), config.sha256)) is not None:
        state, host = found
        state = stacked(state) if config.resources.scan else state
    step = int(state.step)
    state = placed(static, state)
    metrics_path = folder / "metrics.jsonl"
    _truncate_metrics(metrics_path, step)
    saved_at = time.perf_counter()
    spent = host["time_s"]
    eval_steps = _evaluation_steps(config)
    status = "done"
    while step < config.steps:
        stop = next(s for s in (*eval_steps, config.steps) if s > step)
        count = min(config.chunk_steps, stop - step)
        ids = train_ids(stream, config.seed, step, count, config.batch, config.seq)
        if count < config.chunk_steps:
            ids = np.concatenate([ids, np.repeat(ids[:1], config.chunk_steps - count, axis=0)])
        state, metrics = programs.train(state, rates, ids, np.int32(count))
        rows = np.asarray(metrics, np.float64)[:count]
        step += count
        now = time.perf_counter()
        line = {
            "step": step,
            "tokens": step * config.batch * config.seq,
            "loss": float(rows[:, 0].mean()),
            "grad_norm": float(rows[:, 1].mean()),
            "steps": count,
            "time_s": spent + now - begin,
        }
        if not np.isfinite(rows).all():
            first = step - count + int(np.argmin(np.isfinite(rows).all(axis=1)))
            status = "diverged"
            line["loss"] = line["grad_norm"] = None
            host["diverged_at_step"] = first
        elif line["loss"] > EXPLODED * math.log(config.shape.vocab):
            status = "diverged"
            host["diverged_at_step"] = step - count + int(np.argmax(rows[:, 0]))
        _append(metrics_path, line)
        host["curve"].append([line["tokens"], line["loss"], count])
        report({**line, "total_steps": config.steps, "total_tokens": config.tokens})
        if status == "diverged":
            break
        if step in eval_steps:
            host["evaluations"].append(
                evaluate(programs.evaluate, state.params, data, config.eval_tokens, config.seq)._asdict()
            )
        if now - saved_at > config.checkpoint_seconds and step < config.steps:
            checkpoints.save(step, per_layer(state), {**host, "time_s": spent + now - begin})
            saved_at = time.perf_counter()
    evaluation = None
    if status == "done":
        evaluation = evaluate(programs.evaluate, state.params, data, config.eval_tokens, config.seq)
        if not math.isfinite(evaluation.loss):
            status = "diverged"
        elif config.keep_model:
            keep_model(folder, config, data, state.params)
    elapsed = spent + time.perf_counter() - begin
    return _record(config, data, status, host, evaluation, step, elapsed, compile_s)


def _newest(checkpoints: Checkpoints, state: State, config_sha256: str) -> tuple[State, dict] | None:
    """The newest usable checkpoint of this very config; a damaged one is named and set aside.

    So is one of another config: a newer step in the row would have the run's own checkpoints pruned.
    """
    for step in reversed(checkpoints.steps()):
        try:
            found, record = checkpoints.restore(step, state)
        except ScalingError as error:
            print(f"damaged checkpoint set aside, an earlier one is used: {error}", file=sys.stderr)
        else:
            if record.get("config_sha256") == config_sha256:
                return found, record
        checkpoints.set_aside(step)
    return None


def _evaluation_steps(config: RunConfig) -> tuple[int, ...]:
    """Steps of the extra evaluations that `eval_smoothing` asks for, over the last tenth of the run."""
    extra = config.eval_smoothing - 1
    first = config.steps - max(1, config.steps // 10)
    steps = np.linspace(first, config.steps, extra + 1)[:-1] if extra else []
    return tuple(sorted({int(s) for s in steps if 0 < s < config.steps}))


def _record(
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
        "train_loss": _tail_loss(host["curve"]) if status == "done" else None,
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
        "curve": _thin(host["curve"]),
        "config_sha256": config.sha256,
        "recipe_sha256": config.recipe_sha256,
        "plan_seal": config.plan_seal,
        "data_sha256": config.data_sha256,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("scaling", "jax", "jaxlib", "flax", "optax", "numpy")},
        },
        "machine": {
            "platform": platform.machine(),
            "backend": jax.default_backend(),
            "device": machine_name(),
        },
    }


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


def _tail_loss(curve: list) -> float:
    """Mean training loss over the last tenth of the steps, nats per token."""
    steps = np.array([c[2] for c in curve], float)
    losses = np.array([c[1] for c in curve], float)
    tail = np.cumsum(steps[::-1])[::-1] <= max(steps.sum() / 10, steps[-1])
    return float(np.average(losses[tail], weights=steps[tail]))


def _thin(curve: list) -> dict[str, list[float]]:
    """At most CURVE_POINTS points, the mean loss of the steps between them."""
    groups = np.array_split(np.arange(len(curve)), min(CURVE_POINTS, len(curve)))
    finite = [[curve[i] for i in g if curve[i][1] is not None] for g in groups]
    return {
        "tokens": [g[-1][0] for g in finite if g],
        "loss": [float(np.average([c[1] for c in g], weights=[c[2] for c in g])) for g in finite if g],
    }


def _append(path: Path, line: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines that a killed run wrote after its last checkpoint: they will be written again."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(text)["step"] <= step:
                kept.append(text)
        except (json.JSONDecodeError, KeyError, TypeError):
            break
    write_atomic(path, "".join(f"{line}\n" for line in kept))
