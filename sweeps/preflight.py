"""What a design would tell, before it is paid for: simulated over plausible laws and seed noise.

Every plausible law (sweeps.plausible) draws one table of losses on the design's own cells, the default
fit reads it, and its optimum at the target is compared with the law's. The same tables say how often each
band's minimum is bracketed; without noise they give the bias of Approach 2 on this very grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scaling.errors import ScalingError, UsageError
from scaling.laws.estimate import Prior, Rows, estimate
from scaling.laws.information import centred
from scaling.laws.surface import Floats, loss_of, optimum_of
from scaling.laws.vertices import vertex
from scaling.progress import tracked
from sweeps.design import Design
from sweeps.optimal import LEAST, NOISE, Points, optimal_design, points_of
from sweeps.plausible import plausible_laws

TRIALS = 48
# Part of the variance between seeds that branches of one trunk have in common: their correlation was .49
# over 12 seeds of width 16 at three lengths (benchmarks/sweep_trunk.py).
TRUNK_SHARE = 0.5
SHARES = (0.2, 0.3, 0.4, 0.5, 0.65, 0.8)  # of the design's FLOPs: the cheaper ones that are tried


@dataclass(frozen=True)
class Power:
    """What a design resolves at the target: root mean square and 90% range of the relative error.

    `failed` counts simulated tables that the fit refused.
    """

    runs: int
    flops: float
    params_rms: float
    params_lo: float
    params_hi: float
    loss_rms: float
    loss_lo: float
    loss_hi: float
    failed: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def power(
    points: Points,
    laws: Floats,
    target: float,
    noise: float = NOISE,
    prior: Prior | None = None,
    seed: int = 0,
    trunks: Sequence[str] | None = None,
) -> Power:
    """Simulate the default fit on `points` under each law; errors of ln N_opt and ln L at the target.

    `trunks` names each point's: what is noise then is in part common to the points of one trunk.
    """
    errors, failed = [], 0
    pairs = zip(laws, tables(points, laws, noise, seed, trunks), strict=True)
    for law, losses in tracked(pairs, "simulating the fit under plausible laws", len(laws)):
        rows = Rows.of(points.params, points.tokens, losses, points.weights)
        try:
            # Started at the truth: what the search from a grid of starts finds, at a tenth of its time.
            near = np.repeat(centred(law[None], rows.centre), 2, axis=0)
            found = estimate(rows, "pnorm", Prior() if prior is None else prior, near=near).law
        except ScalingError:
            failed += 1
            continue
        n, d = (float(v[0]) for v in optimum_of(law, np.array([target])))
        size = math.log(float(found.optimum(target)[0]) / n)
        errors.append(
            (size, math.log(float(found.loss(n, d)) / float(loss_of(law, np.array(n), np.array(d)))))
        )
    if not errors:
        raise ScalingError("the fit refused every simulated table of this design: it has too few runs.")
    table = np.array(errors)
    low, high = np.exp(np.quantile(table, [0.05, 0.95], axis=0))
    rms = np.sqrt((table**2).mean(0))
    return Power(
        runs=len(points.params),
        flops=float(points.flops.sum()),
        params_rms=float(rms[0]),
        params_lo=float(low[0]),
        params_hi=float(high[0]),
        loss_rms=float(rms[1]),
        loss_lo=float(low[1]),
        loss_hi=float(high[1]),
        failed=failed,
    )


def tables(
    points: Points, laws: Floats, noise: float, seed: int, trunks: Sequence[str] | None = None
) -> Floats:
    """One simulated table of losses per law, (k, n); a run that counts as w scatters 1/sqrt(w) more."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((len(laws), len(points.params)))
    if trunks is not None:
        names, which = np.unique(trunks, return_inverse=True)
        common = rng.standard_normal((len(laws), len(names)))[:, which]
        normal = math.sqrt(TRUNK_SHARE) * common + math.sqrt(1 - TRUNK_SHARE) * normal
    scatter = noise / np.sqrt(points.weights) * normal
    return loss_of(laws, points.params, points.tokens) * np.exp(scatter)


def bands(design: Design, laws: Floats, noise: float = NOISE, seed: int = 0) -> list[dict[str, Any]]:
    """Per budget of three sizes or more: how often its minimum is bracketed, and Approach 2's bias there.

    `bracketed` is the share of simulated tables whose smallest loss is not at an edge; `bias` the median
    of the parabola's N over the true one, minus 1, without noise, and `bias_worst` its 90% quantile in size.
    """
    points = points_of(design.cells, design.seq)
    noisy = tables(points, laws, noise, seed)
    exact = loss_of(laws, points.params, points.tokens)
    budgets = np.array([cell.budget for cell in design.cells])
    out = []
    for budget in design.budgets:
        here = np.flatnonzero(budgets == budget)
        sizes, index = np.unique(points.params[here], return_inverse=True)
        if len(sizes) < 3:
            continue
        means = np.stack([noisy[:, here[index == i]].mean(1) for i in range(len(sizes))], axis=1)
        clean = np.stack([exact[:, here[index == i][0]] for i in range(len(sizes))], axis=1)
        tokens = np.array([points.tokens[here[index == i][0]] for i in range(len(sizes))])
        best = means.argmin(1)
        biases = []
        for law, losses in zip(laws, clean, strict=True):
            found = vertex(np.log(sizes), losses)
            true = _best_on(law, sizes, tokens)
            if found is not None and true is not None:
                biases.append(math.expm1(found - true))
        out.append({
            "budget": budget,
            "sizes": len(sizes),
            "bracketed": float(((best > 0) & (best < len(sizes) - 1)).mean()),
            "bias": float(np.median(biases)) if biases else None,
            "bias_worst": float(np.quantile(np.abs(biases), 0.9)) if biases else None,
        })  # fmt: skip
    return out


