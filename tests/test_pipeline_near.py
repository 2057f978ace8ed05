"""De-duplication: planted duplicates are found as often as theory says, and nothing else is taken away."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import ScalingError, UsageError
from trainer.pipeline.build import build_pipeline
from trainer.pipeline.near import clusters, found_probability, keep_longest, threshold
from trainer.pipeline.settings import NEAR, Settings, parse_near
from trainer.splits import shingles, signature

EDITS = (0.01, 0.02, 0.04, 0.06, 0.09, 0.15)  # share of words replaced
PAIRS, WORDS = 250, 300


def random_words(rng: np.random.Generator, count: int) -> list[str]:
    return [f"w{n:06}" for n in rng.integers(0, 10**6, count)]


def edited(rng: np.random.Generator, words: list[str], share: float) -> list[str]:
    """The same words, each replaced by another with probability `share`."""
    change = rng.random(len(words)) < share
    return [
        new if changed else old for old, new, changed in zip(words, random_words(rng, len(words)), change)
    ]


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    both = len(np.intersect1d(a, b))
    return both / (len(a) + len(b) - both)


@pytest.mark.parametrize("bands, rows", [NEAR, (28, 4)])
def test_recall_follows_the_s_curve_at_every_edit_rate(bands: int, rows: int) -> None:
    """Planted pairs, at six edit rates: the share that shares a cluster against the mean of the curve at
    the pairs' true similarities, within four standard errors; no pair that was not planted is linked."""
    rng = np.random.default_rng(bands)
    report = []
    for share in EDITS:
        texts = [random_words(rng, WORDS) for _ in range(PAIRS)]
        copies = [edited(rng, text, share) for text in texts]
        hashes = [shingles(" ".join(words).encode()) for words in [*texts, *copies]]
        group = clusters(np.stack([signature(h) for h in hashes]), bands, rows)
        true = np.array([jaccard(hashes[i], hashes[PAIRS + i]) for i in range(PAIRS)])
        expected = found_probability(true, bands, rows)
        found = group[:PAIRS] == group[PAIRS:]
        error = np.sqrt((expected * (1 - expected)).sum()) / PAIRS
        report.append(
            f"{share:.0%} of words: similarity {true.mean():.3f}, found {found.mean():.3f}, "
            f"expected {expected.mean():.3f} +- {error:.3f}"
        )
        assert abs(found.mean() - expected.mean()) <= 4 * error + 1e-9, report[-1]
        # Precision: a cluster is a text and its own copy, never two different texts.
        assert len(np.unique(group[:PAIRS])) == PAIRS, report[-1]
    print(f"\n{bands} x {rows}: " + "\n        ".join(report))  # pytest -s shows the curve


def test_the_threshold_is_where_half_are_found() -> None:
    assert found_probability(threshold(14, 8), 14, 8) == pytest.approx(0.5)
    # FineWeb states 56%, 77%, 92% and 98.8% at .7, .75, .8 and .85 for these parameters.
    np.testing.assert_allclose(
        found_probability(np.array([0.7, 0.75, 0.8, 0.85]), 14, 8), [0.565, 0.772, 0.924, 0.988], atol=5e-4
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=12), st.randoms())
@settings(max_examples=60, deadline=None)
def test_what_is_kept_does_not_depend_on_the_order_of_reading(texts: list[tuple[int, int]], random) -> None:
    cluster = np.array([c for c, _ in texts])
    sizes = np.array([s for _, s in texts])
    digests = np.array([[i, 7 * i % 5] for i in range(len(texts))], np.uint64)
    kept = keep_longest(cluster, sizes, digests)
    assert [int(kept[cluster == c].sum()) for c in np.unique(cluster)] == [1] * len(np.unique(cluster))
    for c in np.unique(cluster):
        assert sizes[(cluster == c) & kept] == sizes[cluster == c].max()
    order = list(range(len(texts)))
    random.shuffle(order)
    again = keep_longest(cluster[order], sizes[order], digests[order])
    assert {order[i] for i in np.flatnonzero(again)} == set(np.flatnonzero(kept).tolist())


def test_a_build_removes_planted_duplicates_and_keeps_the_rest(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    texts = [random_words(rng, 200 + i) for i in range(60)]
    rows = [" ".join(words) for words in texts]
    rows += [f"  {rows[i]}\n" for i in range(20)]  # exact but for white space
    rows += [" ".join([*edited(rng, texts[i], 0.01), "longer"]) for i in range(20, 40)]  # near, and longer
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    chosen = Settings((str(source),), identify=False)
    card = build_pipeline(tmp_path / "out", chosen, 1).manifest["card"]
    removed = {stage["stage"]: stage.get("removed") for stage in card["stages"]}
    assert removed["exact duplicates"] == 20
    assert removed["near duplicates"] == 20
    assert card["stages"][-1]["documents"] == 60
    assert card["dropped_first"]["exact duplicates"][0] == "rows.jsonl, line 61"
    # The longer one of a pair stays, whichever was read first.
    assert card["near_duplicate_pairs"][0] == ["rows.jsonl, line 21", "rows.jsonl, line 81"]
    again = build_pipeline(tmp_path / "again", Settings((str(source),), identify=False, bands=0), 1)
    assert again.manifest["card"]["stages"][-1]["documents"] == 80


@pytest.mark.parametrize("text", ["14", "0x8", "14x", "-1x3", "9999x1"])
def test_bands_and_rows_are_checked(text: str) -> None:
    with pytest.raises(UsageError, match="14x8"):
        parse_near(text)
    with pytest.raises(UsageError, match="112"):
        Settings(("a",), bands=15, rows=8)


def test_nothing_left_is_said_with_the_counts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("too short\n")
    with pytest.raises(ScalingError, match=r"no document is left \(read: 1, .*rules: 0\)"):
        build_pipeline(
            tmp_path / "out", Settings((str(tmp_path / "a.txt"),), rules=("web",), identify=False), 1
        )
