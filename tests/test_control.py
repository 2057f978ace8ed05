"""Control tokens: who is tagged, what of the text changes, what is learnt, and that a level is heeded."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest

from scaling.control import LEVELS, SYMBOLS, Control, parse_control
from scaling.files import read_json, write_json
from scaling.objective import parse_objective
from scaling.recipe import Recipe
from scaling.shape import ShapeFamily
from tests.model_helpers import cli, failure, text  # noqa: F401
from trainer.config import config_from_dict
from trainer.control import TaggedStream, levels_of, tags_of
from trainer.masks import Batch
from trainer.mixing import parts_of
from trainer.objectives.rows import Rows
from trainer.objectives.text import StreamText
from trainer.tokens import TokenFolder, iterate_documents
from trainer.training_data import TrainingData

SCORER = """
def digits(text):
    return sum(map(str.isdigit, text)) / len(text)

def fails(text):
    raise KeyError("boom")

def nothing(text):
    return float("nan")

def words(text):
    return "many"
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """1,500 short documents of the standard library's own lines, as JSONL, and a scorer beside them."""
    place = tmp_path_factory.mktemp("lines")
    source = [line for name in ("calendar", "datetime", "string", "tarfile") for line in _lines(name)]
    pieces = ["\n".join(source[i : i + 4]) for i in range(0, len(source) - 4, 4)][:1500]
    (place / "lines.jsonl").write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
    (place / "scorer.py").write_text(SCORER)
    return place


