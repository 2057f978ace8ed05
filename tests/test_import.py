"""Run tables of other tools: each is recognised, its conventions are said, and hostile cells are named."""

from __future__ import annotations

import builtins
import json
import math
import random
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.cli.main import main
from scaling.errors import ScalingError, UsageError
from scaling.gather import gather, write_table
from scaling.runs import read_runs

HERE = Path(__file__).parent / "data" / "foreign"
PLAIN = "params,tokens,loss\n"


def write(folder: Path, text: str, name: str = "runs.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return path


def said(runs, text: str) -> bool:
    return any(text in note for note in runs.notes)


def test_nanochat_counts_its_groups_and_keeps_its_budget():
    runs = read_runs(HERE / "nanochat_results.csv")
    frame = pd.read_csv(HERE / "nanochat_results.csv")
    assert len(runs) == 15
    assert np.array_equal(runs.params(), frame.params_total)
    # What nanochat fits against: the matrices of the blocks and the head (and a few scalars).
    multiply = frame.params_transformer + frame.params_lm_head + frame.params_scalars
    assert np.array_equal(runs.params("total-less-input-embedding"), multiply)
    blocks = frame.params_transformer + frame.params_scalars
    assert np.array_equal(runs.params("non-embedding"), blocks)
    assert np.array_equal(runs.flops, frame.flops_budget) and np.array_equal(runs.loss, frame.val_bpb)
    assert runs.table["run"][1] == "1e18_d10"
    assert said(runs, "read as nanochat's results.csv") and said(runs, "bits per byte")


def test_early_nanochat(tmp_path):
    text = (
        "flops_budget,depth,model_dim,num_params,num_scaling_params,num_iterations,tokens_trained,"
        "param_data_ratio,val_bpb,core_score,train_time_sec\n"
        "1e18,8,512,41943040,41943040,7579,3973578752,94.7,1.01,0.05,600\n"
    )
    runs = read_runs(write(tmp_path, text))
    assert runs.params().tolist() == [41943040] and runs.counts() == ("total",)
    assert said(runs, "an early nanochat")


def test_nanochat_s_curve_log(tmp_path):
    text = (
        "wrote 2 models\n"
        "model model_tag=flops1e18_d8 depth=8 base.num_params=125829120 base.num_scaling_params=41943040 "
        "base.num_iterations=7580 base.tokens_trained=3974103040 base.eflops=1.000132 base.val_bpb=1.1164 "
        "base.gpu='NVIDIA H100 80GB HBM3'\n"
        "model model_tag=flops1e18_d10 depth=10 base.num_params=195952640 base.num_scaling_params=70123520 "
        "base.num_iterations=4534 base.tokens_trained=2377121792 base.eflops=1.000164 base.val_bpb=1.1096\n"
    )
    runs = read_runs(write(tmp_path, text, "curve.log"))
    assert runs.params().tolist() == [125829120, 195952640] and runs.lines == (2, 3)
    assert runs.params("total-less-input-embedding").tolist() == [41943040, 70123520]
    assert runs.flops.tolist() == pytest.approx([1.000132e18, 1.000164e18])
    assert runs.table["run"].tolist() == ["flops1e18_d8", "flops1e18_d10"] and said(runs, "bits per byte")
    with pytest.raises(ScalingError, match="no line `model key=value"):
        read_runs(write(tmp_path, "step 1 loss 2\nit's prose\n", "base_train.log"))


def test_levanter_metrics_have_their_flops_and_budget():
    runs = read_runs(HERE / "tracker_metrics.jsonl")
    first = json.loads((HERE / "tracker_metrics.jsonl").read_text().splitlines()[0])
    summary = first["summary"]
    assert runs.params()[0] == summary["parameter_count"]
    assert runs.tokens[0] == summary["throughput/total_tokens"]
    assert runs.flops[0] == pytest.approx(summary["throughput/total_gflops"] * 1e9)
    assert runs.loss[0] == summary["eval/paloma/c4_en/bpb"] and said(runs, "bits per byte")
    assert runs.table["budget"].tolist() == [1e18] * 3 + [1e19] * 3
    assert runs.table["config.model.hidden_dim"][0] == 512


def test_levanter_prefers_nats(tmp_path):
    row = {"parameter_count": 7, "throughput/total_tokens": 9, "eval/loss": 3.0, "eval/bpb": 1.0}
    runs = read_runs(write(tmp_path, json.dumps({"summary": row}) + "\n", "runs.jsonl"))
    assert runs.loss.tolist() == [3.0] and said(runs, "nats per token")


def test_olmo_ladder_takes_its_size_from_the_name_and_the_last_row(tmp_path):
    runs = gather([HERE / "peteish-190M-1xC.csv", HERE / "peteish-370M-1xC.csv"])
    assert runs.params().tolist() == [190_354_176, 371_262_464]
    assert runs.tokens.tolist() == [20 * 190_354_176, 20 * 371_262_464]
    assert runs.loss[0] == pytest.approx(3.147)
    assert said(runs, "3 earlier ones") and said(runs, "all but the input embedding")
    other = write(tmp_path, (HERE / "peteish-190M-1xC.csv").read_text(), "mine.csv")
    with pytest.raises(ScalingError, match=r"told by the file's name alone.*--columns"):
        read_runs(other)


def test_wandb_runs_are_told_apart_and_unfinished_ones_refused():
    with pytest.raises(ScalingError, match=r"line 4 .*'crashed'.*line 6 .*'running'.*--skip-bad"):
        read_runs(HERE / "wandb_runs.csv")
    runs = read_runs(HERE / "wandb_runs.csv", skip_bad=True)
    assert runs.table["run"].tolist() == ["bright-sun-1", "bright-sun-2", "bright-sun-2 #2", "bright-sun-6"]
    assert runs.tokens.tolist() == [s * 64 * 1024 for s in (2000, 2000, 4000, 8000)]
    assert said(runs, "max_steps x batch_size x block_size") and said(runs, "L = val/loss")
    assert max(runs.loss) > 4  # the training loss of 3.1 was not taken


def test_a_wandb_chart_gives_the_last_value_of_each_run_and_sizes_are_joined():
    chart = HERE / "wandb_chart.csv"
    with pytest.raises(ScalingError, match=r"read as a W&B chart\): column 'params' is missing"):
        read_runs(chart)
    runs = gather([chart], join=HERE / "sizes.csv")
    assert runs.table["run"].tolist() == ["small - v2", "large"]
    assert runs.table["steps"].tolist() == [40, 60] and runs.tokens.tolist() == [40e6, 60e6]
    assert said(runs, "8 earlier values") and said(runs, "D = steps x tokens_per_step")


@pytest.mark.parametrize("name", ["tb_small.csv", "tb_small.json"])
def test_tensorboard_scalars(name, tmp_path):
    sizes = write(tmp_path, "run,N,tokens_per_step\ntb_small,1e7,500000\n", "sizes.csv")
    runs = gather([HERE / name], join=sizes)
    assert runs.tokens.tolist() == [300 * 500_000] and runs.params().tolist() == [1e7]
    assert said(runs, "2 earlier values")


def test_columns_by_name_override_everything(tmp_path):
    path = write(tmp_path, 'loss,"best, so far",iters,w\n9,2.5,10,3\n9,2.25,20,3\n')
    runs = read_runs(path, columns='N=w*1e6,D=iters*1024,"L=best, so far*ln2"')
    assert runs.params().tolist() == [3e6, 3e6] and runs.tokens.tolist() == [10240, 20480]
    assert runs.loss[0] == pytest.approx(2.5 * math.log(2))
    assert runs.table["loss (as found)"].tolist() == ["9", "9"]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ("N", "not of the form NAME=COLUMN"),
        ("Q=params", "'Q' is no column of a run table"),
        ("N=params,params=tokens", "'params' is given twice"),
        ("N=width*3", r"has no column 'width'; found 'params', 'tokens'"),
        ("", "nothing is named"),
    ],
)
def test_a_wrong_mapping_is_one_sentence(tmp_path, columns, sentence):
    with pytest.raises(UsageError, match=sentence):
        read_runs(write(tmp_path, PLAIN + "1,2,3\n"), columns=columns)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (PLAIN + "=1+1,2,3\n", "params is no number: '=1\\+1'"),
        (PLAIN + "1,2,NaN\n", "loss is not finite: 'NaN'"),
        (PLAIN + "1,1e400,3\n", "tokens is not finite: '1e400'"),
        ("params;tokens;loss\n10;20;3,14\n", "loss is written with a comma: '3,14'; write a decimal point"),
        ('params,tokens,loss\n10,20,"3,141"\n', "loss is written with a comma"),
        ("params,tokens,loss,loss\n1,2,3,4\n", "column 'loss' appears twice"),
        ("N,params,D,L\n1,2,3,4\n", None),
        ("a,b\n1,2\n", "column 'params' is missing; found a, b; name them with --columns"),
        ("val_loss,eval_loss,N,D\n1,2,3,4\n", "could both be 'loss'.*--columns L="),
    ],
)
def test_hostile_cells_are_named(tmp_path, text, sentence):
    path = write(tmp_path, text)
    if sentence is None:  # a canonical name wins over an alias beside it
        assert read_runs(path).params().tolist() == [2]
        return
    with pytest.raises(ScalingError, match=sentence) as caught:
        read_runs(path)
    assert "\n" not in str(caught.value)


