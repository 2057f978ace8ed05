"""Run tables of other tools, recognised by their columns and read with their conventions said.

Each `Format` maps a tool's own columns to params (N), tokens (D), flops (C) and loss (L), and says what its
N counts, where its D comes from and in which unit its L is. A table that no format knows is left as it is;
`--columns` (scaling.columns) reads anything else. docs/import.md has the same in a table.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from scaling.columns import HELD_OUT, HINT, key_of, product, with_columns
from scaling.errors import ScalingError
from scaling.tables import TENSORBOARD, Raw, missing, number

BITS = "in bits per byte (nats per token = bits x ln 2 x bytes per token); sizes and exponents do not depend"
# allenai/OLMo-ladder, src/scaling/utils.py, MODEL_PARAMS: all but the input embedding.
OLMO_PARAMS = {
    "190M": 190_354_176, "370M": 371_262_464, "600M": 597_382_464, "760M": 758_220_288, "1B": 1_279_395_840,
    "1.3B": 1_279_395_840, "3B": 3_169_537_280, "3.2B": 3_169_537_280, "7B": 6_887_575_552,
    "13B": 13_202_396_160,
}  # fmt: skip
OLMO_RUN = re.compile(r"(?:^|[-_])(\d+(?:\.\d+)?[MB])-\d+(?:\.\d+)?xC", re.IGNORECASE)
OLMO_LOSSES = ("eval/c4_en-validation/CrossEntropyLoss", "eval/pile-validation/CrossEntropyLoss")
# Losses that Levanter's evaluation logs, those in nats per token first.
LEVANTER_LOSSES = ("eval/loss", "eval/paloma/c4_en/loss", "eval/bpb", "eval/paloma/c4_en/bpb")
WANDB_OWN = ("Created", "Runtime", "User", "Tags", "Sweep", "Notes", "Hostname")


@dataclass(frozen=True)
class Format:
    """A tool's table: its name, a test of the column names, and its reader, which also makes notes."""

    name: str
    fits: Callable[[Sequence[str]], bool]
    read: Callable[[Raw, str], tuple[Raw, list[str]]]


def translate(raw: Raw, source: str) -> tuple[Raw, list[str], str]:
    """The table in our columns, what was recognised, and the name of the format ("" for none)."""
    for format_ in FORMATS:
        if format_.fits(raw.names):
            table, notes = format_.read(raw, source)
            return table, [f"read as {format_.name}", *notes], format_.name
    return raw, [], ""


def _has(*names: str) -> Callable[[Sequence[str]], bool]:
    return lambda there: set(names) <= set(there)


def _cells(raw: Raw, name: str) -> list[Any]:
    return raw.columns[raw.names.index(name)]


def _sum(raw: Raw, names: Sequence[str]) -> list[Any]:
    """The sum of the columns of these names; missing where one of them is."""
    rows = zip(*(_cells(raw, name) for name in names), strict=True)
    totals = [math.fsum(number(v, grouped=True) for v in row) for row in rows]
    return [None if math.isnan(total) else total for total in totals]


def _rows(raw: Raw, keep: Sequence[int]) -> Raw:
    columns = [[column[i] for i in keep] for column in raw.columns]
    return replace(raw, columns=columns, lines=[raw.lines[i] for i in keep])


# --- karpathy/nanochat, runs/scaling_laws.sh: results.csv


def _nanochat(raw: Raw, source: str) -> tuple[Raw, list[str]]:
    depth, budget = _cells(raw, "depth"), _cells(raw, "flops_budget")
    new = {
        "params": _cells(raw, "params_total"),
        "tokens": _cells(raw, "tokens_trained"),
        "loss": _cells(raw, "val_bpb"),
        "flops": budget,
        "budget": budget,
        "run": [f"{c}_d{d}" for c, d in zip(budget, depth, strict=True)],
        "steps": _cells(raw, "num_iterations"),
    }
    tables = [n for n in ("params_wte", "params_bigram_embed", "params_value_embeds") if n in raw.names]
    if tables and "params_lm_head" in raw.names:
        new |= {"params_embedding": _sum(raw, tables), "params_head": _cells(raw, "params_lm_head")}
    return with_columns(raw, new), [
        f"N = params_total, of which {' + '.join(tables)} look up and do not multiply "
        "(--count total-less-input-embedding leaves them out, as nanochat's own fits do)",
        "C = flops_budget, nanochat's estimate for matrices and windowed attention, met to half a step",
        f"L = val_bpb, {BITS} on it",
    ]


