"""Laws that a sweep might meet, before any run of it: what designs are chosen and judged against.

The exponents, the norm and the share of E are drawn about the centres of the fit's prior
(scaling.laws.estimate.Prior, derived from public run tables), g evenly over .3 to 1 since every value in
that range has been seen; the optimum at one budget is drawn about the design's own guess of it.
"""

from __future__ import annotations

import numpy as np

from scaling.laws.estimate import Prior
from scaling.laws.surface import Floats

NORMS = (0.3, 1.0)
LEVEL_SD, LEVEL_RANGE = 0.06, (0.15, 0.5)  # of (alpha + beta)/2: between families of public run tables
GUESS_SD = 0.3  # ln N: how far off the guess of one optimum may be
LOSS = 3.0  # nats per token at the anchor; only ratios matter


def plausible_laws(count: int, seed: int, budget: float, params: float, guess_sd: float = GUESS_SD) -> Floats:
    """`count` rows (E, A, B, alpha, beta, g) whose optimum at 6 N D = `budget` scatters about `params`.

    At that budget the loss is LOSS and E the drawn share of it, split between the two deficits as the
    first-order condition alpha u^(1/g) = beta v^(1/g) demands (u, v the deficits of N and D).
    """
    rng, prior = np.random.default_rng(seed), Prior()
    level = np.clip(prior.exponent + LEVEL_SD * rng.standard_normal(count), *LEVEL_RANGE)
    difference = (prior.difference_sd or 0.0) * rng.standard_normal(count)
    alpha, beta = level + difference / 2, level - difference / 2
    g = rng.uniform(*NORMS, count)
    share = np.clip(prior.e_share * np.exp((prior.e_sd or 0.0) * rng.standard_normal(count)), 0.2, 0.97)
    n = params * np.exp(guess_sd * rng.standard_normal(count))
    d = budget / 6 / n
    ratio = alpha / beta
    u = LOSS * (1 - share) / (1 + ratio) ** g
    return np.stack([LOSS * share, u * n**alpha, u * ratio**g * d**beta, alpha, beta, g], axis=-1)
