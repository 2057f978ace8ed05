"""A Hugging Face folder of an architecture we train, back as a model folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import ScalingError
from scaling.files import check_fields, read_json
from scaling.shape import Shape
from trainer.export import (
    ARCHITECTURES,
    CONFIG,
    OWN_FIELD,
    TOKENIZER,
    WEIGHTS,
    byte_characters,
    byte_tokenizer_json,
    places,
)
from trainer.hub_rope import rope_of
from trainer.model import tree_of
from trainer.tensorfile import read_tensors
from trainer.tokenizers import ByteTokenizer, HubTokenizer, Tokenizer
from trainer.weights import Model

INDEX = "model.safetensors.index.json"
SHAPE_FIELDS = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
}
# What our model cannot do, by the field that would ask for it and what it must say (or be absent).
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "use_qk_norm": (False, None),
}


def import_model(folder: str | Path) -> Model:
    """The model in `folder`; raises ScalingError naming what our model does not have."""
    folder = Path(folder)
    where = folder / CONFIG
    config = read_json(where)
    own = own_part(config)
    shape = shape_of(config, str(where), own)
    tensors = read_all(folder)
    if shape.layers > len(tensors) or config["max_position_embeddings"] < 1:
        raise ScalingError(
            f"{where}: num_hidden_layers or max_position_embeddings does not fit the {len(tensors)} tensors."
        )
    tensors.pop("lm_head.weight" if shape.tied else "", None)  # some writers repeat the tied table
    named = {place.row.path: place for place in places(shape)}
    for place in named.values():
        found = tensors.get(place.name)
        if found is None or found.shape != place.shape:
            raise ScalingError(
                f"{folder}: tensor {place.name} should have shape {place.shape}, found "
                f"{None if found is None else found.shape}."
            )
    if unknown := sorted(set(tensors) - {place.name for place in named.values()}):
        raise ScalingError(f"{folder}: tensor {unknown[0]} has no place in our model.")

    def array(row: Any, _: list[int]) -> np.ndarray:
        place = named[row.path]
        return place.here(tensors[place.name].astype(np.float32, copy=False))

    tokenizer = tokenizer_of(folder / TOKENIZER, own)
    if tokenizer.vocab_size > shape.vocab:
        raise ScalingError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} symbols, the model a table of {shape.vocab}."
        )
    origin = own.get("origin") or {"name": str(config.get("_name_or_path") or folder.resolve().name)}
    precision = own.get("compute_dtype") or config.get("dtype") or config.get("torch_dtype")
    dtype = "float32" if precision in (None, "float32") else "bfloat16"
    return Model(shape, config["max_position_embeddings"], dtype, tree_of(shape, array), tokenizer, origin)


def shape_of(config: Mapping[str, Any], where: str, own: Mapping[str, Any]) -> Shape:
    """The shape that a config.json describes, or what it asks for that we do not have."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ScalingError(f"{where}: model_type {kind!r} is not among {known}, which is what we train.")
    architecture = ARCHITECTURES[kind]
    if "head_dim" not in config and isinstance(config.get("hidden_size"), int):
        config = {
            **config,
            "head_dim": config["hidden_size"] // max(1, config.get("num_attention_heads") or 1),
        }
    check_fields(config, dict.fromkeys([*SHAPE_FIELDS.values(), "max_position_embeddings"], int), where)
    for name, allowed in PLAIN.items():
        if name in config and config[name] not in allowed:
            raise ScalingError(f"{where}: {name} is {config[name]!r}; our model has only {allowed[0]!r}.")
    for name, (ours, default) in architecture.numbers.items():
        found = config.get(name, default)
        if found != ours:
            raise ScalingError(f"{where}: {name} is {found!r}; our model computes with {ours!r}.")
    try:
        return Shape(
            **{ours: config[theirs] for ours, theirs in SHAPE_FIELDS.items()},
            tied=bool(config.get("tie_word_embeddings", architecture.ties)),
            rope=rope_of(config, architecture.theta, own, where),
            **architecture.kind,
        )
    except ValueError as error:
        raise ScalingError(f"{where}: {error}") from None


def read_all(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of the folder: from one file, or from the parts that an index lists."""
    if not (folder / INDEX).is_file():
        return read_tensors(folder / WEIGHTS)
    parts = read_json(folder / INDEX).get("weight_map")
    names = sorted(set(parts.values())) if isinstance(parts, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ScalingError(f"{folder / INDEX}: field 'weight_map' is missing or malformed.")
    return {key: tensor for name in names for key, tensor in read_tensors(folder / name).items()}


def own_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an export of ours added to a config.json."""
    own = config.get(OWN_FIELD)
    return own if isinstance(own, dict) else {}


def tokenizer_of(path: Path, own: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a tokenizer.json; one that we wrote for bytes becomes a byte tokenizer again."""
    kind = str(own.get("tokenizer", "file"))
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ScalingError(f"{path}: no such file; only tokenizers in this format are read.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ScalingError(f"{path}: cannot be read ({error}).") from None
    return byte_tokenizer_of(text) or HubTokenizer.from_text(
        text, "bpe" if kind == "bpe" else "file", str(path)
    )


def byte_tokenizer_of(text: str) -> ByteTokenizer | None:
    """The byte tokenizer whose export is `text`, if there is one."""
    byte = {character: b for b, character in byte_characters().items()}
    try:
        symbols = bytes(sorted(byte[name] for name in json.loads(text)["model"]["vocab"] if name in byte))
        tokenizer = ByteTokenizer(symbols)
        return tokenizer if json.loads(byte_tokenizer_json(tokenizer)) == json.loads(text) else None
    except (KeyError, TypeError, ValueError, ScalingError):
        return None
