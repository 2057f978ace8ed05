"""Tasks over processes: any number of them gives the same files; a dead worker is one sentence."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from scaling.errors import ScalingError

# Shares of a build's time after which a stage is usually over; without a tokenizer to train they come early.
CLEANED, COMPARED, TOKENIZED = 0.6, 0.65, 0.85
Told = Callable[[float], None]
Task = tuple[Any, ...]


class Workers:
    """Runs a function over tasks, in `count` processes or, for one, in this process."""

    def __init__(self, count: int, pool: ProcessPoolExecutor | None) -> None:
        self._count, self._pool = count, pool

    def run(self, function: Callable[..., int], tasks: Sequence[Task], told: Told) -> None:
        """Call `function(*task)` for each task; `told` hears of the bytes that it says it has dealt with."""
        if self._pool is None:
            for task in tasks:
                told(function(*task))
            return
        waiting = iter(tasks)
        running: set[Future[int]] = set()
        try:
            while True:
                for task in waiting:
                    running.add(self._pool.submit(function, *task))
                    if len(running) >= 2 * self._count:
                        break
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    told(future.result())
        except BrokenProcessPool:
            raise ScalingError(
                "a worker process was killed, most likely for want of memory; what was finished is kept: "
                "run the same command again, with a smaller --workers."
            ) from None
        finally:
            for future in running:
                future.cancel()


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """`count` processes that end with this one, however it ends."""
    if count == 1:
        yield Workers(1, None)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, _begin, (os.getpid(),))
    try:
        yield Workers(count, pool)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(parent: int) -> None:
    """In a worker: one thread for libraries, and an end when the parent is gone (kill -9 tells nobody)."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which lets tasks finish

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
