"""The run to buy next: the one that most reduces the waste expected at the target.

Where the plan errs in ln N_opt, its waste grows with the square of the error, so a run that brings the
variance of ln N_opt from v to v' brings the expected waste from w to w v'/v. Variances come from the
information of the runs so far and of the candidate (scaling.laws.information), averaged over the draws
of the fit; w from the fit's own draws (scaling.laws.decision.expected_waste). Runs that the sweep has
asked for already and that have not ended yet are counted as if they had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

import numpy as np

from scaling.errors import ScalingError, UsageError
from scaling.laws.decision import expected_waste
from scaling.laws.estimate import Prior, Rows
from scaling.laws.fit import Fit, rows_of
from scaling.laws.fit import fit as fit_law
from scaling.laws.information import prior_information, sensitivity
from scaling.laws.surface import Floats
from scaling.runs import Runs
from sweeps import store
from sweeps.design import Cell, Design, make_cell, merge, run_of
from sweeps.optimal import PRICE, Points, Problem, candidate_cells, outer, points_of, problem_of, scores
from sweeps.store import Sweep

DRAWS = 48  # of the fit, as the laws that may be true
PENDING = ("waiting", "running")


@dataclass(frozen=True)
class Ask:
    """What is asked of the next runs: `batch` of them at a time, none above `dearest` FLOPs, at most `flops`
    in all (None: no limit), until the plan for `target` FLOPs is expected to waste no more than `enough`.
    """

    target: float
    batch: int = 1
    flops: float | None = None
    dearest: float | None = None
    enough: float = 0.0


@dataclass(frozen=True)
class Proposal:
    """Candidates in the order of choice, and the expected waste and sd of ln N_opt before and after each."""

    chosen: tuple[int, ...]
    waste: tuple[float, ...]
    sd: tuple[float, ...]
    enough: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def propose(
    fit: Fit,
    rows: Rows,
    candidates: Points,
    target: float,
    batch: int = 1,
    enough: float = 0.0,
    flops: float | None = None,
    pending: Points | None = None,
) -> Proposal:
    """Up to `batch` candidates, one after another, until the expected waste is at most `enough`.

    `rows` are the runs behind the fit, `target` the 6 N D of the plan. With `flops` no more than that is
    spent, and dear candidates must teach more (as in sweeps.optimal.choose). Waste and sd have one entry
    more than `chosen`: the first is that of the runs so far, and of `pending` ones as if they had ended.
    """
    bare = problem_so_far(fit, rows, candidates, target)
    problem = bare if pending is None else problem_so_far(fit, rows, candidates, target, pending)
    n, d = (float(v) for v in fit.law.optimum(target))
    sd_so_far, sd_now = _sd(bare, bare.known), _sd(problem, problem.known)
    waste_now = expected_waste(fit, n, d) * (sd_now / sd_so_far) ** 2
    chosen, waste, sd = list[int](), [waste_now], [sd_now]
    information = problem.known.copy()
    left = np.inf if flops is None else flops
    price = 1.0 if flops is None else (candidates.flops / candidates.flops.min()) ** PRICE
    while len(chosen) < batch and waste[-1] > enough and (candidates.flops <= left).any():
        score, now = scores(problem, information)
        best = int(np.argmax(np.where(candidates.flops <= left, (now - score) / price, -np.inf)))
        left -= candidates.flops[best]
        information += outer(problem, best)
        chosen.append(best)
        sd.append(_sd(problem, information))
        waste.append(waste_now * (sd[-1] / sd_now) ** 2)
    return Proposal(tuple(chosen), tuple(waste), tuple(sd), waste[-1] <= enough)


def problem_so_far(
    fit: Fit, rows: Rows, candidates: Points, target: float, pending: Points | None = None
) -> Problem:
    """The information problem of `candidates` on top of the runs behind the fit, under the fit's draws.

    `pending` runs count as known too: what a run teaches does not depend on how it ends.
    """
    laws = fit.draws[:: max(1, len(fit.draws) // DRAWS)]
    laws = laws[laws[:, 0] > 0] if (laws[:, 0] > 0).any() else fit.law.vector[None]
    centre = rows.centre
    prior = Prior() if fit.settings.get("prior") else None
    known = np.repeat(prior_information(prior, float(rows.loss.min()))[None], len(laws), axis=0)
    for runs in (rows, pending) if pending is not None else (rows,):
        jacobian = sensitivity(laws, runs.params, runs.tokens, centre)
        jacobian *= (np.sqrt(runs.weights) / fit.noise)[:, None]
        known += np.einsum("kni,knj->kij", jacobian, jacobian)
    return problem_of(laws, candidates, target, "size", fit.noise, known, centre)


def _sd(problem: Problem, information: Floats) -> float:
    (answer,) = problem.answers
    variances = np.einsum("ki,kij,kj->k", answer, np.linalg.inv(information), answer)
    return float(np.exp(0.5 * np.log(variances).mean()))


def next_cells(
    sweep: Sweep,
    fit: Fit,
    rows: Rows,
    target: float,
    *,
    batch: int = 1,
    dearest: float | None = None,
    enough: float = 0.0,
    flops: float | None = None,
) -> tuple[list[Cell], Proposal]:
    """The cells that `propose` would add to a sweep, none dearer than `dearest` FLOPs (its dearest so far).

    A point that the sweep has already is bought with the next free seed. Raises ScalingError when there
    is nothing that could be trained.
    """
    design = sweep.design
    top = max(design.budgets) if dearest is None else dearest
    if not target > top:
        raise UsageError(f"--target {target:g}: the target must lie above the dearest run ({top:g} FLOPs).")
    cells = candidate_cells(
        design.family, top, seq=design.seq, batch=design.batch, rule=design.rule,
        unique_tokens=design.unique_tokens,
    )  # fmt: skip
    if not cells:
        raise ScalingError(f"no run of up to {top:g} FLOPs can be trained without repeating data.")
    waits = pending_cells(sweep)
    pending = points_of(waits, design.seq) if waits else None
    proposal = propose(fit, rows, points_of(cells, design.seq), target, batch, enough, flops, pending)
    names, runs = {cell.id for cell in design.cells}, {run_of(cell) for cell in design.cells}
    added = []
    for i in proposal.chosen:
        point = cells[i]
        seeds = (make_cell(point.shape, point.budget, design.seq, design.batch, n) for n in count())
        cell = next(c for c in seeds if c.id not in names and run_of(c) not in runs)
        names.add(cell.id)
        runs.add(run_of(cell))
        added.append(cell)
    return added, proposal


def pending_cells(sweep: Sweep) -> list[Cell]:
    """Cells that the sweep has asked for and that have neither ended nor failed."""
    states = {state.id: state.state for state in store.cell_states(sweep)}
    return [cell for cell in sweep.design.cells if states[cell.id] in PENDING]


def look(sweep: Sweep, ask: Ask) -> tuple[list[Cell], dict[str, Any]]:
    """The cells to buy next, and what is to be said of them and of the plan so far."""
    if not any(state.state == "done" for state in store.cell_states(sweep)):
        raise ScalingError(
            f"{sweep.folder}: none of its runs is finished; `scaling sweep {sweep.folder}` trains them first."
        )
    # A run that diverged has no loss to fit; it must not keep the others from being asked.
    runs = Runs.from_frame(store.to_frame(sweep), source=str(sweep.folder / "runs.csv"), skip_bad=True)
    cells, proposal = next_cells(
        sweep, fit_law(runs), rows_of(runs)[0], ask.target,
        batch=ask.batch, dearest=ask.dearest, enough=ask.enough, flops=ask.flops,
    )  # fmt: skip
    proposed = [
        {
            "id": cell.id,
            "params": cell.shape.params(),
            "tokens": cell.tokens,
            "steps": cell.steps,
            "flops": cell.flops(sweep.design.seq),
            "expected_waste": proposal.waste[i],
            "sd_log_params": proposal.sd[i],
        }
        for i, cell in enumerate(cells, 1)
    ]
    return cells, {
        "runs": len(runs),
        "left_out": len(runs.bad),
        "pending": len(pending_cells(sweep)),
        "expected_waste": proposal.waste[0],
        "sd_log_params": proposal.sd[0],
        "enough": proposal.enough,
        "proposed": proposed,
    }


def pursue(
    sweep: Sweep,
    ask: Ask,
    rounds: int,
    train: Callable[[Sweep], dict[str, Any]],
    told: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Propose, train, and look again: what `look` found each time, with what `train` said as `ran`.

    Ends when the plan is as sure as asked, nothing fits what is left of `ask.flops`, `rounds` batches are
    trained, or the engine has handed runs out without waiting for them; the last entry has no `ran`
    unless for that. `told` hears of every entry before its runs are trained.
    """
    found = []
    while True:
        cells, seen = look(sweep, ask)
        found.append({**seen, "ran": None})
        told(found[-1])
        if not cells or len(found) > rounds:
            return found
        found[-1]["ran"] = done = train(replace(sweep, design=with_cells(sweep, cells)))
        if ask.flops is not None:
            ask = replace(ask, flops=ask.flops - sum(cell.flops(sweep.design.seq) for cell in cells))
        sweep = store.open_sweep(sweep.folder)
        if done["waiting"]:
            return found


def with_cells(sweep: Sweep, cells: list[Cell]) -> Design:
    """The sweep's design with `cells` added to it."""
    added = replace(
        sweep.design,
        cells=tuple(cells),
        budgets=tuple(sorted({cell.budget for cell in cells})),
        widths=tuple(sorted({cell.shape.width for cell in cells})),
        notes=(f"added by `scaling next`: {', '.join(cell.id for cell in cells)}",),
    )
    return merge(sweep.design, added)
