"""Tiny models trained through the real command line, shared by the tests that use them."""

import contextlib
import io
import json
import os
import sysconfig
from pathlib import Path
from unittest import mock

import pytest

from scaling.cli.main import main
from scaling.files import write_json
from scaling.recipe import Recipe
from scaling.shape import Shape

STEPS = 80


def cli(*arguments) -> dict:
    """What a verb that must succeed prints with --json; its changes of the environment are undone."""
    out = io.StringIO()
    with mock.patch.dict(os.environ), contextlib.redirect_stdout(out):
        status = main([*map(str, arguments), "--json"])
    assert status == 0
    return json.loads(out.getvalue())


def failure(capsys, *arguments) -> str:
    """The one line on stderr of a verb that must fail."""
    capsys.readouterr()
    with mock.patch.dict(os.environ):
        assert main([*map(str, arguments)]) in (1, 2)
    seen = capsys.readouterr()
    assert seen.out == "" and seen.err.startswith("error: ") and seen.err.count("\n") == 1
    return seen.err


def write_run(folder: Path, data: dict, shape: Shape, **changes) -> Path:
    recipe = Recipe(seq=32, batch=4, eval_tokens=2048)
    config = recipe.run_config(shape, STEPS * 128, 0, data["path"], data["sha256"], folder.name)
    write_json(folder / "config.json", {**config, "chunk_steps": 20, "keep_model": True, **changes})
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for name in ("argparse", "calendar", "csv", "difflib", "enum", "inspect"):
        source = Path(sysconfig.get_path("stdlib")) / f"{name}.py"
        (folder / f"{name}.txt").write_bytes(source.read_bytes()[:24_000])
    return folder


@pytest.fixture(scope="session")
def runs(text, tmp_path_factory) -> dict[str, Path]:
    """`bytes`: query-key norm, one kv head, own head. `bpe`: no norm, tied, a padded vocabulary.
    `palm`: parallel blocks, LayerNorm, multi-query, tied, on the bytes."""
    place = tmp_path_factory.mktemp("runs")
    found = {}
    with mock.patch.dict(os.environ, {"SCALING_CACHE": str(place / "cache")}):
        for name, tokenizer in (("bytes", "bytes"), ("bpe", "bpe:300")):
            share = ("--validation-share", "0.2")
            data = cli("data", text, "--out", place / f"{name}-data", "--tokenizer", tokenizer, *share)
            vocab = data["tokenizer"]["vocab_size"]
            if name == "bytes":
                shape = Shape(2, 32, heads=2, kv_heads=1, head_dim=12, ffn=64, vocab=vocab)
            else:
                shape = Shape(1, 32, 4, 2, 8, 48, vocab + 7, tied=True, qk_norm=False)
            found[name] = write_run(place / name, data, shape)
            if name == "bytes":
                kind = {"tied": True, "qk_norm": False, "block": "parallel", "norm": "layer"}
                found["palm"] = write_run(place / "palm", data, Shape(2, 32, 4, 1, 8, 64, vocab, **kind))
        for folder in found.values():
            assert cli("run-cell", folder)["status"] == "done"
    return found
