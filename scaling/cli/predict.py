"""`scaling predict`: losses and best sizes from a fit, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scaling.cli import output

if TYPE_CHECKING:
    from scaling.laws.fit import Fit

FAR = 1000.0  # times the largest run's compute: warned of
NONSENSE = 1e30  # refused: more compute than this is a slip of the pen


def command(
    fit: Annotated[Path, typer.Argument(help="fit.json, written by `scaling fit`.")],
    points: Annotated[
        Path, typer.Argument(help="Table with params and tokens, or with flops alone, in each row.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the table with the predictions (CSV).")
    ] = None,
    level: Annotated[float, typer.Option("--level", help="Level of the intervals.")] = 0.9,
    law: Annotated[
        Path | None, typer.Option("--law", help="The Python file of a law of your own; it is executed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as one JSON object.")] = False,
) -> None:
    """Predict the loss, or the best size, of runs from a fit.

    Rows with params and tokens get loss, loss_lo, loss_hi: the interval is that of one new run. Rows
    with flops alone get n_opt, n_opt_lo, n_opt_hi, d_opt and the loss there, under flops = 6 N D. A
    data-constrained law also reads unique_tokens (absent: no token is repeated), and a law of your
    own the columns it was fitted with.
    """
    import math

    from scaling.errors import ScalingError, UsageError
    from scaling.files import read_json, write_atomic
    from scaling.laws.fit import FORMAT, OTHER, load_fit

    if not 0 < level < 1:
        raise UsageError(f"--level must lie between 0 and 1, not {level!r}.")
    about = read_json(fit, expect=FORMAT).get("law")
    family = about.get("family") if isinstance(about, dict) else None
    if law is not None and family != "user":
        raise UsageError(f"--law serves the fit of a law of your own; {fit} is of the {family} family.")
    if family in OTHER:
        from scaling.cli.surface_page import predict_rows
        from scaling.laws.surface_fit import load_other

        surface = load_other(read_json(fit), str(fit), law)
        names, rows = _read_points(points, surface.needs)
        added = predict_rows(surface, rows, level, str(points))
    else:
        names, rows = _read_points(points)
        law_fit = load_fit(fit)
        added = _predict(law_fit, rows, level)
        if law_fit.count != "total" and any("n_opt" in a for a in added):
            output.say(
                f"note: a budget is 6 N D with N counted as {law_fit.count}, as in the fit; `scaling plan`"
                " charges a shape's other parameters too, so the same FLOPs buy fewer tokens there."
            )
    for row, a in zip(rows, added, strict=True):
        if not all(math.isfinite(v) and v > 0 for v in a.values()) or a["extrapolation"] > NONSENSE:
            raise ScalingError(
                f"{points}, line {row['line']}: lies over {NONSENSE:g} times beyond the largest run fitted,"
                " where no law says anything; look for a slip in params, tokens or flops."
            )
    if out is not None:
        write_atomic(out, _csv(names, rows, added))
    far = max((a.get("extrapolation", 0.0) for a in added), default=0.0)
    if far > FAR:
        output.say(f"warning: the farthest row has {far:.3g}x the compute of the largest run fitted.")
    output.emit(
        {"rows": [{**row["cells"], **a} for row, a in zip(rows, added, strict=True)], "level": level},
        as_json,
        lambda: _show(rows, added, out, level),
    )


def _read_points(path: Path, needs: Sequence[str] = ()) -> tuple[list[str], list[dict[str, Any]]]:
    """The table's column names; per row its cells and its numbers among params, tokens, flops, `needs`."""
    import math

    from scaling.errors import ScalingError
    from scaling.runs import NUMERIC, canonical
    from scaling.tables import missing, number, read_table

    raw = read_table(path)
    if raw.bad:
        line, why = raw.bad[0]
        raise ScalingError(f"{path}, {raw.unit} {line}: {why}.")
    place = {name: i for i, name in canonical(raw.names, str(path), required=())[0].items()}
    place = {name: i for i, name in enumerate(raw.names) if name in needs} | place
    rows: list[dict[str, Any]] = []
    for k, line in enumerate(raw.lines):
        row: dict[str, Any] = {
            "line": line,
            "cells": {n: c[k] for n, c in zip(raw.names, raw.columns, strict=True)},
        }
        for name in dict.fromkeys(("params", "tokens", "flops", *needs)):
            cell = raw.columns[place[name]][k] if name in place else None
            if missing(cell):
                continue
            value = number(cell)
            signed = name not in NUMERIC  # a column of the user's own law
            if not (math.isfinite(value) and (value > 0 or signed)):
                what = "finite" if signed else "positive"
                raise ScalingError(
                    f"{path}, {raw.unit} {line}: {name} must be a {what} number, not {cell!r}."
                )
            row[name] = value
        if not ({"params", "tokens"} <= set(row) or "flops" in row):
            raise ScalingError(f"{path}, {raw.unit} {line}: needs params and tokens, or flops.")
        rows.append(row)
    if not rows:
        raise ScalingError(f"{path}: the table has no rows.")
    return raw.names, rows


