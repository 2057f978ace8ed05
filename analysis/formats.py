"""The files of a folder, read with the fields that a report cannot do without.

Whatever else is odd in a file is shown as it is; a file that lacks a field, or holds it in another kind,
raises ScalingError and becomes a problem on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from analysis.figures.memorization import KINDS
from scaling.errors import ScalingError
from scaling.files import Kinds, check_fields, read_json
from scaling.laws.fit import FORMAT, OTHER, Fit, load_fit
from scaling.planfiles import check_plan

Json = Mapping[str, Any]
NUMBER: Kinds = (int, float)

# What the report cannot do without, per format; a file that lacks it is reported as damaged.
NEEDED = {
    "scaling/sweep": ("design", "recipe", "data"),
    "scaling/isoflop": ("bands", "n_law", "d_law"),
    "scaling/plan": ("inputs", "convention", "optimum", "band", "shape", "tokens", "flops", "naive", "seal"),
    "scaling/verify": (
        "seal",
        "prediction",
        "allocation",
        "naive",
        "runs",
        "neighbours",
        "noise",
        "sentence",
    ),
}

SIDE: dict[str, Kinds] = {name: (list, type(None)) for name in ("a", "b", "n_opt", "d_opt")}
# What the files that a folder may have beside need to be of, for the page not to fall over them.
EXTRAS: dict[str, dict[str, Kinds]] = {
    "scaling/backtest": {"cuts": list, "drift": dict, "plan": (dict, type(None)), "target": (int, float)},
    "scaling/specification": {
        "plans": list, "drivers": list, "reference.params": (int, float), "target": (int, float),
    },
    "scaling/memorization": {"runs": list},
    FORMAT: {
        "guards": (dict, type(None)),
        **{f"guards.without.{k}": kind for k, kind in SIDE.items()},
        **{f"guards.all.{k}": kind for k, kind in SIDE.items()},
    },
}  # fmt: skip


def reader(format_name: str) -> Callable[[Path], Json]:
    """A function that reads a file of that format."""

    def read(path: Path) -> Json:
        value = read_json(path, expect=format_name)
        for field in NEEDED.get(format_name, ()):
            if field not in value:
                raise ScalingError(f"{path}: field {field!r} is missing.")
        check_fields(value, EXTRAS.get(format_name, {}), str(path))
        return value

    return read


def read_memorization(path: Path) -> Json:
    value = reader("scaling/memorization")(path)
    kinds: dict[str, Kinds] = dict.fromkeys(("repetitions", "rate", "rate_lo", "rate_hi"), (int, float))
    for run in value["runs"]:
        check_fields(run, {"params": int, "groups": list}, f"{path}, field 'runs'")
        for group in run["groups"]:
            check_fields(group, {**kinds, "kind": str}, f"{path}, field 'groups'")
    if not any(group["kind"] in KINDS for run in value["runs"] for group in run["groups"]):
        raise ScalingError(f"{path}: it tells of no canary; `scaling memorization RUN --out` writes it.")
    return value


def read_steering(path: Path) -> Json:
    """Rates of an attribute by the control token that texts were drawn under (benchmarks/control.py)."""
    value = read_json(path)
    check_fields(value, {"rates": dict, "in_data": dict, "times": NUMBER, "texts": int}, str(path))
    for name, found in value["rates"].items():
        where = f"{path}, field 'rates.{name}'"
        check_fields(found if isinstance(found, Mapping) else {}, {"rate": NUMBER, "interval": list}, where)
        _numbers(found["interval"], 2, where)
    _numbers(list(value["in_data"].values()), len(value["in_data"]), f"{path}, field 'in_data'")
    _numbers(value.get("times_interval"), 2, f"{path}, field 'times_interval'")
    if not {"high", "low"} <= set(value["rates"]):
        raise ScalingError(f"{path}: it tells of no texts drawn under a high and a low token.")
    return value


def read_positions(path: Path) -> Json:
    """Loss by the number of tokens before (`scaling eval --by-position --json`)."""
    value = read_json(path)
    check_fields(value, {"buckets": list, "context": int, "trained": int, "documents": int}, str(path))
    kinds: dict[str, Kinds] = {
        "first": int, "last": int, "bits_per_byte": NUMBER, "bits_per_byte_se": (int, float, type(None)),
    }  # fmt: skip
    for bucket in value["buckets"]:
        check_fields(bucket if isinstance(bucket, Mapping) else {}, kinds, f"{path}, field 'buckets'")
        if not 0 < bucket["first"] <= bucket["last"]:
            raise ScalingError(f"{path}: field 'buckets': positions run from 1 on, each bucket upwards.")
    if not value["buckets"]:
        raise ScalingError(
            f"{path}: field 'buckets' is empty; `scaling eval RUN TEXT --by-position` fills it."
        )
    return value


def _numbers(values: Any, count: int, where: str) -> None:
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(type(v) in (int, float) for v in values)
    ):
        raise ScalingError(f"{where}: {count} numbers are expected.")


def read_any_fit(path: Path) -> Fit | Json:
    """A fit of the p-norm family, or what the file says of another one; no law's own file is executed."""
    value = read_json(path, expect=FORMAT)
    law = value.get("law")
    if not (isinstance(law, Mapping) and law.get("family") in OTHER):
        return load_fit(path)
    kinds: dict[str, Kinds] = {
        **dict.fromkeys(("settings", "intervals", "certificate", "data", "forward"), dict), "notes": list,
        "noise": (int, float), "settings.family": str, "data.rows": int,
    }  # fmt: skip
    check_fields(value, kinds, str(path))
    return value


def read_plan(path: Path) -> Json:
    """A plan as it stands: the report says whether its seal holds."""
    plan = reader("scaling/plan")(path)
    check_plan(plan, str(path))
    return plan
