"""Tokenizers lose nothing, and say what they cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import ScalingError, UsageError
from trainer.tokenizers import (
    END_TEXT,
    ByteTokenizer,
    HubTokenizer,
    SymbolTokenizer,
    TokenizerRequest,
    load_tokenizer,
    save_tokenizer,
    train_bpe,
)

TEXTS = [
    b"def double(x):\n    return 2 * x\n" * 5,
    "naïve café — 数学 🙂\n".encode() * 5,
    b"  spaces \t tabs\r\n",
]


@pytest.fixture(scope="module")
def bpe() -> HubTokenizer:
    return train_bpe(TEXTS, 300)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_bytes_round_trip(text: str) -> None:
    tokenizer = ByteTokenizer(bytes(sorted(set(text.encode()))))
    ids = tokenizer.encode(text)
    assert ids.min() >= 1
    assert ids.max() < tokenizer.vocab_size
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(np.append(ids, 0)) == text


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_bpe_round_trip_of_any_text(bpe: HubTokenizer, text: str) -> None:
    ids = bpe.encode(text)
    assert 0 not in ids
    assert bpe.decode(np.append(ids, 0)) == text


def test_a_text_that_spells_the_closing_symbol_does_not_close_the_document(bpe: HubTokenizer) -> None:
    text = f"before {END_TEXT} after"
    ids = bpe.encode(text)
    assert bpe.end_of_document == 0
    assert 0 not in ids
    assert bpe.decode(ids) == text


def test_bpe_is_the_same_twice_and_encodes_batches_as_singles(bpe: HubTokenizer) -> None:
    assert train_bpe(TEXTS, 300).to_text() == bpe.to_text()
    for text, ids in zip(TEXTS, bpe.encode_all(TEXTS)):
        np.testing.assert_array_equal(ids, bpe.encode(text))
    assert bpe.vocab_size == 300
    assert len(bpe.encode(TEXTS[0])) < len(TEXTS[0]) / 2


def test_an_unknown_byte_is_named() -> None:
    with pytest.raises(ScalingError, match="byte 0x7a at offset 2 does not occur"):
        ByteTokenizer(b"ab").encode("abz")


@pytest.mark.parametrize("symbols", [b"", b"ba", b"aa"])
def test_byte_symbols_are_ordered_and_unique(symbols: bytes) -> None:
    with pytest.raises(ScalingError, match="ascending"):
        ByteTokenizer(symbols)


def test_all_256_bytes_fit() -> None:
    tokenizer = ByteTokenizer(bytes(range(256)))
    assert tokenizer.vocab_size == 257
    assert tokenizer.encode(b"\xff").tolist() == [256]


@pytest.mark.parametrize("kind", ["bytes", "symbols", "bpe"])
def test_saved_tokenizers_come_back(tmp_path: Path, bpe: HubTokenizer, kind: str) -> None:
    tokenizer = {"bytes": ByteTokenizer(b"abc"), "symbols": SymbolTokenizer(), "bpe": bpe}[kind]
    entry = save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json", entry)
    assert (again.kind, again.vocab_size, again.end_of_document) == (
        tokenizer.kind,
        tokenizer.vocab_size,
        tokenizer.end_of_document,
    )
    np.testing.assert_array_equal(again.encode("abcab"), tokenizer.encode("abcab"))
    assert again.decode(again.encode("abcab")) == "abcab"


def _word_level(tmp_path: Path, special: list[str]) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    model = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    model.add_special_tokens(special)
    model.enable_truncation(3)
    path = tmp_path / "given.json"
    model.save(str(path))
    return path


def test_a_given_tokenizer_keeps_its_closing_symbol_or_gets_one(tmp_path: Path) -> None:
    known = TokenizerRequest.parse(str(_word_level(tmp_path, ["</s>"]))).load()
    assert (known.end_of_document, known.vocab_size, known.kind) == (3, 4, "file")
    added = TokenizerRequest.parse(str(_word_level(tmp_path, []))).load()
    assert (added.end_of_document, added.vocab_size) == (3, 4)
    assert added.encode("hello world " * 5).tolist() == [1, 2] * 5  # its truncation is not ours


@pytest.mark.parametrize("content", ["", "{}", "not json", json.dumps({"model": {"type": "None"}}), "\x00"])
def test_a_damaged_tokenizer_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ScalingError, match=r"tokenizer\.json: not a tokenizer\.json"):
        TokenizerRequest.parse(str(path)).load()


@pytest.mark.parametrize(
    "text", ["bpe", "bpe:", "bpe:256", "bpe:4k", "bpe:-1", "bpe:9999999", "no/such/file"]
)
def test_unusable_requests_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="--tokenizer"):
        TokenizerRequest.parse(text)


def test_a_file_may_be_called_like_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bpe.json").touch()
    assert TokenizerRequest.parse("bpe.json").kind == "file"


def test_a_folder_without_a_model_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ScalingError, match="neither a run's folder nor a model's"):
        TokenizerRequest.parse(str(tmp_path)).load()


@given(st.lists(st.text(alphabet=[chr(i) for i in range(128)]), max_size=4), st.integers(0, 1))
def test_words_remembered_give_the_ids_of_the_library(bpe: HubTokenizer, texts: list[str], big: int) -> None:
    """Every ASCII character, the library's own division of a text against ours."""
    texts = [text + " it's 'twas we'll x  y\n\n z_9\x1c\x85\t"[: len(text) + 7 * big] for text in texts]
    ours = [ids.tolist() for ids in bpe.encode_all(text.encode() for text in texts)]
    assert ours == [bpe.model.encode(text, add_special_tokens=False).ids for text in texts]