def _predict(fit: Fit, rows: list[dict[str, Any]], level: float) -> list[dict[str, float]]:
    import numpy as np

    out: list[dict[str, float]] = [{} for _ in rows]
    runs = [i for i, row in enumerate(rows) if {"params", "tokens"} <= set(row)]
    budgets = [i for i in range(len(rows)) if i not in set(runs)]
    if runs:
        n = np.array([rows[i]["params"] for i in runs])
        d = np.array([rows[i]["tokens"] for i in runs])
        columns = dict(zip(("loss", "loss_lo", "loss_hi"), fit.predict(n, d, level), strict=True))
        columns["extrapolation"] = fit.extrapolation(n, d)
        _spread(out, runs, columns)
    if budgets:
        c = np.array([rows[i]["flops"] for i in budgets])
        n, low, high = fit.n_opt(c, level)
        d = fit.d_opt(c, level)[0]
        columns = {"n_opt": n, "n_opt_lo": low, "n_opt_hi": high, "d_opt": d}
        columns |= dict(zip(("loss", "loss_lo", "loss_hi"), fit.predict(n, d, level), strict=True))
        columns["extrapolation"] = fit.extrapolation(n, d)
        _spread(out, budgets, columns)
    return out


def _spread(out: list[dict[str, float]], where: list[int], columns: dict[str, Any]) -> None:
    for name, values in columns.items():
        for i, value in zip(where, values.tolist(), strict=True):
            out[i][name] = value


def _csv(names: list[str], rows: list[dict[str, Any]], added: list[dict[str, float]]) -> str:
    """The given columns as they stood, then the predicted ones (a given column of that name gives way)."""
    import csv
    import io

    new = list(dict.fromkeys(key for a in added for key in a if key != "extrapolation"))
    kept = [name for name in names if name not in new]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*kept, *new])
    for row, a in zip(rows, added, strict=True):
        writer.writerow([row["cells"][n] for n in kept] + [f"{a[n]:.8g}" if n in a else "" for n in new])
    return stream.getvalue()


def _show(rows: list[dict[str, Any]], added: list[dict[str, float]], out: Path | None, level: float) -> None:
    from scaling.quantities import format_count, format_flops

    share = f"{100 * level:g}%"
    listed = []
    for row, a in zip(rows, added, strict=True):
        best = "n_opt" in a
        n, d = (a["n_opt"], a["d_opt"]) if best else (row["params"], row["tokens"])
        given = format_flops(row["flops"]) if best else "as given"
        span = f"{format_count(a['n_opt_lo'])} to {format_count(a['n_opt_hi'])}" if best else ""
        listed.append((
            given, format_count(n), span, format_count(d), f"{a['loss']:.4f}",
            f"{a['loss_lo']:.4f} to {a['loss_hi']:.4f}", f"{a['extrapolation']:.3g}x",
        ))  # fmt: skip
    head = ("optimum of", "params", share, "tokens", "loss", f"{share}, one new run", "of the largest fitted")
    output.table(head, listed)
    if out is not None:
        print(f"written: {out}")
