"""What every plan holds, whatever its law: format, the run itself, its state, the inputs that were stated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling.hardware.memory import TRAINER
from scaling.hardware.operations import checkpoint_bytes
from scaling.shape import CONVENTIONS, Shape

FORMAT = "scaling/plan"
VERSION = 1
LEVEL = 0.9
DEFAULT_WASTE = 0.02


def run_keys(shape: Shape, tokens: float, seq: int) -> dict[str, Any]:
    """The run itself: shape, tokens, and its exact FLOPs under every convention."""
    return {
        "shape": shape.to_dict()
        | {"params": shape.params("total"), "params_non_embedding": shape.params("non-embedding")},
        "tokens": tokens,
        "seq": seq,
        "flops": {name: tokens * shape.flops_per_token(seq, name) for name in CONVENTIONS},
        "state": state_keys(shape),
    }


def shape_of(plan: Mapping[str, Any]) -> Shape:
    """The shape that `run_keys` wrote into a plan."""
    return Shape(**{key: value for key, value in plan["shape"].items() if not key.startswith("params")})


def state_keys(shape: Shape) -> dict[str, Any]:
    """Bytes of the training state (weights, gradients, optimizer) and of one checkpoint."""
    params = shape.params("total")
    return {
        "bytes_per_param": TRAINER.state,
        "training_state_bytes": TRAINER.state * params,
        "checkpoint_bytes": checkpoint_bytes(float(params)),
        "optimizer": "adamw",
    }
