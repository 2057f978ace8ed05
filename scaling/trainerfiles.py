"""A plan as the configuration of another trainer: MaxText (YAML) and nanochat (flags).

Every file begins with what carries over and what does not. Key names are those of MaxText 0.2.5's
configs/base.yml and of nanochat's scripts/base_train.py as of 2026-02. What a trainer cannot express is
refused (another objective, parallel blocks, LayerNorm) or named in the file (initialisation, rates by part).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scaling.errors import Refusal, UsageError
from scaling.files import write_atomic
from scaling.hardware.catalogue import find_chip
from scaling.launchfiles import FILL_IN, nodes_of, run_config
from scaling.plan_keys import shape_of
from scaling.quantities import format_count, format_flops
from scaling.shape import Shape

# MaxText checkpoints every layer; its policy that recomputes least stands for this trainer's `none`.
MAXTEXT_REMAT = {"none": "minimal_with_context", "minimal": "minimal", "full": "full"}
ASPECT, HEAD = 64, 128  # nanochat: model_dim = depth x 64, rounded up to heads of 128
DEEPEST = 400
FARTHEST = 1.5  # ratio of sizes beyond which the nearest depth is another model


class Writer(NamedTuple):
    """A trainer's name in words, and the text of its file."""

    title: str
    text: Callable[[Mapping[str, Any]], str]


def parse_writes(texts: list[str], option: str = "--write") -> dict[str, Path]:
    """Trainer -> file, from texts such as "maxtext=run.yml"."""
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if name not in WRITERS or not equals or not path:
            known = " or ".join(f"{name}=FILE" for name in WRITERS)
            raise UsageError(f"{option} {text!r} is not known; write {known}.")
        found[name] = Path(path)
    return found


def write_trainer_file(name: str, path: str | Path, plan: Mapping[str, Any]) -> Path:
    """Write `plan` for the trainer `name`; raises Refusal for what that trainer cannot train."""
    return write_atomic(path, WRITERS[name].text(plan))


def check_plain(plan: Mapping[str, Any], shape: Shape, trainer: str) -> None:
    """Refuse what changes the model or its loss and has no word in the other trainer."""
    objective = (plan["recipe"] or {}).get("objective", "causal")
    for is_other, what in (
        (objective != "causal", f"the objective {objective!r}"),
        (shape.block != "sequential", f"{shape.block} blocks"),
        (shape.norm != "rms", "LayerNorm"),
        (shape.rope is not None, "scaled rotary positions"),
    ):
        if is_other:
            raise Refusal(f"--write {trainer}: the plan has {what}, which this file cannot express.")


def head_lines(plan: Mapping[str, Any], shape: Shape, kept: str, lost: list[str]) -> list[str]:
    """The comment that every file begins with."""
    counted = plan["convention"]["flops"]
    flops = format_flops(plan["flops"][counted])
    size, tokens = format_count(shape.params()), format_count(plan["tokens"])
    return [
        f"Plan {plan['seal'][:12]}: {size} parameters, {tokens} tokens, {flops} FLOPs ({counted}).",
        f"Carried over: {kept}.",
        "Does not carry over:",
        *(f"  - {text}" for text in lost),
    ]


# --- MaxText


