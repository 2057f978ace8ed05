"""Approach 3 with evidence: the law, its intervals, its certificate, or a refusal in words.

The default forecast is the p-norm law with weak shrinkage (estimate.Prior); the headline exponents
come from the data alone. Internal forward validation says how wide the interval of a new run must
be, and hands the forecast to the prior-free fit when that one forecasts three times better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.cards import fit_card
from scaling.errors import ScalingError
from scaling.files import read_json
from scaling.guards import FEW_STEPS
from scaling.laws import certificate as certify
from scaling.laws.crosscheck import note_rows, short_decide, without_few_steps
from scaling.laws.estimate import FREE, HUBER, Estimate, Prior, Rows, estimate
from scaling.laws.intervals import (
    Missed,
    draws,
    exponent_interval,
    forward,
    forward_summary,
    joined,
    log_loss_sd,
    reach,
    run_noise,
)
from scaling.laws.surface import PARAMETERS, Floats, PNormLaw, floats, law_from_dict, log_optimum_of
from scaling.laws.yielding import shrink
from scaling.progress import stage

if TYPE_CHECKING:
    from scaling.runs import Runs

FORMAT, VERSION = "scaling/fit", 1
OTHER = ("data-constrained", "user")  # laws of surface_fit.py, which share the file's format
DRAWS = 200
GATE = 1 / 3  # the prior-free fit takes the forecast when its forward error is below this share


@dataclass(frozen=True, repr=False)
class Fit:
    """A fitted law with its evidence; `to_dict` is the content of fit.json."""

    law: PNormLaw
    objective: float  # sum of w_i huber_delta(r_i) over the rows, prior excluded
    count: str
    flops_convention: str
    draws: Floats  # (k, 6) of (E, A, B, alpha, beta, g)
    prior_free: PNormLaw
    exponents: dict[str, dict[str, Any]]
    certificate: dict[str, Any]
    noise: float  # robust residual scale of log loss: one run's seed noise and lack of fit
    forward: dict[str, Any]
    c_max: float  # largest run's FLOPs, as the table states them
    c_max_6nd: float  # the same as 6 N D in this fit's count
    data: dict[str, Any]
    settings: dict[str, Any]
    intervals: dict[str, list[float]]
    prior: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    extras: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return fit_card(self).text()

    def _repr_html_(self) -> str:
        return fit_card(self).html()

    @property
    def inflation(self) -> float:
        """How much wider than its own claim the interval is made, from past misses; at least 1."""
        return float(self.forward["inflation"])

    def loss(self, params: ArrayLike, tokens: ArrayLike) -> Floats:
        """Expected loss, nats per token."""
        return self.law.loss(params, tokens)

    def predict(
        self, params: ArrayLike, tokens: ArrayLike, level: float = 0.9
    ) -> tuple[Floats, Floats, Floats]:
        """(loss, lo, hi) for ONE NEW RUN at each (N, D): parameters, seed noise and form error."""
        n, d = np.broadcast_arrays(floats(params), floats(tokens))
        loss = self.law.loss(n, d)
        sd = np.hypot(log_loss_sd(self.draws, n.ravel(), d.ravel()).reshape(n.shape), self.noise)
        half = z_of(level) * self.inflation * sd
        few = (self.extras.get("few_steps") or {}).get("rows", 0)
        alone = self.prior_free.loss(n, d) if short_decide(few, self.data["rows"]) else loss
        return loss, *joined(loss, half, half, alone)

    def n_opt(self, flops: ArrayLike, level: float = 0.9) -> tuple[Floats, Floats, Floats]:
        """(N, lo, hi) of least loss under 6 N D = flops."""
        return self._optimum(flops, level, 0)

    def d_opt(self, flops: ArrayLike, level: float = 0.9) -> tuple[Floats, Floats, Floats]:
        """(D, lo, hi) of least loss under 6 N D = flops."""
        return self._optimum(flops, level, 1)

    def _optimum(self, flops: ArrayLike, level: float, which: int) -> tuple[Floats, Floats, Floats]:
        c = floats(flops)
        point = self.law.optimum(c)[which]
        spread = log_optimum_of(self.draws, c.ravel())[which].reshape(-1, *np.shape(c))
        return point, *self.reach(point, spread, self.prior_free.optimum(c)[which], level)

    def reach(
        self, point: ArrayLike, log_draws: Floats, prior_free: ArrayLike, level: float = 0.9
    ) -> tuple[Floats, Floats]:
        """(lo, hi) of an optimum at `point`, by intervals.reach."""
        return reach(point, log_draws, prior_free, self.inflation, level)

    def extrapolation(self, params: ArrayLike, tokens: ArrayLike) -> Floats:
        """6 N D over that of the largest run of the table."""
        with np.errstate(over="ignore"):
            return 6.0 * floats(params) * floats(tokens) / self.c_max_6nd

    def to_dict(self) -> dict[str, Any]:
        draws = [[float(f"{v:.8g}") for v in row] for row in self.draws.tolist()]
        return {
            "format": FORMAT,
            "version": VERSION,
            "law": self.law.to_dict(),
            "objective": self.objective,
            "settings": self.settings,
            "exponents": self.exponents,
            "intervals": self.intervals,
            "certificate": self.certificate,
            "convention": {"params": self.count, "flops": self.flops_convention},
            "data": self.data,
            "noise": self.noise,
            "c_max": self.c_max,
            "c_max_6nd": self.c_max_6nd,
            "forward": self.forward,
            "prior_free": self.prior_free.to_dict(),
            "prior": self.prior,
            "notes": list(self.notes),
            "extras": self.extras,
            "draws": {"columns": list(PARAMETERS), "rows": draws},
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str = "fit") -> Fit:
        """The fit written by `to_dict`; `where` names the file in messages."""
        try:
            if value.get("version") != VERSION:
                found = value.get("version")
                raise ScalingError(
                    f"{where}: version {found!r} of a fit is not known; this program reads version {VERSION}."
                )
            rows = np.array(value["draws"]["rows"], dtype=np.float64)
            if rows.ndim != 2 or rows.shape[1] != len(PARAMETERS) or not np.isfinite(rows).all():
                raise ScalingError(f"{where}: field 'draws' must hold rows of {len(PARAMETERS)} numbers.")
            return cls(
                law=law_from_dict(value["law"], where),
                objective=float(value["objective"]),
                count=str(value["convention"]["params"]),
                flops_convention=str(value["convention"]["flops"]),
                draws=rows,
                prior_free=law_from_dict(value["prior_free"], where),
                exponents=dict(value["exponents"]),
                certificate=dict(value["certificate"]),
                noise=float(value["noise"]),
                forward={**value["forward"], "inflation": float(value["forward"]["inflation"])},
                c_max=float(value["c_max"]),
                c_max_6nd=float(value["c_max_6nd"]),
                data=dict(value["data"]),
                settings=dict(value["settings"]),
                intervals=dict(value["intervals"]),
                prior=value["prior"],
                notes=tuple(value["notes"]),
                extras=dict(value["extras"]),
            )
        except KeyError as error:
            raise ScalingError(f"{where}: field {error.args[0]!r} of a fit is missing.") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise ScalingError(f"{where}: not a usable fit ({error}).") from None


def load_fit(path: str | Path) -> Fit:
    """Read fit.json, as planning and reports do: a law of the p-norm family."""
    value = read_json(path, expect=FORMAT)
    family = value["law"].get("family") if isinstance(value.get("law"), Mapping) else None
    if family in OTHER:
        raise ScalingError(
            f"{path}: a fit of a {family} law serves `scaling predict`; needed here is one of"
            f" {', '.join(FREE)}."
        )
    return Fit.from_dict(value, str(path))


def load_prior(path: str | Path) -> Prior:
    """The word "default", or JSON: {"format": "scaling/prior", "version": 1, "exponent": 0.3, ...}."""
    if path == "default":
        return Prior()
    value = read_json(path, expect="scaling/prior")
    return Prior.from_dict(
        {k: v for k, v in value.items() if k not in ("format", "version", "notes")}, str(path)
    )


def rows_of(runs: Runs, count: str = "total") -> tuple[Rows, np.ndarray]:
    """What the fit sees of a run table, and which rows have few steps.

    A run of s < 1000 steps counts as s / 1000 of a run.
    """
    weights = np.ones(len(runs))
    few = np.zeros(len(runs), bool)
    if "steps" in runs.table:
        steps = runs.column("steps")
        few = steps < FEW_STEPS  # a missing step count compares false
        weights = np.where(few, np.maximum(steps, 1.0) / FEW_STEPS, 1.0)
    return Rows.of(runs.params(count), runs.tokens, runs.loss, weights, runs.groups, runs.labels), few


def fit(
    runs: Runs,
    family: str = "pnorm",
    count: str = "total",
    prior: str | Path | Prior | None = "default",
    delta: float | None = None,
    bootstrap: int = DRAWS,
    seed: int = 0,
) -> Fit:
    """Fit `family` to a run table.

    `prior` is "default", a Prior, the path of a prior file, or None for the data alone. `delta` is
    the Huber threshold of log loss (None: 1.345 robust scales). Raises Refusal when the table
    cannot identify the law.
    """
    if family not in FREE:
        raise ScalingError(f"unknown family {family!r}; known are {', '.join(FREE)}.")
    if delta is not None and not (math.isfinite(delta) and delta > 0):
        raise ScalingError(f"delta must be a positive number, not {delta!r}.")
    if bootstrap < 20:
        raise ScalingError(f"at least 20 bootstrap draws are needed, not {bootstrap}.")
    chosen = prior if prior is None or isinstance(prior, Prior) else load_prior(prior)
    rows, few = rows_of(runs, count)
    certify.refuse_unfit(rows, family, runs.source)
    notes = list(runs.notes)
    note_rows(runs, rows, notes)
    stage("fitting", 0.0)
    free = estimate(rows, family, None, delta)
    shrunk = free if chosen is None else shrink(free, chosen, delta, notes)
    chosen = shrunk.prior
    stage("forecasting the dearer runs from the cheaper", 0.2)
    misses = forward(rows, family, chosen, delta, seed)
    used = shrunk
    if chosen is not None and _gate(misses, free):
        used = free
        misses = forward(rows, family, None, delta, seed)  # each error against its own fit's claim
        notes.append(
            "the forecast is the prior-free fit: inside the table it forecast the dearer runs more than"
            " three times better than the fit with the prior"
        )
    evidence = certify.certificate(used)
    certify.refuse_failed(used, free, evidence, runs.source)
    stage(f"bootstrap of {bootstrap} draws", 0.5)
    vectors = draws(used, bootstrap, seed)
    exponents = {
        "prior_free": exponent_interval(free, draws(free, bootstrap, seed) if used is not free else vectors)
    }
    if chosen is not None:
        exponents["with_prior"] = exponent_interval(
            shrunk, vectors if used is shrunk else draws(shrunk, bootstrap, seed)
        )
    prior_record = None
    if chosen is not None:
        prior_record = {"used": used is shrunk, **chosen.to_dict(), **certify.prior_evidence(free, shrunk)}
        notes.extend(prior_record.pop("notes"))
    stage("cross-checks", 0.8)
    extras = {"by_count": _by_count(runs, count, free, shrunk)}
    extras |= without_few_steps(rows, few, used, notes)
    if evidence["unexplained"] > certify.WEAK:
        notes.append(
            f"the law explains little: its residuals are {evidence['unexplained']:.0%} as wide as the losses"
        )
    if evidence["condition_number"] > certify.BLIND:
        notes.append("the curvature of the fit is singular: the table does not tell its parameters apart")
    free_bounds = certify.certificate(free)["at_bounds"]
    if free_bounds:
        notes.append(
            f"without a prior {', '.join(free_bounds)} end{'s' * (len(free_bounds) == 1)} at a bound:"
            " the data alone do not identify it"
        )
    return Fit(
        law=used.law,
        objective=certify.data_objective(used),
        count=count,
        flops_convention=runs.flops_convention,
        draws=vectors,
        prior_free=free.law,
        exponents=exponents,
        certificate=evidence,
        noise=run_noise(used.residuals, rows.weights, int(used.problem.free.sum()), used.sigma),
        forward=forward_summary(misses),
        c_max=float(runs.flops.max()),
        c_max_6nd=float(rows.flops.max()),
        data={"rows": len(rows), "runs": len(np.unique(rows.runs)), "sha256": runs.sha256,
              "source": Path(runs.source).name, "bad_rows": len(runs.bad)},
        settings={"family": family, "count": count, "delta": used.problem.delta, "seed": seed,
                  "draws": bootstrap, "few_steps": FEW_STEPS, "prior": chosen is not None},
        intervals=_intervals(vectors),
        prior=prior_record,
        notes=tuple(notes),
        extras=extras,
    )  # fmt: skip


def _gate(misses: list[Missed], free: Estimate) -> bool:
    """Does the data-alone fit deserve the forecast? Better in every split, 3x in all, and identified."""
    if not misses or certify.certificate(free)["at_bounds"]:
        return False
    with_prior = [float(np.abs(m.error).mean()) for m in misses]
    alone = [float(np.abs(m.free_error).mean()) for m in misses]
    return sum(alone) < GATE * sum(with_prior) and all(a < w for a, w in zip(alone, with_prior, strict=True))


def _by_count(runs: Runs, count: str, free: Estimate, shrunk: Estimate) -> dict[str, dict[str, float]]:
    """The exponent a of N_opt under every counting convention that the table allows."""
    out = {}
    for other in runs.counts():
        alone, held = free, shrunk
        if other != count:
            rows, _ = rows_of(runs, other)
            delta = None if free.problem.delta == HUBER * free.sigma else free.problem.delta
            alone = estimate(rows, free.family, None, delta)
            held = alone if shrunk is free else estimate(rows, free.family, shrunk.prior, delta)
        out[other] = {"prior_free": alone.law.a}
        if shrunk is not free:
            out[other]["with_prior"] = held.law.a
    return out


def _intervals(vectors: Floats) -> dict[str, list[float]]:
    low, high = np.quantile(vectors, [0.05, 0.95], axis=0)
    return {name: [float(low[i]), float(high[i])] for i, name in enumerate(PARAMETERS)}


def z_of(level: float) -> float:
    """Half-width, in standard deviations, of a normal interval at `level`."""
    if not 0 < level < 1:
        raise ScalingError(f"an interval's level must lie between 0 and 1, not {level!r}.")
    return NormalDist().inv_cdf(0.5 + level / 2)
