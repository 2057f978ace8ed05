"""Files are read as they are; what cannot be used is counted, what is wrong is named with its place."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import ScalingError
from trainer import sources
from trainer.corpus import build_corpus
from trainer.sources import Document, Excluded, Source, sections, stdlib_group
from trainer.tokens import TokenFolder, iterate_documents

ROWS = [f"text number {i} of many, {i * 7919} words and {i**3} more" for i in range(60)]


def read(path: Path, column: str = "text") -> tuple[list[Document], Excluded]:
    excluded = Excluded()
    return list(Source.find(str(path)).documents(excluded, column, None)), excluded


def build(path: Path, out: Path, **options) -> TokenFolder:
    return build_corpus(str(path), out, validation_share=0.2, **options)


def texts_of(folder: TokenFolder) -> list[str]:
    tokenizer = folder.tokenizer()
    return sorted(tokenizer.decode(d) for s in ("train", "validation") for d in iterate_documents(folder, s))


def write_jsonl(path: Path, rows: list[str], column: str = "text") -> Path:
    path.write_text("".join(json.dumps({"id": i, column: row}) + "\n" for i, row in enumerate(rows)))
    return path


def write_parquet(path: Path, columns: dict) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


# --- Sections of text -----------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.text(st.sampled_from("ab \n—🙂"), max_size=400), st.integers(8, 40))
def test_sections_joined_are_the_text_and_split_no_character(text: str, size: int) -> None:
    pieces = list(sections(io.BytesIO(text.encode()), size))
    assert b"".join(pieces) == text.encode()
    for piece in pieces:
        assert 0 < len(piece) <= 2 * size
        piece.decode()


def test_sections_end_at_blank_lines_where_there_are_some() -> None:
    paragraph = b"word " * 30 + b"\n\n"
    pieces = list(sections(io.BytesIO(paragraph * 50), 1000))
    assert len(pieces) > 3
    assert all(piece.endswith(b"\n\n") for piece in pieces)


# --- The kinds of files ---------------------------------------------------------------------------


def test_one_text_file_is_cut_and_nothing_is_lost(tmp_path: Path) -> None:
    text = "".join(f"Paragraph {i} — about {i * i} things.\n\n" for i in range(3000))
    (tmp_path / "book.txt").write_text(text)
    documents, _ = read(tmp_path / "book.txt")
    assert b"".join(d.text for d in documents).decode() == text
    folder = build(tmp_path / "book.txt", tmp_path / "out")
    assert sum(s["bytes"] for s in folder.manifest["splits"].values()) == len(text.encode())
    assert folder.manifest["validation"]["independent_groups"] > 3


@pytest.mark.parametrize("zipped", [False, True])
def test_jsonl(tmp_path: Path, zipped: bool) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    if zipped:
        (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "rows.jsonl.gz"
    assert texts_of(build(path, tmp_path / "out")) == sorted(ROWS)


@pytest.mark.requires("parquet")
def test_parquet(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", {"id": list(range(60)), "body": ROWS})
    assert texts_of(build(path, tmp_path / "out", column="body")) == sorted(ROWS)


@pytest.mark.requires("parquet")
def test_the_same_texts_are_the_same_data_from_any_kind_of_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    write_parquet(tmp_path / "rows.parquet", {"text": ROWS[::-1]})
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, row in enumerate(ROWS):
        (folder / f"{i}.txt").write_text(row)
    hashes = {
        build(tmp_path / n, tmp_path / f"out-{n}").sha256 for n in ("rows.jsonl", "rows.parquet", "folder")
    }
    assert len(hashes) == 1


def test_a_folder_may_mix_kinds_and_hides_hidden_files(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep" / ".git").mkdir(parents=True)
    (folder / "deep" / ".git" / "config").write_text("not this")
    (folder / ".hidden").write_text("nor this")
    write_jsonl(folder / "deep" / "a.jsonl", ROWS[:30])
    (folder / "b.md").write_text("a text file of its own")
    names = [d.name for d in read(folder)[0]]
    assert names[0] == "b.md"
    assert names[1] == "deep/a.jsonl, line 1"
    assert len(names) == 31


# --- Hostile input --------------------------------------------------------------------------------


def test_unusable_documents_are_counted_by_reason_and_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sources, "LONGEST", 1 << 12)
    good = [json.dumps({"text": row}).encode() for row in ROWS]
    bad = [
        b'{"text": "caf\xe9"}',  # Latin-1
        b'{"text": "\\ud800"}',  # half of a surrogate pair
        b'{"text": null}',
        b'{"text": "  \\n "}',
        b"",
        json.dumps({"text": "x" * 5000}).encode(),
        json.dumps({"text": ROWS[0] + " \n"}).encode(),  # equal but for white space
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(good[:30] + bad + good[30:]) + b"\n")
    folder = build(path, tmp_path / "out")
    excluded = {reason: entry["documents"] for reason, entry in folder.manifest["excluded"].items()}
    assert excluded == {
        "invalid UTF-8": 2,
        "no text (null)": 1,
        "empty": 2,
        "longer than 0 MiB": 1,
        "exact duplicate": 1,
    }
    assert folder.manifest["excluded"]["invalid UTF-8"]["first"] == [
        "rows.jsonl, line 31",
        "rows.jsonl, line 32",
    ]
    assert texts_of(folder) == sorted(ROWS)  # what follows an overlong line is read again


def test_files_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, row in enumerate(ROWS):
        (folder / f"{i}.txt").write_text(row)
    (folder / "image.png").write_bytes(b"\x89PNG\0\0\1\2")
    (folder / "latin.txt").write_bytes("déjà vu".encode("latin-1"))
    (folder / "wide.txt").write_bytes("wide text".encode("utf-16"))
    (folder / "empty.txt").write_bytes(b"")
    (folder / "bom.txt").write_bytes(b"\xef\xbb\xbfwith a mark")
    folder_tokens = build(folder, tmp_path / "out")
    excluded = {r: (e["documents"], e["first"]) for r, e in folder_tokens.manifest["excluded"].items()}
    assert excluded == {
        "binary (zero bytes)": (1, ["image.png"]),
        "invalid UTF-8": (1, ["latin.txt"]),
        "UTF-16 text (only UTF-8 is read)": (1, ["wide.txt"]),
    }
    assert "with a mark" in texts_of(folder_tokens)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"text": "tw', r"a\.jsonl, line 2: not a JSON object"),
        (
            "a.jsonl",
            b'{"text": "one"}\n["two"]',
            r"a\.jsonl, line 2: a JSON object is expected, found a list",
        ),
        (
            "a.jsonl",
            b'{"body": "one", "id": 1}',
            r"line 1: no column 'text'; there are 'body', 'id'; .*--column",
        ),
        ("a.jsonl", b'{"text": 5}', r"a\.jsonl, line 1, column 'text': a text is expected, found a int"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl, line 1: not a JSON object"),
        ("a.jsonl", b'{"n": ' + b"9" * 5000, r"a\.jsonl, line 1: not a JSON object \(a number of too many"),
        ("a.jsonl", b"", r"a\.jsonl: no usable document"),
        ("a.txt", b"", r"a\.txt: no usable document"),
        ("a.txt", b" \n ", r"no usable document \(1 x empty"),
        ("a.txt", b"\0\1\2", r"no usable document \(1 x binary"),
        ("a.txt", b"one short text", r"a\.txt: 1 document\(s\) .* give more documents"),
        ("a.jsonl.gz", b"not zipped", r"a\.jsonl\.gz: the gzip stream is damaged"),
        (
            "a.txt.gz",
            gzip.compress(b"text " * 99, mtime=0)[:-9],
            r"a\.txt\.gz: the gzip stream is damaged or cut",
        ),
        ("a.parquet", b"PAR1 not really PAR1", r"a\.parquet: not a readable Parquet file"),
        ("a.parquet", b"", r"a\.parquet: not a readable Parquet file"),
    ],
)
def test_wrong_input_is_one_clear_sentence(
    tmp_path: Path, name: str, content: bytes, complaint: str, requires: Callable[[str], None]
) -> None:
    if "parquet" in name:
        requires("parquet")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScalingError, match=complaint) as caught:
        build(tmp_path / name, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir()] == [name]  # nothing half-built is left


@pytest.mark.requires("parquet")
def test_parquet_columns_are_checked(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"body": ROWS, "n": list(range(60))})
    with pytest.raises(ScalingError, match=r"a\.parquet: no column 'text'; there are 'body', 'n'"):
        build(path, tmp_path / "out")
    with pytest.raises(ScalingError, match=r"row 1, column 'n': a text is expected, found a int"):
        build(path, tmp_path / "out", column="n")
    nulls = write_parquet(tmp_path / "b.parquet", {"text": [None, *ROWS, ""]})
    excluded = build(nulls, tmp_path / "out").manifest["excluded"]
    assert {r: e["documents"] for r, e in excluded.items()} == {"no text (null)": 1, "empty": 1}


def test_no_pyarrow_is_said(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ScalingError, match=r"needs pyarrow; install it with .*scaling\[parquet\]"):
        build(tmp_path / "a.parquet", tmp_path / "out")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ScalingError, match="no such file or folder"):
        build(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScalingError, match="holds no files"):
        build(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(
        ScalingError, match=r"builtin:nonsense: unknown; the built-in sources are builtin:stdlib"
    ):
        build_corpus("builtin:nonsense", tmp_path / "out")


# --- The standard library -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("json/decoder.py", "json"),
        ("heapq.py", "heapq"),
        ("test/test_heapq.py", "heapq"),
        ("test/test_asyncio/test_base_events.py", "asyncio"),
        ("test/test_abc.py", "abc"),
        ("test/test_grammar.py", "test/test_grammar"),
        ("test/support/__init__.py", "test/support"),
        ("test/__init__.py", "test/__init__"),
        ("idlelib/idle_test/test_config.py", "idlelib"),
    ],
)
def test_a_module_and_its_tests_are_one_group(name: str, group: str) -> None:
    assert stdlib_group(name) == group


def test_a_missing_standard_library_is_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(ScalingError, match="no standard-library sources"):
        Source.find("builtin:stdlib")


def test_installed_packages_are_grouped_and_ours_left_out(tmp_path: Path, monkeypatch) -> None:
    for name in (
        "numpy/core.py",
        "numpy/tests/test_core.py",
        "six.py",
        "scaling/shape.py",
        "numpy/__pycache__/x.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"purelib": str(tmp_path), "platlib": str(tmp_path)})
    found = sources.installed_sources()
    assert [(f.group, f.name) for f in found] == [
        ("site-packages/six", "site-packages/six.py"),
        ("site-packages/numpy", "site-packages/numpy/core.py"),
        ("site-packages/numpy", "site-packages/numpy/tests/test_core.py"),
    ]


def test_sources_that_are_not_plain_ascii_are_left_out(tmp_path: Path) -> None:
    contents = {
        "a.py": b"x = 1\r\ny = 2\r",
        "b.py": "é = 1".encode(),
        "c.py": b"s = '\x1b'",
        "d.py": b"\tx\f\n",
    }
    files = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        files.append(sources.PythonSource(name, name, tmp_path / name))
    files.append(sources.PythonSource("gone", "gone.py", tmp_path / "gone.py"))
    excluded = Excluded()
    kept = {d.name: d.text for d in sources.python_documents(files, excluded, None)}
    assert kept == {"a.py": b"x = 1\ny = 2\n", "d.py": b"\tx\f\n"}
    assert {r: e["first"] for r, e in excluded.reasons.items()} == {
        "non-ASCII text": ["b.py"],
        "control characters": ["c.py"],
        "unreadable": ["gone.py"],
    }
    orders = {
        tuple(d.name for d in sources.python_documents(files[:4], Excluded(), seed)) for seed in range(8)
    }
    assert len(orders) == 2  # a seed shuffles packages; two are kept here
    assert np.all([len(o) == 2 for o in orders])
