"""`scaling estimate` from end to end: one row or many, probes, the waterfall, and files of nonsense."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from scaling.cli.main import main

ROW = {
    "n_layers": 32,
    "d_model": 4096,
    "d_ff": 14336,
    "n_heads": 32,
    "n_kv_heads": 8,
    "head_dim": 128,
    "vocab": 128256,
    "gated_mlp": True,
    "seq_len": 8192,
    "global_batch_tokens": 1048576,
    "chip": "h100",
    "n_chips": 64,
    "fsdp": 64,
    "tensor": 1,
    "pipeline": 1,
    "context": 1,
    "data": 1,
    "remat": "full",
    "remat_raw": "full",
    "offload": False,
    "precision": "bf16",
    "slices": 1,
    "zero": 3,
    "framework": "jax",
    "flash_attention": True,
    "parallelism_known": True,
}


@pytest.fixture
def estimate(tmp_path, capsys):
    """Runs the verb on a value (or raw text) written to a file; returns status, output, errors."""

    def run(value, *options, probes=None):
        file = tmp_path / "rows.json"
        file.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        extra = []
        if probes is not None:
            (tmp_path / "probes.json").write_text(json.dumps(probes), encoding="utf-8")
            extra = ["--probes", str(tmp_path / "probes.json")]
        status = main(["estimate", str(file), *extra, *options])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def one(estimate, row, **keywords):
    status, out, err = estimate(row, "--json", **keywords)
    assert status == 0, err
    return json.loads(out)


def test_one_object_gives_one_object_and_a_list_gives_the_same_rows(estimate):
    other = ROW | {"chip": "TPU v5p", "seq_len": 2048}
    singles = [one(estimate, ROW), one(estimate, other)]
    assert one(estimate, [ROW, other]) == {"rows": singles}
    found = singles[0]
    assert 0 < found["step_time_lo"] < found["step_time_s"] < found["step_time_hi"]
    assert 0 < found["mfu"] < 1 and found["mfu_convention"] == "model_causal"
    assert 1e9 < found["bytes_per_device"] < 80e9
    assert one(estimate, [ROW])["rows"] == [found]


def test_aliases_are_the_same_chip(estimate):
    assert len({one(estimate, ROW | {"chip": name})["step_time_s"] for name in ("h100", "H100 SXM")}) == 1


def test_explain_is_a_waterfall_that_sums_to_the_step(estimate):
    status, out, _ = estimate(ROW, "--explain")
    assert status == 0
    assert all(word in out for word in ("matmul", "attention", "stragglers", "model_causal"))
    assert "pipeline" not in out, "terms of nothing are left out"
    status, out, _ = estimate(ROW, "--explain", "--json")
    found = json.loads(out)
    assert sum(term["seconds"] for term in found["terms"]) == pytest.approx(found["step_time_s"], rel=1e-9)


def test_probes_move_the_estimate_towards_the_measurement(estimate):
    before = one(estimate, ROW)["step_time_s"]
    slow = [ROW | {"step_time_s": 1.3 * before}]
    after = one(estimate, ROW, probes=slow)
    assert 1.05 * before < after["step_time_s"] < 1.3 * before
    elsewhere = ROW | {"chip": "v5p"}
    away, plain = one(estimate, elsewhere, probes=slow), one(estimate, elsewhere)
    assert away["step_time_s"] == plain["step_time_s"], "one chip says nothing of another"
    assert "not calibrated" in away["notes"][-1] and "calibrated on 1 probes" in after["notes"][-1]


def test_a_layout_that_does_not_fit_is_said_to(estimate):
    found = one(estimate, ROW | {"n_chips": 1, "fsdp": 1})
    assert found["bytes_per_device"] > 80e9 and any("memory:" in note for note in found["notes"])


def test_probes_without_a_measurement_are_refused(estimate):
    status, _, err = estimate(ROW, "--json", probes=[ROW])
    assert status == 1 and "probes.json, row 0" in err and "step_time_s" in err


NONSENSE = [
    ("{", "line 1"),
    ("[]", "empty"),
    ("[1]", "row 0"),
    ("null", "JSON object"),
    ('{"a": NaN}', "NaN"),
    ("[" * 5000, "not valid JSON"),
    ('{"n_layers": ' + "9" * 5000 + "}", "not valid JSON"),
    ({}, "'chip' is missing"),
    (ROW | {"chip": "h1000"}, "h100"),
    (ROW | {"chip": 5}, "'chip' must be a name, found 5"),
    (ROW | {"chips": 5}, "unknown field 'chips'"),
    ([ROW, ROW | {"n_layers": None}], "row 1: field 'n_layers' is missing"),
    (ROW | {"n_layers": 0}, "'n_layers' must be a whole number of at least 1, found 0"),
    (ROW | {"n_layers": "32"}, "'n_layers'"),
    (ROW | {"n_layers": True}, "'n_layers'"),
    (ROW | {"d_model": 4096.5}, "found 4096.5"),
    (ROW | {"d_model": -1}, "found -1"),
    (ROW | {"d_model": [1]}, "'d_model'"),
    (ROW | {"vocab": 1e300}, "'vocab'"),
    (ROW | {"remat": "some"}, "'remat' must be one of none, minimal, custom, full, unknown, found 'some'"),
    (ROW | {"remat": ["full"]}, "'remat' must be one of"),
    (ROW | {"remat_saved": ["mlp"]}, "'remat_saved' must list names out of query_proj"),
    (ROW | {"remat_saved": 3}, "'remat_saved' must list"),
    (ROW | {"remat_saved": [["a"]]}, "'remat_saved' must list"),
    (ROW | {"framework": "tensorflow"}, "jax, pytorch, megatron"),
    (ROW | {"offload": "yes"}, "'offload' must be true or false, found 'yes'"),
    (ROW | {"offload": []}, "'offload' must be true or false"),
    (ROW | {"n_kv_heads": 5}, "must divide n_heads 32"),
    (ROW | {"pipeline": 64, "fsdp": 1}, "more stages than the 32 layers"),
    (ROW | {"fsdp": 1000}, "= 1000, but n_chips is 64"),
    (ROW | {"step_time_s": -1}, "'step_time_s'"),
    (ROW | {"precision": "fp8", "chip": "v4"}, "no fp8 peak"),
]


@pytest.mark.parametrize(("value", "words"), NONSENSE)
def test_nonsense_is_answered_in_one_sentence(estimate, value, words):
    status, out, err = estimate(value, "--json")
    assert status in (1, 2) and out == ""
    assert words in err and "unexpected" not in err and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_extreme_but_valid_rows_give_finite_numbers(estimate):
    tiny = {"n_layers": 1, "d_model": 8, "d_ff": 8, "n_heads": 1, "n_kv_heads": 1, "head_dim": 8, "vocab": 2}
    rows = [
        ROW | tiny | {"seq_len": 1, "global_batch_tokens": 1, "n_chips": 1, "fsdp": 1},
        ROW | {"n_chips": 1_000_000, "fsdp": 1_000_000},
        ROW | {"seq_len": 10**7, "global_batch_tokens": 10**7, "context": 32, "fsdp": 2},
        ROW | {"global_batch_tokens": 10**15},
    ]
    for found in one(estimate, rows)["rows"]:
        assert 0 < found["step_time_lo"] <= found["step_time_s"] <= found["step_time_hi"] < float("inf")
        assert 0 < found["mfu"] < 1 and found["bytes_per_device"] > 0


def test_it_starts_without_jax(tmp_path):
    (tmp_path / "row.json").write_text(json.dumps(ROW))
    code = (
        "import sys; from scaling.cli.main import main; status = main(['estimate', sys.argv[1], '--json'])\n"
        "heavy = {'jax', 'flax', 'trainer', 'pandas', 'scipy', 'numpy'} & set(sys.modules)\n"
        "sys.exit(status or (f'imported {heavy}' if heavy else 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "row.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step_time_s"] > 0
