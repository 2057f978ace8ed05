"""One run from its folder: config.json in, metrics.jsonl along the way, result.json at the end."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import Interrupted, ScalingError
from scaling.files import write_json
from trainer import health, interrupt, journal
from trainer.ahead import Ahead
from trainer.assembly import rates_of, static_of
from trainer.config import RunConfig, read_config
from trainer.cuts import cuts_of
from trainer.evaluate import Evaluation
from trainer.feed import fetched
from trainer.model import per_layer
from trainer.processes import agree, everyone, is_first
from trainer.programs import Programs, compiled
from trainer.record import finished, result_record
from trainer.resume import Host, begun, newest, saved_form
from trainer.rewind import may_rewind, rewound, skipped
from trainer.saving import Saves, demand_writable
from trainer.step import State, Static
from trainer.tokens import TokenFolder
from trainer.training_data import reading
from trainer.trunk import Trunk
from trainer.watch import numbers
from trainer.weights import keep_model

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
    if agree(done is not None):  # not every host sees a file at once
        Saves(folder, config).clear()  # a kill may have come between the result and this
        return done or {}
    demand_writable(folder)
    data = TokenFolder.open(config.data)
    if data.sha256 != config.data_sha256:
        raise ScalingError(
            f"{folder / 'config.json'}: the run was planned on data {config.data_sha256[:12]}, but "
            f"{config.data} holds {data.sha256[:12]}; point it to the data it was planned on."
        )
    reading(config, data).check(str(folder / "config.json"))
    result = yield from _train(folder, config, data, on_report or (lambda _: None), programs_of)
    if is_first():
        write_json(folder / "result.json", result)
    Saves(folder, config).clear()
    return result


def _train(
    folder: Path, config: RunConfig, data: TokenFolder, report: Report, programs_of: ProgramsOf
) -> Training:
    begin = time.perf_counter()
    source = reading(config, data)
    static = static_of(config)
    programs = programs_of(static, source.dtype)
    compile_s = time.perf_counter() - begin
    rates = rates_of(config)
    saves, trunk, form = Saves(folder, config), Trunk(folder, config), saved_form(static)
    found = trunk.begin(newest(saves.newest, form, config.sha256), form)
    state, host = begun(static, config, found)
    step = int(state.step)
    journal.truncate(folder / journal.NAME, host["reported"])
    spent = host["time_s"]
    host["packed"] = max(host.get("packed", 1), programs.packed)
    cuts, ahead = cuts_of(config, trunk.stops), Ahead(source, programs.rows)
    status, training_s = "done", 0.0

    def evaluation() -> Evaluation:
        return source.evaluate(programs.evaluate, state.params)

    if config.start is not None and not step:
        host["before"] = evaluation()._asdict()
    with saves, interrupt.listening():
        while step < config.steps:
            if not everyone(not interrupt.asked()):
                _stop(folder, config, saves, step, state, host)
            first, stop = host["reported"], cuts.next(step, host["reported"])
            count = stop - step
            began = time.perf_counter()
            ids = ahead.take(step + skipped(host), count)
            state, metrics = yield programs.train, (state, rates, ids, np.int32(count))
            if stop < config.steps:
                ahead.prepare(stop + skipped(host), cuts.following(stop, first) - stop)
            rows = np.concatenate([host["rows"], np.asarray(metrics, np.float64)[:count, :2]])
            host["rows"], step = rows, stop
            now = time.perf_counter()
            training_s += now - began
            host["time_s"] = spent + now - begin
            healthy = np.isfinite(rows).all()
            if healthy and cuts.evaluates(step):
                host["evaluated"].append({"step": step, **evaluation()._asdict()})
            if step == cuts.report(first):
                z = health.z_scores(host["recent"], rows, first)
                diverged = health.diverged_at(rows, first, config.shape.vocab)
                line = _line(config, host, step)
                line |= numbers(config, data, step, len(rows), line["loss"], training_s)
                journal.append(folder / journal.NAME, line)
                host["curve"].append([line["tokens"], line["loss"], len(rows)])
                report({**line, "total_steps": config.steps, "total_tokens": config.tokens})
                spike = health.first_spike(z, first) if diverged is None else diverged
                if spike is not None and may_rewind(config, host):
                    state, host = rewound(saves, static, config, host, spike, step)
                    step, training_s = int(state.step), 0.0
                    journal.truncate(folder / journal.NAME, host["reported"])
                    continue
                if diverged is not None:
                    status, host["diverged_at_step"] = "diverged", diverged
                    break
                host["spikes"] = health.with_spikes(host["spikes"], z, first)
                host["recent"] = np.concatenate([host["recent"], rows])[-health.RECENT :]
                host["reported"], host["rows"], training_s = step, rows[:0], 0.0
                if step in cuts.smoothing:
                    host["evaluations"].append(evaluation()._asdict())
            if healthy:
                if step in trunk.stops:
                    trunk.leave(step, per_layer(state), host)
                saves.after(step, state, host)
        final = None
        if status == "done":
            final = evaluation()
            if not math.isfinite(final.loss):
                status = "diverged"
            else:
                if config.eval_every_steps:
                    host["evaluated"].append({"step": step, **final._asdict()})
                    saves.final(step, state, host)
                if config.keep_model:
                    keep_model(folder, config, data, fetched(state.params))
    host["checkpoint_failures"] = saves.saver.failures
    elapsed = spent + time.perf_counter() - begin
    return result_record(config, data, status, host, final, step, elapsed, compile_s)


def _line(config: RunConfig, host: Host, step: int) -> dict[str, Any]:
    """The report of the steps since the last one; no numbers where one of them is not finite."""
    rows, evaluated = host["rows"], host["evaluated"]
    loss, norm = rows.mean(axis=0).tolist() if np.isfinite(rows).all() else (None, None)
    line = {"step": step, "tokens": step * config.batch * config.seq, "loss": loss, "grad_norm": norm}
    line |= {"steps": len(rows), "time_s": host["time_s"]}
    if evaluated and evaluated[-1]["step"] > host["reported"]:
        line["eval_loss"] = evaluated[-1]["loss"]
    return line


def _stop(folder: Path, config: RunConfig, saves: Saves, step: int, state: State, host: Host) -> None:
    """Leave a checkpoint and raise Interrupted."""
    number = interrupt.asked() or signal.SIGTERM
    if np.isfinite(host["rows"]).all():
        saves.now(step, state, host)
    there = agree(max(saves.newest.steps(), default=0))
    goes_on = f"goes on from step {there}" if there else "begins again"
    name = signal.Signals(number).name
    raise Interrupted(
        f"{folder}: interrupted by {name} after step {step} of {config.steps}; the same command {goes_on}.",
        number,
    )
