"""Profiles: the roofline recovers machines it was not told of, files are checked, the verb measures."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from itertools import pairwise

import numpy as np
import pytest

from scaling.cli.calibrate import profile_of
from scaling.cli.main import main
from scaling.errors import ScalingError
from scaling.hardware.profile import Profile, fit_roofline, read_profile, terms, write_profile
from scaling.hardware.rows import read_rows
from scaling.hardware.workload import Layout, Workload
from scaling.shape import Shape, ShapeFamily


def workload(width: int, layers: int, seq: int, batch: int, vocab: int) -> Workload:
    shape = dataclasses.replace(ShapeFamily(vocab).shape(width), layers=layers)
    return Workload.of(shape, seq, batch)


PROBED = [
    workload(*row)
    for row in [
        (16, 2, 64, 4, 256),
        (128, 2, 256, 4, 256),
        (256, 2, 128, 2, 1024),
        (64, 3, 128, 2, 1024),
        (64, 2, 64, 16, 256),
        (128, 2, 64, 4, 4096),
        (192, 5, 64, 4, 512),
        (384, 2, 64, 8, 512),
    ]
]
UNSEEN = [
    workload(*row)
    for row in [(48, 2, 64, 8, 512), (96, 4, 128, 4, 256), (160, 2, 256, 2, 2048), (512, 3, 128, 4, 1024)]
]
# Seconds per fixed cost, layer, FLOP, edge, element, exponential and parameter of two unlike machines.
MACHINES = {
    "core": (5e10, np.array([2e-5, 4e-5, 5e-12, 1e-10, 2e-9, 6e-10, 5e-10])),
    "accelerator": (1.5e12, np.array([3e-5, 2e-4, 2e-15, 2e-13, 8e-12, 2e-11, 2e-11])),
}


def synthetic(machine: str, rows: list[Workload], noise: float, seed: int = 0) -> list[float]:
    dice = random.Random(seed)
    costs = MACHINES[machine][1]
    return [float(costs @ terms(w)) * math.exp(dice.gauss(0, noise)) for w in rows]


def fitted(machine: str, seconds: list[float]):
    copy, costs = MACHINES[machine]
    return fit_roofline(PROBED[: len(seconds)], seconds, 1 / costs[2], copy)


def profile(**changes) -> Profile:
    seconds = synthetic("core", PROBED, 0.02)
    rows = [
        {"name": f"p{i}", "chip": "h100", "n_chips": 1, "step_time_s": t}
        | {k: v for k, v in dataclasses.asdict(w).items() if v is not None}
        for i, (w, t) in enumerate(zip(PROBED, seconds, strict=True))
    ]
    made = Profile(
        device="cpu",
        model="a core",
        cores=1,
        n_chips=1,
        dtype="float32",
        matmul_flops_per_s=2e11,
        copy_bytes_per_s=5e10,
        measured="2026-11-23T12:00:00+00:00",
        versions={"jax": "0"},
        rows=tuple(rows),
    )
    return dataclasses.replace(made, **changes)


def test_the_counts_of_a_step_are_those_of_the_shape():
    shape = Shape(3, 64, 4, 2, 16, 176, 500)
    work = Workload.of(shape, 128, 4)
    flops = terms(work)[2]
    assert flops == pytest.approx(512 * shape.flops_per_token(128, "model_full"))
    # The same counts by hand: exponentials are scores and logits, parameters those of the matrices.
    assert terms(work)[5] == 512 * (4 * 128 * 3 + 500)
    assert terms(work)[6] == pytest.approx(shape.params(), rel=0.02)


def test_parts_of_a_batch_cost_their_dispatch_and_recomputation_a_third():
    work = PROBED[4]
    whole, parts, again = terms(work), terms(work, 4), terms(work, 1, True)
    assert parts[2] == pytest.approx(whole[2])  # the same arithmetic
    assert parts[0] == 4 * whole[0]
    assert parts[3] > whole[3]  # in thinner products
    assert parts[6] == whole[6]  # and one update
    head = 6 * work.global_batch_tokens * work.vocab * work.d_model
    assert again[2] - head == pytest.approx((whole[2] - head) * 4 / 3)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_is_recovered_from_eight_steps(machine):
    exact = fitted(machine, synthetic(machine, PROBED, 0.0))
    for work in UNSEEN:
        truth = float(MACHINES[machine][1] @ terms(work))
        assert exact.predict(terms(work)).seconds == pytest.approx(truth, rel=0.03)
    assert sum(exact.shares(terms(UNSEEN[0])).values()) == pytest.approx(1)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("rows", [3, 8])
def test_the_interval_holds_what_it_promises(machine, rows):
    inside = asked = 0
    for seed in range(60):
        roofline = fitted(machine, synthetic(machine, PROBED[:rows], 0.05, seed))
        for work, truth in zip(UNSEEN, synthetic(machine, UNSEEN, 0.05, 1000 + seed), strict=True):
            said = roofline.predict(terms(work))
            assert said.lo < said.seconds < said.hi
            inside += said.lo <= truth <= said.hi
            asked += 1
    # 90% promised. Three rows leave most of it to the priors, which need not be this machine's.
    assert inside / asked > (0.8 if rows == 3 else 0.87)


def test_fewer_rows_and_more_noise_give_wider_intervals():
    def width(rows: int, noise: float) -> float:
        said = fitted("core", synthetic("core", PROBED[:rows], noise)).predict(terms(UNSEEN[3]))
        return said.hi / said.lo

    assert width(8, 0.02) < width(4, 0.02)
    assert width(8, 0.02) < width(8, 0.3)


def test_far_outside_what_was_measured_the_interval_says_so():
    roofline = fitted("core", synthetic("core", PROBED, 0.02))

    def width(factor: int) -> float:
        said = roofline.predict(terms(dataclasses.replace(PROBED[-1], n_layers=2 * factor)))
        return said.hi / said.lo

    assert width(1) < width(8) < width(64)
    tiny = roofline.predict(terms(workload(8, 2, 64, 1, 64)))
    assert tiny.hi / tiny.lo > 1.3


def test_one_row_is_enough_to_speak_of_its_neighbours():
    roofline = fitted("core", synthetic("core", PROBED[:1], 0.0))
    said = roofline.predict(terms(PROBED[0]))
    assert said.seconds == pytest.approx(synthetic("core", PROBED[:1], 0.0)[0], rel=0.05)


def test_longer_wider_and_deeper_takes_longer():
    made = profile()
    for field in ("n_layers", "d_model", "d_ff", "vocab", "seq_len", "global_batch_tokens"):
        times = [
            made.step_seconds(dataclasses.replace(PROBED[4], **{field: factor * getattr(PROBED[4], field)}))
            for factor in (1, 2, 4)
        ]
        assert all(a.seconds < b.seconds for a, b in pairwise(times)), field


def test_each_row_is_predicted_from_the_others():
    errors = profile().held_out_errors()
    assert len(errors) == len(PROBED)
    assert max(map(abs, errors)) < 0.15
    assert profile(rows=profile().rows[:1]).held_out_errors() == ()


def test_a_profile_comes_back_from_its_file(tmp_path):
    made = profile(skipped=({"name": "x", "reason": "too large"},), processor_share=0.5)
    path = write_profile(tmp_path / "profile.json", made)
    back = read_profile(path)
    assert back.step_seconds(UNSEEN[0]) == pytest.approx(made.step_seconds(UNSEEN[0]))
    assert (back.model, back.processor_share, len(back.rows)) == ("a core", 0.5, len(PROBED))
    # The same file serves as the probes of the step-time model, for a chip of the catalogue.
    rows, _ = read_rows(path)
    assert [row.step_time_s for row in rows] == [row["step_time_s"] for row in made.rows]


def test_what_was_not_measured_is_refused():
    made = profile()
    with pytest.raises(ScalingError, match="measured on 1 chip"):
        made.step_seconds(UNSEEN[0], Layout(n_chips=8, data=8))
    with pytest.raises(ScalingError, match="remat 'custom'"):
        made.step_seconds(UNSEEN[0], Layout(remat="custom"))
    plain, full = (made.step_seconds(UNSEEN[0], Layout(remat=r)).seconds for r in ("none", "full"))
    assert plain < full < 4 / 3 * plain


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "scaling/plan"}, "scaling/profile"),
        ({"version": 9}, "version 9"),
        ({"rows": []}, "no timed step"),
        ({"rows": [3]}, "row 0"),
        ({"matmul_flops_per_s": 0}, "matmul_flops_per_s"),
        ({"model": 3}, "'model'"),
        ({"rows": [{"step_time_s": 1.0}]}, "row 0.*'d_ff'"),
    ],
)
def test_a_damaged_profile_is_named(tmp_path, change, said):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(json.loads(json.dumps(profile().to_dict())) | change))
    with pytest.raises(ScalingError, match=said) as caught:
        read_profile(path)
    assert "profile.json" in str(caught.value)


def test_a_row_of_impossible_numbers_is_named(tmp_path):
    made = json.loads(json.dumps(profile().to_dict()))
    for field, value in (("step_time_s", -1.0), ("vocab", 0), ("n_heads", "4")):
        rows = [dict(made["rows"][0]), dict(made["rows"][1]) | {field: value}]
        path = tmp_path / "profile.json"
        path.write_text(json.dumps(made | {"rows": rows}))
        with pytest.raises(ScalingError, match=f"row 1.*{field}"):
            read_profile(path)


def test_the_verb_times_real_steps_and_writes_what_it_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "profile.json"
    assert main(["calibrate", "--quick", "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told == json.loads(out.read_text())
    assert "calibrate: " in printed.err and "profile written" in printed.err
    made = read_profile(out)
    assert (made.device, made.cores, made.n_chips) == ("cpu", 1, 1)
    assert len(made.rows) == 3
    assert made.measured.startswith("20")
    assert {"scaling", "jax", "python"} <= set(made.versions)
    # A hundred times the arithmetic takes several times as long, on any machine.
    times = {row["d_model"]: row["step_time_s"] for row in made.rows}
    assert times[256] > 4 * times[16]
    low, high = made.spread[made.rows[0]["name"]]
    assert low <= high
    said = made.step_seconds(workload(96, 2, 128, 4, 256))
    assert times[16] < said.seconds < 100 * times[256]


def test_a_measurement_without_one_step_is_no_profile():
    machine = {"event": "machine", "model": "a core"}
    with pytest.raises(ScalingError, match="too large"):
        profile_of([machine, {"event": "skipped", "name": "x", "reason": "memory"}, {"event": "done"}])


def test_a_failing_measurement_says_why(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PLATFORMS", "no-such-device")
    assert main(["calibrate", "--out", str(tmp_path / "p.json")]) == 1
    assert "no-such-device" in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()


def test_the_probes_of_an_accelerator_trace_and_fit_a_small_one():
    from trainer.assembly import static_of
    from trainer.probes import config_of, ladder
    from trainer.programs import lower_train

    for device in ("cpu", "gpu"):
        full, quick = ladder(device), ladder(device, quick=True)
        assert set(quick) < set(full)
        assert len({p.name for p in full}) == len(full)
        # Weights, two moments and gradients of all, held at once: less than 16 GB.
        assert sum(16 * p.shape.params() for p in full) < 14e9
    widest = max(ladder("gpu"), key=lambda p: p.shape.width)
    assert widest.dtype == "bfloat16"
    text = lower_train(static_of(config_of(ladder("gpu")[0])), "uint16").as_text()
    assert "bf16" in text
