"""Fits of surfaces beyond the p-norm family: the data-constrained law, and laws of the user's own.

The file is fit.json as ever (format scaling/fit, version 1); its law says which family it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import Refusal, ScalingError
from scaling.guards import FEW_STEPS
from scaling.laws import evidence
from scaling.laws.certificate import DISAGREE, WEAK, prior_name, refuse_unfit
from scaling.laws.constrained_fit import (
    BASES,
    ConstrainedSurface,
    refuse_repetition,
    refuse_stars,
    unique_tokens,
)
from scaling.laws.crosscheck import note_rows
from scaling.laws.estimate import Prior
from scaling.laws.fit import DRAWS, FORMAT, VERSION, load_prior, rows_of, z_of
from scaling.laws.intervals import WIDEST, forward_summary, reach, run_noise
from scaling.laws.robust import Columns, Fitted, Sample, fit_surface, objective
from scaling.laws.surface import Floats, floats
from scaling.laws.userlaw import UserLaw, load_law
from scaling.tables import missing, number

if TYPE_CHECKING:
    from scaling.runs import Runs

LawSurface = ConstrainedSurface | UserLaw


@dataclass(frozen=True)
class SurfaceFit:
    """A fitted surface with its evidence; `to_dict` is the content of fit.json."""

    surface: LawSurface
    vector: Floats  # the parameters, in the order of surface.names
    draws: Floats  # (k, p)
    law: dict[str, Any]
    record: dict[str, Any] = field(repr=False)  # the rest of fit.json

    @property
    def family(self) -> str:
        return str(self.record["settings"]["family"])

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns a prediction needs."""
        return tuple(self.record["settings"]["columns"])

    @property
    def inflation(self) -> float:
        return float(self.record["forward"]["inflation"])

    def loss(self, columns: Mapping[str, Any]) -> Floats:
        """Expected loss, nats per token, at rows with the columns of `needs`."""
        return self.surface.loss(self.vector[None], self._complete(columns))[0]

    def predict(self, columns: Mapping[str, Any], level: float = 0.9) -> tuple[Floats, Floats, Floats]:
        """(loss, lo, hi) for ONE NEW RUN at each row: parameters, seed noise and form error."""
        table = self._complete(columns)
        loss = self.loss(table)
        if not (np.isfinite(loss) & (loss > 0)).all():
            row = int(np.argmin(np.isfinite(loss) & (loss > 0)))
            raise ScalingError(
                f"the law gives no positive loss at row {row + 1} (params {table['params'][row]:.6g},"
                f" tokens {table['tokens'][row]:.6g}); it is outside the law's domain."
            )
        sd = np.hypot(evidence.log_loss_sd(self.surface, self.draws, table), self.record["noise"])
        half = np.minimum(z_of(level) * self.inflation * sd, WIDEST)
        return loss, loss * np.exp(-half), loss * np.exp(half)

    def optimum(
        self, flops: Any, columns: Mapping[str, Any] | None = None, level: float = 0.9, draws: bool = True
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """(N, lo, hi, D) of least loss under 6 N D = flops, the other columns held (1-d arrays).

        Without `draws` the interval is not looked for, and lo = hi = N.
        """
        c = np.atleast_1d(floats(flops))
        table = {n: np.broadcast_to(floats(v), c.shape) for n, v in (columns or {}).items()}
        n, d = (v[0] for v in self.surface.best(self.vector[None], c, table))
        if not draws:
            return n, n, n, d
        spread = np.log(self.surface.best(self.draws, c, table)[0])
        free = n if self.prior_free is None else self.surface.best(self.prior_free[None], c, table)[0][0]
        return n, *reach(n, spread, free, self.inflation, level), d

    @cached_property
    def prior_free(self) -> Floats | None:
        """The parameters by the data alone; None where no prior had a say."""
        if self.record["prior"] is None:
            return None
        return np.array([self.record["prior_free"][name] for name in self.surface.names], dtype=np.float64)

    def rows_of(self, runs: Runs) -> dict[str, Floats]:
        """What the law reads of each row of a run table."""
        table = {"params": runs.params(str(self.record["settings"]["count"])), "tokens": runs.tokens}
        if isinstance(self.surface, ConstrainedSurface):
            return table | {"unique_tokens": unique_tokens(runs, [])}
        return table | {n: v for n, v in _numbers(runs, table).items() if n in self.needs}

    def extrapolation(self, params: Any, tokens: Any) -> Floats:
        """6 N D over that of the largest run of the table."""
        with np.errstate(over="ignore"):
            return 6.0 * floats(params) * floats(tokens) / self.record["c_max_6nd"]

    def _complete(self, columns: Mapping[str, Any]) -> dict[str, Floats]:
        table = {name: np.atleast_1d(floats(v)) for name, v in columns.items()}
        if "unique_tokens" in self.needs and isinstance(self.surface, ConstrainedSurface):
            given = table.get("unique_tokens", np.array([np.nan]))
            table["unique_tokens"] = np.where(np.isnan(given), table["tokens"], given)
        if "flops" in self.needs and "flops" not in table:
            table["flops"] = 6.0 * table["params"] * table["tokens"]
        lacking = [name for name in self.needs if name not in table]
        if lacking:
            raise ScalingError(f"the law in {self.surface.family} needs the column {lacking[0]!r}.")
        shape = np.broadcast_shapes(*(v.shape for v in table.values()))
        return {name: np.array(np.broadcast_to(v, shape)) for name, v in table.items()}

    def to_dict(self) -> dict[str, Any]:
        rows = [[float(f"{v:.8g}") for v in row] for row in self.draws.tolist()]
        draws = {"columns": list(self.surface.names), "rows": rows}
        return {"format": FORMAT, "version": VERSION, "law": self.law, **self.record, "draws": draws}


def fit_other(
    runs: Runs,
    family: str,
    count: str = "total",
    prior: str | Path | Prior | None = "default",
    delta: float | None = None,
    bootstrap: int = DRAWS,
    seed: int = 0,
    repetition: str = "published",
) -> SurfaceFit:
    """Fit "data-constrained" (p-norm base), "data-constrained-chinchilla", or the law in a Python file.

    `prior` serves the base of the data-constrained law (a law in a file has none). `repetition` says
    which of R_D*, R_N* the data decide: "published" (none), "tokens" (R_D*) or "both".
    """
    rows, few = rows_of(runs, count)
    notes = list(runs.notes)
    note_rows(runs, rows, notes)
    columns = {"params": rows.params, "tokens": rows.tokens}
    extras: dict[str, Any] = {}
    surface: LawSurface
    prior_rows = None
    if family in BASES:
        columns["unique_tokens"] = unique_tokens(runs, notes)
        refuse_unfit(rows, BASES[family], runs.source)
        extras = refuse_repetition(rows, columns["unique_tokens"], repetition, runs.source)
        surface = ConstrainedSurface(family, float(rows.loss.min()), rows.centre, repetition)
        if prior is not None:
            prior_rows = surface.prior_rows(prior if isinstance(prior, Prior) else load_prior(prior))
        if not extras["repeated_runs"]:
            notes.append(
                "no run repeats its data: what repetition costs rests on the published constants alone"
            )
    else:
        surface = load_law(family)
        columns |= _numbers(runs, columns)
        columns = {n: columns[n] for n in dict.fromkeys(("params", "tokens", *surface.reads(columns)))}
        surface = surface.tested_on(columns)
    sample = Sample(rows, columns)
    parameters = int(surface.free.sum())
    evidence.refuse_few(sample, parameters, surface.family, runs.source)
    alone = fit_surface(surface, sample, None, delta)
    evidence.refuse_nowhere(alone, runs.source)
    used = (
        alone if prior_rows is None else fit_surface(surface, sample, prior_rows, delta, alone.solution.theta)
    )
    proof = evidence.certificate(used)
    evidence.refuse_failed(used, proof, runs.source)
    if isinstance(surface, ConstrainedSurface):
        extras |= refuse_stars(used, runs.source)
    vectors = evidence.draws(used, bootstrap, seed)
    if not np.isfinite(vectors).all():
        raise Refusal(f"{runs.source}: bootstrap fits of the {surface.family} law run off; add runs.")
    exponents = {}
    if isinstance(surface, ConstrainedSurface):
        own = vectors if used is alone else evidence.draws(alone, bootstrap, seed)
        exponents["prior_free"] = _exponents(alone.vector, own)
        if used is not alone:
            exponents["with_prior"] = _exponents(used.vector, vectors)
    if few.any():
        notes.append(f"{int(few.sum())} of {len(rows)} runs have under {FEW_STEPS} steps and weigh less")
    loose = proof["not_identified"]
    if loose:
        notes.append(f"the table does not identify {', '.join(loose)}: see the standard errors and bounds")
    if proof["unexplained"] > WEAK:
        notes.append(
            f"the law explains little: its residuals are {proof['unexplained']:.0%} as wide as the losses"
        )
    low, high = np.quantile(vectors, [0.05, 0.95], axis=0)
    misses = evidence.forward(used, prior_rows, delta, seed)
    record = {
        "objective": float(objective(_data_only(used), used.theta[None], rows.weights[None])[0]),
        "settings": {
            "family": surface.family, "count": count, "delta": used.task.delta, "seed": seed,
            "draws": bootstrap, "few_steps": FEW_STEPS, "prior": prior_rows is not None,
            "columns": list(columns),
            "repetition": repetition if family in BASES else None,
            "smallest": float(rows.loss.min()), "centre": list(rows.centre),
        },
        "exponents": exponents,
        "intervals": {n: [float(low[i]), float(high[i])] for i, n in enumerate(surface.names)},
        "certificate": proof,
        "convention": {"params": count, "flops": runs.flops_convention},
        "data": {"rows": len(rows), "runs": len(np.unique(rows.runs)), "sha256": runs.sha256,
                 "source": Path(runs.source).name, "bad_rows": len(runs.bad)},
        "noise": run_noise(used.residuals, rows.weights, parameters, used.sigma),
        "c_max": float(runs.flops.max()),
        "c_max_6nd": float(rows.flops.max()),
        "forward": forward_summary(misses),
        "prior_free": _law(surface, alone.vector),
        "prior": None if prior_rows is None else _prior_record(alone, used, notes),
        "notes": notes,
        "extras": extras,
    }  # fmt: skip
    return SurfaceFit(surface, used.vector, vectors, _law(surface, used.vector), record)


def load_other(value: Mapping[str, Any], where: str, law_file: str | Path | None = None) -> SurfaceFit:
    """The fit in a fit.json of one of these families; `law_file` is the user's law, named anew.

    A file named in fit.json is never executed: fit.json may come from anywhere.
    """
    if value.get("version") != VERSION:
        found = value.get("version")
        raise ScalingError(f"{where}: version {found!r} of a fit is not known; this program reads {VERSION}.")
    try:
        law, record = (
            dict(value["law"]),
            {k: v for k, v in value.items() if k not in ("format", "version", "law")},
        )
        settings, draws = record["settings"], np.array(record.pop("draws")["rows"], dtype=np.float64)
        surface: LawSurface
        if law["family"] == "user":
            if law_file is None:
                raise ScalingError(
                    f"{where}: this fit is of the law in {law['file']}; name that file with --law, and it is"
                    " executed."
                )
            surface = load_law(law_file)
            if surface.sha256 != law["sha256"]:
                raise ScalingError(
                    f"{law_file}: not the file that was fitted ({where}); fit again with this one."
                )
            vector = np.array([law["parameters"][name] for name in surface.names], dtype=np.float64)
        else:
            family = str(settings["family"])
            if family not in BASES:
                raise ScalingError(f"{where}: unknown family {family!r} of a law.")
            centre = (float(settings["centre"][0]), float(settings["centre"][1]))
            surface = ConstrainedSurface(
                family, float(settings["smallest"]), centre, str(settings["repetition"])
            )
            vector = np.array([law[name] for name in surface.names], dtype=np.float64)
        if draws.ndim != 2 or draws.shape[1] != len(vector) or not np.isfinite(draws).all():
            raise ScalingError(f"{where}: field 'draws' must hold rows of {len(vector)} numbers.")
        numbers = [
            *vector,
            *(float(record[n]) for n in ("noise", "c_max_6nd")),
            record["forward"]["inflation"],
        ]
        if not np.isfinite(np.array(numbers, dtype=np.float64)).all():
            raise ScalingError(f"{where}: a parameter, the noise or the inflation of this fit is no number.")
        if not all(isinstance(name, str) for name in settings["columns"]):
            raise ScalingError(f"{where}: field 'columns' of the settings must hold names.")
        fit = SurfaceFit(surface, vector, draws, law, record)
        if fit.prior_free is not None and not np.isfinite(fit.prior_free).all():
            raise ScalingError(f"{where}: a parameter of 'prior_free' is no number.")
        return fit
    except KeyError as error:
        raise ScalingError(f"{where}: field {error.args[0]!r} of a fit is missing.") from None
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ScalingError(f"{where}: not a usable fit ({error}).") from None


def _law(surface: LawSurface, vector: Floats) -> dict[str, Any]:
    if isinstance(surface, ConstrainedSurface):
        return surface.law(vector).to_dict()
    values = dict(zip(surface.names, vector.tolist(), strict=True))
    return {"family": "user", "file": surface.path.name, "sha256": surface.sha256, "parameters": values}


def _numbers(runs: Runs, but: Columns) -> dict[str, Floats]:
    """The columns of the table that hold a finite number in every row."""
    out = {}
    for name in map(str, runs.table.columns):
        if name not in but:
            cells = list(runs.table[name])
            column = np.array([math.nan if missing(v) else number(v) for v in cells], dtype=np.float64)
            if np.isfinite(column).all():
                out[name] = column
    return out


def _exponents(vector: Floats, vectors: Floats) -> dict[str, float]:
    """a = beta/(alpha+beta) of the base law and b = 1 - a, with 90% bootstrap intervals."""
    a = float(vector[4] / (vector[3] + vector[4]))
    low, high = (float(v) for v in np.quantile(vectors[:, 4] / (vectors[:, 3] + vectors[:, 4]), [0.05, 0.95]))
    return {"a": a, "a_lo": low, "a_hi": high, "b": 1 - a, "b_lo": 1 - high, "b_hi": 1 - low}


def _data_only(fit: Fitted) -> Any:
    """The task without prior and in units of log loss squared."""
    return type(fit.task)(fit.task.surface, fit.task.sample, fit.task.delta)


def _prior_record(alone: Fitted, used: Fitted, notes: list[str]) -> dict[str, Any]:
    """The prior's share of the information, and where the data alone disagree with it."""
    task = used.task
    precision = (task.prior_c / task.prior_s[:, None] ** 2).T @ task.prior_c
    share = float(np.trace(precision @ used.covariance) / task.surface.free.sum())
    apart: dict[str, float | None] = {}
    for row, mean, sd in zip(task.prior_c, task.prior_m, task.prior_s, strict=True):
        name = prior_name(row)
        if (row[alone.solution.at_bound[alone.best]] != 0).any():
            apart[name] = None
            continue
        own = float(np.sqrt(max(row @ alone.covariance @ row, 0.0)))
        apart[name] = pull = float((row @ alone.theta - mean) / np.hypot(sd, own))
        if abs(pull) > DISAGREE:
            notes.append(
                f"the data alone disagree with the prior on {name} by {abs(pull):.1f} standard deviations"
            )
    return {"used": True, "share": min(max(share, 0.0), 1.0), "disagreement": apart}
