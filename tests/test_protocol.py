"""PaLM 2's protocol: the planted optimum is found, the table says who won, and a kill costs nothing."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sweep_helpers import SMALL, tokens, workers_import_fakes  # noqa: F401 (fixtures)

from scaling.cli.main import main
from scaling.files import read_json, write_json
from scaling.laws.surface import PNormLaw
from scaling.sizing import ladder
from sweeps import store
from sweeps.design import OptimumRule
from sweeps.plausible import plausible_laws

BUDGETS = ("1e10", "3e10", "1e11", "3e11")
TARGET = 1e12


def planted(seed):
    """A plausible law whose optimum lies where the default design looks for it."""
    rule = OptimumRule(5e11, 41e3, 0.58)
    return PNormLaw(*plausible_laws(3, 7, 1e11, rule.params_at(1e11), guess_sd=0.1)[seed])


def loss_of(law, row, noise):
    name = sum(ord(c) * 31**i for i, c in enumerate(row["cell"])) % 2**32
    chance = noise * float(np.random.default_rng(name).standard_normal())
    return float(law.loss(float(row["params"]), float(row["tokens"]))) * math.exp(chance)


def ask(arguments, capsys):
    status = main([*arguments, "--json"])
    said = capsys.readouterr()
    assert status == 0, said.err
    return json.loads(said.out)


def train_by(law, noise, folder, capsys, *options):
    """Run `scaling protocol` with an external trainer that follows `law` until the table is there."""
    arguments = ["protocol", str(folder), "--data", "external:128:100M", "--engine", "external"]
    arguments += ["--budgets", ",".join(BUDGETS), *options]
    found = ask(arguments, capsys)
    for _ in range(9):
        if found["state"] == "done":
            return found
        home = folder if found["state"] == "bands" else folder / "confirm"
        with open(home / "external/ask.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        lines = [f"{row['cell']},{loss_of(law, row, noise)!r}" for row in rows]
        answers = folder.parent / "answers.csv"
        answers.write_text("cell,loss\n" + "\n".join(lines) + "\n")
        found = ask([*arguments, "--results", str(answers)], capsys)
    raise AssertionError("the protocol asks without end")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_planted_optimum_lies_in_the_interval_and_the_best_size_wins(seed, tmp_path, capsys):
    law, folder = planted(seed), tmp_path / "p"
    found = train_by(law, 0.002, folder, capsys, "--target", "1e12")["table"]
    family = store.open_sweep(folder).design.family
    assert [point["flops"] for point in found["points"]] == [3e10, 1e11, 3e11, TARGET]
    for point in found["points"]:
        truth, tokens_, _ = ladder(
            family, point["predicted"]["params"], point["flops"], 64, "model_causal", "total"
        ).optimum(law)
        said, measured = point["predicted"], point["measured"]
        assert said["params_lo"] <= truth <= said["params_hi"]
        assert said["tokens_lo"] <= tokens_ <= said["tokens_hi"]
        assert point["joint"]["params_lo"] <= truth <= point["joint"]["params_hi"]
        assert measured["params_lo"] <= truth <= measured["params_hi"]
        assert measured["interior"] and measured["waste"] < 0.02
        # Whoever won: no other size is better by the planted law than chance could hide.
        exact = {run["params"]: float(law.loss(run["params"], run["tokens"])) for run in point["runs"]}
        assert exact[point["winner"]["params"]] <= min(exact.values()) * (1 + 3 * 0.002)
        measured_losses = {run["params"]: run["loss"] for run in point["runs"]}
        assert point["winner"]["params"] == min(measured_losses, key=measured_losses.get)
        assert [run["won"] for run in point["runs"]].count(True) == 1
        for run in point["runs"]:
            assert run["excess"] == pytest.approx(run["loss"] - point["winner"]["loss"])
            assert run["excess"] >= 0 and (run["tied"] or run["excess"] > 0.002 * run["loss"])
    assert found["inside"] >= 0.8 * found["predicted_runs"]
    with open(folder / "protocol.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == found["runs"] and sum(row["won"] == "True" for row in rows) == 4
    page = (folder / "protocol.md").read_text()
    assert page.count("| best |") == 4 and "arXiv:2305.10403" in page


def test_without_noise_the_winner_is_the_best_of_the_table(tmp_path, capsys):
    law = planted(1)
    found = train_by(law, 1e-6, tmp_path / "p", capsys, "--confirm", "2", "--table-sizes", "3")["table"]
    assert len(found["points"]) == 2
    for point in found["points"]:
        exact = {run["params"]: float(law.loss(run["params"], run["tokens"])) for run in point["runs"]}
        assert point["winner"]["params"] == min(exact, key=exact.get)


def test_predictions_are_sealed_before_the_table_and_not_made_again(tmp_path, capsys):
    folder, law = tmp_path / "p", planted(0)
    arguments = ["protocol", str(folder), "--engine", "external"]
    train_by(law, 0.002, folder, capsys, "--confirm", "1", "--table-sizes", "3")
    made = (folder / "predicted.json").read_bytes()
    again = ask([*arguments, "--confirm", "1", "--table-sizes", "3"], capsys)
    assert again["ran"] == 0 and (folder / "predicted.json").read_bytes() == made
    for options, named in (
        (["--confirm", "2", "--table-sizes", "3"], "other flops"),
        (["--confirm", "1", "--table-sizes", "5"], "other sizes (3, not 5)"),
    ):
        assert main([*arguments, *options]) == 1
        said = capsys.readouterr().err
        assert named in said and "predicted.json" in said and said.count("\n") == 1
    changed = read_json(folder / "predicted.json")
    changed["points"][0]["runs"][0]["prediction"]["loss"] *= 0.99
    write_json(folder / "predicted.json", changed)
    assert main([*arguments, "--confirm", "1", "--table-sizes", "3"]) == 1
    assert "the seal is broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--budgets", "1e10,1e11"], "needs at least 3"),
        (["--confirm", "5"], "--confirm 5: give 1 to 4"),
        (["--table-sizes", "2"], "--table-sizes 2"),
        (["--table-seeds", "0"], "--table-seeds 0"),
        (["--target", "3e11"], "--target 3e+11: give FLOPs above"),
        (["--target", "1e99"], "at most 1000x"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(options, named, tmp_path, capsys):
    folder = tmp_path / "p"
    arguments = ["--data", "external:128:100M", "--engine", "external", "--budgets", ",".join(BUDGETS)]
    assert main(["protocol", str(folder), *arguments, *options]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1
    assert not (folder / "sweep.json").exists()


def test_a_dry_run_tells_both_parts_and_trains_nothing(tmp_path, capsys):
    folder = tmp_path / "p"
    arguments = ["--data", "external:128:100M", "--engine", "external", "--budgets", ",".join(BUDGETS)]
    plan = ask(["protocol", str(folder), *arguments, "--table-seeds", "2", "--dry-run"], capsys)
    assert plan["table"]["runs"] == 3 * 5 * 2 and plan["table"]["budgets"] == [3e10, 1e11, 3e11]
    assert plan["table"]["flops"] == pytest.approx(10 * (3e10 + 1e11 + 3e11), rel=0.02)
    assert not (folder / "sweep.json").exists()
    assert main(["protocol", str(folder), *arguments, "--dry-run"]) == 0
    assert "then the table at 3e10, 1e11, 3e11 FLOPs: 15 runs" in capsys.readouterr().out


RUN = """
import sys
from pathlib import Path
from dataclasses import replace
from sweep_helpers import LAW, SMALL
from sweeps.engines.local import LocalEngine
from sweeps.protocol import Asked, protocol
from sweeps.sweep import prepare

