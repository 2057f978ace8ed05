"""Loss surfaces and the decision: closed forms against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import ScalingError
from scaling.laws.decision import band, waste
from scaling.laws.surface import PNormLaw, chinchilla_law, kaplan_law, law_from_dict

laws = st.builds(
    PNormLaw,
    E=st.floats(0.0, 3.0), A=st.floats(1.0, 3000.0), B=st.floats(1.0, 9000.0),
    alpha=st.floats(0.15, 0.8), beta=st.floats(0.15, 0.8), g=st.floats(0.2, 1.5),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(laws, st.floats(15, 25))
def test_the_optimum_is_the_least_loss_of_its_budget(law, log_c):
    c = 10.0**log_c
    n, d = law.optimum(c)
    assert 6 * n * d == pytest.approx(c, rel=1e-9)
    around = n * np.exp(np.linspace(-2, 2, 41))
    assert (law.loss(around, c / 6 / around) >= law.loss(n, d) * (1 - 1e-12)).all()


@settings(max_examples=40, deadline=None)
@given(laws, st.floats(15, 25))
def test_compute_for_loss_inverts_the_frontier(law, log_c):
    c = 10.0**log_c
    n, d = law.optimum(c)
    deficit = float(law.loss(n, d)) - law.E
    if deficit < 1e-6 * (1 + law.E):  # the loss no longer tells budgets apart
        return
    assert law.compute_for_loss(law.loss(n, d)) == pytest.approx(c, rel=1e-4)


def test_the_optimum_follows_the_exponents():
    law = PNormLaw(1.7, 400.0, 1000.0, 0.3, 0.4, 0.6)
    n, d = law.optimum([1e20, 1e22])
    assert np.log10(n[1] / n[0]) / 2 == pytest.approx(law.a, rel=1e-9)
    assert np.log10(d[1] / d[0]) / 2 == pytest.approx(law.b, rel=1e-9)


def test_published_optimum():
    # Besiroglu et al. 2024 (arXiv:2404.10102): 9.05B parameters, 184B tokens, loss 2.1411 at 1e22.
    law = chinchilla_law(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
    n, d = law.optimum(1e22)
    assert n / 1e9 == pytest.approx(9.05, abs=0.05) and d / 1e9 == pytest.approx(184, abs=1)
    assert law.loss(n, d) == pytest.approx(2.1411, abs=2e-3)


def test_kaplan_is_a_member_of_the_family():
    # Equation 1.5 of arXiv:2001.08361 written out.
    law = kaplan_law(8.8e13, 5.4e13, 0.076, 0.095)
    n, d = 1e9, 2e10
    assert law.loss(n, d) == pytest.approx(((8.8e13 / n) ** (0.076 / 0.095) + 5.4e13 / d) ** 0.095)


def test_a_law_survives_its_file():
    law = PNormLaw(1.7, 400.0, 1000.0, 0.3, 0.4, 0.6)
    assert law_from_dict(law.to_dict()) == law
    with pytest.raises(ScalingError, match="beta"):
        law_from_dict({k: v for k, v in law.to_dict().items() if k != "beta"})
    with pytest.raises(ScalingError, match="alpha must be finite and positive"):
        PNormLaw(1.7, 400.0, 1000.0, -0.3, 0.4)


@settings(max_examples=30, deadline=None)
@given(laws, st.floats(16, 24), st.floats(-1.5, 1.5))
def test_waste_is_the_compute_that_the_optimum_saves(law, log_c, shift):
    c = 10.0**log_c
    n = float(law.optimum(c)[0]) * np.exp(shift)
    d = c / 6 / n
    value = float(waste(law, n, d, c))
    assert -1e-9 <= value < 1
    # Waste is scale-free: the same misjudgement of N costs the same share at 1000 times the budget.
    far = float(law.optimum(1000 * c)[0]) * np.exp(shift)
    assert float(waste(law, far, 1000 * c / 6 / far)) == pytest.approx(value, abs=1e-6)


def test_the_band_ends_where_the_waste_is_reached():
    law = chinchilla_law(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
    low, high = band(law, 1e22, 0.02)
    for n in (low, high):
        assert float(waste(law, n, 1e22 / 6 / n)) == pytest.approx(0.02, abs=1e-6)
    assert low < float(law.optimum(1e22)[0]) < high
