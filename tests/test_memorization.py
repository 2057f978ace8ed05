"""Canaries: planted exactly so often and nowhere else; what is read often is kept, the rest is not."""

from __future__ import annotations

import json
import sysconfig
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from scaling.files import read_json, write_json
from scaling.proportions import wilson
from scaling.recipe import Recipe
from scaling.shape import ShapeFamily
from tests.model_helpers import cli, failure
from trainer.canaries import KINDS, LABEL, read_canaries
from trainer.tokens import TokenFolder, iterate_documents

LENGTH, EACH, REFERENCES = 24, 2, 12
PLANTED = ("--canary-tokens", LENGTH, "--canary-each", EACH, "--canary-references", REFERENCES)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    place = tmp_path_factory.mktemp("lines")
    source = (Path(sysconfig.get_path("stdlib")) / "datetime.py").read_text(encoding="utf-8").splitlines()
    # Without indentation: a canary of blanks alone is no secret, and anybody's guess gives it.
    kept = (line.strip() for line in source if line.strip() and line.isascii())
    pieces = ["\n".join(part) for part in pairwise(kept)]
    (place / "lines.jsonl").write_text("".join(json.dumps({"text": p}) + "\n" for p in pieces[:600]))
    return place


@pytest.fixture(scope="module")
def data(lines):
    """Planted often, for a model that has nothing else to do."""
    return TokenFolder.open(
        cli("data", lines / "lines.jsonl", "--out", lines / "often", "--canaries", "1,300", *PLANTED)["path"],
        check="full",
    )


def occurrences(stream: np.ndarray, ids: np.ndarray) -> int:
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(stream), len(ids))
    return int((windows == ids).all(axis=1).sum())


def test_canaries_stand_where_the_list_says_and_nowhere_else(lines, data):
    canaries = read_canaries(data)
    assert len(canaries) == len(KINDS) * (REFERENCES + 2 * EACH)
    ends = np.asarray(data.ends("train")).astype(int)
    stream = data.tokens("train")
    planted = np.zeros(len(ends), bool)
    for canary in canaries:
        assert len(canary.documents) == canary.repetitions == len(set(canary.documents))
        for document in canary.documents:
            assert not planted[document]
            planted[document] = True
            assert data.document("train", document)[:-1].tolist() == list(canary.ids)
        if canary.kind == "shuffled" and len(set(canary.ids)) > 8:
            assert occurrences(stream, np.array(canary.ids)) == canary.repetitions
        if canary.kind == "verbatim":  # once more than planted, at least: it is a piece of a real document
            assert occurrences(stream, np.array(canary.ids)) > canary.repetitions
    # Without them it is the text as it always was, in its order; so is what is held out.
    plain = TokenFolder.open(cli("data", lines / "lines.jsonl", "--out", lines / "plain")["path"])
    kept = [d for d, there in zip(iterate_documents(data, "train"), planted) if not there]
    assert all(np.array_equal(a, b) for a, b in zip(kept, iterate_documents(plain, "train"), strict=True))
    assert np.asarray(data.doc_bytes("train"))[~planted].tolist() == list(plain.doc_bytes("train"))
    assert np.asarray(data.doc_bytes("train"))[planted].tolist() == [LENGTH] * int(planted.sum())
    held = data.manifest["splits"]["validation"], plain.manifest["splits"]["validation"]
    assert held[0] == held[1] and data.sha256 != plain.sha256
    told = data.manifest["canaries"]
    assert told["planted"] == planted.sum() == len(KINDS) * EACH * 301
    assert told["share"] == pytest.approx(told["planted"] * (LENGTH + 1) / len(stream))
    assert any("Canaries are planted" in note for note in data.manifest["notes"])


def test_a_canary_is_made_of_the_documents_it_says(lines, data):
    plain = [d.tolist() for d in iterate_documents(TokenFolder.open(data.path), "train")]
    texts = {bytes(d) for d in plain}
    whole = b"\xff".join(texts)
    quarter = LENGTH // 4
    for canary in read_canaries(data):
        ids = bytes(canary.ids)
        if canary.kind == "interleaved":
            a, b, c, d = (ids[i : i + quarter] for i in range(0, LENGTH, quarter))
            assert a + c in whole and b + d in whole
        elif canary.kind == "verbatim":
            assert ids in whole
        else:
            assert sum(sorted(ids) == sorted(t[i : i + LENGTH]) for t in texts for i in range(len(t)))


def test_the_builder_plants_the_same_and_labels_them(lines, tmp_path):
    def build(name, *more):
        return cli(
            *("data", "build", lines / "lines.jsonl", "--out", tmp_path / name, "--rules", "none", "--near"),
            *("off", "--no-language", "--no-mask", "--workers", 1, "--canaries", "2,5", *PLANTED, *more),
        )

    one = build("one", "--control", "lexicon:" + str(_words(tmp_path)))
    data = TokenFolder.open(one["path"], check="full")
    planted = np.zeros(len(data.ends("train")), bool)
    for canary in read_canaries(data):
        planted[list(canary.documents)] = True
    assert planted.sum() == len(KINDS) * EACH * 7
    # A canary has no score, so that it never carries a control token, and a label of its own.
    assert np.array_equal(np.isnan(np.asarray(data.scores("train"))), planted)
    for label in ("language", "domain", "source"):
        names = np.array(data.label_names(label))
        assert np.array_equal(names[np.asarray(data.labels("train", label))] == LABEL, planted)
    assert "## Planted canaries" in (data.path / "card.md").read_text()
    assert build("two", "--seed", 1)["sha256"] != one["sha256"]