def _lines(name):
    found = (Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text(encoding="utf-8")
    return [line for line in found.splitlines() if line.strip() and line.isascii()]


@pytest.fixture(scope="module")
def data(lines):
    told = cli(
        "data", lines / "lines.jsonl", "--out", lines / "tokens", "--control", f"{lines / 'scorer.py'}:digits"
    )
    return TokenFolder.open(told["path"])


def rows_of(data, control, objective="causal", seq=32, seed=3):
    rows = Rows(parse_objective(objective), seq, 4, data.vocab_size, seed, SYMBOLS)
    tagged = TaggedStream.of(data, control, rows.first_tag, rows.dtype)
    return rows, tagged


def test_levels_follow_the_scores_of_the_texts(data):
    coder, levels = data.tokenizer(), levels_of(data)
    scores = [sum(map(str.isdigit, t)) / len(t) for t in map(coder.decode, iterate_documents(data, "train"))]
    assert np.allclose(np.asarray(data.scores("train")), scores, atol=1e-7)
    low, high = data.manifest["control"]["thresholds"]
    expected = [0 if np.float32(s) <= low else 2 if np.float32(s) > high else 1 for s in scores]
    assert levels.tolist() == expected
    counts = data.manifest["control"]["documents"]["train"]
    assert counts == {name: expected.count(i) for i, name in enumerate(LEVELS)}
    assert counts["low"] and counts["high"] and sum(counts.values()) == len(scores)


def test_tags_are_a_function_of_seed_and_document_alone(data):
    tags, levels = tags_of(data, Control(0.3)), levels_of(data)
    assert np.array_equal(tags, tags_of(TokenFolder.open(data.path), Control(0.3)))
    assert not np.array_equal(tags, tags_of(data, Control(0.3, seed=1)))
    tagged = tags >= 0
    assert np.array_equal(tags[tagged], levels[tagged])  # never with another level than its own
    n, sd = len(tags), (0.3 * 0.7 / len(tags)) ** 0.5
    assert n > 1000 and abs(tagged.mean() - 0.3) < 4 * sd
    assert (tags_of(data, Control(1.0)) >= 0).all()
    # A larger share tags more documents, and still those of the smaller.
    assert (tags_of(data, Control(0.6)) >= 0)[tagged].all()


@pytest.mark.parametrize("objective", ["causal", "ul2", "fim", "causal@2"])
def test_only_tags_are_added_and_none_of_them_is_learnt(data, objective):
    control = Control(0.3)
    rows, tagged = rows_of(data, control, objective)
    first, tags = rows.first_tag, tags_of(data, control)
    # The whole stream, read as one window of an untagged beginning: text with tags in front of documents.
    expected = [
        np.concatenate([[first + tag] if tag >= 0 else [], ids]).astype(int)
        for tag, ids in zip(tags, iterate_documents(data, "train"))
    ]
    whole = np.concatenate(expected)
    assert len(tagged) == len(whole)
    assert np.array_equal(tagged[np.arange(len(whole))[None]][0], whole)
    # Windows anywhere: the same, but that a tagged document's tag is in front wherever one begins within it.
    starts = np.arange(0, len(whole) - 40, 7)
    places = starts[:, None] + np.arange(40)
    document = np.repeat(np.arange(len(expected)), [len(ids) for ids in expected])
    closing = np.append(document[1:] != document[:-1], True)
    front = np.where((tags[document] >= 0) & ~closing, first + tags[document], whole)
    windows = tagged[places]
    assert np.array_equal(windows[:, 1:], whole[places[:, 1:]])
    assert np.array_equal(windows[:, 0], front[starts])

    batch = rows.batches(StreamText(tagged, 3, rows.window), 0, 8)
    assert isinstance(batch, Batch) and batch.weights is not None
    is_tag = batch.ids >= first
    assert is_tag.any() and not batch.weights[is_tag].any()
    plain = Rows(parse_objective(objective), 32, 4, data.vocab_size, 3)
    before = plain.batches(StreamText(data.tokens("train"), 3, plain.window), 0, 8)
    if isinstance(before, Batch) and before.weights is not None:  # besides, padding counts nothing as ever
        assert np.array_equal(batch.weights[~is_tag] > 0, (before.weights > 0)[~is_tag])
    else:
        assert (batch.weights[~is_tag] == 1).all() or objective == "causal@2"


def test_batches_do_not_depend_on_where_a_run_was_stopped(data):
    recipe = Recipe(seq=32, batch=4, control={"share": 0.3})
    shape = ShapeFamily(vocab=data.vocab_size + recipe.symbols).shape(16)
    config = config_from_dict(
        recipe.run_config(shape, 40 * 128, 5, str(data.path), data.sha256, "run") | {"chunk_steps": 10}
    )
    one, other = TrainingData(config, data), TrainingData(config, TokenFolder.open(data.path))
    one.check("here")
    expected = one.chunk(20, 10)
    other.chunk(0, 10)
    for first, count in ((20, 4), (24, 6)):
        found = other.chunk(first, count)
        for mine, theirs in zip(found, expected):
            if mine is not None:
                assert np.array_equal(mine[:count], theirs[first - 20 : first - 20 + count])
    # Some rows alone are those rows of all.
    part = one.chunk(20, 10, np.array([1, 3]))
    assert np.array_equal(part.ids, expected.ids[:, [1, 3]])


def test_a_mixture_keeps_the_tags_of_its_documents(lines):
    told = cli(
        *(
            "data",
            "build",
            lines / "lines.jsonl",
            "--out",
            lines / "built",
            "--rules",
            "none",
            "--near",
            "off",
        ),
        *("--no-language", "--no-mask", "--workers", 1, "--control", f"{lines / 'scorer.py'}:digits"),
    )
    data = TokenFolder.open(told["path"])
    assert "## Scored for control tokens" in (data.path / "card.md").read_text()
    control = Control(0.5)
    _, tagged = rows_of(data, control)
    (part,) = parts_of(data, "train", "source", tagged).values()
    assert len(part) == len(tagged)
    starts = np.arange(0, len(part) - 50, 11)
    assert np.array_equal(part.read(starts, 50), tagged[starts[:, None] + np.arange(50)])


def test_a_level_is_asked_for_and_the_validation_has_no_tag(data, tmp_path, capsys):
    losses = {}
    for name, further in {"with": {"control": {"share": 0.5}}, "without": {}}.items():
        recipe = Recipe(seq=32, batch=4, eval_tokens=2048, **further)
        shape = ShapeFamily(vocab=data.vocab_size + recipe.symbols).shape(16)
        config = recipe.run_config(shape, 120 * 128, 0, str(data.path), data.sha256, name)
        write_json(tmp_path / name / "config.json", config | {"keep_model": True})
        cli("run-cell", tmp_path / name)
        losses[name] = read_json(tmp_path / name / "result.json")
    assert losses["with"]["eval_tokens"] == losses["without"]["eval_tokens"]
    assert abs(losses["with"]["loss"] - losses["without"]["loss"]) < 0.5
    counted = losses["with"]["control"]["documents"]
    tags = tags_of(data, Control(0.5))
    assert counted == {name: int((tags == i).sum()) for i, name in enumerate(LEVELS)}
    texts = {}
    for level in ("low", "high", None):
        asked = () if level is None else ("--control", level)
        found = cli("generate", tmp_path / "with", "--tokens", 60, "--temperature", 1, *asked)
        assert max(found["ids"]) < data.vocab_size  # a tag is never drawn
        texts[level] = found["text"]
    assert len(set(texts.values())) > 1  # it is read
    again = cli("generate", tmp_path / "with", "--tokens", 60, "--temperature", 1, "--control", "high")
    assert again["text"] == texts["high"]
    assert "without control tokens" in failure(capsys, "generate", tmp_path / "without", "--control", "low")
    assert "low, medium, high" in failure(capsys, "generate", tmp_path / "with", "--control", "loud")


def test_a_lexicon_is_the_share_of_its_words(lines, tmp_path):
    (tmp_path / "words.txt").write_text("# mine\nself\nRETURN\n")
    told = cli(
        "data",
        lines / "lines.jsonl",
        "--out",
        tmp_path / "t",
        "--control",
        f"lexicon:{tmp_path / 'words.txt'}",
    )
    data = TokenFolder.open(told["path"], check="full")
    for ids, score in zip(iterate_documents(data, "train"), np.asarray(data.scores("train"))):
        words = re.findall(r"\w+", data.tokenizer().decode(ids).lower())
        assert score == np.float32(sum(w in ("self", "return") for w in words) / max(1, len(words)))
    # Another file of words is another data set; the text itself stays as it is.
    (tmp_path / "words.txt").write_text("self\nimport\n")
    other = cli(
        "data",
        lines / "lines.jsonl",
        "--out",
        tmp_path / "t2",
        "--control",
        f"lexicon:{tmp_path / 'words.txt'}",
    )
    assert other["sha256"] != told["sha256"]
    assert other["splits"]["train"]["sha256"] == told["splits"]["train"]["sha256"]


def test_a_build_that_is_killed_while_scoring_ends_in_the_same_hash(lines, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "def score(text):\n"
        f"    pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        f"    if pathlib.Path({str(tmp_path / 'hang')!r}).exists(): time.sleep(60)\n"
        "    return len(text) % 7\n"
    )

    def arguments(name):
        return (
            *("data", "build", lines / "lines.jsonl", "--out", tmp_path / name, "--rules", "none"),
            *("--near", "off", "--no-language", "--no-mask", "--workers", 1, "--canaries", "1,3"),
            *("--canary-each", 2, "--control", f"{tmp_path / 'slow.py'}:score"),
        )

    (tmp_path / "hang").touch()
    command = [sys.executable, "-m", "scaling.cli.main", *map(str, arguments("out"))]
    stopped = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if (tmp_path / "begun").exists():
            break
        time.sleep(0.05)
    os.kill(stopped.pid, signal.SIGKILL)
    stopped.wait()
    assert (tmp_path / "begun").exists() and not (tmp_path / "out").exists()
    (tmp_path / "hang").unlink()
    assert cli(*arguments("out"))["sha256"] == cli(*arguments("again"))["sha256"]


@pytest.mark.parametrize(
    ("control", "said"),
    [
        ("{scorer}:fails", "raised KeyError ('boom') for the text that begins"),
        ("{scorer}:nothing", "gave nan for the text that begins"),
        ("{scorer}:words", "raised ValueError"),
        ("{scorer}:missing", "has no function missing"),
        ("{place}/none.py:digits", "there is no file"),
        ("nowhere_to_be_found:digits", "there is no module nowhere_to_be_found"),
        ("digits", "give lexicon:FILE, FILE.py:FUNCTION or MODULE:FUNCTION"),
        ("lexicon:{place}/empty.txt", "the lexicon is empty"),
        ("lexicon:{place}/two.txt", "line 2: 'two words' is not one word"),
        ("lexicon:{place}/rare.txt", "no training document is high"),
        ("{place}/broken.py:digits", "running it raised"),
    ],
)
def test_a_scorer_that_cannot_be_used_is_one_sentence(lines, tmp_path, capsys, control, said):
    (lines / "empty.txt").write_text("# nothing\n")
    (lines / "two.txt").write_text("one\ntwo words\n")
    (lines / "rare.txt").write_text("supercalifragilistic\n")
    (lines / "broken.py").write_text("import no_such_module_anywhere\n")
    asked = control.format(scorer=lines / "scorer.py", place=lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling.cli.output.say", lambda *_: None)  # progress lines are not the complaint
        found = failure(capsys, "data", lines / "lines.jsonl", "--out", tmp_path / "t", "--control", asked)
    assert said in found
    assert not (tmp_path / "t").exists()


def test_what_cannot_be_asked_of_a_sweep_is_one_sentence(lines, tmp_path, capsys):
    plain = cli("data", lines / "lines.jsonl", "--out", tmp_path / "plain")["path"]
    asked = ("sweep", tmp_path / "s", "--data", plain, "--budgets", "1e10", "--dry-run")
    # Said before the design is: the budgets of these few lines would not do either.
    assert "have no scores" in failure(capsys, *asked, "--control", "0.1")
    assert "share" in failure(capsys, *asked, "--control", "2")
    assert "0.1,seed=3" in failure(capsys, *asked, "--control", "0.1,sed=3")
    assert parse_control("0.25") == Control(0.25, 0)


def test_a_recipe_without_tags_is_written_as_it_always_was():
    assert "control" not in Recipe().to_dict()
    assert Recipe().sha256 != Recipe(control={"share": 0.1}).sha256
    assert Recipe(control={"share": 0.1}).symbols == len(SYMBOLS)
