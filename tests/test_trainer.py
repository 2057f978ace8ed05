"""The trainer's properties: causality, purity, exact resumption, honest records."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import ScalingError
from scaling.files import read_json, write_json
from scaling.recipe import Recipe
from scaling.shape import Shape
from trainer.ahead import Ahead
from trainer.batches import permute, train_ids, window_starts
from trainer.config import config_from_dict, read_config
from trainer.corpus import build_corpus
from trainer.loop import run_cell
from trainer.model import apply, attend, init_params
from trainer.schedule import learning_rate, schedule_of
from trainer.tokens import TokenFolder
from trainer.training_data import TrainingData

SHAPE = Shape(layers=2, width=16, heads=2, kv_heads=1, head_dim=8, ffn=48, vocab=97)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> TokenFolder:
    """A few real source files of the standard library as a token folder."""
    folder = tmp_path_factory.mktemp("text")
    stdlib = Path(sysconfig.get_path("stdlib"))
    for name in (
        "argparse",
        "ast",
        "calendar",
        "csv",
        "difflib",
        "dis",
        "doctest",
        "enum",
        "inspect",
        "typing",
    ):
        (folder / f"{name}.txt").write_text(
            (stdlib / f"{name}.py").read_text(encoding="utf-8"), encoding="utf-8"
        )
    return build_corpus(str(folder), tmp_path_factory.mktemp("tokens") / "data", validation_share=0.15)


def write_cell(folder: Path, data: TokenFolder, steps: int = 60, **changes) -> Path:
    shape = Shape(**{**SHAPE.to_dict(), "vocab": data.vocab_size})
    recipe = Recipe(seq=32, batch=2, eval_tokens=2048)
    config = recipe.run_config(shape, steps * 64, 0, str(data.path), data.sha256, "test")
    write_json(folder / "config.json", {**config, "chunk_steps": 8, **changes})
    return folder


def outcome(result: dict) -> dict:
    """What a kill, a resume or another day must not change."""
    return {k: v for k, v in result.items() if k not in ("time_s", "compile_s", "tokens_per_s", "name")}


def test_causality_through_gradients():
    """No logit depends on the embedding of a later position."""
    params = init_params(SHAPE, 0)
    params["head"]["kernel"] = np.random.default_rng(1).normal(size=(16, 97)).astype(np.float32)
    ids = jnp.asarray(np.arange(12)[None] + 1)  # all different, so each row of the table is one position

    @jax.jit
    @jax.grad
    def sensitivity(table, position):
        return apply(SHAPE, {**params, "embed": {"table": table}}, ids)[0, position].sum()

    for position in (0, 5, 11):
        gradient = np.abs(sensitivity(jnp.asarray(params["embed"]["table"]), position)).sum(-1)[ids[0]]
        assert (gradient[: position + 1] > 0).all()
        assert (gradient[position + 1 :] == 0).all()


def test_attention_equals_its_definition_and_serves_groups():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 7, n, 4)).astype(np.float32) for n in (4, 2, 2))
    found = attend(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)).reshape(q.shape)
    for b in range(2):
        for h in range(4):
            score = q[b, :, h] @ k[b, :, h // 2].T / 2.0
            score[np.triu_indices(7, 1)] = -np.inf
            weight = np.exp(score) / np.exp(score).sum(-1, keepdims=True)
            assert np.allclose(found[b, :, h], weight @ v[b, :, h // 2], atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**63))
def test_permutation_visits_every_window_once(size, key):
    index = np.arange(size, dtype=np.uint64)
    assert sorted(permute(index, size, np.full(size, key, np.uint64))) == list(range(size))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(0, 500), st.integers(1, 20), st.integers(0, 19))
def test_batch_is_a_function_of_seed_and_number(seed, step, count, inside):
    stream = np.random.default_rng(0).integers(0, 97, 5003).astype(np.uint8)
    block = train_ids(stream, seed, step, count, batch=3, seq=16)
    alone = train_ids(stream, seed, step + inside % count, 1, batch=3, seq=16)
    assert (block[inside % count] == alone[0]).all()


def test_epochs_differ_and_cover():
    size = (1000 - 1) // 16
    first, second = (window_starts(0, e * size, size, 1000, 16) for e in (0, 1))
    assert len(set(first)) == size and np.diff(np.sort(first)).min() == 16
    assert (first != second).any() and max(second) + 17 <= 1000


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_schedule_ends_exactly_at_the_last_token(schedule, final):
    recipe = Recipe(schedule=schedule, final_lr_share=final, lr_horizon_exponent=0.0)
    config = config_from_dict(recipe.run_config(SHAPE, 256 * 1000, 0, "d", "h", "n"))
    rates = np.array([learning_rate(schedule_of(config), jnp.int32(t)) for t in range(0, 1001, 10)])
    assert rates[-1] == pytest.approx(final * recipe.lr, abs=1e-9)  # where update number `steps` would stand
    assert rates.max() == pytest.approx(recipe.lr, rel=1e-3)
    peak = rates.argmax()
    assert (np.diff(rates[:peak]) > 0).all() and (np.diff(rates[peak:]) <= 1e-12).all()
    last = float(learning_rate(schedule_of(config), jnp.int32(999)))
    assert final * recipe.lr < last < final * recipe.lr + 0.02 * recipe.lr


def test_a_run_learns_and_is_reproducible(data, tmp_path):
    first = run_cell(write_cell(tmp_path / "a", data, steps=400))
    second = run_cell(write_cell(tmp_path / "b", data, steps=400, name="other"))
    assert outcome(first) == outcome(second)
    unigram = np.bincount(data.tokens("train")) / len(data.tokens("train"))
    entropy = -(unigram[unigram > 0] * np.log(unigram[unigram > 0])).sum()
    assert first["loss"] < entropy < np.log(data.vocab_size)  # it learned more than letter frequencies
    assert 0 < first["loss_se"] < 0.2
    assert first["tokens"] == 400 * 64
    bytes_per_token = data.doc_bytes("validation").sum() / len(data.tokens("validation"))
    assert first["bits_per_byte"] == pytest.approx(first["loss"] / np.log(2) / bytes_per_token)
    assert run_cell(tmp_path / "a") == first  # done is done


def test_seed_and_rate_matter(data, tmp_path):
    base = run_cell(write_cell(tmp_path / "a", data))["loss"]
    assert run_cell(write_cell(tmp_path / "b", data, seed=1))["loss"] != base
    assert run_cell(write_cell(tmp_path / "c", data, lr=1e-4))["loss"] > base


def test_where_the_run_is_cut_does_not_matter(data, tmp_path):
    """Chunks, evaluations on the way and checkpoints leave the numbers alone."""
    whole = run_cell(write_cell(tmp_path / "a", data, steps=50))
    often = run_cell(write_cell(tmp_path / "b", data, steps=50, checkpoint_seconds=0.0))
    assert outcome(whole)["loss"] == outcome(often)["loss"]
    assert not (tmp_path / "b" / "checkpoint").exists()  # a finished run keeps its result alone


@pytest.mark.parametrize("changes", [{}, {"eval_every_steps": 5, "eval_smoothing": 3, "keep_steps": [7, 21]}])
def test_the_batches_made_ahead_are_those_that_are_trained_on(data, tmp_path, monkeypatch, changes):
    """While the device trains on a chunk the host makes the one that will follow it: none for nothing."""
    made, trained = [], []
    chunk, take = TrainingData.chunk, Ahead.take

    def making(source, step, count, rows=None):
        made.append((step, count))
        return chunk(source, step, count, rows)

    def taking(ahead, step, count):
        trained.append((step, count, len(made)))
        return take(ahead, step, count)

    monkeypatch.setattr(TrainingData, "chunk", making)
    monkeypatch.setattr(Ahead, "take", taking)
    run_cell(write_cell(tmp_path, data, steps=50, **changes))
    assert made == [(step, count) for step, count, _ in trained]
    assert sum(count for _, count in made) == 50
    assert [before for *_, before in trained] == [0, *range(2, len(made) + 1)]  # all but the first were there


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3, 6])
def test_resume_equals_uninterrupted(data, tmp_path, after):
    whole = run_cell(write_cell(tmp_path / "whole", data, steps=60, checkpoint_seconds=0.0))
    folder = write_cell(tmp_path / "cut", data, steps=60, checkpoint_seconds=0.0)
    calls = 0

    def interrupt(_):
        nonlocal calls
        calls += 1
        if calls > after:
            raise Stop

    with pytest.raises(Stop):
        run_cell(folder, interrupt)
    assert not (folder / "result.json").exists()
    steps = []
    resumed = run_cell(folder, lambda line: steps.append(line["step"]))
    assert steps[0] == 8 * (after + 1)  # it went on from the checkpoint, not from the start
    assert outcome(resumed) == outcome(whole)
    lines = [json.loads(x)["step"] for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == [*range(8, 60, 8), 60]


def interrupted_after(folder: Path, reports: int) -> None:
    """Run the cell until it has reported so often, then stop it the way an exception would."""
    calls = 0

    def interrupt(_):
        nonlocal calls
        calls += 1
        if calls > reports:
            raise Stop

    with pytest.raises(Stop):
        run_cell(folder, interrupt)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", ["no arrays", "a flipped bit", "no record", "another record"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(data, tmp_path, capsys, damage):
    whole = run_cell(write_cell(tmp_path / "whole", data, steps=60, checkpoint_seconds=0.0))
    folder = write_cell(tmp_path / "cut", data, steps=60, checkpoint_seconds=0.0)
    interrupted_after(folder, 4)
    saved = folder / "checkpoint"
    assert sorted(p.name for p in saved.iterdir()) == ["24", "32"]
    files = [p for p in (saved / "32" / "state").rglob("*") if p.is_file()]
    arrays = max(files, key=lambda p: p.stat().st_size)
    record = saved / "32" / "host.json"
    if damage == "no arrays":
        arrays.unlink()
    elif damage == "a flipped bit":
        flip_a_bit(arrays)
    elif damage == "no record":
        record.write_text("{")
    else:
        record.write_text(record.read_text().replace('"curve": [', '"curve": [[1, 1.0, 1],'))
    steps = []
    resumed = run_cell(folder, lambda line: steps.append(line["step"]))
    said = capsys.readouterr().err
    assert "damaged checkpoint" in said and f"{saved / '32'}" in said
    assert steps[0] == 32  # from the checkpoint at step 24, not from the start
    assert outcome(resumed) == outcome(whole)
    assert not saved.exists()


def test_without_a_usable_checkpoint_the_run_starts_again(data, tmp_path):
    whole = run_cell(write_cell(tmp_path / "whole", data, steps=60, checkpoint_seconds=0.0))
    folder = write_cell(tmp_path / "cut", data, steps=60, checkpoint_seconds=0.0)
    interrupted_after(folder, 4)
    for step in (24, 32):
        (folder / "checkpoint" / str(step) / "host.json").write_text("")
    assert outcome(run_cell(folder)) == outcome(whole)


def test_checkpoints_of_another_config_do_not_crowd_out_its_own(data, tmp_path):
    folder = write_cell(tmp_path / "cut", data, steps=60, checkpoint_seconds=0.0)
    interrupted_after(folder, 5)
    write_cell(folder, data, steps=60, checkpoint_seconds=0.0, seed=7)
    interrupted_after(folder, 2)
    steps = []
    run_cell(folder, lambda line: steps.append(line["step"]))
    assert steps[0] == 24


def test_what_a_kill_left_of_a_checkpoint_is_cleared_away(data, tmp_path):
    folder = write_cell(tmp_path / "cut", data, steps=60, checkpoint_seconds=0.0)
    (folder / "checkpoint" / "3" / "state").mkdir(parents=True)
    interrupted_after(folder, 2)
    assert not (folder / "checkpoint" / "3").exists()


def test_kill_minus_nine_then_the_same_command(data, tmp_path):
    whole = run_cell(write_cell(tmp_path / "whole", data, steps=400, checkpoint_seconds=0.0))
    folder = write_cell(tmp_path / "cut", data, steps=400, checkpoint_seconds=0.0)
    code = f"from trainer.loop import run_cell; run_cell({str(folder)!r})"
    rng = random.Random(0)
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "0"})
        metrics, lines = folder / "metrics.jsonl", 0
        wanted = rng.randint(1, 8)
        before = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        deadline = time.time() + 60
        while process.poll() is None and lines - before < wanted and time.time() < deadline:
            time.sleep(0.01)
            lines = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / "result.json").exists()
    assert outcome(run_cell(folder)) == outcome(whole)


def test_divergence_is_recorded(data, tmp_path):
    folder = write_cell(tmp_path / "a", data, steps=200, lr=1e30, clip_norm=1e30, warmup_steps=0)
    result = run_cell(folder)
    assert result["status"] == "diverged" and result["loss"] is None
    assert 0 < result["diverged_at_step"] < 200
    read_json(folder / "result.json", expect="scaling/result")


def test_an_explosion_that_stays_finite_is_divergence(data, tmp_path):
    result = run_cell(write_cell(tmp_path / "a", data, steps=200, lr=30.0, warmup_steps=0))
    assert result["status"] == "diverged" and result["loss"] is None and result["steps"] < 200
    assert all(np.isfinite(result["curve"]["loss"]))  # it was finite to the end
    assert 0 <= result["diverged_at_step"] < result["steps"]


def test_smoothing_averages_the_last_evaluations(data, tmp_path):
    """PaLM 2's smoothing looks back at higher rates, and so reads higher on a short decayed run."""
    once = run_cell(write_cell(tmp_path / "a", data, steps=200))
    smooth = run_cell(write_cell(tmp_path / "b", data, steps=200, eval_smoothing=5))
    assert smooth["loss"] != once["loss"]
    assert smooth["loss"] == pytest.approx(once["loss"], abs=0.05)


