"""Objectives: what becomes of a text, what is learnt of it, and that nothing of a target is seen before."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.objective import OBJECTIVES, parse_objective
from scaling.recipe import Recipe
from scaling.shape import ShapeFamily
from trainer.assembly import static_of
from trainer.config import config_from_dict
from trainer.loss import token_losses
from trainer.masks import Batch, Mask, as_batch, inputs, target_weights, visible
from trainer.model import hidden, init_params, logits
from trainer.objectives.rows import Rows
from trainer.objectives.spans import restore
from trainer.objectives.text import StreamText

VOCAB = 97
NAMES = [*OBJECTIVES, "ul2@3", "causal=1,ul2=2", "X(32,0.5)=1,S(0.5)=3"]


def stream(count: int = 40_000) -> np.ndarray:
    return np.random.default_rng(1).integers(1, VOCAB, count).astype(np.uint8)


def rows_of(name: str, seq: int = 64, batch: int = 4, seed: int = 3) -> tuple[Rows, StreamText]:
    rows = Rows(parse_objective(name), seq, batch, VOCAB, seed)
    return rows, StreamText(stream(), seed, rows.window)


@pytest.mark.parametrize("seq", [64, 100, 513])
def test_corrupted_examples_hold_their_whole_text_in_order(seq):
    rows, _ = rows_of("ul2", seq)
    numbers = np.arange(50, dtype=np.uint64)
    for layout in rows.layouts:
        if layout.denoiser.kind != "span":
            continue
        words = np.random.default_rng(0).integers(0, VOCAB, (50, layout.text))
        mode = rows.symbols[f"[{layout.denoiser.mode}]"]
        examples = rows._examples(words, layout, numbers)
        assert layout.size <= seq + 1
        for text, ids in zip(words, examples, strict=True):
            assert np.array_equal(restore(ids, rows.sentinels, mode), text)
            assert ids[0] == mode and ids[layout.inputs] == rows.sentinels[0]
            # The inputs lack exactly the noise, and end where the targets begin.
            assert np.isin(ids[1 : layout.inputs], rows.sentinels).sum() == layout.spans
            assert (ids[layout.inputs :] < VOCAB).sum() == layout.noise


def test_every_place_of_the_text_is_hidden_alike_often():
    rows, _ = rows_of("span-corruption", 64)
    (layout,) = rows.layouts
    words = np.tile(np.arange(layout.text), (4000, 1))
    examples = rows._examples(words, layout, np.arange(4000, dtype=np.uint64))
    targets = examples[:, layout.inputs :]
    often = np.bincount(targets[targets < layout.text], minlength=layout.text) / 4000
    rate = layout.noise / layout.text
    assert often.mean() == pytest.approx(rate)
    # Ends are hidden somewhat less often than the middle, yet none of them never (as T5's first token is).
    assert often.min() > rate / 3 and often[10:-10].min() > 0.8 * rate


@pytest.mark.parametrize("kind", ["psm", "spm"])
def test_infilling_keeps_prefix_suffix_and_middle(kind):
    rows, _ = rows_of("fim", 64)
    layout = next(layout for layout in rows.layouts if layout.denoiser.kind == kind)
    words = np.tile(np.arange(layout.text), (300, 1))
    lengths = []
    for ids in rows._examples(words, layout, np.arange(300, dtype=np.uint64)):
        pre, suf, mid = (int(np.flatnonzero(ids == rows.symbols[m])[0]) for m in ("[pre]", "[suf]", "[mid]"))
        assert pre == 0 < suf < mid
        between, suffix, rest = ids[1:suf], ids[suf + 1 : mid], ids[mid + 1 :]
        whole = [between, rest, suffix] if kind == "psm" else [rest, suffix]
        assert np.array_equal(np.concatenate(whole), np.arange(layout.text))
        assert kind == "psm" or suf == 1
        lengths.append(len(suffix))
    assert min(lengths) < 5 and max(lengths) > 40


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_a_function_of_its_number_alone(name):
    rows, text = rows_of(name)
    whole = as_batch(rows.batches(text, 0, 12))
    assert whole.ids.shape == (12, 4, 65)
    for first, count in ((0, 1), (3, 4), (11, 1)):
        part = as_batch(rows.batches(text, first, count))
        for field, all_of_it in zip(part, whole, strict=True):
            assert (field is None) == (all_of_it is None)
            assert field is None or np.array_equal(field, all_of_it[first : first + count])
    assert tuple(f for f in ("segments", "prefix", "weights") if getattr(whole, f) is not None) == rows.fields
    other, text = rows_of(name, seed=4)
    assert not np.array_equal(as_batch(other.batches(text, 0, 12)).ids, whole.ids)


@pytest.mark.parametrize("seq", [63, 64])
@pytest.mark.parametrize("name", NAMES)
def test_the_account_of_tokens_is_that_of_the_batches(name, seq):
    rows, text = rows_of(name, seq)
    batch = as_batch(rows.batches(text, 5, 6))
    flat = type(batch)(*(None if f is None else jnp.asarray(f.reshape(-1, seq + 1)) for f in batch))
    weights = target_weights(flat)
    targets = flat.ids[:, 1:].size if weights is None else float(weights.sum())
    ids, mask, _ = inputs(flat)
    place = np.arange(ids.shape[1])
    known = Mask(*(None if field is None else np.asarray(field) for field in mask))
    seen = np.asarray(visible(place, place, known, known)) & np.ones((len(ids), 1, 1), bool)
    if mask.segments is not None:
        seen = seen & (np.asarray(mask.segments) > 0)[:, :, None]
    if flat.weights is not None:
        seen = seen & (np.asarray(flat.weights[:, :-1]) > 0)[:, :, None]
    found = rows.count(5, 6)
    assert found["targets"] == targets
    assert found["pairs"] == seen.sum()
    words = np.asarray(flat.ids) < VOCAB
    if flat.segments is not None:
        words &= np.asarray(flat.segments) > 0
    if flat.weights is not None:
        words &= np.asarray(flat.weights) > 0
    assert found["text"] == words.sum()


def test_shares_and_windows_are_dealt_evenly():
    rows, text = rows_of("ul2", batch=8)
    numbers = rows.numbers(0, 100)
    counts = np.bincount(rows.denoisers(numbers), minlength=7)
    assert abs(counts - len(numbers) / 7).max() <= 4
    windows = (len(text.stream) - 1) // rows.window
    read = text.read(np.arange(windows, dtype=np.uint64), np.zeros(windows, np.int64), 1)
    from trainer.batches import starts_of

    starts = starts_of(3, np.arange(windows, dtype=np.uint64), len(text.stream), rows.window)
    assert len(np.unique(starts)) == windows and len(read) == windows


def test_no_target_is_seen_before_its_turn_and_a_prefix_sees_both_ways():
    """Of the model itself: what a change of one id does to the logits of every place."""
    rows, text = rows_of("ul2@2", 48, batch=8)
    shape = ShapeFamily(vocab=VOCAB + len(rows.symbols)).shape(16)
    params = init_params(shape, 0)
    params = jax.tree.map(jnp.asarray, params)
    params["head"]["kernel"] = jnp.asarray(
        np.random.default_rng(0).normal(size=(16, shape.vocab)), jnp.float32
    )
    batch = type(rows.batches(text, 0, 1))(
        *(None if f is None else jnp.asarray(f[0]) for f in rows.batches(text, 0, 1))
    )
    ids, mask, positions = inputs(batch)

    @jax.jit
    def run(ids):
        return logits(*hidden(shape, params, ids.astype(jnp.int32), mask=mask, positions_BT=positions))

    base = np.asarray(run(ids))
    prefix, segments = np.asarray(mask.prefix), np.asarray(mask.segments)
    looked_back = 0
    for place in range(ids.shape[1]):
        moved = np.asarray(run(ids.at[:, place].set((ids[:, place] + 1) % VOCAB)))
        changed = np.abs(moved - base).max(-1) > 1e-5
        for row in range(len(ids)):
            same = segments[row] == segments[row, place]
            assert not changed[row, ~same].any()
            before = np.arange(ids.shape[1]) < place
            if prefix[row, place]:
                assert not changed[row, before & ~prefix[row]].any()
                looked_back += int(changed[row, before & prefix[row] & same].sum())
            else:
                assert not changed[row, before].any()
    assert looked_back > 1000


@pytest.mark.parametrize("name", ["ul2", "ul2@3"])
def test_padding_is_neither_learnt_nor_seen(name):
    rows, text = rows_of(name, 63, batch=8)
    batch = as_batch(rows.batches(text, 0, 1))
    batch = Batch(*(None if field is None else jnp.asarray(field[0]) for field in batch))
    held = batch.segments if batch.weights is None else batch.weights
    padding = np.asarray(held) == 0
    assert padding.any() and not np.asarray(batch.ids)[padding].any()
    shape = ShapeFamily(vocab=VOCAB + len(rows.symbols)).shape(8)
    params = jax.tree.map(jnp.asarray, init_params(shape, 0))

    @jax.jit
    def nats(batch):
        return token_losses(shape, params, batch, "float32")[0] * target_weights(batch)

    ids = batch.ids.astype(jnp.int32)
    found = [np.asarray(nats(batch._replace(ids=jnp.where(padding, value, ids)))) for value in (0, 5)]
    assert np.array_equal(*found) and found[0].any()


def test_causal_recipes_and_configs_are_what_they_were():
    plain, other = Recipe(), Recipe(objective="ul2", mixture={"by": "domain", "weights": {"a": 1}})
    assert not {"objective", "mixture"} & set(plain.to_dict())
    shape = ShapeFamily(vocab=VOCAB).shape(16)
    config = plain.run_config(shape, 1e5, 0, "data", "0" * 64, "run")
    assert not {"objective", "mixture"} & set(config)
    assert static_of(config_from_dict(config)).fields == ()
    assert other.symbols == 12 and other.sha256 != plain.sha256
    config = other.run_config(shape, 1e5, 0, "data", "0" * 64, "run")
    assert config_from_dict(config).objective == "ul2"
    assert static_of(config_from_dict(config)).fields == ("prefix",)
    for wrong in (
        {"objective": "ul5"},
        {"objective": 3},
        {"seq": 4, "objective": "ul2"},
        {"mixture": {"by": "x"}},
    ):
        with pytest.raises(ValueError, match=r"objective|mixture"):
            Recipe(**wrong)


def test_symbols_are_as_many_as_the_longest_example_needs():
    assert parse_objective("causal").symbols(64) == ()
    assert parse_objective("fim").symbols(64) == ("[pre]", "[suf]", "[mid]")
    ul2 = parse_objective("ul2")
    assert ul2.symbols(64)[:3] == ("[R]", "[S]", "[X]")
    for seq in (64, 512):
        rows, text = rows_of("ul2", seq)
        used = np.unique(as_batch(rows.batches(text, 0, 40)).ids)
        assert set(rows.symbols.values()) <= set(used.tolist())
    # Lengths of the text at 512 ids (T5's rounding): rate, spans.
    found = [(layout.text, layout.noise, layout.spans) for layout in ul2.layouts(512)]
    assert found[0] == (465, 70, 23) and found[3] == (383, 192, 64)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("ul3", "ul3"),
        ("ul2=0", "positive"),
        ("R(3)", "R\\(3\\)"),
        ("ul2@x", "@"),
        ("S(0.9)", "0.9"),
        ("", "known"),
    ],
)
def test_a_bad_objective_is_told_in_one_sentence(text, word):
    with pytest.raises(ValueError, match=word):
        parse_objective(text)
