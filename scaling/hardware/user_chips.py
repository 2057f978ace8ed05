"""Chips of the user's own, from a TOML file: a new card, a private cloud's price, a share of a chip.

    [lab_card]
    title = "Lab card"
    like = "h100"               # optional: the catalogue's figures, those below in their place
    bf16_tflops = 500
    memory_gb = 96
    price_usd_per_hour = 1.10
    source = "our quote"        # optional; the file's name otherwise
    date = "2026-11"            # optional

Wherever an accelerator is named, `chips.toml:lab_card` means this one, and `chips.toml` alone the only
chip of a file.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
from pathlib import Path
from typing import Any

from scaling.errors import ScalingError, UsageError
from scaling.files import read_bytes
from scaling.hardware.catalogue import FIGURES, Chip, Figure, find_chip

WORDS = ("title", "vendor", "note", "like", "source", "date")
NAMED = re.compile(r"(?P<path>.+\.toml)(?::(?P<name>.*))?", re.IGNORECASE)


def user_chip(text: str) -> Chip | None:
    """The chip that `FILE.toml` or `FILE.toml:NAME` means; None when `text` names no TOML file."""
    match = NAMED.fullmatch(text)
    if match is None:
        return None
    path, name = Path(match["path"]), match["name"]
    chips = read_chips(path)
    if not name:
        if len(chips) > 1:
            raise UsageError(
                f"{path} describes {', '.join(chips)}; say which, such as {path}:{next(iter(chips))}."
            )
        return next(iter(chips.values()))
    if name not in chips:
        near = difflib.get_close_matches(name, chips, n=3, cutoff=0.5) or list(chips)
        raise UsageError(f"{path} describes no accelerator {name!r}; did you mean {' or '.join(near)}?")
    return chips[name]


def read_chips(path: Path) -> dict[str, Chip]:
    """Every chip of a file, by the name of its table; errors name the file, the table and the field."""
    try:
        tables = tomllib.loads(read_bytes(path).decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScalingError(f"{path}: not valid TOML ({error}).") from None
    if not tables:
        raise ScalingError(f"{path}: describes no accelerator; a table such as [my_chip] is expected.")
    return {name: _chip(path, name, table) for name, table in tables.items()}


def _chip(path: Path, name: str, table: Any) -> Chip:
    where = f"{path}, accelerator {name!r}"
    if not isinstance(table, dict):
        raise ScalingError(f"{path}: field {name!r} stands outside a table; begin with a line [my_chip].")
    for field, value in table.items():
        if field in WORDS:
            if not isinstance(value, str) or not value:
                raise ScalingError(f"{where}: field {field!r} must be text, found {value!r}.")
        elif field not in FIGURES:
            near = difflib.get_close_matches(field, (*FIGURES, *WORDS), n=2, cutoff=0.5) or FIGURES
            raise ScalingError(f"{where}: unknown field {field!r}; did you mean {' or '.join(near)}?")
        elif not _positive(value):
            raise ScalingError(f"{where}: field {field!r} must be a number above 0, found {value!r}.")
    source, date = table.get("source", f"as given in {path.name}"), table.get("date", "undated")
    own = {f: Figure(float(table[f]), source, date) for f in FIGURES if f in table}
    base = None
    if "like" in table:
        try:
            base = find_chip(table["like"])
        except UsageError as error:
            raise ScalingError(f"{where}: field 'like': {error}") from None
    if base is None and not own:
        raise ScalingError(f"{where}: states no figure; give bf16_tflops, memory_gb, ... or like = NAME.")
    chip = base or Chip(name, name, "", (), "", {})
    return dataclasses.replace(
        chip,
        name=name,
        title=table.get("title", name),
        vendor=table.get("vendor", chip.vendor),
        aliases=(),
        note=table.get("note", "" if base is None else f"like {base.title}"),
        figures={**_kept(chip, own), **own},
    )


def _kept(base: Chip, own: dict[str, Figure]) -> dict[str, Figure]:
    """The catalogue's figures that still hold: not a market's spread of prices beside an own price."""
    spread = {"price_low_usd_per_hour", "price_high_usd_per_hour"} if "price_usd_per_hour" in own else set()
    # Another peak is another chip: what the first one did in other formats says nothing of this one.
    stale = {f for f in FIGURES if f.endswith("_tflops")} if "bf16_tflops" in own else set()
    return {f: value for f, value in base.figures.items() if f not in spread | stale}


def _positive(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    )
