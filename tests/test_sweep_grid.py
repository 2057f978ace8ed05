"""A grid from a file: every row comes back once, as asked, or one sentence says which line is wrong."""

import json

import numpy as np
import pandas as pd
import pytest
from sweep_helpers import tokens, workers_import_fakes  # noqa: F401 (fixtures)

from scaling.cli.main import main
from scaling.files import read_json, sha256_file, write_json
from scaling.noise import seed_noise_of
from scaling.planfiles import seed_noise
from scaling.recipe import Recipe
from sweeps import store

ELSEWHERE = ["--data", "external:128:10M", "--engine", "external"]
GRID = """width,layers,tokens,flops,seed,lr,batch
16,,,1e10,,,
N16,,,1e10,3,,
48,,1e6,,,,
32,3,1M,,7,0.004,8
""".replace("N16", "24")


def asked(capsys, folder, grid, *options):
    status = main(["sweep", str(folder), "--grid", str(grid), *options, "--json"])
    said = capsys.readouterr()
    assert status == 0, said.err
    return json.loads(said.out)


def test_rows_are_trained_as_asked_and_blank_means_the_rule(tmp_path, capsys):
    grid, folder = tmp_path / "grid.csv", tmp_path / "s"
    grid.write_text(GRID)
    plan = asked(capsys, folder, grid, *ELSEWHERE, "--seeds", "2", "--seed", "5", "--dry-run")
    assert len(plan["cells"]) == 6 and not (folder / "sweep.json").exists()  # two rows name their seed
    assert asked(capsys, folder, grid, *ELSEWHERE, "--seeds", "2", "--seed", "5")["waiting"] == 6
    sweep = store.open_sweep(folder)
    assert sweep.design.grid == sha256_file(grid) and len(sweep.design.cells) == 6
    configs = {cell.id: read_json(sweep.cell_folder(cell) / "config.json") for cell in sweep.design.cells}
    own = next(c for c in configs.values() if c["seed"] == 7)
    assert (own["lr"], own["batch"], own["shape"]["layers"]) == (0.004, 8, 3)
    assert own["steps"] == round(1e6 / (8 * 64)) and own["shape"]["width"] == 32
    ruled = next(c for c in configs.values() if c["shape"]["width"] == 48)
    assert ruled["batch"] == Recipe().batch
    assert ruled["lr"] == pytest.approx(Recipe().peak_lr(ruled["steps"] * 256, 1))
    assert sorted(c["seed"] for c in configs.values()) == [3, 5, 5, 6, 6, 7]
    by_flops = next(cell for cell in sweep.design.cells if cell.shape.width == 16)
    assert by_flops.flops(64) == pytest.approx(1e10, rel=0.01)
    # The same grid again adds nothing; the bare command goes on with what is there.
    assert asked(capsys, folder, grid, *ELSEWHERE, "--seeds", "2", "--seed", "5")["cells"] == 6
    assert main(["sweep", str(folder), "--engine", "external"]) == 0


def test_json_says_the_same_as_csv(tmp_path, capsys):
    (tmp_path / "grid.csv").write_text("N,D,learning_rate\n30k,1e6,\n60k,1e6,0.003\n")
    write_json(
        tmp_path / "grid.json",
        [{"params": 30e3, "tokens": 1e6}, {"shape": {}, "params": "60k", "tokens": 1_000_000, "lr": 3e-3}],
    )
    cells = [
        asked(capsys, tmp_path / name, tmp_path / f"grid.{name}", *ELSEWHERE, "--dry-run")["cells"]
        for name in ("csv", "json")
    ]
    assert cells[0] == cells[1] and [cell["own"] for cell in cells[0]] == [[], ["lr", "lr_horizon_exponent"]]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("width,tokens\n16,abc", "line 2: field 'tokens': 'abc'"),
        ("width,tokens\n16,1e6\n24,-5", "line 3: field 'tokens' must be above zero; '-5'"),
        ("width,tokns\n16,1e6", "column 'tokns' is no field of a run; did you mean 'tokens'?"),
        ("width,tokens\n13,1e6", "line 2: field 'width': width 13"),
        ("width,tokens,flops\n16,1e6,1e10", "line 2: has both 'tokens' and 'flops'"),
        ("width,seed\n16,1", "line 2: has no length; give 'tokens' or 'flops'"),
        ("tokens\n1e6", "line 2: has no size; give 'width'"),
        ("width,params,tokens\n16,1e5,1e6", "line 2: gives 'params' and 'width'"),
        ("width,tokens\n16,1e6\n16,1e6", "line 3: repeats line 2"),
        ("width,tokens,batch\n16,1e6,2.5", "line 2: field 'batch': '2.5' is not a whole number"),
        ("width,tokens,lr\n16,1e6,0", "line 2: field 'lr' must be above zero; '0'"),
        ("width,tokens,seed\n16,1e6,-4", "line 2: field 'seed' must be at least zero; '-4'"),
        ("width,tokens,heads\n16,1e6,3", "line 2: field 'heads' 3 does not divide the width 16"),
        ("width,tokens\n16", "line 2 has 1 fields, the header 2"),
        ("width,tokens\n", "a header but no rows"),
        ("width,width,tokens\n16,16,1e6", "column 'width' appears twice"),
    ],
)
def test_a_wrong_row_is_one_sentence_with_its_line(text, named, tmp_path, capsys):
    (tmp_path / "grid.csv").write_text(text + "\n")
    assert main(["sweep", str(tmp_path / "s"), "--grid", str(tmp_path / "grid.csv"), *ELSEWHERE]) == 1
    said = capsys.readouterr().err
    assert named in said and "grid.csv" in said and said.count("\n") == 1
    assert not (tmp_path / "s/sweep.json").exists()


