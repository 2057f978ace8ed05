"""Properties of the step-time model: what must hold whatever its constants are."""

from __future__ import annotations

import dataclasses
import math

import pytest

from scaling.errors import ScalingError
from scaling.hardware import constants as tables
from scaling.hardware.catalogue import catalogue, find_chip
from scaling.hardware.probes import calibrate, refit, seconds
from scaling.hardware.remat import recomputed
from scaling.hardware.rows import parse_row
from scaling.hardware.step import MEANINGS, StepTime, estimate_step
from scaling.hardware.workload import Layout, Workload

WORK = Workload(
    n_layers=32,
    d_model=4096,
    d_ff=14336,
    n_heads=32,
    n_kv_heads=8,
    head_dim=128,
    vocab=128256,
    seq_len=8192,
    global_batch_tokens=8192 * 128,
)
H100 = find_chip("h100")
LAYOUTS = [
    Layout(n_chips=64, fsdp=64, remat="full"),
    Layout(n_chips=64, data=8, tensor=8, zero=1, framework="megatron"),
    Layout(n_chips=64, data=4, tensor=4, pipeline=4, zero=1, framework="megatron", interleave=2),
    Layout(n_chips=64, fsdp=16, context=4, framework="pytorch"),
    Layout(n_chips=64, data=2, fsdp=32, slices=2, remat="custom", remat_saved=("query_proj", "context")),
]


def scaled(n: int, **changes: object) -> StepTime:
    """A step of n chips, FSDP over all, two sequences a chip."""
    work = dataclasses.replace(WORK, global_batch_tokens=2 * n * WORK.seq_len)
    return estimate_step(work, Layout(n_chips=n, fsdp=n, remat="full", **changes), H100)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chip", ["h100", "a100_40gb", "v5p", "v5e", "tpu7x", "mi300x", "l4", "b200"])
def test_terms_are_the_total_and_the_interval_holds_it(layout, chip):
    step = estimate_step(WORK, layout, find_chip(chip))
    assert math.isclose(sum(value for _, value, _ in step.terms), step.seconds, rel_tol=1e-12)
    assert all(value >= 0 and meaning for _, value, meaning in step.terms)
    assert [name for name, _, _ in step.terms] == list(MEANINGS)
    assert step.lo < step.seconds < step.hi
    assert 0.02 < step.mfu < 0.9
    peak = find_chip(chip).training_peak[0]
    flops = WORK.model_flops_per_token * WORK.global_batch_tokens
    assert math.isclose(step.mfu, flops / (step.seconds * layout.n_chips * peak))


def test_no_chip_of_the_catalogue_beats_its_peak():
    timed = 0
    for chip in catalogue().values():
        if chip.figure("bf16_tflops") is None and chip.figure("fp16_tflops") is None:
            with pytest.raises(ScalingError, match="no dense bf16 or fp16 peak"):
                estimate_step(WORK, LAYOUTS[0], chip)
            continue
        step = estimate_step(WORK, LAYOUTS[0], chip)
        assert 0 < step.mfu < 0.85, chip.name
        needed = ["memory_tb_per_s", "intra_node_gb_per_s"]
        needed += (
            ["inter_node_gb_per_s"] if chip.vendor != "Google" and not chip.name.startswith("gb") else []
        )
        assert len(step.notes) == sum(chip.figure(figure) is None for figure in needed)
        timed += 1
    assert timed > 25


def test_weak_scaling_loses_and_strong_scaling_gains():
    steps = [scaled(n) for n in (8, 16, 64, 512, 4096)]
    per_chip = [step.seconds for step in steps]
    assert per_chip == sorted(per_chip), "more chips at the same work each cannot make the step shorter"
    assert per_chip[-1] < 1.6 * per_chip[0], "and cost little while compute hides the network"
    times = [estimate_step(WORK, Layout(n_chips=n, fsdp=n), H100).seconds for n in (8, 16, 32, 64, 128)]
    assert times == sorted(times, reverse=True), "the same batch on more chips takes less time"


