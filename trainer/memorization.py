"""What a model keeps of the canaries in its training data: verbatim extraction, loss, and exposure.

A canary is extracted where the likeliest token, given its first half, is each token of its second half in
turn: greedy decoding then gives it word for word (PaLM 2, arXiv:2305.10403, section 4.7; Carlini et al. 2022,
arXiv:2202.07646). Exposure (Carlini et al. 2019, arXiv:1802.08232) ranks its loss among those of texts made
in the same way that were never planted: log2 of how many there are, itself included, less log2 of its rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scaling.errors import ScalingError
from scaling.progress import tracked
from scaling.proportions import wilson
from scaling.shape import Shape
from trainer.batches import window_starts
from trainer.canaries import KINDS, Canary, read_canaries
from trainer.config import RunConfig, read_config
from trainer.loss import cross_entropy
from trainer.model import ONE_DEVICE, Params, hidden, logits
from trainer.tokens import TokenFolder
from trainer.training_data import is_plain
from trainer.weights import Model, load_model

ROWS = 32  # canaries at once


class Recall(NamedTuple):
    """Of each canary: whether greedy decoding gives its second half, and nats per token of that half."""

    extracted: np.ndarray
    nats: np.ndarray


def memorization(run: Path, data: Path | None = None) -> dict[str, Any]:
    """How much of the canaries in its training data the model of `run` has kept, by kind and repetitions.

    `data` is where the token folder lies now, if not where the run's config says. Raises ScalingError where
    the data has no canaries, is not what the model was trained on, or canaries exceed the context.
    """
    model = load_model(run)
    config = read_config(run / "config.json") if (run / "config.json").is_file() else None
    if data is None and config is None:
        raise ScalingError(f"{run}: which data has it been trained on? Give its token folder with --data.")
    folder = TokenFolder.open(data if data is not None else str((config and config.data) or ""))
    if model.origin.get("data_sha256") != folder.sha256:
        raise ScalingError(
            f"{folder.path}: is data {folder.sha256[:12]}; {run} was trained on "
            f"{str(model.origin.get('data_sha256'))[:12]}."
        )
    canaries = read_canaries(folder)
    found = recall(model, canaries)
    read = None if config is None else times_read(config, folder, canaries)
    return {
        "run": str(run),
        "data_sha256": folder.sha256,
        "params": model.shape.params(),
        "tokens": model.origin.get("tokens"),
        "train_tokens": int(folder.manifest["splits"]["train"]["tokens"]),
        "canary_tokens": len(canaries[0].ids),
        "prompt_tokens": len(canaries[0].ids) // 2,
        "groups": groups(canaries, found, read),
    }


def recall(model: Model, canaries: Sequence[Canary]) -> Recall:
    """Each canary read once, as a document of its own, after the symbol that closes another."""
    length = len(canaries[0].ids)
    if length > model.seq:
        raise ScalingError(
            f"canaries of {length} tokens do not fit the model's context of {model.seq}; plant shorter ones "
            "(--canary-tokens) or train with a longer 'seq'."
        )
    begin = model.tokenizer.end_of_document if model.first is None else model.first
    rows = np.array([[begin, *canary.ids] for canary in canaries], np.int32)
    params = jax.tree.map(jnp.asarray, model.params)
    matched, nats = [], []
    for at in tracked(range(0, len(rows), ROWS), f"asking for {len(rows):,} canaries, {ROWS} at once"):
        part = rows[at : at + ROWS]
        padded = np.concatenate([part, np.repeat(part[:1], ROWS - len(part), axis=0)])
        same, loss = _asked(model.shape, model.dtype, model.tokenizer.vocab_size, params, padded)
        matched.append(np.asarray(same)[: len(part)])
        nats.append(np.asarray(loss, np.float64)[: len(part)])
    return Recall(np.concatenate(matched), np.concatenate(nats))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _asked(shape: Shape, dtype: str, symbols: int, params: Params, ids_BT: Array) -> tuple[Array, Array]:
    """Whether the second half of each row is what greedy decoding gives [B], and its nats per token [B].

    If every token of it is the likeliest after the true ones before it, decoding meets no others.
    """
    half = (ids_BT.shape[1] - 1) // 2
    x_BTD, head_DV = hidden(shape, params, ids_BT[:, :-1], dtype)
    x_BTD, asked_BT = x_BTD[:, half:], ids_BT[:, half + 1 :]
    best_BT = jnp.argmax(logits(x_BTD, head_DV)[..., :symbols], axis=-1)
    nats_BT, _ = cross_entropy(x_BTD, head_DV, asked_BT, ONE_DEVICE)
    return jnp.all(best_BT == asked_BT, axis=1), nats_BT.mean(axis=1)


def times_read(config: RunConfig, data: TokenFolder, canaries: Sequence[Canary]) -> np.ndarray | None:
    """How often each canary stood whole in a window that the run read; None where text is not read as it
    lies (another objective, a mixture, control tokens)."""
    if not is_plain(config):
        return None
    stream = data.tokens("train")
    starts = np.sort(window_starts(config.seed, 0, config.steps * config.batch, len(stream), config.seq))
    ends = np.asarray(data.ends("train")).astype(np.int64)
    length = len(canaries[0].ids)
    found = []
    for canary in canaries:
        last = ends[list(canary.documents)] - 1  # where the symbol stands that closes it
        first = np.searchsorted(starts, last - (config.seq + 1), side="left")
        found.append(int((np.searchsorted(starts, last - length, side="right") - first).clip(0).sum()))
    return np.array(found)


def groups(canaries: Sequence[Canary], found: Recall, read: np.ndarray | None) -> list[dict[str, Any]]:
    """Per kind and repetitions: how many were extracted, with Wilson's 90% interval, losses, exposure."""
    kinds = np.array([canary.kind for canary in canaries])
    repetitions = np.array([canary.repetitions for canary in canaries])
    rows = []
    for kind in KINDS:
        reference = np.sort(found.nats[(kinds == kind) & (repetitions == 0)])
        for r in sorted(set(repetitions[kinds == kind].tolist())):
            mine = np.flatnonzero((kinds == kind) & (repetitions == r))
            extracted = int(found.extracted[mine].sum())
            low, high = wilson(extracted, len(mine))
            ranks = 1 + np.searchsorted(reference, found.nats[mine], side="left")
            exposure = math.log2(len(reference) + 1) - np.log2(ranks)
            rows.append(
                {
                    "kind": kind,
                    "repetitions": r,
                    "canaries": len(mine),
                    "read_whole": None if read is None else float(read[mine].mean()),
                    "extracted": extracted,
                    "rate": extracted / len(mine),
                    "rate_lo": low,
                    "rate_hi": high,
                    "loss": float(found.nats[mine].mean()),
                    "loss_se": float(found.nats[mine].std(ddof=1) / math.sqrt(len(mine)))
                    if len(mine) > 1
                    else None,
                    "reference_loss": float(reference.mean()),
                    "exposure_bits": None if r == 0 else float(exposure.mean()),
                    "exposure_most_bits": math.log2(len(reference) + 1),
                }
            )
    return rows
