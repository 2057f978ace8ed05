"""Watching a run: the line of each report, the predicted curve beside it, and who is told."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from sweep_helpers import workers_import_fakes  # noqa: F401 (fixture)

from scaling.cli.main import main
from scaling.curves import SHARES, Curve, curve_of, expect, expected_from_dict, smoothed
from scaling.errors import ScalingError, UsageError
from scaling.files import read_json, write_json
from scaling.hardware.peak import Peak, chip_peak
from scaling.watch import PERSISTS, RECENT, RECENT_S, Known, Watch, text
from sweeps import trackers
from sweeps.watching import Cadence, Watcher, journal_lines, last_line, watched

STEPS, BATCH_TOKENS, CHUNK = 4000, 256, 100


def reports(loss=lambda share: 2.0, seconds=lambda share: 0.1, begin_s=0.0, chunk=CHUNK, steps=STEPS):
    """What the loop says of a run: `begin_s` of compiling, `seconds` a chunk, `loss` by share of the run."""
    time_s = begin_s
    for step in range(chunk, steps + 1, chunk):
        share = step / steps
        time_s += seconds(share)
        yield {
            "step": step,
            "total_steps": steps,
            "tokens": step * BATCH_TOKENS,
            "loss": loss(share),
            "grad_norm": 0.5,
            "lr": 1e-3,
            "bits_per_byte": 2.5,
            "steps": chunk,
            "time_s": time_s,
            "chunk_s": seconds(share),
        }


def see(known=None, **changes):
    watch = Watch(known)
    return [watch.see(report) for report in reports(**changes)]


# The rate, the time left, the utilisation.


def test_a_rate_is_of_the_recent_window_and_of_training_alone():
    lines = see(seconds=lambda share: 4.0 if share <= 0.5 else 2.0, begin_s=30.0)
    slow, fast = CHUNK * BATCH_TOKENS / 4.0, CHUNK * BATCH_TOKENS / 2.0
    assert lines[0].tokens_per_s == pytest.approx(slow)  # 30 s of compiling are no part of it
    assert all(line.beside_s == pytest.approx(30.0) for line in lines)
    window = max(RECENT, math.ceil(RECENT_S / 2.0))
    assert lines[-1].tokens_per_s == pytest.approx(fast)
    assert lines[len(lines) // 2 + window].tokens_per_s == pytest.approx(fast)
    assert lines[len(lines) // 2 + 1].tokens_per_s < 0.7 * fast  # and moves gradually
    assert lines[-1].left_s == pytest.approx(0, abs=1e-9)
    half = lines[len(lines) // 2 - 1]
    assert half.left_s == pytest.approx((STEPS - half.step) * BATCH_TOKENS / slow)


def test_a_run_that_goes_on_from_a_checkpoint_counts_its_own_tokens_only():
    later = [report for report in reports() if report["step"] > STEPS / 2]
    watch = Watch()
    lines = [watch.see(report) for report in later]
    assert lines[0].tokens_per_s == pytest.approx(CHUNK * BATCH_TOKENS / 0.1)


def test_utilisation_is_model_causal_over_a_known_peak_or_blank_with_a_reason():
    rate = CHUNK * BATCH_TOKENS / 0.1
    line = see(Known(1e6, Peak(rate * 1e6 / 0.4, "a chip")))[-1]
    assert line.mfu == pytest.approx(0.4) and "MFU 40.0% causal" in text(line)
    blank = see(Known(1e6, Peak(None, "no MFU: who knows")))[-1]
    assert blank.mfu is None and blank.note == "no MFU: who knows" and "MFU" not in text(blank)
    wrong = see(Known(1e6, Peak(rate * 1e6 / 1.05, "a chip")))[-1]
    assert wrong.mfu is None and wrong.note.startswith("error: an MFU of 105% cannot be")


def test_a_peak_is_that_of_the_chip_jax_names_and_no_other():
    assert chip_peak("NVIDIA H100 80GB HBM3", 8).flops_per_s == pytest.approx(8 * 989e12, rel=0.01)
    assert chip_peak("TPU v5 lite").flops_per_s == pytest.approx(197e12, rel=0.01)
    halves = chip_peak("TPU7x", 2).flops_per_s
    assert halves == pytest.approx(2307e12, rel=0.01)  # two devices make a chip
    unknown = chip_peak("NVIDIA B999 Ultra")
    assert unknown.flops_per_s is None and "'NVIDIA B999 Ultra' is not in the catalogue" in unknown.source


def test_the_journal_gives_the_rate_of_the_schedule_itself():
    from trainer.schedule import learning_rate, schedule_of
    from trainer.watch import rate_at

    class Config:  # what the schedule reads of a config
        lr, steps, warmup_steps, decay_steps, final_lr_share = 3e-3, 97, 7, 20, 0.1

    for schedule in ("cosine", "wsd"):
        Config.schedule = schedule
        updates = np.arange(Config.steps)
        there = np.asarray(learning_rate(schedule_of(Config), updates.astype(np.float32)))
        assert [rate_at(Config, int(u)) for u in updates] == pytest.approx(there.tolist(), rel=1e-4, abs=1e-9)


# The predicted curve.


def run(rng, tokens, params=1e4, noise=0.005, pieces=60):
    """A run of a known shape, ln L = ln F + .1 (1 - share)/(share + .02) + noise, F falling with tokens."""
    final = 2.0 * (tokens / 1e6) ** -0.1
    ends = (np.arange(pieces) + 1) / pieces
    middle = ends - 0.5 / pieces
    shape = 0.1 * (1 - middle) / (middle + 0.02) * (1 + 0.2 * rng.standard_normal() * noise / 0.005)
    losses = final * np.exp(shape + noise * rng.standard_normal(pieces))
    return Curve(params, tokens, final * math.exp(noise * rng.standard_normal()), tuple(ends), tuple(losses))


def sweep_of(rng, count=24):
    return [run(rng, tokens) for tokens in np.geomspace(2e5, 5e6, count)]


def prediction(curve, width=0.01):
    return {
        "loss": curve.final,
        "loss_lo": curve.final * (1 - width),
        "loss_hi": curve.final * (1 + width),
    } | {"level": 0.9}


def test_the_band_holds_nine_new_runs_in_ten():
    rng, hits = np.random.default_rng(0), []
    for _ in range(12):
        curves = sweep_of(rng)
        for tokens in (1e6, 8e6):
            new = run(rng, tokens)
            exact = {"loss": new.final, "loss_lo": new.final * 0.999999, "loss_hi": new.final * 1.000001}
            band = expect(curves, new.params, new.tokens, {**exact, "level": 0.9})
            for middle, value in zip(*smoothed(new.ends, new.losses), strict=True):
                if (found := band.at(middle)) is not None:
                    hits.append(found[1] <= value <= found[2])
    assert 0.8 < np.mean(hits) < 0.98


def test_the_band_widens_with_the_prediction_and_begins_where_curves_do():
    rng = np.random.default_rng(1)
    curves, new = sweep_of(rng), run(rng, 3e6)
    narrow, wide = (expect(curves, 1e4, 3e6, prediction(new, width)) for width in (0.005, 0.05))
    assert all(w - n > 0.02 for w, n in zip(wide.loss_hi, narrow.loss_hi, strict=True))
    assert narrow.shares[0] >= SHARES[0] and narrow.at(narrow.shares[0] / 2) is None
    coarse = [run(rng, tokens, pieces=5) for tokens in np.geomspace(2e5, 5e6, 24)]
    assert expect(coarse, 1e4, 3e6, prediction(new)).shares[0] >= 0.1
    assert expect(curves[:5], 1e4, 3e6, prediction(new)) is None


def test_an_expected_curve_survives_its_file_and_a_damaged_one_is_named():
    rng = np.random.default_rng(2)
    band = expect(sweep_of(rng), 1e4, 3e6, prediction(run(rng, 3e6)))
    written = json.loads(json.dumps(band.to_dict()))
    assert expected_from_dict(written, "x").at(0.5) == pytest.approx(band.at(0.5))
    for field, value in (("loss", [-1.0]), ("shares", []), ("version", 9), ("level", None)):
        with pytest.raises(ScalingError, match=r"expected\.json"):
            expected_from_dict({**written, field: value}, "expected.json")


def test_runs_that_did_not_finish_teach_nothing():
    whole = {
        "status": "done",
        "loss": 2.0,
        "tokens": 10,
        "params": 5,
        "curve": {"tokens": [5, 10], "loss": [3, 2]},
    }
    assert curve_of(whole).ends == (0.5, 1.0)
    for change in (
        {"status": "diverged"},
        {"loss": None},
        {"curve": {}},
        {"curve": {"tokens": [5], "loss": [3]}},
    ):
        assert curve_of(whole | change) is None


@pytest.fixture(scope="module")
def expected():
    rng = np.random.default_rng(3)
    new = run(rng, STEPS * BATCH_TOKENS, noise=0.0)
    return expect(sweep_of(rng), 1e4, STEPS * BATCH_TOKENS, prediction(new))


def verdicts(expected, bend):
    """Verdicts of a run that is on the curve but for the factor `bend(share)`."""

    def loss(share):
        middle = max(share - CHUNK / STEPS / 2, 1e-6)
        return math.exp((expected.at(middle) or (1.0, 0, 0))[0]) * bend(share)

    return [(line.share, line.verdict) for line in see(Known(expected=expected), loss=loss)]


def test_a_healthy_run_is_on_the_predicted_curve(expected):
    judged = [(share, verdict) for share, verdict in verdicts(expected, lambda share: 1.0) if verdict]
    assert judged and all(v.inside and not v.warning for _, v in judged)
    assert all(abs(v.deviation) < 0.01 for share, v in judged if share > 0.15)
    assert str(judged[-1][1]).startswith("on the predicted curve")


@pytest.mark.parametrize("factor", [1.15, 1.5])
def test_a_run_that_leaves_the_band_is_warned_of_soon_and_not_at_once(expected, factor):
    bent = verdicts(expected, lambda share: factor if share > 0.4 else 1.0)
    warned = [share for share, verdict in bent if verdict and verdict.warning]
    step = CHUNK / STEPS
    assert 0.4 + PERSISTS <= warned[0] <= 0.4 + PERSISTS + 0.05 + 2 * step
    assert warned[-1] == 1.0 and "early warning" in str(bent[-1][1])
    assert "above the predicted curve, outside its 90% band since 4" in str(bent[-1][1])


def test_a_short_bump_and_a_better_run_are_no_reason_to_warn(expected):
    bump = verdicts(expected, lambda share: 1.3 if 0.5 < share <= 0.5 + CHUNK / STEPS else 1.0)
    assert not any(verdict.warning for _, verdict in bump if verdict) and bump[-1][1].inside
    better = verdicts(expected, lambda share: 0.8)
    assert not any(verdict.warning for _, verdict in better if verdict)
    assert "below the predicted curve" in str(better[-1][1])


def test_a_diverged_report_is_a_line_without_a_loss(expected):
    line = Watch(Known(expected=expected)).see({**next(reports()), "loss": None, "grad_norm": None})
    assert line.verdict is None and "loss -" in text(line)


# Where the lines go.


@pytest.fixture
def folder(tmp_path):
    """A run folder with a config, as far as watching reads it."""
    from scaling.shape import ShapeFamily
    from trainer.config import RunConfig

    config = RunConfig(ShapeFamily(64).shape(16), "", "", STEPS, 4, 64, 1e-3)
    write_json(tmp_path / "config.json", config.to_dict())
    return tmp_path


def feed(folder, rows, **options):
    """Reports as the loop gives them: first into the journal, then to the watcher."""
    lines, said = [], []
    with watched(folder, lines.append, said.append, **options) as watcher:
        for report in rows:
            with open(folder / "metrics.jsonl", "a") as stream:
                stream.write(json.dumps({k: v for k, v in report.items() if k != "total_steps"}) + "\n")
            watcher(report)
    return lines, said


def test_a_resumed_run_goes_on_with_the_same_lines(folder, expected):
    write_json(folder / "expected.json", expected.to_dict())
    rows = list(reports(loss=lambda share: 2.5, begin_s=3.0))
    whole, _ = feed(folder, rows)
    (folder / "metrics.jsonl").unlink()
    first, _ = feed(folder, rows[:25])
    again, _ = feed(folder, rows[25:])
    assert first + again == whole and whole[-1].verdict.warning
    assert [line["step"] for line in journal_lines(folder, STEPS)] == [line.step for line in whole]
    assert last_line(folder)["text"] == text(whole[-1])


def test_what_fails_in_watching_stops_nothing(tmp_path):
    said = []
    watcher = Watcher(tmp_path, lambda line: None, said.append)  # no config.json
    for report in reports():
        watcher(report)
    assert len(said) == 1 and "the run is no longer watched" in said[0] and "it goes on" in said[0]


def test_plain_lines_come_at_a_calm_pace_and_a_warning_at_once(expected):
    lines = see(Known(expected=expected), loss=lambda share: 9.0 if share > 0.6 else 2.0)
    cadence = Cadence(1e9)
    through = [line for line in lines if cadence.due(line)]
    first_warned = next(line for line in lines if line.verdict and line.verdict.warning)
    assert through == [lines[0], first_warned, lines[-1]]


def events_of(place):
    """The events in TensorBoard files, read frame by frame."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(place.glob("events.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            found.append(Event.FromString(content[at + 12 : at + 12 + size]))
            at += size + 16
    return found