def test_bom_semicolons_and_thousands_are_read(tmp_path):
    text = "\ufeffparams;tokens;loss\n1,234,567;524,288;3.5\n"
    runs = read_runs(write(tmp_path, text))
    assert runs.params().tolist() == [1_234_567] and runs.tokens.tolist() == [524_288]


def test_a_very_wide_table_is_still_one_short_sentence(tmp_path):
    names = ",".join(f"column_{i}" for i in range(500))
    with pytest.raises(ScalingError, match="and 480 more") as caught:
        read_runs(write(tmp_path, names + "\n" + ",".join("1" * 500) + "\n"))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
def test_every_table_survives_its_export(tmp_path, name, requires):
    if name.endswith("parquet"):
        requires("parquet")
    for source in ("nanochat_results.csv", "tracker_metrics.jsonl", "wandb_runs.csv"):
        before = read_runs(HERE / source, skip_bad=True)
        after = read_runs(write_table(before.table, tmp_path / name), skip_bad=True)
        for column in ("params", "tokens", "flops", "loss"):
            assert np.array_equal(after.column(column), before.column(column)), (source, column)
        assert list(after.table["run"]) == list(before.table["run"])


def test_export_refuses_in_one_sentence_and_leaves_no_file(tmp_path, monkeypatch, capsys):
    table = str(HERE / "nanochat_results.csv")
    assert main(["table", table, "--out", str(tmp_path / "x.xlsx")]) == 2
    assert "ends in .csv, .jsonl or .parquet" in capsys.readouterr().err
    plain = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda *a, **k: without("pyarrow"))
    assert main(["table", table, "--out", str(tmp_path / "x.parquet")]) == 1
    assert "needs pyarrow" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_table_is_fitted_from_the_command_line(capsys):
    assert main(["fit", str(HERE / "nanochat_results.csv"), "--bootstrap", "20", "--json"]) == 0
    seen = capsys.readouterr()
    fitted = json.loads(seen.out)
    assert fitted["data"]["rows"] == 15
    assert any("nanochat" in note for note in fitted["notes"]) and "bits per byte" in seen.err


