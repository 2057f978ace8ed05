"""Attributes that are measured exactly: `scaling data --control benchmarks/attributes.py:digits`."""


def digits(text: str) -> float:
    """Share of a text's characters that are decimal digits 0 to 9."""
    return sum(text.count(digit) for digit in "0123456789") / max(1, len(text))
