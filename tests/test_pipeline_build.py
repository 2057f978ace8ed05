"""The whole pipeline: the same hash from any number of processes, after any kill, from any hostile file."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.cli.main import main
from scaling.errors import ScalingError, UsageError
from trainer import sources
from trainer.corpus import build_corpus
from trainer.pipeline import build, readers
from trainer.pipeline import plan as planning
from trainer.pipeline.build import build_pipeline
from trainer.pipeline.settings import Settings
from trainer.pipeline.streams import open_stream
from trainer.pipeline.workers import workers
from trainer.tokens import TokenFolder, iterate_documents

WORDS = [
    f"{a}{b}" for a in ("al", "be", "ga", "del", "ep", "ze", "thi", "io") for b in ("ro", "ta", "mu", "nex")
]
PLAIN = {"identify": False, "bands": 0, "mask": False}  # nothing is changed or dropped but exact duplicates


def prose(rng: np.random.Generator, count: int = 60) -> str:
    return " ".join(rng.choice(WORDS, count)) + "."


def built(out: Path, *sources: Path | str, workers: int = 1, **options) -> TokenFolder:
    return build_pipeline(out, Settings(tuple(map(str, sources)), **options), workers)


def texts_of(folder: TokenFolder) -> set[str]:
    coder = folder.tokenizer()
    return {
        coder.decode(ids) for split in ("train", "validation") for ids in iterate_documents(folder, split)
    }


def write_rows(path: Path, rows: list[str], **more) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": row, **{k: v(i) for k, v in more.items()}}) for i, row in enumerate(rows))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    texts = [prose(rng) for _ in range(120)]
    host = "https://www.site{}.org/page".format
    return write_rows(tmp_path / "rows.jsonl", texts + texts[:10], url=lambda i: host(i % 3))


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "UNIT_BYTES", 8 << 10)
    monkeypatch.setattr("trainer.pipeline.encode.PART_BYTES", 4 << 10)


# --- One answer -----------------------------------------------------------------------------------


def test_without_cleaning_it_is_scaling_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two builders, one token stream: split, order and ids are those of `scaling data`."""
    part = sources.stdlib_sources(tests=False)[:250]
    monkeypatch.setattr(sources, "stdlib_sources", lambda tests: part)
    plain = build_corpus("builtin:stdlib-without-tests", tmp_path / "plain")
    piped = built(tmp_path / "piped", "builtin:stdlib-without-tests", **PLAIN)
    for split in ("train", "validation"):
        for kind in ("bin", "ends", "bytes"):
            assert (piped.path / f"{split}.{kind}").read_bytes() == (
                plain.path / f"{split}.{kind}"
            ).read_bytes()
    assert (piped.path / "tokenizer.json").read_text() == (plain.path / "tokenizer.json").read_text()


def test_processes_and_units_do_not_change_the_data(tmp_path: Path, rows: Path, small_units: None) -> None:
    one = built(tmp_path / "one", rows, identify=False, tokenizer="bpe:300")
    two = built(tmp_path / "two", rows, identify=False, tokenizer="bpe:300", workers=2)
    assert one.sha256 == two.sha256
    assert (one.path / "card.md").read_text() == (two.path / "card.md").read_text()
    # A large file is read in ranges of lines: every line once.
    assert len(planning.make_plan((str(rows),)).units) > 3
    assert texts_of(one) == {json.loads(line)["text"] for line in rows.read_text().splitlines()}


@given(st.lists(st.binary(max_size=9), max_size=12), st.integers(1, 20), st.integers(0, 1))
@settings(max_examples=60, deadline=None)
def test_ranges_of_a_file_are_its_lines_each_once(
    tmp_path_factory, lines: list[bytes], step: int, end: int
) -> None:
    content = b"\n".join(lines) + b"\n" * end
    path = tmp_path_factory.getbasetemp() / "ranges.txt"
    path.write_bytes(content)
    found = []
    for start in range(0, len(content), step):
        stop = start + step if start + step < len(content) else None
        with open_stream(path, start, stop) as stream:
            found.append(stream.read())
    assert b"".join(found) == content
    assert all(part.endswith(b"\n") for part in [part for part in found if part][:-1])


