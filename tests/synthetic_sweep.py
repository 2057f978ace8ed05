"""A sweep whose law is known: the runs that a p-norm law would give, with seed noise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from scaling.laws.surface import PNormLaw
from scaling.recipe import Recipe
from scaling.shape import ShapeFamily

TRUTH = PNormLaw(E=0.9, A=30.0, B=250.0, alpha=0.33, beta=0.36, g=0.7)
FAMILY = ShapeFamily(vocab=128, head_dim=16)
RECIPE = Recipe()
DATA = "ab" * 32
BUDGET = 1e13  # FLOPs of the planned run, causal


def sweep_table(noise: float = 0.004, budgets=(3e10, 1e11, 3e11, 1e12, 3e12)) -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for budget in budgets:
        for width in (8, 16, 24, 32, 48, 64, 96, 128):
            shape = FAMILY.shape(width)
            tokens = budget / shape.flops_per_token(RECIPE.seq, "model_causal")
            if not 10 < tokens / shape.params() < 1500:
                continue
            for seed in (0, 1):
                rows.append(
                    {
                        "params": shape.params(),
                        "tokens": tokens,
                        "loss": float(TRUTH.loss(shape.params(), tokens))
                        * math.exp(noise * rng.standard_normal()),
                        "flops": budget,
                        "flops_model_causal": budget,
                        "budget": budget,
                        "seed": seed,
                        "run": f"{budget:g}-{width}-{seed}",
                    }
                )
    return pd.DataFrame(rows)