def _words(place: Path) -> Path:
    (place / "words.txt").write_text("self\n")
    return place / "words.txt"


def test_what_is_read_often_is_given_back_and_what_was_never_planted_is_not(data, tmp_path, capsys):
    recipe = Recipe(seq=32, batch=8, eval_tokens=2048)
    shape = ShapeFamily(vocab=data.vocab_size).shape(32)
    tokens = 2 * int(data.manifest["splits"]["train"]["tokens"])
    run = tmp_path / "run"
    config = recipe.run_config(shape, tokens, 0, str(data.path), data.sha256, "run")
    write_json(run / "config.json", config | {"keep_model": True})
    cli("run-cell", run)
    asked = ("--figure", tmp_path / "figure.svg", "--out", tmp_path / "memorization.json")
    (found,) = cli("memorization", run, *asked)["runs"]
    assert read_json(tmp_path / "memorization.json", expect="scaling/memorization")["runs"] == [found]
    assert (tmp_path / "figure.svg").read_text().lstrip().startswith("<?xml")
    groups = {(g["kind"], g["repetitions"]): g for g in found["groups"]}
    assert set(groups) == {(kind, r) for kind in KINDS for r in (0, 1, 300)}
    for kind in ("interleaved", "shuffled"):
        never, often = groups[kind, 0], groups[kind, 300]
        assert never["canaries"] == REFERENCES and never["read_whole"] == 0
        # Real text may go on as anybody would guess; text in random order does not.
        assert never["extracted"] <= {"interleaved": REFERENCES // 4, "shuffled": 0}[kind]
        assert often["extracted"] == often["canaries"] == EACH
        assert often["loss"] < 0.2 < 1 < never["loss"]
        assert often["exposure_bits"] == often["exposure_most_bits"]
        assert 300 * 0.5 < often["read_whole"] <= 2 * 300
        assert (often["rate_lo"], often["rate_hi"]) == wilson(EACH, EACH)
    # Greedy decoding from the first half says the same as reading the whole canary at once.
    folder = TokenFolder.open(data.path)
    coder = folder.tokenizer()
    chosen = next(c for c in read_canaries(folder) if c.kind == "shuffled" and c.repetitions == 300)
    half = LENGTH // 2
    prompt = coder.decode(np.array(chosen.ids[:half]))
    told = cli("generate", run, "--prompt", prompt, "--tokens", half, "--temperature", 0)
    assert told["ids"] == list(chosen.ids[half:])

    # What cannot be asked.
    other = cli("data", lines_of(data), "--out", tmp_path / "none")["path"]
    assert "was trained on" in failure(capsys, "memorization", run, "--data", other)
    folder_less = tmp_path / "model"
    (run / "model").rename(folder_less)
    assert "--data" in failure(capsys, "memorization", folder_less)
    moved = cli("memorization", folder_less, "--data", data.path)["runs"][0]
    assert [g["extracted"] for g in moved["groups"]] == [g["extracted"] for g in found["groups"]]
    assert all(g["read_whole"] is None for g in moved["groups"])
    card = read_json(folder_less / "model.json")
    write_json(folder_less / "model.json", card | {"seq": 8})
    assert "do not fit the model's context of 8" in failure(
        capsys, "memorization", folder_less, "--data", data.path
    )


def lines_of(data: TokenFolder) -> Path:
    return Path(data.manifest["source"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--canaries", "1,1"), "none twice"),
        (("--canaries", "0"), "whole numbers from 1"),
        (("--canaries", "1,x"), "give repetitions"),
        (("--canaries", "1", "--canary-tokens", "10"), "a multiple of 4"),
        (("--canaries", "1", "--canary-tokens", "100000"), "no training document has so many tokens"),
        (("--canaries", "1", "--canary-each", "0"), "at least 1"),
    ],
)
def test_canaries_that_cannot_be_planted_are_one_sentence(lines, tmp_path, capsys, monkeypatch, asked, said):
    monkeypatch.setattr("scaling.cli.output.say", lambda *_: None)
    assert said in failure(capsys, "data", lines / "lines.jsonl", "--out", tmp_path / "t", *asked)
    assert not (tmp_path / "t").exists()


def test_wilson_covers_a_share_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for share, of in ((0.05, 40), (0.5, 20), (0.9, 60)):
        inside = [lo <= share <= hi for lo, hi in (wilson(int(k), of) for k in rng.binomial(of, share, 4000))]
        assert 0.85 < np.mean(inside) < 0.96
    with pytest.raises(ValueError, match="not a share"):
        wilson(3, 2)
