"""The notebooks of `scaling examples` run from the first cell to the last and say what they should."""

from __future__ import annotations

import doctest
import json
import re
import threading

import pytest

from analysis import notebooks
from scaling.cli.main import main
from scaling.errors import ScalingError

FIT, DESIGN, LOOP = notebooks.NOTEBOOKS.values()


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The three notebooks, executed beside one another."""
    folder = tmp_path_factory.mktemp("examples")
    notebooks.write(folder)
    found: dict[str, object] = {}

    def run(name):
        try:
            found[name] = notebooks.execute(folder / name)
        except BaseException as error:
            found[name] = error

    notebooks.execute(folder / FIT)  # alone: the first start of a kernel writes files that others read
    threads = [threading.Thread(target=run, args=(name,)) for name in (DESIGN, LOOP)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outcome in found.values():
        if isinstance(outcome, BaseException):
            raise outcome
    return {name: json.loads((folder / name).read_text()) for name in notebooks.NOTEBOOKS.values()}


def outputs(notebook):
    return [output for cell in notebook["cells"] for output in cell.get("outputs", ())]


def printed(notebook) -> str:
    return "".join("".join(o["text"]) for o in outputs(notebook) if o["output_type"] == "stream")


def drawn(notebook, kind) -> int:
    return sum(kind in output.get("data", {}) for output in outputs(notebook))


@pytest.mark.requires("notebooks")
def test_no_cell_warned_or_failed(executed):
    for notebook in executed.values():
        assert len(notebook["cells"]) > 10
        for output in outputs(notebook):
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", output["text"]


@pytest.mark.requires("notebooks")
def test_the_first_fits_runs_and_compares_laws(executed):
    notebook = executed[FIT]
    text = printed(notebook)
    misses = [float(value) for value in re.findall(r"mean miss ([\d.]+)%", text)]
    assert len(misses) == 3 and misses[0] == min(misses) < 2
    counted = re.findall(r"N_opt ~ C\^([\d.]+)", text)
    assert len(counted) == 2 and float(counted[0]) < float(counted[1])  # without embeddings it is steeper
    assert drawn(notebook, "image/png") == 4
    assert drawn(notebook, "text/html") == 5  # runs, fit, laws, one law, plan


@pytest.mark.requires("notebooks")
def test_the_second_backtests_and_designs(executed):
    text = printed(executed[DESIGN])
    misses = [float(value) for value in re.findall(r"dearer ones missed by ([\d.]+)%", text)]
    assert len(misses) >= 4 and misses[-2] < misses[0] / 3
    near, far = (float(value) for value in re.findall(r"planned size off by (\d+)%", text))
    assert far < near / 2  # what the notebook says: spread the sizes
    assert "simulated over 48 plausible laws" in text and "Approach 2: parabola per budget" in text
    assert drawn(executed[DESIGN], "image/png") == 1


@pytest.mark.requires("notebooks")
def test_the_third_trains_seals_and_verifies(executed):
    text = printed(executed[LOOP])
    low, high = map(float, re.search(r"promised [\d.]+ \(([\d.]+) to ([\d.]+)\)", text).groups())
    measured, where = re.search(r"measured ([\d.]+): (inside|OUTSIDE)", text).groups()
    assert (where == "inside") == (low <= float(measured) <= high)
    assert re.search(r"\b(\d+) of \1 runs done", text)
    assert "\x1b" not in text  # a kernel asks for colours; a page has no use for them
    assert drawn(executed[LOOP], "image/png") == 2


def test_written_notebooks_are_valid_and_never_replace_a_file(tmp_path, capsys):
    (tmp_path / "runs.csv").write_text("mine")
    assert main(["examples", str(tmp_path), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [file.rpartition("/")[2] for file in files] == ["runs.csv", FIT, DESIGN, LOOP]
    assert (tmp_path / "runs.csv").read_text() == "mine"
    for name in notebooks.NOTEBOOKS.values():
        content = json.loads((tmp_path / name).read_text())
        assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
        assert content["cells"][0]["source"][0].startswith("# ")
        assert not any(cell.get("outputs") for cell in content["cells"])
    assert main(["examples", str(tmp_path / "runs.csv")]) == 1
    assert "is a file" in capsys.readouterr().err


@pytest.mark.requires("notebooks")
def test_a_written_notebook_obeys_the_format(tmp_path):
    import nbformat

    for path in notebooks.write(tmp_path)[1:]:
        nbformat.validate(nbformat.reads(path.read_text(), as_version=4))


@pytest.mark.requires("notebooks")
def test_a_failing_cell_is_said_in_words_and_nothing_is_written(tmp_path):
    broken = tmp_path / "broken.ipynb"
    broken.write_text(json.dumps(notebooks.notebook_of("# %%\nraise ValueError('it broke')\n")))
    before = broken.read_bytes()
    with pytest.raises(ScalingError, match=r"broken\.ipynb: ValueError: it broke"):
        notebooks.execute(broken)
    assert broken.read_bytes() == before


def test_a_command_that_fails_in_a_cell_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScalingError, match=r"scaling fit nothing\.csv: nothing\.csv: no such file"):
        notebooks.shell("scaling fit nothing.csv")


def test_cells_are_read_as_the_format_says():
    assert doctest.testmod(notebooks).failed == 0
    assert notebooks.cells_of("# a head\nx = 1\n") == []  # what stands before the first cell belongs to none
    code, prose = notebooks.cells_of(
        "# %%\nif x:\n    # a comment\n    y = 1\n# %% [markdown]\n# a\n#\n# b\n"
    )
    assert code.text == "if x:\n    # a comment\n    y = 1" and prose.text == "a\n\nb"
