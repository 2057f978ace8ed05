"""The processes of one run find each other before JAX does, and notice when one is gone.

JAX waits for its peers in C++ and, when one is missing, aborts after minutes without a name. Here process
0 listens at the coordinator's port and each other process says who it is: whoever is missing, came twice
or runs something else is named. Then the port is JAX's. The connections stay open: the system closes
them when a process dies, however it dies, so that the others end at once and say why.

Lines of JSON over TCP. A process says {"scaling": 1, "process", "processes", "host", "note"}; process 0
answers {"go": true} or {"end": SENTENCE}; later {"end": SENTENCE} or {"bye": true} goes either way.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from scaling.errors import ScalingError
from trainer.launcher import Member, address

HELLO_S = 5.0  # a visitor that is not one of us is heard this long
RETRY_S = 0.5
RELAY_S = 1.0  # process 0 outlives its last words, so that they arrive before JAX misses it


class Peers:
    """Open connections to the other processes: of process 0 to each, of any other to process 0."""

    def __init__(self, member: Member, links: Mapping[int, socket.socket], hosts: Mapping[int, str]) -> None:
        self.member, self.links, self.hosts = member, dict(links), dict(hosts)
        self._left = False

    def watch(self, heartbeat_s: float, stop: Callable[[str], None] | None = None) -> None:
        """From now on `stop` is called, with a sentence, when another process ends before the run does."""
        for link in self.links.values():
            keep_alive(link, heartbeat_s)
            link.setblocking(False)
        threading.Thread(target=self._watch, args=(stop or end_process,), daemon=True).start()

    def leave(self) -> None:
        """This process is done; what happens to the others no longer concerns it."""
        self._left = True
        self.tell({"bye": True})

    def fail(self, sentence: str) -> None:
        """Tell the others why this process ends."""
        if not self._left:
            self._left = True
            self.tell({"end": f"{self.member.named} ended: {sentence}"})

    def tell(self, message: Mapping[str, Any]) -> None:
        for link in list(self.links.values()):
            with contextlib.suppress(OSError):
                link.sendall(json.dumps(message).encode() + b"\n")

    def _watch(self, stop: Callable[[str], None]) -> None:
        heard = selectors.DefaultSelector()
        for process, link in self.links.items():
            heard.register(link, selectors.EVENT_READ, process)
        rest = dict.fromkeys(self.links, b"")
        while heard.get_map():
            for key, _ in heard.select():
                process = key.data
                try:
                    data = self.links[process].recv(65536)
                except BlockingIOError:
                    continue
                except OSError:  # the host is gone: keep-alive went unanswered
                    data = b""
                rest[process] += data
                *lines, rest[process] = rest[process].split(b"\n")
                messages = [json.loads(line) for line in lines]
                ended = next((m["end"] for m in messages if "end" in m), None)
                if any("bye" in m for m in messages) or (not data and self._left):
                    heard.unregister(key.fileobj)
                elif ended is not None or not data:
                    self._end(process, ended, stop)
                    return

    def _end(self, process: int, ended: str | None, stop: Callable[[str], None]) -> None:
        if self._left:
            return
        if ended is None:
            ended = f"process {process} of {self.member.processes} ({self.hosts[process]}) is gone"
        self.tell({"end": ended})
        if self.member.process == 0:
            time.sleep(RELAY_S)
        stop(
            f"{ended.rstrip('.')}; a run needs all of its processes, so this one ends as well. The same "
            "command goes on from the last checkpoint."
        )


def end_process(sentence: str) -> None:
    """End this process at once: its main thread may wait for ever inside a collective."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    os._exit(1)


