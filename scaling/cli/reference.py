"""The reference of the command line, made from the commands themselves: Markdown, or a manual page.

python -m scaling.cli.reference            Markdown on stdout
python -m scaling.cli.reference --man      the manual page: `man ./scaling.1`
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scaling import __version__
from scaling.cli.main import VERBS, load_verb
from scaling.cli.page import records

TITLE = "Command line"
ABOUT = (
    "Every verb prints for people, or with --json one JSON object on stdout and nothing else; progress and "
    "notes go to stderr. Exit status: 0 done, 1 refused or failed with a message, 2 wrong usage, 130 "
    "interrupted. --debug shows the traceback of an error. What takes more than two seconds says what it "
    "does and how long it will take: in place on a terminal, in few plain lines in a log; "
    "SCALING_PROGRESS=0 switches that off. `scaling --install-completion` sets up Tab for the shell it is "
    "called from (bash, zsh, fish), with the names of verbs, options, accelerators, laws, objectives and "
    "engines."
)


class Entry(NamedTuple):
    """One verb: how it is called, what it does, and (name, help) of its arguments and options."""

    name: str
    usage: str
    paragraphs: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    examples: tuple[str, ...]


def entries() -> Iterator[Entry]:
    for name in VERBS:
        command = load_verb(name)
        context = command.make_context(name, [], resilient_parsing=True)
        usage = " ".join(["scaling", name, *command.collect_usage_pieces(context)])
        paragraphs = [" ".join(p.split()) for p in inspect.cleandoc(command.help or "").split("\n\n")]
        shown = [p.strip() for p in (command.epilog or "").replace("\b", "").splitlines()]
        examples = [p.removeprefix("Example: ") for p in paragraphs if p.startswith("Example: ")]
        yield Entry(
            name,
            usage,
            tuple(p for p in paragraphs if p and not p.startswith("Example: ")),
            tuple((name, text) for _, name, text in records(command, context) if name != "-h, --help"),
            tuple(examples + [p for p in shown if p.startswith("scaling ")]),
        )


def markdown() -> str:
    """The reference as one Markdown page."""
    lines = [f"# {TITLE}", "", ABOUT]
    for entry in entries():
        lines += ["", f"## scaling {entry.name}", "", f"    {entry.usage}", ""]
        lines += [text for paragraph in entry.paragraphs for text in (paragraph, "")]
        lines += ["| | |", "|---|---|"]
        lines += [f"| `{name}` | {_cell(text)} |" for name, text in entry.parameters]
        if entry.examples:
            lines += ["", "Examples:", "", *(f"    {line}" for line in entry.examples)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def man_page() -> str:
    """The reference as a manual page of section 1."""
    lines = [f'.TH SCALING 1 "" "scaling {__version__}" "User Commands"', ".SH NAME"]
    lines += ["scaling \\- the model your compute budget should train", ".SH DESCRIPTION", _roff(ABOUT)]
    lines.append(".SH COMMANDS")
    for entry in entries():
        lines += [f".SS {_roff('scaling ' + entry.name)}", _roff(entry.usage)]
        for paragraph in entry.paragraphs:
            lines += [".PP", _roff(paragraph)]
        for name, text in entry.parameters:
            lines += [".TP", f".B {_roff(name)}", _roff(text)]
        if entry.examples:
            lines += [".PP", "Examples:", ".nf", *(_roff("  " + line) for line in entry.examples), ".fi"]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    """Text in which nothing is a request: backslashes and hyphens escaped, no dot or quote leads a line."""
    safe = " " * (len(text) - len(text.lstrip())) + " ".join(text.split())
    safe = safe.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + safe if safe[:1] in (".", "'") else safe


def main(arguments: Sequence[str]) -> int:
    sys.stdout.write(man_page() if "--man" in arguments else markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
