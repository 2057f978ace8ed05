"""Damaged tables through the whole path: a sentence, or a fit that nothing is wrong with. Ten thousand more:
benchmarks/fit_fuzz.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "fit_fuzz.py"
FIRST, TABLES = 1_000_000, 100  # seeds that the benchmark does not reach


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fit_fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fit_fuzz"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fit_fuzz"]


def test_no_table_gives_a_traceback_or_silent_nonsense(fuzz, tmp_path):
    outcomes = {seed: fuzz.outcome(seed, tmp_path) for seed in range(FIRST, FIRST + TABLES)}
    wrong = {seed: said for seed, said in outcomes.items() if said[1].startswith(("DOUBT", "TRACEBACK"))}
    assert not wrong
    classes = {said for _, said in outcomes.values()}
    assert {"fitted", "refused at read", "refused at fit"} <= classes  # each end of the path is reached


def test_sound_tables_are_fitted_and_degenerate_ones_are_not(fuzz, tmp_path):
    for seed in range(FIRST, FIRST + 6):
        assert fuzz.outcome(seed, tmp_path, "one size")[1] == "refused at fit"
        assert fuzz.outcome(seed, tmp_path, "one budget")[1] == "refused at fit"
    fitted = [fuzz.outcome(seed, tmp_path, "sound")[1] for seed in range(FIRST, FIRST + 12)]
    assert fitted.count("fitted") > 6 and not any(said.startswith("TRACEBACK") for said in fitted)


def test_the_judge_sees_nonsense(fuzz, tmp_path):
    """A fit whose numbers were tampered with does not pass."""
    import dataclasses

    table = fuzz.make_table(FIRST + 3, "sound")
    runs = fuzz.Runs.from_frame(table.frame)
    found = fuzz.fit(runs, bootstrap=fuzz.DRAWS)
    assert fuzz.doubts(found, runs, table, False) == ""
    law, proof = found.law, found.certificate
    for change, said in (
        ({"law": dataclasses.replace(law, E=law.E + 10 * runs.loss.max())}, "range of the data"),
        ({"noise": found.noise * 1e3 + 1}, "residual scale larger"),
        ({"noise": found.noise / 1e3}, "residual scale smaller"),
        ({"law": dataclasses.replace(law, alpha=3.0, A=law.A * 1e12)}, "at its bound, unflagged"),
        ({"certificate": proof | {"converged": False, "grad_in_standard_errors": 1.0}}, "not converged"),
        ({"draws": found.draws * float("nan")}, "draws"),
    ):
        assert said in fuzz.doubts(dataclasses.replace(found, **change), runs, table, False)