def test_the_table_verb_says_what_it_took_for_what(capsys, tmp_path):
    out = tmp_path / "runs.csv"
    arguments = ["table", str(HERE / "wandb_runs.csv"), "--skip-bad", "--out", str(out), "--json"]
    assert main(arguments) == 0
    seen = capsys.readouterr()
    found = json.loads(seen.out)
    assert found["rows"] == 4 and [row["line"] for row in found["left_out"]] == [4, 6]
    assert "left out" in seen.err and "read as a W&B runs table" in seen.err
    assert len(read_runs(out)) == 4


def test_a_torn_table_is_read_or_refused_in_one_line(tmp_path):
    """Cells replaced, letters lost, lines shuffled: never a traceback, never a second line."""
    rng = random.Random(3)
    junk = ["", "NaN", "=1+1", "1e400", "-1", '"', "None", "1,234", "{}", "\x00", "a - b", "9" * 24]
    read = 0
    for _ in range(150):
        source = rng.choice(sorted(HERE.iterdir()))
        text = source.read_text()
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(junk) + text[at + rng.randint(0, 9) :]
        path = write(tmp_path, text, source.name)
        calls = (
            lambda: read_runs(path, skip_bad=True),  # noqa: B023
            lambda: gather([path, HERE / "nanochat_results.csv"], skip_bad=True),  # noqa: B023
            lambda: gather([path], join=HERE / "sizes.csv", skip_bad=True),  # noqa: B023
            lambda: read_runs(path, columns="N=1e7,D=Step*5,L=Value", skip_bad=True),  # noqa: B023
        )
        for call in calls:
            try:
                call()
                read += 1
            except ScalingError as error:
                assert "\n" not in str(error)
    assert read > 50


