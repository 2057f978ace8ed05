"""The IsoFLOP design: budgets met, optimum bracketed, no data repeated, nothing silently left out."""

import itertools
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.errors import ScalingError, UsageError
from scaling.files import dumps
from scaling.shape import ShapeFamily
from sweeps.design import Design, OptimumRule, extend, isoflop_design, make_cell

FAMILY = ShapeFamily(vocab=128)
SEQ, BATCH = 64, 4
RULE = OptimumRule(1e12, 80e3, 0.5)


def design(budgets=(1e11, 3e11, 1e12), **options):
    return isoflop_design(FAMILY, budgets, seq=SEQ, batch=BATCH, **{"rule": RULE, **options})


@settings(max_examples=40, deadline=None)
@given(
    exponents=st.lists(st.floats(11, 15), min_size=1, max_size=4, unique_by=lambda e: round(e, 1)),
    sizes=st.integers(3, 8),
    ratio=st.floats(1.5, 2.5),
)
def test_every_budget_is_met_within_a_step_and_bracketed(exponents, sizes, ratio):
    made = design([10**e for e in exponents], sizes=sizes, ratio=ratio)
    for budget in made.budgets:
        band = made.band(budget)
        for cell in band:
            step = cell.shape.flops_per_token(SEQ) * SEQ * BATCH
            assert abs(cell.flops(SEQ) - budget) <= step / 2 * (1 + 1e-9)
            assert cell.tokens == cell.steps * SEQ * BATCH
        params = [cell.shape.params() for cell in band]
        assert params[0] < RULE.params_at(budget) < params[-1]
        assert len({cell.id for cell in band}) == len(band) == len(set(params))


def test_the_grid_is_centred_and_shapes_are_shared():
    made = design(sizes=6)
    for budget in made.budgets:
        logs = [math.log(cell.shape.params()) for cell in made.band(budget)]
        step = max(b - a for a, b in itertools.pairwise(logs))
        assert abs(sum(logs) / len(logs) - math.log(RULE.params_at(budget))) < step
    shapes = {cell.shape for cell in made.cells}
    assert len(shapes) <= 9 < len(made.cells) == 18


def test_no_cell_repeats_data_and_the_shortfall_is_said():
    limit = 5_000_000
    made = design(unique_tokens=limit)
    assert all(cell.tokens <= limit for cell in made.cells)
    assert any("of 6 sizes" in note for note in made.notes) or len(made.cells) == 18
    with pytest.raises(ScalingError, match="not bracketed, no smaller size"):
        design([1e13], unique_tokens=200_000)


def test_cells_with_too_few_steps_are_not_bought():
    made = design(min_steps=300)
    assert min(cell.steps for cell in made.cells) >= 300


def test_seeds_per_budget():
    made = design(seeds=(3, 2, 1), sizes=4, first_seed=100)
    assert [len(made.band(budget)) for budget in made.budgets] == [12, 8, 4]
    assert {cell.seed for cell in made.band(1e11)} == {100, 101, 102}


def test_names_are_readable_and_the_round_trip_exact():
    made = design([1.5e11, 1e12], widths=(16, 24, 32, 48, 64, 96))
    assert made.cells[0].id == "c1.5e11-d16-s0"
    assert Design.from_dict(json.loads(dumps(made.to_dict()))) == made


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budgets": []}, "--budgets is empty"),
        ({"budgets": [-1e11]}, "not a positive number"),
        ({"budgets": [math.inf]}, "not a positive number"),
        ({"budgets": [1e11, 1e11]}, "given twice"),
        ({"budgets": [1e11, 1.0001e11]}, "first three digits"),
        ({"sizes": 2}, "at least 3 sizes"),
        ({"seeds": (1, 2)}, "one per budget"),
        ({"seeds": 0}, "positive number of seeds"),
        ({"first_seed": -1}, "--seed -1"),
        ({"widths": []}, "--widths is empty"),
        ({"widths": [15, 24, 32]}, "multiple of 8"),
        ({"ratio": 1.0}, "ratio above 1"),
    ],
)
def test_bad_requests_are_named(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        design(**{"budgets": (1e11, 3e11, 1e12), **options})


def test_a_band_whose_best_size_is_at_its_edge_gains_a_size_there():
    made = design([1e12], sizes=4)
    falling = {cell.id: 2.0 - 0.1 * i for i, cell in enumerate(made.band(1e12))}
    wider = extend(made, falling)
    assert len(wider.cells) == 5 and wider.band(1e12)[-1].shape.width > made.band(1e12)[-1].shape.width
    rising = {cell.id: 2.0 + 0.1 * i for i, cell in enumerate(made.band(1e12))}
    assert extend(made, rising).band(1e12)[0].shape.width < made.band(1e12)[0].shape.width
    inside = {cell.id: (i - 1.5) ** 2 for i, cell in enumerate(made.band(1e12))}
    assert extend(made, inside) is made


def test_extending_never_repeats_data():
    made = design([1e12], sizes=4)
    limited = Design.from_dict({**made.to_dict(), "unique_tokens": max(c.tokens for c in made.cells)})
    rising = {cell.id: 2.0 + 0.1 * i for i, cell in enumerate(limited.band(1e12))}
    wider = extend(limited, rising)
    assert wider.cells == limited.cells and "no further size" in wider.notes[-1]
    assert extend(wider, rising) is wider


def test_a_cell_has_at_least_one_step():
    assert make_cell(FAMILY.shape(512), 1.0, SEQ, BATCH, 0).steps == 1


def test_a_band_gains_two_sizes_at_most():
    made = design([1e12], sizes=4)
    for _ in range(5):
        made = extend(made, {cell.id: 2.0 - 0.1 * i for i, cell in enumerate(made.band(1e12))})
    assert len(made.cells) == 6 and "2 sizes were added already" in made.notes[-1]
