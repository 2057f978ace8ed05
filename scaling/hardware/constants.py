"""The few constants of the step-time model, as data: value, prior, meaning and where each came from.

`constants.csv` holds one constant a row. `prior` and `spread` (standard deviation of its logarithm)
are what is known before any published step time is looked at; `value` is the posterior mode that
`benchmarks/planner_step_time.py --fit` finds, `calibrated_on` the rows it used.
"""

from __future__ import annotations

import csv
import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "constants.csv"


@dataclass(frozen=True)
class Constants:
    """Plain numbers, named as the rows of `constants.csv`, where each has its meaning and source."""

    gemm_sustained: float
    gemm_ceiling_tpu: float
    gemm_ceiling_unmeasured: float
    gemm_edge_gpu: float
    gemm_edge_tpu: float
    attention_ampere: float
    attention_hopper_2023: float
    attention_modern: float
    attention_tpu: float
    attention_edge: float
    attention_edge_2023: float
    scores_bytes: float
    elementwise_pytorch: float
    elementwise_megatron: float
    elementwise_jax: float
    logits_bytes: float
    optimizer_bytes: float
    bus_share_gpu: float
    bus_share_tpu: float
    fsdp_exposed: float
    fsdp_exposed_tpu: float
    weight_bytes: float
    grads_exposed: float
    tensor_exposed_gpu: float
    tensor_exposed_tpu: float
    straggler: float
    layer_overhead_s: float
    step_overhead_s: float
    host_layer_s: float
    host_collective_s: float


@dataclass(frozen=True)
class Row:
    """One line of `constants.csv`."""

    name: str
    value: float
    prior: float
    spread: float
    unit: str
    meaning: str
    source: str
    calibrated_on: str


@cache
def table() -> dict[str, Row]:
    with open(FILE, encoding="utf-8", newline="") as stream:
        rows = [
            Row(**{**row, **{key: float(row[key]) for key in ("value", "prior", "spread")}})  # type: ignore
            for row in csv.DictReader(stream)
        ]
    return {row.name: row for row in rows}


@cache
def calibrated() -> Constants:
    """The constants as calibrated."""
    return Constants(**{field.name: table()[field.name].value for field in dataclasses.fields(Constants)})


@cache
def priors() -> Constants:
    """The constants before any published step time was looked at."""
    return Constants(**{field.name: table()[field.name].prior for field in dataclasses.fields(Constants)})
