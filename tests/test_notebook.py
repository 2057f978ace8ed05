"""The notebooks run from the first cell to the last and say what they should."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import pytest

import scaling
from analysis import notebooks
from scaling.errors import ScalingError

EXAMPLE = notebooks.SOURCES.parent / "data" / "own_cpu_sweep.csv"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    out = tmp_path_factory.mktemp("notebooks") / "quickstart.ipynb"
    return notebooks.execute("quickstart", out), out


def printed(notebook) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.requires("notebooks")
def test_the_notebook_draws_every_figure(executed):
    notebook, out = executed
    drawing = [
        cell for cell in notebook.cells if cell.source.startswith("figures.") or "\nfigures." in cell.source
    ]
    assert len(drawing) == 5
    for cell in drawing:
        assert [output for output in cell.outputs if "image/png" in output.get("data", {})], cell.source
    assert out.stat().st_size > 50_000


@pytest.mark.requires("notebooks")
def test_the_notebook_prints_the_fitted_exponent_and_beats_the_rival(executed):
    text = printed(executed[0])
    found = re.search(r"prior_free: N_opt ~ C\^([\d.]+) \(([\d.]+) to ([\d.]+)\)", text)
    assert found is not None
    exponent, low, high = map(float, found.groups())
    assert low < exponent < high and 0.4 < exponent < 0.6
    errors = [float(value) for value in re.findall(r"mean error of ([\d.]+)%", text)]
    assert len(errors) == 2 and errors[0] < errors[1]
    assert "6 x params x tokens" in text and "train " in text and "will do" in text


@pytest.mark.requires("notebooks")
def test_no_cell_warned_or_failed(executed):
    for cell in executed[0].cells:
        for output in cell.get("outputs", ()):
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text


def test_it_reads_a_sweep_named_by_the_environment(tmp_path, monkeypatch, capsys):
    shutil.copy(EXAMPLE, tmp_path / "runs.csv")
    frame = scaling.read_runs(tmp_path / "runs.csv").table.drop(columns="flops")
    frame.to_csv(tmp_path / "runs.csv", index=False)
    monkeypatch.setenv("SCALING_SWEEP", str(tmp_path))
    ended = runpy.run_path(str(Path(notebooks.SOURCES) / "quickstart.py"))  # it is a script too
    assert ended["held_out"] is None and len(ended["runs"]) == len(frame)
    assert ended["plan"]["seal"] and "nats per token" in capsys.readouterr().out


@pytest.mark.requires("notebooks")
def test_a_failing_cell_and_an_unknown_name_are_said_in_words(tmp_path, monkeypatch):
    with pytest.raises(ScalingError, match="no notebook 'nothing'"):
        notebooks.execute("nothing")
    (tmp_path / "broken.py").write_text("# %%\nraise ValueError('it broke')\n")
    monkeypatch.setattr(notebooks, "SOURCES", tmp_path)
    with pytest.raises(ScalingError, match="notebook 'broken': ValueError: it broke"):
        notebooks.execute("broken", tmp_path / "out.ipynb", NOBODY_SET_THIS="1")
    assert not (tmp_path / "out.ipynb").exists()