def test_step_time_grows_with_tokens_depth_and_sequence():
    base = estimate_step(WORK, LAYOUTS[0], H100).seconds
    double = dataclasses.replace(WORK, global_batch_tokens=2 * WORK.global_batch_tokens)
    assert 1.8 * base < estimate_step(double, LAYOUTS[0], H100).seconds <= 2.001 * base
    deep = dataclasses.replace(WORK, n_layers=64)
    assert 1.6 * base < estimate_step(deep, LAYOUTS[0], H100).seconds < 2.2 * base
    long = dataclasses.replace(WORK, seq_len=4 * WORK.seq_len)
    assert estimate_step(long, LAYOUTS[0], H100).seconds > 1.3 * base
    window = dataclasses.replace(long, sliding_window=1024, global_every=6)
    assert estimate_step(window, LAYOUTS[0], H100).seconds < estimate_step(long, LAYOUTS[0], H100).seconds


@pytest.mark.parametrize("figure", ["bf16_measured_tflops", "memory_tb_per_s", "intra_node_gb_per_s"])
def test_a_better_figure_never_slows_a_step(figure):
    better = dict(H100.figures)
    better[figure] = dataclasses.replace(better[figure], value=2 * better[figure].value)
    chip = dataclasses.replace(H100, figures=better)
    for layout in LAYOUTS:
        assert estimate_step(WORK, layout, chip).seconds <= estimate_step(WORK, layout, H100).seconds


def test_remat_costs_what_it_does_not_keep():
    def redo(**changes):
        layout = Layout(n_chips=64, fsdp=64, **changes)
        terms = {name: value for name, value, _ in estimate_step(WORK, layout, find_chip("v5p")).terms}
        return terms["recompute"]

    projections = ("query_proj", "key_proj", "value_proj", "out_proj")
    ladder = [
        redo(remat="full"),
        redo(remat="custom", remat_saved=("query_proj", "key_proj", "value_proj")),
        redo(remat="custom", remat_saved=projections),
        redo(remat="minimal"),
        redo(remat="minimal", remat_saved=(*projections, "mlpwi", "mlpwo", "context")),
        redo(remat="none"),
    ]
    assert ladder == sorted(ladder, reverse=True)
    assert len(set(ladder)) == len(ladder) and ladder[-1] == 0


def test_xla_leaves_out_the_matmul_whose_result_nothing_reads():
    assert recomputed(Layout(remat="full", framework="jax")).mlp_out == 0
    assert recomputed(Layout(remat="full", framework="megatron")).mlp_out == 1


def test_tensor_parallelism_is_worse_over_a_slow_link():
    inside = estimate_step(WORK, Layout(n_chips=64, data=8, tensor=8, zero=1, framework="megatron"), H100)
    across = estimate_step(WORK, Layout(n_chips=64, data=2, tensor=32, zero=1, framework="megatron"), H100)
    assert across.seconds > 1.5 * inside.seconds


def test_a_slow_network_between_slices_costs_something():
    one = estimate_step(WORK, Layout(n_chips=64, fsdp=64), find_chip("v5e"))
    two = estimate_step(WORK, Layout(n_chips=64, fsdp=32, data=2, slices=2), find_chip("v5e"))
    assert one.seconds < two.seconds < 1.5 * one.seconds


def test_interleaving_shrinks_the_bubble():
    plain = Layout(n_chips=64, data=8, pipeline=8, zero=1, framework="megatron", micro_batch_seqs=1)
    chunks = dataclasses.replace(plain, interleave=4)
    assert estimate_step(WORK, chunks, H100).seconds < estimate_step(WORK, plain, H100).seconds


def test_heads_that_do_not_fill_the_matrix_unit_are_slow():
    half = dataclasses.replace(WORK, n_heads=64, n_kv_heads=16, head_dim=64)
    chip = find_chip("v5p")

    def attention(work):
        return {n: s for n, s, _ in estimate_step(work, LAYOUTS[0], chip).terms}["attention"]

    assert math.isclose(attention(half), 2 * attention(WORK), rel_tol=1e-9)


def test_unknown_micro_batch_is_one_that_fits():
    layout = Layout(n_chips=8, fsdp=8, framework="pytorch", remat="full")
    step = estimate_step(WORK, layout, H100)
    assert 1 <= step.micro_batch_seqs < WORK.batch / 8
    stated = estimate_step(WORK, dataclasses.replace(layout, micro_batch_seqs=1), H100)
    assert stated.micro_batch_seqs == 1


def test_intervals_widen_where_less_is_known():
    def width(chip="h100", **changes):
        layout = dataclasses.replace(Layout(n_chips=64, fsdp=64, framework="pytorch"), **changes)
        step = estimate_step(WORK, layout, find_chip(chip))
        return math.log(step.hi / step.lo)

    known = width()
    assert width(precision="fp8") > known
    assert width(parallelism_known=False) > known
    assert width(flash_attention=False) > known
    assert width("h200") > known
    assert width("l4") > width("h200")


