"""Loss on any text: every token once, on the stated context, divided by the text's own bytes."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import cli, failure, runs, text  # noqa: F401 (fixtures)

from scaling.rope import Rope
from trainer.loss import token_losses
from trainer.model import apply
from trainer.score import score, windows_of
from trainer.sources import Document
from trainer.weights import load_model

ON_DEVICE = partial(jax.tree.map, jnp.asarray)
BOTH = pytest.mark.parametrize("name", ["bytes", "bpe"])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 70), st.integers(1, 12), st.data())
def test_every_token_is_a_target_once_after_as_many_as_promised(count, seq, data):
    stride = data.draw(st.integers(1, seq))
    seen = []
    for window in windows_of(0, np.arange(count + 1), seq, stride):
        for place in range(window.first, window.last):
            target = int(window.ids[place + 1])
            assert window.ids[: place + 1].tolist() == list(range(target - place - 1, target))
            assert place + 1 >= min(target, seq - stride + 1)
            seen.append(target)
    assert seen == list(range(1, count + 1))


@BOTH
def test_the_sum_is_that_of_each_token_alone(runs, text, name):  # noqa: F811
    """Against log-softmax of the full model in float64, each token on its own context."""
    model, content = load_model(runs[name]), (text / "csv.txt").read_bytes()[:400]
    found = score(model, [Document("csv", content)], stride=8)
    full = jax.jit(lambda params, ids: apply(model.shape, params, ids))
    ids, total = [model.tokenizer.end_of_document, *model.tokenizer.encode(content).tolist()], 0.0
    for at in range(1, len(ids)):
        upto = at if at <= model.seq else min(len(ids) - 1, model.seq + 8 * math.ceil((at - model.seq) / 8))
        context = ids[max(0, upto - model.seq) : at]
        window = np.zeros((1, model.seq), np.int32)
        window[0, : len(context)] = context
        logits = np.asarray(full(model.params, window))[0, len(context) - 1].astype(np.float64)
        total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[at]]
    assert found.tokens == len(ids) - 1 and found.bytes == 400
    assert found.nats == pytest.approx(total, rel=1e-6)
    assert found.bits_per_byte == pytest.approx(total / math.log(2) / 400, rel=1e-6)


@BOTH
def test_a_folder_is_the_sum_of_its_files(runs, text, tmp_path, name):  # noqa: F811
    whole = cli("eval", runs[name], text)
    assert whole["bytes"] == sum(f.stat().st_size for f in text.iterdir())
    assert whole["bits_per_byte"] == pytest.approx(whole["nats"] / math.log(2) / whole["bytes"])
    assert whole["loss"] == pytest.approx(whole["nats"] / whole["tokens"]) and 0 < whole["loss_se"] < 0.3
    one = cli("eval", runs[name], text / "csv.txt")
    inside = next(d for d in whole["documents"] if d["name"] == "csv.txt")
    assert {**one["documents"][0], "nats": 0} == {**inside, "nats": 0}
    assert one["nats"] == pytest.approx(inside["nats"], rel=1e-6) and one["loss_se"] is None
    apart = cli("eval", runs[name], text / "csv.txt", "--stride", 32)
    assert apart["tokens"] == one["tokens"] and 0 < abs(apart["nats"] / one["nats"] - 1) < 0.05
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"t": f.read_text()}) + "\n" for f in sorted(text.iterdir())))
    assert cli("eval", runs[name], rows, "--column", "t")["nats"] == pytest.approx(whole["nats"], rel=1e-6)


def test_a_trained_model_beats_letter_frequencies(runs, text):  # noqa: F811
    content = (text / "enum.txt").read_bytes()
    share = np.bincount(np.frombuffer(content, np.uint8)) / len(content)
    entropy = -(share[share > 0] * np.log2(share[share > 0])).sum()
    assert cli("eval", runs["bytes"], text / "enum.txt")["bits_per_byte"] < entropy


def test_texts_that_cannot_be_spelled_are_named_or_left_out_on_request(runs, tmp_path, capsys):  # noqa: F811
    (tmp_path / "good.txt").write_text("import sys\n")
    (tmp_path / "bad.txt").write_bytes("naïve".encode())
    (tmp_path / "empty.txt").write_bytes(b"")
    assert "bad.txt: byte 0xc3 at offset 2" in failure(capsys, "eval", runs["bytes"], tmp_path)
    found = cli("eval", runs["bytes"], tmp_path, "--skip-bad")
    assert [d["name"] for d in found["documents"]] == ["good.txt"] and found["bytes"] == 11
    assert sum(reason["documents"] for reason in found["left_out"].values()) == 2
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    assert "bad.txt: not UTF-8" in failure(capsys, "eval", runs["bpe"], tmp_path)
    assert "no text to score" in failure(capsys, "eval", runs["bpe"], tmp_path / "empty.txt")
    assert "--stride 33" in failure(capsys, "eval", runs["bpe"], tmp_path / "good.txt", "--stride", 33)
    assert "no such file" in failure(capsys, "eval", runs["bpe"], tmp_path / "none.txt")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"import sys\n" * 99)[:-9])
    assert "cut.txt.gz: the gzip stream is damaged" in failure(
        capsys, "eval", runs["bytes"], tmp_path / "cut.txt.gz"
    )
    (tmp_path / "rows.jsonl").write_text('{"text": ""}\n{"text": "import sys"}\n')
    rows = cli("eval", runs["bytes"], tmp_path / "rows.jsonl")
    assert [d["bytes"] for d in rows["documents"]] == [10] and rows["left_out"]["empty"]["documents"] == 1
    (tmp_path / "marked.txt").write_text("import sys", encoding="utf-8-sig")
    assert cli("eval", runs["bytes"], tmp_path / "marked.txt")["bytes"] == 10


def test_by_position_is_the_mean_of_each_position_over_the_same_windows(runs, text):  # noqa: F811
    """Against the full model, each window by itself; within the trained context and beyond it."""
    model = load_model(runs["bytes"])
    for context, rope in ((32, None), (80, "yarn:3")):
        found = cli(
            *("eval", runs["bytes"], text, "--by-position", "--context", context),
            *(() if rope is None else ("--rope", rope)),
        )
        shape = model.shape if rope is None else dataclasses.replace(model.shape, rope=Rope("yarn", 3.0, 32))
        full = jax.jit(
            lambda ids, shape=shape: token_losses(shape, ON_DEVICE(model.params), ids, "float32")[0]
        )
        nats, size = [], 0
        for file in sorted(text.iterdir()):
            ids = np.array([0, *model.tokenizer.encode(file.read_bytes())], np.int32)
            count = (len(ids) - 1) // context
            windows = np.stack([ids[i * context : (i + 1) * context + 1] for i in range(count)])
            nats.append(np.asarray(full(windows), np.float64))
            size += count
        mean = np.concatenate(nats).mean(axis=0)
        assert found["windows"] == size and found["documents"] == len(list(text.iterdir()))
        assert [b["first"] for b in found["buckets"]][:6] == [1, 2, 3, 5, 9, 17]
        assert found["buckets"][-1]["last"] == context
        for bucket in found["buckets"]:
            part = mean[bucket["first"] - 1 : bucket["last"]]
            assert bucket["loss"] == pytest.approx(part.mean(), rel=1e-5)
            assert bucket["bits_per_byte"] == pytest.approx(part.mean() / math.log(2), rel=1e-5)
            assert bucket["tokens"] == size * len(part) and bucket["bits_per_byte_se"] > 0


def test_lengths_and_stretches_that_are_impossible_are_said(runs, text, tmp_path, capsys):  # noqa: F811
    (tmp_path / "short.txt").write_text("import sys\n")
    asked = ("eval", runs["bytes"], tmp_path / "short.txt")
    assert "1 are shorter" in failure(capsys, *asked, "--by-position")
    assert "known are none, linear" in failure(capsys, *asked, "--rope", "dynamic:2")
    assert "side by side" in failure(capsys, *asked, "--by-position", "--stride", 4)
    (tmp_path / "long.txt").write_bytes((text / "csv.txt").read_bytes()[:200])
    found = cli("eval", runs["bytes"], tmp_path, "--by-position", "--context", 64)
    assert (found["documents"], found["shorter"], found["windows"]) == (1, 1, 3)
    assert all(bucket["bits_per_byte_se"] is None for bucket in found["buckets"])
    same = cli("eval", runs["bytes"], tmp_path / "long.txt")
    assert cli("eval", runs["bytes"], tmp_path / "long.txt", "--rope", "linear:1")["nats"] == same["nats"]
    assert cli("eval", runs["bytes"], tmp_path / "long.txt", "--rope", "linear:4")["nats"] > same["nats"]
