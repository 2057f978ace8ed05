"""Published laws: they say what their papers say, each in its own conventions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from scaling.errors import Refusal, UsageError
from scaling.laws import published
from scaling.laws.published import find_law
from scaling.laws.registry import LAWS, TABLE_3, TABLE_A3_APPROACH_2, TABLE_PARAMS
from scaling.laws.surface import optimum_of
from scaling.rivals import panel
from scaling.shape import COUNTS, Shape


@pytest.mark.parametrize(
    ("name", "flops", "params", "tokens"),
    [
        ("palm2", 1e22, 10.7e9, 155.8e9),
        ("palm2", 1e21, 3.35e9, 49.8e9),
        ("besiroglu", 1e20, 853e6, 19.5e9),
        ("besiroglu", 1e22, 9.05e9, 184e9),
        ("besiroglu", 5.76e23, 72.3e9, 1.33e12),
        ("chinchilla-1", 1e22, 9.0e9, 185e9),
        ("chinchilla-3", 1e22, 6.34e9, 263e9),
        ("chinchilla-3", 5.76e23, 40.3e9, 2.38e12),
        ("muennighoff", 1e22, 9.22e9, 181e9),
        ("llama3", 3.8e25, 389e9, 16.29e12),
        ("deepseek", 1e22, 5.87e10 / 6, 170e9),
        ("kaplan", 1e22, 41.7e9, 40e9),
        ("gemstones", 1e22, 5.63e9, 254e9),
        ("nanochat", 1e19, 381.8e6, 3.81e9),
    ],
)
def test_the_optimum_is_the_published_one(name, flops, params, tokens):
    best = find_law(name).optimum(flops)
    tolerance = 0.04 if name == "nanochat" else 0.005  # four noisy points, regressed
    assert best.params == pytest.approx(params, rel=tolerance)
    assert best.tokens == pytest.approx(tokens, rel=tolerance)


def test_besiroglu_optimum_has_the_published_ratio_loss_and_uncertainty():
    law = find_law("besiroglu")
    best = law.optimum(1e22)
    assert best.tokens / best.params == pytest.approx(20.4, abs=0.05)
    assert best.loss == pytest.approx(2.1411, abs=1e-4)
    assert best.params_lo < 0.85 * best.params < 1.18 * best.params < best.params_hi
    draws = law.spread.draws(law.surface)
    a = draws[:, 4] / (draws[:, 3] + draws[:, 4])
    assert a.std() == pytest.approx(0.02, abs=0.002)  # the published standard error of the exponent
    E, _, _, alpha, beta, _ = draws.std(axis=0)
    assert (E, alpha, beta) == pytest.approx((0.02566, 0.0154, 0.0206), rel=0.05)
    # The size is far better known near the runs than far beyond them.
    widths = [np.log(optimum_of(draws, np.array([c]))[0]).std() for c in (1e20, 1e24)]
    assert widths[1] > 3 * widths[0]


@pytest.mark.parametrize(
    ("name", "table", "worst"),
    [("chinchilla-1", TABLE_3, 0.013), ("chinchilla-2", TABLE_A3_APPROACH_2, 0.033)],
)
def test_regressions_reproduce_their_tables(name, table, worst):
    law = find_law(name)
    errors = [abs(math.log(law.optimum(c).params / n)) for c, n in zip(table, TABLE_PARAMS, strict=True)]
    assert max(errors) < worst


def test_the_rounded_chinchilla_coefficients_are_nowhere():
    surfaces = [law.surface for law in LAWS.values() if law.surface is not None]
    for surface in surfaces:
        assert (surface.alpha, surface.beta) != (0.34, 0.28)
        assert (surface.A, surface.B) != (406.4, 410.7)
    source = Path(published.__file__).with_name("registry.py").read_text()
    assert "406.4" not in source
    assert "410.7" not in source


def test_every_law_carries_citation_evidence_and_conventions():
    for law in LAWS.values():
        assert "arXiv:" in law.citation or "github.com" in law.citation
        assert law.place
        assert law.exponents
        assert law.evidence in ("primary", "secondary", "derived")
        assert law.count in COUNTS
        assert law.flops in ("6nd", "non-vocab", "own")
        assert (law.surface is not None) == (law.gives == "loss")
    palm = find_law("PaLM-2")
    assert palm.evidence == "secondary"
    assert "secondary source" in palm.place
    assert any(p.params == 9.5e9 and p.evidence == "primary" for p in palm.points)


def test_each_law_counts_flops_its_own_way_and_never_another_s():
    shape = Shape(layers=4, width=256, heads=4, kv_heads=4, head_dim=64, ffn=688, vocab=32000)
    per_token = {name: find_law(name).flops_per_token(shape, 512) for name in ("palm2", "kaplan", "deepseek")}
    assert per_token["palm2"] == 6 * shape.params("total")
    assert per_token["kaplan"] == 6 * shape.params("non-embedding")
    attention = 12 * 512 * shape.layers * shape.heads * shape.head_dim
    matrices = shape.matmul_params - shape.params_head
    assert per_token["deepseek"] == pytest.approx(6 * matrices + attention)
    for name in ("gemstones", "nanochat"):
        with pytest.raises(Refusal, match=r"does not pin|do not pin"):
            find_law(name).flops_per_token(shape, 512)


def test_the_panel_opens_with_palm2_and_labels_what_is_not_comparable():
    rows = panel(1e22)
    assert [row["law"] for row in rows[:2]] == ["palm2", "palm2 (section 2.2)"]
    assert rows[1]["params"] == 9.5e9
    assert "secondary source" in rows[0]["note"]
    assert {row["law"] for row in rows} >= {"chinchilla-1", "chinchilla-2", "chinchilla-3", "besiroglu"}
    for row in rows:
        if row["count"] != "total":
            assert row["note"]
    assert "palm2 (section 2.2)" not in [row["law"] for row in panel(1e23)]


def test_an_unknown_law_is_named_with_its_neighbours():
    with pytest.raises(UsageError, match="chinchilla-1 or chinchilla-2 or chinchilla-3"):
        find_law("chinchilla")
    with pytest.raises(UsageError, match="known are palm2"):
        find_law("nonsense")
