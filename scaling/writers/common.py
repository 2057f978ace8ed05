"""What every file for another trainer begins with, and refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling.errors import Refusal
from scaling.launchfiles import run_config
from scaling.quantities import format_count, format_flops
from scaling.shape import Shape

NORM_EPS = 1e-6  # of the trainer's norms (trainer/norms.py)
ROPE_THETA = 10_000.0
WARMUP = "the rate of each warm-up step: it begins at zero there, one step's worth higher here"
HELD_OUT = "the held-out text: give it too, for the prediction holds on the plan's own alone"
MULTIPLIERS = {"lr": "rates", "init": "initial deviations", "decay": "weight decay", "eps": "Adam's epsilon"}


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


def plain_config(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The run in this trainer's words, whether or not its layout is one of its own."""
    plain = {"data": 1, "fsdp": 1, "tensor": 1, "pipeline": 1, "context": 1, "remat": "none", "grad_accum": 1}
    operations = plan.get("operations") or {"checkpoint_interval_s": 600.0}
    return run_config({**plan, "layout": plain, "operations": operations})


def share_of(count: int, whole: int) -> float:
    """A share of `whole` that is `count` again once multiplied and rounded down, as the trainers do."""
    return (count + 0.5) / whole if count else 0.0


def by_part(config: Mapping[str, Any], *kinds: str) -> list[str]:
    """What the recipe scales by part of the model, a line for each of `kinds` ("lr", "init", ...)."""
    lines = []
    for kind in kinds:
        factors = config.get(f"{kind}_multipliers") or {}
        told = ", ".join(f"{part} x{factor:.4g}" for part, factor in factors.items() if factor != 1.0)
        if told:
            lines.append(f"{MULTIPLIERS[kind]} by part ({told}): one value for all is written")
    return lines


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


def checkpoint_steps(plan: Mapping[str, Any]) -> int:
    """Steps between two checkpoints, from the plan's seconds; the plan has hardware."""
    return max(1, round(plan["operations"]["checkpoint_interval_s"] / plan["time"]["step_time_s"]))


def no_layout(what: str, batch: int) -> str:
    """For a plan without an accelerator: what has to be set by hand."""
    return f"the layout: the plan has no accelerator; {what} must be {batch} sequences"


def yaml_lines(values: Mapping[str, Any], indent: str = "") -> list[str]:
    """A mapping as YAML, nested ones indented."""
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{key}:", *yaml_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {_yaml(value)}")
    return lines


def _yaml(value: Any) -> str:
    """A scalar or a flat list; floats always with a point, since YAML 1.1 reads 1e-08 as text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        mantissa, e, exponent = text.partition("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}{e}{exponent}"
    if isinstance(value, list):
        return "[" + ", ".join(_yaml(v) for v in value) + "]"
    return str(value) if isinstance(value, int) else f'"{value}"'
