"""The accelerator catalogue and the time of a run at a stated utilisation."""

from __future__ import annotations

import pytest

from scaling.errors import ScalingError, UsageError
from scaling.hardware.catalogue import catalogue, find_chip
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


def test_every_figure_has_a_source_and_a_date_and_peaks_are_dense():
    for chip in catalogue().values():
        for name, figure in chip.figures.items():
            assert figure.value > 0, (chip.name, name)
            assert figure.source, (chip.name, name)
            assert figure.date.startswith("2026-"), (chip.name, name)
            assert "UNVERIFIED" not in figure.source
    assert find_chip("h100").figure("bf16_tflops") == 989  # not the sparse 1979
    assert find_chip("b200").figure("bf16_tflops") == 2250
    assert find_chip("a100").figure("fp8_tflops") is None
    measured = [(c, c.figure("bf16_measured_tflops")) for c in catalogue().values()]
    assert all(value < c.figure("bf16_tflops") for c, value in measured if value is not None)


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
