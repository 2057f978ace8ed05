"""How initial values and learning rates follow width and depth, so that one peak rate serves all sizes.

Every rule is a table of exponents: part of the model -> (of width / base width, of layers / base layers).

    mup        rates of matrices and head fall with width (Yang et al. 2022, arXiv:2203.03466, table 8);
               those that write into the residual stream start 1/sqrt(2 layers) smaller, as in GPT-2, and
               nothing else follows depth.
    completep  mup, and every branch of the stream weighs base_layers / layers (Dey et al. 2025,
               arXiv:2505.01618, table 1, alpha = 1). The default.
    standard   one rate for all parts at any size; initial values as in mup.

No factor appears in the model. A factor m before a matrix is the same as the matrix with m times the
initial deviation and m times Adam's rate (exactly so as epsilon vanishes, since Adam's update does not
see the gradient's scale); that is how CompleteP's factor of a branch sits in the matrix that ends it, how
muP's factor of the logits sits in the head, and, where the head is the input table, in the gain of the
last norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scaling.shape import Shape

Parametrisation = Literal["mup", "completep", "standard"]
Exponents = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Rule:
    """Exponents of (width, depth) for initial deviations, learning rates and Adam's epsilon, by part
    (`Param.part`, or `Param.group` for all parts of it). `tied` replaces them where the head is tied.
    `steady_decay`: rate x decay is the same at every size, so that what a weight forgets in a step follows
    the schedule alone; else decay is coupled with the part's own rate.

    None for `epsilon` means that the source states none. Epsilons are those of gradients of the folded
    matrices: a writer's gradient is layers / base_layers times what it was with the factor outside.
    """

    initial: Exponents
    rates: Exponents
    epsilon: Exponents | None = None
    tied: Rule | None = None
    steady_decay: bool = False


MUP_RATES = {"embedding": (0, 0), "norm": (0, 0), "hidden": (-1, 0), "head": (-1, 0)}
RULES: Mapping[str, Rule] = {
    "mup": Rule({}, MUP_RATES),
    "standard": Rule({}, dict.fromkeys(MUP_RATES, (0, 0))),
    "completep": Rule(
        # The table of `scaling.shape` starts writers at 1/sqrt(2 layers): the other root is here.
        {"writer": (0, -0.5)},
        {**MUP_RATES, "writer": (-1, -1)},
        {
            "embedding": (-1, 0),
            "hidden": (-1, -1),
            "writer": (-1, 0),
            "norm": (-1, -1),
            "final_norm": (-1, 0),
        },
        tied=Rule({"final_norm": (-1, 0)}, {"final_norm": (-1, 0)}, {"final_norm": (0, 0)}),
        steady_decay=True,
    ),
}
PARTS = ("embedding", "hidden", "writer", "head", "norm", "final_norm")
MATRICES = ("embedding", "hidden", "writer", "head")


@dataclass(frozen=True)
class Multipliers:
    """Factors by part or group; what is not named is 1."""

    initial: dict[str, float]
    rates: dict[str, float]
    decay: dict[str, float]
    epsilon: dict[str, float]


def multipliers(
    name: Parametrisation,
    shape: Shape,
    base_width: int,
    base_layers: int,
    steady_decay: bool = False,
    part_rates: Mapping[str, float] | None = None,
) -> Multipliers:
    """The factors of a shape. `steady_decay` asks for rate x decay alike at every size under any rule;
    `part_rates` are factors of parts or groups at the base size, a part before its group."""
    rule = RULES[name]
    tied = rule.tied if shape.tied and rule.tied else Rule({}, {}, {})

    def factor(exponents: tuple[float, float]) -> float:
        width, depth = exponents
        # The inverse ratio to the opposite power: one rounding, which the hashes of old runs rest on.
        return (base_width / shape.width) ** -width * (base_layers / shape.layers) ** -depth

    def factors(plain: Exponents, special: Exponents) -> dict[str, float]:
        return {part: factor(exponents) for part, exponents in {**plain, **special}.items()}

    rates = factors(rule.rates, tied.rates)
    if part_rates:
        group = {row.part: row.group for row in shape.table}
        rates = {
            part: rates.get(part, rates[group[part]]) * part_rates.get(part, part_rates.get(group[part], 1.0))
            for part in group
        }
    steady = rule.steady_decay or steady_decay
    return Multipliers(
        factors(rule.initial, tied.initial),
        rates,
        {part: 1 / rate for part, rate in rates.items() if steady and part in MATRICES},
        factors(rule.epsilon or {}, tied.epsilon or {}),
    )
