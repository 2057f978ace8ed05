"""The synthetic source: its entropy rate is what two computations and its own samples say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.corpus import build_corpus
from trainer.log_bilinear import LogBilinear, chains
from trainer.tokens import iterate_documents

SMALL = LogBilinear(symbols=16, law_seed=3)


@pytest.fixture(scope="module")
def full() -> LogBilinear:
    return LogBilinear()


def test_the_law_is_the_described_one() -> None:
    logits = SMALL.logits() + np.log(np.arange(1, 17))
    # Without the Zipf term the logit is a sum of a function of (a, c) and one of (b, c).
    interaction = logits - logits.mean(0, keepdims=True) - logits.mean(1, keepdims=True)
    interaction += logits.mean((0, 1), keepdims=True)
    np.testing.assert_allclose(interaction, 0, atol=5e-6)
    first = logits.mean(1) - logits.mean((0, 1))
    matrix = first - first.mean(0)
    singular = np.linalg.svd(SMALL._matrix(np.random.default_rng(0), 2.0), compute_uv=False)
    np.testing.assert_allclose(singular[0] / singular, np.arange(1, 17), rtol=1e-6)
    assert SMALL._matrix(np.random.default_rng(0), 2.0).std() == pytest.approx(2.0)
    assert 1.5 < matrix.std() < 2.1
    np.testing.assert_allclose(SMALL.transition.sum(2), 1)


def test_entropy_rate_by_eigenvector_equals_power_iteration() -> None:
    n = SMALL.symbols
    chain = np.zeros((n * n, n * n))  # the transition matrix of pairs, written out
    for a in range(n):
        for b in range(n):
            chain[a * n + b, b * n + np.arange(n)] = SMALL.transition[a, b]
    system = np.vstack([chain.T - np.eye(n * n), np.ones(n * n)])
    pairs = np.linalg.lstsq(system, np.append(np.zeros(n * n), 1), rcond=None)[0]
    np.testing.assert_allclose(SMALL.stationary.ravel(), pairs, atol=1e-12)
    entropy = -(
        pairs[:, None] * SMALL.transition.reshape(n * n, n) * np.log(SMALL.transition.reshape(n * n, n))
    )
    assert SMALL.entropy_rate == pytest.approx(entropy.sum(), abs=1e-10)


def test_entropy_rate_is_the_difference_of_block_entropies(full: LogBilinear) -> None:
    """H(X3 | X1 X2) = H(X1 X2 X3) - H(X1 X2), with the marginals of both pairs equal."""
    pairs = full.stationary
    triples = pairs[:, :, None] * full.transition
    np.testing.assert_allclose(triples.sum(0), pairs, atol=1e-12)
    block = -(triples * np.log(triples)).sum() + (pairs * np.log(pairs)).sum()
    assert full.entropy_rate == pytest.approx(block, abs=1e-9)
    assert full.entropy_rate == pytest.approx(2.551344, abs=1e-5)


def test_the_loss_of_the_true_model_on_samples_is_the_entropy_rate(full: LogBilinear) -> None:
    losses = full.cross_entropy_of(full.sample(64, 6000, np.random.default_rng(0)))
    error = losses.std(ddof=1) / len(losses) ** 0.5
    assert error < 0.006
    assert losses.mean() == pytest.approx(full.entropy_rate, abs=4 * error)


@pytest.fixture
def small_law(monkeypatch: pytest.MonkeyPatch) -> LogBilinear:
    monkeypatch.setattr("trainer.corpus.LogBilinear", lambda: SMALL)
    return SMALL


def test_the_built_folder_is_a_sample_of_the_law(small_law: LogBilinear, tmp_path: Path) -> None:
    folder = build_corpus("builtin:log-bilinear", tmp_path / "tokens", max_bytes=1_000_000)
    assert folder.manifest["entropy_rate_nats"] == small_law.entropy_rate
    assert folder.end_of_document is None
    assert folder.vocab_size == 16
    assert folder.manifest["bytes_per_token"] == 1
    share = len(folder.tokens("validation")) / 1_000_000
    assert share == pytest.approx(0.04, abs=0.015)
    for split in ("train", "validation"):
        chains = list(iterate_documents(folder, split))
        losses = small_law.cross_entropy_of(np.stack(chains))
        assert losses.mean() == pytest.approx(
            small_law.entropy_rate, abs=5 * losses.std() / len(losses) ** 0.5
        )


def test_the_seed_decides_the_sample(small_law: LogBilinear, tmp_path: Path) -> None:
    hashes = [
        build_corpus("builtin:log-bilinear", tmp_path / str(i), max_bytes=100_000, seed=seed).sha256
        for i, seed in enumerate((0, 0, 1))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_samples_follow_the_law_of_triples() -> None:
    sample = SMALL.sample(400, 1000, np.random.default_rng(0)).astype(int)
    n = SMALL.symbols
    counts = np.zeros((n, n, n))
    np.add.at(counts, (sample[:, :-2], sample[:, 1:-1], sample[:, 2:]), 1)
    expected = SMALL.stationary[:, :, None] * SMALL.transition
    seen = counts / counts.sum()
    large = expected > 1e-3
    np.testing.assert_allclose(seen[large], expected[large], rtol=0.25)
    assert np.abs(seen - expected).sum() < 0.05
    starts = np.zeros((n, n))  # a chain begins in the stationary law
    np.add.at(starts, (sample[:, 0], sample[:, 1]), 1)
    assert np.abs(starts / 400 - SMALL.stationary).sum() < 0.6


def test_chains_are_equally_long_and_of_the_asked_amount() -> None:
    drawn = list(chains(SMALL, 100_000, seed=0))
    assert len({len(c) for c in drawn}) == 1
    assert sum(map(len, drawn)) == pytest.approx(100_000, rel=0.02)
    assert not np.array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize("symbols", [1, 3, 512])
def test_the_alphabet_is_a_power_of_two(symbols: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        LogBilinear(symbols=symbols)