def logged(folder: Path, steps: range, level: float = 3.0, purge: int | None = None) -> None:
    """A run as trainers log one: training loss each step, evaluation and tokens now and then, a histogram."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder), purge_step=purge, filename_suffix=f".{steps.start}") as writer:
        for step in steps:
            writer.add_scalar("train/loss", 9.0, step)
            if step % 10 == 0:
                writer.add_scalar("eval/loss", level + 1 / (1 + step), step)
                writer.add_scalar("progress/tokens", 1000.0 * step, step)
        writer.add_histogram("weights", np.arange(50.0), steps.stop)
        writer.add_text("config", "{}")


@pytest.mark.requires("tensorboard")
def test_a_folder_of_tensorboard_runs_is_a_table(tmp_path, capsys):
    logged(tmp_path / "tb" / "a", range(26))
    logged(tmp_path / "tb" / "sub" / "b", range(46), level=2.0)
    logged(tmp_path / "tb" / "sub" / "b", range(15, 36), level=1.0, purge=15)  # resumed from before its end
    sizes = write(tmp_path, "run,N\na,1e7\nsub/b,2e7\n", "sizes.csv")
    runs = gather([tmp_path / "tb"], join=sizes)
    assert runs.table["run"].tolist() == ["a", "sub/b"] and runs.params().tolist() == [1e7, 2e7]
    assert runs.loss.tolist() == pytest.approx([3 + 1 / 21, 1 + 1 / 31], rel=1e-6)
    # Loss and tokens of one moment: not of the last step, and not of what the resumed run voided.
    assert runs.tokens.tolist() == [20_000, 30_000] and runs.table["steps"].tolist() == [20, 30]
    assert said(runs, "L = eval/loss, as logged last; 5 earlier") and said(runs, "D = progress/tokens")
    found = read_runs(tmp_path / "tb" / "a", columns="N=1e6,D=steps*512,L=train/loss*ln2")
    assert found.tokens.tolist() == [25 * 512] and found.loss[0] == pytest.approx(9 * math.log(2))
    assert main(["table", str(tmp_path / "tb"), "--json"]) == 1
    assert "column 'params' is missing; found loss, tokens, run, steps" in capsys.readouterr().err


@pytest.mark.requires("tensorboard")
def test_scalars_written_as_tensors_are_read_too(tmp_path):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event

    file = EventsWriter(str(tmp_path / "run"))
    for step, value in enumerate([3.5, 2.25]):
        event = Event(step=step)
        for tag, kind, field in (("eval/avg_loss", 1, "float_val"), ("n_tokens_seen", 2, "double_val")):
            tensor = event.summary.value.add(tag=tag).tensor
            tensor.dtype = kind
            getattr(tensor, field).append(value)
        packed = event.summary.value.add(tag="parameter_count").tensor
        packed.dtype, packed.tensor_content = 1, np.float32(4096).tobytes()
        file.write_event(event)
    file.close()
    runs = read_runs(next(tmp_path.iterdir()))
    assert (runs.loss[0], runs.tokens[0], runs.params()[0]) == (2.25, 2.25, 4096)


@pytest.mark.requires("tensorboard")
def test_a_torn_event_file_is_one_sentence(tmp_path):
    logged(tmp_path / "tb" / "whole", range(11))
    logged(tmp_path / "tb" / "torn", range(11))
    file = next((tmp_path / "tb" / "torn").iterdir())
    content, rng = file.read_bytes(), random.Random(5)
    columns = "N=1e7,D=progress/tokens,L=eval/loss"
    for _ in range(60):
        at = rng.randrange(len(content))
        cut = rng.random() < 0.5
        file.write_bytes(content[:at] if cut else content[:at] + bytes([content[at] ^ 7]) + content[at + 1 :])
        if cut:
            try:
                found = read_runs(tmp_path / "tb", columns=columns)
                assert len(found) == 2 or said(found, "never logged eval/loss: torn")  # cut between records
                continue
            except ScalingError as error:
                assert "ends within record" in str(error) and "\n" not in str(error)
        else:
            with pytest.raises(ScalingError, match=r"run 1 \(torn\) cannot be read: .* (is corrupt|ends)"):
                read_runs(tmp_path / "tb", columns=columns)
        kept = read_runs(tmp_path / "tb", columns=columns, skip_bad=True)
        assert kept.table["run"].tolist() == ["whole"] and len(kept.bad) == 1


@pytest.mark.requires("tensorboard")
@pytest.mark.parametrize(
    ("tags", "columns", "sentence"),
    [
        (("val/loss", "eval/loss"), None, "val/loss and eval/loss could both be the loss.*--columns L=TAG"),
        (("loss", "lr"), None, r"no tag is called like the loss on held-out text.*\(found loss, lr\)"),
        (("loss",), "N=1,D=2,L=eval/loss", "no tag 'eval/loss'; found loss"),
        ((), None, "without TensorBoard's event files"),
    ],
)
def test_which_tag_is_the_loss_is_never_guessed(tmp_path, tags, columns, sentence):
    from tensorboardX import SummaryWriter

    if tags:
        with SummaryWriter(str(tmp_path)) as writer:
            for tag in tags:
                writer.add_scalar(tag, 1.0, 1)
    with pytest.raises(ScalingError, match=sentence):
        read_runs(tmp_path, columns=columns)


@pytest.mark.requires("tensorboard")
def test_the_examples_of_the_page_work_as_they_stand(tmp_path, monkeypatch, capsys):
    """Every command of docs/import.md, in a folder with a file of each kind."""
    called = {"nanochat_results.csv": "results.csv", "wandb_chart.csv": "chart.csv"}
    for path in HERE.iterdir():
        (tmp_path / called.get(path.name, path.name)).write_bytes(path.read_bytes())
    sizes = "tb_small,1e7,5e5\nsmall,1e7,4096\nlarge/one,4e7,4096\n"
    write(tmp_path, (HERE / "sizes.csv").read_text() + sizes, "sizes.csv")
    write(
        tmp_path,
        "model base.num_params=125829120 base.tokens_trained=3974103040 base.val_bpb=1.1164\n",
        "curve.log",
    )
    write(
        tmp_path,
        "tokens,loss,flops,params,hidden_dim,num_layers,batch_size,label\n1e9,1.1,6e17,1e8,512,8,64,a\n",
        "isoflop.csv",
    )
    rng = np.random.default_rng(0)
    rows = ["model_params,steps,eval/loss,width_params,seen,val_bpb,gflops"]
    for size in np.geomspace(1e7, 1e9, 5):
        for tokens in np.geomspace(2e8, 2e10, 5):
            loss = (1.7 + 400 / size**0.34 + 410 / tokens**0.28) * math.exp(rng.normal(0, 0.002))
            steps = round(tokens / 524288)
            per_byte = loss / math.log(2) / 4.6
            cells = (size, steps, loss, size / 1e6, tokens, per_byte, 6 * size * tokens / 1e9)
            rows.append(",".join(map(str, cells)))
    write(tmp_path, "\n".join(rows) + "\n", "table.csv")
    for run, params in (("small", 1e7), ("large/one", 4e7)):
        logged(tmp_path / "events" / run, range(21))
        from tensorboardX import SummaryWriter

        with SummaryWriter(str(tmp_path / "events" / run), filename_suffix=".params") as writer:
            writer.add_scalar("parameter_count", params, 0)
    page = (Path(__file__).parent.parent / "docs" / "import.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 15 and all(command.startswith("scaling ") for command in commands)
    monkeypatch.chdir(tmp_path)
    for command in commands:
        words = shlex.split(command, comments=True)[1:]
        words += ["--bootstrap", "20"] if words[0] == "fit" else []
        assert main(words) == 0, f"{command}\n{capsys.readouterr().err}"
        for file in re.findall(r"(?:--out |=)(\S+\.(?:csv|jsonl|ya?ml|py|sh))\b", command):
            assert (tmp_path / file).stat().st_size > 0, file
