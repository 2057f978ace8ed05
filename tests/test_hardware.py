"""The accelerator catalogue and the time of a run at a stated utilisation."""

from __future__ import annotations

import json
import re

import pytest

from scaling.cli.main import main
from scaling.errors import ScalingError, UsageError
from scaling.hardware.catalogue import FIGURES, Figure, catalogue, find_chip
from scaling.hardware.runtime import run_time


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("a100-80gb", "a100_80gb"),
        ("A100 SXM 80GB", "a100_80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100_40gb"),
        ("h100", "h100"),
        ("H100 SXM", "h100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("TPU v5p", "v5p"),
        ("tpu-v4", "v4"),
        ("tpu7x", "tpu7x"),
        ("Ironwood", "tpu7x"),
        ("trillium", "v6e"),
        ("AMD Instinct MI300X", "mi300x"),
        ("RTX 4090", "rtx4090"),
        ("NVIDIA A100 80GB PCIe", "a100_pcie"),  # the names by which JAX knows its devices
        ("NVIDIA A100-SXM4-80GB", "a100_80gb"),
        ("NVIDIA H100 NVL", "h100_nvl"),
        ("NVIDIA L40S", "l40s"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
    ],
)
def test_spellings_of_one_chip_meet(spelling, name):
    assert find_chip(spelling).name == name


def test_no_two_chips_share_a_spelling():
    seen: dict[str, str] = {}
    for chip in catalogue().values():
        for spelling in (chip.name, chip.title, *chip.aliases):
            assert find_chip(spelling).name == chip.name
            assert seen.setdefault(spelling.lower(), chip.name) == chip.name


@pytest.mark.parametrize(("name", "near"), [("h1000", "h100"), ("v5", "v5p"), ("a100_90gb", "a100_80gb")])
def test_an_unknown_chip_is_an_error_that_lists_near_names(name, near):
    with pytest.raises(UsageError, match=f"not in the catalogue; did you mean .*{near}"):
        find_chip(name)
    with pytest.raises(UsageError, match="known are"):
        find_chip("abacus")


def test_every_figure_has_a_source_and_a_date():
    for chip in catalogue().values():
        for name, figure in chip.figures.items():
            assert name in FIGURES, (chip.name, name)
            assert figure.value > 0, (chip.name, name)
            assert len(figure.source) > 4, (chip.name, name)
            assert re.fullmatch(r"2026-\d\d(-\d\d)?", figure.date), (chip.name, name)
            assert not {"memory", "unverified", "estimate"} & set(figure.source.lower().split()), chip.name


# Peaks as their vendors state them without sparsity; twice as much is quoted for most of them.
DENSE = {
    "v4": 275, "v5e": 197, "v5p": 459, "v6e": 918, "tpu7x": 2307, "a100_80gb": 312, "h100": 989,
    "h100_nvl": 835, "h200": 989, "b200": 2250, "gb200": 2500, "l4": 121, "l40s": 362, "mi300x": 1300,
    "mi355x": 2500, "trn2": 667,
}  # fmt: skip
# fp8 over bf16, of what each design has: none before, the same units, or twice as fast.
FP8 = {"v5p": 1, "v6e": 1, "gaudi3": 1, "trn1": 1, "trn3": 3.75}


def test_peaks_are_dense_and_stand_in_the_ratios_of_their_designs():
    for name, peak in DENSE.items():
        assert find_chip(name).figure("bf16_tflops") == peak, name
    for chip in catalogue().values():
        bf16, fp8, tf32 = (chip.figure(f"{form}_tflops") for form in ("bf16", "fp8", "tf32"))
        if fp8 is not None:
            assert fp8 / bf16 == pytest.approx(FP8.get(chip.name, 2), rel=0.03), chip.name
        if tf32 is not None and chip.vendor in ("NVIDIA", "AMD"):
            assert tf32 / bf16 == pytest.approx(0.5, rel=0.02), chip.name  # a sparse bf16 would make it 1/4
        measured = chip.figure("bf16_measured_tflops")
        if measured is not None:
            assert 0.5 < measured / bf16 < 1, chip.name
    assert find_chip("a100").figure("fp8_tflops") is None


def test_figures_lie_where_chips_lie():
    for chip in catalogue().values():
        peak = chip.figure("bf16_tflops") or chip.figure("fp16_tflops")
        memory, speed = chip.figure("memory_gb"), chip.figure("memory_tb_per_s")
        inside, between = chip.figure("intra_node_gb_per_s"), chip.figure("inter_node_gb_per_s")
        if peak and speed:
            assert 60 < peak / speed < 700, chip.name  # FLOPs per byte of memory traffic
        if memory and speed:
            assert 0.01 < memory / speed / 1000 < 0.1, chip.name  # seconds to read it all
        if speed and inside:
            assert 0.05 < inside / speed / 1000 < 0.5, chip.name  # links are slower than memory
        if inside and between:
            assert 2 < inside / between < 100, chip.name
        if peak and chip.figure("power_w"):
            assert 0.2 < peak / chip.figure("power_w") < 3, chip.name  # TFLOP/s per watt
        low, high = (chip.figure(f"price_{end}_usd_per_hour") for end in ("low", "high"))
        assert (low is None) == (high is None), chip.name
        if low is not None:
            assert low < chip.figures.get("price_usd_per_hour", Figure((low + high) / 2, "", "")).value < high


def test_a_figure_nobody_could_verify_is_absent():
    assert find_chip("v2").figure("memory_gb") is None
    assert find_chip("b100").figure("memory_tb_per_s") is None  # two sources, two numbers
    assert find_chip("v5p").figure("price_usd_per_hour") is None
    assert find_chip("rtx5090").figure("fp8_tflops") is None


