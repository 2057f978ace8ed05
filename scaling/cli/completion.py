"""Shell completion of names: accelerators, laws, objectives, families and the like, read when Tab is pressed.

`scaling --install-completion` sets it up for the shell it is called from (bash, zsh, fish); the values come
from the same tables that the verbs read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Pair = tuple[str, str]  # a value and what it is


class Item(NamedTuple):
    """What a shell is offered, as typer's completion reads it."""

    value: str
    help: str | None = None
    type: str = "plain"


def data_verbs() -> Iterable[Pair]:
    """The second words of `scaling data`; files are completed where none of them fits."""
    from scaling.cli.main import VERBS

    return ((name.split()[1], verb.help) for name, verb in VERBS.items() if name.startswith("data "))


def accelerators() -> Iterable[Pair]:
    from scaling.hardware.catalogue import catalogue

    return ((name, chip.title) for name, chip in catalogue().items())


def laws() -> Iterable[Pair]:
    from scaling.laws.published import find_law, law_names

    return ((name, find_law(name).title) for name in law_names())


def objectives() -> Iterable[Pair]:
    from scaling.objective import OBJECTIVES

    return ((name, "") for name in OBJECTIVES)


def families() -> Iterable[Pair]:
    from scaling.laws.constrained_fit import BASES
    from scaling.laws.estimate import FREE

    return ((name, "") for name in (*FREE, *BASES))


def shape_families() -> Iterable[Pair]:
    from scaling.shape import FAMILIES

    return ((name, "") for name in FAMILIES)


def counts() -> Iterable[Pair]:
    from scaling.shape import COUNTS

    return ((name, "") for name in COUNTS)


def conventions() -> Iterable[Pair]:
    from scaling.shape import CONVENTIONS

    return ((name, "") for name in CONVENTIONS)


def engines() -> Iterable[Pair]:
    from scaling.cli.engines import ENGINES

    return ((name, "") for name in ENGINES)


def repetitions() -> Iterable[Pair]:
    from scaling.laws.constrained_fit import REPETITION

    return ((name, "") for name in REPETITION)


def trainers() -> Iterable[Pair]:
    from scaling.trainerfiles import WRITERS

    return ((f"{name}=", writer.title) for name, writer in WRITERS.items())


# (verb, parameter) before (parameter alone): `--family` is a law where runs are fitted, else an architecture.
VALUES: dict[tuple[str | None, str], Callable[[], Iterable[Pair]]] = {
    (None, "accelerator"): accelerators,
    ("accelerators", "name"): accelerators,
    ("plan", "law"): laws,
    ("laws", "name"): laws,
    (None, "objective"): objectives,
    ("fit", "family"): families,
    ("backtest", "family"): families,
    ("approaches", "family"): families,
    (None, "family"): shape_families,
    (None, "count"): counts,
    (None, "convention"): conventions,
    (None, "engine"): engines,
    (None, "repetition"): repetitions,
    ("plan", "write"): trainers,
    ("data", "source"): data_verbs,
}


def complete(verb: str, command: Any) -> Any:
    """The same command, whose parameters of known values complete to them."""
    for parameter in command.params:
        values = VALUES.get((verb, parameter.name)) or VALUES.get((None, parameter.name))
        if values is not None:
            parameter.shell_complete = _completer(values)
    return command


def _completer(values: Callable[[], Iterable[Pair]]) -> Callable[[Any, str], list[Item]]:
    def shell_complete(ctx: Any, incomplete: str) -> list[Item]:
        return [Item(value, said or None) for value, said in values() if value.startswith(incomplete)]

    return shell_complete
