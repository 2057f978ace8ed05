"""Which runs teach most about the plan: designs by Fisher information, robust over plausible laws.

An IsoFLOP grid spends most of its runs near optima, where the loss hardly depends on size. Runs far from
the optimum, over a wide span of budgets, pin the exponents down with fewer runs. The criterion is the mean
over plausible laws of ln var(answer at the target), the answer being ln N_opt, the loss, or both; it is
improved by adding the best candidate, then by exchanging one run at a time (Fedorov 1972, "Theory of
Optimal Experiments"; for one answer the criterion is c-optimality).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scaling.errors import ScalingError, UsageError
from scaling.guards import FEW_STEPS
from scaling.laws.estimate import Prior
from scaling.laws.information import (
    Centre,
    loss_gradient,
    prior_information,
    sensitivity,
    size_gradient,
)
from scaling.laws.surface import Floats
from scaling.shape import ShapeFamily
from sweeps.design import MIN_STEPS, Cell, Design, OptimumRule, make_cell, steps_for
from sweeps.plausible import LOSS, plausible_laws

Aim = Literal["size", "loss", "both"]
LAWS = 48  # plausible laws that a design is chosen for
NOISE = 0.005  # log loss between seeds, where nothing is known: small CPU runs have .005 to .01
SPAN = 125.0  # from the cheapest run to the dearest
BUDGETS = 9
REACH = 5.0  # sizes up to this factor from the expected optimum: D/N from 20 / 25 to 20 x 25
RATIO = 1.35  # between neighbouring sizes among the candidates
EXCHANGES = 4
REPEATS = 2
TOPS = (3, 6, 12, 24)  # the dearest run takes at most one of these parts of a sweep's compute
LEAST = 8  # runs: the law's six parameters and two to spare, what the fit asks for
PRICE = 0.5  # with a limit on FLOPs, gain is divided by cost to this power while runs are added


@dataclass(frozen=True)
class Points:
    """Candidate runs: N, D, cost in FLOPs, and how much of a run each counts (few steps count less)."""

    params: Floats
    tokens: Floats
    flops: Floats
    weights: Floats

    def take(self, which: np.ndarray) -> Points:
        return Points(*(getattr(self, f.name)[which] for f in dataclasses.fields(self)))

    @property
    def centre(self) -> Centre:
        return float(np.log(self.params).mean()), float(np.log(self.tokens).mean())


@dataclass(frozen=True)
class Problem:
    """What a choice is made for: laws, the answers' gradients, and what is known already."""

    jacobian: Floats  # (laws, points, 6), in units of the noise
    answers: Floats  # (answers, laws, 6)
    known: Floats  # (laws, 6, 6)


def problem_of(
    laws: Floats,
    points: Points,
    target: float,
    aim: Aim = "both",
    noise: float = NOISE,
    known: Floats | None = None,
    centre: Centre | None = None,
) -> Problem:
    """The information problem of `points` about the optimum at 6 N D = target."""
    centre = points.centre if centre is None else centre
    jacobian = sensitivity(laws, points.params, points.tokens, centre)
    jacobian = jacobian * (np.sqrt(points.weights) / noise)[:, None]
    gradients = {"size": (size_gradient,), "loss": (loss_gradient,), "both": (size_gradient, loss_gradient)}
    answers = np.stack([of(laws, target, centre) for of in gradients[aim]])
    if known is None:
        known = np.repeat(prior_information(Prior(), LOSS)[None], len(laws), axis=0)
    return Problem(jacobian, answers, known)