@pytest.mark.requires("tensorboard")
def test_tensorboard_gets_each_step_once_and_a_resumed_run_purges_what_comes_again(folder, monkeypatch):
    monkeypatch.setenv(trackers.VARIABLE, "tensorboard")
    rows = list(reports())
    _, said = feed(folder, rows[:20])
    kept = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()][:10]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in kept))  # as the loop does
    feed(folder, rows[10:])
    assert all("tensorboard" not in text for text in said)
    shown = {}
    for event in events_of(folder / "tensorboard"):
        if event.HasField("session_log"):  # TensorBoard drops what was written from this step on
            shown = {step: loss for step, loss in shown.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == "train/loss":
                assert event.step not in shown
                shown[event.step] = value.simple_value
    assert list(shown) == [row["step"] for row in rows] and set(shown.values()) == {2.0}


@pytest.mark.requires("wandb")
def test_wandb_keeps_a_run_offline_where_nobody_is_logged_in(folder, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))  # no ~/.netrc
    monkeypatch.setenv(trackers.VARIABLE, "wandb")
    lines, said = feed(folder, list(reports(steps=400)))
    assert len(lines) == 4 and any("kept offline" in text for text in said)
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))


def test_a_tracker_that_fails_is_left_out_with_one_message(folder, monkeypatch):
    monkeypatch.setitem(trackers.MODULES, "tensorboard", "no_such_module")
    monkeypatch.setenv(trackers.VARIABLE, "tensorboard")
    lines, said = feed(folder, list(reports()))
    assert len(lines) == STEPS // CHUNK
    assert sum("no_such_module, which is not installed" in text for text in said) == 1
    with pytest.raises(ScalingError, match=r"install scaling\[tensorboard\]"):
        trackers.choose(["tensorboard"])
    with pytest.raises(UsageError, match="--track mlflow: known are tensorboard, wandb"):
        trackers.choose(["mlflow"])


