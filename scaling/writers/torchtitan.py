"""A plan for torchtitan: a Python module with a function that returns its Trainer.Config, as of 0.3.0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling.launchfiles import FILL_IN, nodes_of
from scaling.plan_keys import shape_of
from scaling.shape import Shape
from scaling.writers.common import (
    HELD_OUT,
    NORM_EPS,
    ROPE_THETA,
    check_plain,
    checkpoint_steps,
    head_lines,
    no_layout,
    plain_config,
)

REMAT = {"none": "None", "minimal": "SelectiveAC.Config()", "full": "FullAC.Config()"}
# What torchtitan calls the parameters of a part; the first pattern that fits a name counts.
PATTERNS = {
    "embedding": "tok_embeddings",
    "head": "lm_head",
    "final_norm": r"^norm\.",
    "norm": "norm",
    "writer": r"attention\.wo|feed_forward\.w2",
    "hidden": ".*",
}
GROUPS = {"writer": "hidden", "final_norm": "norm"}

TEXT = """\
{comment}
from dataclasses import replace
from functools import partial

from torch import nn
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.optimizer import LRSchedulersContainer, OptimizersContainer, ParamGroupConfig
from torchtitan.config import ParallelismConfig, TrainingConfig
from torchtitan.config.configs import DebugConfig
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC
from torchtitan.hf_datasets.text_datasets import HuggingFaceTextDataLoader
from torchtitan.models.common import CosSinRoPE, Embedding, FeedForward, Linear, RMSNorm
from torchtitan.models.common.config_utils import get_attention_config, make_gqa_config
from torchtitan.models.{family} import {name}Model, model_registry
from torchtitan.models.{family}.model import {name}TransformerBlock
from torchtitan.trainer import Trainer


def normal(std):
    return {{"weight": partial(nn.init.normal_, std=std)}}


def norm(size, gain=1.0):
    start = {{"weight": partial(nn.init.constant_, val=gain)}}
    return RMSNorm.Config(normalized_shape=size, eps={eps}, param_init=start)


def linear(inside, outside, std):
    return Linear.Config(in_features=inside, out_features=outside, param_init=normal(std))


def layer():
    return {name}TransformerBlock.Config(
        attention_norm=norm({width}),
        ffn_norm=norm({width}),
        attention=make_gqa_config(
            dim={width},
            n_heads={heads},
            n_kv_heads={kv_heads},
            head_dim={head_dim},
            wqkv_param_init=normal({std_query}),
            wo_param_init=normal({std_out}),
            inner_attention=get_attention_config("flex"),
            fuse_qkv=True,
            qk_norm={qk_norm},
            rope=CosSinRoPE.Config(dim={head_dim}, max_seq_len={seq}, theta={theta}),
        ),
        feed_forward=FeedForward.Config(
            w1=linear({width}, {ffn}, {std_gate}),
            w2=linear({ffn}, {width}, {std_down}),
            w3=linear({width}, {ffn}, {std_up}),
        ),
    )


def group(pattern, lr, weight_decay, eps):
    rest = {{"betas": ({b1}, {b2}), "lr": lr, "weight_decay": weight_decay, "eps": eps}}
    return ParamGroupConfig(pattern=pattern, optimizer_name="AdamW", optimizer_kwargs=rest)


def scaling() -> Trainer.Config:
    model = {name}Model.Config(
        dim={width},
        vocab_size={vocab},
        enable_weight_tying={tied},
        norm=norm({width}, gain={gain}),
        tok_embeddings=Embedding.Config(
            num_embeddings={vocab}, embedding_dim={width}, param_init=normal({std_embed})
        ),
        lm_head=linear({width}, {vocab}, {std_head}),
        layers=[layer() for _ in range({layers})],
    )
    return Trainer.Config(
        model_spec=replace(model_registry("debugmodel"), flavor="scaling-{seal}", model=model),
        hf_assets_path="{fill_in}",  # the folder of the tokenizer
        dump_folder="scaling-{seal}",
        dataloader=HuggingFaceTextDataLoader.Config(dataset="{fill_in}"),
        loss=ChunkedLossWrapper.Config(loss_fn=CrossEntropyLoss.Config(global_vocab_size={vocab})),
        optimizer=OptimizersContainer.Config(
            param_groups=[
{groups}
            ]
        ),
        lr_scheduler=LRSchedulersContainer.Config(
            warmup_steps={warmup},
            decay_ratio={decay_ratio},
            decay_type="{decay_type}",
            min_lr_factor={min_lr},
        ),
        training=TrainingConfig(
            {local_batch}global_batch_size={batch},
            seq_len={seq},
            steps={steps},
            max_norm={clip},
            dtype="float32",
            mixed_precision_param="{dtype}",{graphs}
        ),
        parallelism=ParallelismConfig({parallelism}),
        activation_checkpoint={remat},
        checkpoint=CheckpointManager.Config(enable=True{interval}),
        metrics=MetricsProcessor.Config(enable_tensorboard=True),
        debug=DebugConfig(seed={seed}),
    )
