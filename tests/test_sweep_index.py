"""The index of a sweep saves time and never decides; the run table leaves as CSV, JSONL and Parquet."""

import pandas as pd
import pytest
from fake_runner import law_loss

from scaling.cli.main import main
from scaling.files import read_json, write_json
from scaling.runs import read_runs
from sweeps import index, store, sweep
from sweeps.engines.external import record
from sweeps.sweep import Settings


@pytest.fixture
def done(tmp_path):
    """A sweep with every cell but the last finished."""
    settings = Settings(data="external:256:1B", budgets=(1e10, 3e10), sizes=3, widths=(8, 16, 24, 32, 48))
    prepared = sweep.prepare(tmp_path / "s", settings)
    made = store.create(prepared.folder, prepared.design, prepared.recipe, prepared.data)
    for cell in made.design.cells[:-1]:
        finish(made, cell)
    return made


def finish(made, cell, loss=None):
    folder = made.cell_folder(cell)
    loss = loss or law_loss(cell.shape.params(), cell.tokens)
    write_json(folder / "result.json", record({"loss": loss}, read_json(folder / "config.json"), {}))


def states(made):
    return {state.id: (state.state, state.loss) for state in store.cell_states(made)}


def test_with_the_index_and_without_it_the_same_is_said(done):
    first = states(done)
    path = done.folder / index.NAME
    assert len(index.load(done.folder)) == len(done.design.cells) - 1
    assert states(done) == first
    for damage in ("", "{", '{"format": "scaling/sweep-index", "version": 9, "cells": {}}'):
        path.write_text(damage)
        assert states(done) == first
    path.unlink()
    assert states(done) == first and path.exists()


def test_finished_cells_are_not_read_again(done, monkeypatch):
    first = states(done)
    read = []
    real = store.result_of
    monkeypatch.setattr(store, "result_of", lambda folder: read.append(str(folder)) or real(folder))
    assert states(done) == first
    assert [path.rpartition("/")[2] for path in read] == [done.design.cells[-1].id]


def test_a_change_is_noticed_whatever_the_index_says(done):
    a, b, *_, last = done.design.cells
    states(done)
    finish(done, last)
    finish(done, a, loss=7.5)
    (done.cell_folder(b) / "result.json").unlink()
    found = states(done)
    assert found[last.id][0] == "done" and found[a.id] == ("done", 7.5) and found[b.id] == ("waiting", None)


def test_an_index_that_lies_about_another_file_is_not_believed(done):
    cell = done.design.cells[0]
    states(done)
    entries = index.load(done.folder)
    signed, *_ = entries[cell.id]
    index.save(done.folder, {**entries, cell.id: [[signed[0] + 1, *signed[1:]], "done", 0.1, 0.0, 1]})
    assert states(done)[cell.id][1] != 0.1


def test_a_folder_that_cannot_be_written_has_no_index_and_the_same_states(done, monkeypatch):
    expected = states(done)
    (done.folder / index.NAME).unlink()
    (done.folder / index.NAME).mkdir()  # as good as a folder that may only be read
    assert states(done) == expected


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_run_table_leaves_in_every_form_and_can_be_fitted(done, tmp_path, ending, requires, capsys):
    if ending == "parquet":
        requires("parquet")
    path = tmp_path / f"out.{ending}"
    assert main(["status", str(done.folder), "--export", str(path), "--json"]) == 0
    frame, runs = store.to_frame(done), read_runs(path)
    assert len(runs) == len(frame) and runs.loss.tolist() == frame["loss"].tolist()
    assert runs.flops_convention == "model_causal"
    if ending == "csv":
        assert list(pd.read_csv(path).columns) == list(store.COLUMNS)


def test_another_ending_is_refused(done, capsys):
    assert main(["status", str(done.folder), "--export", "out.xls"]) == 2
    assert "ends in .csv, .jsonl or .parquet" in capsys.readouterr().err


def test_watching_shows_every_change_and_ends_with_the_last_run(done, monkeypatch, capsys):
    cell = done.design.cells[-1]
    finish(done, cell)
    result = done.cell_folder(cell) / "result.json"
    result.rename(result.with_name("later.json"))
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        assert len(looks) < 9, "it does not end"
        if len(looks) == 3:
            result.with_name("later.json").rename(result)

    monkeypatch.setattr("time.sleep", sleep)
    assert states(done)[cell.id][0] == "waiting"
    assert main(["status", str(done.folder), "--watch"]) == 0
    shown = capsys.readouterr().out
    assert len(looks) == 3 and min(looks) >= 2
    assert shown.count("best loss") == 2  # as it was found, and as it ended; nothing for looks without news
    assert main(["status", str(done.folder), "--watch", "--json"]) == 2
