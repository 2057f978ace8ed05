"""Mixtures of sources: their shares, their windows, and what is reported of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from scaling.cli.main import main
from scaling.errors import ScalingError
from scaling.files import read_json, write_json
from scaling.mixture import Mixture, by_temperature, parse_mixture, unimax
from scaling.recipe import Recipe
from scaling.shape import ShapeFamily
from trainer.config import config_from_dict
from trainer.mixing import BLOCK, MixedText, Part, parts_of
from trainer.tokens import TokenFolder
from trainer.training_data import TrainingData


def part(first: int, count: int, runs: int = 7) -> Part:
    """`count` tokens numbered from `first`, in runs that lie scattered in a stream of zeros."""
    lengths = np.diff(np.linspace(0, count, runs + 1).astype(int))
    pieces, begins, at = [], [], 0
    for length in lengths:
        begins.append(at + 13)
        pieces += [np.zeros(13, np.int64), np.arange(length) + first + sum(map(len, pieces[1::2]))]
        at += 13 + length
    stream = np.concatenate([*pieces, np.zeros(5, np.int64)])
    return Part(stream, np.array(begins), np.cumsum(lengths), 2 * count)


def mixed(weights: dict[str, float], sizes: dict[str, int], window: int = 16, seed: int = 0) -> MixedText:
    parts = {name: part(1_000_000 * (i + 1), size) for i, (name, size) in enumerate(sizes.items())}
    return MixedText(parts, Mixture("domain", weights), seed, window)


def test_a_part_is_one_stream_whatever_lies_between_its_documents():
    whole = part(1_000_000, 500)
    starts = np.arange(0, 480)
    assert np.array_equal(whole.read(starts, 20), 1_000_000 + starts[:, None] + np.arange(20))


def test_shares_are_kept_in_every_stretch_and_exactly_in_a_block():
    weights = {"a": 0.6, "b": 0.3, "c": 0.0999, "d": 0.0001}
    text = mixed(weights, dict.fromkeys(weights, 5000))
    assert text.quotas.sum() == BLOCK and text.quotas.min() == 1
    which, _ = text.windows_of(np.arange(3 * BLOCK, dtype=np.uint64))
    for first in range(0, 3 * BLOCK - 256, 100):
        counts = np.bincount(which[first : first + 256], minlength=4) / 256
        assert abs(counts - text.quotas / BLOCK).max() < 0.04
    drawn = text.drawn(2 * BLOCK + 777)
    assert list(drawn.values()) == np.bincount(which[: 2 * BLOCK + 777], minlength=4).tolist()


def test_each_source_is_read_whole_before_any_of_its_windows_comes_again():
    text = mixed({"a": 3, "b": 1}, {"a": 4001, "b": 1601})  # 250 and 100 windows
    numbers = np.arange(BLOCK, dtype=np.uint64)
    words = text.read(numbers, np.zeros(BLOCK, np.int64), 16)
    assert np.array_equal(np.diff(words, axis=1), np.ones((BLOCK, 15)))  # of one source, in its order
    for i, windows in ((1, 250), (2, 100)):
        starts = words[words[:, 0] // 1_000_000 == i, 0]
        for epoch in range(len(starts) // windows):
            assert len(np.unique(starts[epoch * windows : (epoch + 1) * windows])) == windows
    again = text.read(numbers[[7, 3000]], np.zeros(2, np.int64), 16)
    assert np.array_equal(again, words[[7, 3000]])
    other = mixed({"a": 3, "b": 1}, {"a": 4001, "b": 1601}, seed=1)
    assert not np.array_equal(other.read(numbers, np.zeros(BLOCK, np.int64), 16), words)


def test_temperature_flattens_the_shares():
    sizes = {"big": 900.0, "small": 100.0}
    assert by_temperature(sizes, 1.0) == pytest.approx({"big": 0.9, "small": 0.1})
    # Shares go as n^.3 at T = 1/.3: (1/9)^.3 = .517.
    found = by_temperature(sizes, 1 / 0.3)
    assert found["small"] / found["big"] == pytest.approx((1 / 9) ** 0.3)
    assert by_temperature(sizes, 1e9)["small"] == pytest.approx(0.5)


def test_unimax_is_as_even_as_the_epochs_allow():
    sizes = {"swe": 40.0, "fas": 50.0, "ekk": 5.0, "fao": 1.0}
    shares = unimax(sizes, 100, 4)
    # By hand: fao 4 (of 25), ekk 20 (of 32), then 76 / 2 each.
    assert shares == pytest.approx({"fao": 0.04, "ekk": 0.20, "swe": 0.38, "fas": 0.38})
    assert list(shares) == list(sizes)
    assert unimax(sizes, 1, 4) == pytest.approx(dict.fromkeys(sizes, 0.25))
    epochs = {name: shares[name] * 100 / size for name, size in sizes.items()}
    assert max(epochs.values()) <= 4 + 1e-9
    with pytest.raises(ValueError, match="4 epochs"):
        unimax(sizes, 400, 4)


@pytest.mark.parametrize(
    "text", ["language", "colour:red=1", "domain:web", "domain:web=-1", "domain:web=x,b=1"]
)
def test_a_bad_mixture_is_told(text):
    with pytest.raises(ValueError, match="="):
        parse_mixture(text)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A token folder of two domains: real program text, and the documentation in it."""
    import json.encoder as module_of_code
    from pathlib import Path
    from pydoc_data import topics

    place = tmp_path_factory.mktemp("mixed")
    library = Path(module_of_code.__file__).parent.parent
    with open(place / "texts.jsonl", "w") as out:
        for name in ("argparse", "ast", "inspect", "typing", "subprocess", "tarfile"):
            text = (library / f"{name}.py").read_text()
            for i in range(0, len(text), 4000):
                out.write(json.dumps({"text": text[i : i + 4000], "kind": "code"}) + "\n")
        for text in list(topics.topics.values())[:60]:
            out.write(json.dumps({"text": text, "kind": "manual"}) + "\n")
    command = ["data", "build", str(place / "texts.jsonl"), "--domain-column", "kind", "--rules", "none"]
    more = ["--no-language", "--near", "off", "--no-mask", "--workers", "1", "--validation-share", "0.1"]
    assert main([*command, *more, "--out", str(place / "tokens"), "--json"]) == 0
    return place / "tokens"


