"""Fine-tuning: a run that begins with another one's weights; pairs, of which the targets alone are learnt."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import cli, failure, text, write_run  # noqa: F401 (a fixture)
from test_trainer import interrupted_after, outcome

from scaling.errors import ScalingError
from scaling.files import read_json, write_json
from scaling.shape import Shape
from sweeps.finetune import Request, prepare
from trainer import health
from trainer.config import config_from_dict, read_config
from trainer.loop import run_cell
from trainer.loss import token_losses
from trainer.masks import Batch, Mask, target_weights
from trainer.model import hidden, init_params, logits
from trainer.objectives.pairs import PairData, PairRows
from trainer.pairs import build_pairs
from trainer.start import grown, parent_model
from trainer.tokens import TokenFolder
from trainer.weights import load_model

STEPS = ("--steps", 20, "--eval-tokens", 2048)
WORDS = ("parse", "csv", "row", "field", "name", "line", "get", "set", "read", "print", "help", "key", "max")


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def weights(folder: Path) -> bytes:
    return (folder / "model" / "weights.safetensors").read_bytes()


NATS = jax.jit(
    lambda shape, params, batch: token_losses(shape, params, batch, "float32")[0], static_argnums=0
)


def nats_of(shape: Shape, params: dict, batch: Batch) -> np.ndarray:
    """Cross-entropy of every target of host arrays."""
    batch = batch._replace(ids=batch.ids.astype(np.int32))
    return np.asarray(NATS(shape, jax.tree.map(jnp.asarray, params), batch))


@pytest.fixture(scope="module")
def parent(text, tmp_path_factory) -> Path:  # noqa: F811
    """A causal model of bytes that kept its state at step 20; programs are compiled once for all."""
    place = tmp_path_factory.mktemp("parent")
    with mock.patch.dict(os.environ, {"SCALING_CACHE": str(place / "cache")}):
        data = cli("data", text, "--out", place / "data", "--validation-share", "0.2")
        shape = Shape(2, 32, 2, 1, 12, 64, data["tokenizer"]["vocab_size"])
        write_run(place / "run", data, shape, keep_steps=[20])
        assert cli("run-cell", place / "run")["status"] == "done"
        yield place / "run"


@pytest.fixture(scope="module")
def other(parent, text, tmp_path_factory) -> Path:  # noqa: F811
    """Other text than the parent's, in its tokenizer."""
    place = tmp_path_factory.mktemp("other")
    (place / "text").mkdir()
    for name in ("csv", "enum", "calendar"):
        (place / "text" / f"{name}.txt").write_bytes((text / f"{name}.txt").read_bytes()[:9000].upper())
    data = cli(
        *("data", place / "text", "--out", place / "data", "--tokenizer", parent),
        *("--validation-share", 0.3),
    )
    assert data["tokenizer"]["sha256"] == read_json(parent / "model/model.json")["tokenizer"]["sha256"]
    return place / "data"


@pytest.fixture(scope="module")
def pairs(parent, tmp_path_factory) -> Path:
    """Two words run together -> the two apart."""
    place = tmp_path_factory.mktemp("pairs")
    rows = [{"source": a + b, "target": f"{a} {b}"} for a in WORDS for b in WORDS if a != b]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = ("data", "pairs", place / "pairs.jsonl", "--out", place / "data", "--tokenizer", parent)
    made = cli(*source, "--validation-share", 0.1)
    assert made["splits"]["validation"]["documents"] == 16
    return place / "data"


