"""A sweep on disk: one folder, readable by people, from which everything can be rebuilt.

DIR/sweep.json                  design, recipe, data (format "scaling/sweep")
DIR/cells/<id>/config.json      every number of one run, resolved
               status.json      what the engine did with it (for people; never decides)
               result.json      the run's own record: its presence alone means finished
               metrics.jsonl, checkpoint/, log.txt
DIR/trunks/                     what cells share while they run (see `sweeps.trunks`)
DIR/runs.csv                    the run table
DIR/index.json, checked.json    what the files say, remembered (see `sweeps.index`)

Workers write in their cell's folder alone, each file in one piece, and one of them at a time; what all
share (sweep.json, runs.csv) is read and written again under the sweep's own lock (see `sweeps.locks`). So
any number of processes may read and write a sweep at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.errors import ScalingError
from scaling.files import Kinds, check_fields, from_mapping, read_json, sha256_json, write_atomic, write_json
from scaling.guards import ordered, rates_at_edge
from scaling.recipe import Recipe
from scaling.results import read_result
from scaling.tuning import Certificate, read_certificate
from sweeps import index
from sweeps.design import Cell, Design, merge
from sweeps.guards import flags
from sweeps.locks import alone, is_held
from sweeps.same_run import refuse_others
from sweeps.trunks import columns_of, trunk_path, write_trunks

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "scaling/sweep"
VERSION = 1
FINISHED = ("done", "diverged")
ENTRY = 7  # a signature and the fields of CellState but its id, as the index remembers them

COLUMNS = (
    "run", "cell", "budget", "params", "params_embedding", "params_head", "params_non_embedding",
    "layers", "width", "heads", "ffn", "vocab", "tokens", "steps", "batch", "seq", "lr",
    "loss", "loss_se", "bits_per_byte", "train_loss",
    "flops", "flops_6nd", "flops_model_causal", "flops_model_full", "flops_hardware",
    "unique_tokens", "seed", "status", "flags", "time_s", "tokens_per_s", "recipe_sha256", "data_sha256",
)  # fmt: skip
TRUNK_COLUMNS = ("trunk", "flops_spent", "time_spent_s")  # see sweeps.trunks; only in tables that have trunks
# Of an objective that is not causal (scaling.objective); `flops_masked` counts attention under its mask.
OBJECTIVE_COLUMNS = ("objective", "text_tokens", "target_tokens", "flops_masked")

SWEEP_FIELDS: dict[str, Kinds] = {
    **dict.fromkeys(("design", "recipe", "data", "design.family", "design.rule"), dict),
    **dict.fromkeys(("design.budgets", "design.widths", "design.cells", "design.notes"), list),
    **dict.fromkeys(("data.train_tokens", "data.vocab", "design.seq", "design.batch", "design.sizes"), int),
    **dict.fromkeys(("data.folder", "data.sha256", "data.source"), str),
}


@dataclass(frozen=True)
class DataRef:
    """The token folder that a sweep trains on; `folder` is relative to the sweep's folder when inside it."""

    folder: str
    sha256: str
    source: str
    vocab: int
    train_tokens: int


@dataclass(frozen=True)
class CellState:
    """Where a cell stands: waiting, running, done, diverged or failed."""

    id: str
    state: str
    loss: float | None = None
    time_s: float | None = None
    attempts: int = 0
    error: str | None = None
    flags: str = ""  # the guards that a finished run trips (sweeps.guards), as in the run table


@dataclass(frozen=True)
class Sweep:
    folder: Path
    design: Design
    recipe: Recipe
    data: DataRef

    @property
    def data_folder(self) -> Path:
        return (self.folder / self.data.folder).resolve()

    def cell_folder(self, cell: Cell | str) -> Path:
        return self.folder / "cells" / (cell if isinstance(cell, str) else cell.id)

    def recipe_of(self, cell: Cell) -> Recipe:
        """The recipe of a cell: the sweep's, but for the fields that the cell has otherwise."""
        return dataclasses.replace(self.recipe, **cell.recipe) if cell.recipe else self.recipe

    def guards(self, cell: Cell, result: Mapping[str, Any], tuned: Certificate | None = None) -> str:
        """The guards that a finished run of the cell trips, `;` between them."""
        return ";".join(flags(result, self.recipe_of(cell), cell.tokens, tuned))

    def config(self, cell: Cell) -> dict[str, Any]:
        """The trainer's config of a cell: every rule of the recipe resolved to a number."""
        config = self.recipe_of(cell).run_config(
            cell.shape, cell.tokens, cell.seed, str(self.data_folder), self.data.sha256, cell.id
        )
        if self.recipe.shares_trunks:
            config["trunk"] = trunk_path(cell)
        if config["steps"] != cell.steps:
            raise ScalingError(
                f"{self.folder}: cell {cell.id} was designed for {cell.steps} steps, the recipe makes "
                f"{config['steps']}; its batch or sequence length is not the design's."
            )
        return config


