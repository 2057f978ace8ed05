"""One process per run folder, on one machine or on many that share a file system.

The lock is the system's own, which ends with its holder. Some network file systems keep such locks on
each machine for itself, or have none: therefore the holder also writes its name into the file and
touches it every few seconds, and a name touched lately by another machine counts as a holder too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on this platform: the name in the file must do
    fcntl = None  # type: ignore[assignment]

BEAT_S = 10.0
WAIT_S = 0.05
ASKED_S = 0.5
STALE_S = 60.0  # a name not touched for this long is that of a dead holder; clocks may differ by the rest


class FolderLock:
    """An exclusive lock on a run folder: `acquire` says whether this process got it."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / ".lock"
        self._handle: int | None = None
        self._released = threading.Event()

    def acquire(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        locked = _lock_unless_asked(handle)
        if locked is False or _held_elsewhere(handle, locked is None):
            os.close(handle)
            return False
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
        self._handle = handle
        self._released.clear()
        threading.Thread(target=self._beat, daemon=True).start()
        return True

    def release(self) -> None:
        if self._handle is not None:
            self._released.set()
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = None

    def _beat(self) -> None:
        while not self._released.wait(BEAT_S):
            with contextlib.suppress(OSError):
                os.utime(self.path)


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """One process at a time in here, for one folder; the others wait. For what takes seconds at most."""
    lock = FolderLock(folder)
    while not lock.acquire():
        time.sleep(WAIT_S)
    try:
        yield
    finally:
        lock.release()


def is_held(folder: str | Path) -> bool:
    """Whether another process works in `folder` now."""
    try:
        handle = os.open(f"{folder}/.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:  # it may only be read: somebody else's sweep
        return _named_lately(f"{folder}/.lock")
    try:
        locked = _lock_unless_asked(handle)
        return locked is False or _held_elsewhere(handle, locked is None)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Whether the system's lock was free and is now held by `handle`; None where there are no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (OSError, AttributeError):  # ENOLCK, ENOSYS, EOPNOTSUPP: a file system without locks; or no fcntl
        return None
    return True


def _lock_unless_asked(handle: int) -> bool | None:
    """As `_lock`, after those who only ask: they have the lock for an instant, and no name in the file."""
    end = time.monotonic() + ASKED_S
    while (locked := _lock(handle)) is False and not _names_a_holder(handle) and time.monotonic() < end:
        time.sleep(0.002)
    return locked


def _names_a_holder(handle: int) -> bool:
    host, pid = _named(handle)
    return bool(host) and (host != socket.gethostname() or not pid.isdigit() or _alive(int(pid)))


def _named(handle: int) -> tuple[str, str]:
    host, _, pid = os.pread(handle, 200, 0).decode(errors="replace").strip().partition(" ")
    return host, pid


def _held_elsewhere(handle: int, no_locks: bool) -> bool:
    """Whether the file names a living holder that the system's lock does not speak for."""
    host, pid = _named(handle)
    if not host or time.time() - os.fstat(handle).st_mtime > STALE_S:
        return False
    if host != socket.gethostname():
        return True
    return no_locks and pid.isdigit() and int(pid) != os.getpid() and _alive(int(pid))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _named_lately(path: str) -> bool:
    try:
        stat = os.stat(path)
    except OSError:
        return False
    return stat.st_size > 0 and time.time() - stat.st_mtime <= STALE_S
