"""One training run of a sweep: a shape, its tokens, its seed, and what it alone does otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from scaling.files import added, as_fields, from_mapping
from scaling.shape import Shape

FLOPS_CONVENTION: Final = "model_causal"


@dataclass(frozen=True)
class Cell:
    """One training run of a sweep: `budget` in FLOPs (model_causal), `tokens` = steps x batch x seq.

    `recipe` holds the fields of the sweep's recipe that this run alone has otherwise, such as
    {"lr": 0.004}; None: it follows them all.
    """

    id: str
    budget: float
    shape: Shape
    tokens: int
    steps: int
    seed: int
    recipe: Mapping[str, Any] | None = added(None)

    def __post_init__(self) -> None:
        counts = (self.tokens, self.steps, self.seed)
        if not (isinstance(self.id, str) and self.id and "/" not in self.id and self.id[0] != "."):
            raise ValueError(f"a cell's 'id' {self.id!r} is no name of a folder.")
        if not (isinstance(self.budget, (int, float)) and all(type(count) is int for count in counts)):
            raise ValueError(f"cell {self.id}: 'budget', 'tokens', 'steps' and 'seed' must be numbers.")

    def to_dict(self) -> dict[str, Any]:
        return as_fields(self)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], where: str = "cell") -> Cell:
        values = dict(mapping)
        values["shape"] = _shape(tuple(values.get("shape", {}).items()), f"{where}, shape")
        return from_mapping(cls, values, where)

    def flops(self, seq: int) -> float:
        """FLOPs this cell really spends; within half a step of its budget."""
        return self.tokens * self.shape.flops_per_token(seq, FLOPS_CONVENTION)


@lru_cache(maxsize=256)
def _shape_of(fields: tuple[tuple[str, Any], ...]) -> Shape:
    return Shape(**dict(fields))


def _shape(fields: tuple[tuple[str, Any], ...], where: str) -> Shape:
    """The shape of these fields; the cells of a large sweep share a few of them."""
    try:
        return _shape_of(fields)
    except (TypeError, ValueError):  # from_mapping knows how to say what is wrong
        return from_mapping(Shape, dict(fields), where)


def make_cell(shape: Shape, budget: float, seq: int, batch: int, seed: int) -> Cell:
    """The run of `shape` whose cost is nearest to `budget` in whole steps."""
    steps = steps_for(shape, budget, seq, batch)
    name = f"c{budget:.3g}".replace("e+", "e")
    return Cell(f"{name}-d{shape.width}-s{seed}", float(budget), shape, steps * seq * batch, steps, seed)


def steps_for(shape: Shape, budget: float, seq: int, batch: int) -> int:
    return max(1, round(budget / (shape.flops_per_token(seq, FLOPS_CONVENTION) * seq * batch)))
