"""What `scaling fit` and `scaling predict` say about surfaces beyond the p-norm family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scaling.cards import rows_and_runs
from scaling.cli import output
from scaling.errors import Refusal, ScalingError
from scaling.laws.constrained import CITATION
from scaling.laws.surface_fit import SurfaceFit
from scaling.quantities import format_count, format_flops, format_percent

GIVEN = {"params", "tokens", "flops", "unique_tokens"}  # columns that a budget alone can do without


def show_fit(fit: SurfaceFit, out: Path | None) -> None:
    record, proof, used = fit.record, fit.record["certificate"], fit.record["settings"]
    print(f"{fit.family} law from {rows_and_runs(record['data'])}, params counted as {used['count']}")
    ends, free = record["intervals"], fit.surface.free
    table = []
    for i, name in enumerate(fit.surface.names):
        held = "held" if not free[i] else f"{ends[name][0]:.4g} to {ends[name][1]:.4g}"
        table.append((name, f"{fit.vector[i]:.4g}", held))
    output.table(("parameter", "value", "90% interval"), table)
    if fit.law["family"] == "data-constrained" and not free[-2:].all():
        print(f"held constants: {CITATION}")
    labels = {"prior_free": "data alone", "with_prior": "with the prior"}
    if record["exponents"]:
        listed = [
            (labels[k], f"{e['a']:.3f}", f"{e['a_lo']:.3f} to {e['a_hi']:.3f}")
            for k, e in record["exponents"].items()
        ]
        output.table(("exponent of the optimum on fresh data", "N_opt ~ C^a", "90%"), listed)
    if set(fit.needs) <= GIVEN:
        _show_optima(fit)
    hit = ", ".join(proof["at_bounds"]) or "none"
    print(
        f"certificate: {proof['agree']} of {proof['starts']} starts agree, gradient {proof['grad_norm']:.1e},"
        f" condition number {proof['condition_number']:.2g}, bounds hit: {hit}"
    )
    print(f"objective {record['objective']:.10g} (Huber threshold {used['delta']:.3g} of log loss)")
    noise = format_percent(record["noise"])
    print(f"residual scale {noise} of the loss; intervals are {fit.inflation:.2f}x what the fit claims")
    for note in record["notes"]:
        print(f"note: {note}.")
    if out is not None:
        print(f"written: {out}")


def _show_optima(fit: SurfaceFit) -> None:
    flops = np.array([1.0, 10.0, 100.0]) * fit.record["c_max_6nd"]
    try:
        n, low, high, d = fit.optimum(flops)
    except Refusal as refusal:
        print(f"no best size: {refusal}")
        return
    loss, lo, hi = fit.predict({"params": n, "tokens": d})
    rows = []
    for i, (c, factor) in enumerate(zip(flops, (1, 10, 100), strict=True)):
        size = f"{format_count(n[i])} ({format_count(low[i])} to {format_count(high[i])})"
        spread = f"{loss[i]:.4f} ({lo[i]:.4f} to {hi[i]:.4f})"
        rows.append((f"{format_flops(c)} ({factor}x the largest run)", size, format_count(d[i]), spread))
    what = "6 N D" + ", no token repeated" * (fit.law["family"] == "data-constrained")
    output.table((what, "best params, 90%", "tokens", "loss of one new run, 90%"), rows)


def predict_rows(
    fit: SurfaceFit, rows: list[dict[str, Any]], level: float, source: str
) -> list[dict[str, float]]:
    """The predicted columns of each row: at params and tokens, or at the best size of flops."""
    added: list[dict[str, float]] = [{} for _ in rows]
    runs = [i for i, row in enumerate(rows) if {"params", "tokens"} <= set(row)]
    budgets = sorted(set(range(len(rows))) - set(runs))
    if runs:
        table = _columns(fit, rows, runs, source, ("params", "tokens"))
        _fill(added, runs, _losses(fit, table, level))
    if budgets:
        table = _columns(fit, rows, budgets, source, ("flops",))
        n, low, high, d = fit.optimum(table["flops"], {k: v for k, v in table.items() if k != "flops"}, level)
        best = {"n_opt": n, "n_opt_lo": low, "n_opt_hi": high, "d_opt": d}
        _fill(added, budgets, best | _losses(fit, table | {"params": n, "tokens": d}, level))
    return added


def _losses(fit: SurfaceFit, table: dict[str, Any], level: float) -> dict[str, Any]:
    loss, low, high = fit.predict(table, level)
    far = fit.extrapolation(table["params"], table["tokens"])
    return {"loss": loss, "loss_lo": low, "loss_hi": high, "extrapolation": far}


def _columns(
    fit: SurfaceFit, rows: list[dict[str, Any]], which: list[int], source: str, given: tuple[str, ...]
) -> dict[str, Any]:
    """Numbers of the chosen rows, column by column; unique_tokens absent means that none is repeated."""
    table: dict[str, Any] = {}
    constrained = fit.law["family"] == "data-constrained"
    for name in dict.fromkeys((*given, *fit.needs)):
        if name not in given and name in ("params", "tokens"):
            continue
        values = [rows[i].get(name) for i in which]
        if constrained and name == "unique_tokens":
            table[name] = np.array([np.inf if v is None else v for v in values])
        elif name == "flops" and name not in given:
            continue  # 6 N D, which the fit fills in
        elif None in values:
            line = rows[which[values.index(None)]]["line"]
            raise ScalingError(
                f"{source}, row at line {line}: the law in {fit.family} needs a number for {name!r}."
            )
        else:
            table[name] = np.array(values, dtype=np.float64)
    return table


def _fill(added: list[dict[str, float]], where: list[int], columns: dict[str, Any]) -> None:
    for name, values in columns.items():
        for i, value in zip(where, np.asarray(values).tolist(), strict=True):
            added[i][name] = value
