"""Columns by name: `--columns N=params,D=steps*524288,L=eval/loss` says where a table keeps what.

The left side is a column of the run table (params, tokens, loss, flops, run, seed, ...) or a letter of the
papers (N, D, C, L). The right side is a column of the file, a number, or a product of both; `ln2` stands for
0.693..., which turns bits into nats. A column whose name has a comma is put in double quotes.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scaling.errors import ScalingError, UsageError
from scaling.laws.surface import Floats
from scaling.quantities import PF_DAY
from scaling.tables import Raw, missing, number

REQUIRED = ("params", "tokens", "loss")
# Numeric columns and whether a value must be positive (True), at least zero (None) or just finite.
NUMERIC: dict[str, bool | None] = {
    "params": True, "tokens": True, "loss": True, "flops": True,
    "params_embedding": None, "params_head": None, "params_non_embedding": True,
    "budget": True, "unique_tokens": True, "steps": True, "seed": False,
    "flops_6nd": True, "flops_model_causal": True, "flops_model_full": True, "flops_hardware": True,
}  # fmt: skip
TEXT = ("run", "trunk", "status")
ALIASES = {
    "params": "n parameters num_params n_params nparams param_count parameter_count num_parameters"
    " n_parameters total_params total_parameters model_size model_params model_parameters params_total",
    "tokens": "d training_tokens train_tokens num_tokens n_tokens ntokens token_count tokens_seen"
    " total_tokens tokens_total trained_tokens training_tokens_seen dataset_size train_tokens_seen",
    "loss": "l val_loss eval_loss validation_loss final_loss final_val_loss final_eval_loss"
    " val_cross_entropy eval_cross_entropy test_loss loss_val validation_cross_entropy",
    "flops": "c compute flop total_flops training_flops train_flops training_flop total_flop"
    " training_compute flops_total",
    "params_non_embedding": "non_embedding_params params_nonembedding n_non_embedding"
    " num_non_embedding_params non_embedding_parameters params_non_emb",
    "params_embedding": "embedding_params embedding_parameters n_embedding",
    "params_head": "head_params lm_head_params",
    "unique_tokens": "unique_training_tokens n_unique_tokens",
    "budget": "flop_budget flops_budget isoflop compute_budget target_flops",
    "run": "run_id run_name name experiment",
    "status": "state",
    "steps": "train_steps training_steps num_steps n_steps step",
    "seed": "random_seed",
}
ALIAS_OF = {alias: name for name, text in ALIASES.items() for alias in text.split()}
LETTER = {"params": "N", "tokens": "D", "flops": "C", "loss": "L"}
SPELLINGS = {name: name for name in (*NUMERIC, *TEXT)} | ALIAS_OF
# Names of a loss on held-out text, among them torchtitan's and MaxText's.
HELD_OUT = {
    *("val_loss", "eval_loss", "valid_loss", "validation_loss", "test_loss", "val_cross_entropy"),
    *("validation_metrics_loss", "eval_avg_loss"),
}
HINT = "name them with --columns N=...,D=...,L=... (docs/import.md)"
NAMED = 20  # columns listed in a message
LONGEST = 60  # letters of one of them
CONSTANTS = {"ln2": math.log(2)}
FEWEST = 1e4  # a table whose largest run has fewer parameters, or tokens, is in another unit
FEW_TOKENS = 0.5  # tokens per parameter below which nobody trains most runs of a study
FAR_FROM_6ND = 30.0


def key_of(name: str) -> str:
    """A name as names are compared: lower case, words joined by underscores."""
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def listed(names: Sequence[str]) -> str:
    """The names for a message, on one line: the first `NAMED` of very many, the beginning of a long one."""
    flat = [" ".join(name.split()) for name in names[:NAMED]]
    short = [name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..." for name in flat]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (", ".join(short) or "none") + more


def canonical(
    names: list[str], source: str, required: Sequence[str] = REQUIRED
) -> tuple[dict[int, str], list[str]]:
    """Column index -> canonical name, and notes on the aliases used."""
    keys = [key_of(name) for name in names]
    known = set(NUMERIC) | set(TEXT)
    chosen: dict[int, str] = {}
    for i, key in enumerate(keys):
        if key in known:
            if key in chosen.values():
                raise ScalingError(f"{source}: column {key!r} appears twice; remove or rename one.")
            chosen[i] = key
    notes = []
    for name in (*NUMERIC, *TEXT):
        if name in chosen.values():
            continue
        found = [i for i, key in enumerate(keys) if i not in chosen and ALIAS_OF.get(key) == name]
        if len(found) > 1:
            both = " and ".join(repr(names[i]) for i in found)
            raise ScalingError(
                f"{source}: columns {both} could both be {name!r}; rename one to {name!r}, or choose with "
                f"--columns {LETTER.get(name, name)}=..."
            )
        if found:
            chosen[found[0]] = name
            notes.append(f"column {names[found[0]]!r} read as {name}")
    for name in required:
        if name not in chosen.values():
            raise ScalingError(f"{source}: column {name!r} is missing; found {listed(names)}; {HINT}.")
    return chosen, notes


def parse_columns(text: str, option: str = "--columns") -> dict[str, str]:
    """Canonical name -> what stands for it."""
    found: dict[str, str] = {}
    for part in next(csv.reader([text], skipinitialspace=True), []):
        left, equals, right = (piece.strip() for piece in part.partition("="))
        name = SPELLINGS.get(key_of(left))
        if not equals or not right:
            raise UsageError(f"{option}: {part!r} is not of the form NAME=COLUMN, such as N=params.")
        if name is None:
            raise UsageError(
                f"{option}: {left!r} is no column of a run table; known are N, D, C, L, "
                f"{', '.join(dict.fromkeys(SPELLINGS.values()))}."
            )
        if name in found:
            raise UsageError(f"{option}: {name!r} is given twice.")
        found[name] = right
    if not found:
        raise UsageError(f"{option}: nothing is named; expected pairs such as N=params,D=tokens,L=val_loss.")
    return found


def with_columns(raw: Raw, new: Mapping[str, Sequence[Any]]) -> Raw:
    """`raw` with the canonical columns `new` in front; a column of the same name stays under another."""
    taken = {key_of(name) for name in new}
    names = [f"{name} (as found)" if key_of(name) in taken else name for name in raw.names]
    return replace(raw, names=[*new, *names], columns=[*map(list, new.values()), *raw.columns])


def chosen_columns(raw: Raw, wanted: Mapping[str, str], source: str) -> tuple[Raw, list[str]]:
    """The table with its columns named as `wanted`, and a note that says so."""
    cells = {name: product(raw, text, source) for name, text in wanted.items()}
    said = ", ".join(f"{name} = {text}" for name, text in wanted.items())
    return with_columns(raw, cells), [f"columns as asked: {said}"]


def product(raw: Raw, text: str, source: str) -> list[Any]:
    """The cells of `text`: a column, a number, or a product of them such as `steps*batch*2048`.

    Missing where a factor is missing; a cell that is no number is handed on as it stands, to be named later.
    """
    column = _column(raw, text, source)
    if column is not None:
        return column
    factors: list[list[Any]] = []
    scale = 1.0
    for part in (piece.strip() for piece in text.split("*")):
        value = CONSTANTS.get(part.lower(), number(part))
        if not math.isnan(value):
            scale *= value
            continue
        column = _column(raw, part, source)
        if column is None:
            raise UsageError(
                f"--columns: {source} has no column {part!r}; found {listed([repr(n) for n in raw.names])}."
            )
        factors.append(column)
    return [_times(scale, [factor[i] for factor in factors]) for i in range(len(raw.lines))]


def _times(scale: float, cells: Sequence[Any]) -> Any:
    for cell in cells:
        if missing(cell):
            return None
        value = number(cell, grouped=True)
        if math.isnan(value):
            return cell
        scale *= value
    return scale


def _column(raw: Raw, name: str, source: str) -> list[Any] | None:
    places = [i for i, there in enumerate(raw.names) if there == name]
    places = places or [i for i, there in enumerate(raw.names) if key_of(there) == key_of(name) != ""]
    if len(places) > 1:
        raise UsageError(f"--columns: {source} has {len(places)} columns {name!r}; rename all but one.")
    return list(raw.columns[places[0]]) if places else None


def doubts(params: Floats, tokens: Floats, flops: Floats) -> list[str]:
    """What looks like another unit, or another column: said, never mended."""
    said = []
    for name, letter, values in (("params", "N", params), ("tokens", "D", tokens)):
        if values.max() < FEWEST:
            said.append(
                f"the largest {name} is {values.max():.4g}, taken as it stands; if that is in millions or"
                f' billions, --columns "{letter}={name}*1e6,..." says so'
            )
    per = float(np.median(tokens / params))
    if per < FEW_TOKENS:
        said.append(f"{per:.2g} tokens per parameter in the median: params and tokens may be exchanged")
    ratio = float(np.median(flops / (6.0 * params * tokens)))
    if not 1 / FAR_FROM_6ND < ratio < FAR_FROM_6ND:
        days = abs(math.log(ratio * PF_DAY)) < 1
        unit = "it looks like PF-days, each 8.64e19 FLOPs" if days else "look for another unit"
        said.append(f"column 'flops' is {ratio:.3g} x 6ND, where no count of training FLOPs is: {unit}")
    return said
