"""The verbs plan, laws and accelerators: the decision first, JSON alone, one sentence for an error."""

from __future__ import annotations

import json
import math
import subprocess
import sys
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
    assert "on 1,000 x A100 SXM 80GB" in page
    assert "At the usual 40% of the peak it would be 22.3 h, 22.3k chip-hours" in page
    assert "does not fit on one A100 SXM 80GB" in page
    assert "secondary source" in page
    assert page.index("palm2 (section 2.2)") < page.index("chinchilla-1")


def test_json_is_one_object_and_nothing_else(capsys, tmp_path):
    out = tmp_path / "plan.json"
    status, text, err = run(
        capsys, "plan", "--flops", "1e22", "--accelerator", "H100 SXM", "--chips", "256", "--price", "$2",
        "--utilisation", "0.4", "--out", str(out), "--json",
    )  # fmt: skip
    assert status == 0
    plan = json.loads(text)
    assert plan == read_plan(out)
    assert plan["law"]["name"] == "besiroglu"
    assert plan["optimum"]["params"] == pytest.approx(9.05e9, rel=1e-3)
    assert plan["time"]["basis"] == "stated utilisation"
    assert plan["time"]["chip_hours"] == pytest.approx(7022, rel=1e-3)
    assert plan["time"]["cost_usd"] == pytest.approx(2 * 7022, rel=1e-3)
    assert (plan["time"]["utilisation"], plan["time"]["flops_convention"]) == (0.4, "6nd")
    assert "plan.json" in err


def plan_of(capsys, *arguments: str) -> dict:
    status, text, err = run(capsys, "plan", *arguments, "--json")
    assert status == 0, err
    return json.loads(text)


def test_palm_2_on_a_thousand_a100s_takes_about_a_day_and_not_one_card(capsys):
    plan = plan_of(
        capsys, "--flops", "1e22", "--law", "palm2", "--accelerator", "a100-80gb", "--chips", "1000"
    )
    time = plan["time"]
    assert plan["optimum"]["params"] == pytest.approx(10.7e9, rel=1e-3)
    assert plan["optimum"]["tokens"] == pytest.approx(156e9, rel=2e-3)
    assert 0.6 < time["seconds"] / 86_400 < 1.2
    assert 15_000 < time["chip_hours"] < 26_000
    assert time["rule_of_thumb"]["chip_hours"] == pytest.approx(22_258, rel=0.01)
    assert time["seconds_lo"] < time["seconds"] < time["seconds_hi"]
    assert 1.27e11 < plan["state"]["checkpoint_bytes"] < 1.5e11
    assert 1.7e11 < plan["state"]["training_state_bytes"] < 1.9e11
    assert plan["state"]["training_state_bytes"] > plan["memory"]["chip_bytes"]
    assert any("does not fit on one A100" in note for note in plan["notes"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--flops", "1e22"],
        ["--target-loss", "2.1"],
        ["--days", "30", "--chips", "256", "--accelerator", "h100"],
        ["--budget-usd", "1e6", "--accelerator", "h100"],
        ["--budget", "$1M", "--days", "20d", "--accelerator", "v5e", "--price", "1.2"],
        ["--target-loss", "2.1", "--accelerator", "h100", "--days", "10"],
        ["--flops", "1e22", "--serve-tokens", "2T", "--unique-tokens", "300B", "--max-params", "3B"],
        ["--flops", "1e22", "--max-latency-ms", "2", "--accelerator", "h100", "--seq", "8192"],
    ],
)
def test_every_way_to_limit_a_run_works_alone_and_the_budget_holds(capsys, arguments):
    plan = plan_of(capsys, *arguments)
    counted = plan["convention"]["flops"]
    assert plan["flops"][counted] == pytest.approx(plan["budget"]["flops"], rel=0.01)
    assert plan["budget"]["binding"].startswith("--")
    shape = plan["shape"]
    assert shape["params"] == pytest.approx(plan["allocation"]["params"], rel=0.011)
    time = plan["time"]
    if time is not None:
        layout = plan["layout"]
        ways = [layout[axis] for axis in ("data", "fsdp", "tensor", "pipeline", "context")]
        assert math.prod(ways) == time["chips"]
        assert plan["memory"]["bytes_per_device"] <= plan["memory"]["usable_bytes"]
        assert plan["steps"] * plan["batch_tokens"] == pytest.approx(plan["tokens"], rel=0.01)
        assert sum(term["seconds"] for term in plan["step"]["terms"]) == pytest.approx(
            plan["step"]["step_time_s"]
        )
    page = run(capsys, "plan", *arguments)[1]
    assert page.strip().startswith("Train ")
    assert "MFU" not in page.split("Step ")[0]  # never a bare MFU: it stands within the explanation


