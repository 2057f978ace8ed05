"""Generation, and the model a run leaves behind: faithful to the trained model, and to the seed."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import cli, failure, runs, text, write_run  # noqa: F401 (fixtures)

from scaling.files import read_json, write_json
from trainer.assembly import static_of
from trainer.config import read_config
from trainer.evaluate import evaluate
from trainer.generate import Sampling, Settings, context_start, generate, sample
from trainer.model import apply, stacked
from trainer.programs import compiled
from trainer.tokens import TokenFolder
from trainer.weights import keep_model, load_model

ALL = pytest.mark.parametrize("name", ["bytes", "bpe", "palm"])


@ALL
def test_the_kept_parameters_are_the_final_ones(runs, name):  # noqa: F811
    """They give the run's own final evaluation, to the last bit; the checkpoints are gone."""
    config, result = read_config(runs[name] / "config.json"), read_json(runs[name] / "result.json")
    data, model = TokenFolder.open(config.data), load_model(runs[name])
    program = compiled(static_of(config), str(data.dtype)).evaluate
    found = evaluate(program, model.params, data, config.eval_tokens, config.seq)
    assert found.loss == result["loss"] and found.bits_per_byte == result["bits_per_byte"]
    assert sorted(p.name for p in runs[name].iterdir() if p.is_dir()) == ["model"]
    assert model.origin["config_sha256"] == result["config_sha256"]


def test_keeping_the_model_changes_nothing_else(runs, tmp_path):  # noqa: F811
    config = read_json(runs["bpe"] / "config.json")
    write_json(tmp_path / "cell" / "config.json", {**config, "keep_model": False})
    cli("run-cell", tmp_path / "cell")
    clock = ("time_s", "compile_s", "tokens_per_s")
    kept, bare = (read_json(f / "result.json") for f in (runs["bpe"], tmp_path / "cell"))
    assert {k: v for k, v in kept.items() if k not in clock} == {
        k: v for k, v in bare.items() if k not in clock
    }
    assert not (tmp_path / "cell" / "model").exists()


def test_layers_trained_in_one_stack_are_kept_one_by_one(runs, tmp_path):  # noqa: F811
    config, model = read_config(runs["bytes"] / "config.json"), load_model(runs["bytes"])
    keep_model(tmp_path, config, TokenFolder.open(config.data), stacked(model.params))
    for name in ("weights.safetensors", "model.json", "tokenizer.json"):
        assert (tmp_path / "model" / name).read_bytes() == (runs["bytes"] / "model" / name).read_bytes()


@ALL
def test_greedy_decoding_equals_the_full_forward_pass(runs, name):  # noqa: F811
    """Token by token, on the stated context, past two restarts of it, from a prompt longer than it."""
    model = load_model(runs[name])
    full = jax.jit(lambda params, ids: apply(model.shape, params, ids))
    for prompt in ("def ", "class Action(object):\n    def __init__(self, option_strings):"):
        found = generate(model, prompt, 60, Sampling(temperature=0))
        ids = found.prompt_ids.tolist()
        for drawn in [*found.ids.tolist(), *([model.tokenizer.end_of_document] if found.ended else [])]:
            context = ids[context_start(len(ids), model.seq) :]
            assert len(context) >= min(len(ids), model.seq // 2)
            window = np.zeros((1, model.seq), np.int32)
            window[0, : len(context)] = context
            logits = np.asarray(full(model.params, window))[0, len(context) - 1, : model.tokenizer.vocab_size]
            assert logits[drawn] >= logits.max() - 1e-5
            ids.append(drawn)
        assert found.ended or len(found.ids) == 60


def test_the_seed_decides_the_text(runs):  # noqa: F811
    texts = [cli("generate", runs["bytes"], "--prompt", "import ", "--seed", s)["text"] for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    shorter = cli("generate", runs["bytes"], "--prompt", "import ", "--seed", 1, "--tokens", 50)
    assert texts[0].startswith(shorter["text"]) and shorter["tokens"] == 50 and not shorter["ended"]
    assert shorter["tokens_per_s"] == pytest.approx(50 / shorter["time_s"])


@pytest.mark.parametrize(("k", "p"), [(5, 1.0), (8, 0.7), (8, 1e-9), (1, 0.5)])
def test_tokens_are_drawn_from_the_likeliest_in_proportion(k, p):
    """Frequencies over many keys are those of the softmax at this temperature, cut by rank and by mass."""
    logits = np.random.default_rng(0).normal(0, 2, 8).astype(np.float32)
    settings, n = Settings(None, "float32", 8, 1, k, 8, None), 4000
    keys = jax.random.split(jax.random.key(0), n)
    draw = jax.jit(
        jax.vmap(lambda key: sample(jnp.asarray(logits), key, settings, jnp.float32(0.7), jnp.float32(p)))
    )
    order = np.argsort(-logits)[:k]
    share = np.exp(logits[order] / 0.7) / np.exp(logits[order] / 0.7).sum()
    kept = np.concatenate([[True], np.cumsum(share)[:-1] < p])
    expected = np.zeros(8)
    expected[order[kept]] = share[kept] / share[kept].sum()
    found = np.bincount(np.asarray(draw(keys)), minlength=8) / n
    assert (found[expected == 0] == 0).all()
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / n)).all()


