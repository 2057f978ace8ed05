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

Tell = Callable[[str], None]
EVERY = 2.0  # seconds between two lines of progress
Task = tuple[Any, ...]


class Workers:
    """Runs a function over tasks, in `count` processes or, for one, in this process."""

    def __init__(self, count: int, pool: ProcessPoolExecutor | None) -> None:
        self._count, self._pool = count, pool

    def run(self, function: Callable[..., int], tasks: Sequence[Task], progress: Progress) -> None:
        """Call `function(*task)` for each task; it returns the bytes that it has dealt with."""
        if self._pool is None:
            for task in tasks:
                progress.add(function(*task))
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
                    progress.add(future.result())
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


class Progress:
    """What is done, how far it is, and how long it will take: a line every two seconds at most."""

    def __init__(self, what: str, total: int, done: int, tell: Tell, unit: str = "MB") -> None:
        self._what, self._total, self._done, self._tell = what, total, done, tell
        self._first, self._began = done, time.monotonic()
        self._told = self._began

    def add(self, size: int) -> None:
        self._done += size
        now = time.monotonic()
        if now - self._told >= EVERY and self._done < self._total:
            self._told = now
            self._tell(self.line(now - self._began))

    def line(self, seconds: float) -> str:
        """`cleaning: 12.0 of 48.0 MB (25%), 3.0 MB/s, about 12 s left`"""
        rate = (self._done - self._first) / max(seconds, 1e-9)
        left = round((self._total - self._done) / rate) if rate > 0 else 0
        time_left = f"{left} s" if left < 120 else f"{left // 60} min" if left < 7200 else f"{left // 3600} h"
        return (
            f"{self._what}: {self._done / 1e6:.1f} of {self._total / 1e6:.1f} MB "
            f"({self._done / max(1, self._total):.0%}), {rate / 1e6:.2f} MB/s, about {time_left} left"
        )