def test_other_data_and_bad_fields_are_refused(data, tmp_path):
    folder = write_cell(tmp_path / "a", data, data_sha256="0" * 64)
    with pytest.raises(ScalingError, match="planned on data 000000000000"):
        run_cell(folder)
    for change, word in (
        ({"batch": 0}, "batch"),
        ({"lr": -1.0}, "lr"),
        ({"schedule": "step"}, "schedule"),
        ({"b1": 5.0}, "b1"),
        ({"weight_decay": "much"}, "weight_decay"),
        ({"shape": "large"}, "shape"),
        ({"name": 5}, "name"),
        ({"lr_multipliers": {"hidden": "fast"}}, "lr_multipliers.hidden"),
        ({"checkpoint_seconds": "soon"}, "checkpoint_seconds"),
    ):
        with pytest.raises(ScalingError, match=word):
            read_config(write_cell(tmp_path / word, data, **change) / "config.json")
    with pytest.raises(ScalingError, match="unknown field 'lrr'"):
        read_config(write_cell(tmp_path / "b", data, lrr=1.0) / "config.json")


def test_a_sequence_longer_than_the_text_is_refused(data, tmp_path):
    folder = write_cell(tmp_path / "a", data, seq=10**7)
    with pytest.raises(ScalingError, match="field 'seq' is 10000000, but the train text"):
        run_cell(folder)


