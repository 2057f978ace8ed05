"""Export and import: the same function in `transformers`, the same ids, and back bit for bit."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from unittest import mock

import jax
import numpy as np
import pytest
from model_helpers import cli, failure, runs, text  # noqa: F401 (fixtures)

from scaling.errors import ScalingError
from scaling.files import read_json, write_json
from scaling.rope import Rope
from trainer.check_export import check_export
from trainer.export import OWN_FIELD, export_model, hub_tokenizer
from trainer.generate import Sampling, generate
from trainer.import_model import import_model
from trainer.model import apply
from trainer.rope import rope_tables
from trainer.tensorfile import Tensor, read_tensors, write_tensors
from trainer.tokenizers import ByteTokenizer, HubTokenizer, SymbolTokenizer, train_bpe
from trainer.weights import load_model, save_model

ALL = pytest.mark.parametrize("name", ["bytes", "bpe", "palm"])

PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
KINDS = {"bytes": "qwen3", "bpe": "llama", "palm": "cohere"}


@pytest.fixture(autouse=True)
def offline():
    with mock.patch.dict(os.environ, {"HF_HUB_OFFLINE": "1"}):
        yield


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@ALL
def test_there_and_back_is_bit_exact(runs, tmp_path, name):  # noqa: F811
    there = cli("export", runs[name], tmp_path / "hub")
    assert there["model_type"] == KINDS[name] and there["check"] is None
    cli("import", tmp_path / "hub", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(runs[name] / "model")
    cli("export", tmp_path / "back", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "hub")


def test_a_byte_tokenizer_keeps_its_ids():
    """Every byte value at once, in an order of its own; and only its own export becomes one again."""
    from tokenizers import Tokenizer

    ours = ByteTokenizer(bytes(range(256)))
    exported, end = hub_tokenizer(ours)
    theirs = Tokenizer.from_str(exported)
    theirs.encode_special_tokens = True
    spelled = "".join(map(chr, range(256))) + f" tail  \n\n{end} → 日本 {'x' * 5000}"
    assert theirs.encode(spelled).ids == ours.encode(spelled).tolist()
    assert theirs.decode(theirs.encode(spelled).ids) == spelled
    assert theirs.token_to_id(end) == ours.end_of_document == 0


def test_a_tokenizer_without_a_closing_symbol_gets_one_with_the_id_it_had():
    given = json.loads(train_bpe([b"some text to train on"], 280).to_text())
    given["added_tokens"] = []
    vocab = given["model"]["vocab"]
    given["model"]["vocab"] = {t: i - 1 for t, i in vocab.items() if i > 0}
    ours = HubTokenizer.from_text(json.dumps(given), "file", "test")
    exported, _ = hub_tokenizer(ours)
    back = HubTokenizer.from_text(exported, "file", "test")
    assert (back.end_of_document, back.vocab_size) == (ours.end_of_document, ours.vocab_size)
    assert back.encode("some text").tolist() == ours.encode("some text").tolist()
    with pytest.raises(ScalingError, match="symbols"):
        hub_tokenizer(SymbolTokenizer())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "5e5"}}, "'theta' must be a number"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type is 'llama3'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "'factor' must be a number"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2, "beta": 1}}, "has beta = 1"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, "model.layers.1"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
        ({"num_key_value_heads": 3}, "kv_heads"),
        ({"vocab_size": 5}, "model.embed_tokens.weight"),
    ],
)
def test_what_our_model_does_not_have_is_refused_by_name(runs, tmp_path, capsys, change, said):  # noqa: F811
    cli("export", runs["bytes"], tmp_path / "hub")
    config = read_json(tmp_path / "hub" / "config.json")
    write_json(tmp_path / "hub" / "config.json", {**config, **change})
    assert said in failure(capsys, "import", tmp_path / "hub", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"logit_scale": 0.0625}, "logit_scale is 0.0625"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps"),
        ({"use_qk_norm": True}, "use_qk_norm"),
        ({"model_type": "llama"}, "post_attention_layernorm"),
    ],
)
def test_what_a_parallel_model_does_not_have_is_refused_by_name(runs, tmp_path, capsys, change, said):  # noqa: F811
    cli("export", runs["palm"], tmp_path / "hub")
    config = read_json(tmp_path / "hub" / "config.json")
    write_json(tmp_path / "hub" / "config.json", {**config, **change})
    assert said in failure(capsys, "import", tmp_path / "hub", tmp_path / "back")


def test_a_shape_that_no_architecture_has_is_not_exported(runs, tmp_path):  # noqa: F811
    model = load_model(runs["palm"])
    odd = dataclasses.replace(model, shape=dataclasses.replace(model.shape, norm="rms"))
    with pytest.raises(ScalingError, match="parallel blocks with norm 'rms'"):
        export_model(odd, tmp_path / "hub")


def test_the_card_says_what_the_architecture_does_not_know(runs, tmp_path):  # noqa: F811
    model = load_model(runs["bytes"])
    for origin, said in (
        ({}, ()),
        ({"mode_id": 3}, ("put id 3 first",)),
        ({"separator": "\n"}, ("closed by '\\n'", "looks back only")),
    ):
        export_model(dataclasses.replace(model, origin=origin), tmp_path / "hub")
        card = (tmp_path / "hub" / "README.md").read_text()
        assert all(words in card for words in said) and card.count("It learnt") == bool(said)


def test_folders_in_use_and_incomplete_ones_are_refused(runs, tmp_path, capsys):  # noqa: F811
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert "something else" in failure(capsys, "export", runs["bytes"], tmp_path / "mine")
    cli("export", runs["bytes"], tmp_path / "hub")
    assert "something else" in failure(capsys, "import", tmp_path / "hub", tmp_path / "mine")
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        (tmp_path / "hub" / name).unlink()
        assert name in failure(capsys, "import", tmp_path / "hub", tmp_path / "new")


def test_tensor_files_keep_every_bit_and_never_half_open(tmp_path):
    """Odd shapes and bit patterns survive; a file cut anywhere is refused, not read."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 2**32, shape, np.uint32).view(np.float32)
        for name, shape in {"a": (3, 5), "b/c": (7,), "none": (0, 4), "one": ()}.items()
    }
    tensors = [Tensor(name, a.shape, lambda a=a: a) for name, a in arrays.items()]
    path = tmp_path / "t.safetensors"
    write_tensors(path, tensors, {"format": "pt"})
    found = read_tensors(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].shape == array.shape and found[name].tobytes() == array.tobytes()
    whole = path.read_bytes()
    for length in [*range(12), *range(12, len(whole), 7)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ScalingError, match=r"t\.safetensors"):
            read_tensors(path)


