"""The verbs plan, laws and accelerators: the decision first, JSON alone, one sentence for an error."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
from synthetic_sweep import DATA, FAMILY, RECIPE, sweep_table

from scaling.cli.main import main
from scaling.files import write_json
from scaling.laws.fit import fit
from scaling.planfiles import read_plan
from scaling.runs import Runs


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep's folder as `scaling sweep` and `scaling fit` leave it, without the runs themselves."""
    folder = tmp_path_factory.mktemp("sweep")
    table = sweep_table()
    table.to_csv(folder / "runs.csv", index=False)
    write_json(folder / "fit.json", fit(Runs.from_frame(table)).to_dict())
    write_json(
        folder / "sweep.json",
        {
            "format": "scaling/sweep",
            "version": 1,
            "design": {"family": asdict(FAMILY)},
            "recipe": RECIPE.to_dict(),
            "data": {
                "folder": "data",
                "sha256": DATA,
                "source": "test",
                "vocab": 128,
                "train_tokens": 60_000_000,
            },
        },
    )
    return folder


def test_the_page_states_the_decision_first(capsys):
    status, page, _ = run(
        capsys, "plan", "--flops", "1e22", "--law", "palm2", "--accelerator", "a100-80gb", "--chips", "1000"
    )
    assert status == 0
    lines = [line.strip() for line in page.splitlines() if line.strip()]
    assert lines[0].startswith("Train 10.7B parameters on 15")
    assert "22.3 h" in page
    assert "22.3k chip-hours" in page
    assert "40% of its dense bf16 peak" in page
    assert "secondary source" in page
    assert page.index("palm2 (section 2.2)") < page.index("chinchilla-1")


def test_json_is_one_object_and_nothing_else(capsys, tmp_path):
    out = tmp_path / "plan.json"
    status, text, err = run(
        capsys, "plan", "--flops", "1e22", "--accelerator", "H100 SXM", "--chips", "256", "--price", "$2",
        "--out", str(out), "--json",
    )  # fmt: skip
    assert status == 0
    plan = json.loads(text)
    assert plan == read_plan(out)
    assert plan["law"]["name"] == "besiroglu"
    assert plan["optimum"]["params"] == pytest.approx(9.05e9, rel=1e-3)
    assert plan["time"]["chip_hours"] == pytest.approx(7022, rel=1e-3)
    assert plan["time"]["cost_usd"] == pytest.approx(2 * 7022, rel=1e-3)
    assert (plan["time"]["utilisation"], plan["time"]["flops_convention"]) == (0.4, "6nd")
    assert "plan.json" in err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--flops", "1e22", "--accelerator", "h1000"], 2, "did you mean h100"),
        (["--flops", "-1e22"], 2, "--flops must be above zero"),
        (["--flops", "lots"], 2, "--flops"),
        (["--flops", "1e22", "--law", "chinchila"], 2, "did you mean"),
        (["--flops", "1e22", "--law", "palm2", "--fit", "x.json"], 2, "exclude one another"),
        (["--flops", "1e22", "--chips", "8"], 2, "need --accelerator"),
        (["--flops", "1e22", "--accelerator", "h100", "--utilisation", "40"], 2, "--utilisation"),
        (["--flops", "1e22", "--accelerator", "h100", "--chips", "2.5"], 2, "--chips"),
        (["--flops", "1e22", "--accelerator", "h100", "--chips", "1e300"], 2, "--chips"),
        (["--flops", "1e22", "--seq", "1e300"], 2, "--seq"),
        (["--flops", "1e22", "--waste", "2"], 2, "--waste"),
        (["--flops", "1e22", "--convention", "6nd"], 2, "goes with --fit"),
        (["--flops", "1e26"], 1, "--force"),
        (["--flops", "1e19", "--law", "gemstones"], 1, "not planned with"),
        (["--flops", "1e22", "--fit", "missing.json"], 1, "no such file"),
        (["--flops", "1e13", "--sweep", "missing"], 1, "no such file"),
        ([], 2, "--flops"),
    ],
)
def test_a_bad_request_is_one_sentence_and_overwrites_nothing(capsys, tmp_path, arguments, status, said):
    out = tmp_path / "plan.json"
    out.write_text("precious")
    found, text, err = run(capsys, "plan", *arguments, "--out", str(out))
    assert found == status
    assert text == ""
    assert err.startswith("error: ")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert out.read_text() == "precious"


