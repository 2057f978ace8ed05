"""The whole loop: stages in order, skipped when unchanged, resumed after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from sweep_helpers import LAW, SMALL, tokens, workers_import_fakes  # noqa: F401 (fixtures)

from scaling.cli.main import main
from scaling.errors import ScalingError, UsageError
from scaling.files import read_json
from scaling.runs import read_runs
from scaling.shape import ShapeFamily
from sweeps.design import isoflop_design
from sweeps.quickstart import STAGES, Defaults, quickstart

pytestmark = pytest.mark.usefixtures("workers_import_fakes")


def write_page(folder):
    path = folder / "report.html"
    path.write_text("<html></html>")
    return path


def loop(folder, tokens, **options):  # noqa: F811
    said = []
    defaults = options.pop("defaults", replace(SMALL, data=str(tokens)))
    options = {"workers": 1, "runner": LAW, "report": write_page, **options}
    return quickstart(folder, defaults=defaults, say=said.append, **options), said


def test_the_loop_decides_predicts_and_checks(tmp_path, tokens):  # noqa: F811
    summary, said = loop(tmp_path / "q", tokens)
    headlines = [line for line in said if line[0].isdigit()]
    assert [line.split()[1] for line in headlines] == list(STAGES)
    assert summary["prediction"]["inside"] and abs(summary["prediction"]["error"]) < 0.02
    chosen = summary["decision"]
    assert chosen["params_lo"] < chosen["params"] < chosen["params_hi"]
    assert summary["report"] == str(tmp_path / "q" / "report.html")
    largest = read_runs(tmp_path / "q" / "runs.csv").flops.max()
    assert chosen["flops"] >= 2.9 * largest
    for name in ("sweep.json", "runs.csv", "fit.json", "isoflop.json", "plan.json", "verify.json"):
        assert (tmp_path / "q" / name).exists()
    assert read_json(tmp_path / "q" / "isoflop.json", expect="scaling/isoflop")
    json.dumps(summary)


def test_unchanged_stages_are_skipped_and_a_lost_output_is_made_again(tmp_path, tokens):  # noqa: F811
    first, _ = loop(tmp_path / "q", tokens)
    kept = (tmp_path / "q" / "plan.json").read_bytes()
    second, said = loop(tmp_path / "q", tokens, runner="no_such_module:nothing")
    unchanged = [line.split()[1] for line in said if line.endswith("(unchanged)")]
    assert unchanged == [name for name in STAGES if name != "data"]  # the data lies elsewhere here
    assert second["prediction"] == first["prediction"]
    (tmp_path / "q" / "verify.json").unlink()
    third, said = loop(tmp_path / "q", tokens, runner="no_such_module:nothing")
    assert third["prediction"] == first["prediction"]
    assert (tmp_path / "q" / "plan.json").read_bytes() == kept


def test_another_seed_gets_other_runs(tmp_path, tokens):  # noqa: F811
    seeds = set()
    for seed in (0, 1):
        loop(tmp_path / str(seed), tokens, seed=seed)
        configs = (tmp_path / str(seed)).rglob("config.json")
        found = {read_json(path)["seed"] for path in configs}
        assert not found & seeds
        seeds |= found


def test_a_folder_of_other_settings_is_refused(tmp_path, tokens):  # noqa: F811
    loop(tmp_path / "q", tokens)
    with pytest.raises(ScalingError, match=r"other settings \(seed 0, not 1\)"):
        loop(tmp_path / "q", tokens, seed=1)
    with pytest.raises(ScalingError, match="scale"):
        loop(tmp_path / "q", tokens, scale=2.0)
    other = replace(SMALL, data=str(tokens), recipe=replace(SMALL.recipe, lr=0.5))
    with pytest.raises(ScalingError, match=r"\(recipe\.lr [\d.]+, not 0\.5\)"):
        loop(tmp_path / "q", tokens, defaults=other)
    (tmp_path / "q" / "quickstart.json").unlink()
    with pytest.raises(ScalingError, match="folder of its own"):
        loop(tmp_path / "q", tokens)


def test_bad_requests(tmp_path, tokens):  # noqa: F811
    with pytest.raises(UsageError, match="--scale 0"):
        loop(tmp_path / "q", tokens, scale=0)
    with pytest.raises(UsageError, match="--seed -1"):
        loop(tmp_path / "q", tokens, seed=-1)
    with pytest.raises(UsageError, match=r"--target 1e\+15: over 1000x the sweep's largest budget"):
        loop(tmp_path / "q", tokens, defaults=replace(SMALL, data=str(tokens), target=1e15))
    assert not (tmp_path / "q").exists()  # said before anything is trained
    (tmp_path / "file").write_text("")
    with pytest.raises(ScalingError, match="is a file"):
        loop(tmp_path / "file", tokens)


def test_a_killed_loop_resumes_to_the_same_outcome(tmp_path, tokens, monkeypatch):  # noqa: F811
    whole, _ = loop(tmp_path / "whole", tokens)
    code = f"""