def test_parts_hold_every_document_of_their_label_in_order(tokens):
    folder = TokenFolder.open(tokens)
    parts = parts_of(folder, "train", "domain")
    labels, names = folder.labels("train", "domain"), folder.label_names("domain")
    assert sum(map(len, parts.values())) == len(folder.tokens("train"))
    for name, found in parts.items():
        mine = np.flatnonzero(labels == names.index(name))
        text = np.concatenate([folder.document("train", i) for i in mine])
        assert np.array_equal(found.read(np.array([0]), len(found))[0], text)


def test_a_sweep_reads_its_sources_in_their_shares_and_says_so(tokens, tmp_path, capsys):
    """End to end: a dry run that warns of repetition, a run, its record; resumed it ends in the same bits."""
    sweep = ["sweep", str(tmp_path / "s"), "--data", str(tokens), "--budgets", "1.5e10"]
    asked = [
        *sweep,
        "--widths",
        "8,16,24",
        "--sizes",
        "3",
        "--objective",
        "ul2",
        "--mixture",
        "domain:code=1,manual=3",
    ]
    assert main([*asked, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    manual = next(s for s in plan["sources"] if s["name"] == "manual")
    longest = max(cell["tokens"] for cell in plan["cells"])
    assert manual["epochs"] == pytest.approx(0.75 * longest / manual["tokens"])
    assert manual["epochs"] > 1 and any(note.startswith("manual: the longest") for note in plan["notes"])
    assert main([*asked, "--dry-run", "--mixture", "domain:code=1,mnual=3"]) == 2
    assert "mnual" in capsys.readouterr().err

    from sweeps.request import requested

    options = {"data": str(tokens), "budgets": (1.5e10,), "widths": (8, 16, 24), "sizes": 3,
               "objective": "ul2", "mixture": "domain:code=1,manual=3"}  # fmt: skip
    made = requested(tmp_path / "s", options)
    config = made.config(made.design.cells[-1]) | {
        "steps": 150,
        "eval_tokens": 4096,
        "chunk_steps": 8,
        "keep_model": True,
    }
    assert config["mixture"] == {"by": "domain", "weights": {"code": 0.25, "manual": 0.75}}
    for name in ("whole", "cut"):
        write_json(tmp_path / name / "config.json", config)
    cut_short(tmp_path / "cut")
    records = {}
    for name in ("whole", "cut"):
        assert main(["run-cell", str(tmp_path / name), "--json"]) == 0
        records[name] = read_json(tmp_path / name / "result.json")
    capsys.readouterr()
    whole, cut = records["whole"], records["cut"]
    same = ("loss", "bits_per_byte", "train_loss", "validation", "mixture", "objective", "unique_tokens")
    assert {k: whole[k] for k in same} == {k: cut[k] for k in same}

    sources = whole["mixture"]["sources"]
    assert sources["manual"]["share"] == pytest.approx(0.75, abs=0.01)
    assert sources["manual"]["epochs"] == pytest.approx(
        sources["manual"]["tokens"] / manual["tokens"], rel=0.01
    )
    assert sum(s["tokens"] for s in sources.values()) == pytest.approx(
        whole["objective"]["text_tokens"], abs=2
    )
    # The model knows the token under which it goes on with a text, so `eval` and `generate` put it first.
    from trainer.weights import load_model

    assert load_model(tmp_path / "cut").first == TokenFolder.open(tokens).vocab_size + 1
    # Text and targets are fewer than the tokens that the model has read.
    assert whole["objective"]["target_tokens"] < 0.5 * whole["objective"]["text_tokens"]
    assert whole["objective"]["text_tokens"] < whole["tokens"]
    found = whole["validation"]
    assert set(found["causal"]) == {"plain", "[S]"} and set(found["by_domain"]) == {"code", "manual"}
    assert whole["bits_per_byte"] == found["causal"]["[S]"]["bits_per_byte"]
    assert all(0 < value["bits_per_byte"] < 8 for value in found["by_domain"].values())


def cut_short(folder) -> None:
    """Train the run in `folder` in a process of its own, and kill that after its first checkpoint."""
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "checkpoint_seconds": 0.0})
    command = [sys.executable, "-m", "scaling.cli.main", "run-cell", str(folder), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any((folder / "checkpoint").glob("[0-9]*")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (folder / "result.json").exists(), "the run was over before it could be killed"
    assert any((folder / "checkpoint").glob("[0-9]*"))


def test_a_causal_mixture_is_ids_alone_and_is_validated_by_domain(tokens):
    folder = TokenFolder.open(tokens)
    recipe = Recipe(mixture={"by": "domain", "weights": {"code": 1, "manual": 1}}, eval_tokens=4096)
    shape = ShapeFamily(vocab=folder.vocab_size).shape(8)
    values = recipe.run_config(shape, 50_000, 0, str(tokens), folder.sha256, "run")
    source = TrainingData(config_from_dict({**values, "chunk_steps": 8}), folder)
    source.check("config.json")
    ids = source.chunk(5, 3)
    assert isinstance(ids, np.ndarray) and ids.shape == (8, 4, 65) and str(ids.dtype) == source.dtype
    assert np.array_equal(ids[:3], source.chunk(4, 8)[1:4])

    def two_nats(_, held):
        return np.full(held.shape[:2], 2.0 * (held.shape[2] - 1))

    found = source.evaluate(two_nats, None)
    assert found.loss == pytest.approx(2.0)
    assert {v["loss"] for v in found.further["by_domain"].values()} == {2.0}
    account = source.account(100)["mixture"]["sources"]
    assert sum(s["tokens"] for s in account.values()) == pytest.approx(100 * 4 * 65, abs=2)
    absent = TrainingData(
        config_from_dict({**values, "mixture": {"by": "domain", "weights": {"x": 1}}}), folder
    )
    with pytest.raises(ScalingError, match="'x'"):
        absent.check("config.json")