def test_a_result_of_another_version_is_refused_and_kept(data, tmp_path):
    folder = write_cell(tmp_path / "a", data)
    write_json(folder / "result.json", {"format": "scaling/result", "version": 2})
    with pytest.raises(ScalingError, match="version 2 is not known"):
        run_cell(folder)
    assert read_json(folder / "result.json")["version"] == 2


def test_a_result_of_another_config_is_not_taken(data, tmp_path):
    folder = write_cell(tmp_path / "a", data)
    first = run_cell(folder)
    second = run_cell(write_cell(folder, data, seed=3))
    assert second["seed"] == 3 and second["loss"] != first["loss"]


DEVICES = """
import jax, numpy as np, sys
jax.config.update("jax_num_cpu_devices", 8)
from scaling.shape import ShapeFamily
from trainer import loop, mesh, programs
from trainer.config import RunConfig
from trainer.step import train_chunk
shape = ShapeFamily(vocab=96, head_dim=8).shape(32)
config = RunConfig(shape=shape, data="", data_sha256="", steps=8, batch=8, seq=16, lr=1e-2, chunk_steps=8)
static, rates = loop.static_of(config), loop.rates_of(config)
ids = np.random.default_rng(0).integers(0, 96, (8, 8, 17)).astype(np.uint8)
step = jax.jit(train_chunk, static_argnums=0)
alone = step(static, programs.fresh_state(static, 0), rates, ids, np.int32(8))
for data, fsdp, tensor in ((8, 1, 1), (2, 2, 2), (1, 8, 1), (1, 2, 4)):
    m = mesh.make_mesh(data, fsdp, tensor)
    with jax.set_mesh(m):
        state = mesh.shard_state(programs.fresh_state(static, 0), shape, m)
        placed = jax.device_put(ids, mesh.batch_sharding(m))
        state, metrics = step(static, state, rates, placed, np.int32(8))
    leaf = state.params["layer_0"]["mlp"]["gate"]
    assert len(leaf.addressable_shards) == 8
    assert leaf.addressable_shards[0].data.size == leaf.size // (fsdp * tensor), (data, fsdp, tensor)
    np.testing.assert_allclose(np.asarray(metrics), np.asarray(alone[1]), rtol=2e-4)
print("equal")
"""


def test_eight_devices_give_the_losses_of_one():
    """Data, fsdp and tensor shardings from the table: same losses, and weights really split."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", DEVICES], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