def _nanochat_curve(raw: Raw, source: str) -> tuple[Raw, list[str]]:
    new = {
        "params": _cells(raw, "base.num_params"),
        "tokens": _cells(raw, "base.tokens_trained"),
        "loss": _cells(raw, "base.val_bpb"),
    }
    notes = [f"N = num_params, all parameters; L = val_bpb, {BITS} on it"]
    for name, text in (
        ("run", "model_tag"),
        ("steps", "base.num_iterations"),
        ("budget", "base.target_flops"),
    ):
        if text in raw.names:
            new[name] = _cells(raw, text)
    if "base.eflops" in raw.names:
        new["flops"] = product(raw, "base.eflops*1e18", source)
        notes.append("C = eflops x 1e18, nanochat's estimate for matrices and windowed attention")
    if "base.num_scaling_params" in raw.names:
        pairs = zip(new["params"], _cells(raw, "base.num_scaling_params"), strict=True)
        rest = [number(whole) - number(scaling) for whole, scaling in pairs]
        new["params_embedding"] = [None if math.isnan(value) else value for value in rest]
        notes.append("--count total-less-input-embedding is num_scaling_params, as nanochat's own fits count")
    return with_columns(raw, new), notes


def _nanochat_early(raw: Raw, source: str) -> tuple[Raw, list[str]]:
    named = replace(raw, names=["params_total" if n == "num_params" else n for n in raw.names])
    table, notes = _nanochat(named, source)
    return table, ["N = num_params, all parameters", *notes[1:]]


# --- Levanter and Marin: tracker_metrics.jsonl (one object a run), and W&B exports of such runs


def _levanter(raw: Raw, source: str) -> tuple[Raw, list[str]]:
    at = "summary." if "summary.parameter_count" in raw.names else ""
    new: dict[str, Sequence[Any]] = {
        "params": _cells(raw, f"{at}parameter_count"),
        "tokens": _cells(raw, f"{at}throughput/total_tokens"),
    }
    notes = ["N = parameter_count, all parameters; D = throughput/total_tokens"]
    if f"{at}throughput/total_gflops" in raw.names:
        new["flops"] = product(raw, f"{at}throughput/total_gflops*1e9", source)
        notes.append("C = throughput/total_gflops x 1e9, Levanter's count of the model's own operations")
    loss = next((name for name in LEVANTER_LOSSES if at + name in raw.names), None)
    if loss is not None:
        new["loss"] = _cells(raw, at + loss)
        unit = f"{BITS} on it" if loss.endswith("bpb") else "nats per token"
        notes.append(f"L = {loss}, {unit}")
    if "run_path" in raw.names:
        paths = [str(path or "") for path in _cells(raw, "run_path")]
        new["run"] = [PurePath(path).name for path in paths]
        budgets = [re.search(r"isoflop-([0-9.]+e[+-]?\d+)", path) for path in paths]
        if all(budgets):
            new["budget"] = [match.group(1) for match in budgets if match]
    return with_columns(raw, new), notes


def _is_levanter(names: Sequence[str]) -> bool:
    return any(_has(f"{at}parameter_count", f"{at}throughput/total_tokens")(names) for at in ("summary.", ""))


def _marin(raw: Raw, source: str) -> tuple[Raw, list[str]]:
    return raw, ["its loss is the metric that the analysis chose, by default Paloma's c4_en in bits per byte"]


# --- allenai/OLMo-ladder: a CSV of one run's evaluations, named after its size and length


def _is_olmo(names: Sequence[str]) -> bool:
    return "throughput/total_tokens" in names and any(loss in names for loss in OLMO_LOSSES)


