"""A finished run is believed only where its record is of the config that is asked for."""

from __future__ import annotations

import pytest
from sweep_helpers import LAW, settings, tokens, workers_import_fakes  # noqa: F401 (fixtures)

from scaling.errors import ScalingError
from scaling.files import read_json, write_json
from sweeps import store, sweep
from sweeps.same_run import refuse_others

pytestmark = pytest.mark.usefixtures("workers_import_fakes")


@pytest.fixture
def done(tmp_path, tokens):  # noqa: F811
    ready = sweep.prepare(tmp_path / "s", settings(tokens, budgets=(1e10,), sizes=3, seeds=(1,)))
    sweep.run(ready, workers=1, runner=LAW)
    return store.open_sweep(tmp_path / "s")


def test_a_result_of_another_config_is_named_and_nothing_is_trained(done):
    assert sweep.run(done, workers=1, runner=LAW)["ran"] == 0  # as it stands it is believed
    cell = done.cell_folder(done.design.cells[1])
    record = read_json(cell / "result.json")
    write_json(cell / "result.json", record | {"config_sha256": "0" * 64})
    with pytest.raises(ScalingError, match=f"{cell.name}.*result of another config.*remove the folder"):
        sweep.run(done, workers=1, runner=LAW)
    write_json(cell / "result.json", record)
    (cell / "config.json").rename(cell / "kept.json")
    assert sweep.run(done, workers=1, runner=LAW)["ran"] == 0
    config = read_json(cell / "kept.json")
    write_json(cell / "config.json", config | {"lr": 2 * config["lr"]})
    with pytest.raises(ScalingError, match=f"{cell.name}/config.json: was changed after its run finished"):
        sweep.run(done, workers=1, runner=LAW)


def test_what_was_compared_is_not_read_again_until_it_changes(done, monkeypatch):
    """A second start reads no result; a changed one and a changed config are noticed all the same."""
    from sweeps import index, same_run

    read = []
    before = same_run.refuse_another
    monkeypatch.setattr(same_run, "refuse_another", lambda f, c: (read.append(f.name), before(f, c)))
    start = lambda: store.create(done.folder, done.design, done.recipe, done.data)  # noqa: E731
    start()
    assert len(read) == len(done.design.cells)
    read.clear()
    start()
    assert read == []
    cell = done.cell_folder(done.design.cells[1])
    record = read_json(cell / "result.json")
    write_json(cell / "result.json", record | {"config_sha256": "0" * 64})
    with pytest.raises(ScalingError, match="result of another config"):
        start()
    write_json(cell / "result.json", record)
    start()
    assert set(read) == {cell.name}
    (done.folder / index.CHECKED).write_text("torn")
    read.clear()
    start()
    assert len(read) == len(done.design.cells)
    config = read_json(cell / "config.json")
    write_json(cell / "config.json", config | {"lr": 2 * config["lr"]})
    with pytest.raises(ScalingError, match="was changed after its run finished"):
        start()


def test_what_decides_no_result_may_differ(done):
    cell = done.design.cells[0]
    config = done.config(cell)
    refuse_others([(done.cell_folder(cell), config | {"data": "elsewhere", "checkpoint_seconds": 7.0})])
    with pytest.raises(ScalingError, match="another config"):
        refuse_others([(done.cell_folder(cell), config | {"seed": config["seed"] + 1})])
    refuse_others([(done.cell_folder("a cell that has not run"), config)])
