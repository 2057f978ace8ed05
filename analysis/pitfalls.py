"""The size of common mistakes, computed: from published surfaces without noise, by simulation, from own runs.

Each function answers one question of docs/pitfalls.md with numbers; `benchmarks/pitfalls.py` prints them and
draws the figures (analysis/figures/pitfalls.py). N parameters, D tokens, C = 6 N D FLOPs, L nats per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize

import scaling
from scaling.laws.surface import Floats, PNormLaw

DATA = Path(__file__).parent / "data"
BUDGETS = np.geomspace(1e18, 1e21, 4)
FAR = 1e24  # FLOPs
SIZES = 7


def parabola_error(
    law: PNormLaw, spread: float, centre: float = 1.0, drift: float = 1.0, at: float = FAR
) -> float:
    """Relative error of D_opt at `at` FLOPs by Approach 2, without any noise.

    Seven sizes within x `spread` of `centre` times the optimum, at the dearest budget of `centre * drift`
    times the optimum; a parabola in ln N for each budget, a line through the vertices.
    """
    vertices = []
    for budget, off in zip(BUDGETS, centre * np.geomspace(1, drift, len(BUDGETS)), strict=True):
        n = float(law.optimum(budget)[0]) * off * np.geomspace(1 / spread, spread, SIZES)
        x = np.log(n)
        curve = np.polyfit(x - x.mean(), law.loss(n, budget / (6 * n)), 2)
        vertices.append(x.mean() - curve[1] / (2 * curve[0]))
    line = np.polyfit(np.log(BUDGETS), vertices, 1)
    n = np.exp(np.polyval(line, np.log(at)))
    return float(at / (6 * n) / law.optimum(at)[1] - 1)


def flatness(law: PNormLaw, flops: float, factors: Sequence[float]) -> pd.DataFrame:
    """What a size `factor` times the best one costs at fixed compute: excess loss and waste of compute."""
    n = float(law.optimum(flops)[0]) * np.asarray(factors)
    d = flops / (6 * n)
    excess = law.loss(n, d) / float(law.loss(*law.optimum(flops))) - 1
    return pd.DataFrame({"factor": factors, "excess_loss": excess, "waste": scaling.waste(law, n, d)})


def counting() -> dict[str, tuple[scaling.Runs, scaling.Fit]]:
    """The bundled sweep fitted with all parameters and without embeddings, prior-free."""
    runs = own_sweep()
    return {c: (runs, scaling.fit(runs, count=c, prior=None)) for c in ("total", "non-embedding")}


def few_steps() -> pd.DataFrame:
    """Steps of each run of the bundled sweep, and how far it lies off a law fitted to the runs of 1000 steps
    or more (a share of the loss)."""
    runs = own_sweep()
    long = runs.column("steps") >= 1000
    fit = scaling.fit(runs.select(long))
    residual = runs.loss / fit.loss(runs.params(), runs.tokens) - 1
    return pd.DataFrame({"steps": runs.column("steps"), "residual": residual})


def own_sweep() -> scaling.Runs:
    table = pd.read_csv(DATA / "own_cpu_sweep.csv").drop(columns="flops")
    return scaling.Runs.from_frame(table, source="own_cpu_sweep.csv")


def undecayed() -> pd.DataFrame:
    """The same cells with the rate decayed to zero and kept constant (own_schedules.csv)."""
    return pd.read_csv(DATA / "own_schedules.csv")


def repetition(epochs: Sequence[float], r_star: float = 15.387756) -> pd.DataFrame:
    """What D tokens are worth that repeat U = D / epochs: D'/U by Muennighoff et al. 2023 (R_D* of their
    repository), and the loss of 8.7e9 parameters on U = 50e9 tokens, counted as fresh and as worth."""
    law = scaling.find_law("muennighoff").surface
    assert law is not None
    e, unique, n = np.asarray(epochs, float), 50e9, 8.7e9
    worth = 1 + r_star * (1 - np.exp(-(e - 1) / r_star))
    fresh, true = law.loss(n, e * unique), law.loss(n, worth * unique)
    return pd.DataFrame({"epochs": e, "worth": worth, "loss_fresh": fresh, "loss": true})


# Where Besiroglu et al. 2024 suspect that the original fit stopped: the values printed by Hoffmann et al.
START = {"a": np.log(406.4), "b": np.log(410.7), "e": np.log(1.69), "alpha": 0.34, "beta": 0.28}


def stopped(tables: int = 12, rows: int = 240, noise: float = 0.01, delta: float = 1e-3) -> pd.DataFrame:
    """Tokens per parameter planned for 1e22 FLOPs from simulated tables, by three ways to minimise one loss.

    Tables: runs of a known law (Besiroglu et al. 2024), 1e18 to 1e22 FLOPs, D/N of 2 to 300. The loss is
    Huber's of log residuals. `mean` and `sum`: L-BFGS-B of scipy with its defaults from START; `ours`: this
    project's fit of the same form and threshold.
    """
    law = scaling.find_law("besiroglu").surface
    assert law is not None
    found = []
    for seed in range(tables):
        rng = np.random.default_rng(seed)
        c, ratio = 10 ** rng.uniform(18, 22, rows), np.exp(rng.uniform(np.log(2), np.log(300), rows))
        n = np.sqrt(c / (6 * ratio))
        loss = law.loss(n, n * ratio) * np.exp(noise * rng.standard_normal(rows))
        row: dict[str, Any] = {"seed": seed}
        for name, scale in (("mean", 1 / rows), ("sum", 1.0)):
            row[name], row[f"{name}_success"] = _ratio_by_scipy(n, n * ratio, loss, delta, scale)
        table = pd.DataFrame({"params": n, "tokens": n * ratio, "loss": loss})
        fit = scaling.fit(scaling.Runs.from_frame(table), "chinchilla", prior=None, delta=delta, bootstrap=20)
        row["ours"] = float(fit.d_opt(1e22)[0] / fit.n_opt(1e22)[0])
        found.append(row)
    return pd.DataFrame(found)


def _ratio_by_scipy(n: Floats, d: Floats, loss: Floats, delta: float, scale: float) -> tuple[float, bool]:
    """(D/N at 1e22 FLOPs, scipy's success flag) of the minimum that L-BFGS-B reports."""
    log_n, log_d, log_l = np.log(n), np.log(d), np.log(loss)

    def objective(p: Floats) -> float:
        a, b, e, alpha, beta = p
        parts = np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e) - log_l
        size = np.abs(parts)
        return scale * float(np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum())

    done = minimize(objective, np.array(list(START.values())), method="L-BFGS-B")
    a, b, e, alpha, beta = done.x
    fitted = scaling.chinchilla_law(np.exp(e), np.exp(a), np.exp(b), alpha, beta)
    best_n, best_d = fitted.optimum(1e22)
    return float(best_d / best_n), bool(done.success)


