"""A fit beside itself: the same law from all rows, and without those that a guard has flagged.

Both sides answer what a plan asks: the exponents of the optimum, and the best size and tokens at a target.
Where they differ by more than their intervals, the flagged rows speak in the law.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from scaling.errors import ScalingError, UsageError
from scaling.guards import GUARDS, flags_of_table, ordered
from scaling.laws.fit import Fit
from scaling.laws.surface_fit import SurfaceFit
from scaling.runs import Runs

AnyFit = Fit | SurfaceFit
FAR = 100.0  # the target, where none is given: this times the largest run
REPETITION = "repeated-data"  # what laws with repetition are there to describe
ALONE = {"params", "tokens", "flops", "unique_tokens"}  # what an optimum at a target can do with


def excluding(family: str) -> tuple[str, ...]:
    """The flags whose rows are left out by default."""
    keeps = REPETITION if family.startswith("data-constrained") else None
    return tuple(name for name, guard in GUARDS.items() if guard.excludes and name != keeps)


def named(text: str | None, family: str) -> tuple[str, ...]:
    """`few-steps,lr-edge` as flags; None is the default. Raises UsageError for a name nobody knows."""
    if text is None:
        return excluding(family)
    names = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(names - set(GUARDS)):
        raise UsageError(f"--without {unknown[0]}: no such guard; known are {', '.join(GUARDS)}.")
    return ordered(names)


def with_and_without(
    runs: Runs,
    whole: AnyFit,
    refit: Callable[[Runs], AnyFit],
    excluded: Collection[str],
    target: float | None = None,
) -> dict[str, Any]:
    """The content of fit.json's field `guards`.

    `flags`: per guard how many rows carry it, and whether it left them out; `all` and `without`: rows,
    exponents a and b [value, lo, hi] of the data alone (None where the law has none), and at
    `target_flops` (6 N D) n_opt and d_opt [value, lo, hi]. `without` is None where no row was left out, or
    where the fit of the rest is refused: then `refused` says why.
    """
    found = flags_of_table(runs.table)
    keep = [not set(names) & set(excluded) for names in found]
    target = FAR * _largest(whole) if target is None else target
    without, refused = None, None
    if not all(keep):
        try:
            if not any(keep):
                raise ScalingError("every row is flagged.")
            without = _side(refit(runs.select(keep)), sum(keep), target)
        except ScalingError as error:
            refused = str(error)
    return {
        "target_flops": target,
        "excluded": list(excluded),
        "flags": _counts(runs, found, excluded),
        "left_out": len(keep) - sum(keep),
        "all": _side(whole, len(runs), target),
        "without": without,
        "refused": refused,
    }


def _counts(runs: Runs, found: list[tuple[str, ...]], excluded: Collection[str]) -> list[dict[str, Any]]:
    """Rows per flag; `never_read` counts those that reading the table left out for the same reason."""
    rows = Counter(name for names in found for name in names)
    bad = Counter(
        "diverged" if "diverged" in reason else "unfinished"
        for _, reason in runs.bad
        if "diverged" in reason or "not complete" in reason
    )
    return [
        {
            "flag": name,
            "says": GUARDS[name].says if name in GUARDS else "written in the table by somebody else",
            "why": GUARDS[name].why if name in GUARDS else "unknown here, so it warns",
            "rows": rows[name],
            "never_read": bad[name],
            "excluded": name in excluded,
        }
        for name in ordered({*rows, *bad})
    ]


def _side(fit: AnyFit, rows: int, target: float) -> dict[str, Any]:
    exponents = fit.exponents if isinstance(fit, Fit) else fit.record["exponents"]
    alone = exponents.get("prior_free") or next(iter(exponents.values()), None)
    said: dict[str, Any] = {"rows": rows}
    for name in ("a", "b"):
        known = alone is not None and name in alone
        said[name] = [alone[name], alone[f"{name}_lo"], alone[f"{name}_hi"]] if alone and known else None
    if isinstance(fit, Fit):
        size = [float(value) for value in fit.n_opt(target)]
    elif set(fit.needs) <= ALONE:
        size = [float(value[0]) for value in fit.optimum(target)[:3]]
    else:
        return said | {"n_opt": None, "d_opt": None}
    n, lo, hi = size
    return said | {"n_opt": size, "d_opt": [target / (6 * value) for value in (n, hi, lo)]}


def _largest(fit: AnyFit) -> float:
    return fit.c_max_6nd if isinstance(fit, Fit) else float(fit.record["c_max_6nd"])