# --- Against the real library ---------------------------------------------------------------------


@pytest.mark.requires("export")
@ALL
def test_transformers_computes_the_same_logits_and_ids(runs, text, tmp_path, name):  # noqa: F811
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    check = cli("export", runs[name], tmp_path / "hub", "--check")["check"]
    assert check["max_logit_difference"] <= 1e-4 and check["max_logit"] > 1
    model, theirs = load_model(runs[name]), AutoTokenizer.from_pretrained(tmp_path / "hub")
    content = (text / "inspect.txt").read_text() + theirs.eos_token + " end"
    assert theirs(content)["input_ids"] == model.tokenizer.encode(content).tolist()
    assert theirs.decode(model.tokenizer.encode(content)) == content
    assert theirs.eos_token_id == theirs.bos_token_id == model.tokenizer.end_of_document
    stored = load_file(runs[name] / "model" / "weights.safetensors")
    assert all((stored[t.name] == t.make()).all() for t in model.tensors) and len(stored) == len(
        model.tensors
    )


ROPES = [
    Rope("linear", 4.0, 8),
    Rope("ntk", 4.0, 8),
    Rope("yarn", 4.0, 8),
    Rope("yarn", 2.0, 16, 5e5),
    Rope(theta=5e5),
]


def stretched(model, rope):
    return dataclasses.replace(model, shape=dataclasses.replace(model.shape, rope=rope))


