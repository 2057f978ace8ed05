"""A real Slurm on this machine for the tests: its own files, ports and nodes; no service, nothing in /etc.

Debian's slurmd may run several times on one host, so each "node" is a slurmd of its own. Nodes are
named by loopback addresses: JAX's detection of Slurm resolves the first node's name. Accounting is off,
as on many small clusters, so sacct answers nothing.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={d}/run/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={port}
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool/%n
SlurmctldPidFile={d}/run/slurmctld.pid
SlurmdPidFile={d}/run/slurmd.%n.pid
SlurmctldLogFile={d}/log/slurmctld.log
SlurmdLogFile={d}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=4
MessageTimeout=2
TCPTimeout=1
SlurmctldTimeout=5
KillWait=1
MinJobAge=300
NodeName=DEFAULT CPUs={cpus} State=UNKNOWN
NodeName=127.0.0.[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}]
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """`with Cluster(2):` has sbatch, squeue and srun talk to it, through SLURM_CONF in os.environ."""

    def __init__(self, nodes=2, cpus=1):
        self.nodes = [f"127.0.0.{i + 1}" for i in range(nodes)]
        # Sockets have short paths only: not below pytest's own folder.
        self.d = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.cpus = cpus

    def __enter__(self):
        d, port = self.d, free_ports(len(self.nodes) + 1)
        d.chmod(0o755)
        for name in ("state", "log", "run", *(f"spool/{node}" for node in self.nodes)):
            (d / name).mkdir(parents=True)
        key = d / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        host, user = socket.gethostname().split(".")[0], getpass.getuser()
        ports = {"port": port, "first": port + 1, "last": port + len(self.nodes)}
        text = CONF.format(d=d, host=host, user=user, nodes=len(self.nodes), cpus=self.cpus, **ports)
        (d / "slurm.conf").write_text(text)
        self.before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(d / "slurm.conf")
        munge = ["munged", "--force", f"--key-file={key}", f"--socket={d}/run/munge.socket"]
        munge += [f"--pid-file={d}/run/munged.pid", f"--log-file={d}/log/munged.log"]
        try:
            call(*munge, f"--seed-file={d}/run/munge.seed")
            (d / "run").chmod(0o755)
            call("slurmctld", "-c")
            for node in self.nodes:
                self.start(node)
            self.wait_until_idle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        call("scancel", "--me", check=False)
        wait_for(lambda: not call("squeue", "--noheader", "--me").strip(), "jobs to end", 10, strict=False)
        for path in [*(self.d / "run").glob("slurmd.*.pid"), self.d / "run/slurmctld.pid"]:
            end(path, signal.SIGTERM)
        end(self.d / "run/munged.pid", signal.SIGTERM)
        if self.before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = self.before
        shutil.rmtree(self.d, ignore_errors=True)

    def start(self, node):
        call("slurmd", "-N", node)

    def wait_until_idle(self):
        def states():
            return set(call("sinfo", "--noheader", "--format=%T", check=False).split())

        wait_for(lambda: states() == {"idle"}, f"the nodes to be idle, not {states()}", 20)

    def kill(self, node):
        """What a power cut does: the node's daemon and everything it runs are gone at once."""
        end(self.d / f"run/slurmd.{node}.pid", signal.SIGKILL)
        for pid in processes_of(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def held(self):
        """No queued job starts meanwhile."""
        names = ",".join(self.nodes)
        call("scontrol", "update", f"NodeName={names}", "State=DRAIN", "Reason=held")
        try:
            yield
        finally:
            call("scontrol", "update", f"NodeName={names}", "State=RESUME")

    def node_of(self, name):
        """The node that runs an element of the job called `name`."""
        return call("squeue", "--noheader", f"--name={name}", "--format=%N").strip()


def processes_of(node):
    """Processes of a node's jobs, and the step daemons above them."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if f"SLURMD_NODENAME={node}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                pid = int(entry.name)
                found |= {pid, *(p for p in ancestors(pid) if b"slurmstepd" in command_of(p))}
    return found


def ancestors(pid):
    while pid > 1:
        with contextlib.suppress(OSError):
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            yield pid
            continue
        return


def command_of(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def end(pid_file, how):
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(pid_file.read_text()), how)


def free_ports(count):
    """The first of `count` neighbouring ports that nobody listens on."""
    for first in range(17000 + os.getpid() % 1000 * 8, 60000, 8):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


def call(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def wait_for(condition, what, seconds=60, strict=True):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            assert not strict, f"waited {seconds} s in vain for {what}"
            return
        time.sleep(0.1)
