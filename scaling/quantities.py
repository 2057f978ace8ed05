"""Quantities as people write them: `1e22`, `10.7B`, `3.2T`, `30d`, `$1.5M`, `80GB`.

Every `parse_` function raises UsageError with a sentence that names the option (`what`) and the
value; every `format_` function prints three significant digits and shows `-` for a missing value.
Text that a `format_` function writes is text that its `parse_` function reads.

Units: counts are plain numbers (suffix k, M, B or G, T, P: powers of 1000), FLOPs are floating-point
operations (a PF-day is 8.64e19: 1e15 per second for a day), durations are seconds, money is US
dollars, sizes are bytes (kB, MB, GB: powers of 1000; KiB, MiB, GiB: powers of 1024).
"""

from __future__ import annotations

import math
import re

from scaling.errors import UsageError

POWER_OF_SUFFIX = {"": 0, "k": 3, "m": 6, "b": 9, "g": 9, "t": 12, "p": 15}
SUFFIXES = (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3))

SECOND = 1.0
MINUTE = 60.0
HOUR = 3600.0
DAY = 24 * HOUR
WEEK = 7 * DAY
YEAR = 365.25 * DAY
SECONDS_OF_UNIT = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), SECOND),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), MINUTE),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), HOUR),
    **dict.fromkeys(("d", "day", "days"), DAY),
    **dict.fromkeys(("w", "week", "weeks"), WEEK),
    **dict.fromkeys(("y", "yr", "year", "years"), YEAR),
}
PF_DAY = 1e15 * DAY

BYTES_OF_UNIT = {
    "": 1.0,
    "b": 1.0,
    **{
        unit: 1000.0 ** (power + 1) for power, letter in enumerate("kmgtp") for unit in (letter, f"{letter}b")
    },
    **{f"{letter}ib": 1024.0 ** (power + 1) for power, letter in enumerate("kmgtp")},
}

MISSING = "-"

_NUMBER = r"[+-]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([^\s\d].*?)?\s*", re.ASCII)
_DURATION_PART = re.compile(
    r"\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-z]+)\s*,?", re.ASCII | re.IGNORECASE
)


def _bad(what: str, text: object, expected: str) -> UsageError:
    return UsageError(f"{what}: {str(text)!r} is not {expected}.")


def _check(value: float, text: object, what: str, positive: bool) -> float:
    if not math.isfinite(value):
        raise UsageError(f"{what}: {str(text)!r} is not a finite number.")
    if positive and value <= 0:
        raise UsageError(f"{what} must be above zero; {str(text)!r} was given.")
    return value


def _split(text: str, what: str, expected: str) -> tuple[str, str]:
    """`"10.7 B"` -> (`"10.7"`, `"B"`)."""
    match = _QUANTITY.fullmatch(text)
    if match is None or match[1].startswith("_") or "__" in match[1]:
        raise _bad(what, text, expected)
    return match[1].replace("_", ""), (match[2] or "")


def _scaled(number: str, power: int) -> float:
    """number x 10^power, rounded once: 10.7 and 9 give exactly 10.7e9."""
    mantissa, _, exponent = number.lower().partition("e")
    return float(f"{mantissa}e{int(exponent or 0) + power}")


