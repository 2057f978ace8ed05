"""A model as a Hugging Face folder: the same function, in the names and layout of `transformers`.

Sequential blocks with RMSNorm are `llama`, and with query-key norm `qwen3`: both rotate halves of a head,
norm in float32 and gate by SiLU, as we do, so that matrices are only transposed ([in, out] here, [out, in]
there). Parallel blocks with LayerNorm (PaLM's) are `cohere`, which rotates neighbours: pair i of a head is
(i, i + K/2) here and (2i, 2i + 1) there, so the columns of queries and keys change places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scaling.errors import ScalingError
from scaling.files import dumps, write_atomic, write_json
from scaling.shape import Param, Shape
from trainer.hub_rope import hub_rope, own_rope
from trainer.norms import NORM_EPS
from trainer.tensorfile import Tensor, write_tensors
from trainer.tokenizers import END_TEXT, ByteTokenizer, HubTokenizer, Tokenizer
from trainer.weights import Model

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
OWN_FIELD = "scaling"  # of config.json: what transformers has no place for, so that an import loses nothing


@dataclass(frozen=True)
class Architecture:
    """An architecture of `transformers` that computes what ours does.

    `kind` are the fields of Shape that it stands for. `numbers` are fields of its config that must have
    our values, with the values that it takes where a config leaves them out; `ties` is its default of
    tie_word_embeddings, `theta` that of rope_theta; `interleaved` says that it rotates neighbours.
    """

    name: str
    kind: Mapping[str, Any]
    numbers: Mapping[str, tuple[float, float]]
    ties: bool = False
    interleaved: bool = False
    theta: float = 10_000.0


LIKE_LLAMA = {"rms_norm_eps": (NORM_EPS, 1e-6)}
LIKE_COHERE = {"layer_norm_eps": (NORM_EPS, 1e-5), "logit_scale": (1.0, 0.0625)}
# By `model_type`.
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(
        "LlamaForCausalLM", {"block": "sequential", "norm": "rms", "qk_norm": False}, LIKE_LLAMA
    ),
    "qwen3": Architecture(
        "Qwen3ForCausalLM", {"block": "sequential", "norm": "rms", "qk_norm": True}, LIKE_LLAMA
    ),
    "cohere": Architecture(
        "CohereForCausalLM",
        {"block": "parallel", "norm": "layer", "qk_norm": False},
        LIKE_COHERE,
        ties=True,
        interleaved=True,
        theta=500_000.0,
    ),
}
# Our path inside a block -> theirs, and whether the matrix is transposed.
BLOCK = {
    "norm/scale": ("input_layernorm", False),
    "attention_norm/scale": ("input_layernorm", False),
    "attention/query": ("self_attn.q_proj", True),
    "attention/key": ("self_attn.k_proj", True),
    "attention/value": ("self_attn.v_proj", True),
    "attention/out": ("self_attn.o_proj", True),
    "attention/query_norm/scale": ("self_attn.q_norm", False),
    "attention/key_norm/scale": ("self_attn.k_norm", False),
    "mlp_norm/scale": ("post_attention_layernorm", False),
    "mlp/gate": ("mlp.gate_proj", True),
    "mlp/up": ("mlp.up_proj", True),
    "mlp/down": ("mlp.down_proj", True),
}
OUTSIDE = {
    "embed/table": ("model.embed_tokens", False),
    "final_norm/scale": ("model.norm", False),
    "head/kernel": ("lm_head", True),
}


class Place(NamedTuple):
    """Where a parameter of ours lies there; of `interleaved` heads the two halves alternate there."""

    row: Param
    name: str
    transposed: bool
    interleaved: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.row.shape[::-1] if self.transposed else self.row.shape

    def there(self, ours: np.ndarray) -> np.ndarray:
        array = ours.T if self.transposed else ours
        return self._swap(array, first=2) if self.interleaved else array

    def here(self, theirs: np.ndarray) -> np.ndarray:
        array = self._swap(theirs, first=self._half()) if self.interleaved else theirs
        return array.T if self.transposed else array

    def _half(self) -> int:
        return self.row.shape[1] // self.interleaved // 2

    def _swap(self, array: np.ndarray, first: int) -> np.ndarray:
        """Rows of each head, `first` by the rest, in the other order."""
        second = 2 * self._half() // first
        return array.reshape(self.interleaved, first, second, -1).swapaxes(1, 2).reshape(array.shape)


def model_type(shape: Shape) -> str:
    """The architecture that computes what a model of this shape does; ScalingError if there is none."""
    for name, architecture in ARCHITECTURES.items():
        if all(getattr(shape, field) == value for field, value in architecture.kind.items()):
            return name
    raise ScalingError(
        f"no architecture of transformers has {shape.block} blocks with norm {shape.norm!r} and qk_norm "
        f"{str(shape.qk_norm).lower()}; the model can be used here, but not exported."
    )


def places(shape: Shape) -> Iterator[Place]:
    """Every parameter of `shape` with its name and layout in `transformers`."""
    rotated = {"attention/query": shape.heads, "attention/key": shape.kv_heads}
    heads = rotated if ARCHITECTURES[model_type(shape)].interleaved else {}
    for row in shape.table:
        first, _, rest = row.name.partition("/")
        if first.startswith("layer_"):
            name, transposed = BLOCK[rest]
            place = f"model.layers.{first.removeprefix('layer_')}.{name}.weight"
            yield Place(row, place, transposed, heads.get(rest, 0))
        else:
            name, transposed = OUTSIDE[row.name]
            yield Place(row, f"{name}.weight", transposed)


def export_model(model: Model, folder: str | Path) -> dict[str, Any]:
    """Write weights, config, tokenizer and a card to `folder`, config.json last; returns the config.

    Raises ScalingError for a folder that holds something else, and for a model of symbols, which has
    no text to tokenise.
    """
    folder = Path(folder)
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / CONFIG).exists())
    ):
        raise ScalingError(f"{folder}: holds something else already; name a new folder.")
    text, end = hub_tokenizer(model.tokenizer)
    config = hub_config(model)
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tensors = (
        Tensor(
            place.name,
            place.shape,
            lambda place=place: place.there(np.asarray(model.parameter(place.row.path))),
        )
        for place in places(model.shape)
    )
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_atomic(folder / TOKENIZER, text)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": end,
            "eos_token": end,
            "pad_token": end,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # a text that spells the closing symbol does not close itself
        },
    )
    sampling = {"do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.9}
    write_json(folder / "generation_config.json", {**ids, **sampling})
    write_atomic(folder / "README.md", card(model, config, end))
    write_json(folder / CONFIG, config)
    return config


def hub_config(model: Model) -> dict[str, Any]:
    """config.json: the shape in the fields of the architecture's own config."""
    s = model.shape
    kind = model_type(s)
    end = model.tokenizer.end_of_document
    return {
        "architectures": [ARCHITECTURES[kind].name],
        "model_type": kind,
        "vocab_size": s.vocab,
        "hidden_size": s.width,
        "intermediate_size": s.ffn,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_dim,
        "tie_word_embeddings": s.tied,
        "max_position_embeddings": model.seq,
        "hidden_act": "silu",
        **{name: ours for name, (ours, _) in ARCHITECTURES[kind].numbers.items()},
        **hub_rope(s),
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "use_cache": True,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "dtype": "float32",
        "torch_dtype": "float32",
        OWN_FIELD: {
            "tokenizer": model.tokenizer.kind,
            "compute_dtype": model.dtype,
            "origin": dict(model.origin),
            **own_rope(s),
        },
    }


