"""Trunk and branch: the cells of one shape and seed train what they have in common once.

A branch is the warm-up-stable-decay run of its own length, trained alone; the trunk is its part before the
decay, which every longer branch of that shape and seed shares bit for bit (`trainer.trunk`). No engine knows
of it: a cell is a run like any other, whoever comes first leaves states for the rest, and what a cell
has inherited is in its record. A lock (`sweeps.claims`) makes the others wait for a state that is on its way;
without it they would compute it again, to the same bits.

DIR/trunks/<name>/    trunk.json and the checkpoints of one shape and seed, gone when its cells are finished
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from scaling.errors import UsageError
from scaling.files import read_json, write_json
from scaling.recipe import Recipe
from sweeps.claims import FORMAT
from sweeps.design import Cell
from sweeps.timing import training_seconds

if TYPE_CHECKING:
    import pandas as pd

    from sweeps.store import Sweep

VERSION = 1
PLACE = "trunks"
# The length that a shape's rate is set for, where its branches have many: Hoffmann et al. 2022,
# arXiv:2203.15556, table A3, whose optima lie near it.
TOKENS_PER_PARAM = 20.0
FEW = 8  # trunks below which intervals are called unsteady: the runs that a fit asks for
STATE_BYTES = 12  # of a checkpoint per parameter: weights and two moments in float32


@dataclass(frozen=True)
class Saving:
    """What trunks save on a design: FLOPs (model_causal) and seconds of one core, alone and with trunks.

    `checkpoint_bytes` is the most that the trunks' states take on disk at once.
    """

    trunks: int
    branches: int
    flops_alone: float
    flops: float
    seconds_alone: float
    seconds: float
    checkpoint_bytes: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"saved": 1 - self.flops / self.flops_alone}


def trunk_recipe(recipe: Recipe, shortest: int) -> Recipe:
    """The recipe whose runs share trunks: warm-up-stable-decay, and the length decides the decay alone.

    Peak and decay follow TOKENS_PER_PARAM tokens per parameter instead of the run's own, and the warm-up is
    that of the design's shortest run (`shortest` steps) for all. A recipe that shares trunks already stays.
    """
    if recipe.shares_trunks:
        return recipe
    if not 0 < recipe.decay_share < 1:
        raise UsageError(
            f"recipe field 'decay_share' is {recipe.decay_share:g}: a trunk needs a decay and a rest."
        )
    ratio = recipe.horizon_tokens_per_param
    if ratio is None and (recipe.lr_horizon_exponent or recipe.decay_timescale):
        ratio = TOKENS_PER_PARAM
    warmup = recipe.warmup(shortest)
    return replace(recipe, schedule="wsd", warmup_steps=warmup, horizon_tokens_per_param=ratio)


def trunk_name(cell: Cell) -> str:
    return f"d{cell.shape.width}-s{cell.seed}"


def trunk_names(sweep: Sweep) -> list[str] | None:
    """The trunk of each cell of the design, None for a sweep without trunks."""
    return [trunk_name(cell) for cell in sweep.design.cells] if sweep.recipe.shares_trunks else None


def few_trunks(sweep: Sweep) -> list[str]:
    """A note where intervals will rest on few independent runs."""
    count = len(set(trunk_names(sweep) or ()))
    if not 0 < count < FEW:
        return []
    return [
        f"{count} trunks: rows of one trunk share noise and are drawn together, so intervals rest on {count} "
        "draws; more sizes or seeds would steady them."
    ]


def trunk_path(cell: Cell) -> str:
    """The trunk's folder as the config of the cell names it, relative to the cell's folder."""
    return f"../../{PLACE}/{trunk_name(cell)}"


def branch_steps(sweep: Sweep) -> dict[str, dict[str, int]]:
    """Per trunk, the step at which each of its cells branches off (0: nowhere)."""
    from trainer.config import config_from_dict  # needs no JAX

    found: dict[str, dict[str, int]] = {}
    if sweep.recipe.shares_trunks:
        for cell in sweep.design.cells:
            step = config_from_dict(sweep.config(cell), cell.id).branch_step
            found.setdefault(trunk_name(cell), {})[cell.id] = step
    return found


def write_trunks(sweep: Sweep, finished: Iterable[str]) -> None:
    """trunk.json of every trunk with cells that are not finished."""
    done = set(finished)
    for name, branches in branch_steps(sweep).items():
        if not set(branches) <= done:
            path = sweep.folder / PLACE / name / "trunk.json"
            content = {"format": FORMAT, "version": VERSION, "branches": branches}
            if not path.exists() or read_json(path) != content:
                write_json(path, content)


def own_shares(sweep: Sweep) -> dict[str, float]:
    """The share of its steps that each cell trains itself when the longest of a trunk trains the trunk."""
    shares = {cell.id: 1.0 for cell in sweep.design.cells}
    steps = {cell.id: cell.steps for cell in sweep.design.cells}
    for branches in branch_steps(sweep).values():
        shares |= {cell: 1 - step / steps[cell] for cell, step in _inherited(branches).items()}
    return shares


def saving(sweep: Sweep) -> Saving | None:
    """What the sweep's trunks save, None where no two cells share one."""
    design, cells = sweep.design, {cell.id: cell for cell in sweep.design.cells}
    trunks, shares = branch_steps(sweep), own_shares(sweep)
    if all(share == 1 for share in shares.values()):
        return None
    flops = seconds = alone = size = 0.0
    for cell in design.cells:
        share = shares[cell.id]
        flops += share * cell.flops(design.seq)
        alone += training_seconds(cell.shape, cell.tokens, design.seq)
        seconds += training_seconds(cell.shape, round(share * cell.tokens), design.seq)
    for branches in trunks.values():
        kept = {step for step in _inherited(branches).values() if step}
        size += len(kept) * STATE_BYTES * cells[next(iter(branches))].shape.params()
    return Saving(len(trunks), len(cells), design.flops, flops, alone, seconds, size)


def _inherited(branches: Mapping[str, int]) -> dict[str, int]:
    """Steps that each cell takes over when the longest of them trains the trunk."""
    longest = max(branches, key=lambda cell: branches[cell])
    return {cell: 0 if cell == longest else step for cell, step in branches.items()}


def columns_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's record says of its trunk, for the run table; empty for a run without one.

    `flops` and `time_s` are those of the run alone; `flops_spent` and `time_spent_s` leave out what it took
    over from its trunk, so that their sums over the table count every step once.
    """
    trunk = result.get("trunk")
    if not isinstance(trunk, Mapping):
        return {}
    own = 1 - trunk["step"] / result["steps"] if result["steps"] else 1.0
    return {
        "trunk": trunk["name"],
        "flops_spent": result["flops"]["model_causal"] * own,
        "time_spent_s": result["time_s"] - trunk["time_s"],
    }


def spent_on(table: pd.DataFrame) -> Saving | None:
    """What trunks have saved on the finished runs of a run table, None for one without trunks."""
    if "trunk" not in table:
        return None
    flops, spent, alone, seconds = (
        float(table[column].sum()) for column in ("flops", "flops_spent", "time_s", "time_spent_s")
    )
    return Saving(table["trunk"].nunique(), len(table), flops, spent, alone, seconds, 0.0)