def keep_alive(link: socket.socket, seconds: float) -> None:
    """Have the system notice within about `seconds` that the other host does not answer any more."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    each = max(1, round(seconds / 4))
    for name, value in (("TCP_KEEPIDLE", each), ("TCP_KEEPINTVL", each), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def call(member: Member, note: Mapping[str, Any], seconds: float) -> Peers:
    """Wait until all processes are there and agree on `note`; raises ScalingError naming who is not."""
    return _gather(member, note, seconds) if member.process == 0 else _report(member, note, seconds)


def _gather(member: Member, note: Mapping[str, Any], seconds: float) -> Peers:
    assert member.coordinator is not None
    port = address(member.coordinator)[1]
    end = time.monotonic() + seconds
    links: dict[int, socket.socket] = {}
    hosts: dict[int, str] = {0: socket.gethostname()}
    try:
        server = _listen(port)
    except OSError as error:
        raise ScalingError(
            f"{member.named} cannot listen on port {port} of {member.coordinator} ({error.strerror}); "
            "another run may have it: choose another with --coordinator."
        ) from None
    problem = None
    with server:
        while len(hosts) < member.processes and problem is None:
            server.settimeout(max(0.01, end - time.monotonic()))
            try:
                link, _ = server.accept()
            except TimeoutError:
                problem = _missing(member, hosts, seconds)
                break
            said = _hear(link)
            if said is None:
                link.close()
                continue
            process = said["process"]
            if process in hosts and process in links and _dead(links[process]):
                links.pop(process).close()  # it was started anew meanwhile
                hosts.pop(process)
            problem = _objection(member, note, hosts, said)
            if problem is not None:
                links[-1] = link
            else:
                links[process], hosts[process] = link, said["host"]
    peers = Peers(member, links, hosts)
    if problem is not None:
        peers.tell({"end": problem})
        raise ScalingError(problem)
    peers.tell({"go": True})
    return peers


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", port), backlog=1024)


def _hear(link: socket.socket) -> dict[str, Any] | None:
    """What a visitor says of itself; None for one that is no process of ours."""
    try:
        said = _line(link, HELLO_S)
        values = json.loads(said)
        if values["scaling"] == 1 and isinstance(values["process"], int) and isinstance(values["host"], str):
            return values
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _line(link: socket.socket, seconds: float) -> bytes:
    """One line, however slowly it comes; raises OSError when none comes within `seconds`."""
    end, text = time.monotonic() + seconds, b""
    while not text.endswith(b"\n"):
        link.settimeout(max(0.01, end - time.monotonic()))
        part = link.recv(1)  # what follows the line is the watch's
        if not part or len(text) > 65536:
            raise ConnectionError
        text += part
    return text


def _dead(link: socket.socket) -> bool:
    link.setblocking(False)
    try:
        return link.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _missing(member: Member, hosts: Mapping[int, str], seconds: float) -> str:
    absent = [str(i) for i in range(member.processes) if i not in hosts]
    named = ", ".join(absent[:8]) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
    return (
        f"only {len(hosts)} of {member.processes} processes came to {member.coordinator} within "
        f"{seconds:g} s; missing: process {named}. See whether they were started and can reach that address."
    )


def _objection(
    member: Member, note: Mapping[str, Any], hosts: Mapping[int, str], said: Mapping[str, Any]
) -> str | None:
    process, host, count = said["process"], said["host"], said.get("processes")
    if count != member.processes:
        return (
            f"process {process} ({host}) was told of {count} processes, process 0 ({hosts[0]}) of "
            f"{member.processes}; give all of them the same --processes."
        )
    if process in hosts:
        return (
            f"two processes call themselves process {process} of {member.processes}, on {hosts[process]} and "
            f"on {host}; give each a --process-id of its own."
        )
    for name, value in note.items():
        if (other := (said.get("note") or {}).get(name)) != value:
            return (
                f"process {process} ({host}) has {name} {other}, process 0 ({hosts[0]}) has {value}; all "
                "processes of a run must have the same."
            )
    return None


def _report(member: Member, note: Mapping[str, Any], seconds: float) -> Peers:
    assert member.coordinator is not None
    host, port = address(member.coordinator)
    mine = {"process": member.process, "processes": member.processes, "host": socket.gethostname()}
    hello = json.dumps({"scaling": 1, **mine, "note": dict(note)}).encode() + b"\n"
    end, why = time.monotonic() + seconds, "no answer"
    while (left := end - time.monotonic()) > 0:
        link = None
        try:
            link = socket.create_connection((host, port), timeout=min(left, 10.0))
            link.sendall(hello)
            # Process 0 speaks when all have come or when it gives up, a little after this process would.
            answer = json.loads(_line(link, left + HELLO_S))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if link is not None:
                link.close()
            time.sleep(min(RETRY_S, max(0.0, end - time.monotonic())))
            continue
        if "end" in answer:
            raise ScalingError(answer["end"])
        if answer.get("go"):
            return Peers(member, {0: link}, {0: host})
        link.close()
    loopback = host in ("localhost", "::1") or host.startswith("127.")
    hint = " (that address is this host's own: other hosts cannot be met there)" if loopback else ""
    raise ScalingError(
        f"{member.named} did not reach process 0 at {member.coordinator} within {seconds:g} s: {why}{hint}. "
        "See whether process 0 was started there and the port is open."
    )
