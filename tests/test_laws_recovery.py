"""Without noise and without a prior a law comes back exactly, from any grid that brackets its optimum.

Parabolas lack this property: they are biased, the more the wider the grid and the further off centre.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.laws.estimate import Estimate, Rows, estimate
from scaling.laws.fit import fit
from scaling.laws.surface import FAMILIES, PNormLaw
from scaling.runs import Runs

EXACT = 1e-9
LEAST = 0.1


@st.composite
def laws(draw, family: str, least: float):
    """(law, FLOPs in its middle): exponents from `least`, deficits and E from a twentieth to several nats."""
    uniform, log_uniform = st.floats, lambda low, high: st.floats(math.log(low), math.log(high)).map(math.exp)
    alpha, beta = draw(uniform(least, 1.2)), draw(uniform(least, 1.2))
    g = {"chinchilla": 1.0, "kaplan": beta}.get(family) or draw(log_uniform(0.1, 2.0))
    floor = 0.0 if family == "kaplan" else draw(log_uniform(0.05, 5.0))
    flops, ratio = draw(log_uniform(1e11, 1e24)), draw(log_uniform(1.0, 1e3))
    n = math.sqrt(flops / 6 / ratio)
    by_n, by_d = draw(uniform(0.05, 2.0)), draw(uniform(0.05, 2.0))
    return PNormLaw(floor, by_n * n**alpha, by_d * (n * ratio) ** beta, alpha, beta, g, family), flops


@st.composite
def grids(draw, law: PNormLaw, flops: float):
    """(N, D) of 3 to 5 budgets over 1 to 3 decades, 5 to 9 sizes each, each bracketing its optimum anyhow."""
    span = draw(st.floats(1.0, 3.0)) / 2
    sizes, tokens = [], []
    for budget in np.geomspace(flops / 10**span, flops * 10**span, draw(st.integers(3, 5))):
        below, above = draw(st.floats(0.3, 3.0)), draw(st.floats(0.3, 3.0))
        n = law.optimum(budget)[0] * np.exp(np.linspace(-below, above, draw(st.integers(5, 9))))
        sizes.append(n)
        tokens.append(budget / 6 / n)
    return np.concatenate(sizes), np.concatenate(tokens)


def recovered(law: PNormLaw, n: np.ndarray, d: np.ndarray) -> tuple[Estimate, float]:
    """The fit, and how far its optimum is off inside the grid and up to 100 times beyond."""
    found = estimate(Rows.of(n, d, law.loss(n, d)), law.family, None)
    return found, worst(found.law, law, 6 * n * d)


def worst(found: PNormLaw, law: PNormLaw, flops: np.ndarray) -> float:
    asked = np.array([flops.min(), flops.max(), 100 * flops.max()])
    return float(np.abs(np.array(found.optimum(asked)) / np.array(law.optimum(asked)) - 1).max())


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_optimum_is_exact_for_any_law_and_any_bracketing_grid(family, data):
    law, flops = data.draw(laws(family, LEAST))
    _, error = recovered(law, *data.draw(grids(law, flops)))
    assert error < EXACT


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_valley_too_flat_to_finish_in_is_never_called_finished(data):
    """With exponents down to .05, E, exponents and g trade against each other within parts in a million."""
    law, flops = data.draw(laws("pnorm", least=0.05))
    found, error = recovered(law, *data.draw(grids(law, flops)))
    assert error < EXACT or not found.solution.converged[found.best]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_fit_keeps_it(family):
    """`fit` with its validation, intervals and refusals, on an off-centre grid of one law a family."""
    law = {
        "chinchilla": PNormLaw(1.6, 300.0, 30000.0, 0.28, 0.52, 1.0, "chinchilla"),
        "pnorm": PNormLaw(1.7, 400.0, 1200.0, 0.33, 0.36, 0.6),
        "kaplan": PNormLaw(0.0, 11.4, 20.1, 0.076, 0.095, 0.095, "kaplan"),
    }[family]
    budgets = np.repeat([1e18, 1e19, 1e20, 1e21], 7)
    n = law.optimum(budgets)[0] * np.tile(np.exp(np.linspace(-0.5, 2.8, 7)), 4)
    d = budgets / 6 / n
    table = pd.DataFrame({"params": n, "tokens": d, "loss": law.loss(n, d)})
    found = fit(Runs.from_frame(table), family, prior=None, bootstrap=20)
    assert worst(found.law, law, budgets) < EXACT
