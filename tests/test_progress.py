"""Progress: what long work does and how long it will take, on a terminal, in a log, in a notebook."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling import progress
from scaling.cli import progress as displays
from scaling.cli.progress import Log, Notebook, Terminal, for_here, shown
from scaling.progress import Job, stage, tracked, watched

SLOW = """
import sys, time
from scaling import progress
from scaling.cli import progress as displays
progress.AFTER_S = 0.05
displays.Log.pauses = (0.1, 0.2)
displays.Terminal.pauses = (0.02,)
from scaling.cli.progress import shown
from scaling.progress import tracked
with shown("backtest"):
    for _ in tracked(range(12), "refitting below each cut"):
        time.sleep(0.05)
print("result")
"""


class Heard:
    """A display that keeps what it is shown."""

    pauses = (0.01,)

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.closed = False

    def show(self, line: str) -> None:
        self.lines.append(line)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "AFTER_S", 0.0)


def until(heard: Heard, text: str) -> None:
    limit = time.monotonic() + 20
    while not any(text in line for line in heard.lines):
        assert time.monotonic() < limit, heard.lines
        time.sleep(0.005)


def test_a_loop_is_counted_and_its_rest_estimated(at_once):
    heard = Heard()
    with watched("backtest", heard):
        for number in tracked([1, 2, 3, 4], "refitting"):
            if number == 3:
                until(heard, "2 of 4")
    assert heard.closed
    line = next(line for line in heard.lines if "2 of 4" in line)
    assert re.fullmatch(r"backtest: refitting, 2 of 4, \S+.* so far, about \S+.* left", line)


def test_the_rate_measured_so_far_is_the_forecast(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    job = Job("gain")
    clock[0] = 105.0
    job.start("bootstrap", 200)
    assert job.left_s is None and "left" not in job.line()
    clock[0], job.done = 115.0, 50
    assert job.left_s == pytest.approx(30.0)  # 10 s for 50 of 200
    job.done = 200
    assert job.left_s == 0


def test_stages_take_their_share(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with watched("fit", Heard()) as job:
        stage("fitting", 0.0)
        clock[0] = 4.0
        stage("bootstrap", 0.5)
        assert job.left_s == pytest.approx(4.0) and "bootstrap" in job.line()


def test_a_loop_inside_a_step_says_nothing_and_takes_nothing(at_once):
    heard = Heard()
    seen = []
    with watched("backtest", heard):
        for outer in tracked([1, 2], "outer"):
            stage("inner stage", 0.0)
            seen += [(outer, inner) for inner in tracked(["a", "b"], "inner")]
            until(heard, "outer")
    assert seen == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert not any("inner" in line for line in heard.lines)


def test_nobody_listening_costs_nothing_and_changes_nothing():
    assert list(tracked((c for c in "abc"), "letters", 3)) == ["a", "b", "c"]
    stage("alone", 0.0)


def test_what_ends_early_or_fails_still_closes(at_once):
    heard = Heard()
    with pytest.raises(ZeroDivisionError), watched("fit", heard):
        for number in tracked([1, 0], "dividing"):
            1 / number
    assert heard.closed
    with watched("fit", Heard()) as job:
        for _ in tracked([1, 2, 3], "searching"):
            break
        assert not job.busy


def test_what_is_quick_says_nothing(capsys):
    with shown("fit"):
        list(tracked(range(5), "fitting"))
    assert capsys.readouterr().err == ""


def test_a_log_gets_few_plain_lines_on_stderr(tmp_path):
    with (tmp_path / "log.txt").open("wb") as log:
        run = subprocess.run(
            [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=log, check=True, timeout=60
        )
    assert run.stdout == b"result\n"
    text = (tmp_path / "log.txt").read_bytes().decode()
    assert "\x1b" not in text and "\r" not in text
    lines = text.splitlines()
    assert lines and len(lines) < 12  # fewer than steps: the rate is limited
    assert all(line.startswith("backtest: refitting below each cut") for line in lines)
    assert "left" in lines[-1]


def test_a_terminal_gets_one_line_that_moves_and_goes():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=theirs, env=environment
    ) as run:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            seen += part
        assert run.stdout is not None and run.stdout.read() == b"result\n"
    os.close(ours)
    text = seen.decode()
    assert "\x1b[" in text  # redrawn in place
    assert len(set(re.findall(r"(\d+) of 12", text))) > 2
    assert text.rstrip().endswith(("\x1b[2K", "\x1b[?25h"))  # and cleared at the end


def test_a_notebook_replaces_its_line(monkeypatch):
    from IPython import display

    calls = []

    class Handle:
        def display(self, data, raw):
            calls.append(("display", data["text/plain"]))

        def update(self, data, raw):
            calls.append(("update", data["text/plain"]))

    monkeypatch.setattr(display, "DisplayHandle", Handle)
    notebook = Notebook()
    notebook.show("one")
    notebook.show("two")
    notebook.close()
    assert calls == [("display", "one"), ("update", "two"), ("update", "")]


def test_the_display_is_the_one_that_fits(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(for_here(), Log)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(for_here(), Terminal)
    monkeypatch.setattr(displays, "in_notebook", lambda: True)
    assert isinstance(for_here(), Notebook)
    monkeypatch.setenv("SCALING_PROGRESS", "0")
    assert for_here() is None


LONG = (
    *("fit", "backtest", "choices", "approaches", "gain", "next", "sweep", "report"),
    *("export", "import_model", "generate", "memorization"),
)


@pytest.mark.parametrize("verb", LONG)
def test_the_long_verbs_are_shown(verb):
    source = (Path(progress.__file__).parent / "cli" / f"{verb}.py").read_text()
    assert re.search(r"with shown\(\"\w+\"\):", source)


@pytest.mark.parametrize("verb", ["fit", "gain"])
def test_the_verbs_say_what_they_do(verb, monkeypatch, capsys, at_once):
    """With the first pause at nothing a line comes while the verb works; stdout stays one JSON object."""
    import json

    from scaling.cli.main import main

    monkeypatch.setattr(Log, "pauses", (0.3,))
    table = str(Path(__file__).parents[1] / "analysis" / "data" / "own_cpu_sweep.csv")
    tables = [table, table] if verb == "gain" else [table]
    assert main([verb, *tables, "--json"]) == 0
    seen = capsys.readouterr()
    json.loads(seen.out)
    assert any(line.startswith(f"{verb}: ") and "so far" in line for line in seen.err.splitlines())


def test_work_that_calls_back_is_counted_in_few_lines(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    report = displays.counter("eval", "windows")
    for done in range(1, 101):
        clock[0] = float(done)
        report(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "eval: windows, 2 of 100, 2 s so far, about 1.63 min left"
    assert 3 <= len(lines) <= 6  # after 2, 10, 30, 60 s
