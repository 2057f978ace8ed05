"""The data-constrained law: what a run that repeats its data is worth.

Muennighoff et al. 2023, arXiv:2305.16264, section 3.2 and the authors' repository. A run of N
parameters sees D tokens of which U are unique. Repeated tokens, and parameters beyond what U
unique tokens can feed, count for less and less:

    U_D = min(U, D)         R_D = D / U_D - 1        repetitions after the first epoch
    U_N = min(N, N_opt(U_D))  R_N = N / U_N - 1        N_opt(U_D): the size for which U_D is compute-optimal
    D' = U_D (1 + R_D* (1 - exp(-R_D / R_D*)))       effective tokens, at most (1 + R_D*) U_D
    N' = U_N (1 + R_N* (1 - exp(-R_N / R_N*)))       effective parameters, at most (1 + R_N*) U_N
    L(N, D, U) = base(N', D')

`base` is any p-norm law; the paper's is Chinchilla's form (g = 1). N_opt(U_D) is on the base law's
line of optima: N = G (G U_D)^(beta/alpha), G^(alpha+beta) = (alpha/beta)^g A/B. Without repetition
(U >= D) and with N at most N_opt(D) the law is exactly its base, so their optima agree there; a
size beyond N_opt(D) is discounted even in a single epoch, as in the authors' code.

N counts parameters, D and U tokens, L is nats per token, and the budget is C = 6 N D FLOPs with D
the tokens processed, repeats included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import ScalingError
from scaling.laws.search import least
from scaling.laws.surface import PARAMETERS, Floats, PNormLaw, floats, law_from_dict

R_D_STAR, R_N_STAR = 15.387756, 5.309743
CITATION = "Muennighoff et al. 2023, arXiv:2305.16264; constants from the repository huggingface/datablations"
NAMES = (*PARAMETERS, "r_d", "r_n")
REACH = 16.0  # ln N is searched this far on either side of the base law's optimum


@dataclass(frozen=True)
class DataConstrainedLaw:
    """`base` at effective parameters and tokens; see the module's text.

    >>> law = DataConstrainedLaw(PNormLaw(1.87, 521.0, 1488.0, 0.35, 0.35))
    >>> n, d = law.effective(1e9, 1e13, 1e9)
    >>> round(float(d / 1e9), 2)  # however often a billion tokens are repeated
    16.39
    """

    base: PNormLaw
    r_d: float = R_D_STAR
    r_n: float = R_N_STAR

    def __post_init__(self) -> None:
        for name in ("r_d", "r_n"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
                raise ScalingError(f"law: {name} must be a number, not {value!r}.")
            if not (math.isfinite(value) and value > 0):
                raise ScalingError(f"law: {name} must be finite and positive, not {value!r}.")
            object.__setattr__(self, name, float(value))

    @property
    def vector(self) -> Floats:
        """(E, A, B, alpha, beta, g, R_D*, R_N*)."""
        return np.append(self.base.vector, [self.r_d, self.r_n])

    def fed(self, unique: ArrayLike) -> Floats:
        """N_opt(U): the parameters for which `unique` tokens, seen once, are compute-optimal."""
        return np.exp(_log_fed(self.vector, floats(unique)))

    def effective(
        self, params: ArrayLike, tokens: ArrayLike, unique: ArrayLike | None = None
    ) -> tuple[Floats, Floats]:
        """(N', D') of N parameters on D tokens, `unique` of them different (None: all)."""
        n, d, u = _broadcast(params, tokens, unique)
        return effective_of(self.vector, n, d, u)

    def loss(self, params: ArrayLike, tokens: ArrayLike, unique: ArrayLike | None = None) -> Floats:
        """Loss in nats per token; `unique` None means that no token is repeated."""
        n, d, u = _broadcast(params, tokens, unique)
        return constrained_loss(self.vector, n, d, u)

    def optimum(self, flops: ArrayLike, unique: ArrayLike | None = None) -> tuple[Floats, Floats]:
        """(N, D) of least loss under 6 N D = flops with `unique` tokens at hand, solved numerically."""
        c, u = np.broadcast_arrays(floats(flops), np.inf if unique is None else floats(unique))
        n = constrained_optimum(self.vector[None], c.ravel(), u.ravel())[0].reshape(c.shape)
        return n, c / (6.0 * n)

    def to_dict(self) -> dict[str, Any]:
        return {**self.base.to_dict(), "family": "data-constrained", "r_d": self.r_d, "r_n": self.r_n}


def constrained_from_dict(value: Mapping[str, Any], where: str = "law") -> DataConstrainedLaw:
    """The law written by `to_dict`; `where` names the file in messages."""
    for name in ("r_d", "r_n"):
        if name not in value:
            raise ScalingError(f"{where}: field {name!r} of the law is missing.")
    base = law_from_dict({**value, "family": "pnorm"}, where)
    return DataConstrainedLaw(base, value["r_d"], value["r_n"])


def saturating(repeats: Floats, star: Floats) -> Floats:
    """star (1 - exp(-repeats / star)): how many fresh repeats the repeats are worth."""
    return -star * np.expm1(-repeats / star)


def effective_tokens(tokens: Floats, unique: Floats, r_d: float = R_D_STAR) -> Floats:
    """D' of D tokens, `unique` of them different; it needs no other part of the law."""
    u = np.minimum(unique, tokens)
    return u * (1.0 + saturating(tokens / u - 1.0, floats(r_d)))


