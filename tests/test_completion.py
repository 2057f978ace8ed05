"""Completion, by the protocol that each shell speaks: words in the environment, values on stdout."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from scaling.cli.main import VERBS, load_verb, main


def ask(shell: str, line: str, monkeypatch, capsys) -> str:
    """What the program answers when Tab is pressed after `line`."""
    words = line.split()
    place = len(words) if line.endswith(" ") else len(words) - 1
    monkeypatch.setenv("_SCALING_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(place))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    assert main([]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "offered", "others"),
    [
        ("scaling pl", {"plan"}, {"fit"}),
        ("scaling plan --accelerator h", {"h100", "h200"}, {"v5p"}),
        ("scaling accelerators v5", {"v5e", "v5p"}, {"h100"}),
        ("scaling plan --law ", {"besiroglu", "palm2"}, set()),
        ("scaling laws pal", {"palm2"}, {"besiroglu"}),
        ("scaling sweep DIR --objective u", {"ul2"}, {"causal"}),
        ("scaling sweep DIR --family p", {"palm"}, {"pnorm"}),
        ("scaling fit runs.csv --family p", {"pnorm"}, {"palm"}),
        ("scaling fit runs.csv --count n", {"non-embedding"}, {"total"}),
        ("scaling plan --convention model", {"model_causal", "model_full"}, {"6nd"}),
        ("scaling sweep DIR --engine s", {"slurm"}, {"ray"}),
        ("scaling plan --write n", {"nanochat="}, {"maxtext="}),
        ("scaling data b", {"build"}, {"pairs"}),
        ("scaling plan --acc", {"--accelerator"}, {"--chips"}),
    ],
)
def test_names_are_offered(line, offered, others, monkeypatch, capsys):
    values = set(ask("bash", line, monkeypatch, capsys).split())
    assert offered <= values and not others & values


@pytest.mark.parametrize(
    ("shell", "answer"), [("zsh", '"palm2":"'), ("fish", "palm2\t"), ("bash", "palm2\n")]
)
def test_each_shell_gets_its_own_form(shell, answer, monkeypatch, capsys):
    assert answer in ask(shell, "scaling plan --law pa", monkeypatch, capsys) + "\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_setup_script_of_each_shell_calls_the_program(shell):
    environment = {**os.environ, "_SCALING_COMPLETE": f"source_{shell}"}
    run = subprocess.run(
        [sys.executable, "-m", "scaling.cli.main"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"complete_{shell}" in run.stdout and "scaling" in run.stdout


def test_completing_a_verb_imports_no_numpy(monkeypatch):
    code = "import sys; from scaling.cli.main import main; main([]); assert 'numpy' not in sys.modules"
    environment = {
        **os.environ, "_SCALING_COMPLETE": "complete_bash", "COMP_WORDS": "scaling pl", "COMP_CWORD": "1",
    }  # fmt: skip
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "plan", "")


def test_every_table_of_values_belongs_to_a_parameter():
    from scaling.cli.completion import VALUES

    names = {verb: {p.name for p in load_verb(verb).params} for verb in VERBS}
    for verb, parameter in VALUES:
        there = set.union(*names.values()) if verb is None else names[verb]
        assert parameter in there, (verb, parameter)
