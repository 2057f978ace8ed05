"""The data-constrained law as something robust.py can fit: coordinates, starts, and what data it needs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scaling.errors import Refusal, ScalingError
from scaling.laws.constrained import (
    NAMES,
    R_D_STAR,
    R_N_STAR,
    DataConstrainedLaw,
    constrained_loss,
    constrained_optimum,
    effective_of,
    effective_tokens,
)
from scaling.laws.estimate import FREE, Prior, Rows, estimate, to_vector
from scaling.laws.robust import Columns, Fitted, Sample
from scaling.laws.surface import Floats, PNormLaw
from scaling.runs import Runs

BASES = {"data-constrained": "pnorm", "data-constrained-chinchilla": "chinchilla"}
REPETITION = ("published", "tokens", "both")  # which of R_D*, R_N* the data decide
REPEATED = 2.0  # epochs from which a run says something about repetition
LEAST_RUNS, LEAST_EPOCHS, MOST = 4, 2, 4.0  # such runs, their distinct epochs, and the epochs one must reach
UNKNOWN = 1.0  # standard error of ln R* above which the constant is not identified
STAR_BOUNDS = (np.log(0.2), np.log(500.0))


@dataclass(frozen=True)
class ConstrainedSurface:
    """Coordinates (ln E, ln A, ln B, alpha, beta, ln g, ln R_D*, ln R_N*), ln N and ln D centred."""

    family: str
    smallest: float  # of the table's losses
    centre: tuple[float, float]
    repetition: str = "published"
    names: tuple[str, ...] = field(default=NAMES, init=False)

    @property
    def free(self) -> np.ndarray:
        stars = (self.repetition != "published", self.repetition == "both")
        return np.array((*FREE[BASES[self.family]], *stars))

    @property
    def lower(self) -> Floats:
        floor = np.log(self.smallest)
        return np.array([floor - 7.0, -60.0, -60.0, 0.01, 0.01, np.log(0.05), *[STAR_BOUNDS[0]] * 2])

    @property
    def upper(self) -> Floats:
        floor = np.log(self.smallest)
        return np.array([floor + 0.05, 60.0, 60.0, 3.0, 3.0, np.log(3.0), *[STAR_BOUNDS[1]] * 2])

    def values(self, theta: Floats) -> Floats:
        base = to_vector(theta[..., :6], self.centre)
        return np.concatenate([base, np.exp(theta[..., 6:])], axis=-1)

    def loss(self, values: Floats, columns: Columns) -> Floats:
        return constrained_loss(values, columns["params"], columns["tokens"], columns["unique_tokens"])

    def best(self, values: Floats, flops: Floats, columns: Columns) -> tuple[Floats, Floats]:
        """(N, D) of least loss under 6 N D = flops with `unique_tokens` at hand, (k, m) each."""
        unique = columns.get("unique_tokens", np.full(len(flops), np.inf))
        n = constrained_optimum(values, flops, unique)
        return n, flops / (6.0 * n)

    def starts(self, sample: Sample) -> Floats:
        """The base law's optima at effective tokens, which need no other part of the law."""
        rows = sample.rows
        fresh = dataclasses.replace(
            rows, tokens=effective_tokens(rows.tokens, sample.columns["unique_tokens"])
        )
        found = estimate(fresh, BASES[self.family], None).solution
        theta = found.theta[np.argsort(found.value, kind="stable")].copy()
        for column, slope, old, new in zip((1, 2), (3, 4), fresh.centre, self.centre, strict=True):
            theta[:, column] += theta[:, slope] * (old - new)
        first = np.log([R_D_STAR, R_N_STAR])
        out = np.column_stack([theta, np.tile(first, (len(theta), 1))])
        if self.repetition == "published":
            return out
        few = out[:3]
        return np.concatenate([few, *(few + np.eye(8)[6] * shift for shift in (-1.5, 1.2))])

    def prior_rows(self, prior: Prior) -> tuple[Floats, Floats, Floats]:
        """The prior of the base law, as rows over these eight coordinates."""
        c, m, s = prior.rows(BASES[self.family], self.smallest)
        return np.column_stack([c, np.zeros((len(c), 2))]), m, s

    def law(self, vector: Floats) -> DataConstrainedLaw:
        E, A, B, alpha, beta, g, r_d, r_n = vector.tolist()
        return DataConstrainedLaw(PNormLaw(E, A, B, alpha, beta, g, BASES[self.family]), r_d, r_n)


def unique_tokens(runs: Runs, notes: list[str]) -> Floats:
    """U of every row; a run without one is taken to repeat nothing, and that is said."""
    if "unique_tokens" not in runs.table:
        raise ScalingError(
            f"{runs.source}: the data-constrained law needs the column unique_tokens (how many different"
            " tokens a run was trained on; equal to tokens where none was repeated)."
        )
    unique = runs.column("unique_tokens")
    absent = np.isnan(unique)
    if absent.any():
        notes.append(f"{int(absent.sum())} runs without unique_tokens are taken to repeat no data")
    return np.where(absent, runs.tokens, unique)


def refuse_repetition(rows: Rows, unique: Floats, repetition: str, source: str) -> dict[str, Any]:
    """How much the table knows of repetition; Refusal where it is asked for more than that."""
    epochs = rows.tokens / np.minimum(unique, rows.tokens)
    repeated = epochs >= REPEATED
    runs = len(np.unique(rows.groups[repeated]))
    kinds = len(np.unique(np.round(np.log(epochs[repeated]), 2)))
    most = float(epochs.max())
    if repetition != "published" and (runs < LEAST_RUNS or kinds < LEAST_EPOCHS or most < MOST):
        raise Refusal(
            f"{source}: {runs} runs of {REPEATED:g} or more epochs ({kinds} distinct, at most {most:.3g})"
            f" cannot determine R_D*; at least {LEAST_RUNS} with {LEAST_EPOCHS} distinct numbers of epochs"
            f" and one of {MOST:g} or more are needed, or hold R_D* at its published value with --repetition"
            " published."
        )
    return {"repeated_runs": runs, "most_epochs": most}


def refuse_stars(fit: Fitted, source: str) -> dict[str, Any]:
    """Refusal where a fitted R_D* or R_N* is not identified; else how far N exceeds what the data feed."""
    surface, sample = fit.task.surface, fit.task.sample
    bound = fit.solution.at_bound[fit.best]
    for j, star, what in (
        (6, "R_D*", "repeated more often"),
        (7, "R_N*", "with more parameters for their data"),
    ):
        error = float(np.sqrt(max(fit.covariance[j, j], 0.0)))
        if surface.free[j] and (bound[j] or error > UNKNOWN):
            found = "ends at its bound" if bound[j] else f"is known only within a factor e^{error:.2g}"
            raise Refusal(
                f"{source}: {star} {found}; add runs {what}, or hold it at its published value with"
                f" --repetition {'published' if j == 6 else 'tokens'}."
            )
    columns = sample.columns
    n_eff, _ = effective_of(fit.vector, columns["params"], columns["tokens"], columns["unique_tokens"])
    return {"oversized_runs": int((n_eff < 0.99 * columns["params"]).sum())}