def choose(
    problem: Problem, costs: Floats, runs: int | None = None, flops: float | None = None
) -> np.ndarray:
    """Indices of the chosen points: at most `runs` of them, `flops` in all, and each at most twice.

    A law that is a little wrong is found out by runs at many points, not by repeats at the corners.
    """
    if runs is None and flops is None:
        raise ValueError("a number of runs or a limit on FLOPs is needed.")
    most = runs if runs is not None else 1000
    left = math.inf if flops is None else flops
    price = np.ones_like(costs) if flops is None else (costs / costs.min()) ** PRICE
    information, chosen, times = problem.known.copy(), list[int](), np.zeros(len(costs), int)
    while len(chosen) < most:
        score, now = scores(problem, information)
        gain = np.where((costs <= left) & (times < REPEATS), (now - score) / price, -np.inf)
        best = int(np.argmax(gain))
        if not gain[best] > 1e-4:
            break
        chosen.append(best)
        times[best] += 1
        left -= costs[best]
        information += outer(problem, best)
    for _ in range(EXCHANGES):
        before = list(chosen)
        for i, old in enumerate(before):
            information -= outer(problem, old)
            times[old] -= 1
            score, _ = scores(problem, information)
            score = np.where((costs <= left + costs[old]) & (times < REPEATS), score, np.inf)
            new = int(np.argmin(score))
            new = new if score[new] < score[old] - 1e-9 else old
            chosen[i] = new
            times[new] += 1
            left += costs[old] - costs[new]
            information += outer(problem, new)
        if chosen == before:
            break
    return np.array(sorted(chosen), int)


def spread(problem: Problem, chosen: np.ndarray) -> Floats:
    """Expected standard deviation of each answer after these points: root of the mean log variance."""
    information = problem.known + sum((outer(problem, i) for i in chosen), np.zeros_like(problem.known))
    solved = np.linalg.solve(information, np.moveaxis(problem.answers, 0, -1))
    variances = np.einsum("aki,kia->ak", problem.answers, solved)
    return np.exp(0.5 * np.log(variances).mean(-1))


def outer(problem: Problem, point: int) -> Floats:
    row = problem.jacobian[:, point]
    return row[:, :, None] * row[:, None, :]


def scores(problem: Problem, information: Floats) -> tuple[Floats, float]:
    """Mean ln variance after adding each point (Sherman-Morrison), and before."""
    covariance = np.linalg.inv(information)
    projected = np.einsum("kni,kij->knj", problem.jacobian, covariance)
    room = 1.0 + np.einsum("kni,kni->kn", projected, problem.jacobian)
    score, now = np.zeros(problem.jacobian.shape[1]), 0.0
    for answer in problem.answers:
        before = np.einsum("ki,kij,kj->k", answer, covariance, answer)
        taken = np.einsum("kni,ki->kn", projected, answer) ** 2 / room
        score += np.log(np.maximum(before[:, None] - taken, 1e-14 * before[:, None])).mean(0)
        now += float(np.log(before).mean())
    return score / len(problem.answers), now / len(problem.answers)


def candidate_cells(
    family: ShapeFamily,
    top: float,
    *,
    seq: int,
    batch: int,
    rule: OptimumRule,
    unique_tokens: int | None = None,
    min_steps: int = MIN_STEPS,
    span: float = SPAN,
    reach: float = REACH,
) -> list[Cell]:
    """Every run that may be bought: budgets from top / span to top, sizes within `reach` of the guess.

    Sizes come from one ladder, since a compiled program belongs to a shape.
    """
    budgets = [float(f"{b:.3g}") for b in np.geomspace(top / span, top, BUDGETS)]
    low = rule.params_at(budgets[0]) / reach
    high = rule.params_at(budgets[-1]) * reach
    count = max(2, round(math.log(high / low) / math.log(RATIO)) + 1)
    ladder = {s.width: s for s in (family.nearest(n) for n in np.geomspace(low, high, count))}
    cells = []
    for budget in budgets:
        expected = rule.params_at(budget)
        for shape in ladder.values():
            steps = steps_for(shape, budget, seq, batch)
            inside = 1 / reach <= shape.params() / expected <= reach * (1 + 1e-9)
            fresh = unique_tokens is None or steps * seq * batch <= unique_tokens
            if inside and fresh and steps >= min_steps:
                cells.append(make_cell(shape, budget, seq, batch, 0))
    return cells


def points_of(cells: Sequence[Cell], seq: int) -> Points:
    """The cells as the fit will see them: N in all parameters, short runs down-weighted."""
    return Points(
        np.array([float(c.shape.params()) for c in cells]),
        np.array([float(c.tokens) for c in cells]),
        np.array([c.flops(seq) for c in cells]),
        np.array([min(1.0, c.steps / FEW_STEPS) for c in cells]),
    )


