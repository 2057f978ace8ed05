"""Progress: what long work does and how long it will take, on a terminal, in a log, in a notebook."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from scaling import progress
from scaling.cli import calibrate
from scaling.cli import progress as displays
from scaling.cli.main import VERBS, load_verb, main
from scaling.cli.progress import CLEAR, Log, Notebook, Terminal, for_here, shown
from scaling.progress import Job, aside, counted, measured, stage, tracked, watched

TABLE = str(Path(__file__).parents[1] / "analysis" / "data" / "own_cpu_sweep.csv")
# The command itself, its first line after a tenth of a second and the others soon after.
HASTY = """
import sys
from scaling import progress
from scaling.cli import progress as displays
progress.AFTER_S = 0.1
displays.Log.pauses = (0.1, 0.2)
displays.Terminal.pauses = (0.02,)
from scaling.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class Heard:
    """A display that keeps what it is shown."""

    pauses = (0.01,)

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.closed = False

    def show(self, job: Job) -> None:
        self.lines.append(job.line())

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


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Some 4 MB of text that is worth a second of reading."""
    folder = tmp_path_factory.mktemp("corpus")
    words = [f"{a}{b}" for a in ("al", "be", "ga", "del", "ep") for b in ("ro", "ta", "mu", "nex")]
    rng = random.Random(0)
    for number in range(8):
        rows = (json.dumps({"text": " ".join(rng.choices(words, k=400))}) for _ in range(300))
        (folder / f"{number}.jsonl").write_text("\n".join(rows))
    return folder


def build(corpus: Path, out: Path) -> list[str]:
    return [sys.executable, "-c", HASTY, "data", str(corpus), "--out", str(out), "--tokenizer", "bpe:300"]


def test_a_log_gets_few_plain_lines_on_stderr(corpus, tmp_path):
    with (tmp_path / "log.txt").open("wb") as log:
        run = subprocess.run(
            [*build(corpus, tmp_path / "out"), "--json"], stdout=subprocess.PIPE, stderr=log, timeout=120
        )
    assert run.returncode == 0 and json.loads(run.stdout)["tokenizer"]["kind"] == "bpe"
    text = (tmp_path / "log.txt").read_bytes().decode()
    assert "\x1b" not in text and "\r" not in text
    lines = text.splitlines()
    assert all(re.match(r"data: .+, .+ so far", line) for line in lines)
    read = [line for line in lines if line.startswith("data: reading ")]
    assert any(re.search(r"\d MB of \S+ MB, .+ so far, about .+ left$", line) for line in read)
    assert any("training a bpe tokenizer" in line for line in lines)


def test_a_terminal_gets_one_line_that_moves_and_goes(corpus, tmp_path):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "60"}
    with subprocess.Popen(
        build(corpus, tmp_path / "out"), stdout=subprocess.PIPE, stderr=theirs, env=environment
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
        assert run.stdout is not None and b"bytes/token" in run.stdout.read()
    os.close(ours)
    states = [state for state in seen.decode().split(CLEAR) if state]
    assert len({found for state in states for found in re.findall(r"(\S+) MB of", state)}) > 1
    assert max(map(len, states)) < 60 and not any("\n" in state for state in states)
    assert all(state.endswith((" left", " so far")) for state in states)  # what is done is cut, not the time
    assert seen.decode().endswith(CLEAR)  # and cleared at the end


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(for_here(), Log)


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
    job = Job("fit")
    notebook.show(job)
    job.start("refitting", 3)
    notebook.show(job)
    notebook.close()
    assert [kind for kind, _ in calls] == ["display", "update", "update"]
    assert calls[0][1].startswith("fit: working") and calls[1][1].startswith("fit: refitting, 0 of 3")
    assert calls[2][1] == ""


def test_the_display_is_the_one_that_fits(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(for_here(), Log)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(for_here(), Terminal)
    monkeypatch.setattr(displays, "in_notebook", lambda: True)
    assert isinstance(for_here(), Notebook)
    monkeypatch.setenv("SCALING_PROGRESS", "0")
    assert for_here() is None


@pytest.mark.parametrize("verb", ["fit", "gain"])
def test_the_verbs_say_what_they_do(verb, monkeypatch, capsys, at_once):
    """With the first pause at nothing a line comes while the verb works; stdout stays one JSON object."""
    monkeypatch.setattr(Log, "pauses", (0.3,))
    tables = [TABLE, TABLE] if verb == "gain" else [TABLE]
    assert main([verb, *tables, "--json"]) == 0
    seen = capsys.readouterr()
    json.loads(seen.out)
    assert any(re.match(rf"{verb}: \w.+ so far", line) for line in seen.err.splitlines())


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_listened_to(name, monkeypatch):
    heard = []

    @contextmanager
    def shown(verb):
        heard.append(verb)
        yield

    monkeypatch.setattr(displays, "shown", shown)
    command = load_verb(name)
    command.callback = lambda **_: heard.append("ran")
    with command.make_context(name, [], resilient_parsing=True) as context:
        command.invoke(context)
    assert heard == [name, "ran"]


class Probing:
    """A process of `trainer.probes`, as far as calibrate sees it: its events come when the test says."""

    def __init__(self, events) -> None:
        self.stdout = self
        self.events = events

    def __iter__(self):
        return (json.dumps(event) for event in self.events)

    def close(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self) -> int:
        return 0


def test_calibrate_tells_how_far_its_probes_are(monkeypatch, at_once):
    heard = Heard()

    def events():
        until(heard, "calibrate: starting JAX")
        yield {"event": "begin", "probes": 2, "rounds": 3}
        yield {"event": "machine"}
        yield {"event": "compiled", "name": "a", "compile_s": 1.0}
        until(heard, "compiling steps, 1 of 2")
        yield {"event": "skipped", "name": "b", "reason": "too large"}
        yield {"event": "round", "number": 1}
        until(heard, "timing steps, in rounds, 1 of 3")
        yield {"event": "done"}

    monkeypatch.setattr(calibrate, "start", lambda quick, errors: Probing(events()))
    with watched("calibrate", heard):
        assert len(calibrate.measure()) == 6
    assert all("left" in line for line in heard.lines if "1 of 3" in line)


def test_whoever_prints_has_the_place_to_itself(at_once):
    heard = Heard()
    with watched("sweep", heard):
        until(heard, "sweep")
        with aside():
            assert heard.closed
            before = len(heard.lines)
            time.sleep(0.05)
            assert len(heard.lines) == before
        heard.lines.clear()
        until(heard, "sweep")


def test_amounts_are_told_in_their_unit_and_what_was_there_before_is_no_rate(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with watched("data build", None) as job:
        told = measured("encoding", 48e6, 12e6, "B")
        clock[0] = 4.0
        assert job.left_s is None
        told(12e6)
        assert job.line() == "data build: encoding, 24 MB of 48 MB, 4 s so far, about 8 s left"


def test_loops_inside_a_stage_move_the_forecast_of_the_whole(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with watched("data", None) as job:
        stage("reading", 0.0, 0.5)
        told = measured("reading", 10)
        clock[0] = 5.0
        told(5)
        assert job.left_s == pytest.approx(15.0)  # a quarter of the whole is over
        stage("training", 0.5)
        clock[0] = 9.0
        assert job.left_s == pytest.approx(1.0)
        clock[0] = 30.0
        assert job.left_s is None  # overdue: nothing is claimed


def test_work_that_calls_back_is_counted(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with watched("eval", None) as job:
        report = counted("scoring windows")
        clock[0] = 2.0
        report(2, 100)
        assert job.line() == "eval: scoring windows, 2 of 100, 2 s so far, about 1.6 min left"


def test_a_narrow_terminal_loses_words_and_no_times():
    job = Job("backtest")
    job.start("refitting the runs below each of many cuts", 12)
    assert job.line(50).endswith(" so far") and len(job.line(50)) <= 50
    assert "..., 0 of 12" in job.line(50)
