"""Where a run begins that goes on from another one's model: its parameters, with room for new symbols."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.files import read_json
from scaling.shape import Shape
from trainer.config import RunConfig
from trainer.model import Params, stacked, tree_of
from trainer.weights import CARD, Model, load_model

FOLDER = "start"  # of a run: the model that it begins with


def begins(config: RunConfig) -> Params | None:
    """The parameters before the first step, as the programs hold them; None for a run that starts afresh.

    Raises ScalingError when the model in `config.start` is not the one that the config names, or not of its
    shape.
    """
    if config.start is None:
        return None
    model = load_model(config.start)
    found = read_json(Path(config.start) / CARD)["weights_sha256"]
    if found != config.start_sha256:
        raise ScalingError(
            f"{config.start}: holds the weights {found[:12]}, the run begins with "
            f"{str(config.start_sha256)[:12]}; put the model back that it was made from."
        )
    params = grown(model, config.shape, config.start)
    return stacked(params) if config.resources.scan else params


def grown(model: Model, shape: Shape, where: str) -> Params:
    """The model's parameters in `shape`, which may have more symbols, and may turn positions otherwise.

    A new symbol has the mean of all rows of the table, and of all columns of the head: it is then about as
    likely as any other, and takes little from them (Hewitt 2021, "Initializing new word embeddings for
    pretrained language models").
    """
    if dataclasses.replace(model.shape, vocab=shape.vocab, rope=shape.rope) != shape:
        raise ScalingError(f"{where}: the model is of another shape than the run that begins with it.")
    if shape.vocab < model.shape.vocab:
        raise ScalingError(f"{where}: the model has {model.shape.vocab} symbols, the run only {shape.vocab}.")

    def leaf(row: Any, _: list[int]) -> np.ndarray:
        array = np.asarray(model.parameter(row.path), np.float32)
        for axis, (there, wanted) in enumerate(zip(array.shape, row.shape, strict=True)):
            if there < wanted:
                mean = array.mean(axis=axis, keepdims=True, dtype=np.float64).astype(np.float32)
                array = np.concatenate([array, np.repeat(mean, wanted - there, axis)], axis)
        return array

    return tree_of(shape, leaf)


def parent_model(folder: str | Path, step: int | None = None) -> Model:
    """The model of a run, of a model folder or of a Hugging Face folder; at a `step` that the run kept.

    Nothing is written there. Raises ScalingError that says what is missing.
    """
    folder = Path(folder)
    if step is not None:
        return _kept_model(folder, step)
    if (folder / "config.json").is_file() and "model_type" in read_json(folder / "config.json"):
        from trainer.import_model import import_model

        return import_model(folder)
    return load_model(folder)


def _kept_model(folder: Path, step: int) -> Model:
    from trainer.assembly import static_of
    from trainer.config import read_config
    from trainer.resume import saved_form, starting_state
    from trainer.tokens import TokenFolder
    from trainer.weights import origin_of

    config = read_config(folder / "config.json")
    state, _ = starting_state(folder, step, saved_form(static_of(config)))
    data = TokenFolder.open(config.data)
    origin = {**origin_of(config, data), "tokens": step * config.batch * config.seq, "step": step}
    return Model(config.shape, config.seq, config.dtype, state.params, data.tokenizer(), origin)


def same_weights(one: Model, other: Model) -> bool:
    """Whether two models of one shape hold the same bits."""
    names = [(a.name, a.shape) for a in one.tensors] == [(b.name, b.shape) for b in other.tensors]
    return names and all(
        np.array_equal(a.make(), b.make()) for a, b in zip(one.tensors, other.tensors, strict=True)
    )
