"""Published scaling laws, as data: coefficients with citation, conventions, domain and evidence.

Each law gives one of three things (`gives`):
    loss   a surface L(N, D), and with it an optimum, a loss, and the price of leaving the optimum
    N(C)   the best size at a compute budget C; tokens follow from the law's own FLOP convention
    D(C)   the best number of tokens; the size follows

`count` says which parameters N counts (scaling.shape). `flops` says how C was counted:
    6nd          C = 6 N D, with N counted as `count` says
    non-vocab    C = M D, M = FLOPs per token of everything but the vocabulary, attention in full
    own          the study's own count, which its sources do not pin down: such a law can be shown
                 beside others, and cannot be planned with

`evidence`: primary (read in the paper or its repository), secondary (quoted by somebody who read
it), derived (arithmetic on published numbers, described in `place`). The two-digit coefficients
printed for Chinchilla's third approach are deliberately absent: rounding moves its optimum at
5.76e23 FLOPs from 40B to 32B parameters.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scaling.cards import law_card
from scaling.errors import Refusal, UsageError
from scaling.laws.surface import PNormLaw, optimum_of
from scaling.shape import Count, Shape

Evidence = Literal["primary", "secondary", "derived"]
FlopCount = Literal["6nd", "non-vocab", "own"]
DEFAULT_LAW = "besiroglu"
LEVEL = 0.9
DRAWS = 2000


@dataclass(frozen=True)
class PowerLaw:
    """coefficient x (C / unit)^exponent."""

    coefficient: float
    exponent: float
    unit: float = 1.0

    def __call__(self, flops: float) -> float:
        return self.coefficient * (flops / self.unit) ** self.exponent


@dataclass(frozen=True)
class Point:
    """A published optimum: at `flops`, the best of the sizes considered had `params`."""

    flops: float
    params: float
    place: str
    evidence: Evidence


@dataclass(frozen=True)
class Spread:
    """Uncertainty of a Chinchilla-form fit, in coordinates that are nearly independent of scale.

    The coordinates are (ln of A N0^-alpha, ln of B D0^-beta, E, alpha, beta), with (N0, D0) the centre
    of the runs: A alone says nothing, its error being that of alpha (correlation .999).
    """

    centre: tuple[float, float]
    deviations: tuple[float, float, float, float, float]
    correlation: tuple[tuple[float, ...], ...]
    place: str

    def draws(self, law: PNormLaw, count: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
        """Rows (E, A, B, alpha, beta, g) around `law`; the same rows for the same seed."""
        log_n, log_d = map(math.log, self.centre)
        middle = [
            math.log(law.A) - law.alpha * log_n,
            math.log(law.B) - law.beta * log_d,
            law.E,
            law.alpha,
            law.beta,
        ]
        scale = np.array(self.deviations)
        root = np.linalg.cholesky(np.array(self.correlation) * np.outer(scale, scale))
        rows = middle + np.random.default_rng(seed).standard_normal((count, 5)) @ root.T
        u, v, E, alpha, beta = rows.T
        A, B = np.exp(u + alpha * log_n), np.exp(v + beta * log_d)
        return np.stack([E, A, B, alpha, beta, np.full(count, law.g)], axis=1)


@dataclass(frozen=True)
class Optimum:
    """What a law says about a budget. Bounds are None where the publication gives no uncertainty."""

    params: float
    tokens: float
    loss: float | None = None
    params_lo: float | None = None
    params_hi: float | None = None
    tokens_lo: float | None = None
    tokens_hi: float | None = None
    loss_lo: float | None = None
    loss_hi: float | None = None


@dataclass(frozen=True)
class PublishedLaw:
    name: str
    title: str
    citation: str
    place: str
    evidence: Evidence
    gives: Literal["loss", "N(C)", "D(C)"]
    count: Count
    flops: FlopCount
    data: str
    compute_min: float | None
    compute_max: float | None
    exponents: str
    surface: PNormLaw | None = None
    n_law: PowerLaw | None = None
    d_law: PowerLaw | None = None
    spread: Spread | None = None
    points: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = field(default=())

    def _repr_html_(self) -> str:
        return law_card(self).html()

    @property
    def convention(self) -> dict[str, str]:
        return {"params": self.count, "flops": self.flops}

    def optimum(self, flops: float) -> Optimum:
        """Size and tokens for `flops`, counted in the law's own conventions; see the module's text."""
        if self.surface is not None:
            n, d = (float(x) for x in self.surface.optimum(flops))
            return Optimum(n, d, float(self.surface.loss(n, d)), **self._bounds(flops))
        if self.n_law is None and self.d_law is None:
            raise Refusal(f"the law {self.name!r} holds neither a surface nor a power law.")
        if self.n_law is None:
            assert self.d_law is not None
            return Optimum(flops / (6 * self.d_law(flops)), self.d_law(flops))
        n = self.n_law(flops)
        return Optimum(n, flops / (6 * n) if self.d_law is None else self.d_law(flops))

    def _bounds(self, flops: float) -> dict[str, float]:
        if self.surface is None or self.spread is None:
            return {}
        draws = self.spread.draws(self.surface)
        n, d = (x[:, 0] for x in optimum_of(draws, np.array([flops])))
        # Each draw's loss at its own optimum: what the best run at this budget would reach.
        E, A, B, alpha, beta, _ = draws.T
        loss = E + A * n**-alpha + B * d**-beta
        tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        bounds = {}
        for name, values in (("params", n), ("tokens", d), ("loss", loss)):
            bounds[f"{name}_lo"], bounds[f"{name}_hi"] = (float(q) for q in np.quantile(values, tails))
        return bounds

    def flops_per_token(self, shape: Shape, seq: int) -> float:
        """Training FLOPs per token of `shape` as this law counts them."""
        if self.flops == "6nd":
            return 6.0 * shape.params(self.count)
        if self.flops == "non-vocab":
            head = 6.0 * shape.width * shape.vocab
            return shape.flops_per_token(seq, "model_full") - head
        raise Refusal(
            f"the law {self.name!r} counts FLOPs in a way its sources do not pin down; it can be compared "
            f"with (`scaling laws {self.name}`) but not planned with."
        )

    def to_dict(self) -> dict[str, Any]:
        known = {
            "name": self.name,
            "title": self.title,
            "citation": self.citation,
            "place": self.place,
            "evidence": self.evidence,
            "gives": self.gives,
            "convention": self.convention,
            "data": self.data,
            "compute_min": self.compute_min,
            "compute_max": self.compute_max,
            "exponents": self.exponents,
            "aliases": list(self.aliases),
            "notes": list(self.notes),
        }
        if self.surface is not None:
            known |= self.surface.to_dict()
        for name, law in (("n_law", self.n_law), ("d_law", self.d_law)):
            if law is not None:
                known[name] = {"coefficient": law.coefficient, "exponent": law.exponent, "unit": law.unit}
        if self.points:
            known["points"] = [vars(point) for point in self.points]
        return known


def through(low: Point, high: Point) -> PowerLaw:
    """The power law through two published optima."""
    exponent = math.log(high.params / low.params) / math.log(high.flops / low.flops)
    return PowerLaw(low.params, exponent, low.flops)


def regression(flops: tuple[float, ...], values: tuple[float, ...]) -> PowerLaw:
    """Least squares in logarithms through a published table."""
    x, y = np.log(flops), np.log(values)
    exponent, intercept = np.polyfit(x - x.mean(), y, 1)
    return PowerLaw(float(np.exp(intercept)), float(exponent), float(np.exp(x.mean())))


def law_names() -> list[str]:
    """The names that `find_law` knows, aliases aside."""
    from scaling.laws.registry import LAWS

    return list(LAWS)


def find_law(name: str) -> PublishedLaw:
    """The law of this name or alias; an unknown one is an error that lists what is known.

    >>> round(find_law("palm2").optimum(1e22).params / 1e9, 2)
    10.7
    """
    from scaling.laws.registry import LAWS

    wanted = name.strip().lower().replace("_", "-").replace(" ", "-")
    for law in LAWS.values():
        if wanted == law.name or wanted in law.aliases:
            return law
    near = [known for known in LAWS if len(wanted) > 2 and wanted in known]
    near = near or difflib.get_close_matches(wanted, LAWS, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(LAWS)}."
    raise UsageError(f"--law: {name!r} is not a published law that this project holds; {hint}")
