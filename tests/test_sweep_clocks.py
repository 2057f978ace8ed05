"""Time and money of a dry run: by the user's profile, on named chips, or by a guess that says so."""

import json

import numpy as np
import pytest
from test_calibrate import profile

from scaling.cli.main import main
from scaling.files import write_json
from scaling.hardware.profile import write_profile
from scaling.shape import ShapeFamily
from sweeps.design import OptimumRule, isoflop_design
from sweeps.plausible import plausible_laws
from sweeps.preflight import bands, extrapolated_bias

SWEEP = ["--data", "external:128:100M", "--engine", "external", "--budgets", "6e10,1.6e11,4.5e11"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALING_PROFILE", raising=False)


def plan(capsys, *options):
    status = main(["sweep", "s", *SWEEP, *options, "--dry-run", "--json"])
    said = capsys.readouterr()
    assert status == 0, said.err
    return json.loads(said.out)


def test_the_profile_that_lies_there_is_used_and_named(tmp_path, capsys):
    guess = plan(capsys)
    assert guess["timing"]["kind"] == "guess" and guess["cost_usd"] is None and guess["time_lo"] is None
    write_profile("profile.json", profile())
    measured = plan(capsys)
    assert measured["timing"]["kind"] == "profile" and "a core" in measured["timing"]["source"]
    assert measured["time_lo"] < measured["time_s"] < measured["time_hi"]
    slow = profile()
    rows = tuple({**row, "step_time_s": 2 * row["step_time_s"]} for row in slow.rows)
    write_profile(
        tmp_path / "slow.json",
        profile(rows=rows, matmul_flops_per_s=1e11, copy_bytes_per_s=2.5e10),
    )
    doubled = plan(capsys, "--profile", str(tmp_path / "slow.json"))
    ratios = [b["time_s"] / a["time_s"] for a, b in zip(measured["cells"], doubled["cells"], strict=True)]
    assert ratios == pytest.approx([2.0] * len(ratios), rel=0.25)
    assert main(["sweep", "s", *SWEEP, "--dry-run"]) == 0
    page = capsys.readouterr().out
    assert "time: profile.json, one core of a core, measured 2026-11-23" in page


def test_a_file_of_that_name_that_is_none_is_left_alone_unless_named(capsys):
    write_json("profile.json", {"format": "somebody/else"})
    assert plan(capsys)["timing"]["kind"] == "guess"
    assert main(["sweep", "s", *SWEEP, "--profile", "profile.json", "--dry-run"]) == 1
    said = capsys.readouterr().err
    assert "profile.json" in said and "scaling/profile" in said and said.count("\n") == 1


def test_money_is_hours_times_price(capsys):
    found = plan(capsys, "--price", "0.5")
    assert found["cost_usd"] == pytest.approx(found["chip_hours"] * 0.5)
    assert found["chip_hours"] == pytest.approx(sum(c["time_s"] for c in found["cells"]) / 3600)
    assert sum(c["cost_usd"] for c in found["cells"]) == pytest.approx(found["cost_usd"])


def test_more_chips_take_less_time_for_the_same_money(capsys):
    few, many = (plan(capsys, "--accelerator", "h100", "--chips", n, "--price", "2") for n in ("2", "8"))
    assert few["timing"]["kind"] == "accelerator" and few["price_usd_per_hour"] == 2
    assert few["cost_usd"] == pytest.approx(many["cost_usd"]) and few["time_s"] > many["time_s"]
    assert all(cell["chips"] == 1 and cell["time_lo"] < cell["time_s"] for cell in few["cells"])
    longest = max(cell["time_s"] for cell in few["cells"])
    assert few["time_s"] == pytest.approx(max(sum(c["time_s"] for c in few["cells"]) / 2, longest))
    assert plan(capsys, "--accelerator", "h100")["price_usd_per_hour"] > 0  # the catalogue's own


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--chips", "8"], "--chips needs --accelerator"),
        (["--accelerator", "h1000"], "h1000"),
        (["--accelerator", "h100", "--profile", "p.json"], "--profile measured this machine"),
        (["--accelerator", "h100", "--chips", "2", "--chips-per-run", "4"], "--chips-per-run 4"),
        (["--price", "cheap"], "--price"),
    ],
)
def test_wrong_machines_are_one_sentence(options, named, capsys):
    assert main(["sweep", "s", *SWEEP, *options, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1


def test_the_bias_of_parabolas_is_told_per_band_and_at_the_target():
    family = ShapeFamily(vocab=97, width_multiple=4)
    rule = OptimumRule(1e12, 75e3, 0.5)
    design = isoflop_design(family, (5e10, 1.5e11, 4.5e11), seq=64, batch=4, sizes=7, ratio=2.5, rule=rule)
    laws = plausible_laws(12, 0, 4.5e11, rule.params_at(4.5e11), guess_sd=0.0)
    even = laws.copy()
    even[:, 3] = even[:, 4] = 0.34
    even[:, 5] = 1.0
    n, d = rule.params_at(4.5e11), 4.5e11 / 6 / rule.params_at(4.5e11)
    even[:, 1], even[:, 2] = 0.4 * n**0.34, 0.4 * d**0.34
    lopsided = even.copy()
    lopsided[:, 3], lopsided[:, 4] = 0.6, 0.2
    lopsided[:, 1], lopsided[:, 2] = 0.2 * n**0.6, 0.6 * d**0.2
    small, large = (extrapolated_bias(design, some, 1e13)["bias"] for some in (even, lopsided))
    assert abs(large) > 3 * abs(small) and abs(large) > 0.05
    per_band = [np.mean([b["bias"] for b in bands(design, some)]) for some in (even, lopsided)]
    assert abs(per_band[1]) > 3 * abs(per_band[0])