if __name__ == "__main__":
    settings = replace(SMALL.settings(), data=sys.argv[2], budgets=(1e10, 3e10, 1e11), sizes=4, seeds=(1,))
    bands = prepare(Path(sys.argv[1]), settings)
    found = protocol(bands, Asked(top=2, sizes=3), lambda home, is_open: LocalEngine(1, LAW))
    print(found["ran"])
"""


@pytest.mark.usefixtures("workers_import_fakes")
def test_a_killed_protocol_resumes_without_training_anything_twice(tmp_path, tokens):  # noqa: F811
    script = tmp_path / "run.py"
    script.write_text(RUN)

    def start(folder, **more):
        command = [sys.executable, str(script), str(folder), str(tokens)]
        return subprocess.Popen(
            command, env=os.environ | more, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    undisturbed = start(tmp_path / "a")
    ran = int(undisturbed.communicate(timeout=120)[0])
    table = read_json(tmp_path / "a/protocol.json")
    last = sorted(path.name for path in (tmp_path / "a/confirm/cells").iterdir())[-1]

    folder = tmp_path / "b"
    killed = start(folder, SLOW_RUN=last)
    end = time.monotonic() + 90
    while not (folder / "confirm/cells" / last / "tries.txt").exists():
        assert time.monotonic() < end and killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (folder / "protocol.json").exists()
    resumed = start(folder)
    assert int(resumed.communicate(timeout=120)[0]) < ran
    tries = {path.parent.name: len(path.read_text().splitlines()) for path in Path(folder).rglob("tries.txt")}
    assert {name for name, count in tries.items() if count != 1} == {last} and tries[last] == 2
    assert read_json(folder / "protocol.json") == table
    assert SMALL.recipe.sha256 == table["inputs"]["recipe_sha256"]
