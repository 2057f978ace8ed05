"""Shared by the tests of sweeps, launch and quickstart."""

import os
from pathlib import Path

import pytest

from scaling.recipe import Recipe
from sweeps.design import OptimumRule
from sweeps.quickstart import Defaults

DATA = "builtin:stdlib-without-tests"
LAW = "fake_runner:run_by_law"
# Tuned to the law of fake_runner.run_by_law.
SMALL = Defaults(
    budgets=(1e10, 3e10, 1e11),
    seeds=(2, 1, 1),
    sizes=5,
    widths=(8, 16, 24, 32, 48, 64, 96),
    rule=OptimumRule(1e11, 31e3, 0.5),
    recipe=Recipe(eval_tokens=8192),
    target=3e11,
    launch_seeds=2,
)


@pytest.fixture(scope="session")
def tokens(tmp_path_factory):
    """A token folder of real text, built once."""
    from trainer.corpus import build_corpus

    return build_corpus(DATA, tmp_path_factory.mktemp("tokens") / "data").path


@pytest.fixture
def workers_import_fakes(monkeypatch, tmp_path_factory):
    """Worker processes find tests/fake_runner.py, and keep compiled programs out of the user's cache."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    cache = tmp_path_factory.getbasetemp() / "scaling-cache"
    monkeypatch.setenv("SCALING_CACHE", os.environ.get("SCALING_CACHE", str(cache)))


def settings(tokens, **changes):
    from dataclasses import replace

    return replace(SMALL.settings(), data=str(tokens), **changes)


def planned(folder, tokens, shorter=20):
    """A finished sweep by a known law and its sealed plan, its runs made `shorter` to be trained."""
    from scaling.files import write_json
    from scaling.laws.fit import fit
    from scaling.planfiles import plan_sweep
    from scaling.runs import read_runs
    from scaling.seal import sealed
    from sweeps import sweep

    sweep.run(sweep.prepare(folder, settings(tokens)), workers=1, runner=LAW)
    write_json(folder / "fit.json", fit(read_runs(folder / "runs.csv"), bootstrap=40).to_dict())
    plan = plan_sweep(folder, SMALL.target)
    step = plan["recipe"]["batch"] * plan["recipe"]["seq"]
    for run in (plan, *plan["confirmations"]):
        run["tokens"] = max(1, round(run["tokens"] / shorter / step)) * step
    write_json(folder / "plan.json", sealed(plan))
    return folder