def test_the_closing_symbol_ends_the_text_and_padding_is_never_drawn(runs):  # noqa: F811
    """With the last norm at zero all logits are equal: any symbol may come, the closing one ends it."""
    model = load_model(runs["bpe"])
    blind = dataclasses.replace(
        model, params={**model.params, "final_norm": {"scale": np.zeros(32, np.float32)}}
    )
    greedy = generate(blind, "x", 9, Sampling(temperature=0))  # the first of equals, id 0
    assert greedy.ended and greedy.text == "" and len(greedy.ids) == 0
    drawn = generate(blind, "x", 3000, Sampling(1.0, 0, 1.0), seed=1)
    assert drawn.ended and 0 < len(drawn.ids) < 3000
    assert drawn.ids.min() > 0 and drawn.ids.max() < model.tokenizer.vocab_size < model.shape.vocab


def test_what_cannot_be_generated_is_one_sentence(runs, tmp_path, capsys):  # noqa: F811
    for options, said in (
        (("--tokens", 0), "--tokens 0"),
        (("--temperature", "nan"), "--temperature"),
        (("--top-p", 0), "--top-p"),
        (("--top-k", -1), "--top-k"),
        (("--seed", -1), "--seed"),
        (("--prompt", "naïve"), "byte 0xc3"),
        (("--prompt", "\udcff"), "not valid UTF-8"),
    ):
        assert said in failure(capsys, "generate", runs["bytes"], *options)
    data = read_json(runs["bytes"] / "config.json")
    assert "no such folder" in failure(capsys, "generate", tmp_path / "none")
    write_json(tmp_path / "run" / "config.json", data)
    assert "not finished" in failure(capsys, "generate", tmp_path / "run")
    shutil.copy(runs["bytes"] / "result.json", tmp_path / "run")
    assert "kept no model" in failure(capsys, "generate", tmp_path / "run")


@pytest.mark.parametrize("damage", ["weights.safetensors", "tokenizer.json", "model.json", "short", "gone"])
def test_a_damaged_model_is_named(runs, tmp_path, capsys, damage):  # noqa: F811
    model = shutil.copytree(runs["bytes"] / "model", tmp_path / "model")
    path = model / (damage if "." in damage else "weights.safetensors")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content) if damage != "short" else bytes(content[:-4]))
    if damage == "gone":
        path.unlink()
    if damage == "model.json":
        path.write_text(path.read_text().replace('"rope_theta": 10000.0', '"rope_theta": 500000.0'))
    assert path.name in failure(capsys, "generate", model)
