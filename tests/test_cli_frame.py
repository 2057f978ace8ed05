"""The command's frame: one sentence for an error, the right exit status, help without imports."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
import types
from typing import Annotated

import pytest
import typer

import scaling
from scaling.cli import main as frame
from scaling.cli import output
from scaling.errors import Refusal, ScalingError, UsageError


@pytest.fixture
def verb(monkeypatch):
    """A stand-in verb `plan`, whose body is the given function."""

    def install(body):
        def command(
            flops: Annotated[float, typer.Option()] = 1.0,
            json: Annotated[bool, typer.Option("--json")] = False,
        ):
            """A stand-in."""
            return body(flops, json)

        module = types.ModuleType("scaling.cli.plan")
        module.command = command
        monkeypatch.setitem(sys.modules, "scaling.cli.plan", module)

    monkeypatch.delenv("SCALING_DEBUG", raising=False)
    return install


def raising(error):
    def body(*_):
        raise error

    return body


def test_version_and_help(capsys):
    assert frame.main(["--version"]) == 0
    assert capsys.readouterr().out == f"scaling {scaling.__version__}\n"
    for arguments in (["--help"], ["-h"], []):
        assert frame.main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(name in shown for name in frame.VERBS)


def test_help_fits_a_terminal(capsys):
    frame.main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("error", "status"), [(ScalingError("no."), 1), (Refusal("no."), 1), (UsageError("no."), 2)]
)
def test_an_expected_error_is_one_line(verb, capsys, error, status):
    verb(raising(error))
    assert frame.main(["plan"]) == status
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err == "error: no.\n"


def test_a_message_of_several_lines_becomes_one(verb, capsys):
    verb(raising(ScalingError("first\n  second [bold]third[/bold]")))
    assert frame.main(["plan"]) == 1
    assert capsys.readouterr().err == "error: first second [bold]third[/bold]\n"


def test_an_unexpected_error_hides_its_traceback_until_asked(verb, capsys, monkeypatch):
    verb(raising(ZeroDivisionError("oops")))
    assert frame.main(["plan"]) == 1
    seen = capsys.readouterr().err
    assert "oops" in seen
    assert "--debug" in seen
    assert "Traceback" not in seen
    for arguments in (["--debug", "plan"], ["plan", "--debug"]):
        assert frame.main(arguments) == 1
        assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("SCALING_DEBUG", "1")
    assert frame.main(["plan"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_says_that_the_same_command_resumes(verb, capsys):
    verb(raising(KeyboardInterrupt()))
    assert frame.main(["plan"]) == 130
    assert "same command resumes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--nope"], ["plan", "--nope"], ["plan", "--flops", "x"], ["plan", "extra"]]
)
def test_wrong_usage_is_status_2_and_names_the_help(verb, capsys, arguments):
    verb(lambda *_: None)
    assert frame.main(arguments) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("error: ")
    assert "--help" in seen.err
    assert seen.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep"], "Missing argument 'FOLDER': Folder of the sweep; made if it is not there."),
        (["fit", "x.csv", "--seed", "x"], "'--seed': a whole number is needed."),
        (["next", "x", "--target", "1", "--batch", "0"], "'--batch': what is needed is at least 1"),
    ],
)
def test_wrong_usage_says_what_is_wanted(capsys, arguments, said):
    assert frame.main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", frame.VERBS)
def test_the_help_of_a_verb_fits_and_its_examples_can_be_copied(name, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert frame.main([name, "--help"]) == 0
    page, _, examples = capsys.readouterr().out.partition("Examples:\n")
    assert max(map(len, page.splitlines())) <= columns
    assert page.startswith(f"Usage: scaling {name} ") and "<" not in page.partition("\n\n")[2]
    assert all(line.startswith("    scaling ") for line in examples.splitlines())  # each whole, on one line
    assert "\x1b" not in page and "\u2500" not in page


def test_options_of_an_engine_stand_together_after_the_others(capsys):
    assert frame.main(["sweep", "--help"]) == 0
    page = capsys.readouterr().out
    order = [page.index(title) for title in ("What is trained:", "Other options:", "With --engine slurm:")]
    assert order == sorted(order)
    assert "--slurm-cpus N" in page[order[-1] :] and "Slurm: " not in page


def test_an_unknown_verb_gets_near_names(capsys):
    assert frame.main(["paln", "--flops", "1e22"]) == 2
    assert "plan" in capsys.readouterr().err
    assert frame.main(["zzz"]) == 2
    assert "known are" in capsys.readouterr().err


def test_a_verb_may_choose_its_exit_status(verb):
    verb(raising(typer.Exit(1)))
    assert frame.main(["plan"]) == 1
    verb(raising(SystemExit(3)))
    assert frame.main(["plan"]) == 3


def test_json_is_one_object_on_stdout_and_notes_go_to_stderr(verb, capsys):
    def body(flops, as_json):
        output.say("working on [/it]")
        output.emit({"flops": flops, "nothing": float("nan")}, as_json, lambda: print("for people"))

    verb(body)
    assert frame.main(["plan", "--json", "--flops", "2"]) == 0
    seen = capsys.readouterr()
    assert json.loads(seen.out) == {"flops": 2.0, "nothing": None}
    assert seen.err == "working on [/it]\n"
    assert frame.main(["plan"]) == 0
    assert capsys.readouterr().out == "for people\n"


def test_a_table_keeps_every_cell_where_there_is_no_terminal(capsys):
    output.table(["law", "params"], [["PaLM 2 [table 1]", "10.7B"], ["x" * 60, None]], title="Panel")
    shown = capsys.readouterr().out
    assert "PaLM 2 [table 1]" in shown
    assert "x" * 60 in shown


@pytest.mark.parametrize("columns", [56, 80, 120])
def test_pages_keep_their_numbers_whole_at_any_width(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    for arguments in (["laws"], ["accelerators"], ["plan", "--flops", "1e22"]):
        monkeypatch.setenv("COLUMNS", "400")
        assert frame.main(arguments) == 0
        wide = capsys.readouterr().out
        monkeypatch.setenv("COLUMNS", str(columns))
        assert frame.main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= columns and all(line == line.rstrip() for line in lines)
        # Every word of the wide page stands whole on the narrow one.
        assert set(wide.split()) - set(" ".join(lines).split()) <= {
            word for word in wide.split() if "─" in word
        }


@pytest.mark.parametrize("name", frame.VERBS)
def test_every_verb_has_help_and_json(name, capsys):
    module = importlib.import_module(f"scaling.cli.{frame.VERBS[name].module}")
    assert inspect.getdoc(module.command), f"{name} has no docstring"
    assert frame.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    assert f"scaling {name}" in shown


@pytest.mark.parametrize("name", scaling._HOME)
def test_every_public_name_resolves(name):
    assert getattr(scaling, name) is getattr(importlib.import_module(scaling._HOME[name]), name)


def test_the_public_names_are_listed_and_typed():
    source = ast.parse(inspect.getsource(scaling))
    typed = {
        alias.name: statement.module
        for branch in ast.walk(source)
        if isinstance(branch, ast.If)
        for statement in branch.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert typed == scaling._HOME  # what a type checker sees is what a program gets
    assert {*scaling.__all__} == {*scaling._HOME, "__version__"}