def hub_tokenizer(tokenizer: Tokenizer) -> tuple[str, str]:
    """A tokenizer.json with the same ids, and the name of the symbol that closes a document in it."""
    from tokenizers import Tokenizer as Hub

    if isinstance(tokenizer, ByteTokenizer):
        return byte_tokenizer_json(tokenizer), END_TEXT
    if not isinstance(tokenizer, HubTokenizer):
        raise ScalingError("the run was trained on symbols, not on text: there is no tokenizer to export.")
    hub = Hub.from_str(tokenizer.to_text())
    end = hub.id_to_token(tokenizer.end_of_document)
    if end is not None:
        return tokenizer.to_text(), end
    hub.add_special_tokens([END_TEXT])  # an id that the tokenizer itself never produces
    if hub.token_to_id(END_TEXT) != tokenizer.end_of_document:
        raise ScalingError(
            "the tokenizer's ids have gaps, so that the symbol that closes a document cannot keep its id "
            f"{tokenizer.end_of_document} in a tokenizer.json."
        )
    return hub.to_str(), END_TEXT


def byte_characters() -> dict[int, str]:
    """The printable character that stands for each byte in byte-level tokenizers (GPT-2)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    rest = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}


def byte_tokenizer_json(tokenizer: ByteTokenizer) -> str:
    """A byte-level BPE without merges: each byte its own id. Bytes without an id are dropped there."""
    character = byte_characters()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    closing = {"id": tokenizer.end_of_document, "content": END_TEXT, "single_word": False, "lstrip": False}
    value = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**closing, "rstrip": False, "normalized": False, "special": True}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {
                END_TEXT: tokenizer.end_of_document,
                **{character[b]: i for i, b in enumerate(tokenizer.symbols, start=1)},
            },
            "merges": [],
        },
    }
    return dumps(value)


def stretched(shape: Shape) -> str:
    """A line of the card for a context that was stretched."""
    rope = shape.rope
    if rope is None or rope.kind == "none":
        return ""
    return (
        f"- Rotary positions are scaled: {rope.kind}, factor {rope.factor:g}, from {rope.original} tokens.\n"
    )


def spoken(model: Model) -> str:
    """Lines of the card for what the architecture does not know of: a mode token, a source read both ways."""
    said = ""
    if model.first is not None:
        said = (
            f"- It learnt to go on with a text after a mode token: put id {model.first} first, in place of "
            "that symbol. The tokenizer has no text for it.\n"
        )
    if model.separator is not None:
        said += (
            f"- It learnt to answer a source, closed by {model.separator!r}, that is read both ways. This "
            "architecture looks back only, and answers otherwise than `scaling generate` does.\n"
        )
    return said


def card(model: Model, config: dict[str, Any], end: str) -> str:
    """README.md: what the folder is, and what the format does not say."""
    s, origin = model.shape, model.origin
    lost = (
        "- Bytes that did not occur in the training text have no id: this tokenizer drops them silently.\n"
        if isinstance(model.tokenizer, ByteTokenizer)
        else ""
    )
    further = f"{lost}{spoken(model)}{stretched(s)}"
    return f"""# {origin.get("name", "model")}

A `{config["model_type"]}` model of {s.params():,} parameters ({s.layers} layers, width {s.width}), exported
by `scaling export`. Trained on {origin.get("tokens", 0):,} tokens of the data {origin.get("data_sha256")}.

- Context: {model.seq} tokens. The model has not seen longer ones.
- A document begins after `{end}`, which closed the one before it: put its id (bos_token_id) first.
{further}- Products were computed in {model.dtype} in training; the weights are float32.
"""
