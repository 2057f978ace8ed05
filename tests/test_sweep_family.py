"""`scaling sweep --family`: an architecture from the command line to the trained model, and back."""

from __future__ import annotations

import pytest
from model_helpers import cli, failure

from scaling.cli.main import main
from scaling.files import read_json
from scaling.shape import ShapeFamily, named_family
from sweeps import store
from sweeps.sweep import Settings, prepare

OLD_FAMILY = (
    *("vocab", "aspect", "min_layers", "head_dim", "min_heads", "ffn_multiple", "width_multiple", "kv_group"),
    *("tied", "qk_norm"),
)
SMALL = ("--budgets", "8e9", "--sizes", "3")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """One tiny run of PaLM's kind."""
    folder = tmp_path_factory.mktemp("sweep") / "palm"
    assert cli("sweep", folder, "--family", "palm", *SMALL)["done"] >= 3
    return folder


def test_its_runs_are_of_the_family(sweep):
    opened = store.open_sweep(sweep)
    fields = opened.design.family.to_dict()
    assert named_family("palm").items() <= fields.items()
    result = read_json(next((sweep / "cells").glob("*/result.json")))
    shape = result["shape"]
    assert (shape["block"], shape["norm"], shape["kv_heads"], shape["tied"]) == ("parallel", "layer", 1, True)
    assert result["params_head"] == 0 and result["status"] == "done"


def test_the_folder_keeps_its_family(sweep, capsys):
    """Going on needs no option; asking for another architecture is refused, and so is an unknown one."""
    assert cli("sweep", sweep)["ran"] == 0
    assert cli("sweep", sweep, "--family", "palm", *SMALL)["ran"] == 0
    assert main(["sweep", str(sweep), "--family", "llama", *SMALL]) == 1
    assert "another family" in capsys.readouterr().err.splitlines()[-1]
    assert "gpt2" in failure(capsys, "sweep", sweep, "--family", "gpt2")


def test_a_sweep_from_before_families_is_of_the_default(tmp_path):
    """The default family is written as it always was, so that old files are the same sweep, and same hash."""
    made = prepare(tmp_path, Settings(budgets=(8e9,), sizes=3))
    store.create(made.folder, made.design, made.recipe, made.data)
    written = read_json(tmp_path / "sweep.json")
    assert "parallel" not in str(written) and not {"block", "norm"} & set(
        written["design"]["cells"][0]["shape"]
    )
    assert set(written["design"]["family"]) == {*OLD_FAMILY}
    assert store.open_sweep(tmp_path).design == made.design
    assert made.design.family == ShapeFamily(made.data.vocab, **named_family("llama"))
