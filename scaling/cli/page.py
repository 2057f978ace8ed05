"""The help page of a verb: usage, what it does, arguments, options in groups, examples to copy.

Options stand in the groups that the verb names (`rich_help_panel`, or PANELS of its module) or that
their help begins with: "Slurm: time limit of a run" is one of `--engine slurm`. All of it is plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand

GROUPS = {
    "Local": "With --engine local",
    "Slurm": "With --engine slurm",
    "Ray": "With --engine ray",
    "External": "With --engine external",
    "Dry run": "With --dry-run",
}
KINDS = {"str": "TEXT", "path": "PATH", "int": "N", "float": "X"}
REST, OTHERS, ARGUMENTS = "Options", "Other options", "Arguments"


class VerbPage(TyperCommand):
    """A verb whose help is laid out by this module."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for parameter in self.params:
            if parameter.param_type_name == "argument" and parameter.metavar is None:
                parameter.metavar = (parameter.name or "").upper()

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces = [self.options_metavar] if self.options_metavar else []
        for parameter in self.params:
            if parameter.param_type_name == "argument":
                name = f"{parameter.metavar}{'...'[: 3 * (parameter.nargs != 1)]}"
                pieces.append(name if parameter.required else f"[{name}]")
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for group, name, text in records(self, ctx):
            groups.setdefault(group, []).append((name, text))
        rest, apart = groups.pop(REST, []), list(GROUPS.values())
        named = [title for title in groups if title not in apart]
        groups[other := OTHERS if set(named) - {ARGUMENTS} else REST] = rest
        for title in [*named, other, *(title for title in groups if title in apart)]:
            with formatter.section(title):
                formatter.write_dl(groups[title])


def records(command: Any, ctx: Any) -> Iterator[tuple[str, str, str]]:
    """(group, name, help) of every argument and option, in their order."""
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        name, text = labelled(record[0]), re.sub(r"(\S+)<=x<=(\S+)\]", r"\1 to \2]", record[1])
        text = re.sub(r"x>=(\S+)\]", r"at least \1]", text)
        if parameter.param_type_name == "argument":
            # That it is required is seen in the usage line, and what a folder or a file is, from its help.
            yield ARGUMENTS, name.partition(" ")[0], re.sub(r"\s*\[required\]$", "", text)
            continue
        begin, _, rest = text.partition(": ")
        if begin in GROUPS:
            yield GROUPS[begin], name, rest[0].upper() + rest[1:]
        else:
            yield getattr(parameter, "rich_help_panel", None) or REST, name, text


def labelled(name: str) -> str:
    """`--steps <int range>` as `--steps N`: types by the words of manual pages.

    >>> labelled("--steps <int range>"), labelled("--track <list[str]>"), labelled("--force <bool>")
    ('--steps N', '--track TEXT', '--force')
    """

    def word(found: re.Match[str]) -> str:
        kind = found[1].removesuffix(" range").removeprefix("list[").removesuffix("]")
        return "" if kind == "bool" else f" {KINDS.get(kind, kind)}"

    return re.sub(r"\s*<([^<>]*)>", word, name)