def parse_number(text: str | float, what: str = "value", positive: bool = True) -> float:
    """A number with an optional suffix k, M, B (or G), T or P.

    >>> parse_number("1e22"), parse_number("10.7B"), parse_number("1_000"), parse_number("40k")
    (1e+22, 10700000000.0, 1000.0, 40000.0)
    >>> parse_number("-3", "--flops")
    Traceback (most recent call last):
    scaling.errors.UsageError: --flops must be above zero; '-3' was given.
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return _check(float(text), text, what, positive)
    expected = "a number such as 1e22, 10.7B, 40k or 1_000"
    number, suffix = _split(str(text), what, expected)
    if suffix.lower() not in POWER_OF_SUFFIX:
        raise _bad(what, text, expected)
    return _check(_scaled(number, POWER_OF_SUFFIX[suffix.lower()]), text, what, positive)


def parse_count(text: str | float, what: str = "count", positive: bool = True) -> int:
    """A whole number of things: parameters, tokens, chips, steps.

    >>> parse_count("10.7B")
    10700000000
    """
    value = parse_number(text, what, positive)
    if not value.is_integer():
        raise _bad(what, text, "a whole number")
    return int(value)


def parse_flops(text: str | float, what: str = "--flops") -> float:
    """Floating-point operations; `FLOP` or `FLOPs` may follow, and `PF-days` are understood.

    >>> parse_flops("1e22"), parse_flops("5.76e23 FLOPs"), parse_flops("2 PF-days")
    (1e+22, 5.76e+23, 1.728e+20)
    """
    if isinstance(text, str):
        match = re.fullmatch(r"(.*?)\s*(flops?|(?:pf|petaflop/?s?)[-\s]?days?)\s*", text, re.IGNORECASE)
        if match is not None:
            scale = PF_DAY if match[2].lower().startswith("p") else 1.0
            return parse_number(match[1], what) * scale
    return parse_number(text, what)


def parse_mesh(text: str, what: str = "--mesh") -> dict[str, int]:
    """Devices along each axis of a mesh; an axis that is not named has one.

    >>> parse_mesh("data=2,fsdp=8")
    {'data': 2, 'fsdp': 8, 'tensor': 1}
    """
    ways = {"data": 1, "fsdp": 1, "tensor": 1}
    for part in text.split(","):
        axis, _, number = (word.strip() for word in part.partition("="))
        if axis not in ways or not number.isdecimal() or int(number) < 1:
            raise _bad(what, text, "devices along data, fsdp and tensor, such as data=2,fsdp=8")
        ways[axis] = int(number)
    return ways


def parse_duration(text: str | float, what: str = "duration") -> float:
    """Seconds, from `90s`, `15m`, `12h`, `30d`, `2w` or a sum such as `1h30m`; text needs a unit.

    >>> parse_duration("30d"), parse_duration("1h30m"), parse_duration("22.3 h")
    (2592000.0, 5400.0, 80280.0)
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return _check(float(text), text, what, positive=True)
    expected = "a duration with a unit, such as 90s, 15m, 12h, 30d or 1h30m"
    text = str(text)
    seconds, position = 0.0, 0
    while position < len(text.rstrip()):
        part = _DURATION_PART.match(text, position)
        if part is None or part[2].lower() not in SECONDS_OF_UNIT:
            raise _bad(what, text, expected)
        seconds += float(part[1]) * SECONDS_OF_UNIT[part[2].lower()]
        position = part.end()
    if position == 0:
        raise _bad(what, text, expected)
    return _check(seconds, text, what, positive=True)


def parse_money(text: str | float, what: str = "cost") -> float:
    """US dollars, from `$1.5M`, `1.5M`, `250 USD`.

    >>> parse_money("$1.5M"), parse_money("$2.10")
    (1500000.0, 2.1)
    """
    if isinstance(text, str):
        stripped = re.sub(r"\s*(usd|dollars?)\s*$", "", text.strip(), flags=re.IGNORECASE).removeprefix("$")
        try:
            return parse_number(stripped, what)
        except UsageError as error:
            if "must be above" in str(error):
                raise
            raise _bad(what, text, "an amount of US dollars such as $1.5M or 250") from None
    return parse_number(text, what)


def parse_bytes(text: str | float, what: str = "size") -> int:
    """Bytes, from `80GB` (powers of 1000), `16GiB` (powers of 1024) or a bare number.

    >>> parse_bytes("80GB"), parse_bytes("16 GiB")
    (80000000000, 17179869184)
    """
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return round(_check(float(text), text, what, positive=True))
    expected = "a size such as 80GB, 16GiB or 4096"
    number, unit = _split(str(text), what, expected)
    if unit.lower() not in BYTES_OF_UNIT:
        raise _bad(what, text, expected)
    return round(_check(float(number) * BYTES_OF_UNIT[unit.lower()], text, what, positive=True))