def test_the_plan_of_a_target_is_that_of_the_compute_it_names(capsys):
    forward = plan_of(capsys, "--flops", "3e22")
    back = plan_of(capsys, "--target-loss", repr(forward["allocation"]["loss"]))
    assert back["budget"]["flops"] == pytest.approx(3e22, rel=1e-6)
    assert back["shape"] == forward["shape"]
    target = back["budget"]["target"]
    assert target["flops_lo"] < 3e22 < target["flops_hi"]


def test_what_moves_the_size_is_priced_on_the_page(capsys):
    page = run(capsys, "plan", "--flops", "1e22", "--serve-tokens", "2T")[1]
    assert "Sardana" in page
    assert "of the training compute" in page
    page = run(capsys, "plan", "--flops", "1e22", "--unique-tokens", "20B")[1]
    assert "13.1 times" in page
    assert "Muennighoff" in page
    plan = plan_of(capsys, "--flops", "1e22", "--serve-tokens", "2T")
    names = [row["name"] for row in plan["alternatives"]]
    assert names[:2] == ["as planned", "the law's own optimum"]
    rows = plan["alternatives"]
    for one in rows[1:]:
        for other in rows:
            better = (other["params"], other["flops"], other["loss"])
            assert other is one or any(
                x > y for x, y in zip(better, (one["params"], one["flops"], one["loss"]))
            )


def test_a_page_s_figures_have_their_numbers_in_the_plan(capsys):
    plan = plan_of(capsys, "--flops", "1e22", "--accelerator", "h100", "--chips", "64")
    figures = plan["figures"]
    curve = figures["leaving_optimum"]
    lowest = curve["waste"].index(min(curve["waste"]))
    assert curve["params"][lowest] == pytest.approx(plan["optimum"]["params"], rel=0.1)
    chips = figures["chips"]
    assert 64 in chips["chips"]
    assert chips["seconds"] == sorted(chips["seconds"], reverse=True)
    assert sum(figures["memory"].values()) == pytest.approx(plan["memory"]["bytes_per_device"])
    assert sum(figures["step"].values()) == pytest.approx(plan["step"]["step_time_s"])


def test_a_batch_above_the_critical_one_is_warned_of(capsys):
    arguments = ["--flops", "1e22", "--accelerator", "h100", "--chips", "64", "--batch-tokens"]
    assert "critical" not in str(plan_of(capsys, *arguments, str(2048 * 1024))["notes"])
    assert "critical" in str(plan_of(capsys, *arguments, str(2048 * 8192))["notes"])


