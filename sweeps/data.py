"""The data of a sweep: built once beside it, or a token folder that is already there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.errors import ScalingError, UsageError
from scaling.files import sha256_bytes
from scaling.quantities import parse_count
from sweeps.store import DataRef

if TYPE_CHECKING:
    from sweeps.engines.base import Engine

MANIFEST = "manifest.json"
EXTERNAL = "external:"


def prepare_data(folder: str | Path, data: str, tokenizer: str = "bytes") -> DataRef:
    """Build (or reuse) FOLDER/data from `data`; a path to a token folder is used where it lies.

    `external:VOCAB:TOKENS` (and a name, if wanted) stands for data that only an external trainer has.
    """
    folder = Path(folder)
    if data.startswith(EXTERNAL):
        return external_ref(data)
    if (Path(data) / MANIFEST).is_file():
        return data_ref(folder, Path(data))
    from trainer.corpus import build_corpus

    return data_ref(folder, build_corpus(data, folder / "data", tokenizer=tokenizer).path)


def external_ref(data: str) -> DataRef:
    """What is known of data elsewhere: its vocabulary and how many tokens it has, from its own text."""
    vocab, _, rest = data.removeprefix(EXTERNAL).partition(":")
    tokens, _, _ = rest.partition(":")
    if not tokens:
        raise UsageError(f"--data {data}: give external:VOCAB:TOKENS, such as external:32k:300B:my-corpus.")
    counts = round(parse_count(vocab, "--data")), round(parse_count(tokens, "--data"))
    return DataRef("", EXTERNAL + sha256_bytes(data.encode()), data, *counts)


def data_ref(folder: Path, tokens: Path) -> DataRef:
    """What a sweep in `folder` records about the token folder `tokens`, its files checked against it."""
    from trainer.tokens import TokenFolder

    opened = TokenFolder.open(tokens)
    inside = tokens.resolve().is_relative_to(folder.resolve())
    place = os.path.relpath(tokens.resolve(), folder.resolve()) if inside else str(tokens.resolve())
    train = int(opened.manifest["splits"]["train"]["tokens"])
    return DataRef(place, opened.sha256, str(opened.manifest["source"]), opened.vocab_size, train)


def check_data(tokens: Path, expected_sha256: str, wanted_by: str) -> None:
    """Raise ScalingError unless `tokens` is the data set that `wanted_by` was made for.

    Every byte is read: a damaged file of the right size would be trained on without a word. Data that
    only an external trainer has cannot be checked.
    """
    if expected_sha256.startswith(EXTERNAL):
        return
    from trainer.tokens import TokenFolder

    found = TokenFolder.open(tokens, check="full").sha256
    if found != expected_sha256:
        raise ScalingError(
            f"{wanted_by} was made for data {expected_sha256[:12]}, but {tokens} holds {found[:12]}; "
            "point --data to the token folder it was made for."
        )


def refuse_without_data(what: Path, sha256: str, engine: Engine) -> None:
    """Raise ScalingError where `what` is to be trained by an engine that has not its data (hash `sha256`)."""
    if sha256.startswith(EXTERNAL) and engine.name != "external":
        raise ScalingError(f"{what}: only an external trainer has its data; use --engine external.")


def usable_tokens(train_tokens: int, seq: int) -> int:
    """Training tokens that whole windows of `seq` inputs (and one target more) can read once."""
    return max(0, (train_tokens - 1) // seq * seq)
