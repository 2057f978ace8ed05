"""The data-constrained law: the authors' numbers, its limits, its solved optimum, its constants recovered."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import Refusal, ScalingError
from scaling.files import dumps
from scaling.laws.constrained import R_D_STAR, DataConstrainedLaw, constrained_from_dict
from scaling.laws.estimate import Prior, Rows
from scaling.laws.evidence import _known_below
from scaling.laws.robust import Sample
from scaling.laws.surface import PNormLaw, chinchilla_law
from scaling.laws.surface_fit import fit_other, load_other
from scaling.runs import Runs

PAPER = DataConstrainedLaw(
    chinchilla_law(math.exp(0.6254804), math.exp(6.255414), math.exp(7.3049974), 0.3526596, 0.3526596)
)
laws = st.builds(
    DataConstrainedLaw,
    st.builds(
        PNormLaw,
        E=st.floats(0.0, 3.0), A=st.floats(100.0, 900.0), B=st.floats(100.0, 3000.0),
        alpha=st.floats(0.25, 0.5), beta=st.floats(0.25, 0.5), g=st.floats(0.3, 1.2),
    ),
    st.floats(3.0, 40.0),
    st.floats(2.0, 12.0),
)  # fmt: skip


def test_the_authors_own_numbers():
    # Printed in the README of huggingface/datablations: two models on 25B unique tokens, and the better size.
    assert float(PAPER.loss(6.34e9, 242e9, 25e9)) == pytest.approx(2.2256440889984477, rel=1e-12)
    assert float(PAPER.loss(8.67e9, 178e9, 25e9)) == pytest.approx(2.2269634075087867, rel=1e-12)
    n, d = PAPER.optimum(6 * 8.67e9 * 178e9, 25e9)
    assert n / 1e9 == pytest.approx(6.8, abs=0.05) and d / 25e9 == pytest.approx(9.1, abs=0.1)


@settings(max_examples=25, deadline=None)
@given(laws, st.floats(17, 24), st.floats(0.02, 1.0))
def test_fresh_data_leave_the_base_law(law, log_c, share):
    n, d = law.base.optimum(10.0**log_c)
    # Without repetition, and at no more parameters than the data feed, nothing is discounted.
    assert law.loss(share * n, d, d) == pytest.approx(law.base.loss(share * n, d), rel=1e-12)
    assert law.loss(share * n, d) == law.loss(share * n, d, 10 * d)
    solved = law.optimum(10.0**log_c)
    assert float(solved[0]) == pytest.approx(float(n), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(laws, st.floats(18, 23), st.floats(0.002, 0.8))
def test_the_solved_optimum_is_the_least_loss(law, log_c, share):
    c = 10.0**log_c
    unique = float(law.base.optimum(c)[1]) * share
    n, d = law.optimum(c, unique)
    assert 6 * n * d == pytest.approx(c, rel=1e-9)
    every = np.exp(np.linspace(np.log(n) - 12, np.log(n) + 12, 4001))
    every = every[(every > 1) & (c / 6 / every > 1)]
    assert float(law.loss(n, d, unique)) <= law.loss(every, c / 6 / every, unique).min() * (1 + 1e-12)
    # With the same compute, fewer different tokens are never better.
    assert law.loss(n, d, unique) >= law.loss(*law.base.optimum(c)) * (1 - 1e-12)


def test_repeats_are_worth_less_and_less_up_to_a_ceiling():
    epochs = np.array([1, 2, 4, 16, 100, 1e4])
    n_eff, d_eff = PAPER.effective(5e7, 1e9 * epochs, 1e9)
    assert (np.diff(d_eff) > 0).all() and (d_eff <= (1 + R_D_STAR) * 1e9 * (1 + 1e-12)).all()
    assert d_eff[0] == 1e9 and d_eff[-1] / 1e9 == pytest.approx(1 + R_D_STAR)
    assert d_eff[2] / 4e9 > 0.9  # four epochs are almost as good as new data
    assert n_eff == pytest.approx(5e7)  # a billion tokens feed more than these
    fed = PAPER.fed(1e9)
    n, d = PAPER.base.optimum(6 * fed * 1e9)
    assert n == pytest.approx(fed) and d == pytest.approx(1e9)
    sizes, _ = PAPER.effective(fed * np.array([1.0, 2.0, 10.0, 1e4]), 1e9, 1e9)
    assert (np.diff(sizes) > 0).all() and sizes[-1] == pytest.approx((1 + PAPER.r_n) * fed)


def table(law: DataConstrainedLaw, noise: float = 0.0, epochs: float = 30.0, rows: int = 48) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    c = np.repeat([1e18, 1e19, 1e20, 1e21], rows // 4)
    n = law.base.optimum(c)[0] * np.exp(rng.uniform(-2, 2, rows))
    d = c / 6 / n
    u = d / np.exp(rng.uniform(0, np.log(epochs), rows)) if epochs > 1 else d
    loss = law.loss(n, d, u) * np.exp(noise * rng.standard_normal(rows))
    return pd.DataFrame({"params": n, "tokens": d, "unique_tokens": u, "loss": loss})


TRUE = DataConstrainedLaw(chinchilla_law(1.8172, 482.01, 2085.43, 0.3478, 0.3658), 8.0, 4.0)


@pytest.mark.parametrize("g", [1.0, 0.6])
def test_a_noiseless_law_comes_back_with_its_constants(g):
    law = DataConstrainedLaw(dataclasses.replace(TRUE.base, g=g, family="pnorm"), 8.0, 4.0)
    family = "data-constrained-chinchilla" if g == 1 else "data-constrained"
    fit = fit_other(Runs.from_frame(table(law)), family, prior=None, repetition="both", bootstrap=20)
    assert fit.vector == pytest.approx(law.vector, rel=1e-5)
    assert fit.record["certificate"]["agree"] >= 2 and not fit.record["certificate"]["not_identified"]


def test_intervals_hold_the_constants_and_a_new_run():
    fit = fit_other(
        Runs.from_frame(table(TRUE, 0.004)),
        "data-constrained-chinchilla",
        prior=None,
        repetition="both",
        bootstrap=80,
    )
    for name, true in (("r_d", 8.0), ("r_n", 4.0)):
        low, high = fit.record["intervals"][name]
        assert low * 0.9 < true < high * 1.1 and high / low < 2
    n, d = TRUE.optimum(1e22, 2e10)
    loss, low, high = fit.predict({"params": n, "tokens": d, "unique_tokens": 2e10})
    assert low < TRUE.loss(n, d, 2e10) < high and (high - low) / loss < 0.1
    size, n_low, n_high, tokens = fit.optimum([1e22], {"unique_tokens": [2e10]})
    assert n_low < n < n_high and 6 * size * tokens == pytest.approx(1e22)


def test_published_constants_are_held_and_a_table_without_repeats_says_so():
    fresh = Runs.from_frame(table(TRUE, 0.004, epochs=1.0))
    fit = fit_other(fresh, "data-constrained", bootstrap=20)
    assert fit.law["r_d"] == R_D_STAR and fit.record["intervals"]["r_d"] == [R_D_STAR, R_D_STAR]
    assert any("published constants alone" in note for note in fit.record["notes"])
    assert {"prior_free", "with_prior"} == set(fit.record["exponents"])
    with pytest.raises(Refusal, match="cannot determine R_D"):
        fit_other(fresh, "data-constrained", repetition="tokens")
    with pytest.raises(ScalingError, match="column unique_tokens"):
        fit_other(Runs.from_frame(table(TRUE).drop(columns="unique_tokens")), "data-constrained")


def test_a_constant_that_the_table_cannot_know_is_refused():
    # No run has more parameters than its data feed, so R_N* leaves no trace.
    frame = table(TRUE)
    frame["params"] = TRUE.fed(frame["unique_tokens"]) * np.exp(
        np.random.default_rng(0).uniform(-3, 0, len(frame))
    )
    frame["loss"] = TRUE.loss(frame["params"], frame["tokens"], frame["unique_tokens"])
    frame["loss"] *= np.exp(0.004 * np.random.default_rng(1).standard_normal(len(frame)))
    runs = Runs.from_frame(frame)
    with pytest.raises(Refusal, match=r"r_n|R_N\*"):
        fit_other(runs, "data-constrained-chinchilla", prior=None, repetition="both")
    fit = fit_other(runs, "data-constrained-chinchilla", prior=None, repetition="tokens", bootstrap=40)
    assert fit.law["r_d"] == pytest.approx(8.0, rel=0.3)


def test_it_survives_its_file_and_is_deterministic():
    runs = Runs.from_frame(table(TRUE, 0.004))
    fit = fit_other(runs, "data-constrained", repetition="tokens", bootstrap=30)
    value = json.loads(dumps(fit.to_dict()))
    again = load_other(value, "fit.json")
    where = {"params": [1e9, 1e9], "tokens": [1e11, 1e11], "unique_tokens": [1e10, np.nan]}
    for ours, theirs in zip(fit.predict(where), again.predict(where), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert fit.to_dict() == fit_other(runs, "data-constrained", repetition="tokens", bootstrap=30).to_dict()
    assert constrained_from_dict(value["law"]).loss(1e9, 1e11, 1e10) == pytest.approx(
        fit.predict(where)[0][0]
    )
    del value["law"]["r_d"]
    with pytest.raises(ScalingError, match="'r_d'"):
        load_other(value, "fit.json")


def test_the_interval_of_the_best_size_reaches_what_the_data_alone_say():
    """A true a of 1/3 is far from the prior's 1/2; what the prior pulls, no resampling sees."""
    rng = np.random.default_rng(1)
    law = PNormLaw(1.8, 400 * 1e8**0.06, 400 * 1e9**-0.08, 0.4, 0.2, 0.7)
    budget = np.repeat([1e17, 3e17, 1e18, 3e18], 6)
    n = law.optimum(budget)[0] * np.tile(np.geomspace(0.25, 4, 6), 4)
    d = budget / (6 * n)
    loss = law.loss(n, d) * np.exp(0.004 * rng.standard_normal(24))
    runs = Runs.from_frame(pd.DataFrame({"params": n, "tokens": d, "loss": loss, "unique_tokens": d}))
    fit = fit_other(runs, "data-constrained", bootstrap=50)
    _, low, high, _ = (float(v[0]) for v in fit.optimum([1e21]))
    alone, _ = fit.surface.best(fit.prior_free[None], np.array([1e21]), {})
    assert low <= alone[0, 0] <= high and low <= law.optimum(1e21)[0] <= high


def test_a_forward_split_knows_no_loss_above_its_cut():
    n, d = np.geomspace(1e7, 1e9, 9), np.geomspace(1e9, 1e11, 9)
    rows = Rows.of(n, d, 1.7 + 500 * n**-0.34 + 400 * d**-0.28)
    whole, below = Sample(rows, {}), Sample(rows.select(np.arange(9) < 5), {})
    stated, known = Prior().rows("pnorm", rows.loss.min()), Prior().rows("pnorm", below.rows.loss.min())
    for one, other in zip(_known_below(stated, below, whole), known, strict=True):
        assert one == pytest.approx(other)
