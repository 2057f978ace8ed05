"""Building: the standard library as a corpus, disjoint splits, the same hash twice, nothing half-built."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from scaling.errors import ScalingError, UsageError
from trainer import corpus
from trainer.corpus import build_corpus
from trainer.sources import Excluded, Source
from trainer.splits import seeded_key, shingles
from trainer.tokens import MANIFEST, TokenFolder, iterate_documents

STDLIB = "builtin:stdlib-without-tests"  # installed everywhere


@pytest.fixture(scope="module")
def stdlib(tmp_path_factory: pytest.TempPathFactory) -> TokenFolder:
    return build_corpus(STDLIB, tmp_path_factory.mktemp("data") / "tokens")


@pytest.fixture(scope="module")
def texts(stdlib: TokenFolder) -> dict[str, list[bytes]]:
    tokenizer = stdlib.tokenizer()
    return {
        s: [tokenizer.decode(d).encode() for d in iterate_documents(stdlib, s)]
        for s in ("train", "validation")
    }


def write_texts(folder: Path, count: int = 60, groups: int = 60) -> Path:
    """Texts of which each `count / groups` are near duplicates of one another."""
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng(i % groups)
        words = [f"word{n}" for n in rng.integers(0, 10**6, 200)]
        words[i // groups] = f"edit{i}"
        (folder / f"{i:03}.txt").write_text(" ".join(words))
    return folder


# --- The standard library -------------------------------------------------------------------------


def test_the_standard_library_is_a_usable_corpus(stdlib: TokenFolder) -> None:
    splits = stdlib.manifest["splits"]
    assert splits["train"]["tokens"] > 8_000_000
    assert splits["validation"]["tokens"] > 300_000
    assert 90 <= stdlib.vocab_size <= 100
    assert stdlib.end_of_document == 0
    held = stdlib.manifest["validation"]
    assert held["independent_groups"] >= 15
    assert held["largest_group_share"] < 0.25
    assert stdlib.manifest["licence"] == "PSF-2.0"
    assert f"Python {sys.version.split()[0]}" in stdlib.manifest["notes"][0]
    assert stdlib.manifest["excluded"]["non-ASCII text"]["documents"] > 0
    assert (
        0.035
        < splits["validation"]["bytes"] / (splits["train"]["bytes"] + splits["validation"]["bytes"])
        < 0.05
    )


def test_no_package_is_on_both_sides(stdlib: TokenFolder, texts: dict[str, list[bytes]]) -> None:
    held = set(stdlib.manifest["validation"]["groups"])
    side = {text: split for split in texts for text in texts[split]}
    seen: dict[str, set[bytes]] = {"train": set(), "validation": set()}
    for document in Source.find(STDLIB).documents(Excluded(), "text", None):
        if document.text in side:
            expected = "validation" if document.group in held else "train"
            assert side[document.text] == expected, document.name
            seen[expected].add(document.text)
    assert {split: len(found) for split, found in seen.items()} == {s: len(t) for s, t in texts.items()}


def test_no_validation_text_resembles_a_training_text(texts: dict[str, list[bytes]]) -> None:
    """True similarities, not estimates: every pair across the split."""
    train = [shingles(t) for t in texts["train"]]
    owner = np.repeat(np.arange(len(train)), [len(s) for s in train])
    flat = np.concatenate(train)
    order = np.argsort(flat)
    flat, owner = flat[order], owner[order]
    worst = 0.0
    for text in texts["validation"]:
        mine = shingles(text)
        lo, hi = np.searchsorted(flat, mine, "left"), np.searchsorted(flat, mine, "right")
        hits = np.concatenate([owner[a:b] for a, b in zip(lo, hi)] + [np.zeros(0, np.int64)])
        both = np.bincount(hits, minlength=len(train))
        union = np.array([len(s) for s in train]) + len(mine) - both
        worst = max(worst, float((both / union).max()))
    # Links are drawn at an estimate of .5; one pair in 200 of similarity .65 is missed, and fewer above.
    assert worst < 0.65


def test_documents_are_shuffled(stdlib: TokenFolder, texts: dict[str, list[bytes]]) -> None:
    side = {text: i for i, text in enumerate(texts["train"])}
    places = [side[d.text] for d in Source.find(STDLIB).documents(Excluded(), "text", None) if d.text in side]
    n = len(places)
    correlation = np.corrcoef(np.arange(n), places)[0, 1]
    assert abs(correlation) < 5 / n**0.5


# --- The same inputs, the same data ---------------------------------------------------------------


def test_the_same_inputs_give_the_same_files(stdlib: TokenFolder, tmp_path: Path) -> None:
    again = build_corpus(STDLIB, tmp_path / "again")
    assert again.sha256 == stdlib.sha256
    assert again.manifest["files"] == stdlib.manifest["files"]


def test_a_complete_folder_is_reused(stdlib: TokenFolder, monkeypatch) -> None:
    monkeypatch.setattr(corpus, "_build_text", lambda *_: pytest.fail("built again"))
    before = (stdlib.path / MANIFEST).stat().st_mtime_ns
    assert build_corpus(STDLIB, stdlib.path).sha256 == stdlib.sha256
    assert (stdlib.path / MANIFEST).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"validation_share": 0.3}, {"tokenizer": "bpe:300"}, {"max_bytes": 30_000}]
)
def test_every_input_matters_and_another_data_set_is_not_overwritten(tmp_path: Path, change: dict) -> None:
    source = str(write_texts(tmp_path / "texts"))
    options = {"validation_share": 0.2, **change}
    first = build_corpus(source, tmp_path / "a", validation_share=0.2)
    other = build_corpus(source, tmp_path / "b", **options)
    assert other.sha256 != first.sha256
    with pytest.raises(
        ScalingError, match=f"holds another data set \\({next(iter(change)).replace('_', ' ')} is"
    ):
        build_corpus(source, tmp_path / "a", **options)
    assert TokenFolder.open(tmp_path / "a", check="full").sha256 == first.sha256


def test_touched_files_are_the_same_data_and_changed_ones_are_not(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "texts")
    first = build_corpus(str(source), tmp_path / "a", validation_share=0.2)
    os.utime(source / "000.txt", (1, 1))
    assert build_corpus(str(source), tmp_path / "a", validation_share=0.2).sha256 == first.sha256
    (source / "000.txt").write_text("another text altogether")
    with pytest.raises(ScalingError, match="its source has changed since it was built"):
        build_corpus(str(source), tmp_path / "a", validation_share=0.2)
    assert TokenFolder.open(tmp_path / "a", check="full").sha256 == first.sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "texts"]


def test_a_place_that_holds_other_things_is_left_alone(tmp_path: Path) -> None:
    source = str(write_texts(tmp_path / "texts"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("mine", "file"):
        with pytest.raises(ScalingError, match="exists and is no token folder"):
            build_corpus(source, tmp_path / name)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    (tmp_path / "free").mkdir()
    build_corpus(source, tmp_path / "free")


@pytest.mark.parametrize(
    "options",
    [
        {"validation_share": 0.0},
        {"validation_share": 0.9},
        {"validation_share": float("nan")},
        {"seed": -1},
        {"max_bytes": 0},
    ],
)
def test_impossible_requests_are_usage_errors(tmp_path: Path, options: dict) -> None:
    with pytest.raises(UsageError, match="--"):
        build_corpus(STDLIB, tmp_path / "out", **options)


def test_symbols_take_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes no tokenizer"):
        build_corpus("builtin:log-bilinear", tmp_path / "out", tokenizer="bpe:4096")


# --- Near duplicates, sizes, tokenizers -----------------------------------------------------------


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "texts", count=90, groups=30)  # 30 triples
    folder = build_corpus(str(source), tmp_path / "a", validation_share=0.2)
    tokenizer = folder.tokenizer()
    last = {
        s: Counter(tokenizer.decode(d).split()[-1] for d in iterate_documents(folder, s))
        for s in folder.manifest["splits"]
    }
    assert set(last["train"].values()) == set(last["validation"].values()) == {3}
    assert not set(last["train"]) & set(last["validation"])
    assert folder.manifest["validation"]["near_duplicate_documents"] == 90


def test_a_limit_takes_part_of_every_region(tmp_path: Path) -> None:
    folder = build_corpus(STDLIB, tmp_path / "a", max_bytes=3_000_000)
    splits = folder.manifest["splits"]
    assert 2_800_000 < splits["train"]["bytes"] + splits["validation"]["bytes"] <= 3_000_000
    assert any("Reading stopped" in note for note in folder.manifest["notes"])
    assert folder.manifest["validation"]["independent_groups"] >= 5


def test_bpe_is_trained_on_training_text_and_is_lossless(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "texts")
    folder = build_corpus(str(source), tmp_path / "a", tokenizer="bpe:400", validation_share=0.2)
    assert folder.vocab_size == 400
    assert folder.dtype == np.dtype("<u2")
    assert folder.manifest["bytes_per_token"] > 1.2
    tokenizer = folder.tokenizer()
    found = {tokenizer.decode(d) for s in ("train", "validation") for d in iterate_documents(folder, s)}
    assert found == {p.read_text() for p in source.iterdir()}
    for split in ("train", "validation"):
        assert (np.asarray(folder.tokens(split)) == 0).sum() == len(folder.ends(split))
        sizes = [len(tokenizer.decode(d).encode()) for d in iterate_documents(folder, split)]
        np.testing.assert_array_equal(folder.doc_bytes(split), sizes)
    short = build_corpus(str(source), tmp_path / "b", tokenizer="bpe:100000", validation_share=0.2)
    assert any("yields a vocabulary of" in note for note in short.manifest["notes"])


def test_a_given_tokenizer_is_used_and_its_losses_told(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "texts")
    first = build_corpus(str(source), tmp_path / "a", tokenizer="bpe:400", validation_share=0.2)
    given = str(first.path / "tokenizer.json")
    same = build_corpus(str(source), tmp_path / "b", tokenizer=given, validation_share=0.2)
    assert same.manifest["splits"]["train"]["sha256"] == first.manifest["splits"]["train"]["sha256"]
    assert not any("restore" in note for note in same.manifest["notes"])
    lossy = json.loads(Path(given).read_text())
    lossy["normalizer"] = {"type": "Replace", "pattern": {"String": "word"}, "content": "w"}
    (tmp_path / "lossy.json").write_text(json.dumps(lossy))
    folder = build_corpus(
        str(source), tmp_path / "c", tokenizer=str(tmp_path / "lossy.json"), validation_share=0.2
    )
    assert any("does not restore" in note for note in folder.manifest["notes"])


# --- Kills ----------------------------------------------------------------------------------------


def test_a_killed_build_leaves_nothing_that_counts_as_complete(tmp_path: Path) -> None:
    """Kill -9 in the middle; the next build starts afresh and clears what was left."""
    script = (
        "import sys, time; from trainer import corpus\n"
        "def stop(*args, **kwargs):\n"
        "    print('writing', flush=True); time.sleep(60)\n"
        "corpus.file_table = stop\n"
        "corpus.build_corpus(sys.argv[1], sys.argv[2], validation_share=.2)\n"
    )
    source = write_texts(tmp_path / "texts")
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(source), str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "writing\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    left = [p.name for p in tmp_path.iterdir() if p.name != "texts"]
    assert len(left) == 1
    assert left[0].startswith(".out.building-")
    folder = build_corpus(str(source), tmp_path / "out", validation_share=0.2)
    assert TokenFolder.open(folder.path, check="full").sha256 == folder.sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "texts"]


def test_two_builds_at_once_end_with_one_good_folder(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "texts")
    script = (
        "import sys; from trainer.corpus import build_corpus as b; print(b(sys.argv[1], sys.argv[2]).sha256)"
    )
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "out")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    hashes = {child.communicate(timeout=60)[0] for child in children}
    assert [child.returncode for child in children] == [0, 0]
    assert hashes == {TokenFolder.open(tmp_path / "out", check="full").sha256 + "\n"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "texts"]


def test_keys_do_not_depend_on_the_process() -> None:
    """Held-out groups are chosen by these keys: they may never change from run to run."""
    assert seeded_key(0, b"json") == 0xB57C90CE2ACE299
    assert seeded_key(1, b"json") != seeded_key(0, b"json")


# --- The command ----------------------------------------------------------------------------------


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scaling.cli.main", "data", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_command_builds_and_shows(tmp_path: Path) -> None:
    source = str(write_texts(tmp_path / "texts"))
    out = str(tmp_path / "out")
    built = run_command(source, "--out", out, "--validation-share", ".2", "--json")
    assert built.returncode == 0, built.stderr
    value = json.loads(built.stdout)
    assert value["format"] == "scaling/tokens"
    assert value["splits"]["train"]["documents"] > 40
    shown = run_command(out)
    assert shown.returncode == 0, shown.stderr
    assert value["sha256"] in shown.stdout
    assert "independent groups" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["nowhere", "--out", "x"], 1, "nowhere: no such file or folder."),
        (["nowhere"], 2, "give --out DIR"),
        (["builtin:stdlib", "--out", "x", "--tokenizer", "bpe:1"], 2, "--tokenizer bpe:1"),
    ],
)
def test_wrong_input_ends_with_one_line(
    tmp_path: Path, arguments: list[str], status: int, complaint: str
) -> None:
    result = run_command(*[str(tmp_path / "x") if a == "x" else a for a in arguments])
    assert result.returncode == status
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "x").exists()
