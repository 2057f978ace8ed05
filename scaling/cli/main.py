"""The `scaling` command: a static table of verbs, each imported only when it is called.

`scaling --help` reads nothing but the table, so it costs no numpy, no pandas and no JAX. A verb is
a module with one function `command`, annotated for typer; its docstring is its help.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from scaling import __version__
from scaling.cli.completion import complete
from scaling.cli.page import VerbPage
from scaling.cli.usage import described
from scaling.errors import Interrupted, ScalingError, UsageError

PAGE = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
INTERRUPTED = 130  # what a shell reports after Ctrl-C: 128 + SIGINT


class Verb(NamedTuple):
    section: str
    module: str
    help: str


VERBS: dict[str, Verb] = {
    "quickstart": Verb("Start here", "quickstart", "Run the whole loop on this machine in minutes."),
    "examples": Verb("Start here", "examples", "Write example runs and three notebooks."),
    "data": Verb("Measure", "data", "Turn text into a token folder: split, tokenised, hashed."),
    "data build": Verb("Measure", "data_build", "Clean, de-duplicate and tokenise text, with a data card."),
    "data pairs": Verb("Measure", "data_pairs", "Turn pairs of source and target texts into tokens."),
    "sweep": Verb("Measure", "sweep", "Train the small runs of a design; resumes where it stopped."),
    "status": Verb("Measure", "status", "Show how far a sweep has come, and what failed."),
    "protocol": Verb("Measure", "protocol", "Run PaLM 2's scaling study, its Table 1 included."),
    "next": Verb("Measure", "next", "Propose the runs that most reduce the plan's expected waste."),
    "run-cell": Verb("Measure", "run_cell", "Train the one run a folder describes (engines call this)."),
    "table": Verb("Fit", "table", "Read any tool's run tables, check them, write them as one."),
    "fit": Verb("Fit", "fit", "Fit a loss law to a table of runs, with intervals."),
    "predict": Verb("Fit", "predict", "Predict the loss, or the best size, of runs from a fit."),
    "backtest": Verb("Fit", "backtest", "Refit below each compute cut and score the dearer runs."),
    "approaches": Verb("Fit", "approaches", "Compare Approaches 1, 2 and 3 and their biases."),
    "choices": Verb("Fit", "choices", "Show how the plan depends on the analyst's choices."),
    "gain": Verb("Fit", "gain", "Say how much compute recipe B saves over A."),
    "laws": Verb("Plan", "laws", "List the published laws, with citations and conventions."),
    "accelerators": Verb("Plan", "accelerators", "List the known accelerators, each figure with its source."),
    "calibrate": Verb("Plan", "calibrate", "Time a few real steps on this machine: its own profile."),
    "estimate": Verb("Plan", "estimate", "Estimate step time, MFU and memory of stated layouts."),
    "plan": Verb("Plan", "plan", "Size a run for a compute budget and seal its prediction."),
    "launch": Verb("Check", "launch", "Train exactly the planned run, and its confirmation runs."),
    "verify": Verb("Check", "verify", "Score the sealed prediction against the outcome."),
    "report": Verb("Check", "report", "Write one self-contained report.html and its figures."),
    "finetune": Verb("Use", "finetune", "Train a model further, on other data or a longer context."),
    "generate": Verb("Use", "generate", "Continue a text with a trained run's model."),
    "eval": Verb("Use", "eval", "Score any text: bits per byte and nats per token."),
    "memorization": Verb("Use", "memorization", "Ask models for the canaries planted in their data."),
    "export": Verb("Use", "export", "Write the model as a Hugging Face folder."),
    "import": Verb("Use", "import_model", "Read a Hugging Face folder back into a model folder."),
}


def load_verb(name: str) -> Any:
    """The command of verb `name`; this is the moment its module is imported."""
    module = importlib.import_module(f"scaling.cli.{VERBS[name].module}")
    verb_app = typer.Typer(add_completion=False, rich_markup_mode=None)
    text, end = described(name, module.command.__doc__, getattr(module, "EPILOG", None))
    page = verb_app.command(name=name, cls=VerbPage, context_settings=PAGE, help=text, epilog=end)
    page(module.command)
    command: Any = typer.main.get_command(verb_app)
    panels = {option: title for title, names in getattr(module, "PANELS", {}).items() for option in names}
    for parameter in command.params:
        parameter.rich_help_panel = panels.get(parameter.name, parameter.rich_help_panel)
    return complete(name, with_progress(name, command))


def with_progress(name: str, command: Any) -> Any:
    """The same command, which shows how its work comes along."""
    invoke = command.invoke

    def shown_invoke(ctx: Any) -> Any:
        from scaling.cli.progress import shown

        with shown(name):
            return invoke(ctx)

    command.invoke = shown_invoke
    return command


class LazyVerbs(TyperGroup):
    """A command group that knows its verbs by name and loads one only to run it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load_verb(cmd_name) if cmd_name in VERBS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if " ".join(args[:2]) in VERBS:  # a verb of two words
            args = [" ".join(args[:2]), *args[2:]]
        if args and args[0] not in VERBS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise UsageError(unknown_verb(args[0]))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # caught here because typer would end the program without a word
            print_line("interrupted: what was finished is kept; the same command resumes.")
            raise typer.Exit(INTERRUPTED) from None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help text from the static table: no verb is imported to describe it."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        for section in dict.fromkeys(verb.section for verb in VERBS.values()):
            with formatter.section(section):
                rows = [(f"{name:<12}", verb.help) for name, verb in VERBS.items() if verb.section == section]
                formatter.write_dl(rows)
        with formatter.section("Options"):
            records = (parameter.get_help_record(ctx) for parameter in self.get_params(ctx))
            formatter.write_dl([record for record in records if record])
        formatter.write("\nEvery verb takes --help and --json (one JSON object on stdout).\n")