TOML = """
[lab]
title = "Lab card"
like = "h100"
bf16_tflops = 500
price_usd_per_hour = 1.10
source = "our quote"
date = "2026-11"

[bare]
bf16_tflops = 100
memory_gb = 48
"""


def test_a_chip_of_ones_own_comes_from_a_file(tmp_path):
    path = tmp_path / "chips.toml"
    path.write_text(TOML)
    lab = find_chip(f"{path}:lab")
    assert (lab.name, lab.title, lab.vendor) == ("lab", "Lab card", "NVIDIA")
    assert lab.figures["bf16_tflops"] == Figure(500, "our quote", "2026-11")
    assert lab.figure("memory_tb_per_s") == 3.35  # the H100's
    assert lab.figure("fp8_tflops") is None  # what an H100 does in fp8 says nothing of this chip
    assert lab.figure("price_low_usd_per_hour") is None
    assert run_time(1e22, "6nd", lab, 8).cost_usd == pytest.approx(1e22 / (500e12 * 0.4) / 3600 * 1.10)
    assert find_chip(f"{path}:bare").figures["memory_gb"].source == "as given in chips.toml"
    with pytest.raises(UsageError, match="lab, bare; say which"):
        find_chip(str(path))
    path.write_text("[only]\nlike = 'v5p'\n")
    assert find_chip(str(path)).figure("bf16_tflops") == 459


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "describes no accelerator"),
        ("[lab\n", "not valid TOML"),
        ("bf16_tflops = 3", "outside a table"),
        ("[lab]\nbf16_tflop = 3", "did you mean bf16_tflops"),
        ("[lab]\nbf16_tflops = 0", "above 0"),
        ("[lab]\nbf16_tflops = true", "above 0"),
        ("[lab]\nbf16_tflops = inf", "above 0"),
        ("[lab]\ntitle = 3", "must be text"),
        ("[lab]\nlike = 'h1000'", "field 'like'.*did you mean h100"),
        ("[lab]\ntitle = 'x'", "states no figure"),
    ],
)
def test_a_bad_file_of_chips_is_one_sentence(tmp_path, text, said):
    path = tmp_path / "chips.toml"
    path.write_text(text)
    with pytest.raises(ScalingError, match=said) as caught:
        find_chip(f"{path}:lab")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_name_are_named(tmp_path):
    with pytest.raises(ScalingError, match="no such file"):
        find_chip(str(tmp_path / "none.toml"))
    path = tmp_path / "chips.toml"
    path.write_text(TOML)
    with pytest.raises(UsageError, match="no accelerator 'lap'; did you mean lab"):
        find_chip(f"{path}:lap")


def test_the_verb_shows_the_list_one_chip_and_ones_own(tmp_path, capsys):
    assert main(["accelerators", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["accelerators"]
    assert [chip["name"] for chip in listed] == list(catalogue())
    assert main(["accelerators", "H100 SXM"]) == 0
    page = capsys.readouterr().out
    assert "794.5" in page
    assert "stas00/ml-engineering" in page
    path = tmp_path / "chips.toml"
    path.write_text(TOML)
    assert main(["accelerators", f"{path}:lab", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["bf16_tflops"]["source"] == "our quote"
    plan = ["plan", "--flops", "1e20", "--accelerator", f"{path}:lab", "--chips", "8", "--json"]
    assert main(plan) == 0
    assert "Lab card" in capsys.readouterr().out
    assert main(["accelerators", "h1000"]) == 2
    assert "did you mean h100" in capsys.readouterr().err


def test_the_popular_mistakes_about_1e22_flops_are_corrected():
    time = run_time(1e22, "6nd", find_chip("a100-80gb"), chips=1000)
    assert time.chip_hours == pytest.approx(22_258, rel=1e-3)
    assert time.seconds / 3600 == pytest.approx(22.3, rel=1e-2)  # a day, not weeks
    assert run_time(1e22, "6nd", find_chip("a100-80gb"), 1000, price_usd=2.0).cost_usd == pytest.approx(
        44_500, rel=1e-2
    )
    for name, hours in (("h100", 7_022), ("v4", 25_253), ("v5p", 15_130), ("b200", 3_086)):
        assert run_time(1e22, "6nd", find_chip(name), 8).chip_hours == pytest.approx(hours, rel=1e-3)


def test_a_price_is_given_known_with_its_source_or_absent():
    given = run_time(1e22, "6nd", find_chip("h100"), 8, price_usd=1.5)
    assert (given.price_source, given.cost_low_usd) == ("as given", None)
    known = run_time(1e22, "6nd", find_chip("h100"), 8)
    assert known.price_usd == 2.95
    assert "2026-05-20" in known.price_source
    spread = run_time(1e22, "6nd", find_chip("a100"), 8)
    assert spread.cost_usd is None
    assert spread.cost_low_usd < spread.cost_high_usd
    unknown = run_time(1e22, "6nd", find_chip("gaudi2"), 8)
    assert (unknown.cost_usd, unknown.price_source) == (None, None)


def test_a_chip_without_bf16_says_which_format_its_peak_is_of():
    assert run_time(1e20, "6nd", find_chip("v100"), 8).peak_format == "fp16"


@pytest.mark.parametrize(
    "wrong", [{"chips": 0}, {"utilisation": 0.0}, {"utilisation": 1.1}, {"price_usd": -1.0}]
)
def test_impossible_requests_are_refused(wrong):
    with pytest.raises(ScalingError, match="--"):
        run_time(1e22, "6nd", find_chip("h100"), **({"chips": 8} | wrong))
