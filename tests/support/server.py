# SPDX-License-Identifier: BSD-2-Clause
"""The server under test: bulkhead, or qemu-storage-daemon for those tests that state the contract of both."""

import json
import os
import pathlib
import pwd
import re
import signal
import subprocess
import time

from . import process
from .qmp import Qmp, QmpClosed

ACCOUNT = os.environ.get("BULKHEAD_TEST_ACCOUNT", "bulkhead")
LOG_BAD = re.compile(r"ERROR: \w+Sanitizer|runtime error:|SUMMARY: \w+Sanitizer|AddressSanitizer:DEADLYSIGNAL"
                     r"|Assertion .* failed|\*\*\* stack smashing")
LOG_DEATH = re.compile(r"killed by signal|its sandbox killed it|crashed with signal|abort\(\)|broke the protocol")


def option(value):
    """A command-line value: text as it is, a dict as JSON."""
    return json.dumps(value) if isinstance(value, dict) else str(value)


class Server:
    """
    One server process. start() waits until it serves; stop() ends it in order and checks that nothing is left.
    `dir` is the folder of this server's sockets; the service account owns it.
    """

    def __init__(self, kind, build, directory, engine="auto"):
        self.kind = kind  # "bulkhead" or "qsd"
        self.build = pathlib.Path(build)
        self.dir = pathlib.Path(directory)
        self.engine = engine
        self.log_path = self.dir / "log"
        self.qmp_path = self.dir / "qmp"
        self.nbd_path = self.dir / "nbd"
        self.pid_path = self.dir / "pid"
        self.program = str(self.build / "bulkhead") if kind == "bulkhead" else "qemu-storage-daemon"
        self.prefix = []  # words before the command line
        self.log_level = "info"  # None: not asked for
        self.popen = None
        self.qmp = None
        self.seen_pids = set()
        self.deaths_expected = False  # a test that kills workers sets this: the log then may tell of it
        self.stopped = False

    # ---- Start ----

    def argv(self, *args, drop="user"):
        """The command line as the service account: drop is "user" (--user), "setpriv", or None for as we are."""
        words = [self.program]
        if os.getuid() == 0 and drop is not None:
            if drop == "user" and self.kind == "bulkhead":
                words += ["--user", ACCOUNT]
            else:
                words = ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups"] + words
        if self.kind == "bulkhead" and self.log_level is not None:
            words += ["--log-level", self.log_level]
        return self.prefix + words + [option(arg) for arg in args]

    def spawn(self, *args, drop="user", **kwargs):
        """Start it without waiting for anything."""
        with open(self.log_path, "ab") as log:
            kwargs.setdefault("stdin", subprocess.DEVNULL)
            kwargs.setdefault("stdout", log)
            kwargs.setdefault("stderr", log)
            self.popen = process.popen(self.argv(*args, drop=drop), start_new_session=True, cwd=self.dir, **kwargs)
        return self.popen

    def qmp_args(self):
        return ("--chardev", f"socket,id=qmp0,path={self.qmp_path},server=on,wait=off", "--monitor", "chardev=qmp0")

    def start(self, *args, drop="user", again=False, **kwargs):
        """Start with a QMP socket and a pid file, wait until it serves, connect."""
        self.spawn(*self.qmp_args(), "--pidfile", self.pid_path, *args, drop=drop, **kwargs)
        try:
            self.wait_serving()
        except AssertionError:
            self.stopped = self.popen.poll() is not None  # told once is enough
            raise
        try:
            self.qmp = Qmp.connect(self.qmp_path)
        except TimeoutError:
            # qemu-storage-daemon 7.2 hangs once in a while at its first command; bulkhead must not.
            if self.kind != "qsd" or again:
                raise
            self.popen.kill()
            self.popen.wait()
            for path in (self.pid_path, self.qmp_path):
                path.unlink(missing_ok=True)
            return self.start(*args, drop=drop, again=True, **kwargs)
        return self

    def wait_serving(self, timeout=30):
        """The pid file is written when everything serves."""
        def serving():
            assert self.popen.poll() is None, f"{self.kind} exited with {self.popen.returncode}:\n{self.log_text()}"
            return self.pid_path.exists() and self.pid_path.read_text().strip()
        process.wait_for(serving, f"{self.kind} to write its pid file", timeout)

    @property
    def pid(self):
        return int(self.pid_path.read_text()) if self.popen is None else self.popen.pid

    def log_text(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def connect(self, **kwargs):
        """One more QMP connection."""
        return Qmp.connect(self.qmp_path, **kwargs)

    # ---- Commands ----

    def file_node(self, node, path, driver="file", **members):
        """The description of a file node with the forced engine, if any."""
        spec = {"driver": driver, "node-name": node, "filename": str(path), **members}
        if self.engine != "auto":
            spec.setdefault("aio", self.engine)
        return spec

    def add_file(self, node, path, driver="file", **members):
        self.qmp.cmd("blockdev-add", self.file_node(node, path, driver, **members))
        return node

    def nbd_start(self, address=None, **members):
        """Start the NBD server: on a unix socket unless an address (SocketAddressLegacy) is given."""
        address = address or {"type": "unix", "data": {"path": str(self.nbd_path)}}
        self.qmp.cmd("nbd-server-start", {"addr": address, **members})
        return self

    def export(self, node, writable=True, **members):
        """Export a node under its own name; id defaults to exp-NODE."""
        members.setdefault("id", f"exp-{node}")
        self.qmp.cmd("block-export-add", {"type": "nbd", "node-name": node, "writable": writable, **members})
        return members["id"]

    def uri(self, name):
        return f"nbd+unix:///{name}?socket={self.nbd_path}"

    def exports(self):
        return {e["id"]: e for e in self.qmp.cmd("query-block-exports")}

    def nodes(self):
        return {n["node-name"]: n for n in self.qmp.cmd("query-named-block-nodes")}

    # ---- Workers ----

    def workers(self, **match):
        """query-workers, reduced to the rows with these members ('-' is written '_')."""
        rows = self.qmp.cmd("__org.bulkhead_query-workers")
        self.seen_pids.update(row["pid"] for row in rows)
        return [row for row in rows if all(row.get(k.replace("_", "-")) == v for k, v in match.items())]

    def export_worker(self, export_id):
        rows = [row for row in self.workers(export=export_id) if row["role"] != "vhost-door"]
        assert len(rows) == 1, f"workers of export {export_id}: {rows}"
        return rows[0]

    # ---- Stop ----

    def stop(self, how="quit", timeout=30):
        """End it in order ("quit" or a signal), then check exit status and leftovers. Its exit status."""
        if self.stopped:
            return self.popen.returncode
        self.note_children()
        if self.popen.poll() is None:
            if how == "quit" and self.qmp is not None:
                try:
                    self.qmp.cmd("quit")
                except (QmpClosed, BrokenPipeError, ConnectionResetError):
                    pass
            else:
                self.popen.send_signal(signal.SIGTERM if how == "quit" else how)
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(f"{self.kind} did not end within {timeout} s\n{self.log_text()}") from None
        self.gone()
        assert status == 0, f"{self.kind} exited with {status}\n{self.log_text()}"
        return status

    def note_children(self):
        if self.popen is not None:
            self.seen_pids.update(process.children_of(self.popen.pid))

    def gone(self, killed=False):
        """Check that nothing of an ended server is left: processes, sockets, mounts, bad news in the log."""
        self.stopped = True
        if self.qmp is not None:
            self.qmp.close()
        self.check_processes()
        if not killed and self.kind == "bulkhead":  # qemu-storage-daemon leaves its NBD socket
            left = [p.name for p in self.dir.iterdir() if p.is_socket() or p == self.pid_path]
            assert not left, f"{self.kind} left in its folder: {left}"
        mounts = [line for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()
                  if f" {self.dir}/" in line and "fuse" in line]
        assert not mounts, f"mounts left: {mounts}"
        self.check_log()

    def check_processes(self):
        deadline = time.monotonic() + 10
        while True:
            left = process.orphans() + [(pid, process.command(pid)) for pid in self.seen_pids if process.alive(pid)]
            if not left:
                return
            if time.monotonic() > deadline:
                process.end_strays()
                raise AssertionError(f"processes left running: {left}")
            time.sleep(0.01)

    def check_log(self):
        text = self.log_text()
        for line in text.splitlines():
            assert not LOG_BAD.search(line), f"bad news in the log: {line}\n{text[-6000:]}"
            assert self.deaths_expected or not LOG_DEATH.search(line), f"a worker died: {line}\n{text[-6000:]}"


def give_to_account(path):
    if os.getuid() == 0:
        entry = pwd.getpwnam(ACCOUNT)
        os.chown(path, entry.pw_uid, entry.pw_gid)
