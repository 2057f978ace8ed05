"""A plan for Levanter: the YAML of its levanter.main.train_lm, field names as of marin-levanter 0.2.227."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling.errors import Refusal
from scaling.launchfiles import FILL_IN
from scaling.plan_keys import shape_of
from scaling.writers.common import (
    HELD_OUT,
    NORM_EPS,
    ROPE_THETA,
    WARMUP,
    by_part,
    check_plain,
    head_lines,
    no_layout,
    plain_config,
    share_of,
    yaml_lines,
)

# Matrices decay and gains do not: Levanter matches this against the names of its parameters.
DECAYED = ".*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|embeddings|lm_head)"
JMP = {"bfloat16": "bfloat16", "float32": "f32", "float16": "f16"}  # jmp's names of the computation's type


def levanter(plan: Mapping[str, Any]) -> str:
    """The TrainLmConfig of a plan; raises Refusal for a layout on axes that Levanter's models do not have."""
    shape, config = shape_of(plan), plain_config(plan)
    check_plain(plan, shape, "levanter")
    layout = plan.get("layout")
    steps = config["steps"]
    lost = [
        "the data and the tokenizer: fill them in; the vocabulary is the tokenizer's and must be the plan's",
        "initial values: Levanter's own, so that the first steps differ",
        "the seed's sequence of data",
        HELD_OUT,
        WARMUP,
        *by_part(config, "lr", "decay", "eps"),
    ]
    if layout and layout["remat"] == "minimal":
        lost.append("recomputation: Levanter recomputes whole layers, the plan all but their matrix products")
    if not layout:
        lost.append(no_layout("per_device_parallelism x devices x accumulation", config["batch"]))
    cosine = config["schedule"] == "cosine"
    trainer = {
        "id": f"scaling-{plan['seal'][:8]}",
        "seed": config["seed"],
        "mp": f"p=f32,c={JMP[config['dtype']]}",
        "train_batch_size": config["batch"],
        "num_train_steps": steps,
    }
    if layout:
        trainer |= _layout(layout, config["batch"])
        seconds = round(plan["operations"]["checkpoint_interval_s"])
        trainer["checkpointer"] = {"save_interval": f"{seconds}s"}
    values = {
        "data": {
            "tokenizer": FILL_IN,
            "cache_dir": FILL_IN,
            "block_cross_document_attention": False,
            "components": {"text": {"source": {"type": "url", "train_urls": [FILL_IN]}}},
            "train_weights": {"text": 1.0},
        },
        "model": {
            "type": "qwen3" if shape.qk_norm else "llama",
            "max_seq_len": config["seq"],
            "hidden_dim": shape.width,
            "intermediate_dim": shape.ffn,
            "num_layers": shape.layers,
            "num_heads": shape.heads,
            "num_kv_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "tie_word_embeddings": shape.tied,
            "activation_function": "silu",
            "layer_norm_epsilon": NORM_EPS,
            "rope": {"type": "default", "theta": ROPE_THETA},
            "gradient_checkpointing": not layout or layout["remat"] != "none",
        },
        "train_seq_len": config["seq"],
        "z_loss_weight": config["z_loss"],
        "data_seed": config["seed"],
        "optimizer": {
            "type": "adam",
            "learning_rate": config["lr"],
            "lr_schedule": "cosine" if cosine else "linear",
            "warmup": _steps(config["warmup_steps"], steps),
            "decay": None if cosine else _steps(config["decay_steps"], steps),
            "min_lr_ratio": config["final_lr_share"],
            "weight_decay": config["weight_decay"],
            "weight_decay_modules": DECAYED,
            "beta1": config["b1"],
            "beta2": config["b2"],
            "epsilon": config["eps"],
            "max_grad_norm": config["clip_norm"],
        },
        "trainer": trainer,
    }
    kept = "shape, sequence length, batch, steps, optimizer, z-loss, schedule, seed"
    comment = [
        *head_lines(plan, shape, kept + (", layout, checkpoints" if layout else ""), lost),
        "Run: python -m levanter.main.train_lm --config_path THIS_FILE",
    ]
    return "\n".join([*(f"# {line}" for line in comment), *yaml_lines(values)]) + "\n"


def _steps(count: int, whole: int) -> int | float:
    """Levanter reads a number up to 1 as a share of the run: one step is put as a share that rounds to it."""
    return count if count > 1 else share_of(count, whole)


def _layout(layout: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """Mesh axes: `data` shards the model, `replica` copies it, `model` is tensor parallel."""
    for axis in ("pipeline", "context"):
        if layout[axis] > 1:
            raise Refusal(
                f"--write levanter: the layout has {axis} {layout[axis]}, which Levanter's train_lm does not "
                "do; plan with fewer chips or a larger --batch-tokens."
            )
    slices = layout["slices"]
    if layout["data"] % slices:
        raise Refusal(f"--write levanter: {layout['data']} replicas cannot be shared by {slices} slices.")
    ranks = layout["data"] * layout["fsdp"]
    return {
        "per_device_parallelism": batch // ranks // (layout["grad_accum"] or 1),
        "mesh": {
            "axes": {"data": layout["fsdp"], "replica": layout["data"] // slices, "model": layout["tensor"]},
            "dcn_axes": {"replica_dcn": slices},
        },
    }
