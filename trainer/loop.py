"""One run from its folder: config.json in, metrics.jsonl along the way, result.json at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.files import write_json
from trainer import journal
from trainer.assembly import rates_of, static_of
from trainer.batches import train_ids
from trainer.checkpoint import Checkpoints
from trainer.config import RunConfig, read_config
from trainer.evaluate import evaluate
from trainer.feed import fetched
from trainer.model import per_layer, stacked
from trainer.processes import agree, is_first
from trainer.programs import Programs, compiled, fresh_state, placed
from trainer.record import finished, result_record
from trainer.resume import kept, newest
from trainer.step import Static
from trainer.tokens import SPLITS, TokenFolder
from trainer.trunk import Trunk
from trainer.watch import numbers
from trainer.weights import keep_model

# Times ln(vocab), the loss of a model that knows nothing (and of the first step): a mean training loss
# beyond it is divergence, though every number may still be finite.
EXPLODED = 2.0
Report = Callable[[dict[str, Any]], None]
ProgramsOf = Callable[[Static, str], Programs]
# A run as it goes: it asks for calls of its train program, is sent what they return, and ends in its result.
Training = Generator[tuple[Callable, tuple], Any, dict[str, Any]]


def run_cell(folder: str | Path, on_report: Report | None = None) -> dict[str, Any]:
    """Train the run described by `folder`/config.json to its end and return its result record.

    A finished run returns its record at once; an interrupted one goes on from its last checkpoint
    and ends with the same numbers, bit for bit on one machine. A loss that is no longer finite, or
    far above that of knowing nothing, ends the run with status `diverged`. Raises ScalingError when
    the data is not the data of the config.
    """
    return alone(training(folder, on_report))


def alone(run: Training) -> dict[str, Any]:
    """Drive a run to its end, every call made when it is asked for (`trainer.many` makes several at once)."""
    try:
        program, arguments = next(run)
        while True:
            try:
                answer = program(*arguments)
            except BaseException as error:  # it belongs to the run, which may want to clean up
                program, arguments = run.throw(error)
            else:
                program, arguments = run.send(answer)
    except StopIteration as end:
        return end.value


def training(
    folder: str | Path, on_report: Report | None = None, programs_of: ProgramsOf = compiled
) -> Training:
    """The run of `run_cell`, calls of its train program left to the caller."""
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
    result = yield from _train(folder, config, data, on_report or (lambda _: None), programs_of)
    if is_first():
        write_json(folder / "result.json", result)
    Checkpoints(folder / "checkpoint").clear()
    return result


def _train(
    folder: Path, config: RunConfig, data: TokenFolder, report: Report, programs_of: ProgramsOf
) -> Training:
    begin = time.perf_counter()
    stream = data.tokens("train")
    static = static_of(config)
    programs = programs_of(static, str(stream.dtype))
    compile_s = time.perf_counter() - begin
    rates = rates_of(config)
    checkpoints = Checkpoints(folder / "checkpoint")
    state = fresh_state(static, config.seed, config.init_multipliers)
    host: dict[str, Any] = {"config_sha256": config.sha256, "time_s": 0.0, "curve": [], "evaluations": []}
    trunk = Trunk(folder, config)
    found = trunk.begin(newest(checkpoints, per_layer(state), config.sha256), per_layer(state))
    if found is not None:
        state, host = found
        state = stacked(state) if config.resources.scan else state
    step = int(state.step)
    state = placed(static, state)
    metrics_path = folder / "metrics.jsonl"
    journal.truncate(metrics_path, step)
    saved_at = time.perf_counter()
    spent = host["time_s"]
    host["packed"] = max(host.get("packed", 1), programs.packed)
    eval_steps = _evaluation_steps(config)
    status = "done"
    while step < config.steps:
        stop = min(s for s in (*eval_steps, *config.keep_steps, config.steps) if s > step)
        count = min(config.chunk_steps, stop - step)
        began = time.perf_counter()
        ids = train_ids(stream, config.seed, step, count, config.batch, config.seq, programs.rows)
        if count < config.chunk_steps:
            ids = np.concatenate([ids, np.repeat(ids[:1], config.chunk_steps - count, axis=0)])
        state, metrics = yield programs.train, (state, rates, ids, np.int32(count))
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
        line |= numbers(config, data, step, count, line["loss"], now - began)
        journal.append(metrics_path, line)
        host["curve"].append([line["tokens"], line["loss"], count])
        report({**line, "total_steps": config.steps, "total_tokens": config.tokens})
        if status == "diverged":
            break
        if step in eval_steps:
            host["evaluations"].append(
                evaluate(programs.evaluate, state.params, data, config.eval_tokens, config.seq)._asdict()
            )
        if step in config.keep_steps:
            kept(folder).save(step, per_layer(state), {**host, "time_s": spent + now - begin})
        if trunk.wants(step):
            trunk.leave(step, per_layer(state), {**host, "time_s": spent + now - begin})
        if agree(now - saved_at > config.checkpoint_seconds) and step < config.steps:
            checkpoints.save(step, per_layer(state), {**host, "time_s": spent + now - begin})
            saved_at = time.perf_counter()
    evaluation = None
    if status == "done":
        evaluation = evaluate(programs.evaluate, state.params, data, config.eval_tokens, config.seq)
        if not math.isfinite(evaluation.loss):
            status = "diverged"
        elif config.keep_model:
            keep_model(folder, config, data, fetched(state.params))
    elapsed = spent + time.perf_counter() - begin
    return result_record(config, data, status, host, evaluation, step, elapsed, compile_s)


def _evaluation_steps(config: RunConfig) -> tuple[int, ...]:
    """Steps of the extra evaluations that `eval_smoothing` asks for, over the last tenth of the run."""
    extra = config.eval_smoothing - 1
    first = config.steps - max(1, config.steps // 10)
    steps = np.linspace(first, config.steps, extra + 1)[:-1] if extra else []
    return tuple(sorted({int(s) for s in steps if 0 < s < config.steps}))
