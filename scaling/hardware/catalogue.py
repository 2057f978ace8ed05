"""The accelerators that are known, as data: every figure with its source and date.

`chips.csv` names the chips and their aliases, `figures.csv` holds one figure a row. Peaks are dense
(never 2:4-sparse), bandwidths one-way; a figure that no source was read for is absent, not guessed.

Units: see `FIGURES`. Memory is the vendor's nominal number of GB (where the vendor says GiB the same
number, so a plan errs by 7% on the safe side).
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from scaling.errors import ScalingError, UsageError

# What a figure is called, and its unit as people read it.
FIGURES = {
    "bf16_tflops": "TFLOP/s, dense vendor peak",
    "fp16_tflops": "TFLOP/s, dense vendor peak",
    "fp8_tflops": "TFLOP/s, dense vendor peak",
    "tf32_tflops": "TFLOP/s, dense vendor peak",
    "fp32_tflops": "TFLOP/s, vendor peak",
    "bf16_measured_tflops": "TFLOP/s, best matrix product measured",
    "memory_gb": "GB",
    "memory_tb_per_s": "TB/s",
    "intra_node_gb_per_s": "GB/s one way, in a node or slice",
    "inter_node_gb_per_s": "GB/s one way, between nodes",
    "power_w": "W, rated where nothing else is noted",
    "price_usd_per_hour": "$ per chip-hour",
    "price_low_usd_per_hour": "$ per chip-hour, low end of the market",
    "price_high_usd_per_hour": "$ per chip-hour, high end of the market",
}
FOLDER = Path(__file__).parent
VENDOR_WORDS = {"nvidia", "google", "amd", "intel", "aws", "cloud", "instinct", "tesla", "habana"}


@dataclass(frozen=True)
class Figure:
    """One number about a chip; `date` is when the source was dated or read."""

    value: float
    source: str
    date: str


@dataclass(frozen=True)
class Chip:
    """An accelerator as its allocator counts it: one GPU, or one TPU chip."""

    name: str
    title: str
    vendor: str
    aliases: tuple[str, ...]
    note: str
    figures: Mapping[str, Figure]

    def figure(self, name: str) -> float | None:
        found = self.figures.get(name)
        return None if found is None else found.value

    @property
    def training_peak(self) -> tuple[float, str]:
        """Dense matrix-unit peak in FLOP/s and the number format it is of: bf16, or fp16 without it."""
        for form in ("bf16", "fp16"):
            value = self.figure(f"{form}_tflops")
            if value is not None:
                return value * 1e12, form
        raise ScalingError(f"{self.title}: no dense bf16 or fp16 peak is known, so no time can be estimated.")

    def to_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "title": self.title,
            "vendor": self.vendor,
            "aliases": list(self.aliases),
            "note": self.note,
            "figures": {
                name: {"value": f.value, "source": f.source, "date": f.date}
                for name, f in self.figures.items()
            },
        }


def _rows(name: str) -> Iterator[dict[str, str]]:
    with open(FOLDER / name, encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


@cache
def catalogue() -> dict[str, Chip]:
    """All known chips by name, in the order of the data file."""
    figures: dict[str, dict[str, Figure]] = {}
    for row in _rows("figures.csv"):
        chip = figures.setdefault(row["chip"], {})
        chip[row["figure"]] = Figure(float(row["value"]), row["source"], row["date"])
    return {
        row["chip"]: Chip(
            name=row["chip"],
            title=row["title"],
            vendor=row["vendor"],
            aliases=tuple(filter(None, row["aliases"].split(";"))),
            note=row["note"],
            figures=figures.get(row["chip"], {}),
        )
        for row in _rows("chips.csv")
    }


def _spelling(text: str) -> str:
    """`NVIDIA H100-SXM` -> `h100sxm`: what two spellings of one chip have in common."""
    words = [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]
    return "".join(word for word in words if word not in VENDOR_WORDS)


@cache
def _index() -> dict[str, str]:
    index: dict[str, str] = {}
    for chip in catalogue().values():
        for spelling in (chip.name, chip.title, *chip.aliases):
            index.setdefault(_spelling(spelling), chip.name)
    return index


def find_chip(name: str) -> Chip:
    """The chip of this name or alias; an unknown one is an error that lists near names, never a fallback.

    `FILE.toml:NAME` is a chip of the user's own (see `scaling.hardware.user_chips`).

    >>> find_chip("a100-80gb").name, find_chip("H100 SXM").name, find_chip("TPU v5p").name
    ('a100_80gb', 'h100', 'v5p')
    """
    if ".toml" in name.lower():
        from scaling.hardware.user_chips import user_chip  # it starts from this catalogue

        own = user_chip(name)
        if own is not None:
            return own
    index = _index()
    wanted = _spelling(name)
    if wanted in index:
        return catalogue()[index[wanted]]
    near = difflib.get_close_matches(wanted, index, n=6, cutoff=0.5)
    near += [spelling for spelling in index if len(wanted) >= 2 and wanted in spelling]
    names = list(dict.fromkeys(index[spelling] for spelling in near))[:4] if wanted else []
    hint = f"did you mean {' or '.join(names)}?" if names else f"known are {', '.join(catalogue())};"
    raise UsageError(
        f"accelerator {name!r} is not in the catalogue; {hint} (a chip of your own: FILE.toml:NAME)"
    )