def optimal_design(
    family: ShapeFamily,
    top: float,
    target: float,
    *,
    seq: int,
    batch: int,
    runs: int | None = None,
    flops: float | None = None,
    aim: Aim = "both",
    noise: float = NOISE,
    rule: OptimumRule | None = None,
    unique_tokens: int | None = None,
    first_seed: int = 0,
    span: float = SPAN,
) -> Design:
    """The `runs` runs, or those that `flops` buys, of at most `top` FLOPs each that best tell the plan.

    The plan is the optimum at `target` FLOPs; `aim` says whether its size, its loss or both are to be known.

    Raises ScalingError when fewer than eight runs can be trained or bought: too few for a law.
    """
    if not target > top:
        raise UsageError(f"--target {target:g}: the target must lie above the dearest run ({top:g} FLOPs).")
    if runs is not None and runs < LEAST:
        raise UsageError(f"--runs {runs}: at least {LEAST} are needed for a law.")
    rule = rule or OptimumRule()
    cells = candidate_cells(
        family, top, seq=seq, batch=batch, rule=rule, unique_tokens=unique_tokens, span=span
    )
    if len({c.shape.width for c in cells}) < 3:
        raise ScalingError(
            f"runs of up to {top:g} FLOPs leave fewer than 3 trainable sizes (at least {MIN_STEPS} steps, no "
            "repeated data); raise the budget or give more data."
        )
    points = points_of(cells, seq)
    laws = plausible_laws(LAWS, 0, top, rule.params_at(top))
    problem = problem_of(laws, points, target, aim, noise)
    chosen = choose(problem, points.flops, runs, flops)
    if len(chosen) < LEAST:
        raise ScalingError(
            f"the budget buys {len(chosen)} runs of up to {top:g} FLOPs; at least {LEAST} are needed for a "
            "law: raise it, or lower the dearest run."
        )
    bought, repeats = [], dict[int, int]()
    for i in chosen.tolist():
        repeats[i] = repeats.get(i, -1) + 1
        cell = cells[i]
        bought.append(make_cell(cell.shape, cell.budget, seq, batch, first_seed + repeats[i]))
    names = ("N_opt", "L") if aim == "both" else ("N_opt",) if aim == "size" else ("L",)
    sds = (f"{sd:.3f} of ln {name}" for name, sd in zip(names, spread(problem, chosen), strict=True))
    note = f"{len(bought)} runs chosen for {target:.3g} FLOPs; expected standard deviation: {', '.join(sds)}"
    budgets = tuple(sorted({c.budget for c in bought}))
    widths = tuple(sorted({c.shape.width for c in bought}))
    return Design(family, seq, batch, budgets, widths, 0, rule, tuple(bought), unique_tokens, (note,))


def informed_design(
    family: ShapeFamily, target: float, *, top: float | None, flops: float | None, **how: Any
) -> Design:
    """`optimal_design`, with the dearest run chosen too where only the FLOPs of the whole sweep are given.

    One run may take a TOPS-th of the compute; the share that leaves the least expected spread is kept.
    """
    if top is not None:
        return optimal_design(family, top, target, flops=flops, **how)
    assert flops is not None
    found, refused = [], []
    for share in TOPS:
        if flops / share >= target:
            continue
        try:
            design = optimal_design(family, flops / share, target, flops=flops, **how)
        except ScalingError as error:
            refused.append(error)
            continue
        found.append((_expected(design, target, how.get("noise", NOISE)), design))
    if not found:
        if refused:
            raise refused[0]
        raise UsageError(f"--target {target:g}: the target must lie above the runs that {flops:g} FLOPs buy.")
    return min(found, key=lambda pair: pair[0])[1]


def _expected(design: Design, target: float, noise: float) -> float:
    """Mean log spread of N_opt and L over the laws that designs are judged by, for designs of unlike tops."""
    points = points_of(design.cells, design.seq)
    laws = plausible_laws(LAWS, 0, max(design.budgets), design.rule.params_at(max(design.budgets)))
    problem = problem_of(laws, points, target, "both", noise)
    return float(np.log(spread(problem, np.arange(len(points.params)))).mean())
