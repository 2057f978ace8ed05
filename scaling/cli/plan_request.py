"""What `scaling plan` was asked, turned into objects: limits of time, the cluster, and the law to plan by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.allocation import Needs
from scaling.buildable import padded_vocab
from scaling.cli import output
from scaling.errors import UsageError
from scaling.execution import Cluster
from scaling.laws.published import DEFAULT_LAW, find_law
from scaling.planner import fit_source, plan_fit, plan_published
from scaling.quantities import DAY, parse_count, parse_duration, parse_money, parse_number
from scaling.sizing import GENERIC_SEQ, GENERIC_VOCAB, generic_family
from scaling.sources import PublishedSource, Source

MOST_TOKENS = 10**9
MOST_CHIPS = 10**8


def parse_days(text: str) -> float:
    """`30` means days; with a unit it is any duration."""
    try:
        float(text)
    except ValueError:  # not a bare number: `1m` is a minute here, not a million days
        return parse_duration(text, "--days")
    return parse_number(text, "--days") * DAY


def parse_cluster(
    accelerator: str | None,
    chips: str | None,
    price: str | None,
    batch_tokens: str | None,
    profile: Path | None,
    utilisation: float | None,
) -> Cluster | None:
    """The hardware asked for; None without --accelerator."""
    count = None if chips is None else parse_count(chips, "--chips")
    if count is not None and count > MOST_CHIPS:
        raise UsageError(f"--chips {chips}: more than {MOST_CHIPS:g} chips do not exist.")
    dollars = None if price is None else parse_money(price, "--price")
    tokens = None if batch_tokens is None else parse_count(batch_tokens, "--batch-tokens")
    if accelerator is None:
        given: dict[str, object] = {"--chips": chips, "--price": price, "--batch-tokens": batch_tokens}
        given |= {"--utilisation": utilisation}
        named = [name for name, value in given.items() if value is not None]
        if named:
            raise UsageError(f"{' and '.join(named)} need --accelerator: time depends on the chip.")
        return None
    from scaling.hardware.catalogue import find_chip

    measured = None
    if profile is not None:
        from scaling.cli.estimate import read_probes

        measured = read_probes(profile)
    return Cluster(find_chip(accelerator), count, dollars, tokens, measured)


def parse_source(
    law: str | None,
    fit: Path | None,
    sweep: Path | None,
    convention: str | None,
    seq: str | None,
    vocab: str | None,
    waste: float,
    force: bool,
) -> tuple[Source, Callable[[float, Needs], dict[str, Any]], Path | None]:
    """The law to plan by, the function that plans a compute by it, and the sweep's folder if it has one."""
    named = [(n, v) for n, v in (("--law", law), ("--fit", fit), ("--sweep", sweep)) if v is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(n for n, _ in named)} exclude one another; give one of them.")
    length = None if seq is None else parse_count(seq, "--seq")
    if length is not None and length > MOST_TOKENS:
        raise UsageError(f"--seq {seq}: no model reads sequences of more than {MOST_TOKENS:g} tokens.")
    words = None if vocab is None else parse_count(vocab, "--vocab")
    if convention is not None and fit is None:
        raise UsageError("--convention goes with --fit; a published law or a sweep has its own.")
    generic = seq is not None or vocab is not None or convention is not None
    if sweep is not None and generic:
        raise UsageError("--seq and --vocab describe a generic shape; a sweep has its own shapes.")
    if fit is not None and fit.name == "fit.json" and not generic and (fit.parent / "sweep.json").exists():
        output.say(f"{fit} belongs to the sweep in {fit.parent}: its shapes and recipe are used")
        sweep = fit.parent
    if sweep is not None:
        from scaling.planfiles import sweep_source

        return *sweep_source(sweep, waste=waste, force=force), sweep
    if fit is not None:
        from scaling.laws.fit import load_fit

        loaded, family = load_fit(fit), None if words is None else generic_family(words)

        def by_fit(flops: float, needs: Needs) -> dict[str, Any]:
            return plan_fit(
                flops,
                loaded,
                family,
                convention=convention,
                seq=length,
                waste=waste,
                force=force,
                needs=needs,
            )

        return fit_source(loaded, family, None, convention, length, []), by_fit, None

    published = find_law(law or DEFAULT_LAW)
    length, words = length or GENERIC_SEQ, words or GENERIC_VOCAB

    def by_law(flops: float, needs: Needs) -> dict[str, Any]:
        return plan_published(
            flops, published, seq=length, vocab=words, waste=waste, force=force, needs=needs
        )

    return PublishedSource(published, length, padded_vocab(words)), by_law, None
