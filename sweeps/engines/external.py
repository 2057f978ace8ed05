"""The external engine: somebody else's trainer. Cells go out as files, results come back as rows.

FOLDER/external/ask.csv    one row per run that has no result: what to train, every number resolved
                ask.json   the same with its format, units and data (format "scaling/ask")

A row of results names its `cell` and gives its `loss` in nats per token; what it says beyond that
(tokens, params, steps, seed, status) is held against what was asked. Nothing here needs JAX.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling import results
from scaling.columns import ALIAS_OF, canonical
from scaling.errors import ScalingError
from scaling.files import read_json, write_atomic, write_json
from scaling.runs import DIVERGED, DONE, SHOWN
from scaling.shape import CONVENTIONS, COUNTS, Shape
from scaling.tables import missing, number, read_table
from sweeps import store
from sweeps.engines.base import Outcome, Task, note_status
from sweeps.engines.progress import Quiet

FORMAT = "scaling/ask"
VERSION = 1
NOTES = {
    "loss": "nats per token on held-out text, after the last token",
    "tokens": "training tokens: steps x batch x seq",
    "batch": "sequences per step",
    "lr": "peak learning rate; a group's own rate is lr x lr_multiplier_<group>",
    "flops": "whole run, forward and backward, causal attention counted once (model_causal)",
    "schedule": "cosine, or wsd: constant, then linear over the last decay_steps",
    "final_lr_share": "the rate after the last step, as a share of lr",
}
# How far a trainer's own count may differ from the one asked for: embeddings, padding, a last partial step.
TOLERANCE = {"tokens": 0.01, "params": 0.05, "steps": 0.01}
ASKED = (
    *("data_sha256", "steps", "batch", "seq", "lr", "warmup_steps", "schedule", "decay_steps"),
    *("final_lr_share", "weight_decay", "b1", "b2", "eps", "clip_norm", "z_loss", "seed", "dtype"),
)
ALSO = ("loss_se", "bits_per_byte", "train_loss", "time_s", "tokens_per_s", "unique_tokens")


@dataclass(frozen=True)
class ExternalEngine:
    """`home` is the folder of the sweep or launch; `results` a table to take in first."""

    home: Path
    results: Path | None = None
    name: str = "external"
    places: int | None = field(default=None)

    def run(self, tasks: Sequence[Task], progress: Quiet) -> dict[str, Outcome]:
        progress.begin(tasks, len(tasks))
        try:
            if self.results is not None:
                progress.note(ingest(self.home, self.results))
            outcomes = {task.name: _outcome(task) for task in tasks}
            left = [task for task in tasks if outcomes[task.name].state == "waiting"]
            path = write_ask(self.home, left)
            if left:
                verb = "launch PLAN" if (self.home / "launch.json").exists() else f"sweep {self.home}"
                progress.note(
                    f"{len(left)} runs are asked for in {path} (and .json beside it): train them, write a "
                    f"table (CSV, JSONL or Parquet) with the columns cell and loss, and give it to "
                    f"`scaling {verb} --engine external --results FILE`; rows may come in parts."
                )
            return outcomes
        finally:
            progress.end()


def write_ask(home: Path, tasks: Sequence[Task]) -> Path:
    """ask.csv and ask.json for the runs of `tasks`, from their config.json."""
    rows = [ask_row(read_json(task.folder / "config.json"), task.name) for task in tasks]
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["cell"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    data = {row["data_sha256"] for row in rows}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "notes": NOTES,
        "data_sha256": sorted(data),
        "cells": rows,
    }
    write_json(home / "external" / "ask.json", content)
    return write_atomic(home / "external" / "ask.csv", text.getvalue())


def ask_row(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What to train, flat: counts first, then the shape, then how."""
    shape = Shape(**config["shape"])
    tokens = config["steps"] * config["batch"] * config["seq"]
    counts = {"params": shape.params(), "params_non_embedding": shape.params("non-embedding")}
    return {
        "cell": name,
        **counts,
        "tokens": tokens,
        "flops": shape.flops_per_token(config["seq"], "model_causal") * tokens,
        **shape.to_dict(),
        **{key: config[key] for key in ASKED if key in config},
        **{
            f"{what}_multiplier_{group}": value
            for what in ("lr", "init", "decay", "eps")
            for group, value in config.get(f"{what}_multipliers", {}).items()
        },
    }


def ingest(home: Path, path: Path) -> str:
    """Take the rows of `path` in as results, and say how many; a row that is there already changes nothing.

    Raises ScalingError naming every bad row by its line, before anything is written.
    """
    folders = {p.parent.name: p.parent for p in _configs(home)}
    present = store.open_sweep(home).data.train_tokens if (home / "sweep.json").exists() else None
    raw = read_table(path)
    place = _columns(raw.names, str(path))
    bad, known = list(raw.bad), 0
    fresh: dict[str, dict[str, Any]] = {}
    seen: dict[str, tuple[int, Any]] = {}
    for k, line in enumerate(raw.lines):
        values = {name: raw.columns[i][k] for name, i in place.items()}
        cell = str(values["cell"]).strip()
        if cell in seen:
            same = seen[cell][1] == (values.get("loss"), values.get("status"))
            if not same:
                bad.append((line, f"gives {cell} another loss than {raw.unit} {seen[cell][0]}"))
            continue
        seen[cell] = (line, (values.get("loss"), values.get("status")))
        if cell not in folders:
            bad.append((line, f"names the run {cell!r}, which was not asked for"))
            continue
        config = read_json(folders[cell] / "config.json")
        complaint = _complaint(values, config)
        there = store.result_of(folders[cell])
        if complaint:
            bad.append((line, complaint))
        elif there is None:
            origin = {"file": path.name, "sha256": raw.sha256, raw.unit: line}
            fresh[cell] = record(values, config, origin, present)
        elif _same_loss(there, values):
            known += 1
        else:
            bad.append(
                (line, f"gives {cell} a loss of {values.get('loss')}, its result.json {there.get('loss')}")
            )
    if bad:
        listed = "; ".join(f"{raw.unit} {line} {text}" for line, text in sorted(bad)[:SHOWN])
        more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        rows = "1 bad row" if len(bad) == 1 else f"{len(bad)} bad rows"
        raise ScalingError(f"{path}: {rows}, nothing was taken in: {listed}{more}.")
    for cell, result in fresh.items():
        write_json(folders[cell] / "result.json", result)
        note_status(folders[cell], result["status"], 1, source=str(path))
    return f"{path}: {len(fresh)} results taken in, {known} were there already."


