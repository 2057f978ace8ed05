"""Quantities: what people write is read, what we print can be read back, and nonsense is named."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling import quantities as q
from scaling.errors import UsageError

ROUNDING = 0.5001e-2  # three significant digits: at most half a unit in the third, relative to 1.00


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e22", 1e22),
        ("1E22", 1e22),
        ("10.7B", 10.7e9),
        ("10.7 B", 10.7e9),
        ("10.7b", 10.7e9),
        ("3G", 3e9),
        ("3.2T", 3.2e12),
        ("40k", 40_000),
        ("1_000", 1000),
        (".5M", 5e5),
        ("2.", 2),
        ("1e3k", 1e6),
        (" 7 ", 7),
        (7, 7),
        (2.5, 2.5),
    ],
)
def test_numbers_as_people_write_them(text, value):
    assert q.parse_number(text) == value  # exactly: 10.7B is the float nearest to 10.7e9


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "k", "1e", "e22", "1..2", "1,000", "10.7X", "10 7", "1__0", "_1", "0x10", "--", "ten"),
        *("nan", "inf", "1e999", "0", "-1e22", "1e22 flops per second", "\u0663", "1\u00b2"),
        *(True, None, math.nan, math.inf),
    ],
)
def test_nonsense_is_refused_with_the_name_and_the_value(text):
    with pytest.raises(UsageError) as caught:
        q.parse_number(text, "--flops")
    assert "--flops" in str(caught.value)
    assert str(text) in str(caught.value)


def test_zero_and_negative_are_allowed_where_asked():
    assert q.parse_number("0", positive=False) == 0
    assert q.parse_number("-2.5k", positive=False) == -2500


def test_counts_are_whole():
    assert q.parse_count("1.5k") == 1500
    assert isinstance(q.parse_count("10.7B"), int)
    with pytest.raises(UsageError, match="whole number"):
        q.parse_count("1.5", "--chips")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e22 FLOPs", 1e22), ("1e22flop", 1e22), ("1 PF-day", 8.64e19), ("2petaflop/s-days", 1.728e20)],
)
def test_flops_may_carry_their_unit(text, value):
    assert q.parse_flops(text) == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("90s", 90), ("15m", 900), ("15 min", 900), ("12h", 43200), ("30d", 2592000), ("2w", 1209600)),
        *(("1h30m", 5400), ("1 h 30 min", 5400), ("250 ms", 0.25), (60, 60)),
    ],
)
def test_durations(text, seconds):
    assert q.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["90", "", "h", "3 fortnights", "-1h", "1h-", "0s", "1h30"])
def test_a_duration_needs_a_unit_that_is_known(text):
    with pytest.raises(UsageError, match="--time"):
        q.parse_duration(text, "--time")


def test_money_and_bytes():
    assert q.parse_money("$1.5M") == q.parse_money("1500 k USD") == 1.5e6
    assert q.parse_bytes("80GB") == q.parse_bytes("80 G") == 80_000_000_000
    assert q.parse_bytes("1KiB") == 1024
    with pytest.raises(UsageError, match="dollars"):
        q.parse_money("€5")
    with pytest.raises(UsageError, match="80 Gbit"):
        q.parse_bytes("80 Gbit")


positive = st.floats(min_value=1e-3, max_value=1e17)


@given(st.floats(min_value=1, max_value=1e17))
def test_counts_survive_print_and_parse(value):
    assert q.parse_number(q.format_count(value)) == pytest.approx(value, rel=ROUNDING)


@given(st.floats(min_value=1, max_value=1e30))
def test_flops_survive_print_and_parse(value):
    assert q.parse_flops(q.format_flops(value)) == pytest.approx(value, rel=ROUNDING)


@given(positive.filter(lambda seconds: seconds < 1e12))
def test_durations_survive_print_and_parse(value):
    assert q.parse_duration(q.format_duration(value)) == pytest.approx(value, rel=ROUNDING)


@given(st.floats(min_value=0.01, max_value=1e15))
def test_money_survives_print_and_parse(value):
    assert q.parse_money(q.format_money(value)) == pytest.approx(value, rel=ROUNDING, abs=0.0051)


@given(st.floats(min_value=1, max_value=1e17), st.booleans())
def test_bytes_survive_print_and_parse(value, binary):
    read = q.parse_bytes(q.format_bytes(value, binary=binary))
    assert read == pytest.approx(value, rel=ROUNDING, abs=0.5)


@given(positive)
def test_printing_what_was_printed_changes_nothing(value):
    once = q.format_count(value)
    assert q.format_count(q.parse_number(once)) == once


@given(st.text())
def test_any_text_is_read_or_refused_in_one_sentence(text):
    for parse in (
        q.parse_number,
        q.parse_count,
        q.parse_flops,
        q.parse_duration,
        q.parse_money,
        q.parse_bytes,
    ):
        try:
            assert parse(text, "--x") > 0
        except UsageError as error:
            assert str(error).startswith("--x")


def test_a_missing_value_is_a_dash():
    for form in (
        q.format_count,
        q.format_flops,
        q.format_duration,
        q.format_money,
        q.format_bytes,
        q.format_percent,
    ):
        assert form(None) == form(math.nan) == "-"