def test_fp8_is_faster_and_refused_where_a_chip_has_none():
    fast = estimate_step(WORK, dataclasses.replace(LAYOUTS[0], precision="fp8"), H100)
    assert fast.seconds < estimate_step(WORK, LAYOUTS[0], H100).seconds
    with pytest.raises(ScalingError, match="no fp8 peak"):
        estimate_step(WORK, dataclasses.replace(LAYOUTS[0], precision="fp8"), find_chip("a100"))


def test_constants_are_a_table_with_a_source_for_each():
    rows = tables.table()
    assert set(rows) == {field.name for field in dataclasses.fields(tables.Constants)}
    for row in rows.values():
        assert row.value > 0 and row.prior > 0 and row.spread > 0
        assert row.meaning and row.source and row.calibrated_on
        assert abs(math.log(row.value / row.prior)) < 3 * row.spread, f"{row.name} fights its prior"
        if row.calibrated_on.startswith("none"):
            assert row.value == row.prior, f"{row.name} moved without data"


def test_probes_pull_the_estimate_towards_them_and_elsewhere_less():
    layout = Layout(n_chips=64, fsdp=64, framework="pytorch", remat="full")
    prior = estimate_step(WORK, layout, H100).seconds
    for factor in (0.8, 1.3):
        profile = calibrate([(WORK, layout, H100, factor * prior)])
        after = estimate_step(WORK, layout, H100, profile)
        assert abs(after.seconds - factor * prior) < 0.7 * abs(prior - factor * prior)
        assert min(prior, factor * prior) < after.seconds < max(prior, factor * prior)
    exact = calibrate([(WORK, layout, H100, prior)])
    assert math.isclose(estimate_step(WORK, layout, H100, exact).seconds, prior, rel_tol=1e-4)


def test_probes_recover_a_machine_that_differs():
    """Steps made by other constants are predicted better after eight of them, also at shapes unseen."""
    truth = dataclasses.replace(
        tables.calibrated(),
        gemm_sustained=0.8,
        elementwise_pytorch=1.3,
        fsdp_exposed=1.2,
        layer_overhead_s=5e-4,
    )
    shapes = [
        (dataclasses.replace(WORK, d_model=d, d_ff=4 * d, n_heads=d // 128, seq_len=t), m)
        for d in (1024, 2048, 4096)
        for t in (1024, 4096)
        for m in (1, 4)
    ]
    rows = []
    for work, micro in shapes:
        layout = Layout(n_chips=8, fsdp=8, framework="pytorch", micro_batch_seqs=micro)
        rows.append((work, layout, H100, seconds(work, layout, H100, truth)))
    found = refit(rows[:8], tables.calibrated())

    def error(constants):
        return sum(abs(math.log(seconds(*row[:3], constants) / row[3])) for row in rows[8:])

    assert error(found) < 0.25 * error(tables.calibrated())


def test_an_absurd_probe_is_named():
    with pytest.raises(ScalingError, match=r"probe 0.*step_time_s.*whole optimizer step"):
        calibrate([(WORK, LAYOUTS[0], H100, 1e6)], where=lambda i: f"probe {i}")


def test_a_row_fills_in_what_it_leaves_out():
    fields = {
        f: getattr(WORK, f) for f in ("n_layers", "d_model", "d_ff", "n_heads", "n_kv_heads", "head_dim")
    }
    fields |= {
        "vocab": 32000,
        "seq_len": 2048,
        "global_batch_tokens": 2**20,
        "chip": "TPU v5p",
        "n_chips": 64,
    }
    assert parse_row(fields, "row").layout == Layout(n_chips=64, fsdp=64)
    assert parse_row(fields | {"tensor": 8}, "row").layout == Layout(n_chips=64, fsdp=8, tensor=8)
    piped = parse_row(fields | {"pipeline": 4, "framework": "megatron"}, "row")
    assert piped.layout.interleave > 1 and "interleave" in piped.notes[0]
    cores = parse_row(fields | {"fsdp": 16, "context": 8}, "row")
    assert cores.layout == Layout(n_chips=64, fsdp=8, context=8) and "two devices a chip" in cores.notes[0]
    assert parse_row(fields | {"remat_saved": None}, "row").layout.remat_saved == ()