def effective_of(theta: Floats, n: Floats, d: Floats, u: Floats) -> tuple[Floats, Floats]:
    """(N', D') for one vector of NAMES (8,), or for rows of them (k, 8): then (k, n) each."""
    return _effective(_parts(theta), n, d, u)


def constrained_loss(theta: Floats, n: Floats, d: Floats, u: Floats) -> Floats:
    """The surface for one vector of NAMES, or for rows of them: (k, n)."""
    parts = _parts(theta)
    return parts[0] + np.exp(_log_deficit(parts, n, d, u))


def constrained_optimum(theta: Floats, flops: Floats, unique: Floats) -> Floats:
    """N of least loss for rows of NAMES (k, 8) at m budgets: (k, m). There is no closed form."""
    k, m = len(theta), len(flops)
    parts = _parts(np.repeat(theta, m, axis=0))  # one line to search per (law, budget)
    c, u = np.tile(flops, k)[:, None], np.tile(unique, k)[:, None]
    centre = 0.5 * np.log(c[:, 0] / 6.0)
    # The deficit, not the loss: beside a large E it would be too flat to place its minimum.
    log_n, _ = least(
        lambda x: _log_deficit(parts, np.exp(x), c / (6.0 * np.exp(x)), u), centre - REACH, centre + REACH
    )
    return np.exp(log_n).reshape(k, m)


def _parts(theta: Floats) -> Floats:
    """The eight parameters one by one, each as a column where theta has rows."""
    return np.moveaxis(theta, -1, 0)[..., None] if theta.ndim > 1 else theta


def _log_fed(parts: Floats, u: Floats) -> Floats:
    _, A, B, alpha, beta, g, _, _ = parts
    log_g = (g * np.log(alpha / beta) + np.log(A) - np.log(B)) / (alpha + beta)
    return log_g + beta / alpha * (log_g + np.log(u))


def _effective(parts: Floats, n: Floats, d: Floats, u: Floats) -> tuple[Floats, Floats]:
    r_d, r_n = parts[6], parts[7]
    u = np.minimum(u, d)
    u_n = np.exp(np.minimum(np.log(n), _log_fed(parts, u)))
    excess = np.maximum(n / u_n - 1.0, 0.0)
    return u_n * (1.0 + saturating(excess, r_n)), u * (1.0 + saturating(d / u - 1.0, r_d))


def _log_deficit(parts: Floats, n: Floats, d: Floats, u: Floats) -> Floats:
    """ln(L - E)."""
    _, A, B, alpha, beta, g, _, _ = parts
    n_eff, d_eff = _effective(parts, n, d, u)
    x, y = (np.log(A) - alpha * np.log(n_eff)) / g, (np.log(B) - beta * np.log(d_eff)) / g
    return g * np.logaddexp(x, y)


def _broadcast(
    params: ArrayLike, tokens: ArrayLike, unique: ArrayLike | None
) -> tuple[Floats, Floats, Floats]:
    n, d = floats(params), floats(tokens)
    u = d if unique is None else floats(unique)
    n, d, u = np.broadcast_arrays(n, d, u)
    return n, d, u
