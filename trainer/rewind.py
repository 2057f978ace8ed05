"""After a loss spike: back to a checkpoint before it, and past the batches that led to it.

PaLM restarted "from a checkpoint roughly 100 steps before the spike started", and skipped "roughly 200-500
data batches" (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1); the spikes did not come back. Here
the checkpoint is that of the last multiple of `rewind_steps` at least `rewind_steps` before the spike, and
what is skipped are the batches from there to where the spike was noticed. Both depend on the config and
the numbers of the run alone, so a run that is killed and goes on takes the same way.
"""

from __future__ import annotations

from typing import Any

from trainer.config import RunConfig
from trainer.journal import say
from trainer.resume import begun, newest, saved_form
from trainer.saving import Saves
from trainer.step import State, Static

Host = dict[str, Any]
LASTING = ("time_s", "packed", "before")  # of the host's record: what going back does not undo


def skipped(host: Host) -> int:
    """Batches passed over so far: step t reads batch t + skipped."""
    return sum(rewind["skipped"] for rewind in host["rewinds"])


def may_rewind(config: RunConfig, host: Host) -> bool:
    return config.on_spike == "rewind" and len(host["rewinds"]) < config.rewind_most


def rewound(
    saves: Saves, static: Static, config: RunConfig, host: Host, spike: int, step: int
) -> tuple[State, Host]:
    """State and host record to go on with: from before the `spike`, noticed at `step`."""
    saves.saver.wait()
    until = max(0, spike // config.rewind_steps - 1) * config.rewind_steps
    found = newest(saves.anchors, saved_form(static), config.sha256, until)
    state, before = begun(static, config, found)
    back = int(state.step)
    this = {"spike_step": spike, "noticed_at": step, "back_to": back, "skipped": step - back}
    saves.forget(back)
    number = len(host["rewinds"]) + 1
    say(
        f"loss spike at step {spike}: back to step {back}, past the {step - back} batches read since "
        f"(rewind {number} of at most {config.rewind_most})."
    )
    lasting = {name: host[name] for name in LASTING if name in host}
    return state, {**before, **lasting, "rewinds": [*host["rewinds"], this]}