def _olmo(raw: Raw, source: str) -> tuple[Raw, list[str]]:
    run = PurePath(source).stem
    loss = next(name for name in OLMO_LOSSES if name in raw.names)
    size = OLMO_RUN.search(run)
    params = OLMO_PARAMS.get(size.group(1).upper()) if size else None
    if params is None:
        raise ScalingError(
            f"{source}: read as an OLMo ladder run, whose size is told by the file's name alone "
            f"(such as peteish-190M-1xC.csv; sizes {', '.join(OLMO_PARAMS)}); rename it, or {HINT}."
        )
    table, earlier = _last(raw, [raw.names.index(loss)])
    new: dict[str, Sequence[Any]] = {
        "params": [params] * len(table.lines),
        "tokens": _cells(table, "throughput/total_tokens"),
        "loss": _cells(table, loss),
        "run": [run] * len(table.lines),
    }
    if "throughput/total_training_Gflops" in raw.names:
        new["flops"] = product(table, "throughput/total_training_Gflops*1e9", source)
    return with_columns(table, new), [
        f"N = {params:,} by the file's name: OLMo-ladder counts all but the input embedding",
        f"D = throughput/total_tokens; L = {loss}, nats per token",
        f"the last evaluation is the run; {earlier} earlier ones, whose rate had not decayed, are left out",
    ]


def _last(raw: Raw, columns: Sequence[int]) -> tuple[Raw, int]:
    """The last row in which one of `columns` is filled, and how many filled ones stand before it."""
    filled = [i for i in range(len(raw.lines)) if not all(missing(raw.columns[c][i]) for c in columns)]
    return _rows(raw, filled[-1:]), max(0, len(filled) - 1)


# --- Weights & Biases: the runs table, and a chart's history


def _is_wandb_runs(names: Sequence[str]) -> bool:
    return {"Name", "State"} <= set(names) and any(name in names for name in WANDB_OWN)


def _wandb_runs(raw: Raw, source: str) -> tuple[Raw, list[str]]:
    notes = ["run = Name, status = State; config and summary keys by the usual names"]
    new: dict[str, Sequence[Any]] = {"run": _told_apart(_cells(raw, "Name")), "status": _cells(raw, "State")}
    keys = [key_of(name) for name in raw.names]
    found = [name for name, key in zip(raw.names, keys, strict=True) if key in HELD_OUT]
    if len(found) == 1:  # beside it a bare `loss` is that of the last training batch
        new["loss"] = _cells(raw, found[0])
        notes.append(f"L = {found[0]}")
    elif not found and "loss" in keys:
        notes.append("L = loss; make sure that it is no training batch's")
    if "throughput/total_tokens" in raw.names:
        new["tokens"] = _cells(raw, "throughput/total_tokens")
    return with_columns(raw, new), notes


def _told_apart(names: Sequence[Any]) -> list[str]:
    """Display names, which W&B lets several runs share: the second `x` becomes `x #2`."""
    seen: Counter[str] = Counter()
    found = []
    for name in map(str, names):
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return found


EDGES = ("__MIN", "__MAX")


def _curve(name: str) -> tuple[str, str] | None:
    """(run, metric) of a chart's column "RUN - METRIC"; a run's own name may hold the separator too."""
    run, dash, metric = name.rpartition(" - ")
    return (run, metric) if dash and not metric.endswith(EDGES) else None


def _is_wandb_history(names: Sequence[str]) -> bool:
    return " - " not in names[0] and any(_curve(n) and f"{n}__MIN" in names for n in names[1:])


