"""One face for every family of laws: fit a run table, forecast runs of a table, name a size for a budget.

The p-norm family (fit.py) has closed optima and exponents; the data-constrained law and laws of the user's
own (surface_fit.py) read further columns, and may have no best size at all. The back-test asks of each what
it can answer, and is told why where it cannot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import Refusal
from scaling.laws.decision import waste
from scaling.laws.estimate import FREE, Prior
from scaling.laws.fit import Fit, fit
from scaling.laws.surface import Floats
from scaling.laws.surface_fit import SurfaceFit, fit_other
from scaling.laws.surface_plan import columns_held, surface_waste

if TYPE_CHECKING:
    from scaling.runs import Runs


@dataclass(frozen=True)
class PNormForecast:
    """A law of the p-norm family."""

    fit: Fit
    sizeless: str = ""  # why no size can be named; empty where one can

    @property
    def count(self) -> str:
        return self.fit.count

    @property
    def c_max_6nd(self) -> float:
        return self.fit.c_max_6nd

    @property
    def data(self) -> dict[str, Any]:
        return self.fit.data

    @property
    def notes(self) -> tuple[str, ...]:
        return self.fit.notes

    def predict(self, runs: Runs, level: float = 0.9) -> tuple[Floats, Floats, Floats]:
        """(loss, lo, hi) of each row as one new run."""
        return self.fit.predict(runs.params(self.count), runs.tokens, level)

    def at(self, params: float, tokens: float, level: float = 0.9) -> tuple[float, float, float]:
        """(loss, lo, hi) of one new run that repeats no data."""
        loss, low, high = (float(v) for v in self.fit.predict(params, tokens, level))
        return loss, low, high

    def size(self, flops: float) -> tuple[float, float, float]:
        """(N, lo, hi) of least loss under 6 N D = flops."""
        n, low, high = (float(v) for v in self.fit.n_opt(flops))
        return n, low, high

    def waste(self, params: float, tokens: float) -> float:
        """Share of 6 N D that this law's optimum would have saved."""
        return max(float(waste(self.fit.law, params, tokens)), 0.0)

    def exponent(self, flops: float) -> float | None:
        """a of N_opt ~ C^a, of the data alone."""
        return float(self.fit.exponents["prior_free"]["a"])


@dataclass(frozen=True)
class SurfaceForecast:
    """The data-constrained law (sizes are named for data that do not repeat), or a law in a file."""

    fit: SurfaceFit

    @property
    def count(self) -> str:
        return str(self.fit.record["settings"]["count"])

    @property
    def c_max_6nd(self) -> float:
        return float(self.fit.record["c_max_6nd"])

    @property
    def data(self) -> dict[str, Any]:
        return dict(self.fit.record["data"])

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.fit.record["notes"])

    @cached_property
    def sizeless(self) -> str:
        try:
            columns_held(self.fit)
            self.fit.optimum([self.c_max_6nd], draws=False)
        except Refusal as refusal:
            return str(refusal).rstrip(".")
        return ""

    def predict(self, runs: Runs, level: float = 0.9) -> tuple[Floats, Floats, Floats]:
        return self.fit.predict(self.fit.rows_of(runs), level)

    def at(self, params: float, tokens: float, level: float = 0.9) -> tuple[float, float, float]:
        loss, low, high = (float(v[0]) for v in self.fit.predict({"params": params, "tokens": tokens}, level))
        return loss, low, high

    def size(self, flops: float) -> tuple[float, float, float] | None:
        """None where the law names no size; `sizeless` says why."""
        if self.sizeless:
            return None
        n, low, high, _ = (float(v[0]) for v in self.fit.optimum([flops]))
        return n, low, high

    def waste(self, params: float, tokens: float) -> float:
        return float(surface_waste(self.fit, np.array([params]), np.array([tokens]))[0])

    def exponent(self, flops: float) -> float | None:
        """Of the data alone where the family says it; else the slope of ln N_opt below `flops`."""
        if "prior_free" in self.fit.record["exponents"]:
            return float(self.fit.record["exponents"]["prior_free"]["a"])
        if self.sizeless:
            return None
        low, high = self.fit.optimum([flops / 10.0, flops], draws=False)[0]
        return math.log(high / low) / math.log(10.0)


Forecast = PNormForecast | SurfaceForecast


def forecast(
    runs: Runs,
    family: str = "pnorm",
    count: str = "total",
    prior: str | Path | Prior | None = "default",
    delta: float | None = None,
    seed: int = 0,
    repetition: str = "published",
) -> Forecast:
    """Fit any family to `runs`: a name of FREE or BASES, or the Python file of a law, which is executed."""
    if family in FREE:
        return PNormForecast(fit(runs, family, count, prior, delta, seed=seed))
    own = family.endswith(".py")
    return SurfaceForecast(
        fit_other(runs, family, count, None if own else prior, delta, seed=seed, repetition=repetition)
    )
