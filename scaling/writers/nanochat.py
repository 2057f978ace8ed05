"""A plan for nanochat: flags of its scripts/base_train.py (as of 2026-02), whose only size is its depth."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from scaling.errors import Refusal
from scaling.launchfiles import FILL_IN, nodes_of
from scaling.plan_keys import shape_of
from scaling.quantities import format_count
from scaling.writers.common import check_plain, head_lines, plain_config

ASPECT, HEAD = 64, 128  # nanochat: model_dim = depth x 64, rounded up to heads of 128
DEEPEST = 400
FARTHEST = 1.5  # ratio of sizes beyond which the nearest depth is another model


class Nanochat(NamedTuple):
    """The model that nanochat builds at a depth: `params` multiply (blocks and head), `tables` look up."""

    depth: int
    width: int
    params: int
    tables: int


def nanochat_model(depth: int, vocab: int) -> Nanochat:
    """By nanochat/gpt.py: 4 w^2 of attention and 8 w^2 of MLP a layer, a head, and tables of width w.

    The tables are the input's and the value embeddings of every other layer, the last among them; a few
    thousand gates and scalars are not counted.
    """
    width = math.ceil(depth * ASPECT / HEAD) * HEAD
    table = math.ceil(vocab / 64) * 64 * width
    return Nanochat(depth, width, 12 * depth * width**2 + table, table * (1 + (depth + 1) // 2))


def nearest_nanochat(params: float, vocab: int) -> Nanochat:
    """The depth whose multiplying parameters are nearest to `params`, as a ratio."""
    models = (nanochat_model(depth, vocab) for depth in range(1, DEEPEST + 1))
    return min(models, key=lambda model: abs(math.log(model.params / params)))


def nanochat(plan: Mapping[str, Any]) -> str:
    """A bash script: depth is nanochat's only size, so N is the nearest and D keeps 6 N D."""
    shape, config = shape_of(plan), plain_config(plan)
    check_plain(plan, shape, "nanochat")
    wanted = shape.params("total-less-input-embedding")
    model = nearest_nanochat(wanted, shape.vocab)
    if not 1 / FARTHEST < model.params / wanted < FARTHEST:
        raise Refusal(
            f"--write nanochat: its nearest model, depth {model.depth} (width {model.width}), has "
            f"{format_count(model.params)} parameters that multiply, the plan {format_count(wanted)}: no "
            "depth is that size."
        )
    per_step = config["batch"] * config["seq"]
    batch = 2 ** round(math.log2(per_step))
    planned = config["steps"] * per_step
    steps = max(1, round(planned * wanted / model.params / batch))
    lost = [
        f"the shape: depth {model.depth} (width {model.width}) is nearest, {format_count(model.params)} "
        f"parameters that multiply for {format_count(wanted)} planned ({model.params / wanted - 1:+.1%}) and "
        f"{format_count(model.tables)} more in tables that look up",
        f"the tokens: {format_count(steps * batch)} for {format_count(planned)} planned, keeping 6 N D",
        f"the batch: {batch:,} tokens, a power of two, for {per_step:,} planned",
        "optimizer, rates, schedule, weight decay: nanochat's Muon and AdamW with its own rules of size",
        "the MLP (squared ReLU, 4 x width) and the tokenizer, whose vocabulary must be the plan's",
        "the prediction: it was made for another recipe, and nanochat reports bits per byte",
    ]
    flags: dict[str, Any] = {
        "depth": model.depth,
        "aspect-ratio": ASPECT,
        "head-dim": HEAD,
        "max-seq-len": config["seq"],
        "window-pattern": "L",
        "num-iterations": steps,
        "total-batch-size": batch,
        "model-tag": f"scaling-{plan['seal'][:8]}",
    }
    runner = "torchrun --standalone --nproc_per_node=8"
    if plan.get("layout"):
        nodes = nodes_of(plan)
        share = batch // config["seq"] // plan["layout"]["n_chips"]
        micro = 2 ** int(math.log2(max(1, min(share, plan["layout"]["micro_batch_seqs"]))))
        flags["device-batch-size"] = micro
        runner = f"torchrun --standalone --nproc_per_node={nodes.chips_each}"
        if nodes.number > 1:
            runner = (
                f"torchrun --nnodes={nodes.number} --nproc_per_node={nodes.chips_each} --rdzv-backend=c10d"
            )
            runner += f" --rdzv-endpoint={FILL_IN}"
    comment = head_lines(plan, shape, "sequence length, and size, tokens and batch as near as may be", lost)
    lines = ["#!/bin/bash", *(f"# {line}" for line in comment), "set -euo pipefail"]
    call = [f"{runner} -m scripts.base_train --"]
    call += [f"    --{name}={shlex.quote(str(value))}" for name, value in flags.items()]
    return "\n".join(lines) + "\n" + " \\\n".join(call) + "\n"