def _wandb_history(raw: Raw, source: str) -> tuple[Raw, list[str]]:
    """One row a run: its last value of the chart's metric, and where on the axis it stands."""
    axis = raw.names[0]
    found = {i: _curve(name) for i, name in enumerate(raw.names[1:], 1)}
    curves = {i: curve for i, curve in found.items() if curve and curve[1] != "_step"}
    metrics = sorted({metric for _, metric in curves.values()})
    if len(metrics) > 1:
        raise ScalingError(
            f"{source}: a W&B chart of {len(metrics)} metrics ({', '.join(metrics)}); export a chart of one."
        )
    rows = []
    earlier = 0
    for i, (run, _) in curves.items():
        last, before = _last(raw, [i])
        earlier += before
        if last.lines:
            rows.append((run, last.columns[0][0], last.columns[i][0], last.lines[0]))
    horizon = "tokens" if "tokens" in key_of(axis) else "steps"
    columns = [[row[k] for row in rows] for k in range(3)]
    table = replace(raw, names=["run", horizon, "loss"], columns=columns, lines=[row[3] for row in rows])
    return table, [
        f"{len(rows)} runs; {horizon} = {axis}; L = the last {metrics[0]} of each, {earlier} earlier values "
        "left out"
    ]


# --- TensorBoard: a scalar as CSV or JSON


def _tensorboard(raw: Raw, source: str) -> tuple[Raw, list[str]]:
    last, earlier = _last(raw, [raw.names.index("Value")])
    run = PurePath(source).stem
    new = {"steps": _cells(last, "Step"), "loss": _cells(last, "Value"), "run": [run] * len(last.lines)}
    return with_columns(last, new), [
        f"run = the file's name; L = its last value, at step {new['steps'][0] if last.lines else '-'}; "
        f"{earlier} earlier values left out"
    ]


# --- Any table that has steps and a batch in place of tokens

PER_STEP = ("tokens_per_step", "tokens_per_batch", "batch_tokens", "batch_size_tokens", "global_batch_tokens")
STEPS = ("steps", "train_steps", "training_steps", "num_steps", "max_steps", "total_steps", "num_train_steps")
BATCH = ("global_batch_size_to_train_on", "global_batch_size", "train_batch_size", "batch_size", "batch")
SEQ = ("max_target_length", "seq_len", "sequence_length", "context_length", "block_size", "max_seq_len")


def with_tokens(raw: Raw, tokens: set[str]) -> tuple[Raw, list[str]]:
    """The table with tokens = steps x batch, where it says both and has no column called as in `tokens`."""
    keys = [key_of(name) for name in raw.names]
    if tokens & set(keys):
        return raw, []

    def first(names: Sequence[str]) -> str | None:
        return next((raw.names[keys.index(name)] for name in names if name in keys), None)

    steps, whole, batch, seq = (first(names) for names in (STEPS, PER_STEP, BATCH, SEQ))
    parts = [steps, whole] if whole else [steps, batch, seq]
    if None in parts:
        return raw, []
    text = " x ".join(str(part) for part in parts)
    cells = _times(raw, [part for part in parts if part is not None])
    per = "" if whole else f", taking {batch} as the sequences of a whole step"
    return with_columns(raw, {"tokens": cells}), [f"D = {text}{per}"]


def _times(raw: Raw, names: Sequence[str]) -> list[Any]:
    rows = zip(*(_cells(raw, name) for name in names), strict=True)
    values = [math.prod(number(v, grouped=True) for v in row) for row in rows]
    return [None if math.isnan(value) else value for value in values]


FORMATS = (
    Format(
        "nanochat's results.csv",
        _has("flops_budget", "depth", "params_total", "num_iterations", "tokens_trained", "val_bpb"),
        _nanochat,
    ),
    Format(
        "an early nanochat results.csv",
        _has("flops_budget", "depth", "num_params", "num_iterations", "tokens_trained", "val_bpb"),
        _nanochat_early,
    ),
    Format(
        "nanochat's curve.log",
        _has("base.num_params", "base.tokens_trained", "base.val_bpb"),
        _nanochat_curve,
    ),
    Format("metrics of Levanter runs", _is_levanter, _levanter),
    Format(
        "a Marin IsoFLOP table",
        _has("tokens", "loss", "flops", "params", "hidden_dim", "num_layers", "batch_size", "label"),
        _marin,
    ),
    Format("an OLMo ladder run", _is_olmo, _olmo),
    Format("a W&B runs table", _is_wandb_runs, _wandb_runs),
    Format("a W&B chart", _is_wandb_history, _wandb_history),
    Format("a TensorBoard scalar", _has(*TENSORBOARD), _tensorboard),
)
