"""The protocol's tables for people: Markdown, CSV, and the rows that the command line prints."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from scaling.quantities import format_count, format_flops, format_percent

BANDS = ("FLOPs", "runs", "N_opt", "90%", "D_opt", "loss", "N_opt, surface", "90%")
POINTS = (
    "FLOPs", "predicted N", "90%", "predicted D", "N, surface", "N at 20 tokens", "measured N", "90%",
    "best run", "waste of predicted N",
)  # fmt: skip
RUNS = ("FLOPs", "N", "D", "of predicted N", "predicted loss", "90%", "measured", "inside", "excess", "")
CSV = (
    "flops", "predicted_params", "predicted_params_lo", "predicted_params_hi", "params", "tokens", "steps",
    "predicted_loss", "predicted_loss_lo", "predicted_loss_hi", "loss", "seeds", "inside", "excess",
    "nearest", "won", "tied",
)  # fmt: skip


def band_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row per band, under `BANDS`."""
    return [
        (
            format_flops(band["budget"]),
            str(band["runs"]),
            format_count(band["params"]) if band["interior"] else band["note"],
            _range(band["params_lo"], band["params_hi"]),
            format_count(band["tokens"]),
            "" if band["loss"] is None else f"{band['loss']:.4f}",
            format_count(band["joint"]["params"]),
            _range(band["joint"]["params_lo"], band["joint"]["params_hi"]),
        )
        for band in found["bands"]
    ]


def point_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row per budget of the table, under `POINTS`."""
    rows: list[tuple[str, ...]] = []
    for point in found["points"]:
        said, measured, winner = point["predicted"], point["measured"], point["winner"]
        rows.append(
            (
                format_flops(point["flops"]) + ("" if point["band"] else " (beyond the bands)"),
                format_count(said["params"]),
                _range(said["params_lo"], said["params_hi"]),
                format_count(said["tokens"]),
                format_count(point["joint"]["params"]),
                format_count(point["thumb"]["params"]),
                format_count(measured["params"]) if measured["interior"] else "at an end",
                _range(measured["params_lo"], measured["params_hi"]),
                format_count(winner["params"]),
                f"{format_percent(measured['waste'])} ({format_percent(measured['waste_lo'])} to "
                f"{format_percent(measured['waste_hi'])})",
            )
        )
    return rows


def run_rows(point: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row per size at one budget of the table, under `RUNS`."""
    rows: list[tuple[str, ...]] = []
    for run in point["runs"]:
        said = run["prediction"]
        mark = "best" if run["won"] else "tie" if run["tied"] else "diverged" if run["loss"] is None else ""
        rows.append(
            (
                format_flops(point["flops"]),
                format_count(run["params"]),
                format_count(run["tokens"]),
                f"{run['factor']:.2f}" + (" (nearest)" if run["nearest"] else ""),
                f"{said['loss']:.4f}",
                f"{said['loss_lo']:.4f} to {said['loss_hi']:.4f}",
                "" if run["loss"] is None else f"{run['loss']:.4f}",
                "" if run["inside"] is None else "yes" if run["inside"] else "no",
                "" if run["excess"] is None else f"{run['excess']:.4f}",
                mark,
            )
        )
    return rows


def law_lines(found: Mapping[str, Any]) -> list[str]:
    """The laws in words: by the bands' minima, and by the surface through all runs."""
    laws, alone = found["laws"], found["joint"]["exponents"]["prior_free"]

    def law(name: str, letter: str) -> str:
        said = laws[name]
        return (
            f"{letter}_opt = {said['coefficient']:.4g} C^{said['exponent']:.3f} (exponent "
            f"{said['exponent_lo']:.3f} to {said['exponent_hi']:.3f})"
        )

    return [
        f"by the bands' minima: {law('params', 'N')}; {law('tokens', 'D')}",
        f"by the surface through all runs, without a prior: N_opt ~ C^{alone['a']:.3f} "
        f"({alone['a_lo']:.3f} to {alone['a_hi']:.3f}), D_opt ~ C^{alone['b']:.3f}",
    ]


def verdicts(found: Mapping[str, Any]) -> list[str]:
    """A sentence per budget: whether the size nearest to the prediction was the best."""
    said = []
    for point in found["points"]:
        best, flops = point["winner"]["params"], format_flops(point["flops"])
        nearest = next(run for run in point["runs"] if run["nearest"])
        if point["nearest_won"]:
            outcome = f"the size nearest to the prediction, {format_count(best)}, has the least loss"
        else:
            close = "within noise of it" if point["nearest_tied"] else "beyond noise"
            excess = "no loss" if nearest["excess"] is None else f"{nearest['excess']:.4f} nats more, {close}"
            outcome = (
                f"{format_count(best)} has the least loss; the size nearest to the prediction, "
                f"{format_count(nearest['params'])}, has {excess}"
            )
        said.append(f"{flops} FLOPs: {outcome}.")
    said.append(
        f"{found['inside']} of {found['predicted_runs']} losses lie inside their sealed 90% interval "
        f"(noise of one run {found['noise']['log_loss']:.4f} of log loss, by the {found['noise']['source']})."
    )
    return said


def markdown_of(found: Mapping[str, Any]) -> str:
    """protocol.md: laws, bands, the table and its verdicts."""
    parts = [
        "# PaLM 2's protocol on these runs",
        "Method: arXiv:2305.10403, section 2.1. N counts all parameters, FLOPs are "
        f"{found['convention']['flops']}, losses nats per token of held-out text, intervals 90%. Predictions "
        f"were sealed before the table's runs began ({found['seal'][:12]}).",
        "## Bands",
        _markdown(BANDS, band_rows(found)),
        "\n".join(f"- {line}" for line in law_lines(found)),
        "## Best sizes",
        _markdown(POINTS, point_rows(found)),
        "## Runs",
        _markdown(RUNS, [row for point in found["points"] for row in run_rows(point)]),
        "\n".join(f"- {line}" for line in [*verdicts(found), *_notes(found)]),
    ]
    return "\n\n".join(parts) + "\n"


def csv_of(found: Mapping[str, Any]) -> str:
    """protocol.csv: one row per size and budget of the table."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV)
    for point in found["points"]:
        said = point["predicted"]
        for run in point["runs"]:
            expected = run["prediction"]
            values = (
                point["flops"], said["params"], said["params_lo"], said["params_hi"],
                run["params"], run["tokens"], run["steps"],
                expected["loss"], expected["loss_lo"], expected["loss_hi"],
                run["loss"], len(run["loss_by_seed"]), run["inside"], run["excess"],
                run["nearest"], run["won"], run["tied"],
            )  # fmt: skip
            writer.writerow("" if value is None else value for value in values)
    return text.getvalue()


def _notes(found: Mapping[str, Any]) -> list[str]:
    return [note for point in found["points"] for note in point["notes"]]


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{format_count(low)} to {format_count(high)}"


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