def test_an_unknown_tracker_is_refused_before_anything_runs(folder, capsys):
    assert main(["run-cell", str(folder), "--track", "mlflow"]) == 2
    assert "--track mlflow" in capsys.readouterr().err and not (folder / "result.json").exists()


# The whole of it, through the command line: a real sweep's records, and launches that really train.


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A finished sweep of 12 real runs (their records: tests/data/watch_sweep.json), its plan and text."""
    from scaling.laws.fit import fit
    from scaling.planfiles import plan_sweep
    from scaling.runs import read_runs
    from sweeps import store
    from trainer.corpus import build_corpus

    place = tmp_path_factory.mktemp("watched")
    data = build_corpus("builtin:stdlib-without-tests", place / "data")
    fixture = read_json(Path(__file__).parent / "data" / "watch_sweep.json")
    content = fixture["sweep"]
    # The text is that of this Python: near enough to the one the sweep was trained on.
    content["data"] |= {"folder": "../data", "sha256": data.sha256}
    write_json(place / "loop" / "sweep.json", content)
    for name, result in fixture["results"].items():
        write_json(place / "loop" / "cells" / name / "result.json", {**result, "data_sha256": data.sha256})
    store.write_runs(store.open_sweep(place / "loop"))
    law = fit(read_runs(place / "loop" / "runs.csv"))
    write_json(place / "loop" / "fit.json", law.to_dict())
    write_json(place / "loop" / "plan.json", plan_sweep(place / "loop", 2.4e10))
    return place / "loop"


def launch(folder, capfd, *options):
    status = main(["launch", str(folder / "plan.json"), "--only-planned", *options])
    said = capfd.readouterr()
    assert status == 0, said.err
    return said


def test_a_launch_is_watched_against_its_sealed_prediction(
    planned,
    capfd,
    monkeypatch,
    workers_import_fakes,  # noqa: F811
):
    monkeypatch.setenv(trackers.VARIABLE, "")  # --track sets it for workers; the next test is another command
    said = launch(planned, capfd, "--track", "tensorboard", "--json")
    assert json.loads(said.out)["runs"][0]["status"] == "done"  # and nothing else on stdout
    assert "early warning" not in said.err
    run = planned / "launch" / "1"
    band, plan = read_json(run / "expected.json"), read_json(planned / "plan.json")
    assert band["plan_seal"] == plan["seal"] and band["final"]["loss"] == plan["prediction"]["loss"]
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    raw = {"step", "tokens", "loss", "bits_per_byte", "grad_norm", "lr", "tokens_per_s", "chunk_s", "time_s"}
    assert all(raw <= set(row) for row in rows)
    log = (run / "log.txt").read_text()
    assert f"step {plan['steps']:,} of {plan['steps']:,} (100%)" in log and "on the predicted curve" in log
    assert len(log.splitlines()) < len(rows)  # a calm pace
    assert {e.step for e in events_of(run / "tensorboard") if e.summary.value} == {
        row["step"] for row in rows
    }
    assert main(["status", str(planned)]) == 0
    assert "launch 1: done" in (shown := capfd.readouterr().out) and "on the predicted curve" in shown


def test_a_launch_on_broken_data_is_warned_of_while_it_runs(planned, tmp_path, capfd, workers_import_fakes):  # noqa: F811
    """Between sweep and launch something shuffled the training text; all hashes are of the broken file."""
    from scaling.files import sha256_file
    from scaling.seal import sealed
    from trainer.tokens import TokenFolder, data_sha256

    broken = tmp_path / "data"
    shutil.copytree(planned.parent / "data", broken)
    tokens = np.fromfile(broken / "train.bin", TokenFolder.open(broken).dtype)
    np.random.default_rng(0).shuffle(tokens)
    tokens.tofile(broken / "train.bin")
    manifest = read_json(broken / "manifest.json")
    digest = sha256_file(broken / "train.bin")
    manifest["files"]["train.bin"]["sha256"] = manifest["splits"]["train"]["sha256"] = digest
    manifest["sha256"] = data_sha256(manifest)
    write_json(broken / "manifest.json", manifest)
    shutil.copytree(planned, tmp_path / "loop", ignore=shutil.ignore_patterns("launch"))
    plan = read_json(planned / "plan.json")
    write_json(tmp_path / "loop" / "plan.json", sealed({**plan, "data_sha256": manifest["sha256"]}))
    said = launch(tmp_path / "loop", capfd, "--data", str(broken))
    warnings = [line for line in said.err.splitlines() if "early warning" in line]
    assert len(warnings) == 1 and "above the predicted curve, outside its 90% band since" in warnings[0]
    percent = int(warnings[0].partition("(")[2].partition("%")[0])
    assert percent <= 40, "the warning must come while there is something to save"


def test_run_cell_without_a_sweep_has_lines_and_no_band(planned, tmp_path, capfd):
    from scaling.recipe import Recipe
    from sweeps.launch import shape_of

    plan = read_json(planned / "plan.json")
    recipe = Recipe.from_dict(plan["recipe"], "plan")
    tokens = 200 * recipe.step_tokens
    config = recipe.run_config(
        shape_of(plan["shape"]), tokens, 0, str(planned.parent / "data"), plan["data_sha256"], "alone"
    )
    write_json(tmp_path / "config.json", config)
    assert main(["run-cell", str(tmp_path)]) == 0
    said = capfd.readouterr()
    assert "step 200 of 200 (100%), 51.2k tokens, loss" in said.err and "predicted" not in said.err
    assert not (tmp_path / "expected.json").exists()
    assert main(["run-cell", str(tmp_path), "--json"]) == 0
    again = capfd.readouterr()
    assert json.loads(again.out)["status"] == "done" and again.err == ""


def test_a_run_without_a_predicted_curve_is_told_why(tmp_path):
    from scaling.shape import ShapeFamily
    from sweeps.expected import curves_beside, read_expected, write_expected

    rng, shape, plan = np.random.default_rng(4), ShapeFamily(64).shape(16), {"seal": "s"}
    said, curves = {"loss": 2.0, "loss_lo": 1.9, "loss_hi": 2.1, "level": 0.9}, sweep_of(rng)
    for begun, predicted, seen, why in (
        (False, None, curves, "predicts no loss"),
        (False, said, [], "no sweep of this recipe"),
        (False, said, curves[:3], "3 runs are too few"),
        (True, said, curves, "gets none after the fact"),
    ):
        if begun:
            (tmp_path / "metrics.jsonl").touch()
        assert why in write_expected(tmp_path, plan, shape, 1e6, predicted, seen, "")
        assert read_expected(tmp_path) is None
    (tmp_path / "metrics.jsonl").unlink()
    assert write_expected(tmp_path, plan, shape, 1e6, said, curves, "") is None
    first = read_expected(tmp_path)
    assert write_expected(tmp_path, plan, shape, 1e6, said, curves[:12], "") is None  # sealed: left as it is
    assert read_expected(tmp_path) == first
    assert curves_beside([tmp_path], None) == ([], "")
