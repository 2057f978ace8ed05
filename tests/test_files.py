"""Files are whole or not there, and what cannot be read or written is one sentence."""

from __future__ import annotations

import pytest

from scaling.cli.main import main
from scaling.errors import ScalingError
from scaling.files import read_json, write_atomic, write_json
from scaling.recipe import Recipe
from scaling.results import read_result

NO_OBJECTS = {
    "empty": "",
    "torn": "{",
    "list": "[1]",
    "number": "3",
    "nan": '{"loss": NaN}',
    "infinity": '{"loss": -Infinity}',
    "deep": "[" * 100_000,
    "endless number": f'{{"n": {"1" * 6000}}}',
}


@pytest.mark.parametrize("text", NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_what_is_no_json_object_is_one_sentence(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ScalingError) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_folder_or_no_text_is_one_sentence(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'{"name": "caf\xe9"}')
    said = {
        tmp_path: "is a folder; name the JSON file in it",
        tmp_path / "latin.json": "is no text in UTF-8",
        tmp_path / "latin.json" / "below": r"latin\.json: is a file; name the folder that holds below",
    }
    for path, words in said.items():
        with pytest.raises(ScalingError, match=words):
            read_json(path)


def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "folder", tmp_path / "file" / "below.json"):
        with pytest.raises(ScalingError, match="cannot be written"):
            write_atomic(path, "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_place_that_cannot_be_written_ends_the_command_in_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    for arguments in (
        ["plan", "--flops", "1e22", "--out", str(tmp_path / "file" / "plan.json")],
        ["sweep", str(tmp_path / "file" / "sweep"), "--dry-run"],
        ["data", str(tmp_path), "--out", str(tmp_path / "file" / "tokens")],
    ):
        assert main(arguments) == 1
        said = capsys.readouterr().err
        assert "unexpected" not in said and "Traceback" not in said and str(tmp_path / "file") in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version 2 is not known"),
        ({"format": "scaling/fit"}, "format 'scaling/result' is expected"),
        ({"shape": None}, "field 'shape' is missing"),
        ({"loss": None}, "field 'loss' is missing"),
    ],
)
def test_a_result_that_nobody_should_rely_on_is_refused(tmp_path, change, said):
    record = {"format": "scaling/result", "version": 1, "status": "done", "loss": 2.0}
    record |= {"shape": {}, "flops": {}, "params": 1, "tokens": 1}
    write_json(tmp_path / "result.json", record)
    assert read_result(tmp_path / "result.json") == record
    write_json(tmp_path / "result.json", record | change)
    with pytest.raises(ScalingError, match=said):
        read_result(tmp_path / "result.json")


@pytest.mark.parametrize(
    "change",
    [
        {"lr": "fast"},
        {"seq": 64.5},
        {"batch": True},
        {"b1": 5},
        {"b2": -3.0},
        {"weight_decay": float("nan")},
        {"z_loss": -1.0},
        {"lr_horizon_exponent": float("inf")},
        {"dtype": "int8"},
        {"warmup_max_steps": -1},
    ],
)
def test_a_recipe_of_nonsense_is_refused_by_field(change):
    with pytest.raises(ScalingError, match=next(iter(change))):
        Recipe.from_dict(change)
