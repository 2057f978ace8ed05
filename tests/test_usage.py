"""Every verb: an example that parses, help for every option, --json as one object, a whole reference."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
from pathlib import Path

import pytest

from scaling.cli.main import VERBS, load_verb, main
from scaling.cli.reference import man_page, markdown
from scaling.cli.usage import EXAMPLES

TABLE = Path(__file__).parents[1] / "analysis" / "data" / "own_cpu_sweep.csv"


def examples(verb: str) -> list[str]:
    """The command lines that a verb's help shows, from its docstring, its own epilog or the table."""
    module = importlib.import_module(f"scaling.cli.{VERBS[verb].module}")
    text = f"{inspect.getdoc(module.command)}\n\n{getattr(module, 'EPILOG', None) or ''}"
    found = []
    for paragraph in text.split("\n\n"):
        if match := re.match(r"\s*(?:Examples?: )?(scaling .*)", " ".join(paragraph.split())):
            found += [part.strip() for part in match.group(1).split("&&")]
    return found or list(EXAMPLES.get(verb, ()))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_shows_examples_that_parse(verb, capsys):
    lines = examples(verb)
    assert any(line.startswith(f"scaling {verb}") for line in lines), f"{verb} shows no example"
    for line in lines:
        words = shlex.split(line)[1:]
        name = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
        load_verb(name).make_context(name, words[len(name.split()) :])  # raises for what does not parse
    assert main([verb, "--help"]) == 0
    assert "Example" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_explained(verb):
    command = load_verb(verb)
    assert not [p.name for p in command.params if not getattr(p, "help", None)]
    assert "--json" in {option for p in command.params for option in p.opts}


def test_examples_belong_to_verbs():
    assert set(EXAMPLES) <= set(VERBS)


def test_the_reference_names_every_verb_and_option():
    page, manual = markdown(), man_page()
    for verb in VERBS:
        assert f"## scaling {verb}\n" in page and f".SS scaling {verb}\n" in manual.replace("\\-", "-")
        for parameter in load_verb(verb).params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                if option.startswith("--"):
                    assert f"`{option}" in page, (verb, option)
    assert not re.search(r"^[.'](?!TH|SH|SS|TP|PP|B |nf|fi)", manual, re.MULTILINE)  # no stray request


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("usage")
    (place / "points.csv").write_text("params,tokens\n1e5,1e7\n2e5,1e7\n")
    row = {"chip": "h100", "n_chips": 8, "n_layers": 16, "d_model": 2048, "d_ff": 5632, "n_heads": 16,
           "n_kv_heads": 8, "head_dim": 128, "vocab": 32000, "seq_len": 2048,
           "global_batch_tokens": 131072, "fsdp": 8}  # fmt: skip
    (place / "layouts.json").write_text(json.dumps(row))
    assert main(["fit", str(TABLE), "--out", str(place / "fit.json"), "--bootstrap", "20"]) == 0
    return place


@pytest.mark.parametrize(
    "line",
    [
        "table TABLE", "fit TABLE --bootstrap 20", "predict FOLDER/fit.json FOLDER/points.csv", "laws",
        "laws palm2", "accelerators", "accelerators h100", "plan --flops 1e20",
        "estimate FOLDER/layouts.json", "gain TABLE TABLE --bootstrap 20",
    ],
)  # fmt: skip
def test_json_is_one_object_and_nothing_else(line, folder, capsys):
    """The verbs that train or need a trained model are held to it where their own tests run them."""
    words = line.replace("TABLE", str(TABLE)).replace("FOLDER", str(folder)).split()
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)
