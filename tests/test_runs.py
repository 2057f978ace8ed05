"""The run table: what is read is what was written, and nothing bad passes in silence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import ScalingError
from scaling.runs import Runs, read_runs

OWN = Path(__file__).parent.parent / "analysis" / "data" / "own_cpu_sweep.csv"


def write(tmp_path: Path, text: str, name: str = "runs.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_and_derived_flops(tmp_path):
    runs = read_runs(write(tmp_path, "params,tokens,loss\n100,2000,3.5\n200,1000,3.25\n"))
    assert runs.flops.tolist() == [6 * 100 * 2000, 6 * 200 * 1000]
    assert runs.flops_convention == "6nd"
    assert any("6 x params x tokens" in note for note in runs.notes)
    assert runs.lines == (2, 3)


@pytest.mark.parametrize(
    "header", ["N,D,L", "model_size,training_tokens,val_loss", "Params,Tokens,eval/loss", "n params,D,Loss"]
)
def test_aliases_are_accepted_and_reported(tmp_path, header):
    runs = read_runs(write(tmp_path, f"{header}\n100,2000,3.5\n"))
    assert runs.params().tolist() == [100] and runs.loss.tolist() == [3.5]
    assert any("read as" in note for note in runs.notes)


def test_arrays_are_writable_and_integers_do_not_overflow():
    frame = pd.DataFrame({"params": [10**12], "tokens": [10**14], "loss": [2]})
    runs = Runs.from_frame(frame)
    assert runs.flops[0] == pytest.approx(6e26)
    runs.params()[0] = 1.0
    assert runs.params()[0] == 1e12


def test_numbers_as_people_write_them(tmp_path):
    runs = read_runs(write(tmp_path, "params,tokens,loss\n70M,1.4B,3\n1e9,1_000,2\n"))
    assert runs.params().tolist() == [70e6, 1e9] and runs.tokens.tolist() == [1.4e9, 1000]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1,,2,", "tokens is missing"),
        ("1,nan,2,", "tokens is not finite"),
        ("1,5,inf,", "loss is not finite"),
        ("-1,5,2,", "params must be positive"),
        ("1,0,2,", "tokens must be positive"),
        ("many,5,2,", "params is no number"),
        ("1,5,2,diverged", "diverged"),
        ("1,5,2,running", "not complete"),
        ("1,5", "2 fields, the header 4"),
        ("7,8,9,", "repeats line 2"),
        ("1,1" + "0" * 400 + ",2,", "not finite"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, row, reason):
    path = write(tmp_path, f"params,tokens,loss,status\n7,8,9,done\n\n{row}\n5,6,7,\n")
    with pytest.raises(ScalingError, match=reason) as caught:
        read_runs(path)
    assert "line 4" in str(caught.value) and "--skip-bad" in str(caught.value)
    kept = read_runs(path, skip_bad=True)
    assert kept.lines == (2, 5) and [line for line, _ in kept.bad] == [4]
    assert reason in kept.bad[0][1]


def test_missing_column_and_file_are_one_sentence(tmp_path):
    with pytest.raises(ScalingError, match="column 'loss' is missing; found params, tokens"):
        read_runs(write(tmp_path, "params,tokens\n1,2\n"))
    with pytest.raises(ScalingError, match="no such file"):
        read_runs(tmp_path / "absent.csv")
    with pytest.raises(ScalingError, match="could both be 'loss'"):
        read_runs(write(tmp_path, "params,tokens,val_loss,eval_loss\n1,2,3,4\n"))


def test_jsonl_and_parquet_agree_with_csv(tmp_path, requires):
    frame = pd.read_csv(OWN)
    text = "\n".join(json.dumps(row) for row in frame.to_dict("records"))
    lines = read_runs(write(tmp_path, text, "runs.jsonl"))
    assert np.array_equal(lines.loss, read_runs(OWN).loss)
    requires("parquet")
    frame.to_parquet(tmp_path / "runs.parquet")
    assert np.array_equal(read_runs(tmp_path / "runs.parquet").flops, read_runs(OWN).flops)


def test_broken_jsonl_line_is_named(tmp_path):
    path = write(tmp_path, '{"params": 1, "tokens": 2, "loss": 3}\n{"params": \n', "runs.jsonl")
    with pytest.raises(ScalingError, match="line 2 is not valid JSON"):
        read_runs(path)


def test_parameter_counts():
    frame = pd.DataFrame({
        "params": [100, 80], "tokens": [10, 10], "loss": [3, 3.1],
        "params_embedding": [20, 20], "params_head": [20, 0],
    })  # fmt: skip
    runs = Runs.from_frame(frame)
    assert runs.params("total").tolist() == [100, 80]
    # The second model ties head and table: its table multiplies, so it stays.
    assert runs.params("total-less-input-embedding").tolist() == [80, 80]
    assert runs.params("non-embedding").tolist() == [60, 60]
    with pytest.raises(ScalingError, match="params_embedding"):
        Runs.from_frame(frame[["params", "tokens", "loss"]]).params("non-embedding")


def test_the_flop_convention_is_recognised():
    frame = pd.DataFrame({"params": [10.0], "tokens": [10.0], "loss": [3.0], "flops": [650.0]})
    assert Runs.from_frame(frame).flops_convention == "given"
    assert Runs.from_frame(frame.assign(flops_model_causal=650.0)).flops_convention == "model_causal"
    assert Runs.from_frame(frame.assign(flops=600.0)).flops_convention == "6nd"


def test_rows_of_one_run_share_a_group():
    frame = pd.DataFrame({"params": [1, 1, 2, 3], "tokens": [1, 2, 1, 1], "loss": [4, 3, 4, 4.5],
                          "run": ["a", "a", "b", None]})  # fmt: skip
    groups = Runs.from_frame(frame).groups
    assert groups[0] == groups[1] and len(set(groups.tolist())) == 3
    for nothing in (float("nan"), pd.NA, ""):  # what two tables joined in pandas leave where one had no names
        joined = frame.assign(run=["a", "a", nothing, nothing])
        assert len(set(Runs.from_frame(joined).groups.tolist())) == 3
    # Two sweeps that both call their runs a, b, ... are not one.
    again = frame.assign(params=frame["params"] * 10, run=["a", "a", "b", "c"])
    assert len(set(Runs.from_frame(pd.concat([frame, again])).groups.tolist())) == 6
    seeds = frame.iloc[:2].assign(params=1, tokens=5, seed=[0, 1])
    assert len(set(Runs.from_frame(seeds).groups.tolist())) == 2


def test_a_frame_whose_rows_come_from_two_tables_may_lack_optional_cells():
    one = pd.DataFrame({"params": [1.0, 2.0], "tokens": [1.0, 2.0], "loss": [4.0, 3.0]})
    runs = Runs.from_frame(pd.concat([one, one.assign(tokens=[3.0, 4.0], steps=[10, 20])]))
    assert np.isnan(runs.column("steps")).tolist() == [True, True, False, False]
    with pytest.raises(ScalingError, match="row 2 loss is not finite: nan"):
        Runs.from_frame(one.assign(loss=[4.0, float("nan")]))


def test_how_a_run_ended_is_read_in_many_words_and_never_passed_over():
    frame = pd.DataFrame({"params": [1, 2, 3], "tokens": [1, 2, 3], "loss": [4, 3, 2.5]})
    with pytest.raises(ScalingError, match=r"2 bad rows: row 1 .*'timeout'.*; row 2 .*'error'"):
        Runs.from_frame(frame.assign(status=["TIMEOUT", "error", "Completed"]))
    runs = Runs.from_frame(frame.assign(status=["merry", "merry", None]))
    assert len(runs) == 3 and any("'merry' (2 rows)" in note for note in runs.notes)


cells = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=6),
    st.sampled_from(["1e9", "nan", " 5 ", "3.2T", "", "1,5", '"', "\n", "1e999"]),
)  # fmt: skip
names = st.sampled_from(["params", "tokens", "loss", "flops", "N", "D", "val_loss", "run", "seed", "x", ""])


@settings(max_examples=60, deadline=None)
@given(st.lists(names, min_size=1, max_size=6), st.lists(st.lists(cells, max_size=6), max_size=6))
def test_any_table_is_read_or_refused_in_one_line(tmp_path_factory, header, rows):
    path = tmp_path_factory.mktemp("fuzz") / "runs.csv"
    text = "\n".join(",".join("" if c is None else str(c) for c in row) for row in [header, *rows])
    path.write_text(text, encoding="utf-8", newline="")
    try:
        runs = read_runs(path, skip_bad=True)
    except ScalingError as error:
        assert str(error).strip()
        return
    for values in (runs.params(), runs.tokens, runs.loss, runs.flops):
        assert np.isfinite(values).all() and (values > 0).all()
    assert len(runs) == len(runs.lines) > 0


def test_branches_of_one_trunk_are_runs_of_their_own_that_are_drawn_together():
    frame = pd.DataFrame({
        "params": [1e6, 1e6, 2e6, 2e6], "tokens": [1e8, 2e8, 1e8, 2e8], "loss": [3.0, 2.9, 2.8, 2.7],
        "run": ["a", "b", "c", "d"], "trunk": ["x", "x", "y", None],
    })  # fmt: skip
    runs = Runs.from_frame(frame)
    assert len(set(runs.labels)) == 4
    assert runs.groups[0] == runs.groups[1] and len(set(runs.groups)) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"params": 1e-6}, ["largest params is 900, taken as it stands"]),
        ({"tokens": 1e-9}, ["largest tokens is 18", "params and tokens may be exchanged"]),
        ({"flops": 1 / 8.64e19}, ["it looks like PF-days"]),
        ({"flops": 1e-18}, ["look for another unit"]),
    ],
)
def test_another_unit_is_said(change, said):
    n = np.array([1e8, 3e8, 9e8])
    frame = pd.DataFrame({"params": n, "tokens": 20 * n, "flops": 125.0 * n * n, "loss": [4.0, 3.0, 2.0]})
    for name, factor in change.items():
        frame[name] *= factor
    notes = [note for note in Runs.from_frame(frame).notes if "taken as given" not in note]
    assert len(notes) >= len(said) and all(any(text in note for note in notes) for text in said)
    assert said or not notes
