"""Loss surfaces L(N, D) with a closed-form compute optimum.

One family covers three published forms. With deficits A N^-alpha and B D^-beta,

    L(N, D) = E + ((A N^-alpha)^(1/g) + (B D^-beta)^(1/g))^g          (p-norm law)

    g = 1               Hoffmann et al. 2022, arXiv:2203.15556, equation 10 ("Chinchilla")
    E = 0, g = beta     Kaplan et al. 2020, arXiv:2001.08361, equation 1.5, with alpha = alpha_N,
                        beta = alpha_D, A = N_c^alpha_N, B = D_c^alpha_D
    g -> 0              a pure bottleneck: the larger deficit alone

N counts parameters, D tokens, L is in nats per token, and the budget is C = 6 N D FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import ScalingError

Floats = NDArray[np.float64]
FAMILIES = ("pnorm", "chinchilla", "kaplan")
PARAMETERS = ("E", "A", "B", "alpha", "beta", "g")


def floats(values: ArrayLike) -> Floats:
    """A writable float64 copy: integer products such as 6 N D overflow 64 bits."""
    return np.array(values, dtype=np.float64)


@dataclass(frozen=True)
class PNormLaw:
    """L = E + ((A N^-alpha)^(1/g) + (B D^-beta)^(1/g))^g; see the module's text.

    >>> law = PNormLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
    >>> n, d = law.optimum(1e22)
    >>> round(float(law.compute_for_loss(law.loss(n, d))) / 1e22, 9)
    1.0
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    g: float = 1.0
    family: str = "pnorm"

    def __post_init__(self) -> None:
        for name in PARAMETERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
                raise ScalingError(f"law: {name} must be a number, not {value!r}.")
            if not math.isfinite(value) or value < 0 or (value == 0 and name != "E"):
                raise ScalingError(f"law: {name} must be finite and positive, not {value!r}.")
            object.__setattr__(self, name, float(value))
        if self.family not in FAMILIES:
            raise ScalingError(f"law: unknown family {self.family!r}; known are {', '.join(FAMILIES)}.")

    @property
    def a(self) -> float:
        """Exponent of N_opt in C: beta / (alpha + beta); g does not enter."""
        return self.beta / (self.alpha + self.beta)

    @property
    def b(self) -> float:
        """Exponent of D_opt in C: alpha / (alpha + beta)."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def vector(self) -> Floats:
        """(E, A, B, alpha, beta, g)."""
        return np.array([getattr(self, name) for name in PARAMETERS])

    def loss(self, params: ArrayLike, tokens: ArrayLike) -> Floats:
        """Loss in nats per token at N parameters and D tokens (arrays broadcast)."""
        return loss_of(self.vector, floats(params), floats(tokens))

    def optimum(self, flops: ArrayLike) -> tuple[Floats, Floats]:
        """(N, D) of least loss under 6 N D = flops.

        Hoffmann's equation 4 after the substitution alpha/g, beta/g, A^(1/g), B^(1/g):
        N = G (C/6)^a, D = (C/6)^b / G, G^(alpha+beta) = (alpha/beta)^g A/B.
        """
        return optimum_of(self.vector, floats(flops))

    def compute_for_loss(self, loss: ArrayLike) -> Floats:
        """FLOPs at which the optimal allocation reaches `loss`; infinite at or below E."""
        with np.errstate(divide="ignore", invalid="ignore"):
            log_deficit = np.log(floats(loss) - self.E)
        n, d = self.optimum(6.0)
        frontier = math.log(float(self.loss(n, d)) - self.E)  # log deficit at C/6 = 1
        exponent = self.alpha * self.beta / (self.alpha + self.beta)
        with np.errstate(over="ignore"):
            flops = 6.0 * np.exp((frontier - log_deficit) / exponent)
        return np.where(np.isnan(log_deficit), np.inf, flops)

    def to_dict(self) -> dict[str, Any]:
        return {"family": self.family} | {name: getattr(self, name) for name in PARAMETERS}


def loss_of(theta: Floats, params: Floats, tokens: Floats) -> Floats:
    """The p-norm surface for one parameter vector (E, A, B, alpha, beta, g), or for rows of them.

    `theta` of shape (k, 6) with points of shape (n,) gives losses of shape (k, n).
    """
    E, A, B, alpha, beta, g = np.moveaxis(theta, -1, 0)[..., None] if theta.ndim > 1 else theta
    u = (np.log(A) - alpha * np.log(params)) / g
    v = (np.log(B) - beta * np.log(tokens)) / g
    return E + np.exp(g * np.logaddexp(u, v))


def optimum_of(theta: Floats, flops: Floats) -> tuple[Floats, Floats]:
    """(N, D) of least loss for one parameter vector or for rows of them, as in `loss_of`."""
    log_n, log_d = log_optimum_of(theta, flops)
    with np.errstate(over="ignore"):  # a law whose best size is beyond floating point: infinite
        return np.exp(log_n), np.exp(log_d)


def log_optimum_of(theta: Floats, flops: Floats) -> tuple[Floats, Floats]:
    """(ln N, ln D) of `optimum_of`, finite where N or D is not."""
    _, A, B, alpha, beta, g = np.moveaxis(theta, -1, 0)[..., None] if theta.ndim > 1 else theta
    total = alpha + beta
    log_g = (g * np.log(alpha / beta) + np.log(A) - np.log(B)) / total
    log_c = np.log(flops / 6.0)
    return log_g + beta / total * log_c, alpha / total * log_c - log_g


def chinchilla_law(E: float, A: float, B: float, alpha: float, beta: float) -> PNormLaw:
    """Hoffmann et al. 2022, equation 10."""
    return PNormLaw(E, A, B, alpha, beta, 1.0, "chinchilla")


def kaplan_law(n_c: float, d_c: float, alpha_n: float, alpha_d: float) -> PNormLaw:
    """Kaplan et al. 2020, equation 1.5: L = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D."""
    return PNormLaw(0.0, n_c**alpha_n, d_c**alpha_d, alpha_n, alpha_d, alpha_d, "kaplan")


def law_from_dict(value: Mapping[str, Any], where: str = "law") -> PNormLaw:
    """The law written by `to_dict`; `where` names the file in messages. Unknown keys are ignored."""
    missing = [name for name in PARAMETERS[:5] if name not in value]
    if missing:
        raise ScalingError(f"{where}: field {missing[0]!r} of the law is missing.")
    E, A, B, alpha, beta = (value[name] for name in PARAMETERS[:5])
    return PNormLaw(E, A, B, alpha, beta, value.get("g", 1.0), value.get("family", "pnorm"))
