"""Attributes that are measured exactly: `scaling data --control benchmarks/attributes.py:top_level`."""


def top_level(text: str) -> float:
    """Share of a text's lines that are not indented, blank lines left out."""
    lines = [line for line in text.splitlines() if line.strip()]
    return sum(not line[0].isspace() for line in lines) / max(1, len(lines))
