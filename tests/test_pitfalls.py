"""docs/pitfalls.md says what the computation says, and its figures draw."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import scaling
from analysis import pitfalls
from analysis.figures import pitfalls as draw

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "pitfalls.md").read_text()


def test_parabolas_are_exact_only_on_a_symmetric_surface():
    even = scaling.chinchilla_law(1.7, 400.0, 400.0, 0.3, 0.3)
    assert pitfalls.parabola_error(even, 8) == pytest.approx(0, abs=1e-9)
    hoffmann = scaling.find_law("chinchilla-3").surface
    errors = [pitfalls.parabola_error(hoffmann, spread) for spread in (2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    # arXiv:2603.22339 has -.33, -1.30, -2.90, -5.10% for alpha .34, beta .28 on its own grids
    assert errors == pytest.approx([-0.0033, -0.0130, -0.0290, -0.0510], rel=0.05)


def test_the_page_states_what_the_flat_minimum_costs():
    law = scaling.find_law("besiroglu").surface
    table = pitfalls.flatness(law, 1e22, (0.5, 1.0, 2.0, 4.0)).set_index("factor")
    assert abs(table.loc[1.0, "waste"]) < 1e-9
    assert "0.46% in loss and 15.6% of the compute" in PAGE
    assert table.loc[0.5, "waste"] == pytest.approx(0.156, abs=5e-4)
    assert table.loc[0.5, "excess_loss"] == pytest.approx(0.0046, abs=5e-5)


def test_the_page_states_what_repetition_is_worth():
    table = pitfalls.repetition((1, 4, 16, 1000)).set_index("epochs")
    assert table.loc[1, "worth"] == 1 and table.loc[1, "loss"] == table.loc[1, "loss_fresh"]
    for epochs, said in ((4, "3.7"), (16, "10.6"), (1000, "16.4")):
        assert f"{table.loc[epochs, 'worth']:.1f}" == said and said in PAGE


def test_the_page_states_what_schedules_did():
    table = pitfalls.undecayed()
    excess = 100 * (table["loss_constant"] / table["loss"] - 1)
    dear = table["budget"] == table["budget"].max()
    assert f"by up to {-excess.min():.1f}%" in PAGE
    assert f"to {excess[dear].max():.1f}%" in PAGE and (excess[dear] > 0.5).sum() == 3
    assert (excess[~dear] < 0).sum() == 6


def test_short_runs_and_rounded_coefficients():
    table = pitfalls.few_steps()
    short = table[table["steps"] < 300]["residual"].mean()
    assert f"under 300 {abs(100 * short):.1f}%" in re.sub(r"\s+", " ", PAGE)
    found = pitfalls.rounded()
    assert f"{found['full'] / 1e9:.1f}B" in PAGE and f"{found['printed'] / 1e9:.1f}B" in PAGE


def test_the_optimiser_stops_early_on_a_mean_and_says_success():
    table = pitfalls.stopped(tables=2)
    assert table["mean_success"].all() and (table["mean"] > 29).all()
    assert (table["ours"] < 26).all()


def test_every_figure_of_the_page_exists_and_draws():
    shown = re.findall(r"\(img/(pitfall_\w+\.png)\)", PAGE)
    assert len(shown) == 7
    for name in shown:
        assert (Path(__file__).resolve().parent.parent / "docs" / "img" / name).stat().st_size > 10_000
    law = scaling.find_law("besiroglu").surface
    figures = [
        draw.flat_minimum(pitfalls.flatness(law, 1e22, np.geomspace(0.25, 4, 9))),
        draw.repeated_data(pitfalls.repetition(np.geomspace(1, 40, 9))),
        draw.undecayed_runs(pitfalls.undecayed()),
        draw.parabola_bias((2, 4), {"one": [pitfalls.parabola_error(law, s) for s in (2, 4)]}),
    ]
    for figure in figures:
        assert all(axis.get_xlabel() and axis.get_ylabel() for axis in figure.axes)
