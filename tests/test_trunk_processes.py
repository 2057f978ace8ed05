"""A run over several processes begins at its trunk as one alone does."""

import shutil

from process_helpers import outcome, small_run, start_two

from scaling.files import read_json, write_json
from trainer.resources import Resources

CLOCK = {"time_s", "compile_s", "tokens_per_s", "trunk", "checkpoint_failures"}


def train(place):
    first, _ = map(outcome, start_two(place))
    return first


def test_two_processes_leave_a_state_and_take_it_over(tmp_path):
    ends = {"schedule": "wsd", "resources": Resources(data=2, fsdp=4), "trunk": "../../trunks/a"}
    short = small_run(tmp_path, steps=20, decay_steps=5, name="short", **ends)
    long = {**short.to_dict(), "steps": 30, "decay_steps": 8, "name": "long"}
    cells = {"short": short.to_dict(), "long": long}
    for name, config in cells.items():
        write_json(tmp_path / "cells" / name / "config.json", config)
    write_json(
        tmp_path / "trunks" / "a" / "trunk.json",
        {"format": "scaling/trunk", "version": 1, "branches": {"short": 15, "long": 22}},
    )
    shutil.copytree(tmp_path / "cells" / "short", tmp_path / "alone" / "b" / "short")
    assert train(tmp_path / "cells" / "long")["trunk"]["step"] == 0
    assert [p.name for p in (tmp_path / "trunks/a").glob("[0-9]*")] == ["15"]
    assert train(tmp_path / "cells" / "short")["trunk"]["step"] == 15
    train(tmp_path / "alone" / "b" / "short")
    branch, alone = (
        {k: v for k, v in read_json(tmp_path / place / "short/result.json").items() if k not in CLOCK}
        for place in ("cells", "alone/b")
    )
    assert branch == alone