def test_a_large_text_is_read_in_ranges(tmp_path: Path, small_units: None) -> None:
    rng = np.random.default_rng(2)
    (tmp_path / "large.txt").write_text("".join(f"{i} {prose(rng)}\n" for i in range(150)) + "z" * 30_000)
    folder = built(tmp_path / "out", tmp_path / "large.txt", **PLAIN)
    assert sum(map(len, texts_of(folder))) == (tmp_path / "large.txt").stat().st_size
    assert len(folder.manifest["card"]["stages"]) == 4


def test_a_worker_that_dies_is_one_sentence() -> None:
    with workers(2) as crew, pytest.raises(ScalingError, match="worker process was killed"):
        crew.run(os._exit, [(9,)], [].append)


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from trainer.pipeline import encode, plan
from trainer.pipeline.build import build_pipeline
from trainer.pipeline.settings import Settings

def build(out, workers):
    settings = Settings((sys.argv[1],), identify=False, tokenizer="bpe:300")
    return build_pipeline(Path(out), settings, workers)

def child(act):
    pid = os.fork()
    if pid:
        return pid
    act()
    os._exit(0)

def killed_at(event):
    replace, count = os.replace, 0
    def dying(a, b):
        nonlocal count
        count += 1
        if count == event:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(a, b)
    os.replace = dying
    build(sys.argv[2] + "/events", 1)

if __name__ == "__main__":
    plan.UNIT_BYTES, encode.PART_BYTES = 8 << 10, 4 << 10
    whole = build(sys.argv[2] + "/whole", 1).sha256
    kills, event = 0, 1
    while True:  # each run dies a few renames further on
        _, status = os.waitpid(child(lambda: killed_at(event)), 0)
        if not os.WIFSIGNALED(status):
            break
        kills, event = kills + 1, event % 7 + 2
    print(kills, build(sys.argv[2] + "/events", 1).sha256 == whole)
    draw = random.Random(int(sys.argv[3]))
    for _ in range(2):  # at any moment, with workers of its own
        pid = child(lambda: build(sys.argv[2] + "/moments", 2))
        time.sleep(draw.uniform(.05, 1.5))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    print(2, build(sys.argv[2] + "/moments", 2).sha256 == whole)
