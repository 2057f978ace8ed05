"""What a run would teach: Fisher information of (N, D) points about the optimum at a target budget.

With normal noise of standard deviation s in log loss, a run at (N, D) adds J^T J / s^2 to the information
about the law's coordinates, J the gradient of ln L there; the variance of any answer with gradient c
is then c^T I^-1 c (the delta method). Coordinates are those of the fit: (ln E, a, b, alpha, beta, ln g),
a and b the log deficits at a centre (ln N0, ln D0), which decorrelates them from the exponents.

The law is the p-norm law of surface.py; `laws` are rows (E, A, B, alpha, beta, g), shape (k, 6).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from scaling.laws.estimate import Prior
from scaling.laws.surface import Floats, loss_of, optimum_of

Centre = tuple[float, float]
VAGUE = 3.0  # sd of the deficits a and b, on which no prior speaks: a factor of 20 either way
STEP = 1e-5


def sensitivity(laws: Floats, params: Floats, tokens: Floats, centre: Centre) -> Floats:
    """Gradient of ln L at n points under k laws, (k, n, 6)."""
    E, A, B, alpha, beta, g = (column[:, None] for column in laws.T)
    x, y = np.log(params), np.log(tokens)
    u, v = np.log(A) - alpha * x, np.log(B) - beta * y
    z = (u - v) / g
    p = 1.0 / (1.0 + np.exp(-np.clip(z, -500.0, 500.0)))
    deficit = np.exp(g * np.logaddexp(u / g, v / g))
    q = deficit / (E + deficit)
    entropy = np.logaddexp(0.0, z) - p * z
    x, y = x - centre[0], y - centre[1]
    parts = [1.0 - q, q * p, q * (1.0 - p), -q * p * x, -q * (1.0 - p) * y, q * g * entropy]
    return np.stack(np.broadcast_arrays(*parts), axis=-1)


def prior_information(prior: Prior | None, smallest_loss: float) -> Floats:
    """What is known before any run, (6, 6): the shrinkage prior, and next to nothing about a and b."""
    out = np.diag([0.0, 1.0, 1.0, 0.0, 0.0, 0.0]) / VAGUE**2
    out += np.eye(6) * 1e-9  # keeps the matrix invertible where the prior is silent
    if prior is not None:
        c, _, s = prior.rows("pnorm", smallest_loss)
        out += (c.T / s**2) @ c
    return out


def size_gradient(laws: Floats, flops: float, centre: Centre) -> Floats:
    """Gradient of ln N_opt at 6 N D = flops, (k, 6)."""
    return _gradient(lambda rows: np.log(optimum_of(rows, np.array([flops]))[0])[:, 0], laws, centre)


def loss_gradient(laws: Floats, flops: float, centre: Centre) -> Floats:
    """Gradient of ln L at each law's own optimum for 6 N D = flops, (k, 6); there dL/dN = 0 along 6 N D."""

    def best(rows: Floats) -> Floats:
        n, d = optimum_of(rows, np.array([flops]))
        return np.array([math.log(float(loss_of(row, n[i, 0], d[i, 0]))) for i, row in enumerate(rows)])

    return _gradient(best, laws, centre)


def variance(information: Floats, gradient: Floats) -> Floats:
    """c^T I^-1 c for k matrices (k, 6, 6) and gradients (k, 6)."""
    return np.einsum("ki,ki->k", gradient, np.linalg.solve(information, gradient[..., None])[..., 0])


def _gradient(answer: Callable[[Floats], Floats], laws: Floats, centre: Centre) -> Floats:
    theta = centred(laws, centre)
    out = np.empty_like(theta)
    for j in range(6):
        up, down = theta.copy(), theta.copy()
        up[:, j] += STEP
        down[:, j] -= STEP
        out[:, j] = (answer(uncentred(up, centre)) - answer(uncentred(down, centre))) / (2 * STEP)
    return out


def centred(laws: Floats, centre: Centre) -> Floats:
    """Laws (k, 6) in the fit's coordinates about `centre`."""
    E, A, B, alpha, beta, g = laws.T
    a, b = np.log(A) - alpha * centre[0], np.log(B) - beta * centre[1]
    return np.stack([np.log(np.maximum(E, 1e-300)), a, b, alpha, beta, np.log(g)], axis=-1)


def uncentred(theta: Floats, centre: Centre) -> Floats:
    e, a, b, alpha, beta, log_g = theta.T
    A, B = np.exp(a + alpha * centre[0]), np.exp(b + beta * centre[1])
    return np.stack([np.exp(e), A, B, alpha, beta, np.exp(log_g)], axis=-1)