def test_options_that_the_grid_answers_are_refused(tmp_path, capsys):
    (tmp_path / "grid.csv").write_text("width,tokens\n16,1e6\n")
    for options in (["--sizes", "4"], ["--budgets", "1e10"], ["--design", "trunk"], ["--seeds", "1,2"]):
        command = ["sweep", str(tmp_path / "s"), "--grid", str(tmp_path / "grid.csv"), *ELSEWHERE]
        assert main([*command, *options]) == 2
        assert options[0] in capsys.readouterr().err


@pytest.mark.usefixtures("workers_import_fakes")
def test_the_real_trainer_trains_the_rows_and_measures_their_noise(tmp_path, tokens, capsys):  # noqa: F811
    (tmp_path / "grid.csv").write_text("width,tokens,lr\n8,25600,\n8,25600,0.004\n")
    write_json(tmp_path / "recipe.json", Recipe(eval_tokens=8192).to_dict())
    more = ["--data", str(tokens), "--recipe", str(tmp_path / "recipe.json"), "--seeds", "2"]
    done = asked(capsys, tmp_path / "s", tmp_path / "grid.csv", *more, "--workers", "1")
    frame = store.to_frame(tmp_path / "s")
    assert done["ran"] == len(frame) == 4 and frame["status"].eq("done").all()
    ruled, own = frame[frame["lr"] != 0.004], frame[frame["lr"] == 0.004]
    assert len(ruled) == len(own) == 2 and frame["steps"].eq(100).all()
    assert ruled["loss"].min() != own["loss"].min()
    # Noise is what differs between seeds alone, never between recipes.
    sds = [np.log(part["loss"]).var(ddof=1) for part in (ruled, own)]
    assert done["noise"]["log_loss"] == pytest.approx(np.sqrt(np.mean(sds)))
    assert done["noise"]["repeats"] == done["noise"]["cells"] == 2
    assert asked(capsys, tmp_path / "s", tmp_path / "grid.csv", *more)["ran"] == 0


def test_the_noise_between_seeds_has_an_honest_interval():
    rng, inside, sd = np.random.default_rng(0), 0, 0.006
    for _ in range(100):
        rows = [
            {"params": 1e4 * size, "tokens": 1e6, "lr": rate, "seed": seed, "budget": 1e11 * size,
             "loss": 2.0 / size / rate * np.exp(sd * rng.standard_normal()), "status": "done"}
            for size in (1, 2) for rate in (0.001, 0.002) for seed in range(3)
        ]  # fmt: skip
        table = pd.DataFrame([*rows, {**rows[0], "loss": np.nan, "status": "diverged"}])
        found = seed_noise_of(table)
        assert found.repeats == 8 and found.cells == 4
        assert [part["repeats"] for part in found.by_budget] == [4, 4]
        assert seed_noise(table) == found.log_loss
        assert seed_noise_of(table.assign(status="Completed")).log_loss == found.log_loss
        # Rows that differ in their weight decay are no repeats.
        assert seed_noise_of(table.assign(weight_decay=range(len(table)))) is None
        inside += found.lo <= sd <= found.hi
    assert 82 <= inside <= 97
    assert seed_noise_of(pd.DataFrame(rows[:1])) is None