"""


def torchtitan(plan: Mapping[str, Any]) -> str:
    """The module of a plan; its function `scaling` is what torchtitan's --config names."""
    shape, config = shape_of(plan), plain_config(plan)
    check_plain(plan, shape, "torchtitan")
    layout, batch = plan.get("layout"), config["batch"]
    lost = [
        "the data and the tokenizer: fill them in; the vocabulary must be the plan's",
        HELD_OUT,
        "attention: torchtitan hides packed documents from one another, where a row here sees itself whole",
        "the seed's sequence of data, and of initial values: their deviations are the plan's",
    ]
    if config["z_loss"]:
        lost.append(f"z-loss ({config['z_loss']:g}): torchtitan has none")
    if not layout:
        lost.append(no_layout("local_batch_size x data-parallel ranks x accumulation", batch))
    kept = (
        "shape, initial deviations, sequence length, batch, steps, optimizer, rates by part, schedule, seed"
    )
    run = "torchrun --nproc_per_node=8"
    if layout:
        kept += ", layout, checkpoints"
        nodes = nodes_of(plan)
        run = f"torchrun --nnodes={nodes.number} --nproc_per_node={nodes.chips_each}"
        run += f" --rdzv-backend=c10d --rdzv-endpoint={FILL_IN}" if nodes.number > 1 else ""
    comment = [
        *head_lines(plan, shape, kept, lost),
        "Run, for a file called run_plan.py in this folder:",
        f"  PYTHONPATH=. {run} -m torchtitan.train --module run_plan --config scaling",
    ]
    wsd = config["schedule"] == "wsd"
    pipeline = layout is not None and layout["pipeline"] > 1
    return TEXT.format(
        comment="\n".join(f"# {line}" for line in comment),
        family="qwen3" if shape.qk_norm else "llama3",
        name="Qwen3" if shape.qk_norm else "Llama3",
        eps=NORM_EPS,
        theta=ROPE_THETA,
        qk_norm=f"norm({shape.head_dim})" if shape.qk_norm else "None",
        fill_in=FILL_IN,
        seal=plan["seal"][:8],
        groups="\n".join(f"                {line}," for line in _groups(shape, config)),
        warmup=config["warmup_steps"],
        decay_ratio=config["decay_steps"] / config["steps"] if wsd else None,
        decay_type="linear" if wsd else "cosine",
        min_lr=config["final_lr_share"],
        clip=config["clip_norm"],
        local_batch=f"local_batch_size={_local_batch(layout, batch)},\n            " if layout else "",
        graphs="\n            disable_cuda_graphs=True,  # not yet with pipelines" if pipeline else "",
        parallelism=_parallelism(layout) if layout else "",
        interval=f", interval={checkpoint_steps(plan)}" if layout else "",
        remat=REMAT[layout["remat"]] if layout else "None",
        **{
            name: getattr(shape, name) for name in ("width", "heads", "kv_heads", "head_dim", "ffn", "layers")
        },
        **{name: getattr(shape, name) for name in ("vocab", "tied")},
        **{name: config[name] for name in ("seq", "b1", "b2", "batch", "steps", "dtype", "seed")},
        **_deviations(shape, config),
    )


def _deviations(shape: Shape, config: Mapping[str, Any]) -> dict[str, str]:
    """Initial deviations by the shape's own table, times the recipe's factors, and the last norm's gain."""
    factors = config.get("init_multipliers") or {}
    found = {"gain": factors.get("final_norm", factors.get("norm", 1.0))}
    for row in shape.table:
        if row.std is not None:
            module = row.path[0] if row.group in ("embedding", "head") else row.path[-1]
            found[f"std_{module}"] = row.std * row.factor(factors)
    if shape.tied:  # torchtitan starts the shared table as the head
        found["std_head"] = found["std_embed"]
    return {name: f"{value:.6g}" for name, value in found.items()}


def _groups(shape: Shape, config: Mapping[str, Any]) -> list[str]:
    """A parameter group for each part of the model: its own rate, decay (none of gains) and epsilon."""
    lines = []
    for part, pattern in PATTERNS.items():
        if part == "head" and shape.tied:
            continue

        def factor(kind: str, part: str = part) -> float:
            named = config.get(f"{kind}_multipliers") or {}
            return named.get(part, named.get(GROUPS.get(part, part), 1.0))

        gain = GROUPS.get(part, part) == "norm"
        decay = 0.0 if gain else config["weight_decay"] * factor("decay")
        lines.append(
            f'group(r"{pattern}", lr={config["lr"] * factor("lr"):.6g}, weight_decay={decay:.6g}, '
            f"eps={config['eps'] * factor('eps'):.6g})"
        )
    return lines


def _local_batch(layout: Mapping[str, Any], batch: int) -> int:
    """Sequences of a data-parallel rank at a time: with a pipeline, all of its micro-batches together."""
    share = batch // (layout["data"] * layout["fsdp"])
    return share if layout["pipeline"] > 1 else share // (layout["grad_accum"] or 1)


def _parallelism(layout: Mapping[str, Any]) -> str:
    degrees = {
        "data_parallel_replicate_degree": layout["data"],
        "data_parallel_shard_degree": layout["fsdp"],
        "tensor_parallel_degree": layout["tensor"],
        "context_parallel_degree": layout["context"],
        "pipeline_parallel_degree": layout["pipeline"],
    }
    if layout["pipeline"] > 1:
        degrees["pipeline_parallel_microbatch_size"] = layout["micro_batch_seqs"]
    lines = [f"            {name}={value}," for name, value in degrees.items()]
    return "\n" + "\n".join(lines) + "\n        "
