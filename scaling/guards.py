"""What can be wrong with a training run as evidence for a law: eight guards, told from its figures.

A run that trips an excluding guard is left out of the second fit of `scaling fit`, which stands beside the
fit of all rows; the others warn: they say what to look at, and leaving their runs out would not mend it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scaling.batching import too_large
from scaling.tables import number

if TYPE_CHECKING:
    import pandas as pd

    from scaling.tuning import Certificate

FEW_STEPS = 1000
WARMUP = 0.1
FINAL_RATE = 0.1
WASTE = 0.1  # of a recipe's rate, by its certificate: what costs a tenth of the compute is not tuned
SAME_TOKENS = 0.01  # rows within this share of each other trained for the same length
SHOWN = 6  # runs named behind a guard, where many trip it
SIBLINGS = 3  # rates from which on a best one can lie between two others


@dataclass(frozen=True)
class Guard:
    """`excludes`: whether the fit is made without such runs; `why` the threshold's source or reason."""

    name: str
    says: str
    excludes: bool
    why: str


_GUARDS = (
    Guard("diverged", "the loss stopped being finite", True, "it has no final loss"),
    Guard("unfinished", "stopped before its last planned token", True,
          "its rate had not fallen to its end (PaLM 2, arXiv:2305.10403, section 2.1)"),
    Guard("few-steps", f"under {FEW_STEPS:,} steps: its loss lies off the surface of longer runs", True,
          "measured on small byte-level models: shorter runs bend the law (docs/log.md)"),
    Guard("warmup-share", f"warmed up over more than {WARMUP:.0%} of its steps", True,
          "a warm-up that small runs feel moved Kaplan's exponent (Porian et al. 2024, arXiv:2406.19146); a "
          "tenth is the longest in a recipe whose law held at 300 times its compute (Delphi, 2026)"),
    Guard("not-decayed", f"ended at more than {FINAL_RATE:.0%} of its peak rate", True,
          "a tenth is where Hoffmann et al. 2022 end (arXiv:2203.15556); above it a loss is nearly that of a "
          "longer run cut short"),
    Guard("repeated-data", "read training tokens more than once", True,
          "the law of fresh tokens does not hold for it (Muennighoff et al. 2023, arXiv:2305.16264); laws "
          "with repetition keep such runs"),
    Guard("batch-above-critical", "its batch is above the critical one, or twice the largest published "
          "optimum, or the best ones that the tuning certificate found", False,
          "McCandlish et al. 2018, arXiv:1812.06162, and scaling.batching; published batch laws disagree by "
          "factors, so it warns"),
    Guard("lr-edge", "the best learning rate lies at the edge of those tried, or the certificate says that "
          f"the recipe's wastes over {WASTE:.0%}", False,
          "a law of untuned runs is tilted (Porian et al. 2024, arXiv:2406.19146); its siblings are as "
          "untuned, so it warns"),
)  # fmt: skip
GUARDS: Mapping[str, Guard] = {guard.name: guard for guard in _GUARDS}


def flags(run: Mapping[str, Any], certificate: Certificate | None = None) -> tuple[str, ...]:
    """The guards that one run trips, in the order of GUARDS.

    `run` holds what is known of it: status, steps, tokens, planned_tokens, unique_tokens, text_tokens (where
    symbols of an objective are among its tokens), warmup_steps, final_lr_share, batch (sequences), seq,
    params, loss. What is absent or no number trips nothing.
    """
    steps, tokens, params = (_number(run, name) for name in ("steps", "tokens", "params"))
    text = _number(run, "text_tokens")
    warmup, final = _number(run, "warmup_steps"), _number(run, "final_lr_share")
    tripped = {
        "diverged": str(run.get("status") or "").lower() == "diverged",
        "unfinished": tokens < _number(run, "planned_tokens"),
        "few-steps": steps < FEW_STEPS,
        "warmup-share": warmup > WARMUP * steps,
        "not-decayed": final > FINAL_RATE,
        "repeated-data": _number(run, "unique_tokens") < (tokens if math.isnan(text) else text - 1),
    }
    batch = _number(run, "batch") * _number(run, "seq")
    if all(value > 0 for value in (batch, params, tokens)):
        tripped["batch-above-critical"] = too_large(batch, params, tokens, _number(run, "loss"))
    if certificate is not None and params > 0:
        knobs = certificate.nearest(params)
        rate, size = knobs.knob("lr"), knobs.knob("batch")
        tripped["lr-edge"] = rate.verdict == "edge" or rate.waste_lo > WASTE
        beyond = size.hi is not None and size.hi < batch and size.waste_lo > 0
        tripped["batch-above-critical"] = tripped.get("batch-above-critical", False) or beyond
    return tuple(name for name in GUARDS if tripped.get(name))


def flags_of_table(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """The guards of every row: those written in its column `flags`, those its columns tell, and `lr-edge`
    where rows that differ in their learning rate have their best at the edge."""
    edges = rates_at_edge(table)
    found = []
    for row, edge in zip(_rows(table), edges, strict=True):
        written = str(row["flags"]).replace(",", ";").split(";") if isinstance(row.get("flags"), str) else []
        names = {name.strip() for name in written if name.strip()} | set(flags(row))
        found.append(ordered(names | {"lr-edge"} if edge else names))
    return found


def rates_at_edge(table: pd.DataFrame) -> list[bool]:
    """Whether a row belongs to runs alike but for their rate, three rates or more, the outermost best.

    Alike: size, length, and what the columns `batch`, `seq`, `weight_decay` and `knobs` say, where present.
    """
    at_edge = [False] * len(table)
    if "lr" not in table:
        return at_edge
    groups: dict[tuple[Any, ...], list[tuple[float, float, int]]] = {}
    for i, row in enumerate(_rows(table)):
        rate, loss = _number(row, "lr"), _number(row, "loss")
        if rate > 0 and loss > 0:
            length = round(math.log(row["tokens"]) / math.log1p(SAME_TOKENS))
            alike = (
                row["params"],
                length,
                *(str(row.get(name)) for name in ("batch", "seq", "knobs", "weight_decay")),
            )
            groups.setdefault(alike, []).append((rate, loss, i))
    for members in groups.values():
        losses: dict[float, list[float]] = {}
        for rate, loss, _ in members:
            losses.setdefault(rate, []).append(loss)
        best = min(losses, key=lambda rate: sum(losses[rate]) / len(losses[rate]))
        if len(losses) >= SIBLINGS and best in (min(losses), max(losses)):
            for _, _, i in members:
                at_edge[i] = True
    return at_edge


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Known guards first, in their order; then what others have written."""
    names = set(names)
    return (*(name for name in GUARDS if name in names), *sorted(names - set(GUARDS)))


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _number(values: Mapping[str, Any], name: str) -> float:
    return number(values.get(name))  # a cell of a CSV is text
