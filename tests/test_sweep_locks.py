"""Locks on file systems that keep them for one machine only, or have none."""

import errno
import os
import subprocess
import sys
import threading
from functools import cache

import pytest

from sweeps import locks
from sweeps.locks import FolderLock, is_held


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that refuses locks."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)


def name_holder(folder, host, pid, age_s=0.0):
    (folder / ".lock").write_text(f"{host} {pid}\n")
    then = locks.time.time() - age_s
    os.utime(folder / ".lock", (then, then))


def test_a_holder_on_another_machine_counts_while_it_is_heard_of(tmp_path):
    name_holder(tmp_path, "elsewhere", 1)
    assert is_held(tmp_path) and not FolderLock(tmp_path).acquire()
    name_holder(tmp_path, "elsewhere", 1, age_s=locks.STALE_S + 1)
    assert not is_held(tmp_path)
    lock = FolderLock(tmp_path)
    assert lock.acquire()
    lock.release()
    assert (tmp_path / ".lock").read_text() == ""


def test_a_dead_holder_here_is_no_holder(tmp_path):
    """The system's own lock speaks for this machine: no waiting after a kill."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    name_holder(tmp_path, locks.socket.gethostname(), dead.pid)
    assert not is_held(tmp_path) and FolderLock(tmp_path).acquire()


def test_without_locks_the_name_in_the_file_decides(tmp_path, no_locks):
    first = FolderLock(tmp_path)
    assert first.acquire()
    code = "import sys; from sweeps import locks; from sweeps.locks import FolderLock\n"
    code += "locks.fcntl = None\nsys.exit(FolderLock(sys.argv[1]).acquire())"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0
    first.release()
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 1
    assert not is_held(tmp_path)  # that process has ended without a word


def test_a_holder_is_heard_of_while_it_works(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.02)
    lock = FolderLock(tmp_path)
    assert lock.acquire()
    os.utime(tmp_path / ".lock", (0, 0))
    end = locks.time.time() + 10
    while (tmp_path / ".lock").stat().st_mtime == 0 and locks.time.time() < end:
        locks.time.sleep(0.02)
    assert (tmp_path / ".lock").stat().st_mtime > 0
    lock.release()


@pytest.mark.parametrize("dead", ["", "a killed holder's name"])
def test_who_only_asks_is_in_nobodys_way(tmp_path, dead):
    """`scaling status --watch` looks at folders that workers take, and at those of killed ones."""
    over, found = threading.Event(), []

    def ask():
        while not over.is_set():
            found.append(is_held(tmp_path))

    if dead:
        name_holder(tmp_path, locks.socket.gethostname(), ended_process())
    else:
        (tmp_path / ".lock").touch()
    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    taken = 0
    for _ in range(20):
        lock = FolderLock(tmp_path)
        taken += lock.acquire()
        lock.release()
        if dead:
            name_holder(tmp_path, locks.socket.gethostname(), ended_process())
    over.set()
    for thread in asking:
        thread.join()
    assert taken == 20 and not is_held(tmp_path)


@cache
def ended_process():
    """The id of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        return ended.pid
