"""The three verbs of `import scaling` that take several kinds of law: predict, plan, published_laws.

They do what `scaling predict`, `scaling plan` and `scaling laws` do, and return tables and plans in place of
printing them. Quantities may be numbers or text as on the command line: "1e22", "10.7B", "30d", "$1M".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from scaling.errors import UsageError
from scaling.laws.fit import Fit, load_fit
from scaling.laws.published import DEFAULT_LAW, PublishedLaw, find_law
from scaling.laws.surface import floats
from scaling.plan_keys import DEFAULT_WASTE
from scaling.quantities import DAY, parse_count, parse_duration, parse_flops, parse_money
from scaling.seal import Plan

if TYPE_CHECKING:
    from scaling.allocation import Needs
    from scaling.sources import Source

Quantity = float | str
COMPARED_AT = 1e22  # FLOPs: where PaLM 2's study ends


def predict(
    fit: Fit | str | Path,
    params: ArrayLike | None = None,
    tokens: ArrayLike | None = None,
    *,
    flops: ArrayLike | None = None,
    level: float = 0.9,
) -> pd.DataFrame:
    """What a fit expects: of runs of stated `params` and `tokens`, or of the best run of stated `flops`.

    `fit` is a Fit or the path of its fit.json. Columns for runs: params, tokens, loss (nats per token),
    loss_lo, loss_hi (the interval of ONE NEW RUN at `level`) and extrapolation (6 N D over that of the
    largest run fitted). For budgets (6 N D = flops) also flops, and n_opt, n_opt_lo, n_opt_hi, d_opt in
    place of params and tokens. Raises UsageError where the arguments do not go together.

    >>> import scaling
    >>> fit = scaling.fit(scaling.Runs.from_frame(_example()), prior=None, family="chinchilla")
    >>> scaling.predict(fit, flops=[1e22]).round(3)[["loss", "extrapolation"]]
        loss  extrapolation
    0  2.141           10.0
    """
    law = fit if isinstance(fit, Fit) else load_fit(fit)
    if flops is not None:
        if params is not None or tokens is not None:
            raise UsageError("predict takes params and tokens, or flops alone, not both.")
        budgets = _positive(flops, "flops")
        n, low, high = law.n_opt(budgets, level)
        d = law.d_opt(budgets, level)[0]
        columns = {"flops": budgets, "n_opt": n, "n_opt_lo": low, "n_opt_hi": high, "d_opt": d}
    else:
        if params is None or tokens is None:
            raise UsageError("predict needs params and tokens, or flops.")
        try:
            n, d = np.broadcast_arrays(_positive(params, "params"), _positive(tokens, "tokens"))
        except ValueError:
            raise UsageError("predict needs as many params as tokens, or one of either.") from None
        columns = {"params": n, "tokens": d}
    columns |= dict(zip(("loss", "loss_lo", "loss_hi"), law.predict(n, d, level), strict=True))
    return pd.DataFrame(columns | {"extrapolation": law.extrapolation(n, d)})


def plan(
    flops: Quantity | None = None,
    by: Fit | PublishedLaw | str | Path | None = None,
    *,
    days: Quantity | None = None,
    usd: Quantity | None = None,
    loss: float | None = None,
    accelerator: str | None = None,
    chips: int | None = None,
    serve_tokens: Quantity | None = None,
    unique_tokens: Quantity | None = None,
    max_params: Quantity | None = None,
    convention: str | None = None,
    seq: int | None = None,
    vocab: int | None = None,
    waste: float = DEFAULT_WASTE,
    force: bool = False,
) -> Plan:
    """Size a run under everything that limits it, and seal what it predicts.

    At least one limit: `flops`, `days` on `chips` of an `accelerator`, `usd` (with an accelerator), or a
    target `loss` in nats per token. `by` is a Fit, the path of a fit.json or of a sweep's folder (then the
    plan can be launched), a PublishedLaw or its name; by default Besiroglu et al. 2024 (arXiv:2404.10102).
    `waste` is the share of compute that the range of sizes may waste. `convention`, `seq` and `vocab` are
    as in `scaling plan --help`. Raises Refusal where no honest plan exists (`force` plans all the same and
    marks it) and UsageError where the request makes no sense.

    >>> import scaling
    >>> plan = scaling.plan("1e22", "palm2")
    >>> f"{plan['optimum']['params']:.3g} parameters on {plan['optimum']['tokens']:.3g} tokens"
    '1.07e+10 parameters on 1.56e+11 tokens'
    >>> scaling.plan(days=30, accelerator="h100", chips=256)["budget"]["binding"]
    '--days'
    """
    from scaling.allocation import Needs
    from scaling.execution import Cluster
    from scaling.planner import Limits, plan_under

    limits = Limits(
        None if flops is None else parse_flops(flops, "flops"),
        None if days is None else _days(days),
        None if usd is None else parse_money(usd, "usd"),
        loss,
    )
    wanted = {"serve_tokens": serve_tokens, "unique_tokens": unique_tokens, "max_params": max_params}
    counts = {key: None if v is None else float(parse_count(v, key)) for key, v in wanted.items()}
    needs = Needs(counts["serve_tokens"] or 0.0, counts["unique_tokens"], counts["max_params"])
    cluster = None
    if accelerator is not None:
        from scaling.hardware.catalogue import find_chip

        cluster = Cluster(find_chip(accelerator), chips)
    elif chips is not None:
        raise UsageError("chips needs accelerator: time depends on the chip.")
    source, size = _source(by, convention, seq, vocab, waste, force)
    return Plan(plan_under(source, size, limits, needs, cluster))


def published_laws(flops: Quantity = COMPARED_AT) -> pd.DataFrame:
    """Every published law held here, and what it would train with `flops` in its own conventions.

    Indexed by name (for `find_law`). Columns: params, tokens, tokens_per_param, loss (NaN where the law
    names none; of its own data and tokenizer), count and flops (its conventions), evidence, citation.
    Sizes of different conventions do not compare: see docs/conventions.md.

    >>> import scaling
    >>> laws = scaling.published_laws(1e22)
    >>> laws.loc[["palm2", "besiroglu"], ["params", "tokens_per_param"]].map("{:.3g}".format)
                 params tokens_per_param
    palm2      1.07e+10             14.6
    besiroglu  9.05e+09             20.4
    """
    from scaling.laws.registry import LAWS

    budget = parse_flops(flops, "flops")
    rows = {}
    for name, law in LAWS.items():
        best = law.optimum(budget)
        rows[name] = {
            "params": best.params,
            "tokens": best.tokens,
            "tokens_per_param": best.tokens / best.params,
            "loss": np.nan if best.loss is None else best.loss,
            "count": law.count,
            "flops": law.flops,
            "evidence": law.evidence,
            "citation": law.citation,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _source(
    by: Fit | PublishedLaw | str | Path | None,
    convention: str | None,
    seq: int | None,
    vocab: int | None,
    waste: float,
    force: bool,
) -> tuple[Source, Callable[[float, Needs], dict[str, Any]]]:
    """The law to size runs by, and the function that plans a known compute by it."""
    from scaling.buildable import padded_vocab
    from scaling.planfiles import sweep_source
    from scaling.planner import fit_source, plan_fit, plan_published
    from scaling.sizing import GENERIC_SEQ, GENERIC_VOCAB, generic_family
    from scaling.sources import PublishedSource

    generic = not (convention is None and seq is None and vocab is None)
    if isinstance(by, Path) or (isinstance(by, str) and (by.endswith(".json") or Path(by).is_dir())):
        folder = Path(by) if Path(by).is_dir() else Path(by).parent
        of_sweep = Path(by).is_dir() or (Path(by).name == "fit.json" and (folder / "sweep.json").exists())
        if of_sweep and not generic:
            return sweep_source(folder, waste=waste, force=force)
        if Path(by).is_dir():
            raise UsageError("convention, seq and vocab describe a generic shape; a sweep has its own.")
        by = load_fit(by)
    if isinstance(by, Fit):
        fit, family = by, None if vocab is None else generic_family(vocab)

        def by_fit(flops: float, needs: Needs) -> dict[str, Any]:
            return plan_fit(
                flops, fit, family, convention=convention, seq=seq, waste=waste, force=force, needs=needs
            )

        return fit_source(fit, family, None, convention, seq, []), by_fit
    if convention is not None:
        raise UsageError("convention goes with a fit; a published law has its own.")
    law = by if isinstance(by, PublishedLaw) else find_law(by or DEFAULT_LAW)
    length, words = seq or GENERIC_SEQ, vocab or GENERIC_VOCAB

    def by_law(flops: float, needs: Needs) -> dict[str, Any]:
        return plan_published(flops, law, seq=length, vocab=words, waste=waste, force=force, needs=needs)

    return PublishedSource(law, length, padded_vocab(words)), by_law


def _days(value: Quantity) -> float:
    """Seconds; a bare number means days."""
    try:
        return float(value) * DAY
    except ValueError:
        return parse_duration(value, "days")


def _positive(values: ArrayLike, name: str) -> Any:
    found = np.atleast_1d(floats(values)).ravel()
    if not (np.isfinite(found) & (found > 0)).all():
        raise UsageError(f"{name} must be positive numbers, not {values!r}.")
    return found


def _example() -> pd.DataFrame:
    """Twenty noiseless runs of the law of Besiroglu et al., up to 1e21 FLOPs: for examples in docstrings."""
    law = find_law("besiroglu").surface
    assert law is not None
    budgets = np.repeat([1e19, 1e20, 1e21, 1e21 / 3], 5)
    n = law.optimum(budgets)[0] * np.tile([0.3, 0.6, 1.0, 1.7, 3.0], 4)
    d = budgets / (6 * n)
    return pd.DataFrame({"params": n, "tokens": d, "loss": law.loss(n, d)})