def test_the_plan_in_words_lies_beside_it(capsys, tmp_path):
    out = tmp_path / "plan.json"
    assert run(capsys, "plan", "--flops", "1e22", "--accelerator", "h100", "--out", str(out))[0] == 0
    words = (tmp_path / "plan.md").read_text()
    assert words.startswith("# Training plan\n\n**Train 9.0")
    assert read_plan(out)["seal"] in words


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
        (["--days", "30"], 2, "--days needs --accelerator"),
        (["--days", "30", "--accelerator", "h100"], 2, "--days needs --chips"),
        (["--days", "1 fortnight", "--accelerator", "h100", "--chips", "8"], 2, "a duration with a unit"),
        (["--days", "soon", "--accelerator", "h100", "--chips", "8"], 2, "--days"),
        (["--days", "30", "--accelerator", "h100", "--chips", "8", "--utilisation", "0.4"], 2, "leave one"),
        (["--budget-usd", "1e6"], 2, "--budget-usd needs --accelerator"),
        (["--budget-usd", "1e6", "--accelerator", "gaudi2"], 2, "needs --price"),
        (["--target-loss", "1.8"], 1, "floor"),
        (["--target-loss", "-1"], 2, "--target-loss"),
        (["--target-loss", "2.1", "--law", "palm2"], 1, "best size alone"),
        (["--flops", "1e22", "--max-latency-ms", "1"], 2, "needs --accelerator"),
        (["--flops", "1e22", "--batch-tokens", "1e6"], 2, "need --accelerator"),
        (["--flops", "1e22", "--accelerator", "h100", "--batch-tokens", "3e6"], 2, "nearest is 3000320"),
        (["--flops", "1e22", "--files", "launch"], 2, "--files needs --accelerator"),
        (["--flops", "1e24", "--accelerator", "h100", "--chips", "8"], 1, "memory is what binds"),
        (["--flops", "1e22", "--accelerator", "h100", "--chips", "1e6"], 1, "the batch is what binds"),
        (
            ["--flops", "1e15", "--vocab", "256", "--accelerator", "h100", "--batch-tokens", "2048000000"],
            1,
            "below one step",
        ),
        (["--flops", "1e22", "--max-latency-ms", "1e-4", "--accelerator", "h100"], 1, "no model decodes"),
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["--flops", "1e22"],
        ["--flops", "1e22", "--accelerator", "h100", "--chips", "256"],
        ["--budget-usd", "1e5", "--accelerator", "h100", "--serve-tokens", "1T"],
    ],
)
def test_a_published_plan_starts_light(arguments):
    """Neither JAX nor scipy, pandas and matplotlib; how fast that is, a benchmark says."""
    code = (
        f"import sys; from scaling.cli.main import main; status = main(['plan', *{arguments!r}]);"
        "heavy = {'jax', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Train " in done.stdout


def test_a_profile_of_this_machine_times_the_run(capsys, sweep, tmp_path):
    """Without an accelerator the profile's own machine trains: steps of the plan x its seconds per step."""
    from test_calibrate import profile

    from scaling.hardware.workload import Workload
    from scaling.shape import Shape

    measured = profile()
    write_json(tmp_path / "profile.json", measured.to_dict())
    ask = ("plan", "--flops", "1e13", "--profile", str(tmp_path / "profile.json"))
    status, text, err = run(capsys, *ask, "--sweep", str(sweep), "--json")
    assert status == 0, err
    plan = json.loads(text)
    shape = Shape(**{k: v for k, v in plan["shape"].items() if not k.startswith("params")})
    step = measured.step_seconds(Workload.of(shape, plan["seq"], plan["batch"]))
    assert plan["time"]["seconds"] == pytest.approx(plan["steps"] * step.seconds)
    assert plan["time"]["seconds_lo"] < plan["time"]["seconds"] < plan["time"]["seconds_hi"]
    page = " ".join(run(capsys, *ask, "--sweep", str(sweep))[1].split())
    assert "by steps measured there on 2026-11-23" in page
    status, _, err = run(capsys, "plan", "--flops", "1e21", *ask[3:])
    assert status == 2 and "plan with --sweep" in err


def test_the_page_of_a_plan_is_drawn_from_its_numbers(capsys, tmp_path):
    from analysis.figures import plan_page

    ask = ("plan", "--flops", "1e21", "--accelerator", "h100", "--chips", "64", "--json")
    status, text, err = run(capsys, *ask, "--figure", str(tmp_path / "page.svg"))
    assert status == 0, err
    assert (tmp_path / "page.svg").read_text().startswith("<?xml")
    plan = json.loads(text)
    leaving, chips, memory, step = plan_page(plan).axes
    ends = [bar.get_x() + bar.get_width() for bar in step.patches]
    assert max(ends) == pytest.approx(sum(plan["figures"]["step"].values()), rel=0.03)
    widths = sum(bar.get_width() for bar in memory.patches)
    assert widths == pytest.approx(plan["memory"]["bytes_per_device"], rel=0.03)
    assert plan["shape"]["params"] in leaving.lines[-1].get_xdata()
    assert plan["time"]["chips"] in chips.lines[-1].get_xdata()
    bare = json.loads(run(capsys, "plan", "--flops", "1e21", "--json")[1])
    assert len(plan_page(bare).axes) == 1
    status, _, err = run(capsys, *ask, "--figure", str(tmp_path / "page.gif"))
    assert status == 2 and ".svg" in err
