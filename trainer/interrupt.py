"""SIGTERM and SIGINT while a run trains: noted at once, obeyed between two calls of the train program.

The run then saves a checkpoint and raises `Interrupted`. A second signal acts as it would without this.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_asked: int = 0
_listeners = 0  # several runs of one process may listen at once, and end in any order
_before: dict[int, Any] = {}


@contextmanager
def listening() -> Iterator[None]:
    """While any such context is open, `asked` knows of signals; elsewhere than in the main thread, where
    Python takes no handlers, nothing is changed."""
    global _listeners, _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _listeners == 0:
        _asked = 0
        _before.update({number: signal.signal(number, _note) for number in SIGNALS})
    _listeners += 1
    try:
        yield
    finally:
        _listeners -= 1
        if _listeners == 0:
            _restore()


def asked() -> int:
    """The number of the signal that has come, 0 while there is none."""
    return _asked


def _note(number: int, _: Any) -> None:
    global _asked
    _asked = number
    _restore()


def _restore() -> None:
    while _before:
        number, handler = _before.popitem()
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
