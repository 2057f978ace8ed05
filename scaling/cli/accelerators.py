"""`scaling accelerators`: the catalogue of chips, each figure with its source."""

from __future__ import annotations

from typing import Annotated

import typer

from scaling.cli import output

COLUMNS = (
    ("bf16_tflops", "bf16 TFLOP/s"),
    ("fp8_tflops", "fp8"),
    ("memory_gb", "memory GB"),
    ("memory_tb_per_s", "TB/s"),
    ("intra_node_gb_per_s", "in node GB/s"),
    ("inter_node_gb_per_s", "between GB/s"),
    ("power_w", "W"),
    ("price_usd_per_hour", "$ per hour"),
)


def command(
    name: Annotated[
        str | None,
        typer.Argument(help="One chip, each figure with its source; or your own: FILE.toml[:NAME]."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the known accelerators, each figure with its source.

    Peaks are dense, bandwidths one-way and per chip; a figure without a source read is left empty.
    A chip of your own is a table of a TOML file: figures by the names that one chip's page shows, and
    like = NAME to start from a known chip.
    """
    from scaling.hardware.catalogue import FIGURES, catalogue, find_chip

    if name is not None:
        chip = find_chip(name)

        def render_one() -> None:
            output.table(
                ["figure", "value", "unit", "source", "date"],
                [
                    (figure, f"{f.value:g}", FIGURES[figure], f.source, f.date)
                    for figure, f in chip.figures.items()
                ],
                title=f"{chip.title} ({chip.name})" + (f": {chip.note}" if chip.note else ""),
            )
            missing = [figure for figure in FIGURES if figure not in chip.figures]
            if missing:
                output.console.print(f"no source read for {', '.join(missing)}")
            if chip.aliases:
                output.console.print(f"also known as {', '.join(chip.aliases)}")

        output.emit(chip.to_dict(), as_json, render_one)
        return

    chips = list(catalogue().values())

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:g}"

    def render() -> None:
        output.table(
            ["chip", *(label for _, label in COLUMNS), "name"],
            [(c.name, *(cell(c.figure(figure)) for figure, _ in COLUMNS), c.title) for c in chips],
        )
        output.console.print(
            "Dense peaks, one-way bandwidths per chip; `scaling accelerators NAME` names the sources."
        )

    output.emit({"accelerators": [c.to_dict() for c in chips]}, as_json, render)
