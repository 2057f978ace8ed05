"""Random kills and two sweep processes on one folder: the quick version of benchmarks/sweep_storm.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

STORM = Path(__file__).parents[1] / "benchmarks" / "sweep_storm.py"


@pytest.mark.parametrize("pack", ["1", "4"])
def test_no_run_is_lost_or_doubled_when_anything_may_die_at_any_time(pack):
    command = [sys.executable, str(STORM), "--cells", "24", "--kills", "0.3", "--pack", pack, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["rows"] == found["cells"] >= 20 and found["killed_runs"] > 0
    assert not any(found[name] for name in ("lost", "doubled", "overlaps", "wrong"))