from dataclasses import replace
from functools import partial
from pathlib import Path
from sweep_helpers import LAW, SMALL
from sweeps.quickstart import quickstart
quickstart({str(tmp_path / "killed")!r}, defaults=replace(SMALL, data={str(tokens)!r}), workers=1, runner=LAW)
"""
    for stuck, found in (("c3e10-d24-s0", "cells"), ("1", "launch")):
        environment = {**os.environ, "SLOW_RUN": stuck}
        process = subprocess.Popen([sys.executable, "-c", code], env=environment)
        place = tmp_path / "killed" / found / stuck / "tries.txt"
        end = time.monotonic() + 60
        while not place.exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed, _ = loop(tmp_path / "killed", tokens)
    for part in ("decision", "prediction", "allocation"):
        assert resumed[part] == whole[part]
    tries = [len(p.read_text().split()) for p in Path(tmp_path / "killed").rglob("tries.txt")]
    assert sorted(tries)[-3:] == [1, 2, 2]


def test_the_defaults_are_a_loop_of_minutes():
    defaults = Defaults()
    assert defaults.target >= 3 * max(defaults.budgets)
    assert len(defaults.settings(3).seeds) in (1, len(defaults.budgets))
    assert defaults.settings(3).first_seed != defaults.settings(0).first_seed


def test_the_verb_runs_the_loop_to_its_report(tmp_path, tokens, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr("sweeps.quickstart.quickstart", partial(quickstart, runner=LAW))
    monkeypatch.setattr("sweeps.quickstart.Defaults", lambda: SMALL)
    command = ["quickstart", "--out", str(tmp_path / "q"), "--data", str(tokens), "--workers", "1"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "decision" in shown and "inside the sealed interval" in shown and "report.html" in shown
    assert "<svg" in (tmp_path / "q" / "report.html").read_text()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"]["inside"]
    assert main([*command, "--seed", "1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "choose another folder with --out" in said


@pytest.mark.parametrize("scale", [0.1, 0.3, 1.0, 3.0])
def test_the_defaults_design_a_sweep_at_every_scale(scale):
    """`--scale 0.1` is offered for a quick look: its smaller optima need a ladder that reaches below."""
    defaults = Defaults()
    settings = defaults.settings(scale=scale)
    design = isoflop_design(
        ShapeFamily(vocab=97, **settings.family),
        settings.budgets,
        seq=settings.recipe.seq,
        batch=settings.recipe.batch,
        sizes=settings.sizes,
        rule=settings.rule,
        widths=settings.widths,
        unique_tokens=23_000_000,
    )
    for budget in settings.budgets:
        sizes = [cell.shape.params() for cell in design.band(budget)]
        assert len(sizes) == settings.sizes
        assert sizes[0] < settings.rule.params_at(budget) < sizes[-1]
    if scale == 1.0:  # no run of the quickstart sees a token twice, also where Python came without its tests
        assert max(cell.tokens for cell in design.cells) < 10_400_000
        assert defaults.target >= 3 * max(defaults.budgets)