def span(spans: Sequence[float], tables: int = 16, noise: float = 0.004) -> pd.DataFrame:
    """Error of the size planned for 100 times the dearest run, against the span of the sweep's budgets.

    Simulated: 24 runs (4 budgets, 6 sizes within x4 of the optimum) of the law of Besiroglu et al., dearest
    budget 1e21, prior-free fits of the right form. `error` is the typical factor, exp(mean |ln N / N_opt|).
    """
    law = scaling.find_law("besiroglu").surface
    assert law is not None
    rows = []
    for width in spans:
        budgets = np.repeat(np.geomspace(1e21 / width, 1e21, 4), 6)
        n = law.optimum(budgets)[0] * np.tile(np.geomspace(0.25, 4, 6), 4)
        d = budgets / (6 * n)
        off = []
        for seed in range(tables):
            rng = np.random.default_rng(seed)
            table = pd.DataFrame({"params": n, "tokens": d})
            table["loss"] = law.loss(n, d) * np.exp(noise * rng.standard_normal(len(n)))
            fit = scaling.fit(scaling.Runs.from_frame(table), "chinchilla", prior=None, bootstrap=20)
            off.append(np.log(float(fit.n_opt(1e23)[0]) / float(law.optimum(1e23)[0])))
        rows.append(
            {"span": width, "error": float(np.exp(np.abs(off).mean())), "worst": np.exp(np.abs(off).max())}
        )
    return pd.DataFrame(rows)


def rounded(flops: float = 5.76e23) -> dict[str, float]:
    """N_opt of Chinchilla's approach 3 at `flops`, by the coefficients as printed and at full precision."""
    full = scaling.find_law("chinchilla-3").surface
    assert full is not None
    printed = scaling.chinchilla_law(1.69, 406.4, 410.7, 0.34, 0.28)
    return {"printed": float(printed.optimum(flops)[0]), "full": float(full.optimum(flops)[0])}


def cost_of_no_decay(table: pd.DataFrame) -> dict[str, float]:
    """Mean excess loss of the constant rate, and both fits' exponent and size at 100 times the compute."""
    found = {"excess": float((table["loss_constant"] / table["loss"] - 1).mean())}
    for name in ("loss", "loss_constant"):
        runs = scaling.Runs.from_frame(table[["params", "tokens", "steps"]].assign(loss=table[name]))
        fit = scaling.fit(runs)
        far = 100 * fit.c_max_6nd
        n, d = fit.n_opt(far)[0], fit.d_opt(far)[0]
        found |= {f"{name}_a": fit.law.a, f"{name}_n": float(n), f"{name}_far": float(fit.loss(n, d))}
    return found