def test_a_good_plan_does_not_replace_another_file(capsys, tmp_path):
    out = tmp_path / "plan.json"
    assert run(capsys, "plan", "--flops", "1e21", "--out", str(out))[0] == 0
    before = out.read_bytes()
    status, _, err = run(capsys, "plan", "--flops", "1e22", "--out", str(out))
    assert status == 1
    assert "another sealed plan" in err
    assert out.read_bytes() == before


def test_force_is_marked_in_every_output(capsys):
    status, page, _ = run(capsys, "plan", "--flops", "1e26", "--force")
    assert status == 0
    assert "! Forced" in page
    assert json.loads(run(capsys, "plan", "--flops", "1e26", "--force", "--json")[1])["forced"]


def test_a_sweep_gives_a_launchable_plan(capsys, sweep, tmp_path):
    status, page, _ = run(
        capsys, "plan", "--flops", "1e13", "--sweep", str(sweep), "--out", str(tmp_path / "p")
    )
    assert status == 0
    assert "Sealed prediction" in page
    assert "Confirmation runs" in page
    assert "palm2" not in page  # large models have nothing to say about a byte model this small
    plan = read_plan(tmp_path / "p")
    assert plan["recipe"] == RECIPE.to_dict()
    assert plan["data_sha256"] == DATA
    assert len(plan["confirmations"]) == 3
    assert len(plan["naive"]) == 2
    assert plan["noise"]["source"] == "seeds of the sweep"


def test_the_fit_of_a_sweep_brings_the_sweep_s_shapes(capsys, sweep):
    status, text, err = run(capsys, "plan", "--flops", "1e13", "--fit", str(sweep / "fit.json"), "--json")
    assert status == 0
    assert json.loads(text)["family"] == FAMILY.to_dict()
    assert "belongs to the sweep" in err
    assert "--out" in err


def test_a_bare_fit_is_planned_with_a_generic_shape(capsys, sweep, tmp_path):
    (tmp_path / "fit.json").write_text((sweep / "fit.json").read_text())
    status, text, _ = run(
        capsys, "plan", "--flops", "1e15", "--fit", str(tmp_path / "fit.json"), "--json"
    )  # fmt: skip
    assert status == 0
    plan = json.loads(text)
    assert plan["law"]["name"] == "fit"
    assert plan["steps"] is None
    assert any("generic" in note for note in plan["notes"])


def test_a_sweep_without_a_fit_says_what_to_run(capsys, sweep, tmp_path):
    (tmp_path / "sweep.json").write_text((sweep / "sweep.json").read_text())
    status, _, err = run(capsys, "plan", "--flops", "1e13", "--sweep", str(tmp_path))
    assert status == 1
    assert "scaling fit" in err


def test_laws_and_accelerators_list_what_is_known(capsys):
    status, page, _ = run(capsys, "laws")
    assert status == 0
    assert page.index("palm2") < page.index("besiroglu")
    assert json.loads(run(capsys, "laws", "--json")[1])["laws"][0]["law"] == "palm2"
    status, page, _ = run(capsys, "laws", "besiroglu")
    assert "arXiv:2404.10102" in page
    shown = json.loads(run(capsys, "laws", "chinchilla-3", "--json")[1])
    assert shown["alpha"] == pytest.approx(0.33917084)
    status, page, _ = run(capsys, "accelerators")
    assert status == 0
    assert "H100 SXM" in page
    assert len(json.loads(run(capsys, "accelerators", "--json")[1])["accelerators"]) >= 30
    one = json.loads(run(capsys, "accelerators", "TPU v5p", "--json")[1])
    assert one["figures"]["bf16_tflops"]["value"] == 459
    assert run(capsys, "accelerators", "v5pp")[0] == 2
    assert run(capsys, "laws", "palm3")[0] == 2


def test_a_published_plan_starts_fast_and_light():
    """Neither JAX nor scipy, pandas and matplotlib; the time is bounded loosely, a benchmark is strict."""
    code = (
        "import sys; from scaling.cli.main import main; status = main(['plan', '--flops', '1e22']);"
        "heavy = {'jax', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "9.05B" in done.stdout
    assert time.perf_counter() - began < 5