def record(
    values: Mapping[str, Any],
    config: Mapping[str, Any],
    origin: Mapping[str, Any],
    present: int | None = None,
) -> dict[str, Any]:
    """The result record of a run trained elsewhere: its loss is the row's, its counts are those asked for.

    Of more tokens than the data has (`present`, where that is known) it cannot have read all once.
    """
    from trainer.config import config_from_dict

    resolved = config_from_dict(config)
    shape, tokens = resolved.shape, resolved.tokens
    diverged = _diverged(values)
    told = {name: number(values[name]) for name in ALSO if not missing(values.get(name))}
    return {
        "format": results.FORMAT,
        "version": results.VERSION,
        "name": resolved.name,
        "status": "diverged" if diverged else "done",
        "loss": None if diverged else number(values["loss"]),
        "loss_se": None,
        "bits_per_byte": None,
        "train_loss": None,
        "time_s": None,
        "tokens_per_s": None,
        "unique_tokens": tokens if present is None else min(tokens, present),
        **told,
        "tokens": tokens,
        "steps": resolved.steps,
        "batch": resolved.batch,
        "seq": resolved.seq,
        "lr": resolved.lr,
        "shape": shape.to_dict(),
        "params": shape.params(),
        "params_embedding": shape.params_embedding,
        "params_head": shape.params_head,
        "params_non_embedding": shape.params("non-embedding"),
        "param_counts": {count: shape.params(count) for count in COUNTS},
        "flops": {c: shape.flops_per_token(resolved.seq, c) * tokens for c in CONVENTIONS},
        "seed": resolved.seed,
        "config_sha256": resolved.sha256,
        "recipe_sha256": resolved.recipe_sha256,
        "plan_seal": resolved.plan_seal,
        "data_sha256": resolved.data_sha256,
        "origin": origin,
    }


def _columns(names: Sequence[str], source: str) -> dict[str, int]:
    """Index of each column by its own name here; `cell` may be called run, name or experiment."""
    plain = {name.strip().lower(): i for i, name in enumerate(names)}
    chosen, _ = canonical(list(names), source, required=())
    place = {name: i for i, name in chosen.items()}
    place |= {name: plain[name] for name in ALSO if name in plain}
    cell = plain.get("cell", place.get("run"))
    if cell is None:
        others = ", ".join(alias for alias, name in ALIAS_OF.items() if name == "run")
        raise ScalingError(
            f"{source}: column 'cell' is missing (or one of {others}); found {', '.join(names)}."
        )
    if "loss" not in place:
        raise ScalingError(f"{source}: column 'loss' is missing; found {', '.join(names)}.")
    return place | {"cell": cell}


def _complaint(values: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """What is wrong with a row for the run of `config`; None when nothing is."""
    status = _status(values)
    if status and status not in DIVERGED | DONE:
        return f"is not complete (status {status!r})"
    loss = number(values["loss"])
    if not _diverged(values) and not (math.isfinite(loss) and loss > 0):
        return f"has no usable loss ({values['loss']!r}); a diverged run says so in a column status"
    asked = ask_row(config, "")
    for name, share in TOLERANCE.items():
        told = number(values.get(name))
        if math.isfinite(told) and abs(told / asked[name] - 1) > share:
            return f"trained {told:.6g} {name}, {asked[name]:.6g} were asked for"
    seed = number(values.get("seed"))
    if math.isfinite(seed) and seed != config["seed"]:
        return f"has seed {seed:g}, {config['seed']} was asked for"
    for name in ALSO:
        value = values.get(name)
        if not missing(value) and not (number(value) >= 0 and math.isfinite(number(value))):
            return f"has {name} {value!r}, which is no number of at least 0"
    return None


def _status(values: Mapping[str, Any]) -> str:
    status = values.get("status")
    return "" if missing(status) else str(status).strip().lower()


def _diverged(values: Mapping[str, Any]) -> bool:
    return _status(values) in DIVERGED


def _same_loss(result: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    if result["status"] == "diverged" or _diverged(values):
        return result["status"] == "diverged" and _diverged(values)
    return math.isclose(result["loss"], number(values["loss"]), rel_tol=1e-9)


def _configs(home: Path) -> list[Path]:
    return [*home.glob("cells/*/config.json"), *home.glob("*/config.json")]


def _outcome(task: Task) -> Outcome:
    result = store.result_of(task.folder)
    if result is None:
        return Outcome(task.name, "waiting", attempts=0)
    return Outcome(task.name, result["status"], result.get("loss"), result.get("time_s"))