"""


def test_a_killed_build_resumes_to_the_same_hash(tmp_path: Path, rows: Path) -> None:
    """Kill -9 at renames all through the build, and at random moments; nothing is left behind."""
    (tmp_path / "killer.py").write_text(KILLER)
    command = [
        sys.executable,
        str(tmp_path / "killer.py"),
        str(rows),
        str(tmp_path / "out"),
        str(os.getpid()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (by_event, same), (_, same_again) = (line.split() for line in done.stdout.splitlines())
    assert int(by_event) >= 5
    assert same == same_again == "True", f"seed {os.getpid()}"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["events", "moments", "whole"]


def test_a_complete_folder_is_reused_and_another_is_left_alone(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = built(tmp_path / "out", rows, **PLAIN)
    with pytest.raises(ScalingError, match="holds another data set"):
        built(tmp_path / "out", rows, **PLAIN, seed=1)
    monkeypatch.setattr(build, "_clean_all", lambda *_: pytest.fail("built again"))
    assert built(tmp_path / "out", rows, **PLAIN).sha256 == first.sha256


def test_two_builds_of_one_place_do_not_mix(tmp_path: Path, rows: Path) -> None:
    with build._claimed(tmp_path / ".out.build"), pytest.raises(ScalingError, match="another build"):
        built(tmp_path / "out", rows, **PLAIN)


# --- What is kept of each document ----------------------------------------------------------------


def test_every_document_carries_its_domain_and_source(tmp_path: Path, rows: Path) -> None:
    rng = np.random.default_rng(1)
    for i in range(20):
        (tmp_path / "texts" / "books").mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / "books" / f"{i}.txt").write_text(f"a book {prose(rng)}")
    folder = built(tmp_path / "out", rows, tmp_path / "texts", **PLAIN)
    domains, sources = folder.label_names("domain"), folder.label_names("source")
    coder = folder.tokenizer()
    of_text = {json.loads(line)["text"]: i % 3 for i, line in list(enumerate(rows.open()))[::-1]}
    for split in ("train", "validation"):
        labels = zip(folder.labels(split, "domain"), folder.labels(split, "source"), strict=True)
        for ids, (domain, source) in zip(iterate_documents(folder, split), labels, strict=True):
            text = coder.decode(ids)
            book = text.startswith("a book")
            assert domains[domain] == ("books" if book else f"site{of_text[text]}.org")
            assert sources[source] == str(tmp_path / "texts" if book else rows)
    card = json.loads((folder.path / "card.json").read_text())
    assert (
        sum(d["tokens"] for d in card["train"]["domains"].values())
        == folder.manifest["splits"]["train"]["tokens"]
    )
    assert card["epochs"][1] == {"epochs": 4, "tokens": 4 * folder.manifest["splits"]["train"]["tokens"]}
    with pytest.raises(ScalingError, match="scaling data build"):
        build_corpus(str(rows), tmp_path / "plain").labels("train", "domain")


def test_counts_add_up_from_stage_to_stage(tmp_path: Path, rows: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "empty.txt").write_text(" \n")
    card = built(tmp_path / "out", rows, tmp_path / "more", identify=False).manifest["card"]
    documents = card["stages"][0]["documents"]
    assert documents == 131
    for stage in card["stages"][1:]:
        documents -= stage["removed"]
        assert stage["documents"] == documents
    assert card["stages"][2] == {"stage": "exact duplicates", "documents": 120, "removed": 10} | {
        "bytes": card["stages"][2]["bytes"]
    }


@pytest.mark.requires("data")
def test_languages_are_told_and_chosen(tmp_path: Path) -> None:
    said = {
        "en": "The ships in the harbour were waiting for the wind to change, number {}.",
        "de": "Die Schiffe im Hafen warteten darauf, dass der Wind sich drehen würde, Nummer {}.",
        "fr": "Les navires dans le port attendaient que le vent change de direction, numéro {}.",
    }
    for language, text in said.items():
        write_rows(tmp_path / "rows" / f"{language}.jsonl", [text.format(i) for i in range(30)])
    (tmp_path / "rows" / "program.py").write_text("print('the ships in the harbour')\n")
    folder = built(tmp_path / "all", tmp_path / "rows", bands=0)
    assert set(folder.label_names("language")) == {"en", "de", "fr", "code"}
    chosen = built(tmp_path / "some", tmp_path / "rows", bands=0, languages=("de", "fr", "xx"))
    card = chosen.manifest["card"]
    assert {name: n["documents"] for name, n in card["languages_read"].items()} == {
        "en": 30, "de": 30, "fr": 30, "code": 1,
    }  # fmt: skip
    assert texts_of(chosen) == {said[x].format(i) for x in ("de", "fr") for i in range(30)}
    assert any("xx" in note for note in chosen.manifest["notes"])
    with pytest.raises(ScalingError, match=r"no document is left.*language: 0"):
        built(tmp_path / "none", tmp_path / "rows", languages=("xx",))


def test_persons_are_masked_and_counted(tmp_path: Path, rows: Path) -> None:
    lines = rows.read_text().splitlines()
    row = json.loads(lines[0])
    row["text"] += " Write to ada@example.org."
    rows.write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    folder = built(tmp_path / "out", rows, identify=False)
    assert folder.manifest["card"]["masked"] == {"emails": 1, "addresses": 0, "phones": 0}
    assert not any("ada@" in text for text in texts_of(folder))
    assert sum("<|email|>" in text for text in texts_of(folder)) == 1


@pytest.mark.requires("data")
def test_a_unigram_tokenizer_is_lossless_and_the_same_twice(tmp_path: Path, rows: Path) -> None:
    folders = [built(tmp_path / name, rows, **PLAIN, tokenizer="unigram:300") for name in ("a", "b")]
    assert folders[0].sha256 == folders[1].sha256
    assert texts_of(folders[0]) == {json.loads(line)["text"] for line in rows.open()}
    coder = folders[0].tokenizer()
    for text in ("naïve café 数学 🙂\n\t ", "<|end of document|>", "\x01\x7f▁"):
        assert coder.decode(coder.encode(text)) == text
        assert coder.end_of_document not in coder.encode(text)


# --- Hostile files --------------------------------------------------------------------------------


@pytest.mark.requires("data")
def test_hostile_files_are_counted_and_named(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    monkeypatch.setattr(readers, "LONGEST", 1 << 16)
    top = tmp_path / "mess"
    top.mkdir()
    good = "\n".join(json.dumps({"text": f"good line {i}"}) for i in range(4000)).encode()
    bad = [
        b'{"text": "\xff\xfe"}',
        b"{",
        b"[1]",
        b'{"no": 1}',
        b'{"text": 5}',
        b'{"text": null}',
        b'{"text": ""}',
    ]
    bad += [
        b'{"text": "nul \\u0000"}',
        b'{"text": "\\ud800"}',
        b'{"text": "' + b"x" * (1 << 17) + b'"}',
        b"9" * 5000,
        b'{"text": "\\u3000 \\u2003"}',
        b'{"text": "of a torn domain", "url": "https://t\\ud800rn.org/"}',
    ]
    (top / "bad.jsonl").write_bytes(b"\n".join([*bad, b'{"text": "after the mess"}']))
    (top / "cut.jsonl.gz").write_bytes(gzip.compress(good)[:-3000])
    (top / "cut.jsonl.zst").write_bytes(zstandard.compress(good)[:-2000])
    (top / "frames.txt.zst").write_bytes(zstandard.compress(b"frame one ") + zstandard.compress(b"and two"))
    (top / "twice.txt.gz").write_bytes(gzip.compress(gzip.compress(good)))
    (top / "not.txt.gz").write_bytes(b"plain text")
    (top / "box.zip").write_bytes(b"PK\x03\x04 rest")
    (top / "box.tar").write_bytes(b"\0" * 257 + b"ustar" + b"\0" * 250)
    (top / "nul.txt").write_bytes(b"a\0b")
    (top / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (top / "wide.txt").write_bytes("wide".encode("utf-16"))
    (top / "line.txt").write_bytes(b"y" * (1 << 20))
    (top / "blank.txt").write_bytes(b" \n")
    (top / "torn.parquet").write_bytes(b"PAR1 torn")
    (top / os.fsdecode(b"n\xffme.txt")).write_text("a file whose name is no text")
    pq.write_table(pa.table({"body": ["a"]}), top / "other.parquet")
    pq.write_table(pa.table({"text": ["a row of parquet", None]}), top / "rows.parquet")
    folder = built(tmp_path / "out", top, rows, **PLAIN)
    left_out = {reason: (e["documents"], e["first"]) for reason, e in folder.manifest["excluded"].items()}

    def one(start: str) -> tuple[int, list[str]]:
        found = [value for reason, value in left_out.items() if reason.startswith(start)]
        assert len(found) == 1, (start, list(left_out))
        return found[0]

    assert one("invalid UTF-8") == (3, ["bad.jsonl, line 1", "bad.jsonl, line 9", "latin.txt"])
    assert one("not JSON") == (2, ["bad.jsonl, line 2", "bad.jsonl, line 11"])
    assert one("not a JSON object") == (1, ["bad.jsonl, line 3"])
    assert one("no column 'text'") == (2, ["bad.jsonl, line 4", "other.parquet"])
    assert one("'text' is no text") == (1, ["bad.jsonl, line 5 (int)"])
    assert one("no text (null)") == (2, ["bad.jsonl, line 6", "rows.parquet, row 2"])
    assert one("empty")[0] == 3
    assert "t?rn.org" in folder.label_names("domain")
    assert one("binary") == (2, ["bad.jsonl, line 8", "nul.txt"])
    assert one("longer than") == (1, ["bad.jsonl, line 10"])
    assert one("damaged file: gzip stream damaged or cut short (Compressed")[1] == ["cut.jsonl.gz"]
    assert one("damaged file: gzip stream damaged or cut short (Not")[1] == ["not.txt.gz"]
    assert one("damaged file: zstd") == (1, ["cut.jsonl.zst"])
    assert one("archive inside (gzip)") == (1, ["twice.txt.gz"])
    assert one("archive inside (zip)") == (1, ["box.zip"])
    assert one("archive inside (tar)") == (1, ["box.tar"])
    assert one("UTF-16")[1] == ["wide.txt"]
    assert one("not a readable Parquet file")[1][0].startswith("torn.parquet")
    texts = texts_of(folder)
    assert {
        "after the mess",
        "frame one and two",
        "a row of parquet",
        "a file whose name is no text",
    } <= texts
    assert sum(text.startswith("good line") for text in texts) > 1000  # what came before the damage
    assert sum(len(text) for text in texts if set(text) == {"y"}) <= 1 << 20
    assert "box.zip" in (folder.path / "card.md").read_text()


def test_a_missing_part_is_one_sentence(tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("py3langid", "zstandard", "sentencepiece", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ScalingError, match=r"py3langid.*scaling.data.*--no-language"):
        built(tmp_path / "out", rows)
    with pytest.raises(ScalingError, match=r"sentencepiece.*scaling.data.*bpe"):
        built(tmp_path / "out", rows, **PLAIN, tokenizer="unigram:300")
    with pytest.raises(ScalingError, match=r"datasets.*scaling.huggingface"):
        built(tmp_path / "out", "hf:nobody/nothing", **PLAIN)
    (tmp_path / "a.txt.zst").write_bytes(b"")
    with pytest.raises(ScalingError, match=r"zstandard.*scaling.data"):
        built(tmp_path / "out", tmp_path / "a.txt.zst", **PLAIN)


@pytest.mark.requires("data")
def test_parquet_row_groups_are_read_apart(tmp_path: Path, rows: Path, small_units: None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [json.loads(line)["text"] for line in rows.open()]
    table = pa.table({"text": texts, "url": [f"https://h{i % 2}.net/" for i in range(len(texts))]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=10, compression="none")
    assert len(planning.make_plan((str(tmp_path / "rows.parquet"),)).units) > 2
    folder = built(tmp_path / "out", tmp_path / "rows.parquet", **PLAIN)
    assert texts_of(folder) == set(texts)
    assert set(folder.label_names("domain")) == {"h0.net", "h1.net"}


@pytest.mark.requires("huggingface")
def test_a_hugging_face_data_set_is_read(tmp_path: Path, rows: Path) -> None:
    import datasets

    texts = [json.loads(line)["text"] for line in rows.open()]
    datasets.Dataset.from_dict({"text": [*texts, None]}).save_to_disk(str(tmp_path / "saved"))
    folder = built(tmp_path / "out", f"hf:{tmp_path / 'saved'}", **PLAIN)
    assert texts_of(folder) == set(texts)
    assert folder.manifest["excluded"]["no text (null)"]["first"] == ["row 131"]
    with pytest.raises(ScalingError, match="datasets cannot load it"):
        built(tmp_path / "no", f"hf:{tmp_path / 'absent'}", **PLAIN)


# --- The command ----------------------------------------------------------------------------------


def test_the_command_builds_and_the_folder_is_shown(tmp_path: Path, rows: Path, capsys) -> None:
    out = str(tmp_path / "out")
    command = ["data", "build", str(rows), "--out", out, "--no-language", "--rules", "none", "--workers", "1"]
    assert main([*command, "--json"]) == 0
    shown = capsys.readouterr()
    manifest = json.loads(shown.out)
    assert manifest["card"]["stages"][-1]["documents"] == 120
    assert main(["data", out]) == 0  # today's verb shows it
    assert manifest["sha256"] in capsys.readouterr().out
    assert main(command) == 0
    assert "near duplicates" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, words",
    [
        (["--rules", "nonsense"], "nonsense"),
        (["--near", "7"], "14x8"),
        (["--shingle", "0"], "--shingle"),
        (["--tokenizer", "unigram:9"], "unigram:257"),
        (["--languages", "en", "--no-language"], "--no-language"),
        (["--validation-share", "0.9"], "--validation-share"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_wrong_options_are_one_line(
    tmp_path: Path, rows: Path, capsys, options: list[str], words: str
) -> None:
    assert (
        main(["data", "build", str(rows), "--out", str(tmp_path / "out"), *options]) == UsageError.exit_status
    )
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


def test_rules_drop_edit_or_are_only_counted(tmp_path: Path, rows: Path) -> None:
    """A rule that edits keeps the document; one that drops says how often it alone was the reason."""
    lines = [json.loads(line)["text"] for line in rows.open()][:40]
    lines[0] += "\nJavaScript is needed here.\n"
    lines[1] += " {"
    lines[2] += " { and\nno JavaScript here."
    source = write_rows(tmp_path / "some.jsonl", lines)
    options = {**PLAIN, "rules": ("c4-lines", "c4-braces")}
    dropped = built(tmp_path / "drop", source, **options)
    counted = built(tmp_path / "count", source, **options, count_only=True)
    hits = {"c4-lines": {"documents": 2, "alone": 1}, "c4-braces": {"documents": 2, "alone": 2}}
    assert dropped.manifest["card"]["rules"] == counted.manifest["card"]["rules"] == hits
    assert texts_of(dropped) == {lines[0].split("\n")[0], *lines[3:]}
    assert texts_of(counted) == set(lines)