def maxtext(plan: Mapping[str, Any]) -> str:
    """Overrides of MaxText's base.yml, itself a config: `base_config` names what it extends."""
    shape, config = shape_of(plan), _config(plan)
    check_plain(plan, shape, "maxtext")
    lost = [
        "the data and the tokenizer: fill them in; the vocabulary must be the plan's",
        "initial values: MaxText's own, so that the first steps differ",
        "the seed's sequence of data",
    ]
    rates = {part: rate for part, rate in config["lr_multipliers"].items() if rate != 1.0}
    if rates:
        told = ", ".join(f"{part} x{rate:.4g}" for part, rate in rates.items())
        lost.append(f"rates by part ({told}): MaxText has one rate for all")
    wsd = config["schedule"] == "wsd"
    values: dict[str, Any] = {
        "base_config": "base.yml",
        "run_name": f"scaling-{plan['seal'][:8]}",
        "decoder_block": "qwen3" if shape.qk_norm else "llama2",
        "use_qk_norm": shape.qk_norm,
        "base_emb_dim": shape.width,
        "base_num_query_heads": shape.heads,
        "base_num_kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "base_mlp_dim": shape.ffn,
        "base_num_decoder_layers": shape.layers,
        "mlp_activations": ["silu", "linear"],
        "vocab_size": shape.vocab,
        "logits_via_embedding": shape.tied,
        "normalize_embedding_logits": False,
        "max_target_length": config["seq"],
        "steps": config["steps"],
        "learning_rate": config["lr"],
        "lr_schedule_type": config["schedule"],
        "learning_rate_final_fraction": config["final_lr_share"],
        "warmup_steps_fraction": config["warmup_steps"] / config["steps"],
    }
    if wsd:
        values |= {
            "wsd_decay_steps_fraction": config["decay_steps"] / config["steps"],
            "wsd_decay_style": "linear",
        }
    values |= {
        "opt_type": "adamw",
        "adam_b1": config["b1"],
        "adam_b2": config["b2"],
        "adam_eps": config["eps"],
        "adam_weight_decay": config["weight_decay"],
        "gradient_clipping_threshold": config["clip_norm"],
        "z_loss_multiplier": config["z_loss"],
        "dtype": config["dtype"],
        "weight_dtype": "float32",
        "init_weights_seed": config["seed"],
        "data_shuffle_seed": config["seed"],
    }
    layout = plan.get("layout")
    if layout:
        values |= _maxtext_layout(layout, config["batch"])
    else:
        lost.append(
            f"the layout: the plan has no accelerator; per_device_batch_size x devices must be "
            f"{config['batch']} sequences"
        )
        values["per_device_batch_size"] = FILL_IN
    values["dataset_path"] = values["tokenizer_path"] = FILL_IN
    kept = "shape, sequence length, batch, steps, optimizer, schedule, seed"
    if layout:
        kept += ", layout"
        values["hardware"] = _hardware(plan)
    comment = [
        *head_lines(plan, shape, kept, lost),
        "Run: python -m maxtext.trainers.pre_train.train THIS_FILE",
    ]
    lines = [f"# {line}" for line in comment] + [f"{key}: {_yaml(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _maxtext_layout(layout: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """Mesh axes: those inside a slice are ICI, the replicas over slices DCN."""
    slices = layout["slices"]
    if layout["data"] % slices:
        raise Refusal(f"--write maxtext: {layout['data']} replicas cannot be shared by {slices} slices.")
    accumulated = layout["grad_accum"] or 1
    return {
        "dcn_data_parallelism": slices,
        "ici_data_parallelism": layout["data"] // slices,
        "ici_fsdp_parallelism": layout["fsdp"],
        "ici_tensor_parallelism": layout["tensor"],
        "ici_context_parallelism": layout["context"],
        "ici_pipeline_parallelism": layout["pipeline"],
        "per_device_batch_size": batch / layout["n_chips"] / accumulated,
        "gradient_accumulation_steps": accumulated,
        "remat_policy": MAXTEXT_REMAT[layout["remat"]],
    }


def _hardware(plan: Mapping[str, Any]) -> str:
    if find_chip(plan["time"]["accelerator"]).vendor == "Google":
        return "tpu"
    return "gpu_multiprocess" if nodes_of(plan).number > 1 else "gpu"


def _yaml(value: Any) -> str:
    """A scalar or a flat list; floats always with a point, since YAML 1.1 reads 1e-08 as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        mantissa, e, exponent = text.partition("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}{e}{exponent}"
    if isinstance(value, list):
        return "[" + ", ".join(_yaml(v) for v in value) + "]"
    return str(value) if isinstance(value, int) else f'"{value}"'


# --- nanochat


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
    shape, config = shape_of(plan), _config(plan)
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


def _config(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The run in this trainer's words, whether or not its layout is one of its own."""
    plain = {"data": 1, "fsdp": 1, "tensor": 1, "pipeline": 1, "context": 1, "remat": "none", "grad_accum": 1}
    operations = plan.get("operations") or {"checkpoint_interval_s": 600.0}
    return run_config({**plan, "layout": plain, "operations": operations})


WRITERS = {"maxtext": Writer("MaxText", maxtext), "nanochat": Writer("nanochat", nanochat)}