def _absent(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def _significant(value: float, digits: int) -> str:
    """`digits` significant digits, without exponent and without a fraction's trailing zeros.

    >>> _significant(10.70, 3), _significant(1234.0, 3), _significant(0.05, 3)
    ('10.7', '1230', '0.05')
    """
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{round(value, places):.{max(places, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_count(value: float | None, digits: int = 3) -> str:
    """
    >>> format_count(10.7e9), format_count(156.1e9), format_count(40_000), format_count(999_999)
    ('10.7B', '156B', '40k', '1M')
    """
    if _absent(value):
        return MISSING
    assert value is not None
    rounded = float(f"{value:.{digits - 1}e}")  # before the suffix is chosen: 999,999 is 1M, not 1000k
    for suffix, unit in SUFFIXES:
        if abs(rounded) >= unit:
            return f"{_significant(rounded / unit, digits)}{suffix}"
    return _significant(rounded, digits)


def format_flops(value: float | None, digits: int = 3) -> str:
    """
    >>> format_flops(1e22), format_flops(5.76e23), format_flops(29_999_999_999)
    ('1e22', '5.76e23', '3e10')
    """
    if _absent(value):
        return MISSING
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def format_duration(seconds: float | None, digits: int = 3) -> str:
    """
    >>> format_duration(80280), format_duration(90), format_duration(0.25), format_duration(30 * 86400)
    ('22.3 h', '1.5 min', '250 ms', '30 d')
    """
    if _absent(seconds):
        return MISSING
    assert seconds is not None
    rounded = float(f"{seconds:.{digits - 1}e}")
    # A unit takes over at the size where its number reads well: 60 s is 1 min, but a day and a half is 36 h.
    ladder = ((2 * YEAR, YEAR, "years"), (2 * DAY, DAY, "d"), (HOUR, HOUR, "h"), (MINUTE, MINUTE, "min"))
    for start, unit, name in ladder:
        if abs(rounded) >= start:
            return f"{_significant(seconds / unit, digits)} {name}"
    if abs(rounded) >= 1 or rounded == 0:
        return f"{_significant(rounded, digits)} s"
    return f"{_significant(rounded * 1e3, digits)} ms"


def format_money(dollars: float | None, digits: int = 3) -> str:
    """
    >>> format_money(1.5e6), format_money(12_340), format_money(950), format_money(2.1)
    ('$1.5M', '$12.3k', '$950', '$2.10')
    """
    if _absent(dollars):
        return MISSING
    assert dollars is not None
    sign = "-" if dollars < 0 else ""
    if abs(dollars) < 99.995:
        return f"{sign}${abs(dollars):.2f}"
    return f"{sign}${format_count(abs(dollars), digits)}"


def format_bytes(value: float | None, digits: int = 3, binary: bool = False) -> str:
    """
    >>> format_bytes(80e9), format_bytes(16 * 2**30, binary=True), format_bytes(512)
    ('80 GB', '16 GiB', '512 B')
    """
    if _absent(value):
        return MISSING
    assert value is not None
    base, ending = (1024.0, "iB") if binary else (1000.0, "B")
    for power, letter in ((5, "P"), (4, "T"), (3, "G"), (2, "M"), (1, "K" if binary else "k")):
        amount = value / base**power
        if abs(float(f"{amount:.{digits - 1}e}")) >= 1:
            return f"{_significant(amount, digits)} {letter}{ending}"
    return f"{_significant(value, digits)} B"


def format_percent(share: float | None, decimals: int = 1, signed: bool = False) -> str:
    """A share of one as a percentage.

    >>> format_percent(0.0234), format_percent(0.02, signed=True), format_percent(1)
    ('2.3%', '+2.0%', '100.0%')
    """
    if _absent(share):
        return MISSING
    assert share is not None
    return f"{100 * share:{'+' if signed else ''}.{decimals}f}%"