@pytest.fixture(scope="module")
def taught(parent, pairs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("taught") / "run"
    assert cli("finetune", out, "--from", parent, "--data", pairs, *STEPS)["status"] == "done"
    return out


# --- A run like any other -------------------------------------------------------------------------


def test_a_fine_tuned_model_knows_its_parent_and_is_used_like_any_other(parent, other, tmp_path):
    before = hashes(parent)
    out = tmp_path / "tuned"
    asked = ("finetune", out, "--from", parent, "--data", other, *STEPS)
    found = cli(*asked, "--lr", 0.01)
    assert found["status"] == "done" and found["loss"] < found["start"]["loss"] - 0.1
    card, of = read_json(out / "model/model.json"), read_json(parent / "model/model.json")
    assert card["origin"]["parent"] == {
        "weights_sha256": of["weights_sha256"],
        "origin": of["origin"],
    }
    assert card["origin"]["data_sha256"] == found["data_sha256"] == TokenFolder.open(other).sha256
    assert found["start"]["weights_sha256"] == of["weights_sha256"]
    written = (out / "model" / "model.json").stat().st_mtime_ns
    assert cli(*asked, "--lr", 0.01) == found  # a finished run is left as it is
    assert (out / "model" / "model.json").stat().st_mtime_ns == written
    assert cli("generate", out, "--prompt", "DEF ", "--tokens", 5)["tokens"] <= 5
    assert cli("export", out, tmp_path / "hub")["model_type"] == "qwen3"
    assert hashes(parent) == before


def test_a_rate_of_nothing_leaves_every_bit_and_the_loss_of_the_parent(parent, other, tmp_path):
    out = tmp_path / "still"
    found = cli("finetune", out, "--from", parent, "--data", other, *STEPS, "--lr", 1e-30)
    assert found["loss"] == found["start"]["loss"]
    assert found["bits_per_byte"] == found["start"]["bits_per_byte"]
    assert weights(out) == weights(parent)


@pytest.mark.parametrize("kind", ["text", "pairs"])
def test_a_killed_fine_tuning_ends_in_the_same_bits(parent, other, pairs, tmp_path, kind):
    request = Request(parent, other if kind == "text" else pairs, steps=300, eval_tokens=2048)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        values = prepare(folder, request)
        write_json(folder / "config.json", {**values, "checkpoint_seconds": 0.0})
    expected = run_cell(whole)
    interrupted_after(cut, 1)
    assert list((cut / "checkpoint").iterdir())
    assert prepare(cut, request)["start_sha256"] == read_json(cut / "config.json")["start_sha256"]
    found = run_cell(cut)
    assert outcome({**found, "start": None}) == outcome({**expected, "start": None})
    assert found["start"] == expected["start"] and weights(cut) == weights(whole)


def test_going_back_to_the_beginning_keeps_the_loss_before_it(parent, other, tmp_path, monkeypatch):
    values = prepare(tmp_path, Request(parent, other, steps=40, eval_tokens=2048))
    changes = {"chunk_steps": 20, "on_spike": "rewind", "rewind_steps": 20, "rewind_most": 1}
    write_json(tmp_path / "config.json", {**values, **changes})
    monkeypatch.setattr(health, "first_spike", lambda z, first: 3)
    result = run_cell(tmp_path)
    assert [row["back_to"] for row in result["rewinds"]] == [0] and result["status"] == "done"
    whole = tmp_path / "whole"
    prepare(whole, Request(parent, other, steps=1, eval_tokens=2048))
    assert result["start"] == run_cell(whole)["start"]


def test_every_kind_of_parent_gives_the_same_beginning(parent, other, tmp_path):
    """A run, its model folder, its export to Hugging Face, and a state that it kept."""
    cli("export", parent, tmp_path / "hub")
    parents = {"run": parent, "model": parent / "model", "hub": tmp_path / "hub"}
    made = {
        name: prepare(tmp_path / f"of-{name}", Request(at, other, steps=5)) for name, at in parents.items()
    }
    assert len({values["start_sha256"] for values in made.values()}) == 1
    assert made["run"]["lr"] == read_json(parent / "config.json")["lr"]
    early = parent_model(parent, step=20)
    values = prepare(tmp_path / "early", Request(parent, other, step=20, steps=5))
    assert values["start_sha256"] != made["run"]["start_sha256"]
    again = load_model(tmp_path / "early" / "start")
    assert again.origin["step"] == 20 and early.origin["tokens"] == 20 * 128
    assert np.array_equal(again.params["embed"]["table"], early.params["embed"]["table"])
    with pytest.raises(ScalingError, match="kept are 20"):
        prepare(tmp_path / "none", Request(parent, other, step=30, steps=5))


def test_what_does_not_fit_is_said_in_a_sentence(parent, other, text, tmp_path, capsys):  # noqa: F811
    tuned = ("finetune", tmp_path / "out", "--from", parent)
    foreign = tmp_path / "foreign"
    cli("data", text, "--out", foreign, "--tokenizer", "bpe:300")
    assert "another tokenizer" in failure(capsys, *tuned, "--data", foreign, "--steps", 5)
    assert "one of --steps and --tokens" in failure(capsys, *tuned, "--data", other)
    assert "known are none, linear" in failure(
        capsys, *tuned, "--data", other, "--steps", 5, "--rope", "longrope:2"
    )
    assert "not pairs of a source" in failure(
        capsys, *tuned, "--data", other, "--steps", 5, "--objective", "pairs"
    )
    inside = ("finetune", parent / "tuned", "--from", parent, "--data", other, "--steps", 5)
    assert "left as it is" in failure(capsys, *inside)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    used = ("finetune", tmp_path / "mine", "--from", parent, "--data", other, "--steps", 5)
    assert "something else" in failure(capsys, *used)
    prepare(tmp_path / "there", Request(parent, other, steps=5))
    with pytest.raises(ScalingError, match="another run"):
        prepare(tmp_path / "there", Request(parent, other, steps=6))
    config = read_json(tmp_path / "there" / "config.json")
    write_json(tmp_path / "there" / "config.json", {**config, "start_sha256": "0" * 64})
    assert "holds the weights" in failure(capsys, "run-cell", tmp_path / "there")
    with pytest.raises(ScalingError, match="go together"):
        config_from_dict({**config, "start": None})


def test_new_symbols_are_the_mean_of_all_and_old_ones_keep_their_bits(parent):
    model = load_model(parent)
    fields = model.shape.to_dict()
    more = grown(model, Shape(**{**fields, "vocab": model.shape.vocab + 3}), "here")
    table, head = more["embed"]["table"], more["head"]["kernel"]
    old = model.params["embed"]["table"]
    assert np.array_equal(table[:-3], old) and np.array_equal(head[:, :-3], model.params["head"]["kernel"])
    assert np.allclose(table[-3:], old.mean(axis=0), atol=1e-6)
    assert np.array_equal(more["layer_0"]["mlp"]["up"], model.params["layer_0"]["mlp"]["up"])
    with pytest.raises(ScalingError, match="another shape"):
        grown(model, Shape(**{**fields, "width": 64}), "here")


def test_a_causal_model_goes_on_with_a_mixture_of_denoisers(parent, other, tmp_path):
    """As PaLM did (arXiv:2210.11399): its vocabulary grows by the symbols, its loss does not jump."""
    values = prepare(tmp_path / "out", Request(parent, other, steps=5, objective="ul2r"))
    model, shape = load_model(parent), config_from_dict(values).shape
    assert shape.vocab > model.shape.vocab
    ids = np.random.default_rng(0).integers(1, model.tokenizer.vocab_size, (4, 33)).astype(np.int32)
    before = nats_of(model.shape, model.params, Batch(ids)).mean()
    after = nats_of(shape, grown(model, shape, ""), Batch(ids)).mean()
    assert before < after < before + 0.5


# --- Pairs ----------------------------------------------------------------------------------------


def test_each_pair_is_read_once_an_epoch_and_nothing_but_its_target_is_learnt(pairs):
    data = TokenFolder.open(pairs)
    rows = PairRows(data, "train", 40)
    batch, members = rows.batch(np.arange(len(rows)), (len(rows),))
    assert sorted(members[:, 1]) == list(range(len(rows.sizes)))
    weight = np.asarray(target_weights(jax.tree.map(jnp.asarray, batch)))
    assert weight.sum() == rows.targets.sum()
    coder = data.tokenizer()
    for (row, pair), number in zip(members, np.arange(len(members))):
        segment = (members[:number, 0] == row).sum() + 1
        mine = batch.segments[row] == segment
        ids, given = batch.ids[row][mine], batch.prefix[row][mine]
        assert ids[0] == data.end_of_document and np.array_equal(ids[1:], data.document("train", pair))
        source, target = coder.decode(ids[given]), coder.decode(ids[~given])
        assert source.endswith("\n") and target.replace(" ", "") == source[:-1]
        learnt = batch.ids[row][1:][(weight[row] > 0) & mine[1:]]
        assert coder.decode(learnt) == target and learnt[-1] == data.end_of_document


def test_every_epoch_of_a_run_has_every_row_once_in_another_order(parent, pairs):
    data = TokenFolder.open(pairs)
    config = read_config(parent / "config.json").to_dict()
    rows = len(PairRows(data, "train", 32))
    values = {**config, "data": str(pairs), "objective": "pairs", "steps": 3 * rows, "batch": 1}
    values |= {"chunk_steps": rows}
    reader = PairData(config_from_dict(values), data)
    epochs = [reader.chunk(epoch * rows, rows) for epoch in range(2)]
    seen = [[row.tobytes() for row in epoch.ids[:, 0]] for epoch in epochs]
    assert sorted(seen[0]) == sorted(seen[1]) and seen[0] != seen[1]
    middle = reader.chunk(5, 7)
    assert [row.tobytes() for row in middle.ids[:7, 0]] == seen[0][5:12]


def test_a_pair_is_computed_as_it_is_alone_and_its_target_is_not_seen(pairs):
    """In a row with others: the same losses; what comes later, or in another pair, changes nothing before."""
    data = TokenFolder.open(pairs)
    shape = Shape(1, 16, 2, 1, 8, 24, data.vocab_size)
    params = init_params(shape, 0)
    params["head"]["kernel"] = np.random.default_rng(1).normal(size=(16, shape.vocab)).astype(np.float32)
    losses = lambda batch: nats_of(shape, params, batch)  # noqa: E731
    rows = PairRows(data, "train", 64)
    batch, members = rows.batch(np.arange(4), (4,))
    found = losses(batch)
    first = [pair for row, pair in members if row == 0]
    assert len(first) > 1
    size, given = rows.sizes[first[0]], int(batch.prefix[0][batch.segments[0] == 1].sum())
    alone = Batch(*(np.where(batch.segments == 1, field, 0) for field in batch[:3]))
    assert np.allclose(losses(alone)[0, : size - 1], found[0, : size - 1], atol=1e-5)
    later = batch.ids.copy()
    later[0, given + 1 :] = 1  # the target after its first token, and all other pairs
    assert np.array_equal(losses(batch._replace(ids=later))[0, :given], found[0, :given])
    source = batch.ids.copy()
    source[0, 1] = source[0, 1] % 20 + 1  # the source's first token
    assert (
        np.abs(
            losses(batch._replace(ids=source))[0, given - 1 : size - 1] - found[0, given - 1 : size - 1]
        ).min()
        > 0
    )
    assert np.array_equal(losses(batch._replace(ids=source))[0, size:], found[0, size:])


def test_generation_reads_a_source_as_training_did(taught):
    """Greedy targets through the cache against the whole row under the prefix mask, token by token."""
    model = load_model(taught)
    assert model.separator == "\n"
    source = "getname"
    found = cli("generate", taught, "--prompt", source, "--temperature", 0)
    given = np.concatenate([[0], model.tokenizer.encode(source + "\n")]).astype(np.int32)
    ids, drawn = np.zeros((1, model.seq), np.int32), []
    ids[0, : len(given)] = given
    prefix = np.arange(model.seq)[None] < len(given)
    params = jax.tree.map(jnp.asarray, model.params)
    run = jax.jit(lambda ids: logits(*hidden(model.shape, params, ids, mask=Mask(None, prefix))))
    for place in range(len(given), model.seq):
        best = int(np.argmax(np.asarray(run(ids))[0, place - 1, : model.tokenizer.vocab_size]))
        if best == model.tokenizer.end_of_document:
            break
        drawn.append(best)
        ids[0, place] = best
    assert found["ids"] == drawn and len(drawn) > 0


def test_the_loss_of_a_run_of_pairs_is_that_of_its_held_out_targets(taught, pairs):
    result, data, model = read_json(taught / "result.json"), TokenFolder.open(pairs), load_model(taught)
    rows = PairRows(data, "validation", model.seq)
    batch, members = rows.batch(np.arange(len(rows)), (len(rows),))
    weight = np.asarray(target_weights(jax.tree.map(jnp.asarray, batch)))
    nats = (nats_of(model.shape, model.params, batch) * weight).sum()
    assert result["loss"] == pytest.approx(nats / weight.sum(), rel=1e-5)
    spelled = sum(
        len(data.tokenizer().decode(data.document("validation", p)).split("\n")[1]) for _, p in members
    )
    assert result["bits_per_byte"] == pytest.approx(nats / np.log(2) / spelled, rel=1e-5)
    assert result["objective"]["pairs"] == len(PairRows(data, "train", 32).sizes)


@pytest.mark.requires("translation")
def test_pairs_are_scored_by_sacrebleu(taught, parent, pairs, tmp_path, capsys):
    import sacrebleu

    rows = [{"en": "getname", "de": "get name"}, {"en": "zq", "de": "zq"}, {"en": "keymax" * 9, "de": "x"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("eval", taught, tmp_path / "test.jsonl", "--pairs", "--source", "en", "--target", "de")
    found = cli(*asked)
    texts = [row["found"] for row in found["texts"]]
    assert texts[0] == cli("generate", taught, "--prompt", "getname", "--temperature", 0)["text"]
    assert found["unread"] == 1 and texts[2] is None  # longer than the context
    targets = [row["de"] for row in rows]
    assert found["copy"]["chrf"] == pytest.approx(
        sacrebleu.corpus_chrf([row["en"] for row in rows], [targets]).score
    )
    spoken = [found_text or "" for found_text in texts]
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(spoken, [targets]).score)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(spoken, [targets]).score)
    assert "nc:6" in found["chrf_signature"] and "tok:13a" in found["bleu_signature"]
    assert found["copy"]["exact"] == pytest.approx(1 / 3)
    assert cli(*asked, "--limit", 1)["pairs"] == 1
    assert "not learnt pairs" in failure(capsys, "eval", parent, *asked[2:])
    assert "none of the options" in failure(capsys, *asked, "--context", 9)
    assert "no field 'source'" in failure(capsys, *asked[:4])


def test_pairs_need_no_sequence_of_held_out_text(parent, tmp_path):
    rows = [{"source": "get row", "target": word} for word in WORDS] + [{"source": "set", "target": "key"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "held.jsonl").write_text(json.dumps(rows[-1]))
    held = ("--held-out", tmp_path / "held.jsonl", "--tokenizer", parent)
    cli("data", "pairs", tmp_path / "p.jsonl", "--out", tmp_path / "data", *held)
    found = cli("finetune", tmp_path / "run", "--from", parent, "--data", tmp_path / "data", "--steps", 20)
    assert found["status"] == "done" and found["eval_tokens"] == 4  # those of key, and its end
    assert found["loss_se"] is None and found["loss"] > 0  # one draw says nothing of its spread


def test_pairs_are_split_by_source_whatever_the_format(tmp_path):
    rows = [(f"s{i % 40}", f"t{i}") for i in range(100)] + [("s1", "t1"), ("s1", "t1")]
    jsonl, tsv = tmp_path / "p.jsonl", tmp_path / "p.tsv.gz"
    jsonl.write_text("".join(json.dumps({"a": s, "b": t, "c": 1}) + "\n" for s, t in rows))
    tsv.write_bytes(gzip.compress(("a\tb\n" + "".join(f"{s}\t{t}\n" for s, t in rows)).encode()))
    one = build_pairs(jsonl, tmp_path / "one", "a", "b", validation_share=0.2)
    other = build_pairs(tsv, tmp_path / "other", "a", "b", validation_share=0.2)
    assert one.sha256 == other.sha256 and one.manifest["excluded"]["the same pair again"]["documents"] == 2
    sources = {}
    for split in ("train", "validation"):
        documents = [one.tokenizer().decode(one.document(split, i)) for i in range(len(one.ends(split)))]
        sources[split] = {document.split("\n")[0] for document in documents}
    assert len(sources["validation"]) == 8 and not sources["train"] & sources["validation"]
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps({"a": "s3", "b": "t99 "}) + "\n")
    given = build_pairs(jsonl, tmp_path / "given", "a", "b", held_out=held)
    assert given.manifest["splits"]["validation"]["documents"] == 1
    assert given.manifest["excluded"]["its source is held out"]["documents"] == 3
    assert build_pairs(jsonl, tmp_path / "given", "a", "b", held_out=held).manifest == given.manifest


def test_hostile_pairs_are_counted_or_named(tmp_path):
    path = tmp_path / "p.tsv"
    path.write_bytes(b"source\ttarget\na\tb\nonly one\n\n\tempty\n\xff\xfe\tx\nc\td\ne\tf\r\n")
    found = build_pairs(path, tmp_path / "out", validation_share=0.4)
    counted = {reason: entry["documents"] for reason, entry in found.manifest["excluded"].items()}
    assert counted == {
        "another number of columns than the first line": 1,
        "source or target is empty": 1,
        "invalid UTF-8": 1,
    }
    assert sum(found.manifest["splits"][split]["documents"] for split in ("train", "validation")) == 3
    (tmp_path / "p.jsonl").write_text('{"source": "a"}\n')
    with pytest.raises(ScalingError, match=r"p\.jsonl, line 1: no field 'target'"):
        build_pairs(tmp_path / "p.jsonl", tmp_path / "none")
    (tmp_path / "p.jsonl").write_text('{"source": "a", "target": "b"}\nnonsense\n')
    with pytest.raises(ScalingError, match="line 2: not a JSON object"):
        build_pairs(tmp_path / "p.jsonl", tmp_path / "none")
    (tmp_path / "p.jsonl").write_text('{"source": "a", "target": "b"}\n')
    with pytest.raises(ScalingError, match="no pair is left for validation"):
        build_pairs(tmp_path / "p.jsonl", tmp_path / "none")
    cut = gzip.compress(b'{"source": "a", "target": "b"}\n' * 99)[:-9]
    (tmp_path / "cut.jsonl.gz").write_bytes(cut)
    with pytest.raises(ScalingError, match=r"cut\.jsonl\.gz: the gzip stream is damaged or cut short"):
        build_pairs(tmp_path / "cut.jsonl.gz", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    sources = ["1", "2", "3", "\ud800"]  # half of a surrogate pair
    rows = [json.dumps({"source": source, "target": "b"}) for source in sources]
    (tmp_path / "half.jsonl").write_text("\n".join(rows))
    half = build_pairs(tmp_path / "half.jsonl", tmp_path / "half").manifest["excluded"]
    assert half["invalid UTF-8"]["first"] == ["line 4"]
