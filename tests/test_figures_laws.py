"""The figures of the law room hold their data, and their verbs write them as SVG, PNG and PDF."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figures
from scaling.cli.main import main
from scaling.laws.published import find_law
from scaling.laws.surface import chinchilla_law
from scaling.runs import Runs

LAW = chinchilla_law(1.8, 480.0, 2100.0, 0.35, 0.36)
MAGIC = {".png": b"\x89PNG\r\n\x1a\n", ".pdf": b"%PDF-"}


def table(gain: float = 1.0, seed: int = 0) -> pd.DataFrame:
    c = np.repeat([1e17, 1e18, 1e19, 1e20], 6)
    n = LAW.optimum(c)[0] * np.tile(np.exp(np.linspace(-1.6, 1.6, 6)), 4)
    loss = LAW.loss(*(v * np.sqrt(gain) for v in (n, c / 6 / n)))
    loss *= np.exp(0.004 * np.random.default_rng(seed).standard_normal(len(n)))
    return pd.DataFrame({"params": n, "tokens": c / 6 / n, "loss": loss, "budget": c})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("figures")
    table().to_csv(place / "a.csv", index=False)
    table(2.0, seed=1).to_csv(place / "b.csv", index=False)
    return place


def drawn(arguments: list[str], figure: Path, capsys) -> dict:
    """Run a verb with --figure and --json: stdout stays one JSON object, and the file is of its kind."""
    assert main([*arguments, "--figure", str(figure), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    content = figure.read_bytes()
    if figure.suffix == ".svg":
        assert content.lstrip().startswith(b"<?xml") and b"</svg>" in content
    else:
        assert content.startswith(MAGIC[figure.suffix]) and len(content) > 5000
    return value


def points_in(ax, marker):
    found = [line.get_xydata() for line in ax.lines if line.get_marker() == marker]
    return np.concatenate(found) if found else np.zeros((0, 2))


def test_the_specification_curve(folder, capsys):
    value = drawn(["choices", str(folder / "a.csv")], folder / "s.svg", capsys)
    text = (folder / "s.svg").read_text()
    for driver in value["drivers"]:  # every choice with its share, and every value of it
        assert f"<!-- {driver['choice']}: {driver['share']:.0%} of the variance -->" in text
        assert all(f"<!-- {option} -->" in text for option in driver["median_params"])
    assert f"{len(value['plans'])} analyses of one table" in text
    top, matrix = figures.specification_curve(value).axes
    (dots,) = top.collections
    np.testing.assert_allclose(dots.get_offsets()[:, 1], [p["params"] for p in value["plans"]])
    made = sum(len(c.get_segments()) for c in matrix.collections)
    choices = [d["choice"] for d in value["drivers"]]
    options = {d["choice"]: set(d["median_params"]) for d in value["drivers"]}
    assert made == sum(p[name] in options[name] for p in value["plans"] for name in choices)


def test_published_laws_are_solid_where_their_runs_were(folder, capsys):
    value = drawn(["laws", "--compare", "besiroglu,palm2,chinchilla-3"], folder / "l.svg", capsys)
    text = (folder / "l.svg").read_text()
    assert all(f"<!-- {name} -->" in text for name in value["plans"])
    law = find_law("besiroglu")
    size, ratio = figures.laws_compared({"besiroglu": law, "kaplan": find_law("kaplan")}).axes
    dashed, solid, other_dashed, other_solid = size.lines
    assert (dashed.get_xdata()[0], dashed.get_xdata()[-1]) == pytest.approx((1e18, 1e27))
    inside = solid.get_xdata()[np.isfinite(solid.get_ydata())]
    assert law.compute_min <= inside[0] < 1.2 * law.compute_min and 0.8 * law.compute_max < inside[-1]
    assert inside[-1] <= law.compute_max
    at = dashed.get_xdata()[100]
    assert dashed.get_ydata()[100] == pytest.approx(law.optimum(at).params)
    assert ratio.lines[0].get_ydata()[100] == pytest.approx(law.optimum(at).tokens / law.optimum(at).params)
    assert np.isfinite(other_dashed.get_ydata()).all() and np.isnan(other_solid.get_ydata()).all()
    assert main(["laws", "--figure", str(folder / "all.png")]) == 0
    assert (folder / "all.png").read_bytes().startswith(MAGIC[".png"])


def test_back_test_drift(folder, capsys):
    call = ["backtest", str(folder / "a.csv"), "--family", "chinchilla", "--no-prior"]
    value = drawn(call, folder / "b.svg", capsys)
    assert "Held-out runs" in (folder / "b.svg").read_text()
    plans, errors = figures.backtest_drift(value).axes
    drawn_plans = points_in(plans, "D")
    np.testing.assert_allclose(drawn_plans, [[c["flops"], c["plan"]["params"]] for c in value["cuts"]])
    assert points_in(plans, "*")[0, 1] == value["plan"]["params"]
    held = np.array([[f / c["flops"], 100 * np.expm1(e)] for c in value["cuts"] for f, e, _ in c["held"]])
    np.testing.assert_allclose(points_in(errors, "o"), held)
    sizeless = figures.backtest_drift(value | {"plan": None})
    assert len(sizeless.axes) == 1


def test_effective_compute(folder, capsys):
    call = ["gain", str(folder / "a.csv"), str(folder / "b.csv"), "--bootstrap", "20"]
    value = drawn(call, folder / "g.svg", capsys)
    assert f" {value['multiplier']:.2f}× the compute -->" in (folder / "g.svg").read_text()
    assert value["multiplier"] == pytest.approx(2.0, rel=0.15)
    tables = [Runs.from_frame(table()), Runs.from_frame(table(2.0, seed=1))]
    left, right = figures.effective_compute(value, *tables).axes
    assert len(points_in(left, "o")) == 48
    np.testing.assert_allclose(points_in(right, "D"), value["separate"])
    a, b = (line for line in left.lines if line.get_marker() == "None")
    c = np.geomspace(2e17, 2e19, 5)
    reached = np.interp(c, b.get_xdata(), b.get_ydata())  # B at C is A at the multiplier times C
    expected = np.interp(value["multiplier"] * c, a.get_xdata(), a.get_ydata())
    np.testing.assert_allclose(reached, expected, rtol=2e-3)


@pytest.mark.parametrize("kind", [".png", ".pdf"])
def test_every_kind_of_file_is_the_same_twice(kind, folder, capsys):
    call = ["laws", "--compare", "besiroglu,palm2"]
    files = [folder / f"{i}{kind}" for i in (1, 2)]
    for path in files:
        drawn(call, path, capsys)
    assert files[0].read_bytes() == files[1].read_bytes()