def extrapolated_bias(design: Design, laws: Floats, target: float) -> dict[str, Any] | None:
    """Approach 2's bias at `target` on this grid: lines through the bands' vertices, without any noise.

    `bias` is the median over the laws of N by that line over N by the line through the bands' true optima,
    minus 1, and `bias_lo`, `bias_hi` its 90% range; None where no law leaves two bands with a minimum inside.
    """
    points, budgets = points_of(design.cells, design.seq), np.array([c.budget for c in design.cells])
    exact, found = loss_of(laws, points.params, points.tokens), []
    for law, losses in zip(laws, exact, strict=True):
        marks = []
        for budget in design.budgets:
            sizes, first = np.unique(points.params[budgets == budget], return_index=True)
            here = np.flatnonzero(budgets == budget)[first]
            at = vertex(np.log(sizes), losses[here])
            true = _best_on(law, sizes, points.tokens[here]) if len(sizes) > 2 else None
            if at is not None and true is not None:
                marks.append((math.log(budget), at, true))
        if len(marks) > 1:
            x, at_line, true_line = np.array(marks).T
            slope, middle = np.polyfit(x - x.mean(), at_line - true_line, 1)
            found.append(math.expm1(middle + slope * (math.log(target) - x.mean())))
    if not found:
        return None
    low, middle, high = np.quantile(found, [0.05, 0.5, 0.95]).tolist()
    return {"bias": middle, "bias_lo": low, "bias_hi": high}


def cheaper(
    design: Design, reached: Power, target: float, noise: float = NOISE
) -> tuple[float, Power] | None:
    """FLOPs to give `scaling sweep --budget` for a design of runs no dearer and no more that errs no more.

    It is the cheapest Fisher-optimal one tried, chosen as that command chooses it; None when none at four
    fifths of the FLOPs does as well, in N_opt and in loss.
    """
    for share in tracked(SHARES, "looking for a cheaper design"):
        flops = float(f"{share * reached.flops:.4g}")
        try:
            other = optimal_design(
                design.family, max(design.budgets), target, seq=design.seq, batch=design.batch,
                runs=reached.runs, flops=flops, rule=design.rule, unique_tokens=design.unique_tokens,
            )  # fmt: skip
        except ScalingError:
            continue
        found = power(points_of(other.cells, other.seq), judged(design), target, noise, seed=1)
        if found.params_rms <= reached.params_rms and found.loss_rms <= reached.loss_rms:
            return flops, found
    return None


def judged(design: Design, count: int = TRIALS) -> Floats:
    """The laws that a design is judged against; none of them those it was chosen for."""
    top = max(design.budgets)
    return plausible_laws(count, 1, top, design.rule.params_at(top))


def preflight(
    design: Design, target: float, noise: float = NOISE, trunks: Sequence[str] | None = None
) -> dict[str, Any]:
    """Everything `scaling sweep --dry-run --target` says about a design, as plain values.

    `trunks` names each cell's: `power` then is with the noise that their branches share, `apart` without.
    """
    runs, top = len(design.cells), max(design.budgets, default=0.0)
    if runs < LEAST:
        raise ScalingError(
            f"the design has {runs} runs; at least {LEAST} are needed for a law: give more --budgets, "
            "--sizes or --seeds."
        )
    if not target > top:
        raise UsageError(f"--target {target:g}: the target must lie above the dearest run ({top:g} FLOPs).")
    laws = judged(design)
    points = points_of(design.cells, design.seq)
    reached = power(points, laws, target, noise, seed=1, trunks=trunks)
    apart = None if trunks is None else power(points, laws, target, noise, seed=1)
    better = cheaper(design, reached, target, noise) if design.sizes else None
    banded = design.sizes > 0 or design.grid is not None  # an informed design has no bands
    return {
        "target": target,
        "noise": noise,
        "laws": len(laws),
        "power": reached.to_dict(),
        "apart": None if apart is None else apart.to_dict(),
        "bands": bands(design, laws, noise) if banded else [],
        "approach_2": extrapolated_bias(design, laws, target) if banded else None,
        "cheaper": None if better is None else {**better[1].to_dict(), "budget": better[0]},
    }


def _best_on(law: Floats, sizes: Floats, tokens: Floats) -> float | None:
    """ln N of the law's least loss along the band, tokens interpolated; None at an edge."""
    grid = np.linspace(np.log(sizes[0]), np.log(sizes[-1]), 400)
    between = np.exp(np.interp(grid, np.log(sizes), np.log(tokens)))
    best = int(loss_of(law, np.exp(grid), between).argmin())
    return float(grid[best]) if 0 < best < len(grid) - 1 else None
