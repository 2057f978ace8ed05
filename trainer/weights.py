"""The model a run leaves behind: weights, shape and tokenizer in one folder that stands alone.

    model.json             format "scaling/model", version 1: shape, context, constants, origin, hashes
    weights.safetensors    every parameter in float32, named by its place in the table of `scaling.shape`
    tokenizer.json         the tokenizer of the data it was trained on

model.json is written last and carries the hashes of the two others, so a kill leaves no half of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scaling.control import LEVELS
from scaling.errors import ScalingError, UsageError
from scaling.files import check_fields, from_mapping, read_json, sha256_file, write_json
from scaling.objective import parse_objective
from scaling.shape import Shape
from trainer.config import RunConfig
from trainer.model import Params, per_layer, tree_of
from trainer.norms import NORM_EPS
from trainer.processes import is_first
from trainer.rope import ROPE_THETA
from trainer.tensorfile import Tensor, read_tensors, write_tensors
from trainer.tokenizers import Tokenizer, load_tokenizer, save_tokenizer
from trainer.tokens import TokenFolder

FORMAT = "scaling/model"
VERSION = 1
FOLDER = "model"
CARD = "model.json"
WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Model:
    """A trained model in memory: `seq` is the context in tokens it was trained on, `dtype` what its
    products are computed in, `origin` what it was made from."""

    shape: Shape
    seq: int
    dtype: Literal["float32", "bfloat16"]
    params: Params
    tokenizer: Tokenizer
    origin: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> list[Tensor]:
        """Every parameter by the name of its row in the table."""
        return [
            Tensor(row.name, row.shape, lambda path=row.path: np.asarray(self.parameter(path)))
            for row in self.shape.table
        ]

    @property
    def first(self) -> int | None:
        """The mode token that must begin every text that the model goes on with; None: it needs none."""
        found = self.origin.get("mode_id")
        return found if type(found) is int and 0 <= found < self.shape.vocab else None

    @property
    def separator(self) -> str | None:
        """What ends a source, for a model that has learnt pairs of a source and a target; else None."""
        found = self.origin.get("separator")
        return found if isinstance(found, str) and found else None

    def tag(self, level: str) -> int:
        """Id of the control token of a level; raises UsageError for a model that has learnt none."""
        control = self.origin.get("control")
        ids = control.get("ids") if isinstance(control, Mapping) else None
        found = ids.get(level) if isinstance(ids, Mapping) else None
        if level not in LEVELS:
            raise UsageError(f"--control {level}: the levels are {', '.join(LEVELS)}.")
        if type(found) is not int or not 0 <= found < self.shape.vocab:
            raise UsageError(
                f"--control {level}: the model was trained without control tokens; train it with "
                '`scaling sweep --control SHARE`, or "control" in its recipe.'
            )
        return found

    def parameter(self, path: tuple[str, ...]) -> Any:
        node: Any = self.params
        for key in path:
            node = node[key]
        return node


def spoken_as(config: RunConfig, vocab: int) -> dict[str, Any]:
    """What a model of an objective that is not causal says of itself, its mode of going on with a text; and
    the ids of control tokens of one that has learnt them."""
    objective = parse_objective(config.objective)
    symbols, mode = objective.symbols(config.seq), objective.causal_mode
    tags = {}
    if config.control is not None:
        ids = {level: vocab + len(symbols) + i for i, level in enumerate(LEVELS)}
        tags = {"control": {**config.control, "ids": ids}}
    if objective.is_causal:
        return tags
    first = {} if mode is None else {"mode_id": vocab + symbols.index(f"[{mode}]")}
    return {"objective": config.objective, "symbols": list(symbols), **first, **tags}


def keep_model(folder: Path, config: RunConfig, data: TokenFolder, params: Params) -> None:
    """Write the final parameters of a run to `folder`/model."""
    if not is_first():
        return
    origin = origin_of(config, data)
    model = Model(config.shape, config.seq, config.dtype, per_layer(params), data.tokenizer(), origin)
    save_model(model, folder / FOLDER)


def origin_of(config: RunConfig, data: TokenFolder) -> dict[str, Any]:
    """What a model was made from: its run, its data, and the model that the run began with."""
    parent: dict[str, Any] = {}
    if config.start is not None:
        card = read_json(Path(config.start) / CARD)
        parent = {"parent": {"weights_sha256": config.start_sha256, "origin": card.get("origin", {})}}
    return {
        "name": config.name,
        "config_sha256": config.sha256,
        "data_sha256": config.data_sha256,
        "plan_seal": config.plan_seal,
        "tokens": config.tokens,
        **spoken_as(config, data.vocab_size),
        **said_of_pairs(config, data),
        **parent,
    }


def said_of_pairs(config: RunConfig, data: TokenFolder) -> dict[str, Any]:
    """How a model of pairs is spoken to."""
    pairs = parse_objective(config.objective).is_pairs
    return {"separator": data.manifest["pairs"]["separator"]} if pairs else {}


def save_model(model: Model, folder: str | Path) -> Path:
    """Write a model folder; one that lies there is replaced."""
    folder = Path(folder)
    (folder / CARD).unlink(missing_ok=True)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "shape": model.shape.to_dict(),
        "params": model.shape.params(),
        "seq": model.seq,
        "dtype": model.dtype,
        **constants(model.shape),
        "origin": dict(model.origin),
        "tokenizer": save_tokenizer(model.tokenizer, folder / TOKENIZER),
        "weights_sha256": write_tensors(folder / WEIGHTS, model.tensors, {"format": "scaling"}),
    }
    write_json(folder / CARD, content)
    return folder


def find_model(folder: str | Path) -> Path:
    """The model folder that a run folder, or a model folder itself, stands for; else what is missing."""
    folder = Path(folder)
    for place in (folder, folder / FOLDER):
        if (place / CARD).is_file():
            return place
    if not folder.is_dir():
        raise ScalingError(f"{folder}: no such folder.")
    if (folder / "launch.json").is_file():
        raise ScalingError(f"{folder}: holds several runs; name one of them, such as {folder / '1'}.")
    if not (folder / "config.json").is_file():
        raise ScalingError(f"{folder}: neither a run's folder nor a model's (no {CARD}, no config.json).")
    if not (folder / "result.json").is_file():
        raise ScalingError(f"{folder}: the run is not finished; `scaling run-cell {folder}` goes on with it.")
    if read_json(folder / "result.json").get("status") != "done":
        raise ScalingError(f"{folder}: the run diverged, and its parameters were not kept.")
    raise ScalingError(
        f"{folder}: the run kept no model, as the runs of a sweep do not; set keep_model to true in its "
        "config.json, remove its result.json and train it again with `scaling run-cell`."
    )


def tokenizer_in(folder: str | Path) -> Tokenizer:
    """The tokenizer of a run, of a model folder or of a Hugging Face folder; its weights are not read."""
    folder = Path(folder)
    if (folder / "config.json").is_file() and "model_type" in read_json(folder / "config.json"):
        from trainer.import_model import own_part, tokenizer_of

        return tokenizer_of(folder / TOKENIZER, own_part(read_json(folder / "config.json")))
    place = find_model(folder)
    card = read_json(place / CARD, expect=FORMAT)
    check_fields(card, {"tokenizer": dict, "tokenizer.kind": str}, str(place / CARD))
    return load_tokenizer(place / TOKENIZER, card["tokenizer"])


def load_model(folder: str | Path) -> Model:
    """The model of a run folder or model folder; raises ScalingError when it is damaged or of no use here."""
    place = find_model(folder)
    where = place / CARD
    card = read_json(where, expect=FORMAT)
    if card.get("version") != VERSION:
        raise ScalingError(f"{where}: version {card.get('version')!r} is not known here, only {VERSION}.")
    kinds = {"shape": dict, "seq": int, "dtype": str, "tokenizer": dict, "tokenizer.kind": str}
    check_fields(card, {**kinds, "tokenizer.sha256": str, "weights_sha256": str, "origin": dict}, str(where))
    shape = from_mapping(Shape, card["shape"], f"{where}, field 'shape'")
    for name, value in constants(shape).items():
        if card.get(name) != value:
            raise ScalingError(
                f"{where}: {name} is {card.get(name)!r}; this program computes with {value!r}."
            )
    if card["dtype"] not in ("float32", "bfloat16") or card["seq"] < 1:
        raise ScalingError(f"{where}: field 'dtype' or 'seq' is malformed.")
    for name, expected in ((WEIGHTS, card["weights_sha256"]), (TOKENIZER, card["tokenizer"]["sha256"])):
        if not (place / name).is_file():
            raise ScalingError(f"{place / name}: no such file; the model folder is not complete.")
        if sha256_file(place / name) != expected:
            raise ScalingError(f"{place / name}: is not what {CARD} says was written; the file is damaged.")
    tokenizer = load_tokenizer(place / TOKENIZER, card["tokenizer"])
    if tokenizer.vocab_size > shape.vocab:
        raise ScalingError(f"{where}: the tokenizer has more symbols than 'shape.vocab' ({shape.vocab}).")
    params = params_of(shape, read_tensors(place / WEIGHTS), str(place / WEIGHTS))
    return Model(shape, card["seq"], card["dtype"], params, tokenizer, card["origin"])


def constants(shape: Shape) -> dict[str, float]:
    """Numbers that the model is computed with and that its file states, for whoever reads it elsewhere."""
    return {"norm_eps": NORM_EPS, "rope_theta": ROPE_THETA if shape.rope is None else shape.rope.theta}


def params_of(shape: Shape, tensors: Mapping[str, np.ndarray], where: str) -> Params:
    """The parameter tree of `shape` from tensors by the names of its table; nothing more, nothing less."""
    expected = {row.name: row.shape for row in shape.table}
    for name in [*expected, *tensors]:
        found = tensors[name].shape if name in tensors else None
        if found != expected.get(name):
            raise ScalingError(
                f"{where}: tensor {name!r} has shape {found}; the model's table says {expected.get(name)}."
            )
    return tree_of(shape, lambda row, _: tensors[row.name])
