"""Token folders: what is written is what is read, and damage is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scaling.errors import ScalingError
from trainer.corpus import build_corpus
from trainer.tokens import MANIFEST, TokenFolder, iterate_documents, token_dtype, write_split

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda"]


def write_texts(folder: Path, count: int = 40, seed: int = 0) -> dict[str, str]:
    """`count` different small text files; returns their contents by name."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {}
    for i in range(count):
        texts[f"{i:03}.txt"] = " ".join(rng.choice(WORDS, 60 + i)) + f"\nnumber {i}\n"
        (folder / f"{i:03}.txt").write_text(texts[f"{i:03}.txt"])
    return texts


@pytest.fixture
def built(tmp_path: Path) -> TokenFolder:
    write_texts(tmp_path / "texts")
    return build_corpus(str(tmp_path / "texts"), tmp_path / "tokens", validation_share=0.2)


@pytest.mark.parametrize(
    ("size", "name"), [(2, "u1"), (256, "u1"), (257, "<u2"), (65536, "<u2"), (65537, "<u4")]
)
def test_ids_are_stored_in_the_narrowest_type(size: int, name: str) -> None:
    assert token_dtype(size) == np.dtype(name)


def test_every_document_comes_back_and_is_closed(built: TokenFolder, tmp_path: Path) -> None:
    texts = set(write_texts(tmp_path / "texts").values())
    tokenizer = built.tokenizer()
    found = []
    for split in ("train", "validation"):
        tokens, ends, lengths = built.tokens(split), built.ends(split), built.doc_bytes(split)
        assert tokens.dtype == built.dtype
        assert ends[-1] == len(tokens) == built.manifest["splits"][split]["tokens"]
        assert (tokens[ends - 1] == 0).all()
        assert (tokens == 0).sum() == len(ends)  # id 0 closes documents and does nothing else
        for i, document in enumerate(iterate_documents(built, split)):
            np.testing.assert_array_equal(document, built.document(split, i))
            text = tokenizer.decode(document)
            assert len(text.encode()) == lengths[i]
            found.append(text)
    assert len(found) == len(texts)
    assert set(found) == texts


def test_arrays_are_memory_mapped_and_read_only(built: TokenFolder) -> None:
    tokens = built.tokens("train")
    assert isinstance(tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_the_manifest_counts_what_is_there(built: TokenFolder) -> None:
    manifest = built.manifest
    splits = manifest["splits"]
    total_bytes = sum(s["bytes"] for s in splits.values())
    assert manifest["bytes_per_token"] == pytest.approx(
        total_bytes / sum(s["tokens"] for s in splits.values())
    )
    assert splits["train"]["documents"] + splits["validation"]["documents"] == 40
    assert built.vocab_size == len(set(b"".join((p.read_bytes()) for p in _texts(built)))) + 1
    assert manifest["entropy_rate_nats"] is None
    TokenFolder.open(built.path, check="full")


def _texts(built: TokenFolder) -> list[Path]:
    return sorted((built.path.parent / "texts").iterdir())


def test_a_cut_file_is_found_at_once(built: TokenFolder) -> None:
    file = built.path / "train.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ScalingError, match=r"train\.bin: .* bytes, the manifest says .*damaged"):
        TokenFolder.open(built.path)


@pytest.mark.parametrize(
    "name", ["train.bin", "validation.bin", "train.ends", "validation.bytes", "tokenizer.json"]
)
def test_one_changed_byte_is_found_by_the_full_check(built: TokenFolder, name: str) -> None:
    file = built.path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    TokenFolder.open(built.path)  # the sizes still fit
    with pytest.raises(ScalingError, match=f"{name}: its contents differ"):
        TokenFolder.open(built.path, check="full")
    with pytest.raises(ScalingError, match=name):  # and a damaged folder is not reused
        build_corpus(str(built.path.parent / "texts"), built.path, validation_share=0.2)


def test_a_missing_file_is_named(built: TokenFolder) -> None:
    (built.path / "validation.ends").unlink()
    with pytest.raises(ScalingError, match=r"validation\.ends: the file is missing"):
        TokenFolder.open(built.path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "scaling/plan"}, "format 'scaling/tokens' is expected"),
        ({"version": 99}, "version 99 is not understood"),
        ({"splits": {}}, "'train' is missing or malformed"),
        ({"splits": None}, "missing or malformed"),
        ({"tokenizer": {}}, "missing or malformed"),
        ({"dtype": "<u2"}, "counts make"),
        ({"dtype": "nonsense"}, "missing or malformed"),
        ({"sha256": "0" * 64}, "sha256 does not fit"),
        ({"files": []}, "missing or malformed"),
    ],
)
def test_a_wrong_manifest_is_refused_in_words(built: TokenFolder, change: dict, complaint: str) -> None:
    file = built.path / MANIFEST
    file.write_text(json.dumps({**built.manifest, **change}))
    with pytest.raises(ScalingError, match=complaint):
        TokenFolder.open(built.path)


def test_a_manifest_cannot_point_outside_its_folder(built: TokenFolder) -> None:
    outside = built.path.parent / "outside"
    outside.write_text("x")
    manifest = json.loads((built.path / MANIFEST).read_text())
    manifest["files"]["../outside"] = {"bytes": 1, "sha256": ""}
    (built.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ScalingError):
        TokenFolder.open(built.path)


def test_no_folder_no_manifest_no_split(built: TokenFolder, tmp_path: Path) -> None:
    with pytest.raises(ScalingError, match="no such token folder"):
        TokenFolder.open(tmp_path / "nowhere")
    with pytest.raises(ScalingError, match="no such file"):
        TokenFolder.open(tmp_path / "texts")
    with pytest.raises(ScalingError, match="no split 'test'"):
        built.tokens("test")  # type: ignore[arg-type]


def test_writing_streams_documents(tmp_path: Path) -> None:
    drawn = []

    def documents():
        for i in range(5):
            drawn.append(i)
            yield np.full(3, i), 7

    entry = write_split(tmp_path, "train", documents(), np.dtype("u1"))
    assert drawn == list(range(5))
    assert (entry["tokens"], entry["documents"], entry["bytes"]) == (15, 5, 35)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "train.ends", "<u8"), [3, 6, 9, 12, 15])