def create(folder: str | Path, design: Design, recipe: Recipe, data: DataRef) -> Sweep:
    """Write sweep.json and the cells' configs; a folder that holds the same sweep gains the new cells.

    Cells that are there already stay. Raises ScalingError, and changes nothing, when the folder holds
    a sweep of another recipe, family or data set, or a result of another config (sweeps.same_run): such
    runs must not be mixed in one table. What another process adds meanwhile is kept.
    """
    refuse_mixture(Path(folder), design, recipe, data)  # first, so that a refusal leaves not even a lock
    with alone(folder):
        return _create(Path(folder), design, recipe, data)


def _create(folder: Path, design: Design, recipe: Recipe, data: DataRef) -> Sweep:
    refuse_mixture(folder, design, recipe, data)
    if (folder / "sweep.json").exists():
        design = merge(open_sweep(folder).design, design)
    sweep = Sweep(folder, design, recipe, data)
    configs = {cell.id: sweep.config(cell) for cell in design.cells}
    finished = refuse_others(((sweep.cell_folder(name), config) for name, config in configs.items()), folder)
    configs = {name: config for name, config in configs.items() if name not in finished}
    stale = [cell_id for cell_id, config in configs.items() if not _same_config(sweep, cell_id, config)]
    if stale:
        raise ScalingError(
            f"{sweep.cell_folder(stale[0]) / 'config.json'}: differs from what the sweep's recipe makes of "
            "this cell; restore it or use another folder."
        )
    for cell_id, config in configs.items():
        path = sweep.cell_folder(cell_id) / "config.json"
        if not path.exists():
            write_json(path, config)
        elif (written := read_json(path))["data"] != config["data"]:  # the folder has moved
            write_json(path, {**written, "data": config["data"]})
    write_json(
        folder / "sweep.json",
        {
            "format": FORMAT,
            "version": VERSION,
            "design": design.to_dict(),
            "recipe": recipe.to_dict(),
            "recipe_sha256": recipe.sha256,
            "data": asdict(data),
        },
    )
    if recipe.shares_trunks:
        write_trunks(sweep, (state.id for state in cell_states(sweep) if state.state in FINISHED))
    return sweep


def open_sweep(folder: str | Path) -> Sweep:
    folder = Path(folder)
    if not folder.is_dir():
        raise ScalingError(f"{folder}: no such folder; `scaling sweep {folder}` makes one.")
    path = folder / "sweep.json"
    if not path.exists():
        raise ScalingError(f"{folder}: holds no sweep (sweep.json is missing).")
    content = read_json(path, expect=FORMAT)
    if content.get("version") != VERSION:
        raise ScalingError(f"{path}: version {content.get('version')!r} is not known here, only {VERSION}.")
    check_fields(content, SWEEP_FIELDS, str(path))
    try:
        design = Design.from_dict(content["design"], f"{path}, design")
        recipe = Recipe.from_dict(content["recipe"], f"{path}, recipe", content.get("recipe_sha256"))
        for own in (cell.recipe for cell in design.cells if cell.recipe):
            dataclasses.replace(recipe, **own)
    except (TypeError, ValueError, AttributeError) as error:  # a cell that is no object, a word for a list
        raise ScalingError(f"{path}: field 'design' is malformed ({error}); restore the file.") from None
    return Sweep(folder, design, recipe, from_mapping(DataRef, content["data"], f"{path}, data"))


def result_of(folder: str | Path) -> dict[str, Any] | None:
    """The finished run's record in a run folder, None while there is none."""
    path = Path(folder) / "result.json"
    return read_result(path) if path.exists() else None


def cell_state(folder: str | Path, name: str) -> CellState:
    folder = Path(folder)
    status = _status(folder)
    attempts = count if isinstance(count := status.get("attempts"), int) else 0
    try:
        result = result_of(folder)
    except ScalingError as error:  # one damaged record hides no other run
        return CellState(name, "failed", attempts=attempts, error=str(error))
    if result is not None:
        return CellState(name, result["status"], result.get("loss"), result.get("time_s"), attempts)
    if is_held(folder):
        return CellState(name, "running", attempts=attempts)
    if status.get("state") == "failed":
        return CellState(name, "failed", attempts=attempts, error=status.get("error"))
    return CellState(name, "waiting", attempts=attempts)


def _with_guards(state: CellState, sweep: Sweep, cell: Cell) -> CellState:
    result = result_of(sweep.cell_folder(cell)) if state.state in FINISHED else None
    return state if result is None else dataclasses.replace(state, flags=sweep.guards(cell, result))


def cell_states(sweep: Sweep) -> list[CellState]:
    """Where every cell stands, in the order of the design; finished ones from the index while it is true."""
    entries = index.load(sweep.folder)
    cells, states, found = str(sweep.folder / "cells"), [], {}
    for cell in sweep.design.cells:
        signed = index.signature(f"{cells}/{cell.id}")
        entry = entries.get(cell.id)
        if signed is None or not isinstance(entry, list) or entry[:1] != [signed] or len(entry) != ENTRY:
            state = _with_guards(cell_state(f"{cells}/{cell.id}", cell.id), sweep, cell)
            entry = [signed, state.state, state.loss, state.time_s, state.attempts, state.error, state.flags]
        else:
            state = CellState(cell.id, *entry[1:])
        if signed is not None and state.state in FINISHED:
            found[cell.id] = entry
        states.append(state)
    if found != entries:
        index.save(sweep.folder, found)
    return states


