"""Tokenizers: text to ids and back without loss; id 0 closes a document in every vocabulary of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from scaling.errors import ScalingError, UsageError
from scaling.files import dumps, read_json, sha256_bytes, write_atomic
from trainer.wordcache import WordCache, divides_as_gpt2

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HubModel

END_OF_DOCUMENT = 0
END_TEXT = "<|end of document|>"
# Names under which published tokenizers carry the symbol that closes a text, most specific first.
END_NAMES = (END_TEXT, "<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>", "<|eos|>", "[EOS]", "<|im_end|>")
SMALLEST_BPE = 257  # 256 byte values and the end of a document
BATCH_BYTES = 1 << 20  # text handed to the library at once, so that it can use every core


class Tokenizer(Protocol):
    """What a token folder needs of a tokenizer."""

    @property
    def kind(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def end_of_document(self) -> int | None: ...

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids of `text`, without the symbol that closes a document."""

    def encode_all(self, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
        """`encode` for each text, in order."""

    def decode(self, ids: np.ndarray) -> str:
        """Text of `ids`; closing symbols are dropped."""

    def to_text(self) -> str: ...


@dataclass(frozen=True)
class ByteTokenizer:
    """One id per byte value that occurs in the corpus, in byte order from 1; id 0 closes a document.

    A small vocabulary keeps tiny models honest: rows of the embedding that no text ever uses would
    still count as parameters.

    >>> tokenizer = ByteTokenizer(b"abc")
    >>> tokenizer.encode("cab").tolist()
    [3, 1, 2]
    """

    symbols: bytes
    kind: str = "bytes"

    def __post_init__(self) -> None:
        if not self.symbols or list(self.symbols) != sorted(set(self.symbols)):
            raise ScalingError("a byte tokenizer needs at least one symbol, in ascending order, none twice.")

    @property
    def vocab_size(self) -> int:
        return len(self.symbols) + 1

    @property
    def end_of_document(self) -> int:
        return END_OF_DOCUMENT

    @cached_property
    def _ids(self) -> np.ndarray:
        table = np.zeros(256, np.uint16)
        table[np.frombuffer(self.symbols, np.uint8)] = np.arange(1, self.vocab_size)
        return table

    @cached_property
    def _bytes(self) -> np.ndarray:
        return np.concatenate([np.zeros(1, np.uint8), np.frombuffer(self.symbols, np.uint8)])

    def encode(self, text: str | bytes) -> np.ndarray:
        data = text.encode() if isinstance(text, str) else text
        ids = self._ids[np.frombuffer(data, np.uint8)]
        if not ids.all():
            at = int(np.flatnonzero(ids == 0)[0])
            raise ScalingError(
                f"byte 0x{data[at]:02x} at offset {at} does not occur in this tokenizer's corpus "
                f"({len(self.symbols)} symbols); leave it out or build the data with it."
            )
        return ids

    def encode_all(self, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
        return map(self.encode, texts)

    def decode(self, ids: np.ndarray) -> str:
        ids = np.asarray(ids)
        return self._bytes[ids[ids != END_OF_DOCUMENT]].tobytes().decode(errors="replace")

    def to_text(self) -> str:
        value = {"format": "scaling/bytes-tokenizer", "version": 1, "symbols": list(self.symbols)}
        return dumps(value, indent=None)


@dataclass(frozen=True)
class SymbolTokenizer:
    """Byte b is id b: for sources that are symbols from the start and have no ends of documents."""

    vocab_size: int = 256
    kind: str = "symbols"
    end_of_document: None = None

    def encode(self, text: str | bytes) -> np.ndarray:
        data = text.encode("latin-1") if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8).astype(np.uint16)

    def encode_all(self, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
        return map(self.encode, texts)

    def decode(self, ids: np.ndarray) -> str:
        return np.asarray(ids).astype(np.uint8).tobytes().decode("latin-1")

    def to_text(self) -> str:
        return dumps({"format": "scaling/symbols-tokenizer", "version": 1, "symbols": self.vocab_size}, None)


@dataclass(frozen=True)
class HubTokenizer:
    """One of the `tokenizers` library: trained (`bpe`, `unigram`) or a given tokenizer.json (`file`)."""

    model: HubModel
    kind: str
    end_of_document: int
    vocab_size: int
    text: str = field(repr=False)

    @classmethod
    def from_text(cls, text: str, kind: str, where: str) -> HubTokenizer:
        from tokenizers import Tokenizer as Model

        try:
            model = Model.from_str(text)
        except Exception as error:  # the library raises plain Exception for any malformed file
            raise ScalingError(
                f"{where}: not a tokenizer.json of the tokenizers library ({error})."
            ) from None
        model.no_truncation()
        model.no_padding()
        # A text that spells out the closing symbol is a text: it must not close the document.
        model.encode_special_tokens = True
        vocabulary = model.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise ScalingError(f"{where}: the tokenizer has an empty vocabulary.")
        size = max(vocabulary.values()) + 1
        end = next((vocabulary[name] for name in END_NAMES if name in vocabulary), None)
        if end is None:  # one more id, which the tokenizer itself never produces
            end, size = size, size + 1
        return cls(model, kind, end, size, text)

    def encode(self, text: str | bytes) -> np.ndarray:
        string = text.decode() if isinstance(text, bytes) else text
        return np.asarray(self.model.encode(string, add_special_tokens=False).ids, np.uint32)

    @cached_property
    def _words(self) -> WordCache | None:
        if not divides_as_gpt2(self.text):
            return None
        return WordCache(lambda texts: self.model.encode_batch_fast(texts, add_special_tokens=False))

    def encode_all(self, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
        if self._words is None:
            yield from self._encode_batches(texts)
            return
        for text in texts:
            yield self._words.encode(text.decode()) if text.isascii() else self.encode(text)

    def _encode_batches(self, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
        batch: list[str] = []
        size = 0
        for text in texts:
            batch.append(text.decode())
            size += len(text)
            if size >= BATCH_BYTES:
                yield from self._encode_batch(batch)
                batch, size = [], 0
        yield from self._encode_batch(batch)

    def _encode_batch(self, batch: list[str]) -> Iterator[np.ndarray]:
        for encoding in self.model.encode_batch_fast(batch, add_special_tokens=False):
            yield np.asarray(encoding.ids, np.uint32)

    def decode(self, ids: np.ndarray) -> str:
        kept = [i for i in np.asarray(ids).tolist() if i != self.end_of_document]
        return self.model.decode(kept, skip_special_tokens=False)

    def to_text(self) -> str:
        return self.text


def train_bpe(texts: Iterable[bytes], vocab_size: int) -> HubTokenizer:
    """Byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2): every text has ids, none is lost."""
    from tokenizers import Tokenizer as Model
    from tokenizers import decoders, models, pre_tokenizers, trainers

    model = Model(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator((text.decode() for text in texts), trainer)
    trained = HubTokenizer.from_text(model.to_str(), "bpe", "the trained tokenizer")
    assert trained.end_of_document == END_OF_DOCUMENT
    return trained


def train_unigram(texts: Iterable[bytes], vocab_size: int) -> HubTokenizer:
    """Unigram language model over bytes (Kudo 2018), trained by sentencepiece: none is lost here either."""
    from trainer.unigram import unigram_json

    trained = HubTokenizer.from_text(
        unigram_json(texts, vocab_size, END_TEXT), "unigram", "the trained tokenizer"
    )
    assert trained.end_of_document == END_OF_DOCUMENT
    return trained


TRAINERS = {"bpe": train_bpe, "unigram": train_unigram}


@dataclass(frozen=True)
class TokenizerRequest:
    """What `--tokenizer` asks for: `bytes`, `bpe:SIZE`, `unigram:SIZE`, a tokenizer.json, or the folder of a
    run or model, whose tokenizer it is."""

    kind: str
    vocab_size: int | None = None
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> TokenizerRequest:
        if text == "bytes":
            return cls("bytes")
        kind = next((name for name in TRAINERS if text.startswith(name)), None)
        if kind and not Path(text).exists():  # a file may be called bpe.json
            size = text.removeprefix(kind).removeprefix(":")
            if not size.isdecimal() or not SMALLEST_BPE <= int(size) <= 1_000_000:
                raise UsageError(
                    f"--tokenizer {text}: give the vocabulary's size, {kind}:{SMALLEST_BPE} "
                    f"to {kind}:1000000, for example {kind}:4096."
                )
            return cls(kind, vocab_size=int(size))
        path = Path(text)
        if path.is_dir():
            return cls("model", path=path)
        if not path.is_file():
            raise UsageError(
                f"--tokenizer {text}: neither bytes, nor bpe:SIZE or unigram:SIZE, nor a file or model that "
                "exists."
            )
        return cls("file", path=path)

    def identity(self) -> dict[str, Any]:
        """What decides the tokenizer, for comparing one build with another."""
        if self.kind == "model":
            sha256 = sha256_bytes(self.load().to_text().encode())
            return {"kind": self.kind, "vocab_size": None, "sha256": sha256}
        return {
            "kind": self.kind,
            "vocab_size": self.vocab_size,
            "sha256": sha256_bytes(self.path.read_bytes()) if self.path else None,
        }

    @property
    def given(self) -> bool:
        """Whether it is there already, and not to be trained."""
        return self.path is not None

    def load(self) -> Tokenizer:
        assert self.path is not None
        if self.kind == "model":
            from trainer.weights import tokenizer_in

            return tokenizer_in(self.path)
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ScalingError(f"{self.path}: cannot be read as a tokenizer.json ({error}).") from None
        return HubTokenizer.from_text(text, "file", str(self.path))


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    """Write `path` and return the manifest's entry."""
    text = tokenizer.to_text()
    write_atomic(path, text)
    return {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "end_of_document": tokenizer.end_of_document,
        "sha256": sha256_bytes(text.encode()),
    }


def load_tokenizer(path: Path, entry: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a token folder, from its file and the manifest's entry."""
    kind = entry["kind"]
    if kind == "bytes":
        return ByteTokenizer(bytes(read_json(path, expect="scaling/bytes-tokenizer")["symbols"]))
    if kind == "symbols":
        return SymbolTokenizer(int(read_json(path, expect="scaling/symbols-tokenizer")["symbols"]))
    if kind in (*TRAINERS, "file"):
        return HubTokenizer.from_text(path.read_text(encoding="utf-8"), kind, str(path))
    raise ScalingError(f"{path}: tokenizer kind {kind!r} is not understood; this program may be too old.")
