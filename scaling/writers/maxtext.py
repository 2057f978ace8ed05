"""A plan for MaxText: overrides of its configs/base.yml, key names as of MaxText 0.2.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling.errors import Refusal
from scaling.hardware.catalogue import find_chip
from scaling.launchfiles import FILL_IN, nodes_of
from scaling.plan_keys import shape_of
from scaling.writers.common import (
    HELD_OUT,
    NORM_EPS,
    ROPE_THETA,
    WARMUP,
    by_part,
    check_plain,
    checkpoint_steps,
    head_lines,
    no_layout,
    plain_config,
    share_of,
    yaml_lines,
)

# MaxText checkpoints every layer; its policy that recomputes least stands for this trainer's `none`.
MAXTEXT_REMAT = {"none": "minimal_with_context", "minimal": "minimal", "full": "full"}


def maxtext(plan: Mapping[str, Any]) -> str:
    """Overrides of MaxText's base.yml, itself a config: `base_config` names what it extends."""
    shape, config = shape_of(plan), plain_config(plan)
    check_plain(plan, shape, "maxtext")
    lost = [
        "the data and the tokenizer: fill them in; the vocabulary must be the plan's",
        "initial values: MaxText's own, so that the first steps differ",
        "the seed's sequence of data",
        HELD_OUT,
        WARMUP,
        "attention: MaxText hides packed documents from one another, where a row here sees itself whole",
        *by_part(config, "lr", "decay", "eps"),
    ]
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
        "normalization_layer_epsilon": NORM_EPS,
        "rope_max_timescale": int(ROPE_THETA),
        "max_target_length": config["seq"],
        "steps": config["steps"],
        "learning_rate": config["lr"],
        "lr_schedule_type": config["schedule"],
        "learning_rate_final_fraction": config["final_lr_share"],
        "warmup_steps_fraction": share_of(config["warmup_steps"], config["steps"]),
    }
    if wsd:
        values |= {
            "wsd_decay_steps_fraction": share_of(config["decay_steps"], config["steps"]),
            "wsd_decay_style": "linear",
        }
    values |= {
        "opt_type": "adamw",
        "adam_b1": config["b1"],
        "adam_b2": config["b2"],
        "adam_eps": config["eps"],
        "adam_weight_decay": config["weight_decay"],
        "adamw_mask": [".*norm.*"],
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
        lost.append(no_layout("per_device_batch_size x devices", config["batch"]))
        values["per_device_batch_size"] = FILL_IN
    values["dataset_path"] = values["tokenizer_path"] = FILL_IN
    kept = "shape, sequence length, batch, steps, optimizer, schedule, seed"
    if layout:
        kept += ", layout, checkpoints"
        values["checkpoint_period"] = checkpoint_steps(plan)
        values["hardware"] = _hardware(plan)
    comment = [
        *head_lines(plan, shape, kept, lost),
        "Run: python -m maxtext.trainers.pre_train.train THIS_FILE",
    ]
    return "\n".join([*(f"# {line}" for line in comment), *yaml_lines(values)]) + "\n"


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