def to_frame(folder: str | Path | Sweep) -> pd.DataFrame:
    """The run table: one row per finished cell, in the order of the design.

    Columns: `COLUMNS`, `TRUNK_COLUMNS` where cells have trunks, `OBJECTIVE_COLUMNS` where another objective
    than causal was trained.
    """
    import pandas as pd

    sweep = folder if isinstance(folder, Sweep) else open_sweep(folder)
    rows, tuned = [], read_certificate(sweep.folder, sweep.recipe.sha256)
    for cell in sweep.design.cells:
        result = result_of(sweep.cell_folder(cell))
        if result is not None:
            rows.append(row(result, cell.id, cell.budget, sweep.guards(cell, result, tuned)))
    further = [
        name
        for names in (TRUNK_COLUMNS, OBJECTIVE_COLUMNS)
        if any(names[0] in values for values in rows)
        for name in names
    ]
    return _siblings(sweep, pd.DataFrame(rows, columns=[*COLUMNS, *further]))


def _siblings(sweep: Sweep, frame: pd.DataFrame) -> pd.DataFrame:
    """The table with the guard that takes several rows: rates of runs alike in all else."""
    own = {cell.id: cell.recipe for cell in sweep.design.cells if cell.recipe}
    if not own:
        return frame
    rate = ("lr", "lr_horizon_exponent")  # a rate of one's own does not follow the length (sweeps.grid)
    knobs = [sorted((k, v) for k, v in own.get(name, {}).items() if k not in rate) for name in frame["cell"]]
    edges = rates_at_edge(frame.assign(knobs=list(map(str, knobs))))
    told = [filter(None, text.split(";")) for text in frame["flags"]]
    said = [ordered({*names, "lr-edge"} if edge else names) for names, edge in zip(told, edges, strict=True)]
    return frame.assign(flags=[";".join(names) for names in said])


def row(result: Mapping[str, Any], name: str, budget: float, tripped: str) -> dict[str, Any]:
    """One row of the run table from a run's record and the guards that it trips."""
    shape, flops = result["shape"], result["flops"]
    values = {
        **{column: result.get(column) for column in COLUMNS},
        **{field: shape[field] for field in ("layers", "width", "heads", "ffn", "vocab")},
        **{f"flops_{convention}": flops[convention] for convention in flops},
        "run": name,
        "cell": name,
        "budget": budget,
        "flops": flops["model_causal"],
        "flags": tripped,
    }
    trained = result.get("objective")
    said = {name: trained["name" if name == "objective" else name] for name in OBJECTIVE_COLUMNS if trained}
    return {**{column: values[column] for column in COLUMNS}, **columns_of(result), **said}


def write_runs(sweep: Sweep) -> Path:
    """DIR/runs.csv, written in one piece, with the cells that other processes have added to the folder."""
    with alone(sweep.folder):
        return write_atomic(sweep.folder / "runs.csv", to_frame(sweep.folder).to_csv(index=False))


def export(sweep: Sweep, path: str | Path) -> Path:
    """The run table as CSV, JSONL or Parquet, by the ending of `path`; written in one piece."""
    from scaling.gather import write_table

    return write_table(to_frame(sweep), path)


def _status(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / "status.json")
    except ScalingError:
        return {}  # it informs people only; a missing or torn one changes nothing


def _same_config(sweep: Sweep, cell_id: str, config: Mapping[str, Any]) -> bool:
    path = sweep.cell_folder(cell_id) / "config.json"
    if not path.exists():
        return True
    return _deciding(read_json(path)) == _deciding(config)


def _deciding(config: Mapping[str, Any]) -> str:
    """Hash of what decides the run's result: neither where the data lies nor how often it is saved."""
    return sha256_json({k: v for k, v in config.items() if k not in ("data", "checkpoint_seconds")})


def refuse_mixture(folder: Path, design: Design, recipe: Recipe, data: DataRef) -> None:
    """Raise ScalingError when `folder` holds a sweep of another recipe, family or data set."""
    if not (folder / "sweep.json").exists():
        return
    there, what = open_sweep(folder), None
    if there.data.sha256 != data.sha256:
        what = f"data {there.data.sha256[:12]}, not {data.sha256[:12]}"
    elif there.recipe != recipe:
        old, new = vars(there.recipe), vars(recipe)
        field = next(name for name in new if old[name] != new[name])
        what = f"a recipe with {field} {old[field]!r}, not {new[field]!r}"
    elif there.design.family != design.family:
        what = "another family of shapes"
    if what:
        raise ScalingError(f"{there.folder}: already holds a sweep of {what}; choose another folder.")
