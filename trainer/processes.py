"""One run over several processes: they join, agree, wait for one another and end together.

Every process runs the same program in the same order (JAX's rule for several controllers). Only the first
writes files and prints; what depends on a clock or on the file system, the first decides for all.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scaling.errors import Interrupted, ScalingError
from trainer import rollcall
from trainer.launcher import Member
from trainer.rollcall import Peers

JOIN_S = 300.0
HEARTBEAT_S = 100.0
AFTER_CALL_S = 60  # all are there and reach each other: JAX itself needs a second or two
SHUTDOWN_S = 30
VERDICT_S = 10.0  # a collective that broke is explained by the peers' own word, if it comes soon

_member: Member | None = None
_peers: Peers | None = None


def join(
    member: Member | None,
    note: Mapping[str, Any] | None = None,
    seconds: float = JOIN_S,
    heartbeat_s: float = HEARTBEAT_S,
) -> None:
    """Become `member` of a run over several processes; nothing when it is None.

    Must come before anything touches JAX's backend. `note` is what all processes must have alike (the
    config's hash, versions). Raises ScalingError, naming the processes that are missing or do not fit,
    when not all are there after `seconds`.
    """
    global _member, _peers
    if member is None:
        return
    import jax

    peers = rollcall.call(member, note or {}, seconds) if member.coordinator is not None else None
    given: dict[str, Any] = {}
    if peers is not None:
        given = {
            "coordinator_address": member.coordinator,
            "num_processes": member.processes,
            "process_id": member.process,
            "local_device_ids": member.local_devices,
            "cluster_detection_method": "deactivate",
        }
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with contextlib.suppress(AttributeError):
        jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM, which is ours
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=AFTER_CALL_S if peers is not None else max(1, round(seconds)),
            heartbeat_timeout_seconds=max(1, round(heartbeat_s)),
            shutdown_timeout_seconds=SHUTDOWN_S,
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        problem = f"JAX could not join at {member.coordinator or 'the address of the TPU pod'} ({reason})."
        if peers is not None:
            peers.fail(problem)
        raise ScalingError(f"{member.named}: {problem}") from None
    if peers is None:
        member = Member(jax.process_index(), jax.process_count(), None, member.found)
    else:
        peers.watch(heartbeat_s)
    _member, _peers = member, peers


def number() -> int:
    """How many processes share the run."""
    return 1 if _member is None else _member.processes


def membership() -> Member | None:
    """This process's place among those that joined; None when it is alone."""
    return _member


def is_first() -> bool:
    """Whether this process writes and prints for all."""
    return _member is None or _member.process == 0


def agree(value: int) -> int:
    """The first process's `value`, on every process; all must call it at the same place of the run."""
    if _member is None:
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def agree_on(values: Sequence[int]) -> list[int]:
    """The first process's list of numbers, on every process."""
    if _member is None:
        return list(values)
    import numpy as np
    from jax.experimental import multihost_utils

    many = np.zeros(agree(len(values)), np.int32)
    many[: len(values)] = values[: len(many)]
    return [int(v) for v in multihost_utils.broadcast_one_to_all(many)] if len(many) else []


def everyone(holds: bool) -> bool:
    """Whether something holds on every process."""
    if _member is None:
        return holds
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.int32(holds))))


def together(what: str) -> None:
    """Wait until every process has come to this place."""
    if _member is not None:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def _exit(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


@contextlib.contextmanager
def one_run() -> Iterator[None]:
    """Around the run: a process that fails tells the others why, and one that ends says goodbye.

    A collective that breaks because another process died raises whatever its transport does; the peers'
    own word is waited for, since it names the process (and ends this one).
    """
    if _member is None:
        yield
        return
    import jax

    interruption: Interrupted | None = None
    try:
        try:
            yield
        except Interrupted as error:  # all have stopped at the same step
            interruption = error
        together("the run's end")
    except BaseException as error:
        # Leaving JAX's service is a meeting of all, to which the others will not come any more: the
        # interpreter would wait for them in JAX's destructors, and abort.
        atexit.register(_exit, getattr(error, "exit_status", 1))
        if _peers is not None:
            expected = isinstance(error, (ScalingError, KeyboardInterrupt))
            if not expected:
                time.sleep(VERDICT_S)
            said = str(error) if isinstance(error, ScalingError) else type(error).__name__
            _peers.fail(said or type(error).__name__)
        raise
    if _peers is not None:
        _peers.leave()
    jax.distributed.shutdown()
    if interruption is not None:
        raise interruption