def unknown_verb(name: str) -> str:
    near = difflib.get_close_matches(name, VERBS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(VERBS)}."
    return f"there is no verb {name!r}; {hint}"


app = typer.Typer(
    cls=LazyVerbs,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=PAGE,
)


def print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scaling {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def scaling(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (or SCALING_DEBUG=1).")
    ] = False,
) -> None:
    """Find the model your compute budget should train, from small runs of your own.

    Small runs are trained, a loss law is fitted, a larger run is sized with an honest interval,
    trained by the same code, and the prediction is checked.
    """
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def print_line(text: str) -> None:
    """One line on stderr; a closed stderr is nobody's problem."""
    with contextlib.suppress(OSError, ValueError):
        print(" ".join(text.split()), file=sys.stderr, flush=True)


def split_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Take `--debug` out wherever it stands, so that it may also be typed after the verb."""
    ahead = list(arguments)
    rest = ahead[ahead.index("--") :] if "--" in ahead else []
    ahead = ahead[: len(ahead) - len(rest)]
    debug = "--debug" in ahead or os.environ.get("SCALING_DEBUG", "").lower() in ("1", "true", "yes", "on")
    return [argument for argument in ahead if argument != "--debug"] + rest, debug


# How the parser of numbers says what it wanted, and how people say it.
WANTED = {
    "Input should be a valid integer, unable to parse string as an integer": "a whole number is needed.",
    "Input should be a valid number, unable to parse string as a number": "a number is needed.",
    "Input should be greater than or equal to": "what is needed is at least",
    "Input should be less than or equal to": "what is needed is at most",
}


def complaint(error: Any) -> str:
    """What typer says of the command line; of something that is missing, what it would be."""
    said, what = error.format_message(), getattr(getattr(error, "param", None), "help", None)
    for theirs, ours in WANTED.items():
        said = said.replace(theirs, ours)
    return f"{said.rstrip('.')}: {what}" if what and said.startswith("Missing") else said


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 refused or failed, 2 wrong usage."""
    arguments, debug = split_debug(sys.argv[1:] if arguments is None else arguments)

    def fail(status: int, message: str) -> int:
        if debug:
            traceback.print_exc()
        print_line(f"error: {message}")
        return status

    try:
        outcome = typer.main.get_command(app).main(arguments, prog_name="scaling", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except Interrupted as stop:
        print_line(str(stop))
        return stop.exit_status
    except ScalingError as error:
        return fail(error.exit_status, str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except OSError as error:  # a read-only folder, a full disk, a file where a folder should be
        where = f"{error.filename}: " if error.filename else ""
        return fail(1, f"{where}{error.strerror or error}.")
    except Exception as error:  # the last line of defence: nobody should meet a traceback unasked
        if hasattr(error, "format_message"):  # typer's own complaints about the command line
            where = getattr(getattr(error, "ctx", None), "command_path", "scaling")
            return fail(int(getattr(error, "exit_code", 2)), f"{complaint(error)} (see: {where} --help)")
        return fail(1, f"unexpected {type(error).__name__}: {error} (rerun with --debug for the traceback)")


if __name__ == "__main__":
    sys.exit(main())