@pytest.mark.parametrize("rope", ROPES)
def test_a_stretched_model_comes_back_as_it_went(runs, tmp_path, rope):  # noqa: F811
    for name in ("bytes", "palm"):
        model = stretched(load_model(runs[name]), rope)
        config = export_model(model, tmp_path / name)
        back = import_model(tmp_path / name)
        assert back.shape == model.shape
        save_model(back, tmp_path / f"{name}-model")
        assert load_model(tmp_path / f"{name}-model").shape == model.shape
        # By anybody's reader, who does not know of our own field: the same angles.
        plain = {key: value for key, value in config.items() if key != OWN_FIELD}
        write_json(tmp_path / name / "config.json", plain)
        foreign = import_model(tmp_path / name).shape
        ours, theirs = (rope_tables(32, s.head_dim, s.rope) for s in (model.shape, foreign))
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        if "rope_scaling" in config:  # as transformers 4 reads it
            write_json(
                tmp_path / name / "config.json",
                {key: value for key, value in plain.items() if key != "rope_parameters"},
            )
            assert import_model(tmp_path / name).shape == foreign


@pytest.mark.requires("export")
@pytest.mark.parametrize("rope", ROPES)
def test_transformers_computes_the_same_logits_of_a_stretched_model(runs, tmp_path, rope):  # noqa: F811
    for name in ("bytes", "palm"):
        model = stretched(load_model(runs[name]), rope)
        export_model(model, tmp_path / name)
        check = check_export(model, tmp_path / name)
        assert check["max_logit_difference"] <= 1e-4 and check["max_logit"] > 1


@pytest.mark.requires("export")
@ALL
def test_transformers_generates_the_same_text(runs, tmp_path, name):  # noqa: F811
    import torch
    from transformers import AutoModelForCausalLM

    model = load_model(runs[name])
    export_model(model, tmp_path / "hub")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hub")
    ours = generate(model, "def ", 20, Sampling(temperature=0))
    begin = torch.from_numpy(ours.prompt_ids.astype(np.int64))[None]
    found = theirs.generate(begin, max_new_tokens=20, do_sample=False, attention_mask=torch.ones_like(begin))
    assert found[0, begin.shape[1] :].tolist() == ours.ids.tolist()


@pytest.mark.requires("export")
@pytest.mark.parametrize(("kind", "tied"), [("Qwen3", False), ("Llama", True), ("Cohere", True)])
def test_a_folder_that_transformers_wrote_is_read(runs, tmp_path, kind, tied):  # noqa: F811
    """Random bfloat16 weights in several parts, saved by the library itself."""
    import torch
    import transformers

    sizes = {"vocab_size": 400, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2}
    heads = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 24,
    }
    torch.manual_seed(0)
    numbers = {"rms_norm_eps": 1e-6}
    if kind == "Cohere":
        numbers = {"layer_norm_eps": 1e-6, "logit_scale": 1.0, "rope_parameters": PLAIN_ROPE}
    config = getattr(transformers, f"{kind}Config")(**sizes, **heads, **numbers, tie_word_embeddings=tied)
    theirs = getattr(transformers, f"{kind}ForCausalLM")(config).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "hub", max_shard_size="50KB")
    assert len(list((tmp_path / "hub").glob("*.safetensors"))) > 1
    export_model(load_model(runs["bpe"]), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "tokenizer.json", tmp_path / "hub")
    model = import_model(tmp_path / "hub")
    ids = np.random.default_rng(0).integers(0, 400, (2, 24))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hub", dtype=torch.float32)
    with torch.no_grad():
        expected = again(torch.from_numpy(ids)).logits.numpy()
    found = jax.jit(apply, static_argnums=0)(model.shape, model.params, ids.astype(np.int32))
    assert np.abs(np.asarray(found) - expected).max() <= 1e-4
    assert (model.seq, model.dtype) == (24, "bfloat16")
